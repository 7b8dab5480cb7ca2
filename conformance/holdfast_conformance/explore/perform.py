"""One performance of a plan: all clients at once, then a settled end, then the judge."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from ..trial import described, first
from .actor import Actor
from .anomalies import Anomaly
from .history import Recorder, validate
from .judge import Judgement, judge
from .scene import Scene, cast, principal

if TYPE_CHECKING:
    from ..dial import Endpoint
    from ..target import Target
    from .history import Row
    from .plan import Plan

__all__ = ["LONGEST", "Performance", "perform"]

LONGEST = 60.0
"""Seconds after which a performance is given up; nothing in a plan takes nearly so long."""


@dataclass(slots=True)
class Performance:
    """What came of a plan.

    Attributes:
        rows: the history.
        judgement: what the history proves, the rules of each frame included.
        problem: why it is incomplete: a client that was not let in, or no end; "" when it is complete.
        crash: how the suite itself failed; then the history was not judged.
    """

    plan: Plan
    rows: list[Row]
    judgement: Judgement
    problem: str = ""
    seconds: float = 0.0
    crash: str = ""


async def perform(plan: Plan, target: Target, endpoint: Endpoint) -> Performance:
    """Perform a plan against a target, in names that nobody else uses, and judge what happened."""
    run = f"{random.SystemRandom().getrandbits(48):012x}"
    principals = {}
    for client in plan["clients"]:
        identity = cast(target, client)
        principals[client["name"]] = principal(identity, client["name"])
    recorder = Recorder(trio.current_time, principals)
    performance = Performance(plan, recorder.rows, Judgement([], {}, set()))
    began = trio.current_time()
    try:
        broken = await _play(performance, target, endpoint, run, recorder)
        validate(recorder.rows)
        performance.judgement = judge(recorder.rows)
        performance.judgement.found += broken
    except Exception as error:  # whatever it is, it is ours and says nothing about the target
        performance.crash = target.mask(f"the suite failed: {described(first(error))}")
    performance.seconds = trio.current_time() - began
    return performance


async def _play(
    performance: Performance, target: Target, endpoint: Endpoint, run: str, recorder: Recorder
) -> list[Anomaly]:
    """Let all clients act and settle; return what the rules of each frame have to say."""
    performance.problem = f"it did not end within {LONGEST:g} s"
    scene: Scene | None = None
    try:
        with trio.move_on_after(LONGEST):
            async with trio.open_nursery() as nursery:
                scene = Scene(target, endpoint, performance.plan, run, recorder, nursery)
                actors = [Actor(scene, client) for client in performance.plan["clients"]]
                for actor in actors:
                    nursery.start_soon(actor.link.write)
                for act in ("play", "answered", "proven", "ended"):
                    async with trio.open_nursery() as stage:
                        for actor in actors:
                            stage.start_soon(getattr(actor, act))
                for actor in actors:
                    await actor.link.leave()
                performance.problem = target.mask("; ".join(actor.gone for actor in actors if actor.gone))
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            for peer in scene.peers if scene is not None else ():
                await peer.leave()
    assert scene is not None
    return [
        Anomaly("broken-rule", rule, violations[0].message, (len(recorder.rows) - 1,), "integrity")
        for rule, violations in scene.ambient.violations.items()
    ]
