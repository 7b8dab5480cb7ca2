"""What the ambient rules know of one session, across all of its connections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .expect import Frame

__all__ = ["Row", "Strand"]


@dataclass(slots=True)
class Row:
    """What is known about one exchange: the frame that started it, and how far it got.

    `places` has each cursor of a subscription that has a log, in the order in which they came.
    """

    sent: Mapping[str, object]
    opened: bool = False
    ended: bool = False
    answered: bool = False
    logged: bool = False
    places: dict[object, int] = field(default_factory=dict)


@dataclass(slots=True, weakref_slot=True)
class Strand:
    """One session.

    Attributes:
        exchanges: by id.
        limits: of its first welcome.
        frame_limit: bytes of the largest frame that the client takes; 0 as long as nothing was agreed.
        highest: the highest `seq` that arrived on any connection.
        acked: the highest that we acknowledged. The server may know of less, never of more.
        sent: the numbered frames above `acked` that arrived, as they were when they came first.
        bytes: their size.
    """

    exchanges: dict[object, Row] = field(default_factory=dict)
    limits: Mapping[str, object] = field(default_factory=dict)
    frame_limit: int = 0
    highest: int = 0
    acked: int = 0
    sent: dict[int, Frame] = field(default_factory=dict)
    bytes: int = 0
    _sizes: dict[int, int] = field(default_factory=dict)

    def agree(self, limits: Mapping[str, object]) -> None:
        """Take note of the limits, which hold for the life of the session."""
        self.limits = self.limits or limits

    def acknowledge(self, seq: int) -> None:
        """Take note of an ack that is on its way, whatever the server will make of it."""
        while self.acked < min(seq, self.highest):
            self.acked += 1
            self.sent.pop(self.acked, None)
            self.bytes -= self._sizes.pop(self.acked, 0)
        self.acked = max(self.acked, seq)

    def receive(self, seq: int, frame: Frame, size: int) -> None:
        """Take note of a frame that came for the first time."""
        self.highest = max(self.highest, seq)
        if seq > self.acked:
            self.sent[seq] = frame
            self._sizes[seq] = size
            self.bytes += size

    @property
    def used(self) -> int:
        """The highest id that we sent."""
        return max((id for id in self.exchanges if isinstance(id, int)), default=0)

    @property
    def answered(self) -> int:
        """The highest id about which a frame came."""
        return max(
            (id for id, row in self.exchanges.items() if row.answered and isinstance(id, int)), default=0
        )

    def window_open(self, seq: int) -> bool:
        """Return whether the window let a frame with this new number pass."""
        window = self.limits.get("window")
        return not isinstance(window, int) or seq - self.acked <= window

    @property
    def room(self) -> bool:
        """Whether the bytes of the window let a new frame pass."""
        window_bytes = self.limits.get("window_bytes")
        return not isinstance(window_bytes, int) or self.bytes < window_bytes
