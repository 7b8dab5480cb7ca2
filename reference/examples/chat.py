"""A chat room: a server of one's own.

    $ python reference/examples/chat.py
    ws://127.0.0.1:8765/

Whoever calls `say` is heard by all subscribers of the channel `room`, and told how many lines there are by
now; `recite` streams them from the first one on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from holdfast_reference.config import Config
from holdfast_reference.server.serve import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast_reference.server.methods import Call


def room(config: Config) -> Server:
    """A server with one room, not yet listening."""
    server = Server(config)
    lines: list[object] = []

    @server.method("say")
    def say(call: Call) -> object:
        """A plain function answers at once and must not block."""
        lines.append(call.data)
        server.publish("room", {"line": len(lines), "text": call.data})
        return len(lines)

    @server.method("recite")
    async def recite(call: Call) -> AsyncIterator[object]:
        """An async generator streams; it goes on when the client has room for more."""
        for line in lines:
            yield line

    return server


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = room(Config(anonymous=True))
        for host, port in await nursery.start(server.serve):
            print(f"ws://{host}:{port}/", flush=True)


if __name__ == "__main__":
    trio.run(main)
