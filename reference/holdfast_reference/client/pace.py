"""Sending no faster than the server's token bucket refills. Spec: 09-limits-timers [LIM-15]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Pace:
    """When the next frame may go: a token every `each` seconds, at most those of `full` seconds kept."""

    each: float
    full: float
    _paid_until: float = float("-inf")

    @classmethod
    def of(cls, limits: Mapping[str, object]) -> Pace | None:
        """The pace that `welcome.limits` asks for; None when it asks for none."""
        match limits.get("rate"):
            case {"count": int(count), "per_ms": int(per_ms)} if count > 0:
                return cls(per_ms / 1000 / count, per_ms / 1000)
            case _:
                return None

    def due(self, now: float) -> float:
        """When the next frame may go; `now` at the earliest."""
        return max(now, self._paid_until + self.each - self.full)

    def take(self, now: float) -> None:
        """A frame goes now."""
        self._paid_until = max(self._paid_until, now) + self.each
