"""One published event, encoded once however many receive it.

All frames of an event are equal but for the subscription's `id`, which every subscription has ready in
front of it: a frame is one concatenation. What follows the head differs by kind of subscription only:
plain, with the cursor, or with the channel; each of these is made when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.codec import encode_data, tail
from holdfast_reference.protocol.limits import MAX_INTEGER, SEQ_ROOM

if TYPE_CHECKING:
    from holdfast_reference.protocol.messages import Payload

__all__ = ["Event", "event_head", "history_item"]


def event_head(id: int) -> bytes:
    """What the frames of all events of a subscription begin with."""
    return b'{"type":"event","id":%d' % id


def history_item(cursor: str, tail: bytes) -> bytes:
    """An event as the verb `history` lists it; `tail` is that of the frame. Spec: [HIS-21]."""
    return b'{"cursor":"%b"%b' % (cursor.encode(), tail)


_LONGEST_HEAD: Final = len(event_head(MAX_INTEGER)) + SEQ_ROOM
_CURSOR_ROOM: Final = 64  # bytes of the member `cursor`, at most


class Event:
    """An event on its way to the subscribers of `channel`.

    Args:
        channel: where it was published.
        payload: `data` as it will stand on the wire.
        exclude: `conn` of the session that must not get it (`echo:false`), or "" for none.

    Attributes:
        tail: what follows the head in a frame without cursor.
        position: its number in the channel's log, None as long as it has none.
        cursor: the name of that place, "" likewise.
    """

    __slots__ = ("_cursor_tail", "_named_tail", "channel", "cursor", "exclude", "position", "tail")

    def __init__(self, channel: str, payload: Payload, exclude: str = "") -> None:
        self.channel = channel
        self.exclude = exclude
        self.tail = tail(payload)
        self.position: int | None = None
        self.cursor = ""
        self._named_tail = b""
        self._cursor_tail = b""

    @classmethod
    def logged(cls, channel: str, tail: bytes, exclude: str, position: int, cursor: str) -> Event:
        """An event as it comes back from a log."""
        event = cls.__new__(cls)
        event.channel = channel
        event.exclude = exclude
        event.tail = tail
        event.position = position
        event.cursor = cursor
        event._named_tail = b""
        event._cursor_tail = b""
        return event

    @property
    def cursor_tail(self) -> bytes:
        """The tail for a subscription that has a log; only for an event with a place. Spec: [HIS-01]."""
        if not self._cursor_tail:
            self._cursor_tail = b',"cursor":"%b"%b' % (self.cursor.encode(), self.tail)
        return self._cursor_tail

    @property
    def named_tail(self) -> bytes:
        """The tail for a subscription to a pattern, which names the channel. Spec: [SUB-24]."""
        if not self._named_tail:
            self._named_tail = b',"channel":%b%b' % (encode_data(self.channel).json, self.tail)
        return self._named_tail

    @property
    def largest(self) -> int:
        """Bytes of the largest frame that this event can become. Spec: [SUB-18]."""
        return _LONGEST_HEAD + max(len(self.named_tail), len(self.tail) + _CURSOR_ROOM)
