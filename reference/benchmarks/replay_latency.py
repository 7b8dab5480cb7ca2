"""What others notice while one client is sent 10,000 events that it has missed.

Ten clients make requests, one at a time, while nothing else happens and then while another client recovers,
reading and acknowledging as fast as it can. Logs are in memory, then in a file. Prints one JSON line for
each; README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from benchmarks.load import FIRST_ID, Requests, WrongAnswer, connect, masked, parsed
from benchmarks.processes import NotRun, pin, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

EVENTS = 10_000
CLIENTS = 10
IDLE_REQUESTS = 3000
REPLAYS = 5
BATCH = 50
ACK_EVERY = 128  # frames: half of the default window
GOAL = 2.0  # median during the replay, by that of the idle server
LONGEST_RUN_SECONDS = 300


def fill(port: int) -> str:
    """Publish what is to be missed; return the cursor of the place before it."""
    link = connect(port, "history")
    link.sock.sendall(masked({"type": "subscribe", "id": FIRST_ID, "channel": "bench/1"}))
    cursor = str(parsed(link.receive_frame())["cursor"])
    link.sock.sendall(masked({"type": "cancel", "of": FIRST_ID}))
    link.receive_frame()
    data = {"text": "x" * 100, "n": 0, "ok": True, "to": ["room/7", None]}
    for start in range(FIRST_ID + 1, FIRST_ID + 1 + EVENTS, BATCH):
        publishes = [
            {"type": "publish", "id": id, "channel": "bench/1", "data": data}
            for id in range(start, start + BATCH)
        ]
        link.sock.sendall(b"".join(masked(publish) for publish in publishes))
        for _ in range(BATCH):
            if parsed(link.receive_frame())["type"] != "result":
                raise WrongAnswer("not published")
    return cursor


def recover(port: int, cursor: str, pipe: Connection) -> None:
    """In a process of its own: recover, once for every word from the pipe; tell how long it took."""
    os.nice(19)  # the core is shared with those who measure
    while pipe.recv():
        link = connect(port, "ack", "resume", "history")
        subscribe = {"type": "subscribe", "id": FIRST_ID, "channel": "bench/1", "since": cursor}
        started = time.perf_counter()
        link.sock.sendall(masked(subscribe))
        if parsed(link.receive_frame()).get("recovered") is not True:
            raise WrongAnswer("not recovered")
        count, acked, data, mark = 0, 0, link.rest, b'"type":"event"'
        while True:
            count += data.count(mark)
            if count >= EVENTS:
                break
            if count - acked >= ACK_EVERY:
                acked = count
                link.sock.sendall(masked({"type": "ack", "seq": acked}))
            rest = data[-(len(mark) - 1) :]
            data = rest + link.sock.recv(65_536)
            if data == rest:
                raise WrongAnswer("the server closed the connection")
        pipe.send(time.perf_counter() - started)
        link.sock.close()


class Askers:
    """Clients that make one request at a time, in turn."""

    def __init__(self, port: int, clients: int) -> None:
        self._links = [connect(port) for _ in range(clients)]
        self._id = FIRST_ID
        for link in self._links:
            link.sock.sendall(masked(Requests.request(self._id)))
            link.expect(link.receive_frame(), b'"id":')
            link.unbounded()

    def ask(self, is_over: Callable[[int], bool]) -> list[float]:
        """Go on until it is over, given how many there were; milliseconds that each took."""
        taken: list[float] = []
        while not is_over(len(taken)):
            self._id += 1
            frame = masked(Requests.request(self._id))
            for link in self._links:
                done = link.count + 1
                started = time.perf_counter()
                link.sock.sendall(frame)
                while link.count < done:
                    link.read()
                taken.append((time.perf_counter() - started) * 1000)
        return taken


def measure(core: int | None, log: Path | None) -> dict[str, object]:
    """Fill a log, and see what a replay of it costs others."""
    arguments = () if log is None else ("--log", str(log))
    with serving("holdfast-logs", core, *arguments) as process:
        cursor = fill(process.port)
        askers = Askers(process.port, CLIENTS)
        pipe, theirs = multiprocessing.Pipe()
        reader = multiprocessing.Process(target=recover, args=(process.port, cursor, theirs), daemon=True)
        reader.start()
        askers.ask(lambda count: count >= IDLE_REQUESTS // 10)
        idle = askers.ask(lambda count: count >= IDLE_REQUESTS)
        during: list[float] = []
        took: list[float] = []
        for _ in range(REPLAYS):
            pipe.send(True)
            during += askers.ask(lambda count: pipe.poll())
            took.append(pipe.recv())
        pipe.send(False)
        reader.join()
        ratio = median(during) / median(idle)
        return {
            "benchmark": "replay_latency",
            "log": "memory" if log is None else "file",
            "idle_ms": figures(idle),
            "replay_ms": figures(during),
            "requests": len(during),
            "events_per_second": round(EVENTS / median(took)),
            "ratio": round(ratio, 2),
            "goal": GOAL,
            "met": ratio <= GOAL,
        }


def figures(taken: list[float]) -> dict[str, float]:
    return {"median": round(median(taken), 3), "p99": round(quantiles(taken, n=100)[98], 3)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    signal.alarm(LONGEST_RUN_SECONDS)  # whatever hangs, the run ends
    core = pin()
    with tempfile.TemporaryDirectory() as folder:
        for log in (None, Path(folder) / "log.db"):
            try:
                line = measure(core, log)
            except NotRun as reason:
                line = {"benchmark": "replay_latency", "status": "NOT RUN", "reason": str(reason)}
            except WrongAnswer as wrong:
                sys.exit(f"not measured: {wrong}")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
