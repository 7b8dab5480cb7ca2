"""Making plans small, with performances that are made up."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from holdfast_conformance.explore.anomalies import Anomaly
from holdfast_conformance.explore.draw import draw
from holdfast_conformance.explore.judge import Judgement
from holdfast_conformance.explore.perform import Performance
from holdfast_conformance.explore.plan import size
from holdfast_conformance.explore.shrink import RUNS, reproduce, shrink

if TYPE_CHECKING:
    from holdfast_conformance.explore.plan import Plan

LOST = Anomaly("lost", "SUB-05", "gone", (0,), "connection")


class Server:
    """Loses something when a plan aborts and publishes, in every `each`th performance."""

    def __init__(self, each: int = 1) -> None:
        self.each = each
        self.performed = 0

    async def run(self, plan: Plan) -> Performance:
        self.performed += 1
        does = {step["do"] for client in plan["clients"] for step in client["steps"]}
        broken = {"abort", "publish"} <= does and self.performed % self.each == 0
        return Performance(plan, [], Judgement([LOST] if broken else [], {}, set()))


def long_plan() -> Plan:
    """Return a drawn plan of many steps that aborts and publishes."""
    for plan in islice(draw(0), 100):
        does = {step["do"] for client in plan["clients"] for step in client["steps"]}
        if {"abort", "publish"} <= does and size(plan) > 30:
            return plan
    raise AssertionError("no such plan")


async def test_only_what_is_needed_is_left(autojump_clock: object) -> None:
    """Two steps are left, with their simplest numbers."""
    first = Performance(long_plan(), [], Judgement([LOST], {}, set()))
    small = (await shrink(Server().run, first, "lost", "SUB-05", 60)).plan
    assert sorted(step["do"] for client in small["clients"] for step in client["steps"]) == [
        "abort",
        "publish",
    ]
    for client in small["clients"]:
        for step in client["steps"]:
            assert step.get("count", 1) == 1
            assert not step.get("ms")
            assert "lost" not in step


async def test_what_shows_now_and_then_shrinks_too(autojump_clock: object) -> None:
    """A server that fails in one performance of four is given five for each candidate."""
    first = Performance(long_plan(), [], Judgement([LOST], {}, set()))
    small = (await shrink(Server(4).run, first, "lost", "SUB-05", 60)).plan
    assert size(small) == 2


async def test_another_anomaly_does_not_count() -> None:
    """Only the same kind against the same sentence counts, and how often is told."""
    server = Server(2)
    assert len(await reproduce(server.run, long_plan(), "lost", "SUB-05")) == RUNS // 2
    assert await reproduce(server.run, long_plan(), "skip", "DEL-01") == []
