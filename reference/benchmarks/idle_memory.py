"""Resident memory of the server per idle connection, ours beside the bare peers of `server_cpu.py`.

A connection counts after `welcome`, with one subscription to a channel of its own when `--subscribed` is
given. Prints one JSON line per server; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time

from benchmarks.load import FIRST_ID, WrongAnswer, connect, masked, parsed
from benchmarks.processes import COMMANDS, NotRun, pin, serving

CONNECTIONS = 5000
WARM_UP = 100
"""Connections before the first reading: what the first ones load and allocate is paid once."""
SETTLE_SECONDS = 1.0
LONGEST_RUN_SECONDS = 300
SPARE_FILES = 200


def measure(name: str, core: int | None, connections: int, subscribed: bool) -> dict[str, object]:
    """Hold `connections` idle ones at one server, and see how much larger it has become."""
    with serving(name, core) as process:
        links = []
        before = 0
        for number in range(WARM_UP + connections):
            if number == WARM_UP:
                time.sleep(SETTLE_SECONDS)
                before = process.resident_kib()
            link = connect(process.port)
            links.append(link)
            if subscribed:
                subscribe = {"type": "subscribe", "id": FIRST_ID, "channel": f"bench/{number}"}
                link.sock.sendall(masked(subscribe))
                if parsed(link.receive_frame())["type"] != "open":
                    raise WrongAnswer("not subscribed")
        time.sleep(SETTLE_SECONDS)
        grown = process.resident_kib() - before
        return {
            "benchmark": "idle_memory",
            "server": name,
            "kib_per_connection": round(grown / connections, 2),
            "connections": connections,
            "subscribed": subscribed,
            "kib_before": before,
        }


def allow_files(count: int) -> None:
    """Raise the number of files that this process and its children may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise NotRun(f"{count} open files are needed, {hard} allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--subscribed", action="store_true")
    parser.add_argument("--server", action="append", choices=list(COMMANDS), help="repeatable; default: all")
    options = parser.parse_args()
    signal.alarm(LONGEST_RUN_SECONDS)  # whatever hangs, the run ends
    core = pin()
    for name in options.server or list(COMMANDS):
        line: dict[str, object]
        try:
            allow_files(options.connections + WARM_UP + SPARE_FILES)
            line = measure(name, core, options.connections, options.subscribed)
        except NotRun as reason:
            line = {"benchmark": "idle_memory", "server": name, "status": "NOT RUN", "reason": str(reason)}
        except WrongAnswer as wrong:
            sys.exit(f"not measured: {wrong}")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
