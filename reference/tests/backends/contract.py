"""What every broker must do; the test module of an engine says how one is made."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from holdfast_reference.backends.base import CursorError, Dedupe, Published
from holdfast_reference.backends.channel_log import Retention
from holdfast_reference.protocol import Event, ExchangeError, Payload
from holdfast_reference.protocol.names import Pattern

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from holdfast_reference.backends.base import Broker, Log

Outcome = Published | ExchangeError
PATIENCE = 10  # seconds; nothing here takes a fraction of it


class Listener:
    """A subscriber that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def deliver(self, event: Event) -> None:
        self.events.append(event)

    @property
    def got(self) -> list[tuple[str, bytes]]:
        return [(event.channel, event.tail) for event in self.events]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def event(channel: str, value: int, exclude: str = "") -> Event:
    return Event(channel, Payload(b"%d" % value), exclude)


async def outcomes(broker: Broker, *publishes: tuple[Event, Dedupe | None]) -> list[Outcome]:
    """Publish all at once, and wait until every one has its outcome."""
    known: list[Outcome] = []
    all_known = trio.Event()

    def done(outcome: Outcome) -> None:
        known.append(outcome)
        if len(known) == len(publishes):
            all_known.set()

    for published, dedupe in publishes:
        broker.publish(published, dedupe, done)
    with trio.fail_after(PATIENCE):
        await all_known.wait()
    return known


async def publish(broker: Broker, channel: str, *values: int) -> list[str]:
    """Publish numbers; return their cursors, "" for those that have none."""
    done = await outcomes(broker, *((event(channel, value), None) for value in values))
    assert all(isinstance(outcome, Published) and not outcome.duplicate for outcome in done)
    return [outcome.cursor or "" for outcome in done if isinstance(outcome, Published)]


async def once(broker: Broker, channel: str, value: int, key: str, principal: str = "ann") -> Outcome:
    """Publish a number under a key that is remembered for a second."""
    return (await outcomes(broker, (event(channel, value), Dedupe(principal, key, 1000))))[0]


def tails(*values: int) -> list[bytes]:
    return [b',"data":%d}' % value for value in values]


def log_of(broker: Broker, channel: str) -> Log:
    log = broker.log(channel)
    assert log is not None
    return log


def replayed(log: Log, position: int) -> list[bytes]:
    """The tails of all events that follow a position."""
    found = []
    while (following := log.after(position)) is not None:
        assert following.position == position + 1
        found.append(following.tail)
        position += 1
    return found


def reason(log: Log, cursor: str) -> str:
    with pytest.raises(CursorError) as refused:
        log.locate(cursor)
    return refused.value.reason


def listed(
    log: Log, *, before: int | None = None, after: int | None = None, limit: int = 100, max_bytes: int = 4096
) -> tuple[list[object], bool, bool]:
    """A page: the values (the string "large" for what is too large), `more` and `trimmed`."""
    page = log.page(before=before, after=after, limit=limit, max_bytes=max_bytes)
    assert len(b",".join(page.items)) <= max_bytes
    items = [json.loads(item) for item in page.items]
    assert all(log.locate(item["cursor"]) for item in items)
    values = ["large" if item.get("too_large") else item["data"] for item in items]
    return values, page.more, page.trimmed


def last_row(broker: Broker, channel: str) -> tuple[bytes, str]:
    """Tail and `exclude` of the newest event, as the log gives them back."""
    log = log_of(broker, channel)
    newest = log.after(log.end - 1)
    assert newest is not None
    return newest.tail, newest.exclude


