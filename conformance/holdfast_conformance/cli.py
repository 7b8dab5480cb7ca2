"""The command `holdfast`.

Only argument parsing is loaded at first: `--version` and usage errors need no event loop.

Exit codes: 0 conformant or partial, 1 non-conformant, 2 usage or nothing ran, 3 inconclusive, 130
interrupted.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .explore.command import explore, replay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from rich.console import Console

    from .case import Check
    from .report import Report
    from .requirements import Requirements
    from .runner import Options, Progress
    from .target import Target

__all__ = ["main"]

INTERRUPTED = 130
FORMATS = ("json",)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from .report import suite_version

        click.echo(f"holdfast {suite_version()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
)
def main() -> None:
    """Judge a Holdfast server by its URL."""


class _Lanes(click.ParamType[int]):
    name = "auto|N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value in ("auto", 0):
            return 0
        try:
            lanes = int(str(value))
        except ValueError:
            lanes = 0
        if lanes < 1:
            self.fail(f"{value!r} is neither 'auto' nor a number from 1", param, ctx)
        return lanes


class _Number(click.FloatRange):
    """A number of a range; `nan` and `inf`, which no range keeps out, are none."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class _ReportFile(click.ParamType[tuple[str, Path]]):
    name = "FORMAT[=PATH]"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        format, _, path = str(value).partition("=")
        if format not in FORMATS:
            self.fail(f"unknown report format {format!r}; there is: {', '.join(FORMATS)}", param, ctx)
        return format, Path(path or f"report.{format}")


@main.command()
@click.argument("target", required=False)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Run only these: an id, an area, a requirement, a pattern with *.",
)
@click.option("--skip", multiple=True, metavar="PATTERN", help="Leave these out.")
@click.option(
    "--level",
    type=click.Choice(["must", "should", "all"]),
    default="all",
    help="Only requirements this strong.",
)
@click.option("--lanes", type=_Lanes(), default="auto", help="Checks at the same time.")
@click.option("--time-scale", type=_Number(min=0, min_open=True), default=1.0, help="Multiply every wait.")
@click.option(
    "--max-wait",
    type=_Number(min=0),
    default=15.0,
    help="Longest timer of the target to sit out, in seconds.",
)
@click.option(
    "--report",
    "reports",
    type=_ReportFile(),
    multiple=True,
    help="Write a report, such as json=report.json; repeatable.",
)
@click.option(
    "--intrusive", is_flag=True, help="Allow floods and stalls although the target is not on this machine."
)
@click.option("--seed", type=click.IntRange(min=0), help="Repeat the order and the random values of a run.")
@click.option(
    "--deadline", type=_Number(min=0, min_open=True), help="End after so many seconds, inconclusive."
)
@click.option("--fail-fast", is_flag=True, help="End at the first failure.")
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict alone.")
def check(
    target: str | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    level: str,
    lanes: int,
    time_scale: float,
    max_wait: float,
    reports: tuple[tuple[str, Path], ...],
    intrusive: bool,
    seed: int | None,
    deadline: float | None,
    fail_fast: bool,
    quiet: bool,
) -> None:
    """Judge TARGET: a ws:// or wss:// URL, or a target file. Without one, the bundled reference server."""
    try:
        from .report import NOTHING_RAN
        from .runner import Options
        from .target import TargetError, bundled, from_text

        options = Options(
            lanes=lanes,
            scale=time_scale,
            max_wait=max_wait,
            intrusive=intrusive,
            seed=seed,
            deadline=deadline,
            fail_fast=fail_fast,
        )
        checks = _select(only, skip, level)
        chosen = bundled() if target is None else from_text(target)
        report = _run(chosen, checks, options, quiet=quiet)
    except KeyboardInterrupt:  # before the run listens for it; nothing is there to report
        sys.exit(INTERRUPTED)
    except TargetError as error:
        _complain(str(error), error.hint)
        sys.exit(2)
    written = [_write(path, report) for _, path in reports]
    _show(report, written, quiet=quiet)
    if report.exit_code == NOTHING_RAN:
        _complain("none of the selected checks could run", "each unverified check says what it needs")
    sys.exit(report.exit_code)


