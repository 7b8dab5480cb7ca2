"""Many plans against one target: drawn, performed several at a time, counted, and the findings made small."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from ..dial import DialError, Endpoint
from ..launch import LaunchError, launch
from ..verdict import RunVerdict
from .guarantees import ORDERS, Standing, standings
from .perform import Performance, perform
from .shrink import RUNS, reproduce, shrink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from ..launch import Launched
    from ..target import Target
    from .anomalies import Anomaly
    from .plan import Plan

__all__ = ["Exploration", "Found", "Options", "Progress", "explore", "replay"]

SHRUNK = 3
"""Findings that are made small; more of them usually have the same cause."""

UNREACHABLE = 3
"""Performances in a row in which nobody got in, after which the target is taken for lost."""

OURS = "this is a fault of holdfast: please report it"


@dataclass(frozen=True, slots=True)
class Options:
    """How to explore.

    Args:
        seconds: how long to draw and perform plans; None for no limit but `plans`.
        plans: how many plans at most; None for no limit but `seconds`.
        jobs: plans at the same time.
        seed: of the plans.
        shrink_seconds: how long one finding may take to be made small; 0 leaves it as it is.
    """

    seconds: float | None = 30.0
    plans: int | None = None
    jobs: int = 6
    seed: int = 0
    shrink_seconds: float = 20.0


@dataclass(slots=True)
class Found:
    """Everything of one kind against one sentence: how often, and the smallest performance that shows it."""

    anomaly: Anomaly
    performance: Performance
    plans: int = 1
    reproduced: int = 0
    runs: int = 0


@dataclass(slots=True)
class Exploration:
    """What an exploration found out.

    Attributes:
        counts: what occurred how often, over all plans.
        order: the strongest order that explains every history.
        found: by kind and requirement.
        unfinished: performances that came to no end, or in which a client was not let in any more.
        shut: why nobody got in, for each of the last performances in a row in which that was so.
        problem, hint: why it says nothing about the target, and what to do.
    """

    source: str
    seed: int
    started: str
    url: str = ""
    plans: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    profiles: set[str] = field(default_factory=set)
    order: str = "total"
    found: dict[tuple[str, str], Found] = field(default_factory=dict)
    unfinished: int = 0
    shut: list[str] = field(default_factory=list)
    problem: str = ""
    hint: str = ""
    stopped: str = ""

    @property
    def findings(self) -> list[Found]:
        """What was found, the most frequent first; what a rule of single frames sees comes last."""
        every = self.found.values()
        return sorted(every, key=lambda found: (found.anomaly.kind == "broken-rule", -found.plans))

    @property
    def standings(self) -> list[Standing]:
        """How the target stands with each guarantee."""
        return standings(
            (found.anomaly for found in self.found.values()), self.counts, self.profiles, self.order
        )

    @property
    def verdict(self) -> RunVerdict:
        """The verdict; what was proven stands, even when the target was lost later."""
        verdicts = {standing.verdict for standing in self.standings}
        if "fail" in verdicts:
            return RunVerdict.NON_CONFORMANT
        if self.problem or self.stopped == "interrupted":
            return RunVerdict.INCONCLUSIVE
        return RunVerdict.PARTIAL if "unknown" in verdicts or self.unfinished else RunVerdict.CONFORMANT

    @property
    def exit_code(self) -> int:
        """The documented exit code."""
        if self.stopped == "interrupted":
            return 130
        if not self.plans and not self.problem:
            return 2
        return {RunVerdict.NON_CONFORMANT: 1, RunVerdict.INCONCLUSIVE: 3}.get(self.verdict, 0)

    def add(self, performance: Performance) -> list[Found]:
        """Count a performance; return what is new in it."""
        judgement = performance.judgement
        self.plans += 1
        self.counts.update(judgement.counts)
        self.profiles |= judgement.profiles
        self.order = min(self.order, judgement.order, key=ORDERS.index)
        self.unfinished += bool(performance.problem)
        if judgement.counts.get("sessions"):
            self.shut.clear()
        else:
            self.shut.append(performance.problem)
        new = []
        for key, anomaly in {(a.kind, a.requirement): a for a in reversed(judgement.found)}.items():
            if key in self.found:
                self.found[key].plans += 1
            else:
                self.found[key] = Found(anomaly, performance)
                new.append(self.found[key])
        return new


class Progress:
    """What an exploration tells while it goes on; this one is silent."""

    def performed(self, exploration: Exploration, new: list[Found]) -> None:
        """One more plan has been performed."""

    def shrinking(self, found: Found) -> None:
        """A finding is being made small."""


async def explore(
    target: Target,
    options: Options,
    supply: Iterator[Plan],
    *,
    connect: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
    progress: Progress | None = None,
    stop: trio.CancelScope | None = None,
) -> Exploration:
    """Perform plans against a target until the time or the plans are over, and make small what was found.

    Args:
        supply: gives the plans.
        connect: opens a stream to the target in place of TCP.
        stop: cancel it to interrupt; what was found until then is still returned.
    """
    exploration = Exploration(target.source, options.seed, datetime.now(UTC).isoformat(timespec="seconds"))
    progress = progress or Progress()
    began = trio.current_time()
    async with _reached(target, exploration, connect) as reached:
        if reached is not None:
            endpoint, launched = reached
            stop = stop or trio.CancelScope()
            with stop:
                await _many(exploration, options, supply, target, endpoint, launched, progress)
                exploration.seconds = trio.current_time() - began
                if not exploration.problem:
                    await _small(exploration, options, target, endpoint, progress)
            if stop.cancelled_caught:
                exploration.stopped = "interrupted"
    exploration.seconds = exploration.seconds or trio.current_time() - began
    return exploration


async def replay(
    plan: Plan,
    target: Target,
    times: int,
    *,
    connect: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
    stop: trio.CancelScope | None = None,
) -> tuple[Exploration, list[Performance]]:
    """Perform one plan again and again; return also every performance, in order."""
    exploration = Exploration(target.source, 0, datetime.now(UTC).isoformat(timespec="seconds"))
    performances: list[Performance] = []
    async with _reached(target, exploration, connect) as reached:
        if reached is not None:
            endpoint, launched = reached
            stop = stop or trio.CancelScope()
            with stop:
                while len(performances) < times and not exploration.problem:
                    performances.append(await perform(plan, target, endpoint))
                    exploration.add(performances[-1])
                    _lost(exploration, launched, performances[-1].crash, most=1)
                if not exploration.problem:
                    await _left(exploration, target, endpoint, launched)
            if stop.cancelled_caught:
                exploration.stopped = "interrupted"
    return exploration, performances


@asynccontextmanager
async def _reached(
    target: Target, exploration: Exploration, connect: Callable[[], Awaitable[trio.abc.Stream]] | None
) -> AsyncIterator[tuple[Endpoint, Launched | None] | None]:
    """Start the target if it has to be started, and see that it is there; None when it is not."""
    async with AsyncExitStack() as stack:
        launched = None
        url = target.url or "ws://in-memory/"
        try:
            if target.spawn is not None and connect is None:
                launched = await stack.enter_async_context(launch(target.spawn, os.environ))
                url = launched.url
            endpoint = Endpoint(url, target.headers, connect=connect)
            if url.startswith("wss:"):
                endpoint.tls = target.tls_context()
            await trio.aclose_forcefully(await endpoint.stream())
        except (LaunchError, DialError) as error:
            exploration.problem, exploration.hint = target.mask(str(error)), error.hint
            yield None
            return
        exploration.url = target.mask(url)
        yield endpoint, launched


async def _many(
    exploration: Exploration,
    options: Options,
    supply: Iterator[Plan],
    target: Target,
    endpoint: Endpoint,
    launched: Launched | None,
    progress: Progress,
) -> None:
    deadline = trio.current_time() + options.seconds if options.seconds is not None else float("inf")
    begun = 0

    async def job() -> None:
        nonlocal begun
        while not exploration.problem and trio.current_time() < deadline:
            if options.plans is not None and begun >= options.plans:
                return
            begun += 1
            performance = await perform(next(supply), target, endpoint)
            progress.performed(exploration, exploration.add(performance))
            _lost(exploration, launched, performance.crash, most=UNREACHABLE)

    async with trio.open_nursery() as nursery:
        for _ in range(options.jobs):
            nursery.start_soon(job)
    if not exploration.problem:
        await _left(exploration, target, endpoint, launched)


def _lost(exploration: Exploration, launched: Launched | None, crash: str = "", *, most: int) -> None:
    """Notice that nothing more can be learned: we failed, the target has died, or it lets nobody in."""
    died = launched.died if launched is not None else ""
    if crash:
        exploration.problem, exploration.hint = crash, OURS
    elif died:
        exploration.problem, exploration.hint = f"the target {died}", "see its log"
    elif len(exploration.shut) >= most:
        exploration.problem = f"nobody gets in: {exploration.shut[-1]}"
        exploration.hint = "is it still there, and does it admit the identities of the target file?"


async def _left(
    exploration: Exploration, target: Target, endpoint: Endpoint, launched: Launched | None
) -> None:
    """See at the end whether a target that did not finish everything is still there."""
    _lost(exploration, launched, most=1)
    if exploration.unfinished and not exploration.problem:
        try:
            await trio.aclose_forcefully(await endpoint.stream())
        except DialError as error:
            exploration.problem = target.mask(f"the target is gone: {error}")
            exploration.hint = error.hint


async def _small(
    exploration: Exploration, options: Options, target: Target, endpoint: Endpoint, progress: Progress
) -> None:
    async def run(plan: Plan) -> Performance:
        return await perform(plan, target, endpoint)

    for found in exploration.findings[:SHRUNK]:
        kind, requirement = found.anomaly.kind, found.anomaly.requirement
        if options.shrink_seconds:
            progress.shrinking(found)
            found.performance = await shrink(
                run, found.performance, kind, requirement, options.shrink_seconds
            )
        seen = await reproduce(run, found.performance.plan, kind, requirement)
        found.reproduced, found.runs = len(seen), RUNS
        found.anomaly = next(
            a for a in found.performance.judgement.found if (a.kind, a.requirement) == (kind, requirement)
        )
