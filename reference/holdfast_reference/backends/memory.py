"""A broker for one process, with logs that live as long as it does."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import trio

from holdfast_reference.backends.channel_log import (
    ChannelLog,
    Head,
    Retention,
    Row,
    cursor_of,
    new_epoch,
    raised,
    row_bytes,
)
from holdfast_reference.backends.dedupe import Remembered, key_of
from holdfast_reference.backends.fanout import Fanout
from holdfast_reference.protocol.logs import Published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast_reference.protocol.errors import ExchangeError
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.logs import Dedupe, Log

__all__ = ["MemoryBroker"]


@dataclass(slots=True)
class _Kept(Head):
    """A log that holds something, or has an epoch of its own."""

    rows: deque[Row] = field(default_factory=deque)

    def drop_oldest(self) -> int:
        """Trim one event; how many bytes that frees."""
        self.first += 1
        size = row_bytes(len(self.rows.popleft().tail))
        self.bytes -= size
        return size

    def trim(self) -> int:
        """Trim all events; how many bytes that frees."""
        size, self.bytes = self.bytes, 0
        self.first = self.end
        self.rows.clear()
        return size


class MemoryBroker(Fanout):
    """Subscribers, logs and dedupe keys in dictionaries.

    Args:
        retention: what is kept.
        clock: seconds, never decreasing.
    """

    def __init__(
        self, retention: Retention | None = None, *, clock: Callable[[], float] = trio.current_time
    ) -> None:
        super().__init__()
        self._retention = retention or Retention()
        self._logs: OrderedDict[str, _Kept] = OrderedDict()  # the idlest first
        self._bytes = 0  # in all of them
        self._floor = Head(new_epoch(), 0, 0, 0)  # where logs stand of which nothing is kept
        self._remembered = Remembered(self._retention.keys, clock)

    def publish(
        self,
        event: Event,
        dedupe: Dedupe | None = None,
        done: Callable[[Published | ExchangeError], None] | None = None,
    ) -> None:
        outcome: Published | ExchangeError | None = None
        if dedupe is not None:
            key = key_of(event, dedupe)
            outcome = self._remembered.outcome(key)
        if outcome is None:
            self._place(event)
            if dedupe is not None:
                self._remembered.add(key, event.cursor, dedupe.remember_ms)
            self._deliver(event)
            outcome = Published(event.cursor or None, duplicate=False)
        if done is not None:
            done(outcome)

    def _place(self, event: Event) -> None:
        """Append an event to the log of its channel, if that has one."""
        log = self._logs.get(event.channel)
        if log is None:
            if not self._retention.keeps(event.channel):
                return
            log = self._start(event.channel)
        else:
            self._logs.move_to_end(event.channel)
        log.end += 1
        event.position, event.cursor = log.end, cursor_of(event.channel, log.epoch, log.end)
        log.rows.append(Row(event.tail, event.exclude))
        size = row_bytes(len(event.tail))
        log.bytes += size
        self._bytes += size
        while len(log.rows) > self._retention.events or log.bytes > self._retention.bytes:
            self._bytes -= log.drop_oldest()
        self._evict()

    def _start(self, channel: str) -> _Kept:
        floor = self._floor
        log = self._logs[channel] = _Kept(floor.epoch, floor.origin, floor.first, floor.end)
        return log

    def _evict(self) -> None:
        while len(self._logs) > self._retention.channels or self._bytes > self._retention.total_bytes:
            _, idlest = self._logs.popitem(last=False)
            self._bytes -= idlest.bytes
            self._floor = raised(self._floor, idlest)

    def log(self, channel: str) -> Log | None:
        return ChannelLog(self, channel) if self._retention.keeps(channel) else None

    async def trim(self, channel: str) -> None:
        await trio.lowlevel.checkpoint()
        if channel in self._logs:
            self._bytes -= self._logs[channel].trim()
            self._logs.move_to_end(channel)

    async def wipe(self, channel: str) -> None:
        await self.trim(channel)
        if self._retention.keeps(channel):
            log = self._logs.get(channel) or self._start(channel)
            log.epoch, log.origin = new_epoch(), log.end
            self._evict()

    async def run(self) -> None:
        """Everything happens at once."""

    def close(self) -> None:
        """There is nothing to let go of."""

    # What the logs that were handed out read from.

    def head(self, channel: str) -> Head:
        return self._logs.get(channel, self._floor)

    def row(self, channel: str, position: int) -> Row:
        log = self._logs[channel]
        return log.rows[position - log.first - 1]

    def rows(self, channel: str, lowest: int, highest: int, backward: bool) -> Iterator[tuple[int, bytes]]:
        if lowest > highest:
            return
        log = self._logs[channel]
        if backward:
            numbered = zip(
                range(highest, lowest - 1, -1),
                islice(reversed(log.rows), log.end - highest, None),
                strict=False,
            )
        else:
            numbered = zip(
                range(lowest, highest + 1), islice(log.rows, lowest - log.first - 1, None), strict=False
            )
        for position, row in numbered:
            yield position, row.tail
