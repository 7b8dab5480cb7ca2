"""Our server with long logs, in memory or in a file, and one method: what the benchmarks of logs measure."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from holdfast_reference.backends.channel_log import Retention
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.backends.sqlite import SqliteBroker
from holdfast_reference.backends.tokens import Token
from holdfast_reference.config import Config
from holdfast_reference.server.serve import Server

if TYPE_CHECKING:
    from holdfast_reference.server.methods import Call

EVENTS = 50_000
BYTES = 100 * 2**20


async def run(log: str | None) -> None:
    retention = Retention(EVENTS, BYTES)
    config = Config(port=0, tokens=(Token("tok-alice", "alice"),))
    config = replace(config, timers=replace(config.timers, heartbeat_interval_ms=3_600_000))
    broker = MemoryBroker(retention) if log is None else SqliteBroker(Path(log), retention)
    server = Server(config, broker=broker)

    @server.method("conf.echo")
    def echo(call: Call) -> object:
        return call.data

    async with trio.open_nursery() as nursery:
        [(host, port)] = await nursery.start(server.serve)
        print(f"ws://{host}:{port}/", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", help="file for the logs")
    trio.run(partial(run, parser.parse_args().log))
