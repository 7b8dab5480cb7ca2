"""Making a plan that broke something smaller, by leaving parts out for as long as it still breaks.

Delta debugging on the steps, then simpler numbers. A server may fail only now and then, so every candidate is
run five times, all at once. It is accepted when two of them show the same; or one, when the plan that was
found does not do better itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio

from .plan import without

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .perform import Performance
    from .plan import Plan, Step

    Run = Callable[[Plan], Awaitable[Performance]]

__all__ = ["RUNS", "reproduce", "shows", "shrink"]

RUNS = 5
"""How often a candidate is run before it counts as one that shows nothing."""

SIMPLER: dict[str, tuple[object, ...]] = {
    "count": (1, 2, 5),
    "pad": (0, 20),
    "ms": (0, 5, 20),
    "lost": (None,),
    "fresh": (None,),
    "echo": (None,),
    "require": (None,),
    "key": (None,),
    "last": (None, 1),
    "channel": (0,),
}
"""Values of members to try in place of larger ones, the simplest first; None leaves the member out."""


def shows(performance: Performance, kind: str, requirement: str) -> bool:
    """Return whether a performance shows an anomaly of this kind against this sentence."""
    return any((a.kind, a.requirement) == (kind, requirement) for a in performance.judgement.found)


async def reproduce(
    run: Run, plan: Plan, kind: str, requirement: str, times: int = RUNS
) -> list[Performance]:
    """Perform a plan so many times at once; return the performances that show the anomaly."""
    seen: list[Performance] = []

    async def once() -> None:
        performance = await run(plan)
        if shows(performance, kind, requirement):
            seen.append(performance)

    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(once)
    return seen


async def shrink(run: Run, first: Performance, kind: str, requirement: str, seconds: float) -> Performance:
    """Return a performance of the smallest plan found in that time that still shows the anomaly."""
    best = [first]
    with trio.move_on_after(seconds):
        enough = max(1, min(2, len(await reproduce(run, first.plan, kind, requirement))))
        before = None
        while before is not best[-1]:
            before = best[-1]
            for candidate in _smaller(lambda: best[-1].plan):
                seen = await reproduce(run, candidate, kind, requirement)
                if len(seen) >= enough:
                    best.append(min(seen, key=lambda performance: len(performance.rows)))
    return best[-1]


def _smaller(current: Callable[[], Plan]) -> Iterator[Plan]:
    """Propose smaller plans, always from the one that is the best by now."""
    plan = current()
    for number in reversed(range(len(plan["clients"]))):
        plan = current()
        if len(plan["clients"]) > 1 and number < len(plan["clients"]):
            yield without(plan, {(number, at) for at in range(len(plan["clients"][number]["steps"]))})
    chunk = max(1, sum(len(client["steps"]) for client in current()["clients"]) // 2)
    while True:
        start = 0
        while start < len(places := _places(current())):
            before = len(places)
            yield without(current(), set(places[start : start + chunk]))
            if len(_places(current())) == before:
                start += chunk
        if chunk == 1:
            break
        chunk //= 2
    for number, at in _places(current()):
        for name, values in SIMPLER.items():
            for value in values:
                if (candidate := _with(current(), number, at, name, value)) is not None:
                    yield candidate
    if len(plan["channels"]) > 1:
        yield {**current(), "channels": current()["channels"][:1]}


def _places(plan: Plan) -> list[tuple[int, int]]:
    return [
        (number, at) for number, client in enumerate(plan["clients"]) for at in range(len(client["steps"]))
    ]


def _with(plan: Plan, number: int, at: int, name: str, value: object) -> Plan | None:
    """Return the plan with one member of one step changed; None when that is not simpler."""
    step = plan["clients"][number]["steps"][at]
    old = cast("dict[str, object]", step).get(name)
    if name not in step or (value is not None and not (isinstance(old, int) and cast("int", value) < old)):
        return None
    changed = {key: member for key, member in step.items() if key != name or value is not None}
    if value is not None:
        changed[name] = value
    clients = list(plan["clients"])
    steps: list[Step] = list(clients[number]["steps"])
    steps[at] = cast("Step", changed)
    clients[number] = {**clients[number], "steps": steps}
    return {**plan, "clients": clients}
