"""The one layout of JSON files."""

from __future__ import annotations

import json

from tools.layout import WIDTH, dumps


def test_the_outermost_value_is_always_opened_up() -> None:
    """One member per line makes a diff of one line per change."""
    assert dumps({"a": 1, "b": [1, 2]}) == '{\n  "a": 1,\n  "b": [1, 2]\n}\n'


def test_a_value_is_broken_exactly_where_it_would_be_too_wide() -> None:
    """The line, with its indentation, its key and a comma, has at most the given width."""
    for length in range(60, 130):
        for line in dumps({"key": ["x" * length, "y"], "z": 0}).splitlines():
            assert len(line) <= WIDTH or line.lstrip().startswith('"x')


def test_the_value_stays_the_same() -> None:
    """Empty containers, other scripts and nesting survive."""
    value = {"a": {}, "b": [], "c": [{"d": "é" * 120, "e": [None, True, 1.5]}], "": {"f": [[], {}]}}
    assert json.loads(dumps(value)) == value
    assert "é" in dumps(value)
