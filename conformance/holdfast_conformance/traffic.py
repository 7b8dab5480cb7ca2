"""Load for checks: many events without breaking a limit, a client that does not read, and the account of
what a subscription got.

Numbered events carry `{"n": 0}`, `{"n": 1}`, ... and a `pad`; `account` compares what a subscription received
with that row, gaps included.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from .bench import without
from .expect import Emitted, Expectation, Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from .case import Test
    from .expect import Frame
    from .session import Exchange, Session

__all__ = [
    "UNNUMBERED",
    "Account",
    "Push",
    "account",
    "all_end",
    "bounded_memory",
    "close_window",
    "fill",
    "fits",
    "narrow_session",
    "overfill",
    "pattern_over",
    "pour",
    "roomy",
    "small_session",
    "unrated",
    "upcoming",
]

REMOTE_BUFFERS = 16 << 20
"""Bytes that are surely more than the network takes for a client far away that does not read."""

LARGEST_LOAD = 48 << 20
"""Bytes beyond which a check is not worth its time; such a target needs an identity with small limits."""

RECEIVE_BUFFER = 65536
"""Bytes of our kernel's buffer for a session that will not read."""

AT_ONCE = 32
"""Publishes in flight, where `max_inflight` allows so many."""


WINDOW = 4
"""Frames after which the window of a `narrow_session` is closed."""

UNNUMBERED = without("ack", "history")
"""Profiles for what nothing but a socket holds up, and where what is dropped is lost."""


async def small_session(
    t: Test, *, profiles: Sequence[str] | None = UNNUMBERED, hello: Mapping[str, object] | None = None
) -> Session:
    """Open a session that is easily filled: of the identity `limited` where the target file has it."""
    identity = "limited" if "limited" in t.bench.target.identities else None
    return await t.session(
        identity, name="slow", profiles=profiles, hello=hello, receive_buffer=RECEIVE_BUFFER
    )


async def narrow_session(
    t: Test, *, window: int = WINDOW, profiles: Sequence[str] | None = None, name: str = "narrow"
) -> Session:
    """Open a session that does not acknowledge by itself and asks for a small window; of the identity
    `small` where the target file has it.
    """
    identity = "small" if "small" in t.bench.target.identities else None
    hello = {"limits": {"window": window}}
    return await t.session(identity, name=name, profiles=profiles, hello=hello, acks=False)


async def close_window(t: Test, narrow: Session, publisher: Session, channel: str, first: int = 0) -> int:
    """Publish numbered events on a channel to which `narrow` subscribes until its window is closed.

    Returns:
        The number of the next event.
    """
    receipts = narrow.receipts
    full = receipts.acked + receipts.window
    end = first + full - receipts.got
    await pour(t, publisher, channel, end - first, first=first)
    await t.until(narrow, lambda: receipts.got >= full, "a full window", requirement="SUB-05")
    return end


def upcoming(t: Test, channel: str, data: object = None) -> Emitted:
    """Return an event that the check is about to cause in its own way, with a unique payload by default."""
    return Emitted(channel, t.payload() if data is None else data, t.now(), len(t.journal))


def pattern_over(one: str, other: str) -> str | None:
    """Return a pattern that matches both channels, None when one has more segments than the other."""
    pairs = list(zip(one.split("/"), other.split("/"), strict=False))
    if one.count("/") != other.count("/"):
        return None
    return "/".join(a if a == b else "*" for a, b in pairs)


