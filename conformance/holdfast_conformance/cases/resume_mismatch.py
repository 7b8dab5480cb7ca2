"""Resumes that do not fit their session: `spec/07-resume.md`, the last of the checks of a resume."""

from __future__ import annotations

from holdfast_conformance.case import Test, check
from holdfast_conformance.lives import is_refused, pause


@check("res/as-many-other-profiles", covers="RES-22", needs=["resume", "rpc", "pubsub"])
async def as_many_other_profiles(t: Test) -> None:
    """A resume with as many profiles as its session has, and not the same ones, is refused."""
    alice = await t.session(name="alice", profiles=["rpc", "ack", "resume"])
    await pause(alice)
    other = await t.resume(alice, profiles=["pubsub", "ack", "resume"], expect="either")
    is_refused(t, other, alice, "mismatch", last_id=0, hint="compare the profiles, not how many they are")
    await t.alive(other, requirement="RES-26")


@check("res/seq-of-what-waits", covers="RES-23", needs=["resume", "pubsub"])
async def seq_of_what_waits(t: Test) -> None:
    """A `seq` that a queued frame would get is above what was sent, and refused."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    await alice.subscribe(channel := t.channel())
    await pause(alice)
    for _ in range(2):
        await t.emit(channel, by=bob)
    fresh = await t.resume(alice, seq=alice.receipts.got + 1, expect="either")
    hint = "a frame gets its number when it leaves the queue; nothing leaves it without a connection"
    is_refused(t, fresh, alice, "mismatch", last_id=1, hint=hint)


@check("res/mismatch-ends-a-suspended-session", covers=["RES-24", "RES-23"], needs=["resume", "pubsub"])
async def mismatch_ends_a_suspended_session(t: Test) -> None:
    """A mismatch ends a session that is suspended, too: nobody can resume it afterwards."""
    alice = await t.session(name="alice")
    await alice.subscribe(t.channel())
    await pause(alice)
    fresh = await t.resume(alice, seq=alice.receipts.got + 7, expect="either")
    is_refused(t, fresh, alice, "mismatch", last_id=1, requirement="RES-23")
    again = await t.resume(alice, expect="either")
    hint = "end the session before you answer with `mismatch`, connected or not"
    is_refused(t, again, alice, "ended", "not_found", last_id=1, hint=hint)
