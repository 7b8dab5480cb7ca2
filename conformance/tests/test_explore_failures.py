"""What an exploration makes of a target that is not there, and of its own faults: no verdict."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from holdfast_conformance import schemas
from holdfast_conformance.explore import plan as plans
from holdfast_conformance.explore.actor import Actor
from holdfast_conformance.explore.campaign import Options, explore, replay
from holdfast_conformance.explore.report import document
from holdfast_conformance.target import Identity, Method, Target
from holdfast_conformance.verdict import RunVerdict
from tests.fake import Fake

if TYPE_CHECKING:
    from holdfast_conformance.explore.campaign import Exploration
    from holdfast_conformance.explore.plan import Plan

PLAN: Plan = {
    "format": plans.FORMAT,
    "channels": ["open"],
    "clients": [
        {"name": "a", "identity": "first", "steps": [{"do": "request", "pad": 0}, {"do": "wait"}]},
        {"name": "b", "identity": "first", "steps": [{"do": "abort", "ms": 0}, {"do": "request", "pad": 0}]},
    ],
}

TARGET = Target(
    "fake",
    identities={"alice": Identity("alice", "tok-secret")},
    methods={"echo": Method("conf.echo")},
    secrets=("tok-secret",),
)


def explored(fake: Fake, count: int, *, again: bool = False) -> Exploration:
    """Explore, or replay, with this plan, in virtual time; the report has to be valid whatever happens."""

    async def main() -> Exploration:
        async with trio.open_nursery() as nursery:
            fake.nursery = nursery
            if again:
                exploration, _ = await replay(PLAN, TARGET, count, connect=fake.connect)
            else:
                options = Options(None, count, jobs=2, shrink_seconds=0)
                exploration = await explore(TARGET, options, repeat(PLAN), connect=fake.connect)
            nursery.cancel_scope.cancel()
        return exploration

    exploration = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert schemas.meta_fault("explore", document(exploration)) is None
    return exploration


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("html", "the answer to the handshake was 200"),
        ("refuse", "closed with 4101"),
        ("silent", "no good welcome"),
    ],
)
@pytest.mark.parametrize("count", [1, 6])
def test_a_target_that_lets_nobody_in_is_inconclusive(fault: str, why: str, count: int) -> None:
    """However few the plans are: a reason and exit code 3, in `explore` and in `replay`."""
    for again in (False, True):
        exploration = explored(Fake(fault), count, again=again)
        assert (exploration.verdict, exploration.exit_code) == (RunVerdict.INCONCLUSIVE, 3)
        assert "nobody gets in: a does not get in" in exploration.problem
        assert why in exploration.problem
        assert exploration.plans <= 4


@pytest.mark.parametrize("again", [False, True])
def test_a_target_that_is_gone_after_the_only_plan_is_inconclusive(*, again: bool) -> None:
    """Somebody got in, nothing was finished, and at the end nobody is there."""
    fake = Fake("dies")
    fake.connections = 1  # so that the second return of b is one too many
    exploration = explored(fake, 1, again=again)
    assert exploration.exit_code == 3
    assert exploration.problem == "the target is gone: cannot connect: Connection refused"


def test_a_target_that_dies_in_the_middle_is_inconclusive() -> None:
    """What was seen before does not turn into a verdict."""

    class Dies(Fake):
        async def connect(self) -> trio.abc.Stream:
            if self.connections > 20:
                for seat in list(self.seats):
                    await seat.stream.aclose()
                raise OSError(111, "gone")
            return await super().connect()

    exploration = explored(Dies(), 100)
    assert exploration.counts["replies"] > 5
    assert exploration.plans < 20
    assert (exploration.verdict, exploration.exit_code) == (RunVerdict.INCONCLUSIVE, 3)


def test_a_welcome_that_is_none_is_told() -> None:
    """A broken welcome is a finding about the target, not a fault of ours."""
    exploration = explored(Fake(welcome={"profiles": 5}), 1)
    assert exploration.exit_code == 1
    assert {found.anomaly.kind for found in exploration.findings} == {"broken-rule"}
    assert "no good welcome" in exploration.problem


@pytest.mark.parametrize("again", [False, True])
def test_a_fault_of_our_own_is_inconclusive(monkeypatch: pytest.MonkeyPatch, *, again: bool) -> None:
    """It ends the exploration with its place in the code, without a secret and without a traceback."""

    async def broken(actor: Actor, step: object) -> None:
        raise RuntimeError("never mind tok-secret")

    monkeypatch.setattr(Actor, "_request", broken)
    exploration = explored(Fake(), 5, again=again)
    assert (exploration.verdict, exploration.exit_code) == (RunVerdict.INCONCLUSIVE, 3)
    assert exploration.problem.startswith("the suite failed: RuntimeError: never mind")
    assert "tok-secret" not in exploration.problem
    assert "report it" in exploration.hint
    assert exploration.plans <= 2
