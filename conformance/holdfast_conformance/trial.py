"""One run of one check: from its needs to its verdict.

Whatever a check does, it ends here in a `CheckResult`. A failure is judged by the level of the requirement
that it breaks; an exception that is not a failure is our own fault and says nothing about the target.
"""

from __future__ import annotations

import traceback
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from .case import Check, Lane, Test
from .expect import AuthorError, Failure, NotApplicable, StalledError, Unverified
from .needs import missing
from .verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .bench import Bench

__all__ = ["conduct", "described", "first", "judge", "run_check"]

STALLED_RUNS = 3
"""So often a check is started again because our own process stood still."""

STALLED = "this machine stalled while the check waited; run again, or use --time-scale"

LONGEST = 60.0
"""Seconds, beside declared timers and scaled, after which a check that does not end is considered broken."""


async def run_check(bench: Bench, check: Check, lane: Lane | None = None) -> CheckResult:
    """Run a check, again if our process stalled meanwhile, and return its verdict. Never raises but
    `Cancelled`.
    """
    try:
        needs = (*check.needs, "intrusive") if check.intrusive else check.needs
        lacking = missing(bench, needs)
    except KeyError as error:
        return _result(check, Verdict.ERROR, str(error))
    if lacking is not None:
        return _result(check, *lacking)
    for _ in range(STALLED_RUNS):
        result = await _attempt(bench, check, lane)
        if result is not None:
            return result
    return _result(check, Verdict.ERROR, STALLED)


@asynccontextmanager
async def conduct(bench: Bench, check: Check, lane: Lane | None = None) -> AsyncIterator[Test]:
    """Provide the `Test` of one run of a check, and close its connections at the end.

    What the block raises comes out as it is, not in a group.
    """
    outcome: Exception | None = None
    async with trio.open_nursery() as nursery:
        test = Test(bench, check, nursery, lane)
        try:
            yield test
        except Exception as error:  # whatever it is, first the connections are closed
            outcome = first(error)
        await test.leave()
        nursery.cancel_scope.cancel()
    if outcome is not None:
        raise outcome


async def _attempt(bench: Bench, check: Check, lane: Lane | None) -> CheckResult | None:
    """Run the check once; None when a stall made the outcome worthless."""
    began = trio.current_time()
    outcome: Exception | None = None
    try:
        async with conduct(bench, check, lane) as test:
            with trio.fail_after(LONGEST * bench.clock.scale + bench.clock.max_wait):
                await check.function(test)
            test.settle()
    except StalledError:
        return None
    except Exception as error:  # whatever a check raises is the outcome of that check
        outcome = first(error)
        if isinstance(outcome, Failure) and bench.clock.stalled(began, trio.current_time()):
            return None
    result = judge(test, outcome)
    result.seconds = trio.current_time() - began
    return result


def judge(test: Test, outcome: Exception | None) -> CheckResult:
    """Turn what a check raised, None for nothing, into its result."""
    check, mask = test.check, test.bench.target.mask
    match outcome:
        case None:
            result = _result(check, Verdict.PASS)
        case Unverified():
            result = _result(check, Verdict.UNVERIFIED, mask(str(outcome)))
        case NotApplicable():
            result = _result(check, Verdict.NA, mask(str(outcome)))
        case Failure():
            requirement = outcome.requirement or (check.covers[0] if check.covers else "")
            found = test.bench.requirements.get(requirement)
            result = _result(check, test.bench.requirements.verdict(requirement), mask(outcome.message))
            result.requirement = requirement
            result.level = found.level if found else ""
            result.stage = "" if test.assertions else "set-up"
            result.hint, result.control = mask(outcome.hint), mask(test.control_passed)
            result.timeline = test.journal.lines(mask, outcome.frame.entry if outcome.frame else None)
        case AuthorError():
            result = _result(check, Verdict.ERROR, mask(str(outcome)))
            result.timeline = test.journal.lines(mask)
        case StalledError():
            result = _result(check, Verdict.ERROR, STALLED)
        case trio.TooSlowError():
            result = _result(
                check, Verdict.ERROR, "the check did not end; it waits for something without a limit"
            )
            result.timeline = test.journal.lines(mask)
        case _:
            result = _result(check, Verdict.ERROR, mask(described(outcome)))
            result.timeline = test.journal.lines(mask)
    if test.informational and result.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.WARN):
        result.verdict = Verdict.NOTE
    result.absences, result.notes = tuple(test.absences), tuple(map(mask, test.notes))
    return result


def _result(check: Check, verdict: Verdict, message: str = "") -> CheckResult:
    return CheckResult(check.id, check.title, check.area, check.covers, verdict, message=message)


def described(error: Exception) -> str:
    """Say in one line what a mistake of our own is, and where it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((f for f in reversed(frames) if "holdfast_conformance" in f.filename), frames[-1])
    place = f"{Path(where.filename).name}, line {where.lineno}"
    return f"{type(error).__name__}: {error} (in {where.name}, {place})"


def first(error: Exception) -> Exception:
    """Return the exception that decides: inside a group a failure of the target comes before all else."""
    if not isinstance(error, ExceptionGroup):
        return error
    for kind in (Failure, Unverified, NotApplicable, StalledError, Exception):
        found: object = error.subgroup(kind)
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        if isinstance(found, Exception):
            return found
    return error
