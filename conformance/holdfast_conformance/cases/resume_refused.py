"""What a hello that is not accepted leaves as it was: `spec/07-resume.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check
from holdfast_conformance.lives import ask, is_refused
from holdfast_conformance.traffic import upcoming


@check(
    "res/refused-hellos-acknowledge-nothing",
    covers=["RES-17", "RES-18", "RES-19"],
    needs=["resume", "identity:alice", "identity:bob"],
)
async def refused_hellos_acknowledge_nothing(t: Test) -> None:
    """The `seq` of a hello with bad credentials, of a stranger, or that came too late, counts for nothing."""
    alice = await t.session("alice", acks=False)
    if alice.limit("window") < 2:
        raise t.unverified("the window is too small to leave two frames without an ack")
    for _ in range(2):
        await (await alice.start("conf.no_such_type")).error()
    new = await t.resume(alice, seq=0, attempt=5, acks=False)
    hint = "take `seq` as an ack when everything else has been looked at"

    async def nothing_is_acknowledged(requirement: str) -> None:
        nonlocal new
        new = await t.resume(new, seq=0, acks=False, expect="either")
        resumed = new.welcome.get("resumed") is True
        what = "a hello that was not accepted has acknowledged frames"
        t.that(resumed, what, frame=new.welcome, requirement=requirement, hint=hint)

    bob = await t.resume(new, identity="bob", seq=2, attempt=9, expect="either", name="bob")
    is_refused(t, bob, new, "not_found")
    new.attempt = 5
    await nothing_is_acknowledged("RES-18")
    await t.closes(await ask(t, new, seq=2, attempt=1, name="late"), 4008, requirement="RES-19")
    await nothing_is_acknowledged("RES-19")
    auth = {"scheme": "bearer", "token": f"nobody-{t.random.getrandbits(64):x}"}
    await t.closes(await ask(t, new, seq=2, auth=auth), 4101, requirement="RES-17")
    await nothing_is_acknowledged("RES-17")


@check("res/old-input-dies-with-a-mismatch", covers="RES-31", needs=["resume", "pubsub"])
async def old_input_dies_with_a_mismatch(t: Test) -> None:
    """After a mismatch, too, nothing is acted on that the older connection still brings."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    await bob.subscribe(channel)
    await t.control(bob.gets(await t.emit(channel, by=alice)))
    alice.answer_close = False
    fresh = await t.resume(alice, seq=alice.receipts.got + 7, expect="either")
    is_refused(t, fresh, alice, "mismatch", last_id=1)
    ghost = upcoming(t, channel)
    await alice.send({"type": "publish", "id": 2, "channel": channel, "data": ghost.data})
    await fresh.ping()
    await t.must_not(bob.gets(ghost), hint="the session is over, and with it what its connection brings")
