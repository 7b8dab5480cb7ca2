"""Whatever is done to them in turn, the broker on SQLite and the one in memory show the same.

And so does the next broker on the same file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from holdfast_reference.backends.base import CursorError, Dedupe, Published
from holdfast_reference.backends.channel_log import Retention
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.backends.sqlite import SqliteBroker
from holdfast_reference.protocol import Event, ExchangeError, Payload
from holdfast_reference.protocol.names import Pattern
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.contract import Clock, Listener, log_of, outcomes

if TYPE_CHECKING:
    from holdfast_reference.backends.base import Broker

CHANNELS = ["a", "b", "c", "off"]
RETENTION = Retention(events=3, bytes=1000, channels=2, total_bytes=1200, keys=3, unlogged=(Pattern("off"),))

channels = st.sampled_from(CHANNELS)
keys = st.one_of(st.none(), st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(["k", "l"])))
steps = st.one_of(
    st.tuples(st.just("publish"), channels, st.sampled_from([1, 200, 700]), keys),
    st.tuples(st.just("trim"), channels),
    st.tuples(st.just("wipe"), channels),
    st.tuples(st.just("wait"), st.sampled_from([0.4, 1.1])),
)


class Side:
    """A broker, and everything that can be seen of it."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self.broker = broker
        self.clock = clock
        self.cursors: list[tuple[str, str]] = []
        self.listener = Listener()
        for channel in CHANNELS:
            broker.subscribe(channel, False, self.listener)

    async def apply(self, step: tuple[object, ...]) -> object:
        match step:
            case ("publish", str(channel), int(size), key):
                dedupe = Dedupe(str(key[0]), str(key[1]), 1000) if isinstance(key, tuple) else None
                (outcome,) = await outcomes(
                    self.broker, (Event(channel, Payload(b'"%b"' % (b"x" * size))), dedupe)
                )
                if isinstance(outcome, ExchangeError):
                    return outcome.code, outcome.retry_ms
                return self.named(channel, outcome)
            case ("trim", str(channel)):
                await self.broker.trim(channel)
            case ("wipe", str(channel)):
                await self.broker.wipe(channel)
            case ("wait", float(seconds)):
                self.clock.now += seconds
        return None

    def named(self, channel: str, outcome: Published) -> object:
        """An outcome with the number of its cursor, for the text of a cursor is random."""
        if outcome.cursor is None:
            return None, outcome.duplicate
        place = (channel, outcome.cursor)
        if place not in self.cursors:
            self.cursors.append(place)
        return self.cursors.index(place), outcome.duplicate

    def seen(self) -> list[object]:
        """Ends, replays and pages of all logs, what every cursor is worth, and what was delivered."""
        seen: list[object] = [(each.channel, each.position, len(each.tail)) for each in self.listener.events]
        for channel in CHANNELS[:-1]:
            log = log_of(self.broker, channel)
            seen.append((log.first, log.end))
            seen += [len(log.after(position).tail) for position in range(log.first, log.end)]  # type: ignore[union-attr]  # it is held
            for bounds in ((None, None), (log.end, None), (None, log.first)):
                page = log.page(before=bounds[0], after=bounds[1], limit=2, max_bytes=400)
                start = None if page.start is None else log.locate(page.start)
                seen.append(([len(item) for item in page.items], page.more, page.trimmed, start))
        for channel, cursor in self.cursors:
            try:
                seen.append(log_of(self.broker, channel).locate(cursor))
            except CursorError as error:
                seen.append(error.reason)
        return seen


@settings(max_examples=60)
@given(st.lists(steps, min_size=1, max_size=20))
def test_brokers_agree(done: list[tuple[object, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        # Many commits, and nothing that a loss of power could take.
        patched.setattr("holdfast_reference.backends.sqlite_file._SYNCHRONOUS", "OFF")
        trio.run(compare, done)


async def compare(done: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        memory_clock, file_clock = Clock(), Clock()
        file = SqliteBroker(Path(folder) / "log.db", RETENTION, clock=file_clock, calendar=file_clock)
        sides = [Side(MemoryBroker(RETENTION, clock=memory_clock), memory_clock), Side(file, file_clock)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.run)
            for step in done:
                results = [await side.apply(step) for side in sides]
                assert results[0] == results[1], step
                views = [side.seen() for side in sides]
                assert views[0] == views[1], step
            nursery.cancel_scope.cancel()
        file.close()
        reopened = SqliteBroker(Path(folder) / "log.db", RETENTION, clock=file_clock, calendar=file_clock)
        sides[1].broker = reopened
        assert sides[0].seen() == sides[1].seen()
        reopened.close()