@asynccontextmanager
async def showing_life(session: Session) -> AsyncIterator[None]:
    """Send a pong every quarter of the heartbeat interval, for a client that cannot read pings."""
    beat = session.welcome["heartbeat"]
    assert isinstance(beat, dict)

    async def send() -> None:
        while session.closure is None:
            await session.send({"type": "pong"})
            await trio.sleep(beat["interval_ms"] / 4000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        yield
        nursery.cancel_scope.cancel()


def script_frame(session: Session, *steps: Sequence[object], **fields: object) -> dict[str, object]:
    """Build a request for the conformance script; `fields` are further members, such as `stream=True`."""
    return session.frame(
        "request", method=session.script_method, data=[list(step) for step in steps], **fields
    )


async def script(session: Session, *steps: Sequence[object], **fields: object) -> Exchange:
    """Start the conformance script; `fields` are further members of the request, such as `stream=True`."""
    frame = script_frame(session, *steps, **fields)
    await session.send(frame)
    return session.exchange(frame)


def unrated(t: Test, session: Session, frames: int) -> None:
    """Raise Unverified when the session may not send that many frames at once."""
    limits = session.welcome["limits"]
    rate = limits.get("rate") if isinstance(limits, dict) else None
    if isinstance(rate, dict) and frames > rate["count"]:
        raise t.unverified(
            f"{frames} frames at once exceed the rate of {session.identity}; "
            "give the target file a first identity without `rate`"
        )


async def all_end(session: Session, exchanges: Sequence[Exchange], *, since: int) -> None:
    """Wait until every exchange has ended with `result`; an error fails the check.

    Args:
        since: the number of frames that the session had received before the exchanges were started.
    """
    waiting = {exchange.id for exchange in exchanges}

    def last(frame: Frame) -> bool:
        if frame.type == "result":
            waiting.discard(frame.get("id"))
        return not waiting

    def refused(frame: Frame) -> str | None:
        return f"got {frame}" if frame.type == "error" and frame.get("id") in waiting else None

    await Expectation(session, f"{len(waiting)} exchanges to end with result", last, refused, since=since)


async def pour(
    t: Test,
    publisher: Session,
    channel: str,
    count: int,
    *,
    size: int = 0,
    first: int = 0,
    stalled: Session | None = None,
    at_once: int = 0,
) -> None:
    """Publish numbered events from `first` on, each accepted, with half the slots in flight at most.

    No more are in flight than half of `queue` either, so that a client that reads loses nothing.

    Args:
        size: characters of `pad`.
        stalled: a session that does not read. It sends signs of life meanwhile, and the events come in
            portions for which its queue has room, so that none is lost before its socket is full.
        at_once: publishes in flight; 0 chooses as said above.
    """
    unrated(t, publisher, count)
    if not at_once:
        at_once = max(1, min(AT_ONCE, publisher.limit("max_inflight") // 2, publisher.limit("queue") // 2))
        if stalled is not None:
            room = min(stalled.limit("queue") // 2, stalled.limit("queue_bytes") // (2 * (size + 256)))
            at_once = max(1, min(at_once, room))
    pad = "x" * size
    for start in range(first, first + count, at_once):
        numbers = range(start, min(start + at_once, first + count))
        frames = [publisher.frame("publish", channel=channel, data={"n": n, "pad": pad}) for n in numbers]
        since = len(publisher.frames)
        await publisher.pipeline(*frames)
        if stalled is not None:
            await stalled.send({"type": "pong"})
        await all_end(publisher, [publisher.exchange(frame) for frame in frames], since=since)


def fits(subscription: Exchange, events: int) -> bool:
    """Return whether a subscription has a log, or its session queues so many events before one is lost."""
    logged = any(frame.type == "open" and "cursor" in frame.body for frame in subscription.frames)
    return logged or subscription.session.limit("queue") >= events


def roomy(t: Test, subscription: Exchange, events: int) -> None:
    """Raise Unverified when so many events at once may be too many for the session of a subscription."""
    if not fits(subscription, events):
        queue = subscription.session.limit("queue")
        raise t.unverified(f"the queue of {queue} may lose one of {events} events although the client reads")


def overfill(t: Test, slow: Session, publisher: Session) -> tuple[int, int]:
    """Return how many events of which `pad` are surely more than a session holds that does not read.

    Raises:
        Unverified: its limits are too large for that.
    """
    queue, queue_bytes = slow.limit("queue"), slow.limit("queue_bytes")
    most = min(slow.limit("max_frame"), publisher.limit("max_frame"))
    size = max(256, min(32768, most // 2, queue_bytes // 3))
    total = buffers(t) + 2 * queue_bytes
    count = max(math.ceil(total / size), 2 * queue)
    if count * size > LARGEST_LOAD:
        raise t.unverified(
            f"{count * size >> 20} MB would be needed to fill the queue of {slow.identity}; "
            "add an identity `limited` with small limits to the target file"
        )
    return count, size


def buffers(t: Test) -> int:
    """Return how many bytes fill all that lies between a target and a client that does not read."""
    try:
        most = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    except (OSError, ValueError, IndexError):
        return REMOTE_BUFFERS
    return most + (1 << 20) if t.bench.endpoint.loopback else REMOTE_BUFFERS


def fill(t: Test, size: int, total: int = 0) -> int:
    """Return how many messages of a size it takes to send `total` bytes; by default, to fill every buffer."""
    return math.ceil((total or buffers(t)) / size)


async def bounded_memory(
    t: Test,
    pour_part: Callable[[int], Awaitable[None]],
    *,
    part: int,
    parts: int,
    bound: int,
    whom: str,
    hint: str,
) -> None:
    """Assert that parts of a load do not each make the target's memory grow.

    Args:
        pour_part: brings one part, by its number.
        part: bytes of a part; more than the bound may be.
        bound: bytes that the limits allow for the session.
        whom: for whom the load waits, in words.
    """
    sizes = [t.resident_bytes()]
    for n in range(parts):
        await pour_part(n)
        sizes.append(t.resident_bytes())
    # A heap grows by leaps and then stays, and what is free from before hides growth for a while; what keeps
    # every event grows with nearly each of the last parts, and gives nothing back in between.
    steps = [after - before for before, after in pairwise(sizes)]
    last = steps[-3:]
    t.that(
        sorted(last)[1] < part // 2 or sum(last) < 3 * part // 2 or sizes[-1] - sizes[0] < bound + part,
        f"the memory grows with every event for {whom}: {part >> 20} MB of events each took "
        f"{[step >> 20 for step in steps]} MB; the limits allow {bound >> 10} kB in all",
        hint=hint,
    )
    t.note(f"resident memory grew by {(sizes[-1] - sizes[0]) / (1 << 20):.1f} MB")


@dataclass(frozen=True, slots=True)
class Account:
    """What a subscription received of a row of numbered events.

    Attributes:
        delivered: the numbers of the events, in the order of arrival.
        gaps: for each `gap` the number of the first event that is lost there, and of the first behind it.
    """

    delivered: tuple[int, ...]
    gaps: tuple[tuple[int, int], ...]


def account(
    t: Test,
    frames: Sequence[Frame],
    subscription: Exchange,
    end: int,
    *,
    first: int = 0,
    hole: str = "DEL-01",
    hint: str = "",
) -> Account:
    """Assert that a subscription got every event from `first` to `end` once and in order, or gaps for them.

    Args:
        frames: what its session received, as far as it is to be judged.
        end: one more than the number of the last event.
        hole: the requirement that a hole without a gap breaks.
    """
    due = first
    delivered: list[int] = []
    gaps: list[tuple[int, int]] = []
    pending: list[Frame] = []

    def settle(upto: int) -> None:
        gaps.extend((due, upto) for _ in pending)
        counts = [gap.get("missed") for gap in pending]
        if all(isinstance(count, int) for count in counts):
            missed = sum(count for count in counts if isinstance(count, int))
            t.equal(
                missed,
                upto - due,
                f"`missed` of the gap behind {due} events",
                frame=pending[-1],
                requirement="DEL-05",
                hint="count every event that the subscription lost there",
            )

    for frame in frames:
        if frame.get("id") != subscription.id:
            continue
        if frame.type == "gap":
            pending.append(frame)
        elif frame.type == "event":
            n = number(frame)
            t.that(
                n >= due, f"event {n} came again, or late: {due} was due", frame=frame, requirement="SUB-06"
            )
            if pending:
                settle(n)
            else:
                t.that(
                    n == due,
                    f"event {n} came where {due} was due, and no gap before it",
                    frame=frame,
                    requirement=hole,
                    hint=hint,
                )
            pending.clear()
            delivered.append(n)
            due = n + 1
    if pending:
        settle(end)
    else:
        t.that(
            due == end,
            f"events {due} to {end - 1} are missing, and no gap says so",
            requirement=hole,
            hint=hint,
        )
    return Account(tuple(delivered), tuple(gaps))


def reached(subscription: Exchange, n: int) -> Callable[[], bool]:
    """Return the condition that the newest frame of a subscription is event `n`, a later one, or a gap."""

    def condition() -> bool:
        frames = subscription.session.frames
        last = next((f for f in reversed(frames) if f.get("id") == subscription.id), None)
        return last is not None and (last.type == "gap" or (last.type == "event" and number(last) >= n))

    return condition


def number(frame: Frame) -> int:
    """Return the number that an event or a chunk carries."""
    data = frame["data"]
    n = data.get("n") if isinstance(data, dict) else None
    if not isinstance(n, int):
        raise Failure("the data is not what was published", frame=frame, requirement="ENV-28")
    return n


@asynccontextmanager
async def signs_of_life(session: Session) -> AsyncIterator[None]:
    """Send unasked pongs during the block, so that a session that does not read is not taken for dead."""
    heartbeat = session.welcome["heartbeat"]
    interval = heartbeat["interval_ms"] / 1000 if isinstance(heartbeat, dict) else 1.0

    async def live() -> None:
        while True:
            await session.send({"type": "pong"})
            await trio.sleep(interval / 3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        yield
        nursery.cancel_scope.cancel()


class Push:
    """Frames sent to a target whose own writes to us are backed up, until it takes no more.

    Args:
        make: what to send as number n: frames, or ready bytes of `frames.encode`.
        count: give up after so many.

    Attributes:
        sent: how many were handed to the kernel.
        blocked: whether the target stopped taking them.
    """

    def __init__(
        self,
        t: Test,
        session: Session,
        make: Callable[[int], Sequence[Mapping[str, object] | bytes]],
        count: int,
    ) -> None:
        unrated(t, session, count)
        self.sent = 0
        self.blocked = False
        self._clock = t.bench.clock
        self._session = session
        self._make = make
        self._count = count

    async def until_blocked(self, nursery: trio.Nursery) -> None:
        """Push until `blocked`, or until all are sent.

        Args:
            nursery: where the last frames wait that the target did not take.
        """
        nursery.start_soon(self._push)
        while self.sent < self._count and self._session.closure is None:
            before, begin = self.sent, trio.current_time()
            await trio.sleep(self._clock.quiet_window)
            if self.sent == before and not self._clock.stalled(begin, trio.current_time()):
                self.blocked = True
                return

    async def _push(self) -> None:
        while self.sent < self._count and not self.blocked and self._session.closure is None:
            upto = min(self.sent + AT_ONCE, self._count)
            await self._session.pipeline(*(item for n in range(self.sent, upto) for item in self._make(n)))
            self.sent = upto
