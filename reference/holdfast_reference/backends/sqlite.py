"""A broker whose logs outlive the process, in a SQLite file.

Publishes queue up. One task takes all that wait, commits them together in a worker thread, and only then
delivers and answers them, in their order: what anybody has seen is on the disk. While a commit runs the next
ones gather, so that the more there is to do the more of it shares one wait for the disk.

State in memory changes only between two commits, in that task.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from holdfast_reference.backends.base import BackendError
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
from holdfast_reference.backends.sqlite_file import KeptHead, KeptKey, Plan, SqliteFile, WriteFailed
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.logs import CursorError, CursorReason, Published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from holdfast_reference.backends.dedupe import Key
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.logs import Dedupe, Log

    Done = Callable[[Published | ExchangeError], None]

__all__ = ["SqliteBroker"]

_AHEAD_EVENTS: Final = 64  # events read at once for a replay
_AHEAD_BYTES: Final = 256 * 2**10  # likewise, unless one alone is larger
_CACHE_BYTES: Final = 4 * 2**20  # of events that were read ahead for all replays
_RETRY_MS: Final = 1000  # after a commit that failed

_logger = logging.getLogger(__name__)


class _Publish(NamedTuple):
    event: Event
    key: Key | None
    remember_ms: int
    done: Done | None


class _Reset:
    """A trim or a wipe that waits for its turn."""

    __slots__ = ("channel", "error", "finished", "wipe")

    def __init__(self, channel: str, wipe: bool) -> None:
        self.channel = channel
        self.wipe = wipe
        self.finished = trio.Event()
        self.error: ExchangeError | None = None


class SqliteBroker(Fanout):
    """Subscribers in memory, logs and dedupe keys in a file.

    Args:
        path: of the file; two more stand beside it while it is open, and a third one as a lock.
        retention: what is kept.
        clock: seconds, never decreasing; it is asked before trio runs.
        calendar: seconds of the calendar, which go on while no server runs.

    Raises:
        BackendError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        retention: Retention | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._retention = retention or Retention()
        self._calendar = calendar
        self._file = SqliteFile(path)
        self._floor = self._file.floor
        self._logs: OrderedDict[str, KeptHead] = OrderedDict(self._file.kept_heads())  # the idlest first
        self._bytes = sum(log.bytes for log in self._logs.values())
        self._next_id = 1 + max((log.id for log in self._logs.values()), default=0)
        self._forget: list[int] = []  # evicted, and still in the file
        for channel in [channel for channel in self._logs if not self._retention.keeps(channel)]:
            self._drop(self._logs.pop(channel))
        self._evict()
        self._forget_now(path)
        self._remembered = Remembered(self._retention.keys, clock)
        for kept in self._file.kept_keys():
            left_ms = min((kept.until - calendar()) * 1000, kept.remember_ms)
            if left_ms > 0:
                self._remembered.add(kept.key, kept.cursor, left_ms)
        self._running: dict[Key, list[Done]] = {}  # who waits for the outcome of the first
        self._waiting: list[_Publish | _Reset] = []
        self._wake = trio.Event()
        self._ahead: OrderedDict[tuple[int, int], Row] = OrderedDict()  # by number of the log and position
        self._ahead_bytes = 0

    def _forget_now(self, path: Path) -> None:
        """Write once: to see that it works, and that what is not kept now never comes back, with a hole."""
        try:
            self._file.commit(self._plan(), self._retention)
        except WriteFailed as failed:
            self._file.close()
            raise BackendError(
                f"{path} cannot be written: {failed}", "see to its rights and to the disk"
            ) from None
        self._forget.clear()

    def publish(self, event: Event, dedupe: Dedupe | None = None, done: Done | None = None) -> None:
        key = None
        if dedupe is not None:
            key = key_of(event, dedupe)
            if key in self._running:
                if done is not None:
                    self._running[key].append(done)
                return
            outcome = self._remembered.outcome(key)
            if outcome is not None:
                if done is not None:
                    done(outcome)
                return
            self._running[key] = []
        remember_ms = 0 if dedupe is None else dedupe.remember_ms
        self._waiting.append(_Publish(event, key, remember_ms, done))
        self._wake.set()

    async def trim(self, channel: str) -> None:
        if self._retention.keeps(channel):
            await self._reset(channel, wipe=False)

    async def wipe(self, channel: str) -> None:
        if self._retention.keeps(channel):
            await self._reset(channel, wipe=True)

    async def _reset(self, channel: str, *, wipe: bool) -> None:
        reset = _Reset(channel, wipe)
        self._waiting.append(reset)
        self._wake.set()
        await reset.finished.wait()
        if reset.error is not None:
            raise reset.error

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                # Where a reset stands, a transaction ends: within one, epochs do not change.
                end = next((n for n, each in enumerate(self._waiting) if isinstance(each, _Reset)), None)
                if end == 0:
                    reset = self._waiting.pop(0)
                    assert isinstance(reset, _Reset)
                    await self._apply(reset)
                else:
                    publishes = [each for each in self._waiting[:end] if isinstance(each, _Publish)]
                    del self._waiting[: len(publishes)]
                    await self._write(publishes)
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self._file.close()

    # Writing.

    async def _write(self, publishes: list[_Publish]) -> None:
        plan = self._plan()
        places: list[tuple[int | None, str]] = []
        for event, key, remember_ms, _ in publishes:
            position, cursor = self._place(plan, event)
            places.append((position, cursor))
            if key is not None:
                until = plan.now + remember_ms / 1000
                plan.keys.append(KeptKey(key, cursor, until, remember_ms))
        error = await self._commit(plan) if plan.rows or plan.keys else None
        for publish, (position, cursor) in zip(publishes, places, strict=True):
            if error is None and position is not None:
                publish.event.position, publish.event.cursor = position, cursor
                self._advance(plan, publish.event.channel, position)
            self._finish(publish, error or Published(cursor or None, duplicate=False))
        if error is None:
            self._install(plan)

    def _plan(self) -> Plan:
        return Plan(self._floor, self._calendar(), forget=list(self._forget))

    def _place(self, plan: Plan, event: Event) -> tuple[int | None, str]:
        """Append an event to the log of its channel in a plan; position and cursor, if it has any."""
        head = self._planned(plan, event.channel)
        if head is None:
            return None, ""
        head.end += 1
        head.bytes += row_bytes(len(event.tail))
        plan.rows.append((head.id, head.end, event.tail, event.exclude))
        return head.end, cursor_of(event.channel, head.epoch, head.end)

    def _planned(self, plan: Plan, channel: str) -> KeptHead | None:
        """The head of a channel in a plan, None if it keeps no log."""
        if channel not in plan.heads:
            log = self._logs.get(channel)
            if log is None:
                if not self._retention.keeps(channel):
                    return None
                floor = self._floor
                log = KeptHead(floor.epoch, floor.origin, floor.first, floor.end, id=self._next_id)
                self._next_id += 1
            plan.heads[channel] = (replace(log), log.first)
        return plan.heads[channel][0]

    async def _commit(self, plan: Plan) -> ExchangeError | None:
        try:
            await trio.to_thread.run_sync(self._file.commit, plan, self._retention)
        except WriteFailed as failed:
            _logger.error("a commit failed: %s", failed)
            return ExchangeError(ErrorCode.UNAVAILABLE, "the log cannot be written", retry_ms=_RETRY_MS)
        del self._forget[: len(plan.forget)]
        return None

    def _advance(self, plan: Plan, channel: str, position: int) -> None:
        """The log ends with an event from the moment at which it is delivered."""
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = replace(plan.heads[channel][0], bytes=0)
            log.first = plan.heads[channel][1]
        log.end = position

    def _finish(self, publish: _Publish, outcome: Published | ExchangeError) -> None:
        duplicates: list[Done] = []
        if publish.key is not None:
            duplicates = self._running.pop(publish.key)
            if isinstance(outcome, Published):
                self._remembered.add(publish.key, outcome.cursor or "", publish.remember_ms)
        if isinstance(outcome, Published):
            self._deliver(publish.event)
        if publish.done is not None:
            publish.done(outcome)
        for done in duplicates:
            done(outcome._replace(duplicate=True) if isinstance(outcome, Published) else outcome)

    def _install(self, plan: Plan) -> None:
        """After a commit: what the file says is what readers see."""
        for channel, (head, _) in plan.heads.items():
            old = self._logs.get(channel)
            self._bytes += head.bytes - (0 if old is None else old.bytes)
            self._logs[channel] = head
            self._logs.move_to_end(channel)
        self._evict()

    def _evict(self) -> None:
        while len(self._logs) > self._retention.channels or self._bytes > self._retention.total_bytes:
            self._drop(self._logs.popitem(last=False)[1])

    def _drop(self, log: KeptHead) -> None:
        self._bytes -= log.bytes
        self._floor = raised(self._floor, log)
        self._forget.append(log.id)

    async def _apply(self, reset: _Reset) -> None:
        if reset.wipe or reset.channel in self._logs:
            plan = self._plan()
            head = self._planned(plan, reset.channel)
            assert head is not None  # or it would not wait here
            head.first, head.bytes = head.end, 0
            if reset.wipe:
                head.epoch, head.origin = new_epoch(), head.end
            reset.error = await self._commit(plan)
            if reset.error is None:
                self._install(plan)
        reset.finished.set()

    # Reading.

    def log(self, channel: str) -> Log | None:
        return ChannelLog(self, channel) if self._retention.keeps(channel) else None

    def head(self, channel: str) -> Head:
        return self._logs.get(channel, self._floor)

    def row(self, channel: str, position: int) -> Row:
        log = self._logs[channel]
        row = self._ahead.get((log.id, position))
        if row is None:
            self._read_ahead(log, position)
            row = self._ahead.get((log.id, position))
        if row is None:
            raise CursorError(CursorReason.EXPIRED)
        return row

    def _read_ahead(self, log: KeptHead, position: int) -> None:
        size = 0
        try:
            for number, row in self._file.rows(log.id, position, min(log.end, position + _AHEAD_EVENTS - 1)):
                size += row_bytes(len(row.tail))
                if number > position and size > _AHEAD_BYTES:
                    break
                self._remember(log.id, number, row)
        except sqlite3.Error as error:
            _logger.error("the log cannot be read: %s", error)

    def _remember(self, id: int, position: int, row: Row) -> None:
        if (id, position) not in self._ahead:
            self._ahead[id, position] = row
            self._ahead_bytes += row_bytes(len(row.tail))
        while self._ahead_bytes > _CACHE_BYTES and len(self._ahead) > 1:
            _, oldest = self._ahead.popitem(last=False)
            self._ahead_bytes -= row_bytes(len(oldest.tail))

    def rows(self, channel: str, lowest: int, highest: int, backward: bool) -> Iterator[tuple[int, bytes]]:
        if lowest > highest:
            return
        try:
            for position, row in self._file.rows(self._logs[channel].id, lowest, highest, backward):
                yield position, row.tail
        except sqlite3.Error as error:
            _logger.error("the log cannot be read: %s", error)
            raise CursorError(CursorReason.EXPIRED) from None
