"""What has arrived of a session, and when the server has to hear of it. Spec: [DEL-28] [DEL-29]."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from holdfast_reference.client.errors import BadServerFrame

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping


@dataclass(slots=True)
class Received:
    """Acks are due at the latest after half a window, in frames or in bytes, or after `delay` seconds.

    Attributes:
        sequenced: whether the session has profile `ack`; without it nothing is counted.
        got: the highest `seq` received; everything up to it was.
        due: when the next ack must be written; `inf` when the server knows everything.
    """

    sequenced: bool = False
    frames: float = inf
    size: float = inf
    delay: float = inf
    got: int = 0
    due: float = inf
    _frames: int = 0
    _size: int = 0

    @classmethod
    def of(cls, limits: Mapping[str, object]) -> Received:
        """Nothing yet, in a session with these `welcome.limits`."""
        match limits:
            case {"window": int(window), "window_bytes": int(size), "ack_delay_ms": int(delay_ms)}:
                return cls(True, max(1, window // 2), max(1, size // 2), delay_ms / 1000)
            case _:
                return cls()

    def is_new(self, seq: int | None, size: int, now: float) -> bool:
        """Count a frame of `size` bytes; return False for one that came before, on another connection.

        Raises:
            BadServerFrame: there is one missing before it.

        Spec: [DEL-30] [DEL-31].
        """
        if not self.sequenced:
            return True
        if seq is None or seq > self.got + 1:
            raise BadServerFrame(f"seq {seq} after {self.got}")
        if seq <= self.got:
            return False
        self.got = seq
        self._frames += 1
        self._size += size
        full = self._frames >= self.frames or self._size >= self.size
        self.due = now if full else min(self.due, now + self.delay)
        return True

    def told(self) -> None:
        """The server is told of `got`, by an ack or by a resume."""
        self.due, self._frames, self._size = inf, 0, 0

    def copy(self) -> Received:
        return replace(self)

    def key(self) -> Hashable:
        return (self.got, self.due, self._frames, self._size)
