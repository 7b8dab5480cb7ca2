"""Deadlines: one sweeper for the whole server.

Heartbeats, expiries and timeouts of all connections stand in one heap. An entry is a promise to look, not a
timer: most frames move a deadline further away, and cost nothing here, because the sweeper asks again when
the old one comes. Only a deadline that moves closer has to be told.
"""

from __future__ import annotations

import heapq
import weakref
from itertools import count
from typing import Protocol

import trio

__all__ = ["Sweeper"]


class Sweepable(Protocol):
    #: When the sweeper will look at it next; infinity if it will not. The sweeper's own.
    look_at: float

    def deadline(self) -> float:
        """When something is due; infinity for never."""
        ...

    def tick(self, now: float) -> None:
        """Do what is due; must not wait and must not raise."""
        ...


class Sweeper:
    """The heap and the task that empties it."""

    __slots__ = ("_heap", "_order", "_wake")

    def __init__(self) -> None:
        # Weak, so that connections that came and went do not stay until the deadlines that they had.
        self._heap: list[tuple[float, int, weakref.ref[Sweepable]]] = []
        self._order = count()
        self._wake = trio.Event()

    def watch(self, connection: Sweepable) -> None:
        """Look at a connection in time for its deadline; to be called again when that has moved closer."""
        due = connection.deadline()
        if due < connection.look_at:
            connection.look_at = due
            if not self._heap or due < self._heap[0][0]:
                self._wake.set()
            heapq.heappush(self._heap, (due, next(self._order), weakref.ref(connection)))

    async def run(self) -> None:
        heap = self._heap
        while True:
            with trio.move_on_at(heap[0][0] if heap else float("inf")):
                await self._wake.wait()
            self._wake = trio.Event()
            # Frames that have arrived count before the silence that they end: let the readers go first.
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                due, _, reference = heapq.heappop(heap)
                connection = reference()
                if connection is None or due != connection.look_at:
                    continue  # it is gone, or was told an earlier one since
                connection.look_at = float("inf")
                connection.tick(now)
                self.watch(connection)
