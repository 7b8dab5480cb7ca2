"""A client of the chat room that misses nothing, over broken connections and restarts of the server.

    $ python reference/examples/keep_following.py ws://127.0.0.1:8765/

It remembers one thing, the cursor of the last line that it has shown. Where the log of the room does not
reach back to that, it says so.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio
from holdfast_reference.client import ConnectionClosed, ConnectionFailed, Event, Gap, Reaction, connect

if TYPE_CHECKING:
    from collections.abc import Callable


async def keep_following(url: str, show: Callable[[str], None], pause: float = 0.5) -> None:
    """Show every line of the room from now on, once and in order, until the server wants nothing of us.

    Args:
        pause: seconds; the first pause between two connections is at most that long, later ones are longer.
    """
    followed, cursor = False, None
    longest = pause
    while True:
        began = trio.current_time()
        try:
            async with (
                connect(url, profiles=["pubsub", "history"]) as session,
                session.subscribe("room", since=cursor) as lines,
            ):
                complete = lines.opened.recovered or not followed
                show("(following)" if complete else f"(lines are missing here: {lines.opened.reason})")
                followed, cursor = True, lines.opened.cursor
                async for line in lines:
                    match line:
                        case Event({"line": number, "text": text}):
                            show(f"{number}: {text}")
                        case Gap(reason):
                            show(f"(lines are missing here: {reason})")
                    cursor = line.cursor
        except ConnectionFailed:
            pass
        except ConnectionClosed as closed:
            if closed.reaction is Reaction.STOP:
                raise
        if trio.current_time() > began + 10:
            longest = pause
        await trio.sleep(random.uniform(0, longest))
        longest = min(2 * longest, 30)


if __name__ == "__main__":
    trio.run(keep_following, sys.argv[1], partial(print, flush=True))
