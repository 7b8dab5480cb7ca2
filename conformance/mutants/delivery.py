"""Mutants of spec/06-delivery.md. [DEL-11] has none: memory is seen in a process of its own only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from holdfast_reference.protocol import intake, outgoing
from holdfast_reference.protocol.codec import encode_error
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.limits import MAX_UNSEQUENCED
from holdfast_reference.protocol.outgoing import EVENT, GAP, PONG, REFUSAL, Outgoing
from holdfast_reference.protocol.session import Session as CoreSession
from holdfast_reference.server import link
from holdfast_reference.server import session as server
from holdfast_reference.server.link import Link

from mutants.harness import Patch, mutant
from mutants.tools import on_deliver, on_write

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.messages import Payload
    from holdfast_reference.protocol.outgoing import Item


@mutant(
    "del/event-lost",
    violates="DEL-01",
    killed_by="del/unbroken-run",
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """Every seventieth event of a subscription is forgotten."""
    counts: dict[tuple[CoreSession, int], int] = {}

    def deliver(self: CoreSession, id: int, event: Event) -> Event | None:
        counts[self, id] = counts.get((self, id), 0) + 1
        return event if counts[self, id] % 70 else None

    on_deliver(patch, deliver)


def _lose(queue: Outgoing, victim: int, gap: bool = True) -> None:
    """Drop the queued events of a subscription and, if wanted, leave a gap for them."""
    rest: deque[Item] = type(queue._queue)()
    lost = 0
    for item in queue._queue:
        if item[:2] != (EVENT, victim):
            rest.append(item)
            continue
        lost += 1
        queue._lost(item)
        if gap and victim not in queue._missed:
            queue._missed[victim] = 0
            queue.counts[GAP] += 1
            rest.append((GAP, victim, b"", b"", 0))
    if gap:
        queue._missed[victim] += lost
    queue._queue = rest


def _queued_bytes(queue: Outgoing) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for kind, id, head, tail, _ in queue._queue:
        if kind == EVENT:
            sizes[id] = sizes.get(id, 0) + len(head) + len(tail)
    return sizes


def _own_limit(patch: Patch, name: str) -> None:
    """Let the frame limit of the server count in one method of the session, not that of the client."""

    def ignoring(original: Callable[..., object], self: CoreSession, *args: object, **how: object) -> object:
        limit, self._max_out = self._max_out, self.limits.max_frame
        try:
            return original(self, *args, **how)
        finally:
            self._max_out = limit

    patch.wrap(CoreSession, name, ignoring)


@mutant(
    "del/smallest-loses",
    violates="DEL-02",
    killed_by="del/noisy-subscription-loses",
    says="the quiet subscription lost events",
)
def _(patch: Patch) -> None:
    """The subscription with the fewest queued bytes loses."""

    def overflow(self: Outgoing) -> None:
        sizes = _queued_bytes(self)
        _lose(self, min(sizes, key=sizes.__getitem__))

    patch.set(Outgoing, "_overflow", overflow)


@mutant(
    "del/everybody-loses",
    violates="DEL-02",
    killed_by="del/noisy-subscription-loses",
    says="the quiet subscription lost events",
)
def _(patch: Patch) -> None:
    """On overflow the whole queue is emptied."""

    def overflow(self: Outgoing) -> None:
        for victim in _queued_bytes(self):
            _lose(self, victim)

    patch.set(Outgoing, "_overflow", overflow)


@mutant(
    "del/silent-loss",
    violates="DEL-03",
    killed_by="del/overflow-leaves-a-gap",
    says="no gap",
)
def _(patch: Patch) -> None:
    """What does not fit into the queue is lost, and nobody hears of it."""

    def overflow(self: Outgoing) -> None:
        sizes = _queued_bytes(self)
        _lose(self, max(sizes, key=sizes.__getitem__), gap=False)

    patch.set(Outgoing, "_overflow", overflow)


@mutant(
    "del/gap-misplaced",
    violates="DEL-03",
    killed_by="del/overflow-leaves-a-gap",
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """The newest events are lost, and the gap stands in front of everything that is queued."""

    def overflow(self: Outgoing) -> None:
        item = self._queue.pop()
        self._lost(item)
        victim = item[1]
        if victim not in self._missed:
            self._missed[victim] = 0
            self.counts[GAP] += 1
            self._queue.appendleft((GAP, victim, b"", b"", 0))

    patch.set(Outgoing, "_overflow", overflow)
    patch.set(outgoing, "_overflow_gap", lambda id, _: b'{"type":"gap","id":%d,"reason":"overflow"}' % id)


@mutant(
    "del/gap-after-gap",
    violates="DEL-04",
    killed_by="del/second-overflow-raises-the-gap",
    says="gaps tell of events",
)
def _(patch: Patch) -> None:
    """Every overflow queues a gap of its own."""

    def overflow(self: Outgoing) -> None:
        sizes = _queued_bytes(self)
        victim = max(sizes, key=sizes.__getitem__)
        _lose(self, victim)
        missed = self._missed.pop(victim)
        self.counts[GAP] -= 1
        self._queue = type(self._queue)(
            (outgoing.OPEN, item[1], outgoing._overflow_gap(item[1], missed), b"", 0)
            if item[0] == GAP
            else item
            for item in self._queue
        )
        self.counts[outgoing.OPEN] += 1

    patch.set(Outgoing, "_overflow", overflow)


@mutant(
    "del/missed-by-one",
    violates="DEL-05",
    killed_by=["del/overflow-leaves-a-gap", "del/second-overflow-raises-the-gap"],
    says="`missed` of the gap",
)
def _(patch: Patch) -> None:
    """`missed` does not count the event that made the queue overflow."""
    patch.wrap(outgoing, "_overflow_gap", lambda original, id, missed: original(id, missed - 1))


@mutant("del/missed-two", violates="DEL-05", killed_by="del/event-too-large", says="`missed` of the gap")
def _(patch: Patch) -> None:
    """The gap for one event too large says that two are missing."""
    on_write(patch, lambda frame: frame | {"missed": 2} if frame.get("reason") == "too_large" else None)


@mutant(
    "del/large-event-dropped",
    violates="DEL-06",
    killed_by="del/event-too-large",
    says='expected "gap"',
)
def _(patch: Patch) -> None:
    """An event that is too large for a client is left out."""

    def event(
        original: Callable[..., bool], self: Outgoing, id: int, head: bytes, tail: bytes, *rest: object
    ) -> bool:
        return b'"too_large"' in tail[:40] or original(self, id, head, tail, *rest)

    patch.wrap(Outgoing, "event", event)


@mutant(
    "del/large-event-sent",
    violates="DEL-06",
    killed_by="del/event-too-large",
    says='expected "gap"',
)
def _(patch: Patch) -> None:
    """An event goes out whole, whatever the client said that it takes."""
    _own_limit(patch, "deliver")


@mutant(
    "del/large-result-is-internal",
    violates="DEL-07",
    killed_by="del/result-too-large",
    says='got error "internal"',
)
def _(patch: Patch) -> None:
    """A result that is too large for the client is an internal error."""

    def fail(original: Callable[..., Effects], self: CoreSession, id: int, error: ExchangeError) -> Effects:
        if error.code == ErrorCode.TOO_LARGE:
            error = ExchangeError(ErrorCode.INTERNAL, "")
        return original(self, id, error)

    patch.wrap(CoreSession, "fail", fail)


@mutant(
    "del/large-result-sent",
    violates="DEL-07",
    killed_by="del/result-too-large",
    says="got result on exchange",
)
def _(patch: Patch) -> None:
    """A result goes out whole, whatever the client said that it takes."""
    _own_limit(patch, "succeed")


@mutant(
    "del/large-chunk-skipped",
    violates="DEL-08",
    killed_by="del/chunk-too-large",
    says='expected error "too_large"',
)
def _(patch: Patch) -> None:
    """A chunk that is too large for the client is left out of the stream."""

    def chunk(original: Callable[..., Effects], self: CoreSession, id: int, payload: Payload) -> Effects:
        return NOTHING if len(payload.json) + 60 > self._max_out else original(self, id, payload)

    patch.wrap(CoreSession, "chunk", chunk)


@mutant(
    "del/large-chunk-sent",
    violates="DEL-08",
    killed_by="del/chunk-too-large",
    says="got result on exchange",
)
def _(patch: Patch) -> None:
    """A chunk goes out whole, whatever the client said that it takes."""
    _own_limit(patch, "chunk")


@mutant(
    "del/large-error-is-too-large",
    violates="DEL-19",
    killed_by="del/error-too-large",
    says='got error "too_large"',
)
def _(patch: Patch) -> None:
    """An error that is too large for the client loses its code."""

    def fail(original: Callable[..., Effects], self: CoreSession, id: int, error: ExchangeError) -> Effects:
        if len(encode_error(id, error)) > self._max_out:
            error = ExchangeError(ErrorCode.TOO_LARGE, "the error does not fit into max_frame")
        return original(self, id, error)

    patch.wrap(CoreSession, "fail", fail)


@mutant(
    "del/stream-runs-ahead",
    violates="DEL-09",
    killed_by="del/stream-waits-for-the-client",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A stream never waits for the client."""
    patch.set(CoreSession, "chunk_waits", lambda self, id: False)


