"""Where a subscription stands in the log of its channel, and what it reads there.

A subscription is live while events come to it as they are published, and replays while it reads them from
the log, one at a time, as its session's queue drains. Which of the two it is decides `outgoing.py`.

Spec: 12-history [HIS-01] [HIS-05] [HIS-06] [HIS-18] [HIS-19].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.protocol.events import event_head
from holdfast_reference.protocol.logs import CursorError
from holdfast_reference.protocol.outgoing import REPLAYED

if TYPE_CHECKING:
    from collections.abc import Hashable

    from holdfast_reference.protocol.logs import Log
    from holdfast_reference.protocol.outgoing import Item

__all__ = ["Place", "gap_head", "too_large"]


def gap_head(id: int) -> bytes:
    """What the text of a gap begins with."""
    return b'{"type":"gap","id":%d' % id


def too_large(cursor: str) -> bytes:
    """The rest of a gap that stands for one event; `cursor` is "" without a log. Spec: [DEL-06]."""
    place = b',"cursor":"%b"' % cursor.encode() if cursor else b""
    return b',"reason":"too_large","missed":1%b}' % place


class Place:
    """One subscription's place.

    Args:
        id: the subscription.
        log: of its channel.
        origin: the session that it belongs to; events that exclude that are passed over.
        room: bytes of the largest frame that its client takes.
        position: where its events begin.

    Attributes:
        replaying: whether its next event is read from the log; whatever is published waits there.
        position: while it is live, the place after the newest event that it was given.
    """

    __slots__ = ("_id", "_origin", "_room", "log", "position", "replaying")

    def __init__(self, id: int, log: Log, origin: str, room: int, position: int) -> None:
        self._id = id
        self._origin = origin
        self._room = room
        self.log = log
        self.position = position
        self.replaying = False

    def read(self, position: int) -> Item | None:
        """What the subscription is to be sent after a position, ready to be queued; None at the end."""
        id, log = self._id, self.log
        try:
            while (event := log.after(position)) is not None:
                position += 1
                if event.exclude != self._origin:
                    head, tail = event_head(id), event.cursor_tail
                    if len(head) + len(tail) > self._room:
                        head, tail = gap_head(id), too_large(event.cursor)
                    return REPLAYED, id, head, tail, position
        except CursorError:
            position = max(log.first, position + 1)  # the latter where one event cannot be read
            tail = b',"reason":"expired","cursor":"%b"}' % log.cursor(position).encode()
            return REPLAYED, id, gap_head(id), tail, position
        return None

    def copy(self) -> Place:
        twin = Place(self._id, self.log, self._origin, self._room, self.position)
        twin.replaying = self.replaying
        return twin

    def key(self) -> Hashable:
        return (self.replaying, self.position)
