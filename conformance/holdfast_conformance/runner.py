"""Runs checks against a target: in lanes, beside a slow lane, and a few alone at the end.

A run is: start the target if it has to be started, sanity, survey, checks, sanity again, diagnosis of
failures. The order is random but reproducible by its seed. A target that is lost in the middle ends the run
as inconclusive; nothing is then reported as failed that was not seen to fail.
"""

from __future__ import annotations

import os
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from . import collect, probe, requirements
from .ambient import RULES
from .bench import Bench
from .clock import PATIENCE, Clock
from .dial import DialError, Endpoint
from .launch import LaunchError, launch
from .report import Report
from .target import Target, bundled, from_text
from .trial import conduct, described, first, judge, run_check
from .verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .case import Check
    from .launch import Launched

__all__ = ["Options", "run"]

LANES = 8
"""More of them are hardly faster on two cores, and everything takes longer to be noticed."""

SLOW_AT_ONCE = 48
"""Slow checks that wait at the same time; each holds a few connections and no lane."""

CONNECTIONS_PER_CHECK = 4
"""About so many connections a check holds at once; for staying under the target's limit."""

POLITE_CONNECTIONS = 50
"""The limit that we assume for a target that is not on this machine."""

DYING = 0.3
"""Seconds in which a target that was lost may turn out to have died."""

DIAGNOSED = 5
"""So many failures are run again, alone, to tell a flaky one."""

