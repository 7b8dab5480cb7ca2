"""What a run shows while it goes on: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from .render import GLYPHS, STYLES
from .runner import Progress
from .verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from .report import Report
    from .verdict import CheckResult

__all__ = ["LiveProgress", "PlainProgress"]

TOLD = (Verdict.FAIL, Verdict.WARN, Verdict.ERROR)
"""Verdicts worth a line while the run goes on."""


class PlainProgress(Progress):
    """One line at the beginning, and one for each check that did not go well."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, total: int, report: Report) -> None:
        self._console.print(f"{total} checks against {report.url}, {report.lanes} lanes", markup=False)

    def done(self, result: CheckResult) -> None:
        if result.verdict in TOLD:
            line = Text(f"{GLYPHS[result.verdict]} {result.id}: {result.message}", STYLES[result.verdict])
            self._console.print(line, soft_wrap=True)


class LiveProgress(PlainProgress):
    """A bar that goes away at the end, above it the checks that did not go well."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = Bar(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("connecting", total=None)

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total: int, report: Report) -> None:
        self._bar.update(self._task, total=total, description=report.server.get("name") or report.url)

    def done(self, result: CheckResult) -> None:
        super().done(result)
        self._bar.advance(self._task)