@mutant(
    "del/one-slow-all-slow",
    violates="DEL-10",
    killed_by="del/slow-client-delays-nobody",
    says="expected",
)
def _(patch: Patch) -> None:
    """Nobody is written to while one socket is full."""
    writers: set[Link] = set()
    waiting: list[Link] = []

    def flush(original: Callable[..., None], self: Link, now: float) -> None:
        if writers - {self}:
            waiting.append(self)
        else:
            original(self, now)
            if self.writing and self._nursery is not None:
                writers.add(self)

    def release(link: Link) -> None:
        writers.discard(link)
        for other in waiting:
            other.owner.flusher.add(other)
        waiting.clear()

    async def write(original: Callable[[Link], Awaitable[None]], self: Link) -> None:
        await original(self)
        release(self)

    async def run(original: Callable[..., Awaitable[None]], self: Link, data: bytes) -> None:
        try:
            await original(self, data)
        finally:
            release(self)

    patch.wrap(Link, "run", run)
    patch.wrap(Link, "flush", flush)
    patch.wrap(Link, "_write", write)


def _full(patch: Patch, verdict: Callable[[Outgoing], bool]) -> None:
    """Change when reading stops until something is written."""
    patch.set(Outgoing, "_look", lambda self: setattr(self, "full", verdict(self)))


