"""What an exploration leaves behind: the summary, the report, and the files of each finding."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from .. import requirements
from ..report import suite_version
from ..target import bundled
from .anomalies import KINDS
from .history import write as write_history
from .plan import Finding, Plan
from .plan import write as write_plan
from .words import diagram, steps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .campaign import Exploration, Found

__all__ = ["FORMAT", "document", "finding", "save", "summary"]

FORMAT = "holdfast-explore-report/1"

SIGNS = {"pass": "✓", "fail": "✗", "unknown": "?", "n/a": "·"}


def document(exploration: Exploration) -> dict[str, object]:
    """Return the report; it satisfies `schemas/meta/explore.schema.json`."""
    counts = exploration.counts
    return {
        "format": FORMAT,
        "suite": {"name": "holdfast", "version": suite_version()},
        "target": {
            "source": exploration.source,
            "url": exploration.url,
            "profiles": sorted({"core", *exploration.profiles}) if exploration.profiles else [],
        },
        "run": {
            "started": exploration.started,
            "seconds": round(exploration.seconds, 3),
            "seed": exploration.seed,
            "plans": exploration.plans,
            "unfinished": exploration.unfinished,
            "stopped": exploration.stopped,
            "problem": exploration.problem,
            "hint": exploration.hint,
        },
        "verdict": exploration.verdict,
        "exit_code": exploration.exit_code,
        "counts": {name: counts[name] for name in sorted(counts) if ":" not in name},
        "faults": _named(exploration, "fault:"),
        "refusals": _named(exploration, "refused:"),
        "guarantees": [
            {
                "name": standing.guarantee.name,
                "promised": standing.promised,
                "consistent": standing.consistent,
                "verdict": standing.verdict,
                "lacking": standing.lacking,
            }
            for standing in exploration.standings
        ],
        "anomalies": [
            {
                "kind": found.anomaly.kind,
                "requirement": found.anomaly.requirement,
                "message": found.anomaly.message,
                "guarantee": found.anomaly.spoils,
                "plans": found.plans,
                "reproduced": found.reproduced,
                "runs": found.runs,
                "plan": found.performance.plan,
            }
            for found in exploration.findings
        ],
    }


def _named(exploration: Exploration, prefix: str) -> dict[str, int]:
    counts = exploration.counts
    return {name.removeprefix(prefix): counts[name] for name in sorted(counts) if name.startswith(prefix)}


def summary(exploration: Exploration) -> list[str]:
    """Return the table that ends an exploration."""
    counts = exploration.counts
    faults = ", ".join(f"{name} {count}" for name, count in _named(exploration, "fault:").items())
    plans = f"{exploration.plans} in {exploration.seconds:.1f} s, seed {exploration.seed}"
    unfinished = f", {exploration.unfinished} of them without an end" if exploration.unfinished else ""
    lines = [
        f"  plans       {plans}{unfinished}",
        f"  calls       {counts['calls']}, of which {counts['publishes']} publish something",
        f"  deliveries  {counts['deliveries']} events, {counts['replies']} answers, {counts['gaps']} gaps",
        f"  sessions    {counts['sessions']}, {counts['resumes']} resumes, {counts['recoveries']} recoveries",
        f"  faults      {counts['faults']}: {faults}" if faults else "  faults      none",
        "",
        f"  {'guarantee':<34}{'promised':<16}{'consistent with':<18}verdict",
    ]
    for standing in exploration.standings:
        lacking = f"  (saw {standing.lacking})" if standing.lacking else ""
        lines.append(
            f"{SIGNS[standing.verdict]} {standing.guarantee.title:<34}{standing.promised or '-':<16}"
            f"{standing.consistent if standing.verdict != 'n/a' else '-':<18}{standing.verdict}{lacking}"
        )
    return lines


def finding(found: Found, mask: Callable[[str], str], files: str = "", replay: str = "") -> list[str]:
    """Return everything about one finding: what, against which sentence, how to cause it, and the diagram."""
    anomaly, performance = found.anomaly, found.performance
    requirement = requirements.published().get(anomaly.requirement)
    lines = [
        f"✗ {anomaly.kind}  {anomaly.requirement}  in {found.plans} plan{'s' * (found.plans > 1)}",
        f"  {KINDS[anomaly.kind].title}",
        f"  {mask(anomaly.message)}",
    ]
    if requirement is not None:
        lines.append(f"  [{requirement.id}] {requirement.text}")
    lines += ["", "  witness"]
    lines += [f"    {line}" for line in steps(performance.plan)]
    lines += ["", *(f"  {line}" for line in diagram(performance.rows, anomaly.rows, mask)), ""]
    lines.append(f"  reproduced {found.reproduced}/{found.runs}" if found.runs else "  not tried again")
    if replay:
        lines += [f"  again   {replay}", f"  files   {files}"]
    return lines


def save(folder: Path, exploration: Exploration, mask: Callable[[str], str]) -> list[list[str]]:
    """Write the report and, for each finding, its plan, history and diagram; return the findings in words."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = []
    for number, found in enumerate(exploration.findings, 1):
        anomaly, stem = found.anomaly, f"{number}-{found.anomaly.kind}"
        what: Finding = {"kind": anomaly.kind, "requirement": anomaly.requirement, "message": anomaly.message}
        stored: Plan = {**found.performance.plan, "finding": what}
        if exploration.source != bundled().source:
            stored["target"] = exploration.source
        write_plan(folder / f"{stem}.plan.json", stored, mask)
        write_history(folder / f"{stem}.history.jsonl", found.performance.rows, mask)
        replay = f"holdfast replay {shlex.quote(str(folder / f'{stem}.plan.json'))}"
        text = finding(found, mask, f"{folder / stem}.{{plan.json,history.jsonl,txt}}", replay)
        (folder / f"{stem}.txt").write_text("\n".join(text) + "\n", "utf-8")
        texts.append(text)
    report = json.dumps(document(exploration), indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(mask(report) + "\n", "utf-8")
    return texts
