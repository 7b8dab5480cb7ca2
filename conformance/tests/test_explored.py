"""Explore finds faults that show only under concurrency or faults, in a real server in memory."""

from __future__ import annotations

import pytest
from mutants.exploring import EXPLORED, find


@pytest.mark.parametrize(
    "name", ["explore/resend-leaves-one-out", "explore/fan-out-races", "explore/window-counts-anew"]
)
def test_planted_faults_are_found(name: str) -> None:
    """The anomaly is of a kind that the author of the mutant expects."""
    outcome = find(name, plans=60)
    assert outcome.anomaly is not None
    assert outcome.anomaly.kind in EXPLORED[name].kinds


def test_the_reference_server_is_blameless() -> None:
    """The control: the same plans, no fault, no anomaly."""
    outcome = find("", plans=20)
    assert outcome.anomaly is None
    assert outcome.plans == 20
