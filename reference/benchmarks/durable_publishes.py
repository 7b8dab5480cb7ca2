"""Publishes per second, and what one takes, with logs in memory and in a file.

In the file a publish is answered after its commit has reached the disk; those that wait for the disk together
share a commit. Beside them a bare write and `fsync` in the same directory, the least that one commit can
take. Prints one JSON line for each; README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from benchmarks.load import FIRST_ID, WrongAnswer, connect, masked
from benchmarks.processes import NotRun, pin, serving

if TYPE_CHECKING:
    from benchmarks.load import Link

LOADS = {(1, 1): 300, (8, 1): 2000, (8, 16): 8000}
"""How many publishes in all, by publishers and by how many each has in flight."""
SYNCS = 300
LONGEST_RUN_SECONDS = 300


def publish(id: int) -> bytes:
    data = {"text": "x" * 100, "n": FIRST_ID + id, "ok": True, "to": ["room/7", None]}
    return masked({"type": "publish", "id": id, "channel": "bench/1", "data": data})


def run(port: int, publishers: int, in_flight: int, total: int) -> dict[str, object]:
    """Keep `in_flight` publishes of each publisher unanswered, until `total` are answered."""
    links = [connect(port) for _ in range(publishers)]
    for link in links:
        link.sock.sendall(publish(FIRST_ID))
        link.expect(link.receive_frame(), b'"id":')
        link.unbounded()
    by_socket: dict[int, Link] = {link.sock.fileno(): link for link in links}
    asked: dict[int, list[float]] = {number: [] for number in by_socket}
    taken: list[float] = []
    poll = select.poll()
    next_id = FIRST_ID + 1
    started = time.perf_counter()

    def ask(number: int, count: int) -> None:
        nonlocal next_id
        asked[number] += [time.perf_counter()] * count
        by_socket[number].sock.sendall(b"".join(publish(next_id + each) for each in range(count)))
        next_id += count

    for number in by_socket:
        poll.register(number, select.POLLIN)
        ask(number, in_flight)
    while len(taken) < total:
        for number, _ in poll.poll():
            done, now = by_socket[number].read(), time.perf_counter()
            taken += [(now - then) * 1000 for then in asked[number][:done]]
            del asked[number][:done]
            ask(number, done)
    return {
        "publishers": publishers,
        "in_flight": in_flight,
        "per_second": round(len(taken) / (time.perf_counter() - started)),
        "ms": figures(taken),
    }


def syncs(folder: Path) -> dict[str, object]:
    """What the disk takes for a write of one page."""
    taken: list[float] = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    return {"log": "a bare fsync", "ms": figures(taken)}


def figures(taken: list[float]) -> dict[str, float]:
    return {"median": round(median(taken), 3), "p99": round(quantiles(taken, n=100)[98], 3)}


def say(line: dict[str, object]) -> None:
    print(json.dumps({"benchmark": "durable_publishes", **line}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", help="where the file is to be; a temporary directory by default")
    options = parser.parse_args()
    signal.alarm(LONGEST_RUN_SECONDS)  # whatever hangs, the run ends
    core = pin()
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        say(syncs(Path(folder)))
        for log, arguments in {"memory": (), "file": ("--log", f"{folder}/log.db")}.items():
            try:
                with serving("holdfast-logs", core, *arguments) as process:
                    for (publishers, in_flight), total in LOADS.items():
                        say({"log": log, **run(process.port, publishers, in_flight, total)})
            except NotRun as reason:
                say({"log": log, "status": "NOT RUN", "reason": str(reason)})
            except WrongAnswer as wrong:
                sys.exit(f"not measured: {wrong}")


if __name__ == "__main__":
    main()
