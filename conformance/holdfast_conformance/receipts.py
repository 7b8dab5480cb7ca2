"""Which numbered frames of the server have arrived, and when an honest client acknowledges them.

Profile `ack` only. A client acks at the latest after half of the window, in frames or in bytes, or after
`ack_delay_ms`. Nothing here sends; see `Session`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Receipts"]


@dataclass(slots=True)
class Receipts:
    """The numbers of one session, kept across its connections.

    Attributes:
        got: the highest `seq` that arrived.
        acked: the highest that was acknowledged, by `ack` or by a resume.
        window, window_bytes: of the welcome.
        delay: the longest that an ack may wait, in seconds.
    """

    got: int = 0
    acked: int = 0
    window: int = 1
    window_bytes: int = 1
    delay: float = 0.0
    _bytes: int = 0

    def agree(self, limits: Mapping[str, object]) -> None:
        """Take over the limits of a welcome; what it lacks leaves the most eager acks."""
        numbers = {name: value for name, value in limits.items() if isinstance(value, int)}
        self.window = numbers.get("window", 1)
        self.window_bytes = numbers.get("window_bytes", 1)
        self.delay = numbers.get("ack_delay_ms", 0) / 1000

    def arrived(self, seq: int, size: int) -> bool:
        """Count a frame; return whether it is the first time that it came."""
        self._bytes += size
        first = seq > self.got
        self.got = max(self.got, seq)
        return first

    @property
    def owed(self) -> bool:
        """Whether anything waits for an ack."""
        return self._bytes > 0

    @property
    def due(self) -> bool:
        """Whether it must not wait any longer, whatever the time."""
        return self.got - self.acked >= max(1, self.window // 2) or self._bytes >= self.window_bytes // 2

    def acknowledged(self, seq: int) -> None:
        """Take note of an ack that is being sent."""
        self.acked = max(self.acked, seq)
        if seq >= self.got:
            self._bytes = 0
