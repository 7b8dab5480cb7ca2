"""The files of an exploration: histories, plans and reports, and what is refused."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from holdfast_conformance import schemas
from holdfast_conformance.explore import history as histories
from holdfast_conformance.explore import plan as plans
from holdfast_conformance.explore.campaign import Exploration
from holdfast_conformance.explore.draw import draw
from holdfast_conformance.explore.guarantees import standings
from holdfast_conformance.explore.judge import judge
from holdfast_conformance.explore.perform import Performance
from holdfast_conformance.explore.report import document, save, summary
from holdfast_conformance.explore.words import diagram, steps
from holdfast_conformance.verdict import RunVerdict
from tests.histories import history

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast_conformance.explore.plan import Plan

LOST = history("""
    a join
    b join
    a listen 1 x cursor=k0
    b publish 1 x secret.1
    a fence
""")

PLAN: Plan = {
    "format": plans.FORMAT,
    "channels": ["open"],
    "clients": [
        {"name": "a", "identity": "first", "steps": [{"do": "subscribe", "channel": 0}]},
        {"name": "b", "identity": "second", "steps": [{"do": "publish", "channel": 0}]},
    ],
}


def explored(*performances: Performance) -> Exploration:
    """Return an exploration that has seen these."""
    exploration = Exploration("ws://example", 7, "2026-01-01T00:00:00+00:00")
    for performance in performances:
        exploration.add(performance)
    return exploration


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    """What was written is read again, row by row."""
    histories.write(tmp_path / "h.jsonl", LOST)
    assert histories.read(tmp_path / "h.jsonl") == LOST


@pytest.mark.parametrize(
    ("line", "text", "says"),
    [
        (3, "not json", "line 3"),
        (3, '{"what":"frame","at":1}', "line 3"),
        (3, '{"what":"calm","at":0.5,"client":"a","conn":9}', "connection 9"),
        (1, '{"what":"calm","at":0.5,"client":"a","conn":1}', "begins with its plan"),
        (4, '{"what":"calm","at":0.0001,"client":"a","conn":1}', "time goes back"),
        (4, '{"what":"hello","at":0.0045,"client":"a","conn":1}', "made before"),
        (99, '{"what":"call","at":1,"client":"a","life":1,"frame":{"type":"x","id":1}}', "called before"),
        (99, '{"what":"return","at":1,"client":"a","life":1,"id":8,"outcome":"ok"}', "nothing was called"),
    ],
)
def test_a_history_that_cannot_be_is_refused(tmp_path: Path, line: int, text: str, says: str) -> None:
    """A malformed history is never judged; the complaint names the line."""
    lines = [json.dumps(row) for row in LOST]
    lines[line - 1 : line] = [text]
    (tmp_path / "h.jsonl").write_text("\n".join(lines))
    with pytest.raises(histories.HistoryError, match=says):
        histories.read(tmp_path / "h.jsonl")


def test_drawn_plans_are_plans_and_the_same_again() -> None:
    """Every plan satisfies the published schema; a seed draws the same plans, another seed others."""
    drawn = list(islice(draw(3), 40))
    assert [schemas.meta_fault("plan", plan) for plan in drawn] == [None] * 40
    assert drawn == list(islice(draw(3), 40))
    assert drawn != list(islice(draw(4), 40))


def test_drawn_plans_make_the_hard_cases() -> None:
    """Every kind of step occurs, and each fault in more than one plan in twenty."""
    drawn = list(islice(draw(0), 200))
    seen = [{step["do"] for client in plan["clients"] for step in client["steps"]} for plan in drawn]
    every = schemas.load("meta/plan.schema.json")
    assert isinstance(every, dict)
    for do in every["$defs"]["step"]["properties"]["do"]["enum"]:
        assert sum(do in steps for steps in seen) > 10, do


@pytest.mark.parametrize("text", ["", "[]", '{"format":"holdfast-plan/1","channels":["open"],"clients":[]}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    """A file that is no plan is an error that names it."""
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(plans.PlanError, match=r"p\.json"):
        plans.read(tmp_path / "p.json")
    with pytest.raises(plans.PlanError, match="No such file"):
        plans.read(tmp_path / "absent.json")


def test_a_finding_leaves_files_without_secrets(tmp_path: Path) -> None:
    """Report, plan, history and diagram are written, are valid, and hold no secret."""
    exploration = explored(Performance(PLAN, LOST, judge(LOST)))
    assert exploration.verdict is RunVerdict.NON_CONFORMANT
    assert exploration.exit_code == 1
    (text,) = save(tmp_path, exploration, lambda text: text.replace("secret", "•••"))
    assert schemas.meta_fault("explore", document(exploration)) is None
    assert {file.name for file in tmp_path.iterdir()} == {
        "report.json", "1-lost.plan.json", "1-lost.history.jsonl", "1-lost.txt",
    }  # fmt: skip
    assert not any("secret" in file.read_text("utf-8") for file in tmp_path.iterdir())
    stored = plans.read(tmp_path / "1-lost.plan.json")
    assert stored["finding"]["kind"] == "lost"
    assert stored["clients"] == PLAN["clients"]
    assert histories.read(tmp_path / "1-lost.history.jsonl")
    assert "◀ proof" in "\n".join(text)
    assert f"holdfast replay {tmp_path / '1-lost.plan.json'}" in "\n".join(text)


def test_too_little_evidence_is_unknown() -> None:
    """A clean history of three rows passes nothing; what the profiles do not promise is not asked for."""
    rows = history("a join\na call request 1 method=echo\na got result id=1", ("rpc",))
    judgement = judge(rows)
    found = standings(judgement.found, judgement.counts, judgement.profiles, judgement.order)
    verdicts = {standing.guarantee.name: standing.verdict for standing in found}
    assert verdicts["replies"] == "unknown"
    assert verdicts["session"] == verdicts["recovery"] == verdicts["connection"] == "n/a"
    assert explored(Performance(PLAN, rows, judgement)).verdict is RunVerdict.PARTIAL


def test_enough_evidence_passes() -> None:
    """The same without anomalies and with everything seen often enough."""
    counts = dict.fromkeys(
        (
            "deliveries",
            "publishes",
            "resumes",
            "resent",
            "recoveries",
            "duplicates",
            "replies",
            "calls",
            "faults",
        ),
        1000,
    )
    found = standings([], counts, {"pubsub", "resume", "history"}, "total")
    assert {standing.verdict for standing in found} == {"pass"}
    worse = standings([], counts, {"pubsub"}, "per-publisher")
    assert {s.guarantee.name for s in worse if s.verdict == "fail"} == {"order"}


def test_losses_and_repeats_take_different_steps_of_the_ladder() -> None:
    """Without losses at least once holds, without repeats at most once, with both nothing."""
    doubled = judge(
        history("""
        a join
        b join
        a listen 1 x
        b publish 1 x b.1
        a got event id=1 t=b.1
        a got event id=1 t=b.1
        a fence
    """)
    )
    lost = judge(LOST)
    levels = []
    for found in (doubled.found, lost.found, doubled.found + lost.found):
        standing = standings(found, {}, {"pubsub"}, "total")[0]
        levels.append(standing.consistent)
        assert standing.verdict == "fail"
    assert levels == ["at-least-once", "at-most-once", "none"]


def test_words() -> None:
    """A plan reads as sentences, a history as a diagram with a lane for each client and the server."""
    assert steps(PLAN) == ["a (first): subscribes to channel 0", "b (second): publishes once to channel 0"]
    drawn = diagram(LOST, judge(LOST).found[0].rows)
    assert drawn[0].split() == ["ms", "a", "b", "c", "n", "server"]
    assert sum("◀ proof" in line for line in drawn) == 2
    assert any("publish id 1" in line and "secret.1" in line for line in drawn)


def test_no_plan_at_all_is_a_usage_error() -> None:
    """An exploration that performed nothing exits with 2, one that was interrupted with 130."""
    assert explored().exit_code == 2
    stopped = explored()
    stopped.stopped = "interrupted"
    assert stopped.exit_code == 130
    lost = explored()
    lost.problem = "gone"
    assert (lost.verdict, lost.exit_code) == (RunVerdict.INCONCLUSIVE, 3)
    assert "plans       0" in summary(lost)[0]
