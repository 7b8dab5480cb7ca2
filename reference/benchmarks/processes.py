"""The servers under measurement: how each is started, what it has cost so far, how it ends.

Linux only: processor time and resident size are read from /proc.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

PEERS = Path(__file__).parent / "peers"
START_SECONDS = 20.0
STOP_SECONDS = 10.0

# No heartbeat falls into a measurement, and no limit meant for the public cuts one short.
HOLDFAST = [
    *(sys.executable, "-m", "holdfast_reference", "--conformance", "--port", "0", "--log-level", "warning"),
    *("--set", "timers.heartbeat_interval_ms=3600000"),
]
COMMANDS = {
    "holdfast": HOLDFAST,
    "node-ws": ["node", str(PEERS / "server.js")],
    "trio-websocket": [sys.executable, str(PEERS / "trio_websocket_server.py")],
}
#: Ours with long logs; it has no peers.
LOGS = [sys.executable, str(Path(__file__).parent / "logs_server.py")]


class NotRun(Exception):
    """A server cannot be measured on this machine; the text says why."""


@dataclass(frozen=True)
class Process:
    """A server process, listening on `port` of 127.0.0.1."""

    name: str
    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """Processor time of all its threads since they started."""
        nanoseconds = 0
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
        return nanoseconds / 1e9

    def resident_kib(self) -> int:
        """Resident size in KiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise NotRun(f"{self.name} has no resident size: it ended")


def pin() -> int | None:
    """Pin this process, the load, to one core; return the one left for the servers, None if there is none."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    os.sched_setaffinity(0, {cores[0]})
    return cores[-1]


@contextmanager
def serving(name: str, core: int | None, *arguments: str) -> Iterator[Process]:
    """Run one server, on `core` if there is one to spare, with more `arguments`.

    Raises:
        NotRun: it is not installed, or it does not start.
    """
    command = [*(LOGS if name == "holdfast-logs" else COMMANDS[name]), *arguments]
    if shutil.which(command[0]) is None:
        raise NotRun(f"{command[0]} is not installed")
    if name == "node-ws" and not (PEERS / "node_modules" / "ws").is_dir():
        raise NotRun(f"its packages are not installed: run npm ci in {PEERS.relative_to(PEERS.parents[2])}")
    place = None if core is None else partial(os.sched_setaffinity, 0, {core})
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=place) as process:
        assert process.stdout is not None
        # Killing the silent process turns the blocking read into an end of file.
        too_slow = threading.Timer(START_SECONDS, process.kill)
        too_slow.start()
        url = process.stdout.readline().decode()
        too_slow.cancel()
        try:
            port = urlsplit(url).port
            if port is None:
                raise NotRun(f"{' '.join(command)} did not start")
            yield Process(name, process.pid, port)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
