"""What has arrived for one exchange and waits for whoever started it.

The connection's reader fills it and never waits: a reader that waited for one slow consumer would keep
every other exchange, and the heartbeat, waiting with it. So an inbox is bounded, and when it is full the
loss is told.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from holdfast_reference.client.frames import ABSENT, Chunk, Event, Gap, Result

if TYPE_CHECKING:
    from holdfast_reference.client.errors import HoldfastError
    from holdfast_reference.client.frames import Opened


class Inbox:
    """Opening, parts and outcome of one exchange.

    Args:
        capacity: parts that may wait.
    """

    def __init__(self, capacity: int = 0) -> None:
        self._capacity = capacity
        self._parts: deque[Event | Gap | Chunk] = deque()
        self._opened: Opened | None = None
        self._outcome: Result | HoldfastError | None = None
        self._news = trio.lowlevel.ParkingLot()

    def open(self, opened: Opened) -> None:
        """The subscription is live."""
        self._opened = opened
        self._news.unpark_all()

    def add(self, part: Event | Gap | Chunk) -> bool:
        """Keep a part; return False when it is a chunk and there is no room.

        Events without room become a gap, the last of the waiting parts; a stream with a hole is of no use.
        """
        if len(self._parts) < self._capacity:
            self._parts.append(part)
            self._news.unpark_all()
            return True
        match part:
            case Chunk():
                return False
            case Gap(missed=missed, cursor=cursor):
                pass
            case Event(cursor=cursor):
                missed = 1
        last = self._parts[-1] if self._parts else None
        if not isinstance(last, Gap):
            self._parts.append(Gap("overflow", missed, cursor))
        else:
            total = None if missed is None or last.missed is None else last.missed + missed
            self._parts[-1] = replace(last, missed=total, cursor=cursor)
        return True

    def end(self, outcome: Result | HoldfastError) -> None:
        """Nothing more will come. The first outcome counts."""
        self._outcome = self._outcome or outcome
        self._news.unpark_all()

    async def opening(self) -> Opened:
        """Wait until the subscription is live; raise what happened instead."""
        while self._opened is None and self._outcome is None:
            await self._news.park()
        if self._opened is None:
            self._result()
            raise AssertionError("a subscription ended well before it began")
        return self._opened

    async def ending(self) -> object:
        """Wait for the outcome; return the data of a result, or raise."""
        while self._outcome is None:
            await self._news.park()
        return self._result().data

    async def next(self) -> Event | Gap | Chunk | Result:
        """Wait for the next part, or the result behind the last; raise when there is an error instead."""
        await trio.lowlevel.checkpoint()
        while not self._parts and self._outcome is None:
            await self._news.park()
        return self._parts.popleft() if self._parts else self._result()

    def _result(self) -> Result:
        match self._outcome:
            case Result() as result:
                return result
            case None:
                raise AssertionError("asked for an outcome that is not there")
            case error:
                raise error


class Subscription:
    """The events of a subscription in their order, with a `Gap` where some are missing.

    Iteration ends when the server ends the subscription well, and raises what it ends with otherwise.

    Attributes:
        opened: how it began: its place in the channel's log, and whether nothing was missed before that.
    """

    def __init__(self, opened: Opened, inbox: Inbox) -> None:
        self.opened = opened
        self._inbox = inbox

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event | Gap:
        part = await self._inbox.next()
        if isinstance(part, Event | Gap):
            return part
        raise StopAsyncIteration


class Stream:
    """The chunks of a streamed answer.

    Attributes:
        result: data of the result behind the last chunk, None when there is none.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.result: object = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> object:
        part = await self._inbox.next()
        if isinstance(part, Chunk):
            return part.data
        if isinstance(part, Result) and part.data is not ABSENT:
            self.result = part.data
        raise StopAsyncIteration
