"""The outgoing queue, overflow, sizes and the fence: `spec/06-delivery.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from holdfast_conformance.case import Emitted, Exchange, Frame, Session, Test, check
from holdfast_conformance.traffic import (
    UNNUMBERED,
    account,
    number,
    overfill,
    pour,
    reached,
    roomy,
    script,
    small_session,
    upcoming,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL = 4096
"""The least `max_frame` that a client may ask for."""

SUBSCRIBERS = 8
"""Subscriptions that open amid a stream of events."""

PINGS = 100
"""Round trips in which the acks of a client have surely opened its window."""

BURST = 700
"""Tiny events that the socket buffers of any system hold."""


@check("del/unbroken-run", covers="DEL-01", needs=["pubsub"])
async def unbroken_run(t: Test) -> None:
    """Subscriptions that open amid a stream of events get an unbroken run of them from `open` on."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    channel, total = t.channel(), 300
    keeper = await alice.subscribe(channel)
    roomy(t, keeper, SUBSCRIBERS + 1)
    subs: list[Exchange] = []

    async def come() -> None:
        for n in range(min(SUBSCRIBERS, alice.limit("max_subscriptions") - 1)):
            await t.until(alice, reached(keeper, total * n // 10), "events")
            subs.append(await alice.subscribe(channel))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        await pour(t, publisher, channel, total + 1)
    for sub in [keeper, *subs]:
        if sub.frames[-1].type == "open":  # it came too late for all of them
            continue
        await t.until(alice, reached(sub, total), "the last event", requirement="SUB-05")
        first = next(frame for frame in sub.frames if frame.type in ("event", "gap"))
        if first.type == "event":
            account(t, alice.frames, sub, total + 1, first=number(first))


@check(
    "del/overflow-leaves-a-gap",
    covers=["DEL-03", "DEL-01", "DEL-05"],
    needs=["pubsub"],
    intrusive=True,
    serial=True,
)
async def overflow_leaves_a_gap(t: Test) -> None:
    """A client that does not read loses events, and a gap stands where they stood and counts them."""
    slow, publisher = await small_session(t), await t.session(name="publisher")
    channel = t.channel()
    sub = await slow.subscribe(channel)
    count, size = overfill(t, slow, publisher)
    slow.pause_reading()
    await pour(t, publisher, channel, count, size=size, stalled=slow)
    await read_on(t, slow, publisher, sub, channel, count)
    kept = account(
        t,
        slow.frames,
        sub,
        count + 1,
        hole="DEL-03",
        hint="when you drop queued events, leave one gap in the place of the first of them",
    )
    if not kept.gaps:
        t.note("everything arrived; nothing had to be dropped")


@check(
    "del/second-overflow-raises-the-gap",
    covers=["DEL-04", "DEL-05"],
    needs=["pubsub"],
    intrusive=True,
    serial=True,
)
async def second_overflow_raises_the_gap(t: Test) -> None:
    """An overflow while the gap of an earlier one is still queued adds to that gap; no second gap comes."""
    slow, publisher = await small_session(t), await t.session(name="publisher")
    channel = t.channel()
    sub = await slow.subscribe(channel)
    count, size = overfill(t, slow, publisher)
    more = 4 * min(slow.limit("queue"), 256)
    slow.pause_reading()
    await pour(t, publisher, channel, count, size=size, stalled=slow)
    # The kernels are full by now, so nothing that is queued from here on is written before we read.
    await pour(t, publisher, channel, more, size=size, first=count, stalled=slow)
    await pour(t, publisher, channel, more, size=size, first=count + more, stalled=slow)
    end = count + 2 * more
    await read_on(t, slow, publisher, sub, channel, end)
    kept = account(t, slow.frames, sub, end + 1, hole="DEL-03")
    if not kept.gaps:
        t.note("everything arrived; nothing had to be dropped")
    told = [gap for gap in kept.gaps if gap[1] > count]
    t.that(
        len(told) <= 1,
        f"{len(told)} gaps tell of events that were lost while nothing could be written",
        frame=next((frame for frame in reversed(sub.frames) if frame.type == "gap"), None),
        hint="while the gap of a subscription is queued, raise its `missed` and queue no other",
    )


async def read_on(t: Test, slow: Session, publisher: Session, sub: Exchange, channel: str, end: int) -> None:
    """Let a stalled session read again until its queue is empty, then publish event `end` and wait for it."""
    slow.resume_reading()
    await slow.ping()
    # An exchange of its own goes through the same queue; without a fence that is how to see that it is empty.
    await (await slow.start("subscribe", channel=t.channel())).opened()
    await publisher.publish(channel, {"n": end})
    await t.must(sub.receives("event", data={"n": end}), requirement="SUB-05")


@check("del/noisy-subscription-loses", covers="DEL-02", needs=["pubsub"], intrusive=True, serial=True)
async def noisy_subscription_loses(t: Test) -> None:
    """On overflow the subscription with the most queued bytes loses; a quiet one loses nothing."""
    slow, publisher = await small_session(t), await t.session(name="publisher")
    noise, whisper = t.channel(), t.channel()
    room = min(slow.limit("queue") // 4, 8)
    if slow.limit("max_subscriptions") < 3 or room < 2:
        raise t.unverified("the limits leave no room for a noisy and a quiet subscription side by side")
    quiet, noisy = await slow.subscribe(whisper), await slow.subscribe(noise)
    count, size = overfill(t, slow, publisher)
    slow.pause_reading()
    step = count // room
    for n in range(room):
        await publisher.publish(whisper, {"n": n})
        await pour(t, publisher, noise, step, size=size, first=n * step, stalled=slow)
    await read_on(t, slow, publisher, noisy, noise, room * step)
    await t.until(slow, reached(quiet, room - 1), "the last event of the quiet channel", requirement="SUB-05")
    told = account(t, slow.frames, noisy, room * step + 1, hole="DEL-03")
    whispers = [frame for frame in quiet.frames if frame.type in ("event", "gap")]
    t.that(
        [frame.type for frame in whispers] == ["event"] * room,
        "the quiet subscription lost events although the noisy one had more bytes in the queue",
        frame=next((frame for frame in whispers if frame.type == "gap"), None),
        hint="choose the subscription with the most queued bytes, not the one whose event came last",
    )
    account(t, slow.frames, quiet, room, hole="DEL-02")
    if not told.gaps:
        t.note("everything arrived; nothing had to be dropped")


@check("del/event-too-large", covers=["DEL-06", "DEL-05"], needs=["pubsub"])
async def event_too_large(t: Test) -> None:
    """In place of an event that exceeds its `max_frame` a client gets a gap; others get the event."""
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    wide, publisher = await t.session(name="wide"), await t.session(name="publisher")
    large = size_between(t, publisher)
    channel = t.channel()
    sub, twin = await narrow.subscribe(channel), await wide.subscribe(channel)
    before = await t.emit(channel, by=publisher)
    event = await t.emit(channel, {"pad": "x" * large}, by=publisher)
    after = await t.emit(channel, by=publisher)
    await t.must(twin.gets(event), requirement="SUB-05")
    first = await t.must(sub.gets(before), requirement="SUB-05")
    gap = await t.must(
        sub.gap(reason="too_large"),
        hint="measure the event against the limits.max_frame of this client's hello",
    )
    last = await t.must(
        sub.gets(after), requirement="SUB-05", hint="one large event does not end the subscription"
    )
    t.that(first.entry < gap.entry < last.entry, "the gap stands in the wrong place", frame=gap)
    if "missed" in gap.body:
        t.equal(gap["missed"], 1, "`missed` of the gap", frame=gap, requirement="DEL-05")


def size_between(t: Test, session: Session) -> int:
    """Return a size that a frame of ours may have and that is too large for a client with the least limit."""
    if session.limit("max_frame") < 2 * SMALL:
        raise t.unverified("max_frame is so small that no client can ask for less")
    return SMALL + 100


@check("del/result-too-large", covers="DEL-07", needs=["rpc", "method:echo"])
async def result_too_large(t: Test) -> None:
    """A result that exceeds the client's `max_frame` becomes the error `too_large`; the session goes on."""
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    wide = await t.session(name="wide")
    data = "x" * size_between(t, wide)
    await (await wide.start("request", method=t.method("echo"), data=data)).result(data=data)
    fitting = await narrow.start("request", method=t.method("echo"), data="x" * (SMALL // 2))
    await t.must(fitting.result(data="x" * (SMALL // 2)), requirement="RPC-13")
    call = await narrow.start("request", method=t.method("echo"), data=data)
    await t.must(
        call.error("too_large"),
        hint="what you send is bound by the client's number, what you accept by your own",
    )
    await t.alive(narrow)


@check("del/chunk-too-large", covers="DEL-08", needs=["rpc", "script:stream"])
async def chunk_too_large(t: Test) -> None:
    """A chunk that exceeds the client's `max_frame` ends the stream with `too_large`."""
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    wide = await t.session(name="wide")
    steps: Sequence[Sequence[object]] = (["stream", 2, 0, 100], ["stream", 1, 0, size_between(t, wide)])
    whole = await script(wide, *steps, stream=True)
    await t.must(whole.result(), requirement="RPC-13")
    call = await script(narrow, *steps, stream=True)
    await t.must(call.error("too_large"), hint="a stream with a hole is no stream, so it has to end")
    row = [number(frame) for frame in call.frames if frame.type == "chunk"]
    t.equal(row, [0, 1], "the chunks before the one that is too large", requirement="RPC-19")
    await t.alive(narrow)


@check("del/refusals-are-small", covers="DEL-13", needs=["rpc", "pubsub"])
async def refusals_are_small(t: Test) -> None:
    """However large and odd the refused frame is, its refusal has 512 bytes at most."""
    alice = await t.session()
    long = "\u00e9" * 127
    odd: list[tuple[str, dict[str, object]]] = [
        ("request", {"method": "\u0001" * 255}),
        ("request", {"method": "x" * 3000}),
        ("request", {"method": long, "timeout_ms": "x" * 2000}),
        ("request", {"method": long, "stream": {"x" * 2000: long}}),
        ("request", {"method": long, "meta": "x" * 2000}),
        ("conf." + "x" * 59, {"data": "x" * 2000}),
        ("subscribe", {"channel": "\u0001" * 255, "since": "x" * 2000}),
        ("subscribe", {"channel": ["x" * 2000]}),
        ("publish", {"channel": long, "data": 1, "echo": "\U0001f600" * 500}),
        ("publish", {"channel": long, "data": "!" * 3000, "enc": "base64"}),
    ]
    if "forbidden" in t.bench.target.methods:
        odd.append(("request", {"method": t.method("forbidden"), "data": "x" * 3000}))
    for type, members in odd:
        call = await alice.start(type, **members, malformed=True)
        refusal = await t.must(call.error(), requirement="ENV-20")
        size = len(refusal.text.encode())
        t.that(
            size <= 512,
            f"a refusal has {size} bytes",
            frame=refusal,
            hint="cut what you quote from the frame, or quote nothing",
        )


@check("del/fence-follows-events", covers="DEL-15", needs=["fence"])
async def fence_follows_events(t: Test) -> None:
    """A pong comes after every event that was published, by whomever, before its ping."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    subs = [await alice.subscribe(channel) for _ in range(3)]
    roomy(t, subs[0], len(subs))
    for _ in range(20):
        event = await t.emit(channel, by=bob)  # it has taken effect before the ping is sent
        pong = await proof(t, alice, await alice.ping())
        await in_front_of(t, subs, [event], pong.entry)


@check("del/fence-follows-own-publishes", covers="DEL-15", needs=["fence"])
async def fence_follows_own_publishes(t: Test) -> None:
    """A ping behind publishes in one segment is answered behind their events."""
    alice = await t.session()
    channel = t.channel()
    subs = [await alice.subscribe(channel), await alice.subscribe(channel)]
    if "pattern" in alice.profiles:
        subs.append(await alice.subscribe(pattern=f"{channel}/*"))
    roomy(t, subs[0], len(subs))
    many = max(1, min(20, alice.limit("max_inflight"), alice.limit("queue") // len(subs)))
    for round in range(5):
        events = [upcoming(t, channel) for _ in range(many)]
        frames = [alice.frame("publish", channel=channel, data=event.data) for event in events]
        await alice.pipeline(*frames, {"type": "ping", "t": f"fence-{round}"})
        first = await t.must(alice.receives("pong", t=f"fence-{round}"), requirement="SES-34")
        pong = await proof(t, alice, first)
        await in_front_of(t, subs[:2], events, pong.entry)
        for frame in frames:
            await alice.exchange(frame).result()


async def proof(t: Test, session: Session, pong: Frame) -> Frame:
    """Return this pong, or, while the window keeps events back, a later one that does not say `held`."""
    for _ in range(PINGS):
        if "held" not in pong.body:
            return pong
        pong = await session.ping()
    hint = "what is acknowledged is not kept back"
    t.that("held" not in pong.body, "every pong says held", frame=pong, requirement="DEL-15", hint=hint)
    return pong


async def in_front_of(t: Test, subs: Sequence[Exchange], events: Sequence[Emitted], entry: int) -> None:
    """Assert that every subscription got these events before the message at `entry`."""
    for sub in subs:
        for event in events:
            seen = await t.must(sub.gets(event), requirement="SUB-05")
            t.that(
                seen.entry < entry,
                "the event came behind the pong that should follow it",
                frame=seen,
                hint="put the pong behind the events that are queued or on their way for this session",
            )


@check("del/fence-waits-for-a-slow-socket", covers="DEL-15", needs=["fence"], intrusive=True, serial=True)
async def fence_waits_for_a_slow_socket(t: Test) -> None:
    """When the client reads late, the pong still comes behind all events, or the gaps that stand for them."""
    slow, publisher = await small_session(t), await t.session(name="publisher")
    channel = t.channel()
    sub = await slow.subscribe(channel)
    count, size = overfill(t, slow, publisher)
    slow.pause_reading()
    await pour(t, publisher, channel, count, size=size, stalled=slow)
    await slow.send({"type": "ping", "t": "fence"})
    slow.resume_reading()
    pong = await t.must(slow.receives("pong", t="fence"), requirement="SES-34")
    front = [frame for frame in slow.frames if frame.entry < pong.entry]
    account(t, front, sub, count, hole="DEL-15", hint="a slow socket makes the pong wait, too")


@check(
    "del/ping-overtakes-without-fence",
    covers="DEL-17",
    needs=["pubsub", "no:fence"],
    intrusive=True,
    serial=True,
)
async def ping_overtakes_without_fence(t: Test) -> None:
    """Without profile fence a pong does not wait for the events that are queued before it."""
    slow, publisher = await small_session(t, profiles=("pubsub",)), await t.session(name="publisher")
    witness = await t.session(name="witness")
    if slow.limit("queue") < 4:
        raise t.unverified("the queue is so short that hardly anything waits that a pong could overtake")
    channel, marker = t.channel(), t.channel()
    sub = await slow.subscribe(channel)
    await witness.subscribe(marker)
    count, size = overfill(t, slow, publisher)
    slow.pause_reading()
    await pour(t, publisher, channel, count, size=size, stalled=slow)
    tail = max(2, min(16, slow.limit("queue") // 2))
    await pour(t, publisher, channel, tail, first=count, stalled=slow)
    # The event of a publish that was sent behind the ping proves that the ping has been read.
    proof = upcoming(t, marker)
    await slow.pipeline(
        {"type": "ping", "t": "at-once"}, slow.frame("publish", channel=marker, data=proof.data)
    )
    await witness.gets(proof)
    slow.resume_reading()
    pong = await t.must(slow.receives("pong", t="at-once"), requirement="SES-34")
    await read_on(t, slow, publisher, sub, channel, count + tail)
    kept = account(t, slow.frames, sub, count + tail + 1, hole="DEL-03")
    if not kept.gaps:
        t.note("everything was on its way already; nothing was left to overtake")
        return
    behind = [frame for frame in sub.frames if frame.entry > pong.entry and frame.type == "event"]
    t.that(
        len(behind) > 1,
        "the pong came behind the events that were queued when its ping was read",
        frame=pong,
        hint="frames without `id` go past the queue; only profile fence makes a pong wait",
    )


@check("del/burst-is-no-overflow", covers="DEL-18", needs=["rpc", "pubsub", "script:burst"], intrusive=True)
async def burst_is_no_overflow(t: Test) -> None:
    """A burst of more than `queue` events that fits into the socket reaches a client that reads it whole."""
    identity = "limited" if "limited" in t.bench.target.identities else None
    reader = await t.session(identity, name="reader", profiles=UNNUMBERED)
    queue = reader.limit("queue")
    if queue > BURST:
        raise t.not_applicable(f"a burst of {queue} events is more than a socket is sure to hold")
    script_runner, channel = await t.session(name="runner"), t.channel()
    sub = await reader.subscribe(channel)
    await t.must((await script(script_runner, ["burst", channel, queue + queue // 2])).result())
    hint = "write what the socket takes before you decide that the queue is too long"
    await t.until(reader, reached(sub, queue + queue // 2 - 1), "the events of the burst")
    gap = next((frame for frame in sub.frames if frame.type == "gap"), None)
    t.that(gap is None, "a burst led to a gap although the client reads", frame=gap, hint=hint)


@check("del/error-too-large", covers="DEL-19", needs=["rpc", "script:error"])
async def error_too_large(t: Test) -> None:
    """An error whose data exceeds the client's `max_frame` comes without the data, with its own code."""
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    wide = await t.session(name="wide")
    body = {"code": "app", "message": "no", "data": "x" * size_between(t, wide)}
    whole = await t.control((await wide.run(["error", body])).error("app"))
    t.that("x" * SMALL in whole.text, "the error came without its data", frame=whole, requirement="CNF-02")
    cut = await t.must(
        (await narrow.run(["error", body])).error("app"),
        hint="the code is what programs go by: drop `error.data`, keep the code",
    )
    error = cut["error"]
    t.that(isinstance(error, dict) and "data" not in error, "the error carries data", frame=cut)
    long = {"code": "app", "message": "é" * (SMALL // 2)}
    await t.must((await narrow.run(["error", long])).error("app"), hint="cut the message if need be")
    await t.alive(narrow)