def _run(target: Target, checks: list[Check], options: Options, *, quiet: bool) -> Report:
    import trio

    from .runner import Progress, run
    from .trial import first

    async def supervised() -> Report:
        stop = trio.CancelScope()

        async def listen(task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                task_status.started()
                async for _ in signals:
                    stop.cancel()

        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            with progress as shown:
                report = await run(
                    target, checks=checks, options=options, progress=shown or Progress(), stop=stop
                )
            nursery.cancel_scope.cancel()
        return report

    progress = _progress(quiet=quiet)
    try:
        return trio.run(supervised)
    except ExceptionGroup as group:  # of the nursery; the caller knows what may be inside
        raise first(group) from group


def _progress(*, quiet: bool) -> AbstractContextManager[Progress | None]:
    if quiet:
        return nullcontext(None)
    from .progress import LiveProgress, PlainProgress

    console = _console(stderr=True)
    return LiveProgress(console) if console.is_terminal else nullcontext(PlainProgress(console))


def _show(report: Report, written: list[str], *, quiet: bool) -> None:
    from . import requirements
    from .render import render, render_verdict

    console = _console()
    if quiet:
        render_verdict(report, console, written)
        if report.problem:
            _complain(report.problem, report.hint)
    else:
        render(report, requirements.published(), console, written)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def _write(path: Path, report: Report) -> str:
    from . import requirements

    try:
        path.write_text(
            json.dumps(report.document(requirements.published()), indent=1, ensure_ascii=False) + "\n",
            "utf-8",
        )
    except OSError as error:
        _complain(f"cannot write {path}: {error.strerror}", "the verdict stands; give another path")
        return f"(not {path})"
    return str(path)


def _select(only: Sequence[str], skip: Sequence[str], level: str) -> list[Check]:
    from . import collect, requirements

    try:
        return collect.select(
            collect.everything(), requirements.published(), only=only, skip=skip, level=level
        )
    except collect.NoMatchError as error:
        meant = (
            f"did you mean {' or '.join(error.close)}?" if error.close else "holdfast list shows every check"
        )
        _complain(str(error), meant)
        sys.exit(2)


@main.command(name="list")
@click.option("--covers", metavar="ID", help="Only the checks of this requirement.")
def list_checks(covers: str | None) -> None:
    """List every check: its level, what it covers, its id and title."""
    from . import requirements

    known = requirements.published()
    for check in sorted(_select((covers,) if covers else (), (), "all"), key=lambda check: check.id):
        found = known.get(check.covers[0]) if check.covers else None
        covered = " ".join(check.covers) or "-"
        click.echo(f"{found.level if found else '-':<10} {covered:<16} {check.id:<52} {check.title}")


@main.command()
@click.argument("id")
def explain(id: str) -> None:
    """Explain a requirement (SUB-05), a check (sub/...) or an ambient rule."""
    from . import collect, requirements
    from .ambient import RULES

    known, checks = requirements.published(), collect.everything()
    wanted = id.upper() if id.upper() in known else id
    requirement, rule = known.get(wanted), RULES.get(wanted)
    if requirement is not None:
        click.echo(
            f"{requirement.id}  {requirement.level}  binds the {requirement.subject}  {requirement.file}\n"
        )
        click.echo(f"  {requirement.text}\n")
        lines = [f"  {check.id:<52} {check.title}" for check in checks if wanted in check.covers]
        lines += [
            f"  {r.id:<52} {r.title} (on every frame)" for r in RULES.values() if r.requirement == wanted
        ]
        click.echo("\n".join(lines) or "  No check covers it.")
    elif rule is not None:
        click.echo(f"{rule.id}\n\n  {rule.title}\n  Judged on every frame of every check.\n")
        _explain_covers([rule.requirement], known)
    else:
        check = next(iter(_select((wanted,), (), "all")))
        click.echo(f"{check.id}\n\n  {check.title}\n")
        _explain_covers(check.covers, known)
        if check.needs:
            click.echo(f"  needs     {', '.join(check.needs)}")
        marks = [name for name in ("slow", "intrusive", "serial") if getattr(check, name)]
        if marks:
            click.echo(f"  is        {', '.join(marks)}")
        click.echo(f"  run it    holdfast check TARGET --only {check.id}")


def _explain_covers(ids: Sequence[str], known: Requirements) -> None:
    for id in ids:
        requirement = known.get(id)
        if requirement is not None:
            click.echo(f"  {id:<9} {requirement.level}: {requirement.text}")
    click.echo("")


def _complain(message: str, hint: str) -> None:
    click.echo(f"holdfast: {message}", err=True)
    if hint:
        click.echo(f"    hint  {hint}", err=True)


main.add_command(explore)
main.add_command(replay)
