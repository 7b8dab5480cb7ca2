"""Numbers, acks and limits of a session that has changed its connection: `spec/07-resume.md`.

Most of these checks resume while the earlier connection is still there, so that no time can run out.
"""

from __future__ import annotations

import math
from functools import partial

from holdfast_conformance.case import Exchange, Frame, Session, Test, check
from holdfast_conformance.traffic import close_window, narrow_session, pour, reached

LARGEST = 1 << 20
"""Bytes of a window that a check is willing to fill."""

MANY = 40
"""Frames that are left without an ack, where the window allows so many."""

BURST = 200
"""Frames that a check is willing to send to use up a rate."""

SIZE = 6000
"""Bytes of an event that is too large for a client that takes 4096."""


@check("del/window-counts-what-came-again", covers=["DEL-22", "RES-29"], needs=["resume", "pubsub"])
async def window_counts_what_came_again(t: Test) -> None:
    """Frames that are sent again after a resume take room in the window, as they did before."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    window, channel = narrow.receipts.window, t.channel()
    if window < 2:
        raise t.unverified("the window is too small to leave a frame without an ack")
    await narrow.subscribe(channel)
    end = await close_window(t, narrow, publisher, channel)
    new = await t.resume(narrow, seq=1, acks=False)
    await t.until(new, lambda: len(new.resent) == window - 1, "what was sent before", requirement="RES-29")
    await pour(t, publisher, channel, 3, first=end)
    await t.until(new, partial(filled, new, window + 1), "one more frame", requirement="RES-28")
    await settled(new)
    hint = "what is sent again is still unacknowledged: compare `sent - acked` with `window` as ever"
    t.equal(new.receipts.got, window + 1, "the highest number after a resume from 1", hint=hint)


async def settled(session: Session) -> None:
    """Give a server that sends too much the time to do so."""
    for _ in range(3):
        await session.ping()


@check("del/bytes-count-what-came-again", covers=["DEL-23", "DEL-24"], needs=["resume", "pubsub"])
async def bytes_count_what_came_again(t: Test) -> None:
    """The bytes of frames that are sent again after a resume keep the window closed until they are
    acknowledged."""
    narrow, publisher = await narrow_session(t, window=64), await t.session(name="publisher")
    bound = narrow.limit("window_bytes")
    largest = min(narrow.limit("max_frame"), publisher.limit("max_frame")) - 512
    most = max(3, math.ceil(bound / largest))
    size = math.ceil(bound / most)
    if bound > LARGEST or most >= narrow.limit("window") or size < 1024:
        raise t.unverified("`window_bytes` cannot be filled in time; add an identity `small`")
    sub = await narrow.subscribe(channel := t.channel())
    await narrow.ack()
    await pour(t, publisher, channel, most, size=size)
    await t.until(narrow, reached(sub, most - 1), "frames up to `window_bytes`", requirement="SUB-05")
    new = await t.resume(narrow, seq=narrow.receipts.acked, acks=False)
    await t.until(new, lambda: len(new.resent) == most, "what was sent before", requirement="RES-29")
    late = await t.emit(channel, {"n": most}, by=publisher)
    await settled(new)
    early = next((frame for frame in sub.frames if frame.get("data") == late.data), None)
    hint = "count the bytes of every unacknowledged frame, whichever connection it was sent on"
    t.that(early is None, f"{most} frames that came again left the window open", frame=early, hint=hint)
    await new.ack()
    await t.must(sub.gets(late), requirement="DEL-24")


@check("del/old-acks-after-resume", covers="DEL-27", needs=["resume", "pubsub"])
async def old_acks_after_resume(t: Test) -> None:
    """What the `seq` of a resume has acknowledged may be acknowledged again, by any number up to it."""
    alice, bob = await t.session(name="alice", acks=False), await t.session(name="bob")
    if alice.limit("window") < 4:
        raise t.unverified("the window is too small to leave some frames without an ack")
    sub = await alice.subscribe(channel := t.channel())
    for _ in range(3):
        await sub.gets(await t.emit(channel, by=bob))
    new = await t.resume(alice, seq=3, acks=False)
    hint = "an ack that is no higher than `acked` is ignored, on every connection"
    for seq in (1, 3, 2):
        await new.ack(seq)
        await t.alive(new, hint=hint)
    await t.must(sub.gets(await t.emit(channel, by=bob)), hint=hint)


@check("res/many-unacknowledged-again", covers="RES-29", needs=["resume", "pubsub"])
async def many_unacknowledged_again(t: Test) -> None:
    """However many frames are unacknowledged, all of them come again, in their order, before a new one."""
    alice, bob = await t.session(name="alice", acks=False), await t.session(name="bob")
    count = min(MANY, alice.limit("window") - 2, alice.limit("window_bytes") // 512)
    if count < 1:
        raise t.unverified("the window is too small to leave a frame without an ack")
    sub = await alice.subscribe(channel := t.channel())
    await pour(t, bob, channel, count)
    await t.until(alice, reached(sub, count - 1), "the events before the resume", requirement="SUB-05")
    new = await t.resume(alice, seq=1)
    marker = await t.must((await new.start("subscribe", channel=t.channel())).opened())
    again = [frame.get("seq") for frame in new.resent if frame.entry < marker.entry]
    hint = "send everything again that is not acknowledged, as fast as the socket takes it"
    t.equal(again, list(range(2, count + 2)), "the numbers of the frames that came again", hint=hint)


@check("res/window-stays", covers="RES-37", needs=["resume", "pubsub"])
async def window_stays(t: Test) -> None:
    """The window of a session is that of its first hello, whatever a resume asks for: less, more, nothing."""
    session, publisher = await narrow_session(t, window=3), await t.session(name="publisher")
    await session.subscribe(channel := t.channel())
    window = session.limit("window")
    hint = "ignore the `limits` of a hello that resumes"
    end = 0
    for asked in (1, 64, None):
        session = await t.resume(
            session, acks=False, hello={} if asked is None else {"limits": {"window": asked}}
        )
        full = session.receipts.acked + window
        count = full - session.receipts.got + 2
        await pour(t, publisher, channel, count, first=end)
        end += count
        what = f"a window of {window} frames after a resume that asks for {asked}"
        await t.until(session, partial(filled, session, full), what, hint=hint)
        await settled(session)
        t.equal(session.receipts.got, full, f"the highest number, with {what},", hint=hint)
        await session.ack()


def filled(session: Session, full: int) -> bool:
    """Return whether a session has received so many frames."""
    return session.receipts.got >= full


@check("res/max-frame-stays", covers="RES-37", needs=["resume", "pubsub"])
async def max_frame_stays(t: Test) -> None:
    """A client keeps the frame limit of its first hello, also when a resume asks for more or for none."""
    alice = await t.session(name="alice", hello={"limits": {"max_frame": 4096}})
    bob = await t.session(name="bob")
    if bob.limit("max_frame") < 2 * SIZE:
        raise t.unverified("max_frame is so small that no client can ask for less")
    sub = await alice.subscribe(channel := t.channel())
    for n, asked in enumerate(({}, {"limits": {"max_frame": 2 * SIZE}}), 1):
        alice = await t.resume(alice, hello=asked)
        await bob.publish(channel, {"pad": "x" * SIZE})
        await t.until(alice, partial(more_than, sub, n), "the large event, or its gap")
        got = sub.frames[n]
        t.equal(got.type, "gap", "what stands for an event of 6000 bytes", frame=got)
        t.equal(got.get("reason"), "too_large", "the reason of the gap", frame=got, requirement="DEL-06")


def more_than(sub: Exchange, n: int) -> bool:
    """Return whether a subscription has received more than `n` frames."""
    return len(sub.frames) > n


@check("res/rate-goes-on", covers="RES-37", needs=["resume", "pubsub"])
async def rate_goes_on(t: Test) -> None:
    """The rate of a session goes on where it was: a resume brings no new tokens."""
    before = t.now()
    session = await t.session("limited" if "limited" in t.bench.target.identities else None)
    limits = session.welcome["limits"]
    rate = limits.get("rate") if isinstance(limits, dict) else None
    if not isinstance(rate, dict):
        raise t.not_applicable("`welcome` advertises no `rate`")
    count, per_second = int(rate["count"]), rate["count"] * 1000 / rate["per_ms"]
    if count > BURST:
        raise t.unverified(
            "the rate is too generous to be used up; add an identity `limited` with a small one"
        )
    accepted = 0
    for _ in range(3):
        session.paced = False
        frames = [session.frame("publish", channel=t.channel(), data=n) for n in range(count)]
        await session.pipeline(*frames)
        for frame in frames:
            end = await session.exchange(frame).terminal()
            accepted += not is_limited(end)
        session = await t.resume(session)
    elapsed = t.now() - before
    t.that(
        accepted <= count + elapsed * per_second + 1,
        f"{accepted} frames in {elapsed * 1000:.0f} ms were within the rate, on three connections",
        hint="the bucket belongs to the session",
    )


def is_limited(end: Frame) -> bool:
    """Return whether a terminal is `rate_limited`."""
    error = end.get("error")
    return isinstance(error, dict) and error.get("code") == "rate_limited"
