"""The commands `explore` and `replay`: usage errors, exit codes, and the files that they leave."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from holdfast_conformance import schemas
from tests.test_cli import invoke, write_target

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = "ws://127.0.0.1:9/"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explore", "no-such-file.toml"], "no such file"),
        (["explore", "--plans", "0"], "0 is not in the range"),
        (["explore", "http://example/"], "must begin with ws:// or wss://"),
        (["replay"], "Missing argument"),
        (["replay", "no-such-plan.json"], "No such file"),
    ],
)
def test_usage_errors(words: list[str], message: str) -> None:
    """Wrong usage exits with 2 and says what is wrong."""
    result = invoke(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_nobody_there(tmp_path: Path) -> None:
    """A target that is not there is inconclusive, and still leaves a report."""
    result = invoke("explore", NOWHERE, "--plans", "1", "--out", str(tmp_path / "out"))
    assert result.exit_code == 3
    assert "INCONCLUSIVE" in result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert schemas.meta_fault("explore", report) is None
    assert report["exit_code"] == 3


def test_what_was_found_is_told_and_stored(tmp_path: Path) -> None:
    """A server with faults does not conform; report, plan, history and diagram are left behind."""
    out = tmp_path / "out"
    result = invoke(
        "explore", str(write_target(tmp_path, "'twice'")), "--plans", "3", "--shrink", "0", "--out", str(out)
    )
    assert result.exit_code == 1
    assert "NON-CONFORMANT" in result.output
    assert f"again   holdfast replay {out}" in result.output
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert schemas.meta_fault("explore", report) is None
    assert report["run"]["plans"] == 3
    assert len(list(out.glob("*.plan.json"))) == len(report["anomalies"])
    assert "tok-very-secret" not in "".join(file.read_text("utf-8") for file in out.iterdir())


def test_a_plan_is_replayed(tmp_path: Path) -> None:
    """A stored plan shows its finding again where the fault is, not where it is cured, and says so."""
    plan = tmp_path / "plan.json"
    finding = {"kind": "double-reply", "requirement": "RPC-02", "message": "a second end"}
    steps = [{"do": "request", "pad": 0}, {"do": "wait"}, {"do": "request", "pad": 0}]
    clients = [{"name": "a", "identity": "first", "steps": steps}]
    target = str(write_target(tmp_path, "'twice'"))
    stored = {"format": "holdfast-plan/1", "channels": ["open"], "clients": clients, "finding": finding}
    plan.write_text(json.dumps(stored | {"target": target}))
    again = invoke("replay", str(plan), "--times", "2")
    assert again.exit_code == 1
    assert "REPRODUCED  double-reply RPC-02  2/2" in again.output
    assert "a (first): asks for an echo; waits for its answers; asks for an echo" in again.output
    honest = tmp_path / "honest"
    honest.mkdir()
    cured = invoke("replay", str(plan), str(write_target(honest, "")), "--times", "1")
    assert cured.exit_code == 0
    assert "NOT REPRODUCED" in cured.output
    assert invoke("replay", str(plan), NOWHERE).exit_code == 3
