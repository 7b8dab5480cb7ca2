"""Which publishes have taken effect under which keys, each for its time.

Spec: 12-history [HIS-36] to [HIS-41].
"""

from __future__ import annotations

import heapq
from math import ceil
from typing import TYPE_CHECKING

from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.logs import Published

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.logs import Dedupe

__all__ = ["Key", "Remembered", "key_of"]

Key = tuple[str, str, str]  #: principal, channel, key


def key_of(event: Event, dedupe: Dedupe) -> Key:
    return (dedupe.principal, event.channel, dedupe.key)


class Remembered:
    """Keys and the cursors of what was published under them.

    None is forgotten before its time, since whoever publishes relies on it; so when there are too many, it
    is new ones that have to wait.

    Args:
        most: keys at a time.
        clock: seconds, never decreasing.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._cursors: dict[Key, str] = {}
        self._ends: list[tuple[float, Key]] = []  # a heap: who is forgotten next

    def __len__(self) -> int:
        return len(self._cursors)

    def outcome(self, key: Key) -> Published | ExchangeError | None:
        """What a publish with this key comes to, None if it is to take effect."""
        now = self._clock()
        while self._ends and self._ends[0][0] < now:
            del self._cursors[heapq.heappop(self._ends)[1]]
        cursor = self._cursors.get(key)
        if cursor is not None:
            return Published(cursor or None, duplicate=True)
        if len(self._cursors) >= self._most:
            wait_ms = ceil((self._ends[0][0] - now) * 1000)
            return ExchangeError(ErrorCode.UNAVAILABLE, "too many dedupe keys", retry_ms=wait_ms)
        return None

    def add(self, key: Key, cursor: str, remember_ms: float) -> None:
        """Remember a key that `outcome` did not know; `cursor` is "" where there is no log."""
        self._cursors[key] = cursor
        heapq.heappush(self._ends, (self._clock() + remember_ms / 1000, key))
