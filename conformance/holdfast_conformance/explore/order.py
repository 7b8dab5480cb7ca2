"""The order of the events of a channel, as far as the deliveries and the moments of the publishes prove it.

One event surely precedes another when somebody got it first, when it had surely taken effect before the other
was called, or when one session called it first. An order that keeps all of this exists unless these
statements contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

from .facts import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .facts import Publish

__all__ = ["Order", "consistent", "inversion", "order", "precedes"]


_seen = attrgetter("seen")
_call = attrgetter("call")


@dataclass(slots=True)
class Order:
    """The delivered events of one channel in an order that explains all runs.

    Attributes:
        events: in order; `at` of each event is its place here.
        loose: `loose[k]` counts the neighbours among the first k + 1 events whose order nothing proves.
    """

    events: list[Publish]
    loose: list[int]

    def proven(self, first: int, last: int) -> bool:
        """Return whether everything between two positions surely stands between them, in this order."""
        return self.loose[last] == self.loose[first]


def order(runs: Sequence[Sequence[Publish]]) -> Order | None:
    """Return an order of everything in `runs`, each of which is one subscriber's; None when there is none.

    It is noted in the events, too.
    """
    events = sorted(set().union(*runs), key=_seen)
    if not (_as_seen(runs) and _in_time(events)):
        by_proofs = _sorted(events, runs, in_time=True)
        if by_proofs is None:
            return None
        events = by_proofs
    for at, event in enumerate(events):
        event.at = at
    linked = bytearray(len(events))  # whether somebody got an event right behind the one that precedes it
    for run in runs:
        next = 0
        for event in run:
            at = event.at
            if at == next:
                linked[at] = 1
            next = at + 1
    loose = [0] * len(events)
    for at in range(1, len(events)):
        loose[at] = loose[at - 1] + (not linked[at] and not precedes(events[at - 1], events[at]))
    return Order(events, loose)


def precedes(before: Publish, after: Publish) -> bool:
    """Return whether the moments prove that one event precedes the other."""
    if before.done < after.call:
        return True
    return before.life is after.life and before.call < after.call and not (before.dedupe or after.dedupe)


def consistent(runs: Sequence[Sequence[Publish]]) -> bool:
    """Return whether one order explains all runs, whatever the moments say."""
    return _as_seen(runs) or _sorted(sorted(set().union(*runs), key=_seen), runs, in_time=False) is not None


def inversion(runs: Sequence[Sequence[Publish]]) -> tuple[Publish, Publish] | None:
    """Return two events that two runs have in different orders, None when no two runs differ in any two."""
    longest = max(runs, key=len)
    position = {event: at for at, event in enumerate(longest)}
    for run in runs:
        highest: Publish | None = None
        for event in run:
            at = position.get(event)
            if at is None:
                continue
            if highest is not None and at < position[highest]:
                return highest, event
            highest = event
    return None


def _as_seen(runs: Sequence[Sequence[Publish]]) -> bool:
    """Return whether the order in which events were first seen by anybody explains all runs."""
    for run in runs:
        last = -1
        for event in run:
            if event.seen < last:
                return False
            last = event.seen
    return True


def _in_time(events: Sequence[Publish]) -> bool:
    """Return whether no event stands behind one that was called after it had taken effect."""
    latest = -1
    calls: dict[object, int] = {}
    for event in events:
        if event.done < latest:
            return False
        latest = max(latest, event.call)
        if not event.dedupe:
            if calls.get(event.life, -1) > event.call:
                return False
            calls[event.life] = event.call
    return True


def _sorted(
    events: list[Publish], runs: Sequence[Sequence[Publish]], *, in_time: bool
) -> list[Publish] | None:
    """Sort topologically, with `in_time` also by the moments; None when the statements contradict."""
    number = {event: at for at, event in enumerate(events)}
    edges = [
        (number[before], number[after])
        for run in runs
        for before, after in pairwise(run)
        if before is not after
    ]
    if in_time:
        edges += _edges_of_time(events, number)
    nodes = 1 + max((max(edge) for edge in edges), default=len(events) - 1)
    follows: list[list[int]] = [[] for _ in range(max(nodes, len(events)))]
    waits = [0] * len(follows)
    for before, after in edges:
        follows[before].append(after)
        waits[after] += 1
    ready = [node for node, count in enumerate(waits) if not count]
    heapify(ready)
    done: list[Publish] = []
    reached = 0
    while ready:
        node = heappop(ready)
        reached += 1
        if node < len(events):
            done.append(events[node])
        for after in follows[node]:
            waits[after] -= 1
            if not waits[after]:
                heappush(ready, after)
    return done if reached == len(follows) else None


def _edges_of_time(events: Sequence[Publish], number: dict[Publish, int]) -> list[tuple[int, int]]:
    """Say by edges what the moments prove, linear in their number: through a chain of all moments."""
    edges: list[tuple[int, int]] = []
    moments: list[tuple[int, bool, int]] = []
    last: dict[object, int] = {}
    for event in sorted(events, key=_call):
        at = number[event]
        moments.append((event.call, False, at))
        if event.done < NEVER:
            moments.append((event.done, True, at))
        if not event.dedupe:
            if event.life in last:
                edges.append((last[event.life], at))
            last[event.life] = at
    moments.sort()
    for node, (_, is_done, at) in enumerate(moments, len(events)):
        if node > len(events):
            edges.append((node - 1, node))
        edges.append((at, node) if is_done else (node, at))
    return edges
