"""What happened in one check, in order: the raw material of every timeline.

Entries keep the objects as they were; text is made only when a report asks for it, because nearly all entries
are thrown away with a passed check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .verdict import Line

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Journal"]

LONGEST_TEXT = 400
"""Characters of one line that a report shows before it cuts."""


class Journal:
    """An append-only list of what was sent and received, with times relative to its creation."""

    def __init__(self) -> None:
        self.began = trio.current_time()
        self._entries: list[tuple[float, str, str, str | bytes]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, who: str, way: str, what: str | bytes) -> int:
        """Append one entry and return its index, which identifies it when lines are rendered."""
        self._entries.append((trio.current_time(), who, way, what))
        return len(self._entries) - 1

    def lines(
        self, mask: Callable[[str], str], marked: int | None = None, limit: int = 60
    ) -> tuple[Line, ...]:
        """Render the newest `limit` entries, and the marked one if it is older, with secrets masked."""
        first = max(0, len(self._entries) - limit)
        chosen = list(range(first, len(self._entries)))
        if marked is not None and marked < first:
            chosen.insert(0, marked)
        return tuple(self._line(index, mask, index == marked) for index in chosen)

    def _line(self, index: int, mask: Callable[[str], str], marked: bool) -> Line:
        at, who, way, what = self._entries[index]
        if isinstance(what, bytes):
            text = f"{len(what)} bytes {what[:40].hex(' ')}{' …' if len(what) > 40 else ''}"
        else:
            text = mask(what)
            if len(text) > LONGEST_TEXT:
                text = f"{text[: LONGEST_TEXT - 60]} … {text[-40:]}  ({len(text)} characters)"
        return Line(round((at - self.began) * 1000, 3), who, way, text, marked)
