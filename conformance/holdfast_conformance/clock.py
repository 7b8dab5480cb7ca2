"""The two clocks of a run: how long to wait for what must happen, and how long to watch for what must not.

"Must happen" waits are long and cost time only on failure. "Must not happen" windows are derived from how
fast the same target reacted in this very run. A heartbeat measures our own event loop; a window during which
this process was not running proves nothing, and whoever relies on it is told so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

__all__ = ["PATIENCE", "Clock", "Rtt"]

PATIENCE = 10.0
"""Seconds to wait for something that must happen, before scaling."""

EXPIRED_BEFORE_SHRINKING = 3
"""So many waits may run to their end; after that the target is considered dead and waits shrink."""

BEAT = 0.05
"""Seconds between two beats of the loop's own heartbeat."""

STALL_SHARE = 0.2
"""The share of a window for which the loop may stand still before the window counts as unwatched."""


@dataclass(frozen=True, slots=True)
class Rtt:
    """Round-trip times that the calibration measured, in seconds."""

    p50: float
    p99: float


@dataclass(slots=True)
class Clock:
    """Durations for one run, in seconds of trio's clock.

    Args:
        scale: multiplies every wait and window; more than 1 for slow machines.
        max_wait: the longest declared timer of the target that a check may sit out.
    """

    scale: float = 1.0
    max_wait: float = 15.0
    rtt: Rtt = Rtt(0.001, 0.01)
    slowest_control: float = 0.0
    expired: int = 0
    _stalls: list[tuple[float, float]] = field(default_factory=list)

    @property
    def dead(self) -> bool:
        """Whether so much stayed unanswered that the target looks dead."""
        return self.expired >= EXPIRED_BEFORE_SHRINKING

    @property
    def patience(self) -> float:
        """How long to wait for something that must happen."""
        if not self.dead:
            return PATIENCE * self.scale
        return max(1.0, 50 * self.rtt.p99) * self.scale

    @property
    def quiet_window(self) -> float:
        """How long to watch for something that must not happen, when nothing better than silence is
        available.
        """
        return min(max(8 * self.slowest_control, 0.05), 2.0) * self.scale

    def reacted(self, seconds: float) -> None:
        """Record how long the target took from a stimulus to the wanted reaction."""
        self.slowest_control = max(self.slowest_control, seconds)

    def stalled(self, begin: float, end: float) -> bool:
        """Return whether our own loop stood still for more than a fifth of the window."""
        lost = sum(min(end, b) - max(begin, a) for a, b in self._stalls if a < end and b > begin)
        return lost > STALL_SHARE * (end - begin)

    async def beat(self) -> None:
        """Notice, until cancelled, when this process is not running."""
        while True:
            due = trio.current_time() + BEAT
            await trio.sleep_until(due)
            now = trio.current_time()
            if now - due > BEAT / 5:
                self._stalls.append((due, now))
                del self._stalls[:-1000]
