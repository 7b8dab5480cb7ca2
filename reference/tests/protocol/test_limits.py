"""The token bucket."""

from __future__ import annotations

from holdfast_reference.protocol.limits import Bucket, Rate
from hypothesis import given
from hypothesis import strategies as st


def test_a_bucket_starts_full_and_refills_evenly() -> None:
    bucket = Bucket(Rate(count=2, per_ms=1000), 2, at=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [None, None, 501]
    assert bucket.take(0.25) == 251
    assert bucket.take(0.5) is None
    assert [bucket.take(100.0) for _ in range(3)] == [None, None, 501]


@given(st.integers(1, 1000), st.integers(1, 10_000), st.lists(st.floats(0, 2), max_size=50))
def test_waiting_as_long_as_it_says_is_enough(count: int, per_ms: int, pauses: list[float]) -> None:
    """[LIM-14]."""
    bucket, now = Bucket(Rate(count, per_ms), count, at=0.0), 0.0
    for pause in pauses:
        now += pause
        wait_ms = bucket.take(now)
        if wait_ms is not None:
            now += wait_ms / 1000
            assert bucket.take(now) is None
