"""What waits to be written: one first-in-first-out queue per session, and the frames that go past it.

This file knows about room: how much is queued, who loses when it is too much, and which slots are still
held by a terminal that has not left. It does not know why a frame is queued or what is in it.

Spec: 06-delivery [DEL-02] to [DEL-06] [DEL-12] [DEL-14] [DEL-15], 09-limits-timers [LIM-09].
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.limits import MAX_UNSEQUENCED

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from holdfast_reference.protocol.limits import Limits

__all__ = ["AUTH_END", "CALL_END", "CHUNK", "OPEN", "REFUSAL", "SUBSCRIPTION_END", "Outgoing"]

# Kinds of queued frames; `counts` is indexed by them. Plain integers, for one is compared per frame.
EVENT: Final = 0  #: an event, or the gap that stands for one too large: both may be lost to overflow
GAP: Final = 1  #: a gap for overflow, whose text is made when it leaves, for it may still grow
OPEN: Final = 2
CHUNK: Final = 3
PONG: Final = 4  #: a fenced pong
CALL_END: Final = 5  #: a terminal that holds a slot of `max_inflight`
SUBSCRIPTION_END: Final = 6  #: a terminal that holds a slot of `max_subscriptions`
AUTH_END: Final = 7  #: the terminal of an `auth`, which has a slot of its own
REFUSAL: Final = 8  #: a terminal that holds none
_KINDS: Final = 9
_DISCARDED: Final = frozenset({EVENT, GAP, CHUNK})


class Outgoing:
    """The outgoing frames of one session.

    `counts[kind]` says how many frames of a kind are queued, `size` how many bytes of them all; `full`
    whether reading must stop until something is written [DEL-12] [DEL-14].
    """

    __slots__ = (
        "_event_bytes",
        "_limits",
        "_missed",
        "_queue",
        "_urgent",
        "counts",
        "full",
        "size",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queue: deque[tuple[int, int, bytes]] = deque()
        self._urgent: list[bytes] = []
        self._event_bytes = 0
        self._missed: dict[int, int] = {}  # of the overflow gaps in the queue, by subscription
        self.counts = [0] * _KINDS
        self.size = 0
        self.full = False

    def __bool__(self) -> bool:
        return bool(self._queue or self._urgent)

    def urgent(self, text: bytes) -> None:
        """Queue a frame without `id`; it goes before everything else."""
        self._urgent.append(text)
        self._look()

    def push(self, kind: int, id: int, text: bytes) -> None:
        """Queue a frame that cannot be lost."""
        self._queue.append((kind, id, text))
        self.counts[kind] += 1
        self.size += len(text)

    def refuse(self, id: int, text: bytes) -> None:
        """Queue the terminal of an exchange that took no slot."""
        self.push(REFUSAL, id, text)
        self._look()

    def event(self, id: int, text: bytes, lossy: bool) -> bool:
        """Queue an event, or the gap that stands for one.

        Args:
            lossy: whether events may be lost for it, because the socket takes nothing at the moment.
        Returns:
            False if it was not queued, because there is no room and nothing may be lost.
        """
        size = len(text)
        counts, limits = self.counts, self._limits
        full = counts[EVENT] >= limits.queue or self._event_bytes + size > limits.queue_bytes
        if full and not lossy:
            return False
        self._queue.append((EVENT, id, text))
        counts[EVENT] += 1
        self.size += size
        self._event_bytes += size
        if full:
            self._overflow()
        return True

    def _overflow(self) -> None:
        """Take all events from the subscription with the most queued bytes, until the rest is within bounds.

        One gap stands where the first of them stood, or counts more if it is queued already.
        Spec: [DEL-02] [DEL-03] [DEL-04] [DEL-05].
        """
        counts, limits, missed = self.counts, self._limits, self._missed
        while counts[EVENT] > limits.queue or self._event_bytes > limits.queue_bytes:
            queued: dict[int, int] = {}
            for kind, id, text in self._queue:
                if kind == EVENT:
                    queued[id] = queued.get(id, 0) + len(text)
            victim = max(queued, key=queued.__getitem__)
            rest: deque[tuple[int, int, bytes]] = deque()
            for item in self._queue:
                kind, id, text = item
                if kind != EVENT or id != victim:
                    rest.append(item)
                    continue
                if victim not in missed:
                    missed[victim] = 0
                    counts[GAP] += 1
                    rest.append((GAP, victim, b""))
                missed[victim] += 1
                counts[EVENT] -= 1
                self.size -= len(text)
            self._event_bytes -= queued[victim]
            self._queue = rest

    def discard(self, id: int) -> None:
        """Forget what is queued for an exchange that ends early, but its `open`. Spec: [RPC-11]."""
        counts = self.counts
        if not (counts[EVENT] or counts[GAP] or counts[CHUNK]):
            return
        rest: deque[tuple[int, int, bytes]] = deque()
        for item in self._queue:
            kind, owner, text = item
            if owner == id and kind in _DISCARDED:
                counts[kind] -= 1
                self.size -= len(text)
                if kind == EVENT:
                    self._event_bytes -= len(text)
            else:
                rest.append(item)
        self._queue = rest
        self._missed.pop(id, None)

    def forget_events(self, id: int, unwanted: Callable[[bytes], bool]) -> None:
        """Drop those queued events of a subscription that its session may no longer see."""
        if not self.counts[EVENT]:
            return
        rest: deque[tuple[int, int, bytes]] = deque()
        for item in self._queue:
            kind, owner, text = item
            if kind == EVENT and owner == id and unwanted(text):
                self.counts[EVENT] -= 1
                self.size -= len(text)
                self._event_bytes -= len(text)
            else:
                rest.append(item)
        self._queue = rest

    def fence(self, text: bytes) -> None:
        """Queue a pong behind every event that is queued now. Spec: [DEL-15]."""
        if self._queue:
            self.push(PONG, 0, text)
        else:
            self._urgent.append(text)
        self._look()

    def holds(self, kind: int, id: int) -> bool:
        """Whether a frame of this kind is queued for an exchange."""
        return self.counts[kind] > 0 and any(item[0] == kind and item[1] == id for item in self._queue)

    def _look(self) -> None:
        counts = self.counts
        self.full = (
            counts[REFUSAL] >= self._limits.max_inflight
            or len(self._urgent) + counts[PONG] >= MAX_UNSEQUENCED
        )

    def peek(self, size: int) -> list[bytes]:
        """The next frames to write, about `size` bytes, at least one; [] when nothing waits.

        They stay where they are, and may still be lost or discarded, until `written` says that they left.
        """
        if self.size <= size and not self.counts[GAP]:
            texts = [item[2] for item in self._queue]
            return self._urgent + texts if self._urgent else texts
        out = self._urgent.copy()
        for kind, id, text in self._queue:
            if size <= 0:
                break
            if kind == GAP:
                text = _overflow_gap(id, self._missed[id])
            out.append(text)
            size -= len(text)
        return out

    def written(self, count: int) -> None:
        """The first `count` frames of the last `peek` have left: their slots and their room are free."""
        if self._urgent:
            overtaking = min(count, len(self._urgent))
            del self._urgent[:overtaking]
            count -= overtaking
        queue = self._queue
        if count == len(queue) and not self.counts[GAP]:
            queue.clear()
            self.counts = [0] * _KINDS
            self.size = self._event_bytes = 0
            if self.full:
                self._look()
            return
        for _ in range(count):
            kind, id, text = queue.popleft()
            self.counts[kind] -= 1
            self.size -= len(text)
            if kind == EVENT:
                self._event_bytes -= len(text)
            elif kind == GAP:
                del self._missed[id]
        if self.full:
            self._look()

    def copy(self) -> Outgoing:
        twin = Outgoing(self._limits)
        twin._queue = self._queue.copy()
        twin._urgent = self._urgent.copy()
        twin._event_bytes = self._event_bytes
        twin._missed = self._missed.copy()
        twin.counts = self.counts.copy()
        twin.size = self.size
        twin.full = self.full
        return twin

    def key(self) -> Hashable:
        return (
            tuple(self._queue),
            tuple(self._urgent),
            frozenset(self._missed.items()),
        )


def _overflow_gap(id: int, missed: int) -> bytes:
    return b'{"type":"gap","id":%d,"reason":"overflow","missed":%d}' % (id, missed)
