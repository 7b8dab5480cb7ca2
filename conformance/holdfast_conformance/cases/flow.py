"""What waits behind a closed window: overflow, refusals, the fence. `spec/06-delivery.md`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast_conformance.case import Exchange, Session, Test, check, without
from holdfast_conformance.logs import arrived
from holdfast_conformance.traffic import (
    account,
    bounded_memory,
    close_window,
    fill,
    narrow_session,
    pour,
    reached,
    upcoming,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 600
"""Events of a queue that a check is willing to overfill; a target with more needs an identity `small`."""

LARGEST = 1 << 20
"""Bytes of a window that a check is willing to fill."""

SMALLEST_REFUSAL = 50
"""Bytes; no error frame is smaller."""

LARGEST_REFUSAL = 512
"""Bytes; [DEL-13]."""

PART = 4 << 20
"""Bytes of events between two measurements of the memory."""

PARTS = 5
"""Measurements of the memory while a client does not acknowledge."""


def small_queue(t: Test, narrow: Session) -> int:
    """Return `queue` of the session."""
    queue = narrow.limit("queue")
    if queue > MOST:
        raise t.unverified(f"a queue of {queue} events takes too long; add an identity `small`")
    return queue


async def overflow(
    t: Test, narrow: Session, publisher: Session, sub: Exchange, channel: str, *, times: int, size: int = 0
) -> int:
    """Close the window of a session, then let its queue overflow so often; return the number of the next
    event.
    """
    end = await close_window(t, narrow, publisher, channel)
    for _ in range(times):
        more = small_queue(t, narrow) + 2
        await pour(t, publisher, channel, more, size=size, first=end)
        end += more
    return end


async def read_on(
    t: Test, narrow: Session, publisher: Session, sub: Exchange, channel: str, end: int
) -> None:
    """Acknowledge until the queue of a session is empty, then publish event `end` and wait for it."""
    narrow.acks = True
    await narrow.ack()
    await (await narrow.start("subscribe", channel=t.channel())).opened()  # it goes through the same queue
    await publisher.publish(channel, {"n": end})
    await t.until(narrow, arrived(sub, end), "the last event", requirement="SUB-05")


async def loses_once(t: Test, narrow: Session, sub: Exchange, channel: str) -> None:
    """Assert that two overflows behind a closed window leave one gap, in the right place."""
    publisher = await t.session(name="publisher")
    witness = await publisher.subscribe(channel)
    end = await overflow(t, narrow, publisher, sub, channel, times=2)
    await t.until(publisher, arrived(witness, end - 1), "the events at the witness", requirement="SUB-05")
    await read_on(t, narrow, publisher, sub, channel, end)
    gaps = [frame for frame in sub.frames if frame.type == "gap"]
    hint = "while the gap of a subscription is queued, raise its `missed` and queue no other"
    t.that(
        len(gaps) <= 1, f"{len(gaps)} gaps", frame=gaps[-1] if gaps else None, requirement="DEL-04", hint=hint
    )
    hint = "when you drop queued events, leave one gap in the place of the first of them"
    account(t, narrow.frames, sub, end + 1, hole="DEL-03", hint=hint)
    t.that(bool(gaps), "nothing was lost although more events waited than `queue`", requirement="DEL-11")
    reason = next(iter(gaps)).get("reason")
    t.equal(reason, "overflow", "the reason of the gap", frame=gaps[0], requirement="DEL-03")


@check(
    "del/closed-window-leaves-one-gap",
    covers=["DEL-03", "DEL-04", "DEL-05", "DEL-11"],
    needs=["pubsub", "ack"],
)
async def closed_window_leaves_one_gap(t: Test) -> None:
    """Without a log, what overflows behind a closed window leaves one gap that counts every lost event."""
    narrow, channel = await narrow_session(t, profiles=without("history")), t.channel()
    await loses_once(t, narrow, await narrow.subscribe(channel), channel)


@check("del/closed-window-on-a-pattern", covers=["DEL-04", "DEL-03", "DEL-05"], needs=["pattern", "ack"])
async def closed_window_on_a_pattern(t: Test) -> None:
    """A subscription to a pattern loses behind a closed window like one without a log: one gap."""
    narrow, channel = await narrow_session(t), f"{t.channel()}/x"
    sub = await narrow.subscribe(pattern=f"{channel.rpartition('/')[0]}/*")
    await loses_once(t, narrow, sub, channel)


@check(
    "del/closed-window-without-a-log",
    covers=["DEL-03", "DEL-04", "DEL-05"],
    needs=["history", "ack", "channel:unlogged"],
)
async def closed_window_without_a_log(t: Test) -> None:
    """A channel that keeps no log loses behind a closed window although the session has profile history."""
    narrow, channel = await narrow_session(t), t.channel("unlogged")
    sub = await narrow.subscribe(channel)
    if "cursor" in sub.frames[0].body:
        raise t.unverified("the channel `unlogged` of the target file has a log")
    await loses_once(t, narrow, sub, channel)


@check("del/closed-window-with-a-log", covers=["DEL-35", "DEL-01"], needs=["history", "ack"])
async def closed_window_with_a_log(t: Test) -> None:
    """With a log, what overflows behind a closed window comes later, each event once and in its order."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    sub = await narrow.subscribe(channel := t.channel())
    logged(t, sub)
    end = await overflow(t, narrow, publisher, sub, channel, times=4)
    narrow.acks = True
    await narrow.ack()
    hint = "on overflow drop the queued events and read them again from the log when the queue drains"
    await t.until(narrow, reached(sub, end - 1), "the newest event", hint=hint)
    lost = next((frame for frame in sub.frames if frame.type == "gap"), None)
    if lost is not None and lost.get("reason") == "expired":
        raise t.unverified(f"the log of {channel} keeps fewer than {end} events")
    t.that(lost is None, "a gap where the log has every event", frame=lost, hint=hint)
    await publisher.publish(channel, {"n": end})
    await t.until(narrow, reached(sub, end), "an event that is published afterwards", hint=hint)
    account(t, narrow.frames, sub, end + 1, hole="DEL-35", hint=hint)


