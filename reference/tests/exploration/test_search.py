"""The search itself, on a model that anybody can do in their head: two counters that may be raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exploration.search import Component, Violation, search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest
    from exploration.search import Label, State


class Counter:
    """Counts to three, and must not be told to go on then."""

    applied = 0

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def copy(self) -> Counter:
        return Counter(self.count)

    def key(self) -> int:
        return self.count

    def apply(self, action: Label) -> int:
        Counter.applied += 1
        self.count += 1
        if self.count > 3:
            raise ZeroDivisionError
        return self.count


class Pair:
    """Two counters."""

    def __init__(self, most: int = 3, forbidden: State = ()) -> None:
        self.component: Component[Counter] = Component()
        self.most = most
        self.forbidden = forbidden

    def start(self) -> State:
        zero = self.component.number(Counter())
        return (zero, zero)

    def steps(self, state: State) -> Iterator[tuple[Label, Callable[[], State]]]:
        left, right = state
        if left < self.most:
            yield ("left",), lambda: (self.component.step(left, ("up",))[0], right)
        if right < self.most:
            yield ("right",), lambda: (left, self.component.step(right, ("up",))[0])

    def check(self, state: State) -> None:
        if state == self.forbidden:
            raise Violation("never", "this one")


def test_every_state_is_visited_once() -> None:
    """Sixteen states, and each of the three steps of a counter was worked out once."""
    Counter.applied = 0
    outcome = search(Pair())
    assert (outcome.complete, outcome.states, outcome.transitions, outcome.depth) == (True, 16, 24, 6)
    assert outcome.found is None
    assert Counter.applied == 3


def test_the_way_to_a_violation_is_the_shortest() -> None:
    """And is told step by step."""
    outcome = search(Pair(forbidden=(1, 2)))
    assert outcome.found is not None
    assert sorted(outcome.found.steps) == [("left",), ("right",), ("right",)]
    assert outcome.found.violation.name == "never"
    assert not outcome.complete


def test_a_part_that_breaks_down_is_a_violation() -> None:
    """Whatever it raises; the last step is the one that did it."""
    outcome = search(Pair(most=4))
    assert outcome.found is not None
    assert outcome.found.violation.name == "nothing breaks down"
    assert len(outcome.found.steps) == 4


def test_a_search_can_be_given_up_and_says_so() -> None:
    """It then proves nothing."""
    outcome = search(Pair(), limit=5)
    assert not outcome.complete
    assert outcome.found is None


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those who wait."""
    monkeypatch.setattr("exploration.search.PROGRESS_STATES", 8)
    told: list[str] = []
    search(Pair(), progress=told.append)
    assert [text.split(",")[0] for text in told] == ["8 states", "16 states"]