DIAGNOSIS_RUNS = 2
DIAGNOSIS_SCALE = 3.0
DIAGNOSIS_BUDGET = 20.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Args:
        lanes: checks at the same time; 0 chooses.
        scale: multiplies every wait.
        max_wait: the longest declared timer, in seconds, that a check may sit out.
        intrusive: allow floods and stalls off loopback.
        seed: of the order and of all random values; None chooses one.
        deadline: seconds after which the run ends, None for no limit.
        fail_fast: end at the first failure.
    """

    lanes: int = 0
    scale: float = 1.0
    max_wait: float = 15.0
    intrusive: bool = False
    seed: int | None = None
    deadline: float | None = None
    fail_fast: bool = False


class Progress:
    """What a run tells while it goes on; this one is silent."""

    def begin(self, total: int, report: Report) -> None:
        """The target is sane and `total` checks begin."""

    def done(self, result: CheckResult) -> None:
        """One check has its verdict."""


async def run(
    target: Target | str | None = None,
    *,
    checks: Sequence[Check] | None = None,
    options: Options = Options(),
    connect: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
    progress: Progress | None = None,
    stop: trio.CancelScope | None = None,
) -> Report:
    """Judge a target and report.

    Args:
        target: a target, its URL or file, or None for the bundled reference server.
        checks: what to run; default: everything.
        connect: opens a stream to the target in place of TCP; everything is timed by trio's clock, so this
            works in memory under a mock clock.
        progress: told of each verdict.
        stop: cancel it to interrupt the run; the report is still returned.

    Raises:
        TargetError: the target file or URL cannot be used.
    """
    target = bundled() if target is None else from_text(target) if isinstance(target, str) else target
    every = collect.everything()
    checks = every if checks is None else checks
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    report = Report(
        source=target.source,
        rung=target.rung,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        time_scale=options.scale,
        narrowed=len(checks) < len(every),
    )
    began = trio.current_time()
    async with AsyncExitStack() as stack:
        launched = None
        url = target.url
        if target.spawn is not None and connect is None:
            try:
                launched = await stack.enter_async_context(launch(target.spawn, os.environ))
            except LaunchError as error:
                report.stopped, report.problem, report.hint = "target", target.mask(str(error)), error.hint
                report.log = [target.mask(line) for line in error.log]
                return report
            url = launched.url
        patience = PATIENCE * options.scale
        endpoint = Endpoint(url or "ws://in-memory/", target.headers, connect=connect, patience=patience)
        if endpoint.url.startswith("wss:"):
            endpoint.tls = target.tls_context()
        bench = Bench(
            target=target,
            endpoint=endpoint,
            requirements=requirements.published(),
            clock=Clock(options.scale, options.max_wait),
            seed=seed,
            intrusive=options.intrusive,
            process=launched.process.pid if launched is not None else None,
        )
        report.url = target.mask(endpoint.url)
        run = _Run(bench, options, report, progress or Progress(), launched)
        with stop or trio.CancelScope() as scope:
            try:
                await run.everything(checks)
            except Exception as error:  # our own mistake; what was found so far is still worth a report
                run.broke(first(error))
        if scope.cancelled_caught and not report.stopped:
            report.stopped = "interrupted"
        run.finish()
    report.seconds = trio.current_time() - began
    return report


class _Lane:
    """One place among the parallel checks."""

    def __init__(self, places: trio.Semaphore) -> None:
        self._places = places

    async def acquire(self) -> None:
        await self._places.acquire()

    def release(self) -> None:
        self._places.release()


class _Run:
    """One run in progress."""

    def __init__(
        self, bench: Bench, options: Options, report: Report, progress: Progress, launched: Launched | None
    ) -> None:
        self.bench = bench
        self.options = options
        self.report = report
        self.progress = progress
        self.launched = launched
        self._scope = trio.CancelScope()
        self._failed: list[tuple[Check, CheckResult]] = []
        self._slow_places = SLOW_AT_ONCE

    async def everything(self, checks: Sequence[Check]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.bench.clock.beat)
            if self.options.deadline is not None:
                self._scope.deadline = trio.current_time() + self.options.deadline
            try:
                await self._prepare()
                with self._scope:
                    await self._all(checks)
                if self._scope.cancelled_caught and not self.report.stopped:
                    self.report.stopped = "deadline"
                if not self.report.stopped:
                    await self._diagnose()
                if self.report.stopped != "target":
                    await probe.sanity(self.bench)
            except probe.Unusable as problem:
                if self.launched is not None:
                    with trio.move_on_after(DYING):  # a process that has hung up may be about to end
                        await self.launched.process.wait()
                self._lost(str(problem), problem.hint)
            nursery.cancel_scope.cancel()

    def broke(self, error: Exception) -> None:
        """The suite itself failed: the run says nothing about the target as a whole."""
        self.report.problem = self.bench.target.mask(f"the suite itself failed: {described(error)}")
        self.report.hint = "please report this line; it says nothing about the target"

    def finish(self) -> None:
        """Add what the ambient rules found and put the results into the order of their ids."""
        if self.report.checks:
            self.report.checks += self._ambient_results()
        self.report.checks.sort(key=lambda result: result.id)

    async def _prepare(self) -> None:
        bench, report = self.bench, self.report
        welcome = await probe.sanity(bench)
        bench.admits = welcome is not None
        if welcome is not None:
            await probe.survey(bench, welcome)
            server = welcome.get("server")
            if isinstance(server, dict):
                report.server = {str(k): bench.target.mask(str(v)) for k, v in server.items()}
        report.profiles = ["core", *sorted(bench.offered)] if bench.admits else []
        report.rtt_p50_ms, report.rtt_p99_ms = bench.clock.rtt.p50 * 1000, bench.clock.rtt.p99 * 1000
        polite = bench.endpoint.loopback or bench.intrusive
        most = bench.target.limits.get("max_connections", 1000 if polite else POLITE_CONNECTIONS)
        report.lanes = max(1, min(self.options.lanes or LANES, most // (2 * CONNECTIONS_PER_CHECK)))
        self._slow_places = max(1, min(SLOW_AT_ONCE, most // CONNECTIONS_PER_CHECK - report.lanes))

    async def _all(self, checks: Sequence[Check]) -> None:
        order = list(checks)
        random.Random(self.bench.seed).shuffle(order)
        # Without a clock to know the longest by: checks written by hand do more than a vector, so they go
        # first.
        order.sort(key=lambda check: check.data_driven)
        self.progress.begin(len(order), self.report)
        async with trio.open_nursery() as nursery:
            watching = await nursery.start(self._canary) if self.bench.admits else None
            async with trio.open_nursery() as working:
                slow = trio.Semaphore(self._slow_places)
                places = trio.Semaphore(self.report.lanes)
                for check in order:
                    if check.slow and not check.serial:
                        working.start_soon(self._slow, check, slow)
                working.start_soon(self._parallel, [c for c in order if not c.slow and not c.serial], places)
            for check in order:
                if check.serial:
                    await self._one(check, None)
            if watching is not None:
                watching.set()

    async def _slow(self, check: Check, places: trio.Semaphore) -> None:
        async with places:
            await self._one(check, None)

    async def _parallel(self, checks: list[Check], places: trio.Semaphore) -> None:
        async def one(check: Check) -> None:
            try:
                await self._one(check, _Lane(places))
            finally:
                places.release()

        async with trio.open_nursery() as nursery:
            for check in checks:
                await places.acquire()
                nursery.start_soon(one, check)

    async def _one(self, check: Check, lane: _Lane | None) -> None:
        result = await run_check(self.bench, check, lane)
        if result.verdict is Verdict.FAIL and await self._gone():
            return
        if self._scope.cancel_called:
            return
        self._add(result)
        self.report.ran += result.verdict not in (Verdict.NA, Verdict.UNVERIFIED)
        if result.verdict in (Verdict.FAIL, Verdict.WARN):
            self._failed.append((check, result))
            if self.options.fail_fast and result.verdict is Verdict.FAIL:
                self.report.stopped = self.report.stopped or "fail-fast"
                self._scope.cancel()

    def _add(self, result: CheckResult) -> None:
        self.report.checks.append(result)
        self.progress.done(result)

    async def _gone(self) -> bool:
        """After a failure: whether the target is gone, in which case the failure means nothing and the run
        ends.
        """
        if self.report.stopped == "target":
            return True
        died = self.launched.died if self.launched is not None else ""
        if not died:
            try:
                if self.bench.clock.dead:  # a frozen process still accepts connections
                    await probe.sanity(replace(self.bench, clock=replace(self.bench.clock, expired=0)))
                else:
                    await trio.aclose_forcefully(await self.bench.endpoint.stream())
            except (DialError, probe.Unusable) as error:
                died = str(error)
        if died:
            where = "below" if self.launched is not None else "where it runs"
            self._lost(f"the target was lost during the run: {died}", f"see its log {where}")
            self._scope.cancel()
        return bool(died)

    def _lost(self, problem: str, hint: str) -> None:
        report = self.report
        if report.problem:
            return
        report.stopped = report.stopped or "target"
        died = self.launched.died if self.launched is not None else ""
        report.problem = self.bench.target.mask(
            f"{problem} ({died})" if died and died not in problem else problem
        )
        report.hint = self.bench.target.mask(hint)
        if self.launched is not None:
            report.log = [self.bench.target.mask(line) for line in self.launched.log]

    async def _canary(self, *, task_status: trio.TaskStatus[trio.Event]) -> None:
        over = trio.Event()
        outcome: Exception | None = None
        began = trio.current_time()
        try:
            async with conduct(self.bench, probe.CANARY) as test:
                try:
                    session = await probe.canary(test)
                finally:
                    task_status.started(over)  # the checks run with or without it
                await over.wait()
                await probe.autopsy(test, session)
        except Exception as error:  # whatever it is, it is the outcome of this check alone
            outcome = error
        result = judge(test, outcome)
        result.seconds = trio.current_time() - began
        self._add(result)

    async def _diagnose(self) -> None:
        """Run the first failures again, alone and with more patience; whatever then passes is flaky."""
        patient = replace(
            self.bench, clock=replace(self.bench.clock, scale=self.bench.clock.scale * DIAGNOSIS_SCALE)
        )
        with trio.move_on_after(DIAGNOSIS_BUDGET):
            # A process that has grown once need not grow again, so memory cannot be measured a second time.
            again_worth = [failed for failed in self._failed if "spawned" not in failed[0].needs]
            for check, result in again_worth[:DIAGNOSED]:
                for _ in range(DIAGNOSIS_RUNS):
                    again = await run_check(patient, check)
                    result.reruns.append(again.verdict)
                if Verdict.PASS in result.reruns:
                    result.verdict = Verdict.FLAKY

    def _ambient_results(self) -> list[CheckResult]:
        ambient, known = self.bench.ambient, self.bench.requirements
        results = []
        for rule in RULES.values():
            result = CheckResult(
                rule.id, rule.title, rule.id.split("/")[0], (rule.requirement,), Verdict.PASS
            )
            result.occasions = ambient.occasions[rule.id]
            found = ambient.violations.get(rule.id)
            if found:
                requirement = known.get(rule.requirement)
                result.verdict = known.verdict(rule.requirement)
                result.requirement, result.level = rule.requirement, requirement.level if requirement else ""
                result.message = (
                    f"{found[0].message} (seen in {', '.join(dict.fromkeys(v.check for v in found))})"
                )
                result.timeline = found[0].timeline
            elif not result.occasions and self.report.narrowed:
                continue  # nobody expects a few checks to exercise every rule
            elif not result.occasions and rule.optional:
                result.verdict, result.message = Verdict.NA, "the server never does what this is about"
            elif not result.occasions:
                result.verdict, result.message = (
                    Verdict.UNVERIFIED,
                    "not exercised: nothing of the kind occurred",
                )
            results.append(result)
        return results
