"""One published event, encoded at most once for each `id` under which somebody receives it.

A thousand subscribers whose subscriptions have the same `id`, which is the usual case, share one text.
"""

from __future__ import annotations

from holdfast_reference.protocol.codec import encode_data, tail
from holdfast_reference.protocol.limits import MAX_INTEGER
from holdfast_reference.protocol.messages import Payload

__all__ = ["Event"]

_LONGEST_HEAD = b'{"type":"event","id":%d,"channel":' % MAX_INTEGER


class Event:
    """An event on its way to the subscribers of `channel`.

    Args:
        channel: where it was published.
        payload: `data` as it will stand on the wire.
        exclude: `conn` of the session that must not get it (`echo:false`), or "" for none.
    """

    __slots__ = ("_named", "_named_tail", "_plain", "_plain_tail", "channel", "exclude")

    def __init__(self, channel: str, payload: Payload, exclude: str = "") -> None:
        self.channel = channel
        self.exclude = exclude
        self._plain_tail = tail(payload)
        self._named_tail = b""
        self._plain: dict[int, bytes] = {}
        self._named: dict[int, bytes] = {}

    def plain(self, id: int) -> bytes:
        """The frame for a subscription to the channel."""
        text = self._plain.get(id)
        if text is None:
            text = self._plain[id] = b'{"type":"event","id":%d%b' % (id, self._plain_tail)
        return text

    def named(self, id: int) -> bytes:
        """The frame for a subscription to a pattern, which names the channel. Spec: [SUB-24]."""
        text = self._named.get(id)
        if text is None:
            if not self._named_tail:
                self._named_tail = b',"channel":%b%b' % (encode_data(self.channel).json, self._plain_tail)
            text = self._named[id] = b'{"type":"event","id":%d%b' % (id, self._named_tail)
        return text

    @property
    def largest(self) -> int:
        """Bytes of the largest frame that this event can become. Spec: [SUB-18]."""
        return len(_LONGEST_HEAD) + len(encode_data(self.channel).json) + len(self._plain_tail)
