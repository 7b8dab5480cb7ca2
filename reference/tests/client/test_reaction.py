"""The client's table of reactions agrees with the registry of close codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from holdfast_reference.client.reaction import Reaction, reaction

REGISTRY = json.loads((Path(__file__).parents[3] / "schemas" / "v1" / "protocol.json").read_text())
ROWS = [row for row in REGISTRY["close_codes"] if "server" in row["sender"] and row["client"] != "none"]
CODES = [(row["code"], row["client"]) for row in ROWS if "code" in row]
RANGES = [(row["range"], row["client"]) for row in ROWS if "range" in row]
NAMED = {code for code, _ in CODES}


@pytest.mark.parametrize(("code", "expected"), CODES)
def test_reacts_to_each_code_as_the_registry_says(code: int | None, expected: str) -> None:
    """Every code that a server sends, and the end without a close frame. [ERR-09]"""
    assert reaction(code) is Reaction(expected)


@pytest.mark.parametrize(("span", "expected"), RANGES)
def test_reacts_to_unknown_codes_by_their_class(span: list[int], expected: str) -> None:
    """Both ends of each class and its middle, as far as they have no row of their own. [ERR-09]"""
    first, last = span
    for code in {first, (first + last) // 2, last} - NAMED:
        assert reaction(code) is Reaction(expected)


def test_a_code_of_no_class_counts_as_no_close_frame() -> None:
    """Codes that the table does not have at all. [ERR-09]"""
    assert reaction(2999) is reaction(None) is Reaction.RECONNECT_BACKOFF


def test_after_its_own_4501_the_client_starts_afresh() -> None:
    """The one code that the client itself sends and then reacts to. [ERR-09]"""
    rows = [row for row in REGISTRY["close_codes"] if row.get("code") == 4501]
    assert [Reaction(row["client"]) for row in rows] == [reaction(4501)]
