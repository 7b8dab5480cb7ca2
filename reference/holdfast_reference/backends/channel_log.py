"""What is the same in every engine: places in a log, their cursors, and what a reader is given.

An engine keeps rows; this module makes cursors, events and pages of them. A log of which nothing is kept
(never published to, or evicted because it was the idlest) takes no memory at all: it stands at the *floor*,
which all such logs share. An eviction starts them anew, since nobody can tell any more which one it was: the
floor rises to the highest place of an evicted log, so that positions never go back, and gets another epoch.

Spec: 12-history [HIS-05] to [HIS-11], [HIS-20] to [HIS-30].
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from holdfast_reference.protocol.events import Event, history_item
from holdfast_reference.protocol.logs import CursorError, CursorReason, Page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast_reference.protocol.names import Pattern

__all__ = ["ChannelLog", "Head", "Retention", "Row", "Store", "cursor_of", "new_epoch", "raised", "row_bytes"]

_CURSOR: Final = re.compile(r"([0-9a-f]{12})([0-9a-f]{8})-(0|[1-9][0-9]{0,15})")
_ROW: Final = 160  # bytes that an engine needs for an event beside its data
_TOO_LARGE: Final = b',"too_large":true}'


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept; what is beyond is trimmed, oldest first.

    Attributes:
        events: in the log of a channel.
        bytes: in the log of a channel; an event counts as its data and 160 bytes.
        channels: logs that hold anything; beyond, the one that was idle for longest is evicted.
        total_bytes: in all logs together; beyond, likewise.
        keys: of deduplication; beyond, publishes with a new one have to wait.
        unlogged: channels that keep no log.
    """

    events: int = 10_000
    bytes: int = 4 * 2**20
    channels: int = 10_000
    total_bytes: int = 256 * 2**20
    keys: int = 100_000
    unlogged: tuple[Pattern, ...] = ()

    def keeps(self, channel: str) -> bool:
        """Whether a channel has a log."""
        return not any(pattern.matches(channel) for pattern in self.unlogged)


class Row(NamedTuple):
    """What is kept of an event: what follows the head of its frames, and who does not get it."""

    tail: bytes
    exclude: str


def row_bytes(size: int) -> int:
    """What an event whose tail has `size` bytes counts for in `Retention.bytes`."""
    return size + _ROW


@dataclass(slots=True)
class Head:
    """Where a log stands.

    Attributes:
        epoch: since it was started anew.
        origin: position at which the epoch began.
        first: position just before the oldest event that is held.
        end: position just after the newest.
        bytes: of all that are held.
    """

    epoch: str
    origin: int
    first: int
    end: int
    bytes: int = 0


class Store(Protocol):
    """An engine, as the logs that it hands out see it."""

    def head(self, channel: str) -> Head:
        """Where the log of a channel stands now; not to be changed."""
        ...

    def row(self, channel: str, position: int) -> Row:
        """The event with this number, which is held.

        Raises:
            CursorError: `expired`: it cannot be read.
        """
        ...

    def rows(self, channel: str, lowest: int, highest: int, backward: bool) -> Iterable[tuple[int, bytes]]:
        """Numbers and tails of these events, all of which are held, from either end."""
        ...


class ChannelLog:
    """The log of one channel, whatever becomes of its content. See `protocol.logs.Log`."""

    __slots__ = ("_channel", "_store")

    def __init__(self, store: Store, channel: str) -> None:
        self._store = store
        self._channel = channel

    @property
    def end(self) -> int:
        return self._store.head(self._channel).end

    @property
    def first(self) -> int:
        return self._store.head(self._channel).first

    def cursor(self, position: int) -> str:
        return cursor_of(self._channel, self._store.head(self._channel).epoch, position)

    def locate(self, cursor: str) -> int:
        match = _CURSOR.fullmatch(cursor)
        if match is None or match[2] != _tag(self._channel, match[1]):
            raise CursorError(CursorReason.UNKNOWN)
        head, position = self._store.head(self._channel), int(match[3])
        if match[1] != head.epoch:
            raise CursorError(CursorReason.EPOCH)
        if position > head.end:
            raise CursorError(CursorReason.AHEAD)
        if position < head.first:
            raise CursorError(CursorReason.EXPIRED)
        return position

    def after(self, position: int) -> Event | None:
        head = self._store.head(self._channel)
        if position < head.first:
            raise CursorError(CursorReason.EXPIRED)
        if position >= head.end:
            return None
        tail, exclude = self._store.row(self._channel, position + 1)
        cursor = cursor_of(self._channel, head.epoch, position + 1)
        return Event.logged(self._channel, tail, exclude, position + 1, cursor)

    def page(self, *, before: int | None, after: int | None, limit: int, max_bytes: int) -> Page:
        head, backward = self._store.head(self._channel), after is None
        start = head.first if after is None else after
        stop = head.end if before is None else before
        if min(start, stop) < head.first:
            raise CursorError(CursorReason.EXPIRED)
        items: list[bytes] = []
        room, more = max_bytes + 1, False  # the first item has no comma before it
        before_first: int | None = None
        for position, tail in self._store.rows(self._channel, start + 1, stop, backward):
            cursor = cursor_of(self._channel, head.epoch, position)
            item = history_item(cursor, tail)
            if len(item) > max_bytes:
                item = history_item(cursor, _TOO_LARGE)
            room -= len(item) + 1
            if items and (room < 0 or len(items) == limit):
                more = True
                break
            items.append(item)
            if backward or before_first is None:
                before_first = position - 1
        if backward:
            items.reverse()
        trimmed = backward and not more and head.first > head.origin
        return Page(tuple(items), more, trimmed, None if before_first is None else self.cursor(before_first))


def new_epoch() -> str:
    return secrets.token_hex(6)


def raised(floor: Head, evicted: Head) -> Head:
    """The floor after an eviction."""
    place = max(floor.end, evicted.end)
    return Head(new_epoch(), place, place, place)


def cursor_of(channel: str, epoch: str, position: int) -> str:
    """At most 37 bytes: the epoch, a tag that ties it to the channel, and the position."""
    return f"{epoch}{_tag(channel, epoch)}-{position}"


@lru_cache(maxsize=4096)
def _tag(channel: str, epoch: str) -> str:
    return blake2b(f"{epoch}{channel}".encode(), digest_size=4).hexdigest()
