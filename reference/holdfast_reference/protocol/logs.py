"""The log of a channel, as the core sees it: places in it, and what stands between them.

A *position* is a place as an integer: position p lies just after the event with that number, and the event
that follows it has p + 1. Positions of one channel only ever grow; what clients see of them is the cursor.
The engines are in `backends/`.

Spec: 12-history.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from holdfast_reference.protocol.events import Event

__all__ = ["CursorError", "CursorReason", "Dedupe", "Log", "Page", "Published"]


class CursorReason(StrEnum):
    """Why nothing can be continued from a cursor. Spec: [HIS-07]."""

    EPOCH = "epoch"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    AHEAD = "ahead"


class CursorError(Exception):
    """There is no going on from this place."""

    def __init__(self, reason: CursorReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Page(NamedTuple):
    """What the verb `history` lists.

    Attributes:
        items: the JSON object of each event, oldest first. Spec: [HIS-21] [HIS-28].
        more: whether the log holds further events in the direction of the page. Spec: [HIS-26].
        trimmed: whether the page, going back, ends where older events had been. Spec: [HIS-29].
        start: the cursor of the place just before the first of them, None without any. Spec: [HIS-42].
    """

    items: tuple[bytes, ...]
    more: bool
    trimmed: bool
    start: str | None


class Log(Protocol):
    """The log of one channel. It may be kept: it stays the channel's, whatever is trimmed or started anew."""

    @property
    def end(self) -> int:
        """The position just after the newest event; that of an empty log too."""
        ...

    @property
    def first(self) -> int:
        """The position just before the oldest event that is held; `end` when none is."""
        ...

    def cursor(self, position: int) -> str:
        """The name of a position, at most 64 bytes of ASCII that need no escape in JSON."""
        ...

    def locate(self, cursor: str) -> int:
        """The position that a cursor names, from `first` to `end`.

        Raises:
            CursorError: it names no such position; nothing else is ever raised, whatever the text.
        """
        ...

    def after(self, position: int) -> Event | None:
        """The event that follows a position, or None at the end of the log.

        Raises:
            CursorError: `expired`: the position lies before `first`, or the event cannot be read.
        """
        ...

    def page(self, *, before: int | None, after: int | None, limit: int, max_bytes: int) -> Page:
        """List events: those that follow `after`, or those that lead up to `before`, or the newest.

        Args:
            before: a position, the event with this number included, or None.
            after: a position, or None; not both.
            limit: how many events at most.
            max_bytes: size of the items at most, with a comma between each two; an event that alone is
                larger is listed as `too_large`, and counts as what that takes.

        Raises:
            CursorError: `expired`: the position lies before `first`.
        """
        ...


class Dedupe(NamedTuple):
    """What makes a publish one that takes effect once: a key, and how long it is remembered.

    Spec: [HIS-36] [HIS-41].
    """

    principal: str
    key: str
    remember_ms: int


class Published(NamedTuple):
    """The outcome of a publish that succeeded: the place of its event, None where there is no log.

    Of a `duplicate` it is the place of the first. Spec: [HIS-35] [HIS-36].
    """

    cursor: str | None
    duplicate: bool
