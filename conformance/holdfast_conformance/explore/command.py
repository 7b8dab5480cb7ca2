"""The commands `holdfast explore` and `holdfast replay`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import rich_click as click

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from ..target import Target
    from .campaign import Exploration
    from .perform import Performance

__all__ = ["explore", "replay"]

R = TypeVar("R")

LACKING = "drawing plans needs Hypothesis"


@click.command()
@click.argument("target", required=False)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Draw plans for so long. Default: 30, or no limit with --plans.",
)
@click.option("--plans", type=click.IntRange(min=1), help="Perform so many plans at most.")
@click.option("--jobs", type=click.IntRange(min=1), default=6, help="Plans at the same time.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="Draw other plans; the same seed draws the same."
)
@click.option(
    "--shrink",
    type=click.FloatRange(min=0),
    default=20.0,
    help="Seconds for making one finding small; 0 leaves it.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the report goes. Without it, findings alone are kept, in holdfast-explore.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict alone.")
def explore(
    target: str | None,
    seconds: float | None,
    plans: int | None,
    jobs: int,
    seed: int,
    shrink: float,
    out: Path | None,
    quiet: bool,
) -> None:
    """Search TARGET for lost, doubled and reordered messages, with random clients and random cuts.

    TARGET is a ws:// or wss:// URL, or a target file. Without one, the bundled reference server.
    """
    from . import campaign
    from .progress import Lines

    try:
        from .draw import draw
    except ModuleNotFoundError:
        _complain(LACKING, "pip install 'holdfast[explore]'")
        sys.exit(2)
    if seconds is None and plans is None:
        seconds = 30.0
    chosen = _target(target)
    options = campaign.Options(seconds, plans, jobs, seed, shrink)
    progress = campaign.Progress() if quiet else Lines(sys.stderr)

    async def main(stop: trio.CancelScope) -> Exploration:
        return await campaign.explore(chosen, options, draw(seed), progress=progress, stop=stop)

    exploration = _run(main)
    _show(exploration, chosen, out, quiet=quiet)
    sys.exit(exploration.exit_code)


@click.command()
@click.argument("plan", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("target", required=False)
@click.option("--times", type=click.IntRange(min=1), default=5, help="Perform it so often.")
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict alone.")
def replay(plan: Path, target: str | None, times: int, quiet: bool) -> None:
    """Perform the PLAN of a finding again, against the target that it names or against TARGET."""
    from . import campaign
    from .campaign import Found
    from .plan import PlanError, read
    from .report import finding
    from .shrink import shows

    try:
        stored = read(plan)
    except PlanError as error:
        _complain(str(error), "holdfast explore writes such files; see schemas/meta/plan.schema.json")
        sys.exit(2)
    source = target if target is not None else stored.get("target")
    chosen = _target(source)

    async def main(stop: trio.CancelScope) -> tuple[Exploration, list[Performance]]:
        return await campaign.replay(stored, chosen, times, stop=stop)

    exploration, performances = _run(main)
    wanted = stored.get("finding")
    seen = [
        performance
        for performance in performances
        if (
            shows(performance, wanted["kind"], wanted["requirement"])
            if wanted
            else performance.judgement.found
        )
    ]
    if seen and not quiet:
        anomaly = next(
            a
            for a in seen[0].judgement.found
            if not wanted or (a.kind, a.requirement) == (wanted["kind"], wanted["requirement"])
        )
        found = Found(anomaly, seen[0], plans=1, reproduced=len(seen), runs=times)
        click.echo("\n".join(finding(found, chosen.mask)))
    if not seen and (exploration.problem or exploration.stopped):
        _complain(exploration.problem or "interrupted", exploration.hint)
        sys.exit(exploration.exit_code)
    what = f"{wanted['kind']} {wanted['requirement']}" if wanted else "an anomaly"
    click.echo(f"\n  {'REPRODUCED' if seen else 'NOT REPRODUCED'}  {what}  {len(seen)}/{times}")
    sys.exit(1 if seen else 0)


def _target(source: str | None) -> Target:
    from ..target import TargetError, bundled, from_text

    try:
        return bundled() if source is None else from_text(source)
    except TargetError as error:
        _complain(str(error), error.hint)
        sys.exit(2)


def _run(main: Callable[[trio.CancelScope], Awaitable[R]]) -> R:
    """Run to the end, or until a signal asks to stop, which cancels the scope that `main` gets."""
    import trio

    from ..trial import first

    async def supervised() -> R:
        stop = trio.CancelScope()

        async def listen(task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                task_status.started()
                async for _ in signals:
                    stop.cancel()

        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            result = await main(stop)
            nursery.cancel_scope.cancel()
        return result

    try:
        return trio.run(supervised)
    except ExceptionGroup as group:  # of the nursery; the caller knows what may be inside
        raise first(group) from group


def _show(exploration: Exploration, target: Target, out: Path | None, *, quiet: bool) -> None:
    from .report import save, summary

    texts: list[list[str]] = []
    if out is not None or exploration.found:
        folder = out or Path("holdfast-explore")
        try:
            texts = save(folder, exploration, target.mask)
        except OSError as error:
            _complain(f"cannot write to {folder}: {error.strerror}", "the verdict stands; give another --out")
    if not quiet:
        for text in texts[:1]:
            click.echo("\n" + "\n".join(text))
        for text in texts[1:]:  # the first one is enough to read at once
            click.echo(f"\n{text[0]}\n{text[2]}\n{text[-1]}")
        click.echo("\n" + "\n".join(summary(exploration)))
    if exploration.problem:
        _complain(exploration.problem, exploration.hint)
    found = len(exploration.found)
    kinds = f"{found} {'kind' if found == 1 else 'kinds'} of anomalies" if found else "no anomaly"
    where = f"   wrote {out or 'holdfast-explore'}" if texts or out is not None else ""
    took = f"{exploration.plans} plans   {exploration.seconds:.1f} s"
    click.echo(f"\n  {exploration.verdict}   {kinds} in {took}{where}")


def _complain(message: str, hint: str) -> None:
    click.echo(f"holdfast: {message}", err=True)
    if hint:
        click.echo(f"    hint  {hint}", err=True)
