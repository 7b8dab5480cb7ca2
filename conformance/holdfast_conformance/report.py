"""The result of a run as data: verdicts, counts, and the JSON report with its published schema."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from .verdict import CheckResult, RunVerdict, Verdict

if TYPE_CHECKING:
    from .requirements import Requirements

__all__ = ["FORMAT", "Report", "suite_version"]

FORMAT = "holdfast-report/1"

EXIT = {
    RunVerdict.CONFORMANT: 0,
    RunVerdict.PARTIAL: 0,
    RunVerdict.NON_CONFORMANT: 1,
    RunVerdict.INCONCLUSIVE: 3,
}

NOTHING_RAN = 2
INTERRUPTED = 130

SEVERITY = [
    Verdict.FAIL,
    Verdict.ERROR,
    Verdict.FLAKY,
    Verdict.WARN,
    Verdict.UNVERIFIED,
    Verdict.NOTE,
    Verdict.PASS,
    Verdict.NA,
]
"""Verdicts in the order in which one decides over the others for a requirement with several checks."""


def suite_version() -> str:
    """Return the version of the installed suite."""
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


@dataclass(slots=True)
class Report:
    """Everything that a run found out.

    Attributes:
        source: the argument that named the target.
        url: the address that was judged, masked.
        server: what `welcome.server` says about itself.
        narrowed: not every check was selected, so that the run can be partial at best.
        stopped: why the run ended early, "" when it did not: `interrupted`, `deadline`, `fail-fast` or
            `target`.
        problem, hint: why a run is inconclusive as a whole, and what to do.
        log: the newest log lines of a target that the suite started, when the run was inconclusive.
        ran: how many of the selected checks could be run, whatever came of it.
        started: the beginning of the run, UTC, RFC 3339.
    """

    source: str
    url: str = ""
    rung: int = 0
    edition: str = "1.0"
    server: dict[str, str] = field(default_factory=dict)
    profiles: list[str] = field(default_factory=list)
    started: str = ""
    seconds: float = 0.0
    seed: int = 0
    lanes: int = 0
    time_scale: float = 1.0
    rtt_p50_ms: float = 0.0
    rtt_p99_ms: float = 0.0
    narrowed: bool = False
    stopped: str = ""
    problem: str = ""
    hint: str = ""
    log: list[str] = field(default_factory=list)
    ran: int = 0
    checks: list[CheckResult] = field(default_factory=list)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many checks have each verdict."""
        counted = Counter(result.verdict for result in self.checks)
        return {verdict: counted[verdict] for verdict in Verdict}

    @property
    def verdict(self) -> RunVerdict:
        """The verdict of the run: a definite failure stands, unless the target itself was lost."""
        counts = self.counts
        if self.problem:
            return RunVerdict.INCONCLUSIVE
        if counts[Verdict.FAIL]:
            return RunVerdict.NON_CONFORMANT
        if counts[Verdict.ERROR] or self.stopped in ("interrupted", "deadline"):
            return RunVerdict.INCONCLUSIVE
        if counts[Verdict.UNVERIFIED] or counts[Verdict.FLAKY] or self.narrowed:
            return RunVerdict.PARTIAL
        return RunVerdict.CONFORMANT

    @property
    def exit_code(self) -> int:
        """The documented exit code of the command line."""
        if self.stopped == "interrupted":
            return INTERRUPTED
        if not self.ran and not self.problem and not self.stopped and not self.counts[Verdict.FAIL]:
            return NOTHING_RAN
        return EXIT[self.verdict]

    def by_requirement(self) -> dict[str, Verdict]:
        """Return, for each requirement that a check covers, the verdict that decides."""
        worst: dict[str, Verdict] = {}
        for result in self.checks:
            for id in result.covers:
                judged = result.verdict
                if judged in (Verdict.FAIL, Verdict.WARN) and result.requirement != id:
                    continue  # a check that fails says nothing about the others that it covers
                if id not in worst or SEVERITY.index(judged) < SEVERITY.index(worst[id]):
                    worst[id] = judged
        return dict(sorted(worst.items()))

    def document(self, requirements: Requirements) -> dict[str, object]:
        """Return the JSON report; it satisfies `schemas/meta/report.schema.json`."""
        return {
            "format": FORMAT,
            "suite": {"name": "holdfast", "version": suite_version()},
            "spec": {"edition": self.edition, "requirements": sum(1 for _ in requirements)},
            "target": {
                "source": self.source,
                "url": self.url,
                "rung": self.rung,
                "server": self.server,
                "profiles": self.profiles,
            },
            "run": {
                "started": self.started,
                "seconds": round(self.seconds, 3),
                "seed": self.seed,
                "lanes": self.lanes,
                "time_scale": self.time_scale,
                "rtt_p50_ms": round(self.rtt_p50_ms, 3),
                "rtt_p99_ms": round(self.rtt_p99_ms, 3),
                "narrowed": self.narrowed,
                "stopped": self.stopped,
                "problem": self.problem,
                "hint": self.hint,
                "log": self.log,
            },
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "counts": {str(verdict): count for verdict, count in self.counts.items()},
            "requirements": {id: str(verdict) for id, verdict in self.by_requirement().items()},
            "checks": [_check(result) for result in self.checks],
        }


def _check(result: CheckResult) -> dict[str, object]:
    row = asdict(result)
    row["verdict"] = str(result.verdict)
    row["seconds"] = round(result.seconds, 4)
    for name in ("covers", "timeline", "absences", "notes"):
        row[name] = list(row[name])
    return row