def logged(t: Test, sub: Exchange) -> None:
    """Raise Unverified when a subscription has no log."""
    if not any(frame.type == "open" and "cursor" in frame.body for frame in sub.frames):
        raise t.unverified("no log: let [channels] open of the target file name channels that keep one")


@check("del/closed-window-noisy-one-pays", covers="DEL-02", needs=["pubsub", "ack"])
async def closed_window_noisy_one_pays(t: Test) -> None:
    """Behind a closed window the subscription with the most queued bytes loses; a quiet one loses nothing."""
    narrow = await narrow_session(t, profiles=without("history"))
    publisher, whisper, noise = await t.session(name="publisher"), t.channel(), t.channel()
    quiet = await narrow.subscribe(whisper)
    await narrow.ack()
    noisy = await narrow.subscribe(noise)
    end = await close_window(t, narrow, publisher, noise)
    rounds = min(3, small_queue(t, narrow) // 3)
    for n in range(rounds):
        await publisher.publish(whisper, {"n": n})
        await pour(t, publisher, noise, narrow.limit("queue"), first=end, size=100)
        end += narrow.limit("queue")
    await read_on(t, narrow, publisher, noisy, noise, end)
    whispers = [frame.type for frame in quiet.frames if frame.type in ("event", "gap")]
    t.equal(
        whispers,
        ["event"] * rounds,
        "what the quiet subscription got",
        hint="choose the subscription with the most queued bytes, not the one whose event came last",
    )
    account(t, narrow.frames, quiet, rounds, hole="DEL-02")
    account(t, narrow.frames, noisy, end + 1, hole="DEL-03")


@check("del/bytes-close-the-window", covers=["DEL-23", "DEL-24"], needs=["pubsub", "ack"])
async def bytes_close_the_window(t: Test) -> None:
    """Large frames close the window by their bytes, before there are `window` of them; acks move them on."""
    narrow, publisher = await narrow_session(t, window=64), await t.session(name="publisher")
    bound = small_bytes(t, narrow)
    largest = min(narrow.limit("max_frame"), publisher.limit("max_frame")) - 512
    most = max(3, math.ceil(bound / largest))
    size = math.ceil(bound / most)
    if most >= narrow.limit("window") or size < 1024:
        raise t.unverified("frames of the largest size do not reach `window_bytes` before `window`")
    sub = await narrow.subscribe(channel := t.channel())
    await narrow.ack()
    await pour(t, publisher, channel, most, size=size)
    await t.until(narrow, reached(sub, most - 1), "frames up to `window_bytes`", requirement="SUB-05")
    late = await t.emit(channel, {"n": most}, by=publisher)
    for _ in range(3):
        await narrow.ping()
    early = next(iter(sub.frames[most + 1 :]), None)
    hint = "count the bytes of unacknowledged frames, too, and stop at `window_bytes`"
    t.that(early is None, f"{most} frames of {size} bytes did not close the window", frame=early, hint=hint)
    await narrow.ack()
    await t.must(sub.gets(late), requirement="DEL-24")


def small_bytes(t: Test, narrow: Session) -> int:
    """Return `window_bytes` of the session."""
    bound = narrow.limit("window_bytes")
    if bound > LARGEST:
        raise t.unverified(f"a window of {bound >> 10} kB takes too long; add an identity `small`")
    return bound


@check("del/acks-by-bytes-keep-moving", covers=["DEL-24", "DEL-23"], needs=["pubsub", "ack"])
async def acks_by_bytes_keep_moving(t: Test) -> None:
    """A client that acknowledges after half of `window_bytes` gets a row of large frames to its end."""
    narrow, publisher = await narrow_session(t, window=64), await t.session(name="publisher")
    narrow.acks = True
    size = min(
        small_bytes(t, narrow) // 2, narrow.limit("max_frame") - 512, publisher.limit("max_frame") - 512
    )
    sub, count = await narrow.subscribe(channel := t.channel()), 40
    await pour(t, publisher, channel, count, size=size)
    hint = "an ack must let the next frame go even when not all bytes are acknowledged"
    await t.until(narrow, reached(sub, count - 1), "the last large event", hint=hint)
    account(t, narrow.frames, sub, count, hole="DEL-24", hint=hint)


@check(
    "del/memory-without-acks",
    covers="DEL-11",
    needs=["pubsub", "ack", "spawned"],
    intrusive=True,
    serial=True,
)
async def memory_without_acks(t: Test) -> None:
    """A client that reads and never acknowledges costs no more memory than the limits allow."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    bound = 2 * (narrow.limit("queue_bytes") + narrow.limit("window_bytes")) + narrow.limit("max_frame") * (
        3 * narrow.limit("max_inflight") + 2 * narrow.limit("max_subscriptions") + 1
    )
    if bound > PART:
        raise t.unverified(f"the limits allow {bound >> 20} MB; add an identity `small`")
    size = min(32768, narrow.limit("max_frame") - 512, publisher.limit("max_frame") - 512)
    count, channel = fill(t, size, PART), t.channel()
    await narrow.subscribe(channel)
    await bounded_memory(
        t,
        lambda part: pour(t, publisher, channel, count, size=size, first=part * count),
        part=PART,
        parts=PARTS,
        bound=bound,
        whom="a client that does not acknowledge",
        hint="what waits behind a closed window is bounded by `queue` and `queue_bytes` like all else",
    )


@check("del/not-acking-is-no-reason-to-close", covers="DEL-33", needs=["pubsub", "ack"], slow=True)
async def not_acking_is_no_reason_to_close(t: Test) -> None:
    """A client that shows life and never acknowledges keeps its connection, whatever it loses."""
    narrow = await narrow_session(t, profiles=without("history"))
    publisher, channel = await t.session(name="publisher"), t.channel()
    sub = await narrow.subscribe(channel)
    end = await overflow(t, narrow, publisher, sub, channel, times=2)
    heartbeat = narrow.welcome["heartbeat"]
    assert isinstance(heartbeat, dict)
    patience = (heartbeat["interval_ms"] + heartbeat["timeout_ms"]) / 1000
    await t.sit_out(patience * 1.2 + 0.2, "the heartbeat of a client that does not acknowledge")
    await pour(t, publisher, channel, narrow.limit("queue") + 2, first=end)
    hint = "a client without acks loses events; only refusals that cannot wait any longer close with 4301"
    await t.alive(narrow, hint=hint)


def refused(narrow: Session, count: int) -> Sequence[dict[str, object]]:
    """Build frames that are refused before they take a slot."""
    return [narrow.frame("conf.no_such_type") for _ in range(count)]


@check("del/closed-window-is-read-on", covers=["DEL-25", "RPC-01"], needs=["pubsub", "ack"])
async def closed_window_is_read_on(t: Test) -> None:
    """Behind a closed window more than `max_inflight` refusals wait, and the ack behind them is read."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    channel = t.channel()
    await narrow.subscribe(channel)
    most = narrow.limit("max_inflight")
    count = min(3 * most, narrow.limit("window_bytes") // LARGEST_REFUSAL)
    if count <= most:
        raise t.unverified("`window_bytes` is too small for more than `max_inflight` refusals")
    await close_window(t, narrow, publisher, channel)
    frames = refused(narrow, count)
    await narrow.pipeline(*frames)
    narrow.acks = True
    await narrow.ack()
    for frame in frames:
        await t.must(
            narrow.exchange(frame).error("unsupported"),
            hint="while the window is closed read on: the ack stands behind what the client has pipelined",
        )
    await t.alive(narrow, requirement="DEL-33")


@check("del/refusals-end-in-4301", covers=["DEL-32", "DEL-33"], needs=["pubsub", "ack"], intrusive=True)
async def refusals_end_in_4301(t: Test) -> None:
    """A client that goes on being refused behind a closed window is closed with 4301, and not early."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    narrow.paced = False
    bound = small_bytes(t, narrow)
    channel = t.channel()
    await narrow.subscribe(channel)
    await close_window(t, narrow, publisher, channel)
    await narrow.pipeline(*refused(narrow, bound // LARGEST_REFUSAL))
    await t.alive(narrow, requirement="DEL-33", hint="only more than `window_bytes` of refusals are too many")
    await narrow.pipeline(*refused(narrow, bound // SMALLEST_REFUSAL))
    await t.closes(narrow, 4301, hint="count the bytes of the refusals that wait while the window is closed")


@check("del/held-behind-a-closed-window", covers=["DEL-36", "DEL-15"], needs=["fence", "ack"])
async def held_behind_a_closed_window(t: Test) -> None:
    """While the window keeps events back a pong says `held`; once they are acknowledged and sent, it does
    not."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    sub = await narrow.subscribe(channel := t.channel())
    end = await close_window(t, narrow, publisher, channel)
    late = await t.emit(channel, {"n": end}, by=publisher)
    await narrow.send({"type": "ping", "t": "held"})
    hint = "when the window is closed write the pong at once, with `held:true`"
    pong = await t.must(narrow.receives("pong", t="held"), hint=hint)
    t.equal(pong.get("held"), True, "`held`", frame=pong, hint=hint)
    await narrow.pipeline({"type": "ack", "seq": narrow.receipts.got}, {"type": "ping", "t": "free"})
    narrow.receipts.acknowledged(narrow.receipts.got)
    event = await t.must(sub.gets(late), requirement="DEL-24")
    pong = await t.must(narrow.receives("pong", t="free"))
    if "held" not in pong.body:
        t.that(event.entry < pong.entry, "the pong came before the event", frame=pong, requirement="DEL-15")
    pong = await narrow.ping()
    t.that("held" not in pong.body, "nothing waits, and the pong says held", frame=pong, requirement="DEL-15")


@check("del/held-when-the-window-closes", covers="DEL-36", needs=["fence", "ack"])
async def held_when_the_window_closes(t: Test) -> None:
    """A pong that waits for events is written with `held` when the window closes before them."""
    narrow = await narrow_session(t, window=1)
    channel, many = t.channel(), 3
    if min(narrow.limit("max_inflight"), narrow.limit("queue")) < many:
        raise t.unverified(f"the limits leave no room for {many} publishes at once")
    await narrow.subscribe(channel)
    await narrow.ack()
    await narrow.ping()
    events = [upcoming(t, channel) for _ in range(many)]
    frames = [narrow.frame("publish", channel=channel, data=event.data) for event in events]
    await narrow.pipeline(*frames, {"type": "ping", "t": "behind"})
    hint = "release a waiting pong, with `held:true`, as soon as the window stops an event before it"
    pong = await t.must(narrow.receives("pong", t="behind"), hint=hint)
    t.equal(pong.get("held"), True, "`held`", frame=pong, hint=hint)
    narrow.acks = True
    await narrow.ack()
    for frame in frames:
        await t.must(narrow.exchange(frame).result(), requirement="DEL-24")
