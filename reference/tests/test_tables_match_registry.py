"""The server's hand-written tables say what the registry says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from holdfast_reference.protocol import CloseCode, ErrorCode, Limits
from holdfast_reference.protocol.errors import CLOSE_REASONS, FINAL, RETRYABLE
from holdfast_reference.protocol.fates import NO_CODE, keeps
from holdfast_reference.protocol.greeting import PROFILES
from holdfast_reference.protocol.limits import (
    FIRST_FRAME,
    MAX_CURSOR,
    MAX_DEDUPE,
    MAX_INTEGER,
    MAX_NAME,
    MAX_NESTING,
    MAX_REFUSAL,
    MAX_SESSION,
    MAX_TAG,
    MIN_FRAME,
)
from holdfast_reference.protocol.messages import FIELD_PROFILES, TYPES
from holdfast_reference.protocol.states import CONNECTION, EXCHANGE, SESSION
from holdfast_reference.server.handshake import SUBPROTOCOL

REGISTRY = json.loads((Path(__file__).parents[2] / "schemas/v1/protocol.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "table"), [("connection", CONNECTION), ("session", SESSION), ("exchange", EXCHANGE)]
)
def test_states(name: str, table: dict[str, dict[str, str]]) -> None:
    (machine,) = (machine for machine in REGISTRY["machines"] if machine["name"] == name)
    rows = {
        (state, transition["event"], transition["to"])
        for transition in machine["transitions"]
        for state in transition["from"]
    }
    assert {(state, event, after) for state, row in table.items() for event, after in row.items()} == rows
    assert {str(state) for state in table} == {state["name"] for state in machine["states"]}


def test_types() -> None:
    rows = {
        row["type"]: (
            "client" in row["from"],
            "server" in row["from"],
            row["profile"],
            row["exchange"] == "starts",
        )
        for row in REGISTRY["messages"]
    }
    assert {kind: tuple(row) for kind, row in TYPES.items()} == rows


def test_fields_of_profiles() -> None:
    """Those that can stand in a client's frame with an `id`."""
    starting = {kind for kind, row in TYPES.items() if row.exchange}
    rows = {
        (row["message"], row["field"], row["profile"])
        for row in REGISTRY["fields"]
        if row["message"] in starting
    }
    ours = {
        (kind, field, profile) for kind, fields in FIELD_PROFILES.items() for field, profile in fields.items()
    }
    assert ours == rows


def test_profiles() -> None:
    """All of this edition, with their needs; `core` is implied."""
    rows = {
        row["name"]: frozenset(row["needs"])
        for row in REGISTRY["profiles"]
        if row["edition"] == "1.0" and row["name"] != "core"
    }
    assert rows == PROFILES


def test_error_codes() -> None:
    rows = {row["code"]: row["retryable"] for row in REGISTRY["error_codes"] if row["scope"] != "local"}
    current = {
        row["code"] for row in REGISTRY["error_codes"] if row["scope"] != "local" and row["edition"] == "1.0"
    }
    assert {str(code) for code in ErrorCode} == current
    assert {code for code, retryable in rows.items() if retryable} == RETRYABLE
    assert not any(rows[code] for code in FINAL)


def test_close_codes() -> None:
    rows = {
        row["code"]: row["name"]
        for row in REGISTRY["close_codes"]
        if row.get("code") is not None and "server" in row["sender"]
    }
    assert rows == CLOSE_REASONS
    assert set(CloseCode) <= set(rows)


def test_fates() -> None:
    """Where the table has a code for one side only, it counts for the other too; what it lacks is kept."""
    rows = REGISTRY["close_codes"]
    exact = {row["code"]: row["session"] for row in rows if row.get("code") is not None}
    ranges = [(range(row["range"][0], row["range"][1] + 1), row["session"]) for row in rows if "range" in row]
    for code in range(1000, 5000):
        wide = next((fate for codes, fate in ranges if code in codes), "kept")
        if code != NO_CODE:
            assert keeps(code) == (exact.get(code, wide) == "kept"), code
    assert keeps(NO_CODE) == (exact[1000] == "kept")


def test_constants() -> None:
    rows = {row["name"]: row["value"] for row in REGISTRY["constants"]}
    assert rows["max_id"] == MAX_INTEGER
    assert rows["max_depth"] == MAX_NESTING
    assert rows["max_name_bytes"] == MAX_NAME
    assert rows["max_t_bytes"] == MAX_TAG
    assert rows["max_cursor_bytes"] == MAX_CURSOR
    assert rows["max_dedupe_bytes"] == MAX_DEDUPE
    assert rows["max_session_bytes"] == MAX_SESSION
    assert rows["max_first_frame"] == FIRST_FRAME
    assert rows["min_max_frame"] == MIN_FRAME
    assert rows["max_refusal_bytes"] == MAX_REFUSAL
    assert rows["subprotocol"] == SUBPROTOCOL


def test_limits() -> None:
    rows = {row["key"].split(".")[0] for row in REGISTRY["limits"] if row["edition"] == "1.0"}
    assert set(Limits.__slots__) == rows
