"""The one channel of the model. Its events are the numbers 1, 2, 3 ...: everybody sees what is missing.

How many there are, and how many of the first the log has forgotten, belongs to the state of the server side,
which says so in `LOG` before it does anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.codec import encode_data
from holdfast_reference.protocol.events import Event
from holdfast_reference.protocol.logs import CursorError, CursorReason

if TYPE_CHECKING:
    from holdfast_reference.protocol.logs import Page

CHANNEL: Final = "c"


class _Log:
    """See `holdfast_reference.protocol.logs.Log`."""

    first = 0
    end = 0

    def cursor(self, position: int) -> str:
        return f"at-{position}"

    def locate(self, cursor: str) -> int:
        position = place(cursor)
        if position < self.first:
            raise CursorError(CursorReason.EXPIRED)
        return position

    def after(self, position: int) -> Event | None:
        if position < self.first:
            raise CursorError(CursorReason.EXPIRED)
        return None if position >= self.end else event(position + 1)

    def page(self, *, before: int | None, after: int | None, limit: int, max_bytes: int) -> Page:
        raise AssertionError("no client of the model asks for a page")


LOG: Final = _Log()
_EVENTS: Final[dict[int, Event]] = {}


def event(number: int) -> Event:
    """The event with this number."""
    if number not in _EVENTS:
        made = _EVENTS[number] = Event(CHANNEL, encode_data(number))
        made.position = number
        made.cursor = LOG.cursor(number)
    return _EVENTS[number]


def place(cursor: str) -> int:
    """The number of the event that a cursor stands behind."""
    return int(cursor.removeprefix("at-"))