@mutant(
    "del/pongs-without-bound",
    violates="DEL-12",
    killed_by="del/unread-pongs-stop-reading",
    says="pings were read",
)
def _(patch: Patch) -> None:
    """Any number of pongs may wait to be written."""
    _full(patch, lambda queue: queue.counts[REFUSAL] >= queue._limits.max_inflight)


@mutant(
    "del/websocket-pongs-without-bound",
    violates="DEL-12",
    killed_by="del/unread-websocket-pongs-stop-reading",
    says="WebSocket pings were read",
)
def _(patch: Patch) -> None:
    """Any number of WebSocket pongs may wait to be written."""
    patch.set(link, "_MAX_PONGS", 1 << 30)


@mutant("del/long-refusals", violates="DEL-13", killed_by="del/refusals-are-small", says="a refusal has")
def _(patch: Patch) -> None:
    """Refusals explain themselves at length."""

    def push(original: Callable[..., None], self: Outgoing, kind: int, id: int, text: bytes) -> None:
        if kind == REFUSAL:
            text = text.replace(b'"message":"', b'"message":"' + b"Please read the manual. " * 20)
        original(self, kind, id, text)

    patch.wrap(Outgoing, "push", push)


@mutant(
    "del/refusals-without-bound",
    violates="DEL-14",
    killed_by="del/unread-refusals-stop-reading",
    says="frames were read and refused",
)
def _(patch: Patch) -> None:
    """Any number of refusals may wait to be written."""
    _full(patch, lambda queue: len(queue._urgent) + queue.counts[PONG] >= MAX_UNSEQUENCED)


