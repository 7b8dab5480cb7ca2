"""Processor time of the server per message, ours beside a bare Node `ws` and a bare trio-websocket server.

All servers run at the same time, on one core; the load runs in this process, on another. The measurements
are interleaved in rounds, so that a slow moment of the machine hits every server alike. Prints one JSON line
for each measurement and one for each ratio; README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.load import Deliveries, Requests, Sample, WrongAnswer, measured
from benchmarks.processes import COMMANDS, NotRun, pin, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.processes import Process

CONNECTIONS = 50
REQUESTS = {1: 100, 8: 400}
"""Requests of each connection in each round, by how many it has in flight."""
SUBSCRIBERS = 1000
PUBLISHES = {1: 20, 2: 40, 16: 64}
"""Publishes in each round, by how many are in flight."""
LONGEST_RUN_SECONDS = 300

# Highest ratio of our server's processor time to a peer's that meets the goal.
GOALS = {
    ("requests-8", "node-ws"): 1.3,
    ("requests-8", "trio-websocket"): 0.5,
    ("delivery-1", "node-ws"): 1.2,
    ("delivery-2", "node-ws"): 1.2,
    ("delivery-16", "node-ws"): 0.5,
}


def works(process: Process, wanted: str, rounds: int) -> dict[str, Callable[[], int]]:
    """Connect to one server; return its measurements, each a call for every round and one to warm up."""
    found: dict[str, Callable[[], int]] = {}
    calls = rounds + 1
    if wanted in ("all", "requests"):
        requests = Requests(process.port, CONNECTIONS, 1 + sum(REQUESTS.values()) * calls)
        for in_flight, each in REQUESTS.items():
            found[f"requests-{in_flight}"] = partial(requests.run, each, in_flight)
    if wanted in ("all", "delivery"):
        deliveries = Deliveries(process.port, SUBSCRIBERS, 1 + sum(PUBLISHES.values()) * calls)
        for in_flight, publishes in PUBLISHES.items():
            found[f"delivery-{in_flight}"] = partial(deliveries.run, publishes, in_flight)
    return found


def measure(names: list[str], wanted: str, rounds: int) -> dict[str, dict[str, list[Sample]]]:
    """Measure the named servers; return the samples by measurement and server."""
    samples: dict[str, dict[str, list[Sample]]] = {}
    core = pin()
    with ExitStack() as stack:
        jobs: list[tuple[Process, dict[str, Callable[[], int]]]] = []
        for name in names:
            try:
                process = stack.enter_context(serving(name, core))
                jobs.append((process, works(process, wanted, rounds)))
            except NotRun as reason:
                say(benchmark="server_cpu", server=name, status="NOT RUN", reason=str(reason))
        for turn in range(rounds + 1):
            for benchmark in jobs[0][1] if jobs else ():
                for process, work in jobs:
                    sample = measured(process.cpu_seconds, work[benchmark])
                    if turn:  # the first turn is there to warm everybody up
                        samples.setdefault(benchmark, {}).setdefault(process.name, []).append(sample)
    return samples


def report(samples: Mapping[str, Mapping[str, list[Sample]]]) -> None:
    """Print the medians, then how ours compares to each peer's, round by round."""
    for benchmark, by_server in samples.items():
        for server, taken in by_server.items():
            say(
                benchmark=benchmark,
                server=server,
                server_us=median(sample.server_us for sample in taken),
                rounds=[sample.server_us for sample in taken],
                messages=sum(sample.messages for sample in taken),
                load_us=median(sample.load_us for sample in taken),
                wall_us=median(sample.wall_us for sample in taken),
            )
        ours = by_server.get("holdfast", [])
        for server, theirs in by_server.items():
            if ours and server != "holdfast":
                ratio = median(a.server_us / b.server_us for a, b in zip(ours, theirs, strict=True))
                goal = GOALS.get((benchmark, server))
                verdict = {} if goal is None else {"goal": goal, "met": ratio <= goal}
                say(benchmark=benchmark, ratio=f"holdfast/{server}", value=round(ratio, 3), **verdict)


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["requests", "delivery"], default="all")
    parser.add_argument("--server", action="append", choices=list(COMMANDS), help="repeatable; default: all")
    options = parser.parse_args()
    signal.alarm(LONGEST_RUN_SECONDS)  # whatever hangs, the run ends
    try:
        report(measure(options.server or list(COMMANDS), options.only, options.rounds))
    except WrongAnswer as wrong:
        sys.exit(f"not measured: {wrong}")


if __name__ == "__main__":
    main()
