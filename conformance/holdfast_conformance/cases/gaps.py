"""Recoveries with a hole, and with events that are not for everybody: `spec/12-history.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check
from holdfast_conformance.lives import pause
from holdfast_conformance.logs import arrived, cursor_of, recovers, row
from holdfast_conformance.traffic import account, pour, reached

SMALL = 4096
"""The least `max_frame` that a client may ask for."""


async def overtaken(t: Test, step: str) -> None:
    """Assert that a gap stands for what a recovery has not read when a step of the script removes it."""
    alice = await t.session(name="alice", acks=False, hello={"limits": {"window": 2}})
    bob = await t.session(name="bob")
    written = await row(t, bob, 12)
    sub = await recovers(t, alice, written, 0)
    window = alice.limit("window")
    await t.until(alice, lambda: alice.receipts.got >= window, "a full window", requirement="HIS-05")
    await (await bob.run([step, written.channel])).result()
    await pour(t, bob, written.channel, 3, first=12)
    alice.acks = True
    await alice.ack()
    await t.until(alice, arrived(sub, 14), "the newest event")
    hint = "look at the beginning of the log at each step"
    kept = account(t, alice.frames, sub, 15, hole="HIS-18", hint=hint)
    if not kept.gaps:
        t.note(f"everything had been read before the {step}")
    for gap in (frame for frame in sub.frames if frame.type == "gap"):
        t.equal(gap.get("reason"), "expired", "`reason`", frame=gap)
        place, hint = cursor_of(gap, "HIS-19"), "the place behind the last lost event"
        other = await recovers(t, bob, written, place, requirement="HIS-19", hint=hint)
        await t.until(bob, reached(other, 14), "the newest event", requirement="HIS-19")
        account(t, bob.frames, other, 15, first=12, hole="HIS-19")


@check(
    "his/trimmed-amid-recovery",
    covers=["HIS-18", "HIS-19"],
    needs=["history", "ack", "rpc", "script:trim"],
)
async def trimmed_amid_recovery(t: Test) -> None:
    """When trimming overtakes a recovery, a gap `expired` stands for what is gone, and the rest follows."""
    await overtaken(t, "trim")


@check(
    "his/wiped-amid-recovery",
    covers=["HIS-18", "HIS-19"],
    needs=["history", "ack", "rpc", "script:wipe"],
)
async def wiped_amid_recovery(t: Test) -> None:
    """When the log is started anew amid a recovery, a gap stands for what is gone, and the rest follows."""
    await overtaken(t, "wipe")


@check("his/gap-names-its-end", covers=["HIS-19", "DEL-06"], needs=["history"])
async def gap_names_its_end(t: Test) -> None:
    """The gap for an event too large, live or recovered, carries the place just behind it."""
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    bob = await t.session(name="bob")
    if narrow.limit("max_frame") < 2 * SMALL:
        raise t.unverified("max_frame is so small that no client can ask for less")
    written = await row(t, bob, 1, more=3)
    live = await narrow.subscribe(written.channel)
    await pour(t, bob, written.channel, 1, first=1, size=SMALL + 100)
    await pour(t, bob, written.channel, 2, first=2)
    late = await recovers(t, narrow, written, 0)
    for sub, first in ((live, 1), (late, 0)):
        gap = await t.must(sub.gap(reason="too_large"), requirement="DEL-06")
        await t.until(narrow, reached(sub, 3), "the newest event", requirement="SUB-05")
        account(t, narrow.frames, sub, 4, first=first, hole="DEL-06")
        other = await recovers(t, bob, written, cursor_of(gap, "HIS-19"), requirement="HIS-19")
        await t.until(bob, reached(other, 3), "the newest event", requirement="HIS-19")
        account(t, bob.frames, other, 4, first=2, hole="HIS-19")


# Who may see what


@check("his/echo-in-recovery", covers=["SUB-15", "SUB-16"], needs=["history"])
async def echo_in_recovery(t: Test) -> None:
    """What a session published with `echo:false` is not recovered in that session, and is in any other."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    written = await row(t, bob, 1, more=2)
    await alice.publish(written.channel, {"n": 1}, echo=False)
    await pour(t, alice, written.channel, 1, first=2)
    own, other = await recovers(t, alice, written, 0), await recovers(t, bob, written, 0)
    newest = await alice.subscribe(written.channel, last=1000)
    await t.until(bob, reached(other, 2), "the newest event", requirement="SUB-16")
    account(t, bob.frames, other, 3, hole="SUB-16")
    for sub in (own, newest):
        await t.until(alice, reached(sub, 2), "the newest event", requirement="SUB-05")
        came = [frame.get("data") for frame in sub.frames if frame.type == "event"]
        t.that(
            {"n": 1} not in came,
            "the session recovered what it published with echo:false",
            frame=sub.frames[-1],
        )
        gaps = [frame for frame in sub.frames if frame.type == "gap"]
        t.that(
            not gaps, "a gap stands for an event that was not meant for this session", requirement="DEL-01"
        )


@check(
    "his/recovery-loses-permission",
    covers=["RES-35", "SUB-03"],
    needs=["history", "resume", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def recovery_loses_permission(t: Test) -> None:
    """A recovery under way ends with `forbidden` when the identity of a resume may not see the channel."""
    alice = await t.session("alice", acks=False, hello={"limits": {"window": 3}})
    bob = await t.session("alice", name="publisher")
    written = await row(t, bob, 12, channel=t.channel("restricted"))
    sub = await recovers(t, alice, written, 0)
    await t.until(
        alice, lambda: alice.receipts.got >= alice.limit("window"), "a full window", requirement="HIS-05"
    )
    await pause(alice)
    new = await t.resume(alice, identity="alice-narrow")
    end = await t.must(
        sub.error("forbidden"), hint="a replay needs the permission as a live subscription does"
    )
    t.that(
        len(sub.frames) <= alice.limit("window") + 1,
        "events were read from the log after the permission was lost",
        frame=end,
    )
    strict = await new.start("subscribe", channel=written.channel, since=written.places[0])
    await t.must(strict.error("forbidden"), requirement="SUB-03")
    t.equal(len(strict.frames), 1, "the number of frames", requirement="SUB-03")
