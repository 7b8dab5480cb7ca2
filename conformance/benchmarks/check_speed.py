"""How fast the suite judges the bundled reference server: one JSON line.

    python conformance/benchmarks/check_speed.py [TARGET] [--lanes N]

`checks_per_second` leaves out the checks that sit out declared timers and those that run alone;
`first_check_s` is the time from the start of this process, interpreter included, to the first verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING

import trio
from holdfast_conformance import collect
from holdfast_conformance.runner import Options, Progress, run

if TYPE_CHECKING:
    from holdfast_conformance.report import Report
    from holdfast_conformance.verdict import CheckResult


class Stopwatch(Progress):
    """Notes when the checks begin, when the first has its verdict, and when the last has."""

    def __init__(self) -> None:
        self.began = self.first = self.last = 0.0
        self.verdicts = 0

    def begin(self, total: int, report: Report) -> None:
        self.began = time.time()

    def done(self, result: CheckResult) -> None:
        self.last = time.time()
        self.first = self.first or self.last
        self.verdicts += 1


def process_start() -> float:
    """Return when this process was started, in seconds since the epoch, as exactly as the kernel knows."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
        return time.time() - float(uptime.read().split()[0]) + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the fast checks and print the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", nargs="?")
    parser.add_argument("--lanes", type=int, default=0)
    arguments = parser.parse_args()
    checks = [check for check in collect.everything() if not check.slow and not check.serial]
    watch = Stopwatch()

    async def judge() -> Report:
        return await run(
            arguments.target, checks=checks, options=Options(lanes=arguments.lanes), progress=watch
        )

    report = trio.run(judge)
    line = {
        "benchmark": "check_speed",
        "server": " ".join(report.server.values()),
        "checks": watch.verdicts,
        "lanes": report.lanes,
        "checks_per_second": round(watch.verdicts / (watch.last - watch.began), 1),
        "first_check_s": round(watch.first - process_start(), 2),
        "seconds": round(report.seconds, 2),
        "rtt_p50_ms": round(report.rtt_p50_ms, 3),
        "load_average": os.getloadavg()[0],
        "verdict": report.verdict,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