@mutant(
    "del/fence-overtakes",
    violates="DEL-15",
    killed_by="del/fence-follows-own-publishes",
    says="behind the pong",
)
def _(patch: Patch) -> None:
    """A pong overtakes the events that are queued."""
    patch.set(Outgoing, "fence", lambda self, text, publish=0: self.urgent(text))


@mutant(
    "del/fence-overtakes-gaps",
    violates="DEL-15",
    killed_by="del/fence-waits-for-a-slow-socket",
    says="no gap",
)
def _(patch: Patch) -> None:
    """A pong overtakes what is queued once something of it was lost."""

    def fence(original: Callable[..., None], self: Outgoing, text: bytes, publish: int = 0) -> None:
        if self.counts[GAP]:
            self.urgent(text)
        else:
            original(self, text, publish)

    patch.wrap(Outgoing, "fence", fence)


@mutant(
    "del/pong-overtakes-the-broker",
    violates="DEL-15",
    killed_by=["del/fence-follows-events", "del/fence-follows-own-publishes"],
    says="behind the pong",
)
def _(patch: Patch) -> None:
    """Events go by way of a broker, and a pong does not wait for those that are on their way."""
    on_their_way: list[tuple[server._Subscription, Event]] = []

    def deliver(original: Callable[..., None], self: server._Subscription, event: Event) -> None:
        on_their_way.append((self, event))
        if len(on_their_way) == 1:
            self._session.owner.start(arrive, original)

    async def arrive(original: Callable[..., None]) -> None:
        await trio.sleep(0.001)
        arrived, on_their_way[:] = on_their_way.copy(), []
        for subscription, event in arrived:
            original(subscription, event)

    patch.wrap(server._Subscription, "deliver", deliver)


@mutant("del/pong-says-held", violates="DEL-16", killed_by="del/no-held", says="held", during=["del/fence-*"])
def _(patch: Patch) -> None:
    """Every pong says that something is held back."""
    patch.set(intake, "_PONG", b'{"type":"pong","held":true}')
    patch.wrap(
        intake,
        "encode_frame",
        lambda original, frame: original(frame | {"held": True} if frame["type"] == "pong" else frame),
    )


@mutant(
    "del/always-fenced",
    violates="DEL-17",
    killed_by="del/ping-overtakes-without-fence",
    says="the pong came behind",
)
def _(patch: Patch) -> None:
    """Every pong waits for the events, asked or not."""

    def urgent(original: Callable[..., None], self: Outgoing, text: bytes) -> None:
        if text.startswith(b'{"type":"pong"'):
            self.fence(text)
        else:
            original(self, text)

    patch.wrap(Outgoing, "urgent", urgent)


@mutant(
    "del/overflow-before-writing",
    violates="DEL-18",
    killed_by="del/burst-is-no-overflow",
    says="led to a gap although the client reads",
)
def _(patch: Patch) -> None:
    """The queue overflows at its limit, and nobody asks whether the socket would take some of it."""

    def deliver(
        original: Callable[..., bool], self: CoreSession, id: int, event: Event, *, lossy: bool
    ) -> bool:
        return original(self, id, event, lossy=True)

    patch.wrap(CoreSession, "deliver", deliver)
