"""Names and patterns."""

from __future__ import annotations

import pytest
from holdfast_reference.protocol.names import Pattern, fits
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a/*", ["a/b", "a/*"], ["a", "a/b/c", "a/", "b/b"]),
        ("a/**", ["a/b", "a/b/c", "a/**"], ["a", "a/", "a//b", "a/b/", "b/a"]),
        ("*/b", ["a/b"], ["a/a/b", "/b", "b"]),
        ("a*", ["a*"], ["ab", "a"]),
        ("**", ["a", "a/b"], ["", "a//b", "/"]),
        ("*", ["a"], ["", "a/b"]),
        ("*/**", ["a/b", "a/b/c"], ["a", "/b"]),
        ("__proto__/*", ["__proto__/x"], ["x/x"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, matching: list[str], other: list[str]) -> None:
    """[SUB-20] [SUB-21] [SUB-22]."""
    compiled = Pattern(pattern)
    assert [name for name in matching + other if compiled.matches(name)] == matching


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "/a", "a/", "**/a", "a/**/b"])
def test_what_is_no_pattern(pattern: str) -> None:
    """[SUB-19]."""
    with pytest.raises(ValueError, match="pattern"):
        Pattern(pattern)


@given(st.text(), st.integers(1, 300))
def test_names_are_measured_in_bytes(name: str, size: int) -> None:
    """[ENV-25]."""
    assert fits(name, size) == (len(name.encode()) <= size)
