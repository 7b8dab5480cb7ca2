"""What waits to be written: one first-in-first-out queue per session, and the frames that go past it.

This file knows about room: how much is queued, how far the window reaches, who gives up events when it is
too much, and which slots are still held by a terminal that has not left. It does not know why a frame is
queued or what is in it. A subscription that has a log gives up nothing: its events are read again later.

Spec: 06-delivery, 09-limits-timers [LIM-09], 12-history [HIS-06] [HIS-18].
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.errors import CloseCode, ProtocolViolation
from holdfast_reference.protocol.limits import MAX_UNSEQUENCED, SEQ_ROOM

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from holdfast_reference.protocol.limits import Limits
    from holdfast_reference.protocol.replay import Place

__all__ = [
    "AUTH_END",
    "CALL_END",
    "CHUNK",
    "EVENT",
    "GAP",
    "OPEN",
    "PONG",
    "REFUSAL",
    "REPLAYED",
    "SUBSCRIPTION_END",
    "Item",
    "Outgoing",
    "split",
]

# Kinds of queued frames; `counts` is indexed by them. Plain integers, for one is compared per frame.
EVENT: Final = 0  #: an event, or the gap that stands for one too large: both may be lost to overflow
GAP: Final = 1  #: a gap for overflow, whose text is made when it leaves, for it may still grow
OPEN: Final = 2
CHUNK: Final = 3
PONG: Final = 4  #: a fenced pong, which needs no window
CALL_END: Final = 5  #: a terminal that holds a slot of `max_inflight`
SUBSCRIPTION_END: Final = 6  #: a terminal that holds a slot of `max_subscriptions`
AUTH_END: Final = 7  #: the terminal of an `auth`, which has a slot of its own
REFUSAL: Final = 8  #: a terminal that holds none
REPLAYED: Final = 9  #: an event, or a gap for trimming, from the log: one for each subscription that replays
_KINDS: Final = 10
_ODD: Final = frozenset({GAP, PONG, REPLAYED})
_REPLAYED_AT_ONCE: Final = 8  # events from logs per peek: others want to be served too
_DISCARDED: Final = frozenset({EVENT, GAP, CHUNK, REPLAYED})

#: Kind, exchange, the text up to and with its `id`, the text after that, and the place in the log or 0.
Item = tuple[int, int, bytes, bytes, int]


def split(text: bytes) -> tuple[bytes, bytes]:
    """A frame in two, so that `seq` can stand behind its `id`."""
    at = text.find(b",", text.find(b'"id":') + 1)
    if at < 0:
        at = len(text) - 1
    return text[:at], text[at:]


class Outgoing:
    """The outgoing frames of one session.

    `counts[kind]` says how many frames of a kind are queued, `size` how many bytes of them all; `full`
    whether reading must stop until something is written [DEL-12] [DEL-14], `flooded` whether the connection
    must end [DEL-32]. `sent` and `acked` are the highest `seq` of each, `unacked` the texts between them;
    `places` says where subscriptions stand in their logs.

    Args:
        limits: of the session.
        sequenced: whether frames are numbered and kept until they are acknowledged (profile `ack`).
    """

    __slots__ = (
        "_again",
        "_ahead",
        "_event_bytes",
        "_later",
        "_limits",
        "_missed",
        "_odd",
        "_peeked",
        "_queue",
        "_refused_bytes",
        "_sequenced",
        "_sums",
        "_unacked_bytes",
        "_urgent",
        "acked",
        "counts",
        "flooded",
        "full",
        "places",
        "sent",
        "size",
        "unacked",
    )

    def __init__(self, limits: Limits, sequenced: bool = False) -> None:
        self._limits = limits
        self._sequenced = sequenced
        self._queue: deque[Item] = deque()
        self._urgent: list[bytes] = []
        self._later: list[tuple[int, bytes]] = []  # pongs behind a publish that still runs
        self._event_bytes = 0
        self._sums: dict[int, int] | None = None  # of it by subscription, from an overflow on
        self._refused_bytes = 0
        self._odd = 0  # how many gaps, fenced pongs and replayed events are queued
        self._missed: dict[int, int] = {}  # of the overflow gaps in the queue, by subscription
        self._again = 0  # how many of the newest `unacked` this connection has not been sent yet
        self._unacked_bytes = 0
        # Of the last peek, for `written`: the texts but the urgent ones, and what replays go on with.
        self._peeked: list[bytes] = []
        self._ahead: list[Item | None] = []
        self.places: dict[int, Place] = {}
        self.unacked: deque[bytes] = deque()
        self.sent = self.acked = 0
        self.counts = [0] * _KINDS
        self.size = 0
        self.full = False
        self.flooded = False

    def __bool__(self) -> bool:
        return bool(self._queue or self._urgent or self._again)

    @property
    def blocked(self) -> bool:
        """Whether the window is closed. Spec: [DEL-22] [DEL-23]."""
        return self._sequenced and (
            self.sent - self.acked >= self._limits.window or self._unacked_bytes >= self._limits.window_bytes
        )

    @property
    def replaying(self) -> bool:
        """Whether an event from a log is next to leave, or one behind what leaves with it."""
        return self.counts[REPLAYED] > 0 and not self.blocked

    # What is queued.

    def urgent(self, text: bytes) -> None:
        """Queue a frame without `id`; it goes before everything else."""
        self._urgent.append(text)
        self._look()

    def push(self, kind: int, id: int, text: bytes) -> None:
        """Queue a frame that cannot be lost."""
        head, tail = split(text) if self._sequenced else (text, b"")
        self._queue.append((kind, id, head, tail, 0))
        self.counts[kind] += 1
        self.size += len(text)

    def _append(self, item: Item) -> None:
        """Queue a frame that takes a look when it leaves: a gap, a fenced pong, something replayed."""
        self._queue.append(item)
        self._odd += 1
        self.counts[item[0]] += 1
        self.size += len(item[2]) + len(item[3])

    def refuse(self, id: int, text: bytes) -> None:
        """Queue the terminal of an exchange that took no slot."""
        self.push(REFUSAL, id, text)
        self._refused_bytes += len(text)
        self._look()

    def event(self, id: int, head: bytes, tail: bytes, position: int, lossy: bool) -> bool:
        """Queue an event, or the gap that stands for one.

        Args:
            head: its text up to and with the `id`.
            tail: the rest of it.
            position: of the event, when the subscription has a log.
            lossy: whether events may be given up for it, because the socket takes nothing at the moment.
        Returns:
            False if it was not queued, because there is no room and nothing may be given up.
        """
        size = len(head) + len(tail)
        counts, limits = self.counts, self._limits
        full = counts[EVENT] >= limits.queue or self._event_bytes + size > limits.queue_bytes
        if full and not lossy and not self.blocked:
            if counts[EVENT]:
                return False
            full = False  # it alone is more than the queue may hold, and leaves at once
        self._queue.append((EVENT, id, head, tail, position))
        counts[EVENT] += 1
        self.size += size
        self._event_bytes += size
        if self._sums is not None:
            self._sums[id] = self._sums.get(id, 0) + size
        if full:
            self._overflow()
        return True

    def _overflow(self) -> None:
        """Take all events from the subscription with the most queued bytes, until the rest is within bounds.

        Where the first of them stood it goes on from the log, if it has one. Otherwise one gap stands there,
        or counts more if it is queued already. Spec: [DEL-02] [DEL-03] [DEL-04] [DEL-05] [DEL-35].
        """
        counts, limits = self.counts, self._limits
        if self._sums is None:
            self._sums = {}
            for kind, id, head, tail, _ in self._queue:
                if kind == EVENT:
                    self._sums[id] = self._sums.get(id, 0) + len(head) + len(tail)
        while counts[EVENT] > limits.queue or self._event_bytes > limits.queue_bytes:
            self._give_up(max(self._sums, key=self._sums.__getitem__))

    def _give_up(self, victim: int) -> None:
        place = self.places.get(victim)
        missed = self._missed
        given_up = [item for item in self._queue if item[1] == victim and item[0] == EVENT]
        rest = [item for item in self._queue if item[1] != victim or item[0] != EVENT]
        at = self._queue.index(given_up[0])
        self._queue = deque(rest[:at])
        for item in given_up:
            self._lost(item)
        if place is not None:
            position = given_up[0][4]
            self._replay(victim, place, place.read(position - 1))
        else:
            if victim not in missed:
                missed[victim] = 0
                self._append((GAP, victim, b"", b"", 0))
            missed[victim] += len(given_up)
        self._queue += rest[at:]
        if place is not None:
            self._release()

    def _lost(self, item: Item) -> None:
        """Account for an item that was taken out of the queue without being written."""
        kind, _, head, tail, _ = item
        size = len(head) + len(tail)
        self.counts[kind] -= 1
        self.size -= size
        if kind == EVENT:
            self._event_bytes -= size
            if self._sums is not None:
                self._sums[item[1]] -= size
        elif kind in _ODD:
            self._odd -= 1

    def follow(self, id: int, place: Place) -> None:
        """From here on a subscription has a log, and goes on from its place there."""
        self.places[id] = place
        self._replay(id, place, place.read(place.position))

    def _replay(self, id: int, place: Place, item: Item | None) -> None:
        """Queue what comes next from the log; when nothing does, the subscription is live."""
        place.replaying = item is not None
        if item is None:
            place.position = place.log.end
        else:
            self._append(item)

    def stop_replays(self) -> None:
        """Read no log any more: the session is over."""
        self.places.clear()
        self._remove(lambda item: item[0] == REPLAYED)

    def discard(self, id: int) -> None:
        """Forget what is queued for an exchange that ends early, but its `open`. Spec: [RPC-11]."""
        self.places.pop(id, None)
        self._remove(lambda item: item[1] == id and item[0] in _DISCARDED)
        if self._sums is not None:
            self._sums.pop(id, None)
        self._missed.pop(id, None)

    def forget_events(self, id: int, unwanted: Callable[[bytes], bool]) -> None:
        """Drop those queued events of a subscription that its session may no longer see."""
        self._remove(lambda item: item[0] == EVENT and item[1] == id and unwanted(item[2] + item[3]))

    def _remove(self, unwanted: Callable[[Item], bool]) -> None:
        counts = self.counts
        if not (counts[EVENT] or counts[GAP] or counts[CHUNK] or counts[REPLAYED]):
            return
        rest: deque[Item] = deque()
        for item in self._queue:
            if unwanted(item):
                self._lost(item)
            else:
                rest.append(item)
        self._queue = rest

    # The fence.

    def fence(self, text: bytes, publish: int = 0) -> None:
        """Queue a pong behind every event of now; if those are kept back, it says so and does not wait.

        Args:
            text: a pong without `held`.
            publish: id of the session's latest publish that still runs, 0 for none: the pong waits for it.

        Spec: [DEL-15] [DEL-36].
        """
        if publish:
            self._later.append((publish, text))
        elif self._queue and (self.counts[REPLAYED] or self.blocked):
            self._urgent.append(_held(text))
        elif self._queue or self._again:
            self._append((PONG, 0, text, b"", 0))
        else:
            self._urgent.append(text)
        self._look()

    def took_effect(self, oldest: float) -> None:
        """Publishes of this session have ended; `oldest` is the id of the oldest that runs, or infinity."""
        while self._later and self._later[0][0] < oldest:
            self.fence(self._later.pop(0)[1])

    def _release(self) -> None:
        """Let those pongs go that wait for what the window or a replay keeps back. Spec: [DEL-36]."""
        if not self.counts[PONG]:
            return
        blocked, stopped = self.blocked, False
        rest: deque[Item] = deque()
        for item in self._queue:
            if item[0] == PONG and stopped:
                self._lost(item)
                self._urgent.append(_held(item[2]))
            else:
                stopped = stopped or item[0] == REPLAYED or (blocked and item[0] != PONG)
                rest.append(item)
        self._queue = rest

    def holds(self, kind: int, id: int) -> bool:
        """Whether a frame of this kind is queued for an exchange."""
        return self.counts[kind] > 0 and any(item[0] == kind and item[1] == id for item in self._queue)

    def owners(self, kind: int) -> set[int]:
        """The exchanges for which a frame of this kind is queued."""
        return {item[1] for item in self._queue if item[0] == kind} if self.counts[kind] else set()

    def _look(self) -> None:
        counts, limits, blocked = self.counts, self._limits, self.blocked
        self.full = len(self._urgent) + len(self._later) + counts[PONG] >= MAX_UNSEQUENCED or (
            counts[REFUSAL] >= limits.max_inflight and not blocked
        )
        self.flooded = blocked and self._refused_bytes > limits.window_bytes

    # What leaves.

    def peek(self, size: int) -> list[bytes]:
        """The next frames to write, about `size` bytes, at least one; [] when nothing may leave.

        They stay where they are, and may still be lost or discarded, until `written` says that they left.
        """
        queue = self._queue
        if self._odd or self._again or self.size > size:
            return self._peek_singly(size)
        if not self._sequenced:
            texts = [head + tail for _, _, head, tail, _ in queue]
        else:
            seq, more, limits = self.sent, len(queue), self._limits
            room = self._unacked_bytes + self.size + SEQ_ROOM * more <= limits.window_bytes
            if not room or seq + more > self.acked + limits.window:
                return self._peek_singly(size)
            texts = []
            for _, _, head, tail, _ in queue:
                seq += 1
                texts.append(b'%b,"seq":%d%b' % (head, seq, tail))
        self._peeked = texts
        return self._urgent + texts if self._urgent else texts

    def _peek_singly(self, size: int) -> list[bytes]:
        """The same where it takes a look at each frame."""
        limits, sequenced = self._limits, self._sequenced
        texts: list[bytes] = []
        self._ahead.clear()
        for text in islice(self.unacked, len(self.unacked) - self._again, None):
            if size <= 0:
                break
            texts.append(text)
            size -= len(text)
        queued = iter(self._queue)
        behind: deque[Item] = deque()  # what `written` will append for replays
        seq, held = self.sent, self._unacked_bytes
        while size > 0:
            item = next(queued, None) or (behind.popleft() if behind else None)
            if item is None:
                break
            kind, id, head, tail, position = item
            if kind == PONG:
                text = head
            else:
                if sequenced and (seq >= self.acked + limits.window or held >= limits.window_bytes):
                    break
                if kind == GAP:
                    head, tail = split(_overflow_gap(id, self._missed[id]))
                elif kind == REPLAYED:
                    if len(self._ahead) == _REPLAYED_AT_ONCE:
                        break
                    following = self.places[id].read(position)
                    self._ahead.append(following)
                    if following is not None:
                        behind.append(following)
                if sequenced:
                    seq += 1
                    text = b'%b,"seq":%d%b' % (head, seq, tail)
                    held += len(text)
                else:
                    text = head + tail
            texts.append(text)
            size -= len(text)
        self._peeked = texts
        return self._urgent + texts

    def written(self, count: int) -> None:
        """The first `count` frames of the last `peek` have left: their slots and their room are free."""
        if self._urgent:
            overtaking = min(count, len(self._urgent))
            del self._urgent[:overtaking]
            count -= overtaking
        queue = self._queue
        if count == len(queue) and not (self._odd or self._again):
            if self._sequenced:
                self.sent += count
                for text in self._peeked:  # mostly one
                    self.unacked.append(text)
                    self._unacked_bytes += len(text)
            queue.clear()
            self.counts = [0] * _KINDS
            self.size = self._event_bytes = self._refused_bytes = 0
            self._sums = None
        else:
            for text in self._peeked[:count]:
                self._leave(text)
            if self.blocked:
                self._release()
        self._peeked = []
        if self.full or self._refused_bytes:
            self._look()

    def _leave(self, text: bytes) -> None:
        """The next frame is written, with this text."""
        if self._again:
            self._again -= 1
            return
        item = self._queue.popleft()
        kind, id, _, _, _ = item
        self._lost(item)
        if kind == GAP:
            del self._missed[id]
        elif kind == REFUSAL:
            self._refused_bytes -= len(item[2]) + len(item[3])
        elif kind == REPLAYED:
            self._replay(id, self.places[id], self._ahead.pop(0))
        if self._sequenced and kind != PONG:
            self.sent += 1
            self.unacked.append(text)
            self._unacked_bytes += len(text)

    # What connections come and go for.

    def check_ack(self, seq: int) -> None:
        """Raises:
        ProtocolViolation: 4004, nothing of this number has been sent. Spec: [DEL-26].
        """
        if seq > self.sent:
            raise ProtocolViolation(CloseCode.BAD_ACK, f"ack {seq} of {self.sent}")

    def ack(self, seq: int) -> None:
        """The client has everything up to `seq`, and will not ask for it again; raises as `check_ack` does.

        Spec: [DEL-27].
        """
        self.check_ack(seq)
        if seq <= self.acked:
            return
        unacked = self.unacked
        if seq == self.sent:
            unacked.clear()
            self._unacked_bytes = 0
        else:
            self._unacked_bytes -= sum(len(unacked.popleft()) for _ in range(seq - self.acked))
        self.acked = seq
        self._again = min(self._again, len(unacked))
        if self.full or self._refused_bytes:
            self._look()

    def detach(self) -> None:
        """The connection is gone, and what was meant for it alone."""
        self._urgent.clear()
        self._later.clear()
        if self.counts[PONG]:
            pongs, self._queue = self._queue, deque()
            for item in pongs:
                if item[0] == PONG:
                    self._lost(item)
                else:
                    self._queue.append(item)
        self._again = 0
        self._look()

    def attach(self) -> None:
        """Another connection is there, and is sent everything that is not acknowledged. Spec: [RES-29]."""
        self._again = len(self.unacked)

    def copy(self) -> Outgoing:
        twin = Outgoing.__new__(Outgoing)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        for name in ("_queue", "_urgent", "_later", "_missed", "_peeked", "_ahead", "unacked", "counts"):
            setattr(twin, name, getattr(self, name).copy())
        twin._sums = None if self._sums is None else self._sums.copy()
        twin.places = {id: place.copy() for id, place in self.places.items()}
        return twin

    def key(self) -> Hashable:
        return (
            tuple(self._queue),
            tuple(self._urgent),
            tuple(self._later),
            frozenset(self._missed.items()),
            frozenset((id, place.key()) for id, place in self.places.items()),
            self._again,
            self.acked,
            tuple(self.unacked),
        )


def _overflow_gap(id: int, missed: int) -> bytes:
    return b'{"type":"gap","id":%d,"reason":"overflow","missed":%d}' % (id, missed)


def _held(pong: bytes) -> bytes:
    return pong[:-1] + b',"held":true}'
