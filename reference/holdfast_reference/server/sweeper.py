"""Deadlines: one sweeper for the whole server.

Those of all connections (heartbeats, expiries) and of all sessions (timeouts, `resume_ms`) stand in one heap.
An entry is a promise to look, not a timer: most frames move a deadline further away, and cost nothing here,
because the sweeper asks again when the old one comes. Only a deadline that moves closer has to be told.
"""

from __future__ import annotations

import heapq
import weakref
from itertools import count
from typing import Final, Protocol

import trio

__all__ = ["Sweeper"]

_FEW: Final = 1024  # entries that are never worth tidying up


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

    __slots__ = ("_heap", "_most", "_order", "_wake")

    def __init__(self) -> None:
        # Weak, so that those that came and went do not stay until the deadlines that they had.
        self._heap: list[tuple[float, int, weakref.ref[Sweepable]]] = []
        self._most = _FEW  # entries, then it is time to tidy up
        self._order = count()
        self._wake = trio.Event()

    def watch(self, watched: Sweepable) -> None:
        """Look at something in time for its deadline; to be called again when that has moved closer."""
        due = watched.deadline()
        if due < watched.look_at:
            watched.look_at = due
            if not self._heap or due < self._heap[0][0]:
                self._wake.set()
            heapq.heappush(self._heap, (due, next(self._order), weakref.ref(watched)))
            if len(self._heap) > self._most:
                self._tidy()

    def _tidy(self) -> None:
        """Drop the entries of those that are gone, when there may be more of them than of others."""
        self._heap[:] = [entry for entry in self._heap if entry[2]() is not None]
        heapq.heapify(self._heap)
        self._most = max(_FEW, 2 * len(self._heap))

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
                watched = reference()
                if watched is None or due != watched.look_at:
                    continue  # it is gone, or was told an earlier one since
                watched.look_at = float("inf")
                watched.tick(now)
                self.watch(watched)
