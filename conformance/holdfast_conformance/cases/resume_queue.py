"""What waits in the queue of a session that changes its connection: `spec/07-resume.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check, without
from holdfast_conformance.lives import pause
from holdfast_conformance.logs import arrived
from holdfast_conformance.traffic import account, close_window, narrow_session, pattern_over, pour, roomy

MOST = 600
"""Events of a queue that a check is willing to overfill."""


@check(
    "res/pattern-after-fewer-permissions",
    covers=["RES-35", "RES-38"],
    needs=["resume", "pattern", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def pattern_after_fewer_permissions(t: Test) -> None:
    """A pattern goes on after a resume, without the queued events that its identity may not see."""
    alice, twin = await t.session("alice"), await t.session("alice", name="twin")
    secret, public = t.channel("restricted"), t.channel()
    pattern = pattern_over(secret, public)
    if pattern is None:
        raise t.unverified("let `open` and `restricted` under [channels] have the same number of segments")
    sub = await alice.subscribe(pattern=pattern)
    roomy(t, sub, 2)
    await t.control(sub.gets(await t.emit(secret, by=twin)))
    await pause(alice)
    ghost, news = await t.emit(secret, by=twin), await t.emit(public, by=twin)
    new = await t.resume(alice, identity="alice-narrow")
    await t.must(sub.gets(news), requirement="RES-38")
    await t.must(sub.gets(await t.emit(public, by=twin)), hint="a subscription to a pattern goes on")
    leaked = next((frame for frame in new.frames if frame.get("data") == ghost.data), None)
    hint = "look at what is queued for patterns, too, when a resume brings another identity"
    t.that(leaked is None, f"an event of {secret} was delivered after the resume", frame=leaked, hint=hint)


@check("res/overflow-with-a-log", covers=["DEL-35", "RES-38"], needs=["resume", "history"])
async def overflow_with_a_log(t: Test) -> None:
    """What overflows while a session is suspended comes from the log after its resume, without a gap."""
    identity = "limited" if "limited" in t.bench.target.identities else None
    tight, bob = await t.session(identity, name="tight"), await t.session(name="bob")
    queue, channel = tight.limit("queue"), t.channel()
    if 2 * queue > MOST:
        raise t.unverified(f"a queue of {queue} events takes too long; add an identity `limited`")
    sub = await tight.subscribe(channel)
    if "cursor" not in sub.frames[0].body:
        raise t.unverified("no log: let [channels] open of the target file name channels that keep one")
    await pour(t, bob, channel, 1)
    await t.until(tight, arrived(sub, 0), "the event before the pause", requirement="SUB-05")
    await pause(tight)
    end = 2 * queue + 3
    await pour(t, bob, channel, end - 1, first=1)
    new = await t.resume(tight)
    await pour(t, bob, channel, 1, first=end)
    hint = "a suspended session is a slow one: on overflow go on from the log after its resume"
    await t.until(new, arrived(sub, end), "the newest event", hint=hint)
    gap = next((frame for frame in sub.frames if frame.type == "gap"), None)
    if gap is not None and gap.get("reason") == "expired":
        raise t.unverified(f"the log of {channel} keeps fewer than {end} events")
    t.that(gap is None, "a gap where the log has every event", frame=gap, hint=hint)
    account(t, new.frames, sub, end + 1, hole="DEL-35", hint=hint)


@check("res/queued-refusals", covers=["RES-38", "RES-27"], needs=["resume", "pubsub"])
async def queued_refusals(t: Test) -> None:
    """Refusals that wait behind a closed window outlive their connection, and count in `last_id`."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    await narrow.subscribe(channel := t.channel())
    await close_window(t, narrow, publisher, channel)
    frames = [narrow.frame("conf.no_such_type") for _ in range(2)]
    await narrow.pipeline(*frames)
    calls = [narrow.exchange(frame) for frame in frames]
    await narrow.ping()  # the server has read them
    new = await t.resume(narrow)
    hint = "an id is consumed when its frame is read, whether its answer could leave or not"
    t.equal(
        new.welcome.get("last_id"), calls[-1].id, "`last_id`", frame=new.welcome,
        requirement="RES-27", hint=hint,
    )  # fmt: skip
    for call in calls:
        await t.must(call.error("unsupported"), hint="whatever is queued belongs to the session")


@check("res/queued-gap", covers=["RES-38", "DEL-03"], needs=["resume", "pubsub"])
async def queued_gap(t: Test) -> None:
    """A gap that waits behind a closed window outlives its connection, and tells of every lost event."""
    narrow = await narrow_session(t, profiles=without("history"))
    publisher, channel = await t.session(name="publisher"), t.channel()
    if (queue := narrow.limit("queue")) > MOST:
        raise t.unverified(f"a queue of {queue} events takes too long; add an identity `small`")
    sub, witness = await narrow.subscribe(channel), await publisher.subscribe(channel)
    end = await close_window(t, narrow, publisher, channel)
    await pour(t, publisher, channel, queue + 2, first=end)
    end += queue + 2
    await t.until(publisher, arrived(witness, end - 1), "the events at the witness", requirement="SUB-05")
    new = await t.resume(narrow)
    await new.subscribe(t.channel())  # its `open` comes behind everything that was queued
    await publisher.publish(channel, {"n": end})
    await t.until(new, arrived(sub, end), "the newest event", requirement="SUB-05")
    hint = "a gap in the queue is kept like every frame there"
    account(t, new.frames, sub, end + 1, hole="RES-38", hint=hint)
    if not any(frame.type == "gap" for frame in sub.frames):
        raise t.unverified("nothing was lost: the events came to the session after its resume")
