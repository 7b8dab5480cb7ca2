"""When bytes are written: one flusher for the whole server.

Whoever queues a frame for a connection marks it dirty. The flusher wakes once per turn of the scheduler and
gives each dirty connection one joined, non-blocking send: no task switch per frame, and everything that a
turn produced for a connection travels together. Only a connection whose socket is full gets a task of its
own, until it is not.
"""

from __future__ import annotations

from typing import Protocol

import trio

__all__ = ["Flusher"]


class Flushable(Protocol):
    def flush(self, now: float) -> None:
        """Write what waits; must not wait and must not raise."""
        ...


class Flusher:
    """The dirty list and the task that empties it."""

    __slots__ = ("_dirty", "_lot")

    def __init__(self) -> None:
        self._dirty: list[Flushable] = []
        self._lot = trio.lowlevel.ParkingLot()

    def add(self, connection: Flushable) -> None:
        """Flush this connection at the end of the turn; the caller sees to it that it is added once."""
        if not self._dirty:
            self._lot.unpark_all()
        self._dirty.append(connection)

    async def run(self) -> None:
        while True:
            if self._dirty:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._lot.park()
            dirty, self._dirty = self._dirty, []
            now = trio.current_time()
            for connection in dirty:
                connection.flush(now)
