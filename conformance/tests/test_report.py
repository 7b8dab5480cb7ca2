"""How verdicts add up: to that of a requirement, of a run, and to an exit code."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from holdfast_conformance import requirements, schemas
from holdfast_conformance.clock import Clock, Rtt
from holdfast_conformance.report import Report
from holdfast_conformance.verdict import CheckResult, Line, RunVerdict, Verdict

P, F, W, U, E, K = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.WARN,
    Verdict.UNVERIFIED,
    Verdict.ERROR,
    Verdict.FLAKY,
)


def result(verdict: Verdict, covers: tuple[str, ...] = ("ENV-01",), requirement: str = "") -> CheckResult:
    """Return the result of a check."""
    return CheckResult("env/made-up", "A check.", "env", covers, verdict, requirement=requirement)


@pytest.mark.parametrize(
    ("verdicts", "fields", "verdict", "exit_code"),
    [
        ([P, P], {}, RunVerdict.CONFORMANT, 0),
        ([P, W], {}, RunVerdict.CONFORMANT, 0),
        ([P, U], {}, RunVerdict.PARTIAL, 0),
        ([P, P], {"narrowed": True}, RunVerdict.PARTIAL, 0),
        ([P, K], {}, RunVerdict.PARTIAL, 0),
        ([P, F, U], {}, RunVerdict.NON_CONFORMANT, 1),
        ([P, F, E], {}, RunVerdict.NON_CONFORMANT, 1),
        ([P, E], {}, RunVerdict.INCONCLUSIVE, 3),
        ([P, F], {"problem": "lost"}, RunVerdict.INCONCLUSIVE, 3),
        ([P], {"stopped": "deadline"}, RunVerdict.INCONCLUSIVE, 3),
        ([P, F], {"stopped": "fail-fast"}, RunVerdict.NON_CONFORMANT, 1),
        ([P], {"stopped": "interrupted"}, RunVerdict.INCONCLUSIVE, 130),
        ([U], {"ran": 0}, RunVerdict.PARTIAL, 2),
        ([], {"ran": 0}, RunVerdict.CONFORMANT, 2),
    ],
)  # fmt: skip
def test_the_verdict_of_a_run(
    verdicts: list[Verdict], fields: dict[str, object], verdict: RunVerdict, exit_code: int
) -> None:
    """The verdict and the exit code follow from the checks and from how the run ended."""
    report = Report("t", checks=[result(v) for v in verdicts], **{"ran": len(verdicts), **fields})  # type: ignore[arg-type]  # of Report
    assert (report.verdict, report.exit_code) == (verdict, exit_code)


def test_the_verdict_of_a_requirement() -> None:
    """The worst check decides; one that fails for another requirement says nothing about this one."""
    report = Report(
        "t",
        checks=[
            result(P, ("ENV-01", "ENV-02")),
            result(F, ("ENV-01", "ENV-03"), requirement="ENV-03"),
            result(U, ("ENV-02",)),
        ],
    )
    assert report.by_requirement() == {"ENV-01": P, "ENV-02": U, "ENV-03": F}


def test_the_document_fits_its_schema() -> None:
    """A report with everything in it satisfies the published schema."""
    full = result(F, requirement="ENV-01")
    full.level, full.stage, full.hint, full.control = "MUST", "set-up", "hint", "control"
    full.timeline = (Line(1.5, "alice", "→", "{}"), Line(2, "alice", "←", "{}", marked=True))
    full.absences, full.notes, full.reruns = ("fenced",), ("a note",), [F, P]
    report = Report("t", started="2026-01-01T00:00:00+00:00", checks=[full], server={"name": "x"})
    assert schemas.meta_fault("report", report.document(requirements.published())) is None


def test_patience_shrinks_after_three_waits_that_expired() -> None:
    """A target that does not answer costs seconds, not hours; a slow one keeps its time."""
    clock = Clock(scale=2.0, rtt=Rtt(0.001, 0.04))
    assert clock.patience == 20
    clock.expired = 3
    assert clock.patience == 4
    clock.rtt = Rtt(0.001, 0.002)
    assert clock.patience == 2


def test_the_quiet_window_follows_the_slowest_reaction() -> None:
    """Eight times as long as the slowest control, within bounds."""
    clock = Clock()
    assert clock.quiet_window == 0.05
    clock.reacted(0.1)
    clock.reacted(0.02)
    assert clock.quiet_window == pytest.approx(0.8)
    clock.reacted(5)
    assert clock.quiet_window == 2.0


async def test_a_blocked_loop_is_noticed() -> None:
    """A window during which this process stood still for long is told from one that it watched."""
    import time

    clock = Clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.beat)
        await trio.testing.wait_all_tasks_blocked()
        begin = trio.current_time()
        time.sleep(0.12)  # noqa: ASYNC251  # the stall itself
        await trio.sleep(0.01)
        end = trio.current_time()
        nursery.cancel_scope.cancel()
    assert clock.stalled(begin, end)
    assert not clock.stalled(begin - 60, end)
    assert not clock.stalled(end + 1, end + 2)


def test_a_failure_counts_although_no_check_ran() -> None:
    """A rule that is judged on every frame can fail where every selected check lacks something."""
    failed = CheckResult("ses/x", "X.", "ses", ("SES-01",), Verdict.FAIL)
    assert Report("x", checks=[failed]).exit_code == 1
    assert Report("x").exit_code == 2
