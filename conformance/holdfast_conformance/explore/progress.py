"""What an exploration shows while it goes on: one line that is written over, above it what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from .campaign import Progress

if TYPE_CHECKING:
    from .campaign import Exploration, Found

__all__ = ["Lines"]

CLEAR = "\x1b[K"
"""Erases the rest of a line of a terminal."""


class Lines(Progress):
    """Writes to a stream; without a terminal only what was found."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()

    def performed(self, exploration: Exploration, new: list[Found]) -> None:
        for found in new:
            anomaly = found.anomaly
            self._line(f"✗ {anomaly.kind} {anomaly.requirement}: {anomaly.message}", stays=True)
        counts = exploration.counts
        self._line(
            f"  {exploration.plans} plans, {counts['deliveries']} deliveries, {counts['resumes']} resumes, "
            f"{counts['faults']} faults, {len(exploration.found)} kinds of anomalies"
        )

    def shrinking(self, found: Found) -> None:
        self._line(f"  making {found.anomaly.kind} {found.anomaly.requirement} small")

    def _line(self, text: str, *, stays: bool = False) -> None:
        if self._live:
            self._stream.write(f"{text}{CLEAR}" + ("\n" if stays else "\r"))
        elif stays:
            self._stream.write(f"{text}\n")
        self._stream.flush()
