"""Real client, real server: small worlds hold, and every planted bug is found by its invariant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from exploration.bugs import BUGS, Bug, hunt, planted
from exploration.diagram import draw
from exploration.scenarios import SCENARIOS
from exploration.search import search
from exploration.world import Bounds, World

#: Bounds small enough for every run of the tests, and the states that must be there: fewer, and the model
#: has lost a part of what can happen.
SMALL: dict[str, tuple[Bounds, int]] = {
    "takeover": (replace(SCENARIOS["takeover"], dials=3, impatient=1), 10_000),
    "leave": (SCENARIOS["leave"], 3_000),
    "stream": (replace(SCENARIOS["stream"], cuts=1, dials=2, impatient=0), 1_000),
    "no acks": (replace(SCENARIOS["no acks"], events=3, dials=1, cuts=0), 500),
    "expiry": (replace(SCENARIOS["expiry"], cuts=1, dials=3, expiries=1), 3_000),
    "mismatch": (SCENARIOS["mismatch"], 10_000),
    "fence": (replace(SCENARIOS["fence"], dials=2, impatient=0), 5_000),
    "gap": (replace(SCENARIOS["gap"], events=3), 5_000),
    "replay": (replace(SCENARIOS["replay"], cuts=1, dials=2), 10_000),
    "trim": (SCENARIOS["trim"], 10_000),
    "lost place": (SCENARIOS["lost place"], 1_000),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_world_holds(name: str) -> None:
    """In every state within these bounds."""
    bounds, least = SMALL[name]
    outcome = search(World(bounds))
    if outcome.found is not None:
        pytest.fail(f"{outcome.found.violation}\n{draw(outcome.found.steps, bounds.script)}")
    assert outcome.complete
    assert outcome.states >= least


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.says)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    """By the invariant that it breaks; otherwise the model is too small."""
    found = hunt(bug).found
    assert found is not None
    assert found.violation.name.startswith(bug.breaks)


def test_a_planted_bug_is_gone_after_its_block() -> None:
    """The real cores are what everybody else uses."""
    bug = BUGS[0]
    sound = bug.function.__code__
    with planted(bug):
        assert bug.function.__code__ is not sound
    assert bug.function.__code__ is sound


def test_a_bug_whose_line_is_not_there_any_more_is_told() -> None:
    """It would be a sound program that nothing is found in."""
    bug = BUGS[0]._replace(pieces={"no such line": ""})
    with pytest.raises(ValueError, match="no such line"), planted(bug):
        pytest.fail("planted")


def test_copies_of_the_parts_are_equal_and_independent() -> None:
    """Otherwise states would be mixed up, or counted twice."""
    world = World(SMALL["mismatch"][0])
    search(world, limit=2_000)
    for component in (world.clients, world.servers):
        keys = [part.key() for part in component.states]
        assert len(set(keys)) == len(keys)
        assert [part.copy().key() for part in component.states] == keys
    server = next(server for server in world.servers.states if server.links)
    before = server.key()
    server.copy().apply(("eof", next(iter(server.links))))
    assert server.key() == before


def test_a_trace_is_drawn_for_people() -> None:
    """Who did what in which order, with the frames where they arrive."""
    bug = next(bug for bug in BUGS if "4008 on an older connection" in bug.says)
    found = hunt(bug).found
    assert found is not None
    assert draw(found.steps, SCENARIOS[bug.scenario].script).splitlines() == [
        "application             client                                                           server",
        "  1                     |--- c1: hello new session ------------------------------------->|",
        "  2                     |<--- c1: welcome resumed false ---------------------------------|",
        "  3 (gives up, connects)|                                                                |",
        "  4                     |--- c2: hello resume secret-c1, seq 0, attempt 1 -------------->|",
        "  5                     |<--- c1: close 4008 --------------------------------------------|",
    ]
