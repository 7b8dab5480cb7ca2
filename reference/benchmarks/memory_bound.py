"""Resident memory of the server under clients that never read, or read and never acknowledge.

Events keep coming, many times as many bytes as a session may hold. Growth for each such client is compared
with the bound that `welcome.limits` makes known. Prints one JSON line per kind of client; README.md says how
to read them.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
from typing import TYPE_CHECKING

from benchmarks.load import FIRST_ID, Link, WrongAnswer, connect, masked, parsed
from benchmarks.processes import NotRun, pin, serving

if TYPE_CHECKING:
    from benchmarks.processes import Process

CLIENTS = 20
EVENT_BYTES = 4000
WARM_UP = 1000
"""Publishes before the first reading: they fill the log, and whatever is allocated once."""
PUBLISHES = 10_000
BATCH = 8
KINDS = {
    "never-reads": ("ack", "resume"),
    "never-reads-with-log": ("ack", "resume", "history"),
    "never-acks": ("ack", "resume"),
    "never-acks-with-log": ("ack", "resume", "history"),
}
LIMITS = {
    "max_frame": 65_536,
    "max_inflight": 8,
    "max_subscriptions": 8,
    "queue": 64,
    "queue_bytes": 262_144,
    "window": 16,
    "window_bytes": 65_536,
}
LONGEST_RUN_SECONDS = 300


def bound(limits: dict[str, int]) -> int:
    """What one session may hold at most, in bytes. Spec: 06-delivery."""
    frames = 3 * limits["max_inflight"] + 2 * limits["max_subscriptions"] + 1
    return 2 * limits["window_bytes"] + limits["queue_bytes"] + frames * limits["max_frame"]


class Publisher:
    """Publishes without end, a few at a time."""

    def __init__(self, port: int) -> None:
        self._link = connect(port)
        self._id = FIRST_ID
        self._link.sock.sendall(self._frame())
        self._link.expect(self._link.receive_frame(), b'"id":')

    def _frame(self) -> bytes:
        self._id += 1
        data = "x" * EVENT_BYTES
        return masked({"type": "publish", "id": self._id, "channel": "bench/1", "data": data})

    def publish(self) -> None:
        """Publish one batch, and wait until all of it is answered."""
        self._link.count = 0
        self._link.sock.sendall(b"".join(self._frame() for _ in range(BATCH)))
        while self._link.count < BATCH:
            self._link.read()


def subscribed(port: int, profiles: tuple[str, ...]) -> Link:
    link = connect(port, *profiles)
    link.sock.sendall(masked({"type": "subscribe", "id": FIRST_ID, "channel": "bench/1"}))
    if parsed(link.receive_frame())["type"] != "open":
        raise WrongAnswer("not subscribed")
    link.sock.setblocking(False)
    return link


def swallow(link: Link) -> None:
    """Read whatever is there, and forget it."""
    try:
        while link.sock.recv(2**20):
            pass
    except BlockingIOError:
        return
    raise WrongAnswer("the server closed the connection")


def measure(process: Process, kind: str, clients: int, publishes: int) -> dict[str, object]:
    publisher = Publisher(process.port)
    for _ in range(WARM_UP // BATCH):
        publisher.publish()
    before = most = process.resident_kib()
    links = [subscribed(process.port, KINDS[kind]) for _ in range(clients)]
    welcome = connect(process.port).payload()
    limits = welcome["limits"]
    assert isinstance(limits, dict)
    for turn in range(publishes // BATCH):
        publisher.publish()
        if kind.startswith("never-acks"):
            for link in links:
                swallow(link)
        if turn % 50 == 0:
            most = max(most, process.resident_kib())
    grown = (most - before) / clients
    alive = sum(_is_open(link) for link in links)
    most_kib = bound({**LIMITS, **{name: value for name, value in limits.items() if name in LIMITS}}) / 1024
    return {
        "benchmark": "memory_bound",
        "clients": kind,
        "kib_per_client": round(grown, 1),
        "bound_kib": most_kib,
        "met": grown <= most_kib,
        "published_kib": publishes * EVENT_BYTES // 1024,
        "still_connected": alive,
    }


def _is_open(link: Link) -> bool:
    """Whether the server has not closed the connection, as far as it can be seen without reading all."""
    try:
        return bool(link.sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--publishes", type=int, default=PUBLISHES)
    options = parser.parse_args()
    signal.alarm(LONGEST_RUN_SECONDS)  # whatever hangs, the run ends
    core = pin()
    for kind in KINDS:
        line: dict[str, object]
        settings = [text for name, value in LIMITS.items() for text in ("--set", f"limits.{name}={value}")]
        try:
            with serving("holdfast", core, *settings) as process:
                line = measure(process, kind, options.clients, options.publishes)
        except NotRun as reason:
            line = {"benchmark": "memory_bound", "clients": kind, "status": "NOT RUN", "reason": str(reason)}
        except WrongAnswer as wrong:
            sys.exit(f"not measured: {wrong}")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
