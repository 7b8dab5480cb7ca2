"""Processor time of the server per delivery, with profiles `ack` and `resume` beside without.

Two of our servers share one core and take turns; the load is that of `server_cpu.py`, and the subscribers of
one of them negotiate the profiles and acknowledge. Prints one JSON line per measurement and one for each
comparison; README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks.load import AckedDeliveries, Deliveries, Sample, WrongAnswer, measured
from benchmarks.processes import NotRun, pin, serving

SUBSCRIBERS = 1000
PUBLISHES = 128
"""In each run: as many as make every subscriber acknowledge twice."""
IN_FLIGHT = (1, 2, 16)
KINDS = {"without": Deliveries, "with": AckedDeliveries}
LONGEST_RUN_SECONDS = 300

# At most this many times what it costs without, or so many microseconds more.
RATIO_GOALS = {1: 1.25, 2: 1.25}
EXTRA_GOALS = {16: 0.8}


def measure(subscribers: int, rounds: int) -> dict[int, dict[str, list[Sample]]]:
    """The samples by the number in flight and by kind; the first round warms up and is left out."""
    samples: dict[int, dict[str, list[Sample]]] = {n: {kind: [] for kind in KINDS} for n in IN_FLIGHT}
    core = pin()
    total = 1 + PUBLISHES * len(IN_FLIGHT) * (rounds + 1)
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving("holdfast", core)) for kind in KINDS}
        works = {kind: make(servers[kind].port, subscribers, total) for kind, make in KINDS.items()}
        for turn in range(rounds + 1):
            for in_flight in IN_FLIGHT:
                for kind, work in works.items():
                    sample = measured(servers[kind].cpu_seconds, partial(work.run, PUBLISHES, in_flight))
                    if turn:
                        samples[in_flight][kind].append(sample)
    return samples


def report(samples: dict[int, dict[str, list[Sample]]]) -> None:
    for in_flight, kinds in samples.items():
        benchmark = f"ack-{in_flight}"
        for kind, taken in kinds.items():
            say(
                benchmark=benchmark,
                profiles=kind,
                server_us=median(sample.server_us for sample in taken),
                rounds=[sample.server_us for sample in taken],
                load_us=median(sample.load_us for sample in taken),
                wall_us=median(sample.wall_us for sample in taken),
            )
        pairs = list(zip(kinds["with"], kinds["without"], strict=True))
        if in_flight in RATIO_GOALS:
            value = median(a.server_us / b.server_us for a, b in pairs)
            goal = RATIO_GOALS[in_flight]
            say(
                benchmark=benchmark, ratio="with/without", value=round(value, 3), goal=goal, met=value <= goal
            )
        else:
            value = median(a.server_us - b.server_us for a, b in pairs)
            goal = EXTRA_GOALS[in_flight]
            say(benchmark=benchmark, extra_us=round(value, 3), goal=goal, met=value <= goal)


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    options = parser.parse_args()
    signal.alarm(LONGEST_RUN_SECONDS)  # whatever hangs, the run ends
    try:
        report(measure(options.subscribers, options.rounds))
    except NotRun as reason:
        say(benchmark="ack", status="NOT RUN", reason=str(reason))
    except WrongAnswer as wrong:
        sys.exit(f"not measured: {wrong}")


if __name__ == "__main__":
    main()
