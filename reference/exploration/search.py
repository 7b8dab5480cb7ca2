"""Breadth-first search over the states of a model: all of them, each once, the shortest way to each.

A model is made of *components*, whose states are kept once each and called by a number: a state of the whole
is a tuple of small integers, and what an action makes of a component is worked out once, however many states
of the whole meet there. That is what makes a search over objects of a real program affordable.

This file does not know what it searches.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    Label = tuple[object, ...]
    State = tuple[int, ...]

PROGRESS_STATES = 20_000


class Violation(Exception):
    """Something that must never be.

    Args:
        name: what was to hold, with the requirement that says so.
        detail: what was found.
    """

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


class Part(Protocol):
    """The state of a component."""

    def copy(self) -> Part:
        """An independent twin."""
        ...

    def key(self) -> Hashable:
        """A value that is equal for equal states, and for no others."""
        ...

    def apply(self, action: Label) -> Hashable:
        """Change; return what the rest of the model has to know of it.

        Raises:
            Violation: this must not happen.
        """
        ...


P = TypeVar("P", bound=Part)


class Component(Generic[P]):
    """The states of a component that were met, by number, and what follows from them."""

    def __init__(self) -> None:
        self.states: list[P] = []
        self._numbers: dict[Hashable, int] = {}
        self._steps: dict[tuple[int, Label], tuple[int, Hashable]] = {}

    def number(self, state: P) -> int:
        """The number of a state, a new one if it was not met before."""
        number = self._numbers.setdefault(state.key(), len(self.states))
        if number == len(self.states):
            self.states.append(state)
        return number

    def step(self, number: int, action: Label) -> tuple[int, Hashable]:
        """What an action makes of a state, and what it returns."""
        step = self._steps.get((number, action))
        if step is None:
            twin = self.states[number].copy()
            try:
                result = twin.apply(action)
            except Violation:
                raise
            except Exception as error:  # whatever it is: a program that gives up keeps no promise
                raise Violation("nothing breaks down", repr(error)) from error
            step = self._steps[number, action] = (self.number(twin), result)  # type: ignore[arg-type]  # a copy is of its own type
        return step


class Model(Protocol):
    """What can be searched."""

    def start(self) -> State:
        """Where it begins."""
        ...

    def steps(self, state: State) -> Iterable[tuple[Label, Callable[[], State]]]:
        """What can happen next: a label, and what gives the state that follows or raises `Violation`."""
        ...

    def check(self, state: State) -> None:
        """Look at a state as a whole.

        Raises:
            Violation: it must not be.
        """
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A violation, and the shortest way to it: the labels of its steps, the last of which it is."""

    violation: Violation
    steps: list[Label]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search came to.

    Attributes:
        complete: whether every state within the bounds of the model was visited.
        depth: of the deepest state that was visited, in steps.
        found: None when nothing was violated.
    """

    complete: bool
    states: int
    transitions: int
    depth: int
    seconds: float
    found: Found | None


def search(
    model: Model, *, limit: int | None = None, progress: Callable[[str], None] | None = None
) -> Outcome:
    """Visit every state until one violates something.

    Args:
        limit: states after which to give up; None for never.
        progress: is told now and then how far it got.
    """
    began = time.perf_counter()
    first = model.start()
    numbers = {first: 0}
    parents: list[tuple[int, Label]] = [(0, ())]
    depths = [0]
    queue = deque([first])
    transitions = current = 0

    def outcome(found: Found | None, complete: bool) -> Outcome:
        seconds = time.perf_counter() - began
        return Outcome(complete, len(numbers), transitions, depths[-1], seconds, found)

    def way(number: int) -> list[Label]:
        labels = []
        while number:
            number, label = parents[number]
            labels.append(label)
        return labels[::-1]

    while queue:
        state = queue.popleft()
        try:
            model.check(state)
        except Violation as violation:
            return outcome(Found(violation, way(current)), complete=False)
        for label, follow in model.steps(state):
            transitions += 1
            try:
                after = follow()
            except Violation as violation:
                return outcome(Found(violation, [*way(current), label]), complete=False)
            if after in numbers:
                continue
            numbers[after] = len(parents)
            parents.append((current, label))
            depths.append(depths[current] + 1)
            queue.append(after)
            if progress is not None and len(parents) % PROGRESS_STATES == 0:
                rate = transitions / (time.perf_counter() - began)
                progress(f"{len(parents)} states, depth {depths[-1]}, {rate:.0f} transitions/s")
        current += 1
        if limit is not None and len(parents) > limit:
            return outcome(None, complete=False)
    return outcome(None, complete=True)
