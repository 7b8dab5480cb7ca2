"""A client of the chat room: says a line, streams what was said so far, then follows what comes.

    $ python reference/examples/follow.py ws://127.0.0.1:8765/ "hold fast"

It subscribes before it asks for the past, so that no line falls between the two; the number of a line tells
whether it was in both.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import trio
from holdfast_reference.client import Event, Gap, connect

if TYPE_CHECKING:
    from collections.abc import Callable


async def follow(url: str, text: str, show: Callable[[str], None]) -> None:
    """Show the lines of the room in their order, from the first one on, until the connection ends."""
    async with connect(url) as session, session.subscribe("room") as events:
        await session.request("say", text)
        seen = 0
        async with session.stream("recite") as lines:
            async for line in lines:
                seen += 1
                show(f"{seen}: {line}")
        async for event in events:
            match event:
                case Event({"line": int(number), "text": line}) if number > seen:
                    show(f"{number}: {line}")
                case Gap(_, missed):
                    show(f"({'some' if missed is None else missed} lines are missing here)")


if __name__ == "__main__":
    url, text = sys.argv[1:]
    trio.run(follow, url, text, partial(print, flush=True))
