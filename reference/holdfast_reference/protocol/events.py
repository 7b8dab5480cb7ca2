"""One published event, encoded once however many receive it.

All frames of an event are equal but for the subscription's `id`, which every subscription has ready in
front of it: a frame is one concatenation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.codec import encode_data, tail
from holdfast_reference.protocol.limits import MAX_INTEGER

if TYPE_CHECKING:
    from holdfast_reference.protocol.messages import Payload

__all__ = ["Event", "event_head"]


def event_head(id: int) -> bytes:
    """What the frames of all events of a subscription begin with."""
    return b'{"type":"event","id":%d' % id


_LONGEST_HEAD: Final = len(event_head(MAX_INTEGER))


class Event:
    """An event on its way to the subscribers of `channel`.

    Args:
        channel: where it was published.
        payload: `data` as it will stand on the wire.
        exclude: `conn` of the session that must not get it (`echo:false`), or "" for none.
    """

    __slots__ = ("_named_tail", "channel", "exclude", "tail")

    def __init__(self, channel: str, payload: Payload, exclude: str = "") -> None:
        self.channel = channel
        self.exclude = exclude
        self.tail = tail(payload)
        self._named_tail = b""

    @property
    def named_tail(self) -> bytes:
        """The tail for a subscription to a pattern, which names the channel. Spec: [SUB-24]."""
        if not self._named_tail:
            self._named_tail = b',"channel":%b%b' % (encode_data(self.channel).json, self.tail)
        return self._named_tail

    @property
    def largest(self) -> int:
        """Bytes of the largest frame that this event can become. Spec: [SUB-18]."""
        return _LONGEST_HEAD + len(self.named_tail)
