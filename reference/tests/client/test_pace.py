"""The client's pace mirrors the token bucket of the server. [LIM-15]"""

from __future__ import annotations

import pytest
from holdfast_reference.client.pace import Pace


def sent(pace: Pace, now: float, count: int) -> list[float]:
    """When `count` frames go that are all there at `now`."""
    times = []
    for _ in range(count):
        now = pace.due(now)
        pace.take(now)
        times.append(now)
    return times


def test_a_full_bucket_goes_at_once_and_then_one_for_each_refilled_token() -> None:
    """Ten a second: ten now, the next after a tenth, and so on."""
    pace = Pace.of({"rate": {"count": 10, "per_ms": 1000}})
    assert pace is not None
    assert sent(pace, 50.0, 12) == pytest.approx([50.0] * 10 + [50.1, 50.2])


def test_a_pause_refills_the_bucket_and_no_more_than_that() -> None:
    """After a long silence there is one bucket, not the sum of what might have been."""
    pace = Pace.of({"rate": {"count": 2, "per_ms": 1000}})
    assert pace is not None
    sent(pace, 0.0, 2)
    assert sent(pace, 100.0, 3) == pytest.approx([100.0, 100.0, 100.5])


def test_no_rate_is_no_pace() -> None:
    """`rate` is optional."""
    assert Pace.of({"max_frame": 4096}) is None
