"""The client's pace mirrors the token bucket of the server. [LIM-15]"""

from __future__ import annotations

import pytest
from holdfast_reference.client.pace import Pace


def test_a_full_bucket_goes_at_once_and_then_one_for_each_refilled_token() -> None:
    """Ten a second: ten now, the next after a tenth, and so on."""
    pace = Pace.of({"rate": {"count": 10, "per_ms": 1000}})
    assert pace is not None
    assert [pace.take(50.0) for _ in range(12)] == pytest.approx([50.0] * 10 + [50.1, 50.2])


def test_a_pause_refills_the_bucket_and_no_more_than_that() -> None:
    """After a long silence there is one bucket, not the sum of what might have been."""
    pace = Pace.of({"rate": {"count": 2, "per_ms": 1000}})
    assert pace is not None
    for _ in range(2):
        pace.take(0.0)
    assert [pace.take(100.0) for _ in range(3)] == pytest.approx([100.0, 100.0, 100.5])


def test_no_rate_is_no_pace() -> None:
    """`rate` is optional."""
    assert Pace.of({"max_frame": 4096}) is None
