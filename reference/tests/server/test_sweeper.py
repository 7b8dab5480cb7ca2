"""One sweeper for all deadlines, and one flusher for all writes."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import trio
import trio.testing
from holdfast_reference.server.outbox import Flusher
from holdfast_reference.server.sweeper import Sweeper

if TYPE_CHECKING:
    from trio.testing import MockClock


class Fake:
    """Something with a deadline, and with something to write."""

    def __init__(self, due: float) -> None:
        self.look_at = float("inf")
        self.due = due
        self.ticks: list[float] = []
        self.flushes = 0
        self.replays = False

    def deadline(self) -> float:
        return self.due

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        self.due = float("inf")

    def flush(self, now: float) -> None:
        self.flushes += 1


async def test_each_is_looked_at_when_its_deadline_comes(autojump_clock: MockClock) -> None:
    sweeper = Sweeper()
    start = trio.current_time()
    early, late = Fake(start + 1), Fake(start + 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        sweeper.watch(late)
        await trio.sleep(0.5)
        sweeper.watch(early)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert early.ticks == [start + 1]
    assert late.ticks == [start + 5]


async def test_a_deadline_that_moved_away_costs_one_look(autojump_clock: MockClock) -> None:
    """The core's `tick` finds nothing to do, and the sweeper comes again."""
    sweeper = Sweeper()
    start = trio.current_time()

    class Moving(Fake):
        def tick(self, now: float) -> None:
            self.ticks.append(now)
            self.due = start + 3 if now < start + 3 else float("inf")

    moving = Moving(start + 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        sweeper.watch(moving)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert moving.ticks == [start + 1, start + 3]


async def test_one_that_moved_closer_is_looked_at_once(autojump_clock: MockClock) -> None:
    sweeper = Sweeper()
    start = trio.current_time()
    moving = Fake(start + 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        sweeper.watch(moving)
        moving.due = start + 1
        sweeper.watch(moving)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert moving.ticks == [start + 1]


async def test_the_dead_are_not_kept(autojump_clock: MockClock) -> None:
    """A connection that came and went is gone, whatever its deadline was."""
    sweeper = Sweeper()
    gone = Fake(trio.current_time() + 5)
    ticks = gone.ticks
    sweeper.watch(gone)
    del gone
    gc.collect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert ticks == []


async def test_the_dead_do_not_pile_up(autojump_clock: MockClock) -> None:
    """However many come and go until the first of their deadlines, and the living are not forgotten."""
    sweeper = Sweeper()
    start = trio.current_time()
    living = [Fake(start + n) for n in range(10)]
    for each in living:
        sweeper.watch(each)
    for _ in range(10_000):
        sweeper.watch(Fake(start + 3600))
    assert len(sweeper._heap) <= 1024
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [each.ticks for each in living] == [[start + n] for n in range(10)]


async def test_the_dirty_are_flushed_once_per_turn() -> None:
    flusher = Flusher()
    first, second = Fake(0), Fake(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        await trio.testing.wait_all_tasks_blocked()
        flusher.add(first)
        flusher.add(second)
        assert first.flushes == 0
        await trio.testing.wait_all_tasks_blocked()
        assert (first.flushes, second.flushes) == (1, 1)
        flusher.add(second)
        await trio.testing.wait_all_tasks_blocked()
        assert (first.flushes, second.flushes) == (1, 2)
        nursery.cancel_scope.cancel()


async def test_of_those_that_replay_one_is_flushed_per_turn() -> None:
    """Whoever has something live to write waits for one of them at most."""
    flusher = Flusher()
    order: list[str] = []

    class Named(Fake):
        def __init__(self, name: str, times: int) -> None:
            super().__init__(0)
            self.name, self.times = name, times

        def flush(self, now: float) -> None:
            order.append(self.name)
            self.times -= 1
            if self.times:
                flusher.add_replay(self)

    async with trio.open_nursery() as nursery:
        for replaying in (Named("a", 3), Named("b", 2)):
            flusher.add_replay(replaying)
            flusher.add_replay(replaying)
        flusher.add(Named("live", 1))
        nursery.start_soon(flusher.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert order == ["live", "a", "b", "a", "b", "a"]


async def test_one_that_is_dirty_again_while_flushing_is_not_forgotten() -> None:
    flusher = Flusher()

    class Restless(Fake):
        def flush(self, now: float) -> None:
            super().flush(now)
            if self.flushes < 3:
                flusher.add(self)

    restless = Restless(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        flusher.add(restless)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert restless.flushes == 3