class BrokerContract(ABC):
    """Subclass it, and say how a broker is made."""

    @abstractmethod
    def make(self, retention: Retention, clock: Callable[[], float]) -> Broker:
        """A new broker of the engine that the subclass is about."""

    @asynccontextmanager
    async def running(
        self, retention: Retention | None = None, clock: Callable[[], float] | None = None
    ) -> AsyncIterator[Broker]:
        broker = self.make(retention or Retention(), clock or Clock())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.run)
            yield broker
            nursery.cancel_scope.cancel()
        broker.close()

    # Who gets what.

    async def test_a_channel_reaches_its_subscribers_alone(self) -> None:
        async with self.running() as broker:
            here, there = Listener(), Listener()
            broker.subscribe("a", False, here)
            broker.subscribe("b", False, there)
            await publish(broker, "a", 1, 2)
            await publish(broker, "c", 3)
            assert here.got == [("a", tail) for tail in tails(1, 2)]
            assert there.got == []

    async def test_all_subscribers_and_the_log_see_one_order(self) -> None:
        async with self.running() as broker:
            listeners = [Listener() for _ in range(3)]
            for listener in listeners:
                broker.subscribe("a", False, listener)
            await publish(broker, "a", *range(10))
            for listener in listeners:
                assert [tail for _, tail in listener.got] == tails(*range(10))
                assert [each.position for each in listener.events] == [*range(1, 11)]
            assert replayed(log_of(broker, "a"), 0) == tails(*range(10))

    async def test_patterns_see_what_they_match(self) -> None:
        async with self.running() as broker:
            one, rest = Listener(), Listener()
            broker.subscribe("a/*", True, one)
            broker.subscribe("a/**", True, rest)
            await publish(broker, "a/b", 1)
            await publish(broker, "a/b/c", 2)
            await publish(broker, "b/a", 3)
            assert [channel for channel, _ in one.got] == ["a/b"]
            assert [channel for channel, _ in rest.got] == ["a/b", "a/b/c"]

    async def test_a_star_in_a_channel_is_a_character(self) -> None:
        async with self.running() as broker:
            listener = Listener()
            broker.subscribe("a/*", False, listener)
            await publish(broker, "a/b", 1)
            await publish(broker, "a/*", 2)
            assert [channel for channel, _ in listener.got] == ["a/*"]

    async def test_who_unsubscribes_hears_no_more_and_the_others_do(self) -> None:
        async with self.running() as broker:
            leaving, staying = Listener(), Listener()
            for listener in (leaving, staying):
                broker.subscribe("a/b", False, listener)
                broker.subscribe("a/*", True, listener)
            await publish(broker, "a/b", 1)
            broker.unsubscribe("a/b", False, leaving)
            broker.unsubscribe("a/*", True, leaving)
            await publish(broker, "a/b", 2)
            assert len(leaving.got) == 2
            assert len(staying.got) == 4

    async def test_a_pattern_that_comes_later_sees_what_comes_later(self) -> None:
        """Whatever the broker remembers about a channel."""
        async with self.running() as broker:
            early, late = Listener(), Listener()
            broker.subscribe("a/*", True, early)
            await publish(broker, "a/b", 1)
            broker.subscribe("*/b", True, late)
            await publish(broker, "a/b", 2)
            broker.unsubscribe("a/*", True, early)
            await publish(broker, "a/b", 3)
            assert [tail for _, tail in early.got] == tails(1, 2)
            assert [tail for _, tail in late.got] == tails(2, 3)

    async def test_the_outcome_comes_after_the_event_was_delivered(self) -> None:
        async with self.running() as broker:
            listener, seen = Listener(), trio.Event()

            def done(outcome: Outcome) -> None:
                assert outcome == Published(listener.events[0].cursor, duplicate=False)
                seen.set()

            broker.subscribe("a", False, listener)
            broker.publish(event("a", 1), None, done)
            with trio.fail_after(PATIENCE):
                await seen.wait()

    # Places and cursors.

    async def test_an_event_carries_its_place_and_the_log_gives_it_back(self) -> None:
        async with self.running() as broker:
            listener, log = Listener(), log_of(broker, "a")
            broker.subscribe("a", False, listener)
            cursors = await publish(broker, "a", 5, 6)
            assert [each.cursor for each in listener.events] == cursors
            assert [log.locate(cursor) for cursor in cursors] == [1, 2]
            assert [log.cursor(position) for position in (1, 2)] == cursors
            assert (log.first, log.end) == (0, 2)
            following = log.after(1)
            assert following is not None
            assert (following.channel, following.cursor, following.tail) == ("a", cursors[1], tails(6)[0])
            assert following.cursor_tail == b',"cursor":"%b","data":6}' % cursors[1].encode()
            assert all(len(cursor) <= 40 and cursor.isascii() for cursor in cursors)

    async def test_who_must_not_get_an_event_is_kept_with_it(self) -> None:
        async with self.running() as broker:
            await outcomes(broker, (event("a", 1, "c-1"), None))
            assert last_row(broker, "a") == (tails(1)[0], "c-1")

    async def test_an_empty_log_has_a_place_that_can_be_continued(self) -> None:
        async with self.running() as broker:
            log = log_of(broker, "quiet")
            cursor = log.cursor(log.end)
            assert log.locate(cursor) == log.end
            assert log.after(log.end) is None
            await publish(broker, "quiet", 1)
            assert replayed(log_of(broker, "quiet"), log.locate(cursor)) == tails(1)

    async def test_a_cursor_of_another_channel_is_unknown(self) -> None:
        async with self.running() as broker:
            (cursor,) = await publish(broker, "a", 1)
            assert reason(log_of(broker, "b"), cursor) == "unknown"

    async def test_garbage_is_unknown(self) -> None:
        async with self.running() as broker:
            (cursor,) = await publish(broker, "a", 1)
            log = log_of(broker, "a")
            garbage = ["", "-", "\0", "é", "\ud800", "x" * 256, "1" * 10_000, cursor[:-1], cursor + "x"]
            garbage += [cursor.upper(), cursor + "\n", " " + cursor, cursor.replace("-", "-0")]
            garbage += [cursor.replace("-1", sign) for sign in ("--1", "-+1", "-١", "-1_0", "-" + "9" * 17)]
            garbage += [
                ("0" if cursor[at] != "0" else "1").join((cursor[:at], cursor[at + 1 :])) for at in (0, 14)
            ]
            for text in garbage:
                assert reason(log, text) == "unknown", text

    async def test_a_place_after_the_newest_event_is_ahead(self) -> None:
        async with self.running() as broker:
            await publish(broker, "a", 1)
            log = log_of(broker, "a")
            assert reason(log, log.cursor(2)) == "ahead"

    async def test_a_channel_may_keep_no_log(self) -> None:
        async with self.running(Retention(unlogged=(Pattern("off/**"),))) as broker:
            listener = Listener()
            broker.subscribe("off/1", False, listener)
            assert broker.log("off/1") is None
            assert await publish(broker, "off/1", 1) == [""]
            assert [(each.position, each.cursor) for each in listener.events] == [(None, "")]
            for change in (broker.trim, broker.wipe):
                await change("off/1")
            assert broker.log("off/1") is None
            assert broker.log("off") is not None

    # What is kept.

    async def test_the_oldest_events_give_way_to_new_ones(self) -> None:
        async with self.running(Retention(events=3)) as broker:
            cursors = await publish(broker, "a", *range(5))
            log = log_of(broker, "a")
            assert (log.first, log.end) == (2, 5)
            assert [reason(log, cursor) for cursor in (cursors[0], log.cursor(0))] == ["expired", "expired"]
            assert log.locate(cursors[1]) == 2
            assert replayed(log, 2) == tails(2, 3, 4)
            with pytest.raises(CursorError, match="expired"):
                log.after(1)

    async def test_bytes_are_bounded_too(self) -> None:
        async with self.running(Retention(bytes=900)) as broker:
            large = Event("a", Payload(b'"%b"' % (b"x" * 300)))
            await outcomes(broker, (large, None), (event("a", 1), None), (event("a", 2), None))
            assert log_of(broker, "a").first == 0
            await publish(broker, "a", 3)
            log = log_of(broker, "a")
            assert replayed(log, log.first) == tails(1, 2, 3)

    async def test_an_event_larger_than_the_log_leaves_it_empty(self) -> None:
        async with self.running(Retention(bytes=400)) as broker:
            (cursor,) = await publish(broker, "a", 1)
            await outcomes(broker, (Event("a", Payload(b'"%b"' % (b"x" * 300))), None))
            log = log_of(broker, "a")
            assert (log.first, log.end) == (2, 2)
            assert reason(log, cursor) == "expired"
            await publish(broker, "a", 2)
            assert replayed(log, 2) == tails(2)

    async def test_beyond_so_many_channels_the_idlest_is_forgotten(self) -> None:
        async with self.running(Retention(channels=2)) as broker:
            (first,) = await publish(broker, "a", 1)
            await publish(broker, "b", 1, 2, 3)
            await publish(broker, "a", 2)
            await publish(broker, "c", 1)
            assert replayed(log_of(broker, "a"), 0) == tails(1, 2)
            forgotten = log_of(broker, "b")
            assert forgotten.first == forgotten.end
            assert replayed(log_of(broker, "c"), log_of(broker, "c").first) == tails(1)
            # A log that was forgotten never takes a place twice.
            await publish(broker, "b", 4)
            assert reason(log_of(broker, "a"), first) == "epoch"
            assert listed(log_of(broker, "a")) == ([], False, False)
            (again,) = await publish(broker, "a", 3)
            assert log_of(broker, "a").locate(again) > 2

    async def test_beyond_so_many_bytes_the_idlest_is_forgotten(self) -> None:
        async with self.running(Retention(total_bytes=600)) as broker:
            for channel in "abcd":
                await publish(broker, channel, 1)
            kept = [
                channel for channel in "abcd" if log_of(broker, channel).end > log_of(broker, channel).first
            ]
            assert kept == ["b", "c", "d"]

    async def test_a_log_may_be_held_while_it_is_forgotten(self) -> None:
        async with self.running(Retention(channels=1)) as broker:
            held = log_of(broker, "a")
            await publish(broker, "a", 1)
            await publish(broker, "b", 1, 2)
            with pytest.raises(CursorError, match="expired"):
                held.after(0)
            (cursor,) = await publish(broker, "a", 2)
            assert replayed(held, held.first) == tails(2)
            assert held.locate(cursor) == held.end

    async def test_trimming_keeps_the_place(self) -> None:
        async with self.running() as broker:
            early, newest = await publish(broker, "a", 1, 2)
            await broker.trim("a")
            log = log_of(broker, "a")
            assert reason(log, early) == "expired"
            assert log.locate(newest) == 2
            assert log.after(2) is None
            await publish(broker, "a", 3)
            assert replayed(log, log.locate(newest)) == tails(3)
            await broker.trim("never published")

    async def test_trimming_and_wiping_stand_in_line_with_publishes(self) -> None:
        async with self.running() as broker:
            log, listener = log_of(broker, "a"), Listener()
            broker.subscribe("a", False, listener)
            broker.publish(event("a", 1))
            await broker.trim("a")
            assert (log.first, log.end) == (1, 1)
            broker.publish(event("a", 2))
            await broker.wipe("a")
            assert (log.first, log.end) == (2, 2)
            assert [tail for _, tail in listener.got] == tails(1, 2)
            assert {reason(log, each.cursor) for each in listener.events} == {"epoch"}

    async def test_wiping_starts_another_epoch(self) -> None:
        async with self.running() as broker:
            log = log_of(broker, "a")
            cursors = await publish(broker, "a", 1, 2)
            await broker.wipe("a")
            assert {reason(log, cursor) for cursor in cursors} == {"epoch"}
            with pytest.raises(CursorError, match="expired"):
                log.after(0)
            fresh = log.cursor(log.end)
            (cursor,) = await publish(broker, "a", 3)
            assert replayed(log, log.locate(fresh)) == tails(3)
            assert log.locate(cursor) == log.end
            assert {reason(log, cursor) for cursor in cursors} == {"epoch"}

    async def test_wiping_a_log_that_is_empty_starts_another_epoch(self) -> None:
        async with self.running() as broker:
            log = log_of(broker, "a")
            cursor = log.cursor(log.end)
            await broker.wipe("a")
            assert reason(log, cursor) == "epoch"
            assert log.locate(log.cursor(log.end)) == log.end

    # Pages.

    async def test_pages_go_forward_and_backward(self) -> None:
        async with self.running() as broker:
            await publish(broker, "a", *range(1, 8))
            log = log_of(broker, "a")
            assert listed(log) == ([1, 2, 3, 4, 5, 6, 7], False, False)
            assert listed(log, limit=3) == ([5, 6, 7], True, False)
            assert listed(log, before=4, limit=3) == ([2, 3, 4], True, False)
            assert listed(log, before=3, limit=3) == ([1, 2, 3], False, False)
            assert listed(log, before=0) == ([], False, False)
            assert listed(log, after=0, limit=3) == ([1, 2, 3], True, False)
            assert listed(log, after=4, limit=3) == ([5, 6, 7], False, False)
            assert listed(log, after=7) == ([], False, False)

    async def test_paging_back_from_the_start_of_a_page_advances_without_overlap(self) -> None:
        async with self.running(Retention(events=5)) as broker:
            await publish(broker, "a", *range(1, 8))
            log = log_of(broker, "a")
            for limit in (1, 2):
                place, seen = log.end, list[int]()
                while True:
                    page = log.page(before=place, after=None, limit=limit, max_bytes=4096)
                    if page.start is None:
                        break
                    seen[:0] = [json.loads(item)["data"] for item in page.items]
                    place = log.locate(page.start)
                assert seen == [3, 4, 5, 6, 7]
                assert page.trimmed
            assert log.page(before=None, after=4, limit=2, max_bytes=4096).start == log.cursor(4)

    async def test_an_empty_log_has_an_empty_page(self) -> None:
        async with self.running() as broker:
            assert listed(log_of(broker, "quiet")) == ([], False, False)

    async def test_a_page_tells_where_older_events_had_been(self) -> None:
        async with self.running(Retention(events=4)) as broker:
            await publish(broker, "a", *range(1, 8))
            log = log_of(broker, "a")
            assert listed(log) == ([4, 5, 6, 7], False, True)
            assert listed(log, limit=4) == ([4, 5, 6, 7], False, True)
            assert listed(log, limit=3) == ([5, 6, 7], True, False)
            assert listed(log, before=3) == ([], False, True)
            assert listed(log, after=3) == ([4, 5, 6, 7], False, False)
            for bounds in ({"before": 2}, {"after": 2}):
                with pytest.raises(CursorError, match="expired"):
                    listed(log, **bounds)
            await broker.trim("a")
            assert listed(log) == ([], False, True)
            await broker.wipe("a")
            assert listed(log) == ([], False, False)

    async def test_a_page_is_cut_by_size(self) -> None:
        async with self.running() as broker:
            cursors = await publish(broker, "a", *range(1, 8))
            log = log_of(broker, "a")
            item = len(b'{"cursor":"%b","data":1}' % cursors[0].encode())
            three = 3 * item + 2
            assert listed(log, max_bytes=three) == ([5, 6, 7], True, False)
            assert listed(log, max_bytes=three - 1) == ([6, 7], True, False)
            assert listed(log, after=0, max_bytes=three) == ([1, 2, 3], True, False)
            assert listed(log, after=4, max_bytes=three) == ([5, 6, 7], False, False)

    async def test_what_never_fits_a_page_is_named(self) -> None:
        async with self.running() as broker:
            large = Event("a", Payload(b'"%b"' % (b"x" * 300)))
            await outcomes(broker, (event("a", 1), None), (large, None), (event("a", 2), None))
            log = log_of(broker, "a")
            assert listed(log, max_bytes=250) == ([1, "large", 2], False, False)
            assert listed(log, after=1, limit=1, max_bytes=250) == (["large"], True, False)

    async def test_an_encoding_is_listed_with_its_data(self) -> None:
        async with self.running() as broker:
            await outcomes(broker, (Event("a", Payload(b'"AA=="', base64=True)), None))
            (item,) = log_of(broker, "a").page(before=None, after=None, limit=1, max_bytes=4096).items
            cursor = log_of(broker, "a").cursor(1)
            assert json.loads(item) == {"cursor": cursor, "enc": "base64", "data": "AA=="}

    # Publishing once.

    async def test_a_duplicate_has_the_place_of_the_first_and_is_not_delivered(self) -> None:
        clock, listener = Clock(), Listener()
        async with self.running(clock=clock) as broker:
            broker.subscribe("a", False, listener)
            first = await once(broker, "a", 1, "k")
            assert isinstance(first, Published)
            assert not first.duplicate
            clock.now += 1
            assert await once(broker, "a", 2, "k") == Published(first.cursor, duplicate=True)
            assert [tail for _, tail in listener.got] == tails(1)
            assert log_of(broker, "a").end == 1

    async def test_a_key_is_forgotten_after_its_time(self) -> None:
        clock, listener = Clock(), Listener()
        async with self.running(clock=clock) as broker:
            broker.subscribe("a", False, listener)
            first = await once(broker, "a", 1, "k")
            clock.now += 1.001
            second = await once(broker, "a", 2, "k")
            assert isinstance(first, Published)
            assert isinstance(second, Published)
            assert not second.duplicate
            assert second.cursor != first.cursor
            assert [tail for _, tail in listener.got] == tails(1, 2)

    async def test_keys_of_two_principals_and_two_channels_are_apart(self) -> None:
        async with self.running() as broker:
            for channel, principal in (("a", "ann"), ("a", "bob"), ("b", "ann")):
                outcome = await once(broker, channel, 1, "k", principal)
                assert isinstance(outcome, Published)
                assert not outcome.duplicate

    async def test_a_duplicate_of_a_publish_on_its_way_has_its_outcome(self) -> None:
        async with self.running() as broker:
            listener, key = Listener(), Dedupe("ann", "k", 1000)
            broker.subscribe("a", False, listener)
            done = await outcomes(broker, *((event("a", value), key) for value in (1, 2, 3)))
            assert [isinstance(each, Published) and each.duplicate for each in done] == [False, True, True]
            assert len({each.cursor for each in done if isinstance(each, Published)}) == 1
            assert [tail for _, tail in listener.got] == tails(1)

    async def test_where_there_is_no_log_a_duplicate_is_one_too(self) -> None:
        async with self.running(Retention(unlogged=(Pattern("off/**"),))) as broker:
            assert await once(broker, "off/1", 1, "k") == Published(None, duplicate=False)
            assert await once(broker, "off/1", 2, "k") == Published(None, duplicate=True)

    async def test_too_many_keys_are_refused_and_none_is_forgotten_early(self) -> None:
        clock = Clock()
        async with self.running(Retention(keys=2), clock) as broker:
            await once(broker, "a", 1, "k1")
            clock.now += 0.5
            await once(broker, "a", 2, "k2")
            refused = await once(broker, "a", 3, "k3")
            assert isinstance(refused, ExchangeError)
            assert (refused.code, refused.retry_ms) == ("unavailable", 500)
            known = await once(broker, "a", 1, "k1")
            assert isinstance(known, Published)
            assert known.duplicate
            await publish(broker, "a", 4)
            clock.now += 0.501
            accepted = await once(broker, "a", 3, "k3")
            assert isinstance(accepted, Published)
            assert not accepted.duplicate
            assert replayed(log_of(broker, "a"), 0) == tails(1, 2, 4, 3)
