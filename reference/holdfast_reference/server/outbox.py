"""When bytes are written: one flusher for the whole server.

Whoever queues a frame for a connection marks it dirty. The flusher wakes once per turn of the scheduler and
gives each dirty connection one joined, non-blocking send: no task switch per frame, and everything that a
turn produced for a connection travels together. Only a connection whose socket is full gets a task of its
own, until it is not. Connections that replay a log wait in a line: each turn serves one of them a little, so
that live traffic does not wait however many recover.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

__all__ = ["Flusher"]


class Flushable(Protocol):
    #: Whether it stands in the line of those that replay. The flusher's own.
    replays: bool

    def flush(self, now: float) -> None:
        """Write what waits; must not wait and must not raise."""
        ...


class Flusher:
    """The dirty list, the line of those that replay, and the task that empties both."""

    __slots__ = ("_dirty", "_line", "_lot")

    def __init__(self) -> None:
        self._dirty: list[Flushable] = []
        self._line: deque[Flushable] = deque()
        self._lot = trio.lowlevel.ParkingLot()

    def add(self, connection: Flushable) -> None:
        """Flush this connection at the end of the turn; the caller sees to it that it is added once."""
        self._wake()
        self._dirty.append(connection)

    def add_replay(self, connection: Flushable) -> None:
        """Flush this connection once more when its turn has come, to go on with a log."""
        if not connection.replays:
            connection.replays = True
            self._wake()
            self._line.append(connection)

    def _wake(self) -> None:
        if not (self._dirty or self._line):
            self._lot.unpark_all()

    async def run(self) -> None:
        while True:
            if self._dirty or self._line:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._lot.park()
            dirty, self._dirty = self._dirty, []
            now = trio.current_time()
            for connection in dirty:
                connection.flush(now)
            if self._line:
                first = self._line.popleft()
                first.replays = False
                first.flush(now)
