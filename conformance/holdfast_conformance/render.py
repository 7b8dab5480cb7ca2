"""The report for people: a summary of areas, the failures with their timelines, and one line that says it
all.

Everything is told by glyphs and words, so that it reads without colour; colour is added on a terminal alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.text import Text

from .report import suite_version
from .verdict import RunVerdict, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from .report import Report
    from .requirements import Requirements
    from .verdict import CheckResult, Line

__all__ = ["GLYPHS", "STYLES", "render", "render_verdict"]

GLYPHS = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.WARN: "!",
    Verdict.NOTE: "i",
    Verdict.NA: "-",
    Verdict.UNVERIFIED: "?",
    Verdict.ERROR: "E",
    Verdict.FLAKY: "~",
}

STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.WARN: "yellow",
    Verdict.NOTE: "cyan",
    Verdict.NA: "dim",
    Verdict.UNVERIFIED: "magenta",
    Verdict.ERROR: "bold magenta",
    Verdict.FLAKY: "bold yellow",
}

WORDS = {
    Verdict.PASS: ("passed", "passed"),
    Verdict.FAIL: ("failed", "failed"),
    Verdict.WARN: ("warning", "warnings"),
    Verdict.NOTE: ("note", "notes"),
    Verdict.FLAKY: ("flaky", "flaky"),
    Verdict.ERROR: ("error", "errors"),
    Verdict.UNVERIFIED: ("unverified", "unverified"),
    Verdict.NA: ("n/a", "n/a"),
}

AREAS = {
    "TRN": "transport",
    "ENV": "envelope",
    "SES": "session",
    "RPC": "requests",
    "SUB": "subscriptions",
    "DEL": "delivery",
    "RES": "resume",
    "HIS": "history",
    "ERR": "errors",
    "LIM": "limits",
    "VER": "versions",
    "SEC": "security",
    "CNF": "script",
    "": "other",
}

RUN_STYLES = {
    RunVerdict.CONFORMANT: "bold green",
    RunVerdict.PARTIAL: "bold yellow",
    RunVerdict.NON_CONFORMANT: "bold red",
    RunVerdict.INCONCLUSIVE: "bold magenta",
}

BAR = 20
SHOWN = 5
"""Failures that are shown with a message; the first of them with everything."""

BEFORE_MARK, AFTER_MARK = 9, 2
"""Lines of a timeline around the frame at fault."""


def render(report: Report, requirements: Requirements, console: Console, written: list[str]) -> None:
    """Print the whole report.

    Args:
        written: the report files, for the last line.
    """
    _head(report, console)
    _areas(report, console)
    _failures(report, requirements, console)
    _unverified(report, console)
    if report.problem:
        console.print(Text(f"  E {report.problem}", STYLES[Verdict.ERROR]))
        if report.hint:
            console.print(f"    hint      {report.hint}", markup=False)
        for line in report.log:
            console.print(f"    log       {line}", markup=False)
        console.print()
    render_verdict(report, console, written)


def render_verdict(report: Report, console: Console, written: list[str]) -> None:
    """Print the last two lines: the verdict with its counts, the files and the exit code."""
    line = Text("  ")
    line.append(report.verdict, RUN_STYLES[report.verdict])
    for verdict, count in report.counts.items():
        if count:
            line.append(f"   {count} {WORDS[verdict][count != 1]}", STYLES[verdict])
    line.append(f"   of {len(report.checks)}   {report.seconds:.1f} s")
    if report.narrowed:
        line.append("   a selection", "dim")
    if report.stopped:
        line.append(f"   stopped: {report.stopped}", "bold")
    console.print(line)
    files = f"wrote {'  '.join(written)}   " if written else ""
    console.print(f"  {files}exit {report.exit_code}", style="dim", markup=False)


def _head(report: Report, console: Console) -> None:
    server = " ".join(report.server.get(name, "") for name in ("name", "version")).strip()
    console.print(
        f"\n  holdfast {suite_version()}   spec {report.edition}   seed {report.seed}", markup=False
    )
    parts = [server, report.url, f"rung {report.rung}"]
    if report.lanes:
        parts += [f"rtt {report.rtt_p50_ms:.1f} ms  p99 {report.rtt_p99_ms:.1f} ms", f"{report.lanes} lanes"]
    console.print("  target    " + "   ".join(part for part in parts if part), markup=False)
    if report.profiles:
        console.print("  profiles  " + "  ".join(report.profiles), markup=False)
    console.print()


def _areas(report: Report, console: Console) -> None:
    for prefix, name in AREAS.items():
        results = [r for r in report.checks if _prefix(r) == prefix]
        judged = [r for r in results if r.verdict is not Verdict.NA]
        if not judged:
            continue
        counts = Counter(result.verdict for result in judged)
        good = counts[Verdict.PASS] + counts[Verdict.NOTE]
        full = BAR * good // len(judged)
        line = Text(f"  {name:<14}")
        line.append("█" * full, "green")
        line.append("░" * (BAR - full), "red" if counts[Verdict.FAIL] else "yellow")
        line.append(f"   {f'{good}/{len(judged)}':<9}")
        rest = [
            f"{counts[verdict]} {WORDS[verdict][counts[verdict] != 1]}"
            for verdict in (Verdict.FAIL, Verdict.WARN, Verdict.FLAKY, Verdict.ERROR, Verdict.UNVERIFIED)
            if counts[verdict]
        ]
        line.append(", ".join(rest))
        console.print(line)
    if report.checks:
        console.print()


def _prefix(result: CheckResult) -> str:
    prefix = result.covers[0].split("-")[0] if result.covers else ""
    return prefix if prefix in AREAS else ""


def _failures(report: Report, requirements: Requirements, console: Console) -> None:
    order = (Verdict.FAIL, Verdict.ERROR, Verdict.FLAKY, Verdict.WARN)
    bad = [result for verdict in order for result in report.checks if result.verdict is verdict]
    for index, result in enumerate(bad[:SHOWN]):
        _failure(result, requirements, console, complete=index == 0)
    if len(bad) > SHOWN:
        console.print(f"  … and {len(bad) - SHOWN} more, all in the JSON report\n", markup=False)


def _failure(result: CheckResult, requirements: Requirements, console: Console, *, complete: bool) -> None:
    head = Text(f"  {GLYPHS[result.verdict]} {result.id}", STYLES[result.verdict])
    tag = f"{result.requirement}  {result.level}" if result.requirement else str(result.verdict)
    head.append(" " * max(2, 90 - len(head.plain) - len(tag)) + tag, "bold")
    console.print(head)
    stage = f"{result.stage}: " if result.stage else ""
    console.print(f"    {stage}{result.message}", markup=False)
    if result.reruns:
        console.print(f"    alone     {', '.join(result.reruns)} when it was run again", markup=False)
    if complete:
        requirement = requirements.get(result.requirement)
        if requirement is not None:
            console.print(f"    spec      {requirement.text}", markup=False)
        for line in _window(result.timeline):
            console.print(_line(line))
        for name, text in (("control", result.control), ("hint", result.hint)):
            if text:
                console.print(f"    {name:<9} {text}", markup=False)
        more = result.requirement or result.id
        console.print(f"    more      holdfast explain {more}", style="dim", markup=False)
    console.print()


def _window(timeline: tuple[Line, ...]) -> tuple[Line, ...]:
    """Return the lines worth showing: around the marked one, else the last ones."""
    at = next((i for i, line in enumerate(timeline) if line.marked), len(timeline) - 1)
    return timeline[max(0, at - BEFORE_MARK) : at + 1 + AFTER_MARK]


def _line(line: Line) -> Text:
    text = line.text if len(line.text) <= 120 else line.text[:117] + "…"
    shown = Text(f"      {f'+{line.at:.1f} ms':<12} {line.who:<9} {line.way}  {text}", "dim")
    if line.marked:
        shown.stylize("bold not dim")
        shown.append("   ◀", "bold red")
    return shown


def _unverified(report: Report, console: Console) -> None:
    reasons = Counter(r.message for r in report.checks if r.verdict is Verdict.UNVERIFIED)
    for reason, count in reasons.most_common(SHOWN):
        first = next(r.id for r in report.checks if r.message == reason and r.verdict is Verdict.UNVERIFIED)
        which = first if count == 1 else f"{count} checks"
        console.print(Text(f"  {GLYPHS[Verdict.UNVERIFIED]} {which}   {reason}", STYLES[Verdict.UNVERIFIED]))
    if len(reasons) > SHOWN:
        console.print(f"  ? … and {len(reasons) - SHOWN} more reasons", markup=False)
    if reasons:
        console.print()
