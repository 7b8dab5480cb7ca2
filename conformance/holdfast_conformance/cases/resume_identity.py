"""What the identity of a resume may see, and for how long: `spec/07-resume.md`."""

from __future__ import annotations

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.lives import pause


@check(
    "res/fewer-permissions",
    covers=["RES-35", "RES-34", "RES-38"],
    needs=["resume", "pubsub", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def fewer_permissions(t: Test) -> None:
    """What the identity of a resume may not see ends with `forbidden` and without its queued events."""
    alice, twin = await t.session("alice"), await t.session("alice", name="twin")
    plan, room = t.channel("restricted"), t.channel()
    lost, kept = await alice.subscribe(plan), await alice.subscribe(room)
    await pause(alice)
    secret, news = await t.emit(plan, by=twin), await t.emit(room, by=twin)
    new = await t.resume(alice, identity="alice-narrow")
    end = await t.must(
        lost.error("forbidden"), hint="look at every subscription again when a resume is accepted"
    )
    await t.must(kept.gets(news), requirement="RES-38")
    came = [frame for frame in lost.frames if frame.type == "event"]
    hint = "discard what is queued and not yet numbered"
    t.that(not came, f"{secret.data} was delivered after the permission was lost", frame=end, hint=hint)
    fresh = await new.start("subscribe", channel=t.channel("restricted"))
    await t.must(
        fresh.error("forbidden"), requirement="RES-34", hint="the new hello decides, not the old one"
    )


@check(
    "res/numbered-before-permission-was-lost",
    covers=["RES-29", "RES-35"],
    needs=["resume", "pubsub", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def numbered_before_permission_was_lost(t: Test) -> None:
    """A frame with a number is sent again, also when the new identity may no longer see its channel."""
    alice = await t.session("alice", acks=False)
    if alice.limit("window") < 3:
        raise t.unverified("the window is too small to leave some frames without an ack")
    channel = t.channel("restricted")
    sub = await alice.subscribe(channel)
    event = await sub.gets(await t.emit(channel, by=await t.session("alice", name="twin")))
    await alice.cut()
    new = await t.resume(alice, seq=1, identity="alice-narrow")
    await t.must(sub.error("forbidden"), requirement="RES-35")
    again = [frame.get("seq") for frame in new.resent]
    t.equal(
        again, [event.get("seq")], "the numbers of the frames that came again", hint="it was delivered before"
    )


@check(
    "res/more-permissions",
    covers="RES-34",
    needs=["resume", "pubsub", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def more_permissions(t: Test) -> None:
    """What only the identity of the resume may do is allowed after it."""
    narrow = await t.session("alice-narrow")
    channel = t.channel("restricted")
    await (await narrow.start("subscribe", channel=channel)).error("forbidden")
    await pause(narrow)
    new = await t.resume(narrow, identity="alice")
    sub = await new.start("subscribe", channel=channel)
    await t.must(sub.opened(), hint="forget the permissions of the identity before")


@check(
    "res/new-expiry",
    covers="RES-34",
    needs=["resume", "pubsub", "identity:alice", "identity:alice-brief"],
    slow=True,
)
async def new_expiry(t: Test) -> None:
    """After a resume the expiry of its identity counts alone: it may be sooner, later, or none."""
    brief, alice = await t.session("alice-brief"), await t.session("alice")
    expires = expiry(brief)
    longer = await t.resume(brief, identity="alice")
    shorter = await t.resume(alice, identity="alice-brief")
    t.that(
        "expires_in_ms" not in member(longer, "auth"), "an expiry is told that is none", frame=longer.welcome
    )
    t.that("expires_in_ms" in member(shorter, "auth"), "the expiry is not told", frame=shorter.welcome)
    await t.closes(shorter, 4100, within=expires, hint="the identity of the newest hello expires")
    await t.sit_out(0.2, "a while after the expiry of the first identity")
    await t.alive(longer, hint="forget the expiry of the identity before")


def member(session: Session, name: str) -> dict[str, object]:
    """Return an object of a welcome, empty when it is not there."""
    value = session.welcome.get(name)
    return value if isinstance(value, dict) else {}


def expiry(session: Session) -> float:
    """Return in how many seconds the identity of a session expires, by its welcome."""
    milliseconds = member(session, "auth").get("expires_in_ms")
    assert isinstance(milliseconds, int)
    return milliseconds / 1000
