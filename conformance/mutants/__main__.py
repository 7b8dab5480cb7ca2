"""`python -m mutants`: run the proof and print it."""

from __future__ import annotations

import importlib
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_conformance import collect, requirements
from holdfast_conformance.verdict import Verdict

from mutants import exploring, nulls, variants
from mutants.harness import MUTANTS, covering, judge, judge_process, serve, world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast_conformance.case import Check
    from holdfast_conformance.report import Report

NOT_AREAS = {"__init__", "__main__", "exploring", "harness", "nulls", "variants"}
BLAME = (Verdict.FAIL, Verdict.WARN)
SHOWN = (*BLAME, Verdict.ERROR, Verdict.FLAKY)
WIDTH = 400  # characters of a message that are shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target: `faults` say why it does not count, `killers` who blamed it rightly."""

    name: str
    faults: tuple[str, ...]
    killers: tuple[str, ...]
    seconds: float
    story: tuple[str, ...] = ()


def load() -> None:
    """Import every area's mutants."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in NOT_AREAS:
            importlib.import_module(f"mutants.{path.stem}")


def try_mutant_with_all(name: str) -> Outcome:
    """Like `try_mutant`, with every check that neither floods nor sits out timers; slow, for `--matrix`."""
    return try_mutant(
        name, [check for check in collect.everything() if not check.slow and not check.intrusive]
    )


def try_mutant(name: str, besides: Sequence[Check] = ()) -> Outcome:
    """Run every check that covers what the mutant violates, and say whether the named ones killed it."""
    mutant = MUTANTS[name]
    began = time.perf_counter()
    wanted = {check.id: check for check in (*besides, *covering(mutant.violates))}
    known = {check.id: check for check in collect.everything()}
    wanted |= {id: known[id] for id in mutant.killed_by if id in known}
    wanted |= {id: known[id] for pattern in mutant.during for id in known if fnmatchcase(id, pattern)}
    try:
        if mutant.process:
            report = judge_process(list(wanted.values()), name)
        else:
            with world(mutant.apply) as (here, target):
                report = judge(list(wanted.values()), here.open, target)
    except AttributeError as error:  # the reference server has changed under its patch
        return Outcome(name, (f"cannot be applied: {error}",), (), time.perf_counter() - began)
    results = {result.id: result for result in report.checks}
    faults = [f"not viable: {report.problem}"] if report.problem else []
    for id in mutant.killed_by:
        result = results.get(id)
        if result is None:
            faults.append(f"{id}: no such check, or it did not run")
        elif result.verdict not in BLAME:
            faults.append(f"{id}: {result.verdict} {result.message}".rstrip())
        elif result.requirement != mutant.violates:
            faults.append(f"{id}: cites {result.requirement}, not {mutant.violates}: {result.message}")
        elif mutant.says not in result.message:
            faults.append(f"{id}: does not say {mutant.says!r}: {result.message}")
    killers = tuple(
        r.id for r in report.checks if r.verdict in BLAME and (besides or r.requirement == mutant.violates)
    )
    story = tuple(
        f"{r.id}: {r.verdict} [{r.requirement}] {r.message}" for r in report.checks if r.verdict in SHOWN
    )
    return Outcome(name, tuple(faults), killers, time.perf_counter() - began, story)


def try_variant(name: str) -> Outcome:
    """Run every check against a legal variant; nobody may be blamed."""
    began = time.perf_counter()
    report = variants.run(variants.VARIANTS[name])
    return Outcome(name, tuple(_blamed(report)), (), time.perf_counter() - began, (_summary(report),))


def try_null(name: str) -> Outcome:
    """Run every check against a null target; only the pinned ones may pass."""
    began = time.perf_counter()
    faults, story = nulls.run(name)
    return Outcome(name, tuple(faults), (), time.perf_counter() - began, (story,))


def _blamed(report: Report) -> Iterable[str]:
    if report.problem:
        yield f"inconclusive: {report.problem}"
    for result in report.checks:
        if result.verdict in (*BLAME, Verdict.ERROR, Verdict.FLAKY):
            yield f"{result.id}: {result.verdict} [{result.requirement}] {result.message}"


def _summary(report: Report) -> str:
    counts: dict[str, int] = {}
    for result in report.checks:
        counts[result.verdict] = counts.get(result.verdict, 0) + 1
    return ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))


def _each(
    title: str, names: Sequence[str], attempt: Callable[[str], Outcome], pool: ProcessPoolExecutor, good: str
) -> list[Outcome]:
    print(f"\n{title}")
    outcomes = []
    for outcome in pool.map(attempt, names):
        outcomes.append(outcome)
        verdict = "FAILED" if outcome.faults else good
        detail = ", ".join(outcome.killers) or "; ".join(outcome.story)
        print(f"  {verdict:<7} {outcome.name:<44} {detail if not outcome.faults else ''}", flush=True)
        for fault in outcome.faults:
            print(f"            {fault[:WIDTH]}")
    return outcomes


def uncovered(killed: set[str]) -> list[str]:
    """The MUSTs that bind a server, have a check, and no mutant that died."""
    tested = {requirement for check in collect.everything() for requirement in check.covers}
    published = requirements.published()
    return [
        id
        for id in sorted(tested)
        if (row := published.get(id)) is not None
        and row.level in ("MUST", "MUST NOT")
        and row.subject != "client"
        and id not in killed
    ]


def main(arguments: list[str]) -> int:
    """Run what the arguments select; 0 when the proof holds, 1 when it does not, 2 when nothing matches."""
    load()
    if arguments == ["--list"]:
        for mutant in MUTANTS.values():
            print(f"{mutant.name:<44} {mutant.violates}  {', '.join(mutant.killed_by)}  {mutant.title}")
        return 0
    if arguments[:1] == ["--explore"]:
        return exploring.main(arguments[1:])
    if arguments[:1] == ["--serve"]:
        serve((exploring.EXPLORED | MUTANTS)[arguments[1]].apply)
        return 0
    attempt: Callable[[str], Outcome] = try_mutant
    if arguments == ["--matrix"]:
        arguments, attempt = [], try_mutant_with_all
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:  # forked, so everything is loaded once
        if arguments:
            return _some(arguments, pool)
        mutants = _each("mutants, and who killed them", list(MUTANTS), attempt, pool, "killed")
        null = _each("null targets", list(nulls.NULLS), try_null, pool, "caught")
        legal = _each("legal variants", list(variants.VARIANTS), try_variant, pool, "green")
    killed = {MUTANTS[outcome.name].violates for outcome in mutants if not outcome.faults}
    killers = {id for outcome in mutants if not outcome.faults for id in outcome.killers}
    missing = uncovered(killed)
    idle = sorted(check.id for check in collect.everything() if check.id not in killers)
    failed = [outcome for outcome in (*mutants, *null, *legal) if outcome.faults]
    if missing:
        print(f"\nrequirements without a mutant that died: {', '.join(missing)}")
    if idle:
        print(f"\nchecks that killed no mutant ({len(idle)}): {', '.join(idle)}")
    print(
        f"\n{len(mutants) - sum(1 for o in mutants if o.faults)} of {len(mutants)} mutants killed, "
        f"{len(killed)} requirements; {len(null)} null targets; {len(legal)} legal variants; "
        f"{len(failed)} failed; {time.perf_counter() - began:.1f} s"
    )
    return 1 if failed or missing else 0


def _some(patterns: list[str], pool: ProcessPoolExecutor) -> int:
    groups: list[tuple[Iterable[str], Callable[[str], Outcome], str]] = [
        (MUTANTS, try_mutant, "killed"),
        (nulls.NULLS, try_null, "caught"),
        (variants.VARIANTS, try_variant, "green"),
    ]
    failed = count = 0
    for names, attempt, good in groups:
        chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
        for outcome in _each("", chosen, attempt, pool, good) if chosen else ():
            count += 1
            failed += bool(outcome.faults)
            for line in outcome.story:
                print(f"            · {line[:WIDTH]}")
    if not count:
        print(
            f"no mutant, null target or variant matches {' '.join(patterns)}; --list names them",
            file=sys.stderr,
        )
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
