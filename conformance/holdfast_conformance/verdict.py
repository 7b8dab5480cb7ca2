"""Verdicts of a check and of a run, and what a check leaves behind.

Plain data: this module judges nothing and knows neither the network nor the reports.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["CheckResult", "Line", "RunVerdict", "Verdict"]


class Verdict(StrEnum):
    """The outcome of one check."""

    PASS = "pass"
    FAIL = "fail"  # a MUST is broken
    WARN = "warn"  # a SHOULD is not followed
    NOTE = "note"  # a MAY, or behaviour that nothing specifies, recorded
    NA = "n/a"  # an optional feature is absent, and a probe confirmed the absence
    UNVERIFIED = "unverified"  # it applies, but the target file does not offer what the check needs
    ERROR = "error"  # the check or its environment is broken, nothing is said about the target
    FLAKY = "flaky"  # it failed, and passed when it was run again alone


class RunVerdict(StrEnum):
    """The outcome of a whole run."""

    CONFORMANT = "CONFORMANT"
    PARTIAL = "PARTIAL"  # no failure, but something stayed unverified or was flaky
    NON_CONFORMANT = "NON-CONFORMANT"
    INCONCLUSIVE = "INCONCLUSIVE"  # the target died, the machine stalled, or the suite itself failed


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a transcript: who did what, when.

    `at` is in milliseconds since the check began; `way` is `→` (sent to the target), `←` (received from it)
    or `·` (neither: connected, closed, waited). `marked` points at the frame that the verdict is about.
    """

    at: float
    who: str
    way: str
    text: str
    marked: bool = False


@dataclass(slots=True)
class CheckResult:
    """What one check found out; `requirement` and `level` name the sentence that decided a failure."""

    id: str
    title: str
    area: str
    covers: tuple[str, ...]
    verdict: Verdict
    requirement: str = ""
    level: str = ""
    message: str = ""
    stage: str = ""  # "setup" when the check failed before its first assertion
    hint: str = ""
    control: str = ""
    timeline: tuple[Line, ...] = ()
    absences: tuple[str, ...] = ()  # the strength of each proof that something did not happen
    notes: tuple[str, ...] = ()
    occasions: int = 0  # of an ambient check: how often there was something to judge
    seconds: float = 0.0
    reruns: list[str] = field(default_factory=list)  # verdicts of the runs made for diagnosis
