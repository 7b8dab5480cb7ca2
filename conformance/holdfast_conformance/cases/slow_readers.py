"""Clients that do not read: `spec/06-delivery.md`, streams and slow readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.frames import Opcode, encode
from holdfast_conformance.traffic import (
    UNNUMBERED,
    Push,
    account,
    bounded_memory,
    fill,
    number,
    overfill,
    pour,
    reached,
    script,
    signs_of_life,
    small_session,
    unrated,
    upcoming,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FLOOD = 8000
"""Frames of `FLOOD_BYTES` that no target can have read whose own writes are backed up."""

FLOOD_BYTES = 4000

PART = 8 << 20
"""Bytes of events between two measurements of the memory; more than the bound may be."""

PARTS = 6
"""Measurements of the memory while a client does not read."""


@check(
    "del/stream-waits-for-the-client",
    covers="DEL-09",
    needs=["rpc", "pubsub", "script:stream", "script:emit"],
    intrusive=True,
    serial=True,
)
async def stream_waits_for_the_client(t: Test) -> None:
    """A stream to a client that does not read stands still, and goes on without a loss later."""
    slow, witness = await small_session(t), await t.session(name="witness", profiles=("rpc", "pubsub"))
    channel = t.channel()
    await witness.subscribe(channel)
    size = min(16384, slow.limit("max_frame") // 2, witness.limit("max_frame") // 2)
    count = fill(t, size)
    early = upcoming(t, channel)
    await (await script(slow, ["stream", 20, 0, size], ["emit", channel, early.data], stream=True)).result()
    await t.control(witness.gets(early))
    slow.pause_reading()
    late = upcoming(t, channel)
    call = await script(slow, ["stream", count, 0, size], ["emit", channel, late.data], stream=True)
    async with signs_of_life(slow):
        await t.must_not(
            witness.gets(late),
            hint="let the handler wait until its previous chunk has left the queue",
        )
    slow.resume_reading()
    await t.must(
        witness.gets(late), requirement="CNF-02", hint="a stream that waits must go on when there is room"
    )
    await t.must(call.result(), requirement="RPC-01")
    row = [number(frame) for frame in call.frames if frame.type == "chunk"]
    t.equal(len(row), count, "the number of chunks", requirement="RPC-19")
    t.that(row == sorted(row), "the chunks came in another order", requirement="RPC-19")


@check("del/slow-client-delays-nobody", covers="DEL-10", needs=["pubsub"], intrusive=True, serial=True)
async def slow_client_delays_nobody(t: Test) -> None:
    """While one subscriber does not read, publishes are answered and the others get every event."""
    slow, publisher = await small_session(t), await t.session(name="publisher")
    fast = await t.session(name="fast")
    channel = t.channel()
    await slow.subscribe(channel)
    sub = await fast.subscribe(channel)
    count, size = overfill(t, slow, publisher)
    await pour(t, publisher, channel, 20, size=size)
    slow.pause_reading()
    begin = t.now()
    hint = "never wait for one client's socket in the path of another; give each client a queue of its own"
    for start in range(20, 20 + count, 64):
        await pour(t, publisher, channel, min(64, 20 + count - start), size=size, first=start, stalled=slow)
        await t.until(fast, reached(sub, min(start + 63, 20 + count - 1)), "the newest event", hint=hint)
    account(t, fast.frames, sub, 20 + count, hole="SUB-05", hint=hint)
    await t.alive(fast, hint=hint)
    late = await t.session(name="late")
    await t.alive(late, hint=hint)
    t.note(f"{count} events of {size} bytes took {t.now() - begin:.2f} s beside a client that does not read")


@check("del/memory-is-bounded", covers="DEL-11", needs=["pubsub", "spawned"], intrusive=True, serial=True)
async def memory_is_bounded(t: Test) -> None:
    """A client that does not read costs the server no more memory than the advertised bound."""
    slow, publisher = await small_session(t), await t.session(name="publisher")
    bound = 2 * slow.limit("queue_bytes") + slow.limit("max_frame") * (
        3 * slow.limit("max_inflight") + 2 * slow.limit("max_subscriptions") + 1
    )
    if bound > PART:
        raise t.unverified(f"the limits allow {bound >> 20} MB; add an identity `limited` with small limits")
    size = min(32768, slow.limit("max_frame") - 512, publisher.limit("max_frame") - 512)
    at_once = max(1, min(32, publisher.limit("max_inflight") // 2))
    count, channel = fill(t, size, PART), t.channel()
    await slow.subscribe(channel)
    slow.pause_reading()
    await bounded_memory(
        t,
        lambda part: pour(
            t, publisher, channel, count, size=size, first=part * count, stalled=slow, at_once=at_once
        ),
        part=PART,
        parts=PARTS,
        bound=bound,
        whom="a client that does not read",
        hint="count queued events and their bytes, and drop when either exceeds its limit",
    )


@check(
    "del/unread-pongs-stop-reading",
    covers=["DEL-12", "SES-34"],
    needs=["pubsub"],
    intrusive=True,
    serial=True,
)
async def unread_pongs_stop_reading(t: Test) -> None:
    """A client that pings and does not read is not read either; when it reads, every ping gets its pong."""
    slow = await backed_up(t)
    sent = await flood(
        t,
        slow,
        large_ping,
        "pings were read although not one pong could be written",
        hint="count the frames without `id` that wait to be written, and stop reading at a bound",
    )
    if sent is not None:
        asked = {f"p{n}" for n in range(sent)}
        got = {frame.get("t") for frame in slow.find("pong")}
        t.that(asked <= got, f"{len(asked - got)} of {len(asked)} pings have no pong", requirement="SES-34")


async def flood(
    t: Test,
    slow: Session,
    make: Callable[[int], Sequence[Mapping[str, object] | bytes]],
    problem: str,
    *,
    hint: str,
) -> int | None:
    """Assert that a backed-up session is not read for ever, and that it is served when it reads again.

    Returns:
        How often `make` was sent; None when the session was let go because it had been silent for too long.
    """
    async with trio.open_nursery() as nursery:
        push = Push(t, slow, make, FLOOD)
        await push.until_blocked(nursery)
        slow.resume_reading()
    served = await is_served_again(t, slow)
    # A server that has given the session up reads on to the close frame; that says nothing about its bound.
    t.that(push.blocked or not served, f"{push.sent} {problem}", hint=hint)
    return push.sent if served else None


async def is_served_again(t: Test, slow: Session) -> bool:
    """Assert that a session that reads again is answered, unless it had been silent for too long."""
    tag = f"{t.random.getrandbits(48):012x}"
    await slow.send({"type": "ping", "t": tag})
    await t.until(
        slow,
        lambda: slow.closure is not None or any(pong.get("t") == tag for pong in slow.find("pong")),
        "a pong when it reads again",
        requirement="SES-34",
    )
    if slow.closure is None:
        return True
    t.that(
        slow.closure.code == 4304, f"the connection was {slow.closure}", hint="go on when there is room again"
    )
    t.note("on this machine the flood took longer than the heartbeat allows")
    return False


def large_ping(n: int) -> Sequence[Mapping[str, object]]:
    """Build a ping that is large to send and small to answer."""
    return ({"type": "ping", "t": f"p{n}", "pad": "x" * FLOOD_BYTES},)


@check(
    "del/unread-websocket-pongs-stop-reading",
    covers="DEL-12",
    needs=["pubsub"],
    intrusive=True,
    serial=True,
)
async def unread_websocket_pongs_stop_reading(t: Test) -> None:
    """A client that sends WebSocket pings and does not read is not read either, and lives when it reads."""
    slow = await backed_up(t)
    ping = encode(Opcode.PING, b"x" * 125)
    ignored = {"type": "conf.no_such_type", "pad": "x" * FLOOD_BYTES}  # so that the flood fills the sockets
    await flood(
        t,
        slow,
        lambda n: (ping, ping, ignored),
        "pairs of WebSocket pings were read although not one pong could be written",
        hint="count the WebSocket pongs that wait to be written, too",
    )


async def backed_up(t: Test) -> Session:
    """Open a session that does not read and for which more is queued than the kernels take."""
    slow = await t.session(name="slow", profiles=UNNUMBERED, receive_buffer=65536)
    publisher = await t.session(name="publisher")
    unrated(t, slow, FLOOD)
    channel = t.channel()
    await slow.subscribe(channel)
    slow.pause_reading()
    size = min(16384, slow.limit("max_frame") // 2)
    await pour(t, publisher, channel, fill(t, size), size=size, stalled=slow)
    return slow


@check(
    "del/unread-pings-end-in-4304", covers=["SES-32", "DEL-12"], needs=["pubsub"], slow=True, intrusive=True
)
async def unread_pings_end_in_4304(t: Test) -> None:
    """A client that pings and never reads falls silent for the server in the end, and is let go."""
    slow = await backed_up(t)
    heartbeat = slow.welcome["heartbeat"]
    times = heartbeat if isinstance(heartbeat, dict) else {}
    patience = (times["interval_ms"] + times["timeout_ms"]) / 1000
    async with trio.open_nursery() as nursery:
        push = Push(t, slow, large_ping, FLOOD)
        await push.until_blocked(nursery)
        await t.sit_out(patience * 1.2 + 0.2, "the heartbeat of a client that is not read any more")
        slow.resume_reading()
        await t.until(
            slow,
            lambda: slow.closure is not None,
            "the end of the connection",
            hint="silence counts although bytes wait unread",
        )
        nursery.cancel_scope.cancel()
    if slow.closure is not None and slow.closure.how == "frame":
        t.equal(slow.closure.code, 4304, "the close code")
    else:
        t.note(f"the connection was {slow.closure}: no close frame fits through a socket that nobody reads")


@check("del/unread-refusals-stop-reading", covers="DEL-14", needs=["pubsub"], intrusive=True, serial=True)
async def unread_refusals_stop_reading(t: Test) -> None:
    """A client whose frames are refused and who does not read is not read; later each exchange ends once."""
    slow = await backed_up(t)
    if slow.limit("max_inflight") > FLOOD // 4:
        raise t.unverified("max_inflight is too large for this flood")
    first = slow.next_id()

    def refused(n: int) -> Sequence[Mapping[str, object]]:
        return ({"type": "conf.no_such_type", "id": first + n, "pad": "x" * FLOOD_BYTES},)

    sent = await flood(
        t,
        slow,
        refused,
        "frames were read and refused although not one refusal could be written",
        hint="when `max_inflight` refusals are queued, stop reading until some are written",
    )
    if sent is not None:
        ended = sorted(str(frame.get("id")) for frame in slow.find("error"))
        expected = sorted(str(first + n) for n in range(sent))
        t.that(ended == expected, f"{len(ended)} of {sent} exchanges ended", requirement="RPC-01")
