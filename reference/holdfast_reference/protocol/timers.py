"""The times of one connection: what is due, and when. Seconds of the caller's clock; this file reads none.

Spec: 03-session [SES-04] [SES-18] [SES-27] [SES-30] [SES-31] [SES-32] [SES-42] [SES-49], 09-limits-timers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.states import Input, Phase

if TYPE_CHECKING:
    from collections.abc import Hashable

    from holdfast_reference.protocol.limits import Timers

__all__ = ["NEVER", "Clock"]

NEVER: Final = float("inf")


class Clock:
    """When things happened, and when others will.

    `received`, `sent` and `pinged` are the last times, `asked` that of the first ping since anything was
    received; `hello_by`, `expires_at`, `move_at` (when a drained client should move) and `drained_at` are the
    next ones, `NEVER` for none.
    """

    __slots__ = (
        "_interval",
        "_timeout",
        "asked",
        "drained_at",
        "expires_at",
        "hello_by",
        "move_at",
        "pinged",
        "received",
        "sent",
    )

    def __init__(self, timers: Timers, now: float) -> None:
        self._interval = timers.heartbeat_interval_ms / 1000
        self._timeout = timers.heartbeat_timeout_ms / 1000
        self.received = self.sent = self.pinged = now
        self.asked = -NEVER
        self.hello_by = now + timers.hello_ms / 1000
        self.expires_at = self.move_at = self.drained_at = NEVER

    def ping_at(self) -> float:
        """When the next ping is due: silence in either direction, but one ping per interval."""
        return max(min(self.sent, self.received), self.pinged) + self._interval

    def ping(self, now: float) -> None:
        """A ping is sent."""
        self.pinged = now
        if self.asked <= self.received:
            self.asked = now

    def _silence_at(self) -> float:
        """When silence ends the connection. However late we are, the peer has been asked first."""
        if self.asked <= self.received:
            return NEVER
        return max(self.received + self._interval, self.asked) + self._timeout

    def _ends(self, phase: Phase, *, auth_pending: bool) -> tuple[tuple[Input, float], ...]:
        """What can end the connection, and when; of several that are due the first counts."""
        if phase is Phase.NEW:
            return ((Input.HELLO_TIMEOUT, self.hello_by),)
        return (
            (Input.DEADLINE, self.drained_at),
            # [SES-27]: an auth that was read in time is decided before its session can expire.
            (Input.EXPIRY, NEVER if auth_pending else self.expires_at),
            (Input.SILENCE, self._silence_at()),
        )

    def deadline(self, phase: Phase, *, auth_pending: bool) -> float:
        """When something is due, the timeouts of requests aside."""
        if phase is Phase.CLOSED:
            return NEVER
        ends = min(due for _, due in self._ends(phase, auth_pending=auth_pending))
        return ends if phase is Phase.NEW else min(ends, self.ping_at())

    def end(self, phase: Phase, now: float, *, auth_pending: bool) -> Input | None:
        """What ends the connection now, if anything does."""
        if phase is Phase.CLOSED:
            return None
        ends = self._ends(phase, auth_pending=auth_pending)
        return next((what for what, due in ends if now >= due), None)

    def copy(self) -> Clock:
        twin = Clock.__new__(Clock)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def key(self) -> Hashable:
        return tuple(getattr(self, name) for name in self.__slots__)
