"""The checks before a session is resumed, their order, and the refusals: `spec/07-resume.md`."""

from __future__ import annotations

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.lives import ask, is_refused, pause, resume_error, secluded

LONG = 60000
"""Milliseconds that a request is held when it has to outlive the check."""


def nobody(t: Test) -> dict[str, object]:
    """Return credentials that no server knows."""
    return {"scheme": "bearer", "token": f"nobody-{t.random.getrandbits(64):x}"}


async def ended(t: Test) -> Session:
    """Return a session that said goodbye after two exchanges, so that its `last_id` is 2."""
    alice = await t.session(secluded(t), name="carol")
    await (await alice.start("auth", token=str(nobody(t)["token"]))).error()
    await (await alice.start("auth", token=str(nobody(t)["token"]))).error()
    await alice.close(1000)
    await alice.wait_closed()
    return alice


# 1. Credentials


@check("res/bad-credentials", covers=["RES-17", "RES-16"], needs=["resume", "pubsub", "identity:alice"])
async def bad_credentials(t: Test) -> None:
    """A resume with bad credentials closes with 4101, whatever else is wrong, and changes nothing."""
    alice = await t.session("alice")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    for attempt, seq in ((9, None), (10, alice.receipts.got + 3)):
        peer = await ask(t, alice, auth=nobody(t), attempt=attempt, seq=seq)
        await t.closes(peer, 4101, requirement="RES-16", hint="who asks comes before what is asked")
    stranger = await t.connect(name="stranger")
    resume = {"session": f"none-{t.random.getrandbits(128):x}", "seq": 0, "attempt": 1}
    profiles = sorted(alice.profiles)
    await stranger.send(t.hello("alice", profiles=profiles, resume=resume, auth=nobody(t)))
    await t.closes(stranger, 4101, requirement="RES-16")
    await t.must(sub.gets(await t.emit(channel)), hint="the session is untouched")
    new = await t.resume(alice, attempt=1, expect="either")
    t.equal(
        new.welcome.get("resumed"),
        True,
        "`resumed` after the refusals of others",
        frame=new.welcome,
        hint="an attempt counts once its credentials are good",
    )


@check("res/expired-credentials", covers="RES-17", needs=["resume", "identity:expired", "identity:alice"])
async def expired_credentials(t: Test) -> None:
    """A resume with an expired token closes with 4101, and a suspended session stays resumable."""
    alice = await t.session("alice")
    await pause(alice)
    auth = {"scheme": "bearer", "token": t.token("expired")}
    await t.closes(await ask(t, alice, auth=auth, attempt=5), 4101, requirement="RES-16")
    await t.resume(alice, attempt=1)


# 2. The session, and whose it is


@check("res/unknown-session", covers=["RES-18", "RES-26"], needs=["resume", "pubsub"])
async def unknown_session(t: Test) -> None:
    """A session that never was is refused with `not_found`; a new one is usable at once, and resumable."""
    alice = await t.session(name="alice")
    name = f"{t.random.getrandbits(128):032x}"
    fresh = await t.resume(alice, session=name, expect="either")
    is_refused(t, fresh, alice, "not_found")
    t.that(fresh.welcome.get("session") != name, "it took the name that we made up", requirement="RES-26")
    channel = t.channel()
    sub = await fresh.subscribe(channel)
    t.equal(sub.id, 1, "the first id")
    await t.must(sub.gets(await t.emit(channel)), requirement="RES-26", hint="no further hello is needed")
    await fresh.cut()
    again = await t.resume(fresh, expect="either")
    t.kept_until_now(fresh, again.welcome)
    t.equal(
        again.welcome.get("resumed"),
        True,
        "`resumed`, for the session that was opened instead",
        frame=again.welcome,
        requirement="RES-26",
    )
    await t.must(sub.gets(await t.emit(channel)), requirement="RES-26")


@check("res/forgotten-session", covers="RES-18", needs=["resume", "rpc", "script:forget"])
async def forgotten_session(t: Test) -> None:
    """A session that the server has forgotten is refused with `not_found`."""
    alice = await t.session(name="alice")
    await (await alice.run(["forget"])).result()
    await alice.cut()
    is_refused(t, await t.resume(alice, expect="either"), alice, "not_found")


@check(
    "res/foreign-session",
    covers=["RES-18", "RES-16"],
    needs=["resume", "pubsub", "identity:alice", "identity:bob"],
)
async def foreign_session(t: Test) -> None:
    """Another's session, attached or suspended, looks as if it never was, and nothing happens to it."""
    alice = await t.session("alice")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    alice = await t.resume(alice, attempt=5)
    unknown = await t.resume(
        await t.session("bob"), session=f"{t.random.getrandbits(128):032x}", expect="either"
    )
    for suspended in (False, True):
        if suspended:
            await pause(alice)
        for attempt, seq in ((7, None), (1, None), (8, alice.receipts.got + 5)):
            bob = await t.resume(alice, identity="bob", attempt=attempt, seq=seq, expect="either", name="bob")
            is_refused(
                t, bob, alice, "not_found", hint="a session belongs to its principal; others see nothing"
            )
            t.equal(resume_error(bob), resume_error(unknown), "`resume_error`", frame=bob.welcome)
    await t.resume(alice, attempt=6)
    await t.must(sub.gets(await t.emit(channel)), hint="leave the session alone")


@check(
    "res/foreign-tombstone", covers=["RES-18", "RES-16"], needs=["resume", "identity:alice", "identity:bob"]
)
async def foreign_tombstone(t: Test) -> None:
    """What is left of another's session looks as if it never was."""
    alice = await ended(t)
    for attempt in (1, 2):
        bob = await t.resume(alice, identity="bob", attempt=attempt, expect="either", name="bob")
        is_refused(t, bob, alice, "not_found", hint="a tombstone belongs to the principal of its session")


@check("res/same-principal", covers="RES-27", needs=["resume", "identity:alice", "identity:alice-2"])
async def same_principal(t: Test) -> None:
    """A resume may come with another token of the same principal."""
    alice = await t.session("alice")
    await pause(alice)
    await t.alive(await t.resume(alice, identity="alice-2"))


# 3. The attempt


@check("res/attempt-not-higher", covers=["RES-19", "RES-16"], needs=["resume", "pubsub"])
async def attempt_not_higher(t: Test) -> None:
    """An attempt that is not higher than an earlier one closes with 4008, whatever else is wrong with it."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await alice.cut()
    new = await t.resume(alice, attempt=5)
    for attempt, seq in ((5, None), (4, None), (1, None), (5, new.receipts.got + 9)):
        late = await ask(t, new, attempt=attempt, seq=seq, name="late")
        order = "RES-19" if seq is None else "RES-16"
        hint = "remember the highest attempt, and let only a higher one in"
        await t.closes(late, 4008, hint=hint, requirement=order)
        t.that(not late.frames, "a hello that came too late was welcomed")
    late = await ask(t, new, attempt=5, profiles=["ack", "resume"], name="late")
    await t.closes(late, 4008, requirement="RES-16", hint="the attempt is looked at before the profiles")
    await t.must(sub.gets(await t.emit(channel, by=bob)), hint="the session stays where it is")
    await pause(new)
    await t.closes(await ask(t, new, attempt=5, name="late"), 4008)
    last = await t.resume(new, attempt=6)
    await t.must(sub.gets(await t.emit(channel, by=bob)), hint="a late hello changes nothing")
    await t.alive(last)


@check("res/attempt-of-a-tombstone", covers="RES-16", needs=["resume"])
async def attempt_of_a_tombstone(t: Test) -> None:
    """A session that has ended still knows its attempts, as long as anything is known of it."""
    alice = await t.session(secluded(t), name="carol")
    await pause(alice)
    new = await t.resume(alice, attempt=3)
    await new.close(1000)
    await new.wait_closed()
    await stale_or_unknown(t, new, attempt=3)
    refused = await t.resume(new, attempt=4, expect="either")
    is_refused(t, refused, new, "ended", "not_found", last_id=0, requirement="RES-21")
    if resume_error(refused).get("code") == "ended":
        hint = "a refused attempt has come that far, so it counts"
        await stale_or_unknown(t, new, attempt=4, hint=hint)


async def stale_or_unknown(t: Test, earlier: Session, *, attempt: int, hint: str = "") -> None:
    """Assert that an attempt which is not higher is closed with 4008, or that the session is forgotten."""
    peer = await ask(t, earlier, attempt=attempt, name="late")
    answer = await t.reply(peer)
    if answer is None:
        await t.closes(peer, 4008, hint=hint)
        return
    error = answer.get("resume_error")
    code = error.get("code") if isinstance(error, dict) else None
    t.that(
        code == "not_found",
        f"attempt {attempt} was answered with {code or answer}, although it is not higher than before",
        frame=answer,
        hint=hint,
    )
    t.note("the server keeps no tombstone")


# 4. Tombstones


@check("res/ended-session", covers=["RES-21", "RES-26", "RES-12"], needs=["resume"])
async def ended_session(t: Test) -> None:
    """A session that said goodbye is refused with `ended` and its `last_id`, or no longer known."""
    alice = await ended(t)
    fresh = await t.resume(alice, expect="either")
    is_refused(t, fresh, alice, "ended", "not_found", last_id=2)
    await t.alive(fresh, requirement="RES-26")
    t.kept_until_now(alice, fresh.welcome)
    t.that(
        resume_error(fresh).get("code") == "ended",
        "nothing is known any more of a session that ended just now",
        frame=fresh.welcome,
        requirement="RES-12",
        hint="keep a tombstone for resume_ms: it tells the client which of its requests never ran",
    )


@check("res/tombstone-before-mismatch", covers=["RES-16", "RES-21"], needs=["resume"])
async def tombstone_before_mismatch(t: Test) -> None:
    """A session that has ended is refused as such, also when numbers or profiles would not fit."""
    alice = await ended(t)
    wrong_number = await t.resume(alice, seq=alice.receipts.got + 4, expect="either")
    is_refused(t, wrong_number, alice, "ended", "not_found", last_id=2, requirement="RES-16")
    wrong_profiles = await t.resume(alice, profiles=["ack", "resume"], expect="either")
    is_refused(t, wrong_profiles, alice, "ended", "not_found", last_id=2, requirement="RES-16")


# 5. Profiles and numbers


@check("res/other-profiles", covers=["RES-22", "RES-16"], needs=["resume", "rpc"])
async def other_profiles(t: Test) -> None:
    """A resume with other profiles than those of the session is refused with `mismatch`."""
    for had, asked in (
        (["rpc", "ack", "resume"], ["ack", "resume"]),
        (["ack", "resume"], ["rpc", "ack", "resume"]),
    ):
        alice = await t.session(name="alice", profiles=had)
        await (await alice.start("auth", token=str(nobody(t)["token"]))).error()
        await pause(alice)
        other = await t.resume(alice, profiles=asked, expect="either")
        hint = "compare what was negotiated, in both directions"
        is_refused(t, other, alice, "mismatch", last_id=1, hint=hint)
        t.equal(other.profiles >= set(asked), True, "whether the fresh session has the profiles asked for")
        await t.alive(other, requirement="RES-26")


@check("res/order-of-profiles", covers=["RES-27", "RES-16"], needs=["resume"])
async def order_of_profiles(t: Test) -> None:
    """The order in which hello lists profiles does not matter, nor do names that the server does not know."""
    alice = await t.session(name="alice")
    await pause(alice)
    asked = [*sorted(alice.profiles, reverse=True), f"x{t.random.getrandbits(32):x}.profile"]
    await t.alive(await t.resume(alice, profiles=asked))


@check("res/seq-never-sent", covers=["RES-23", "RES-16"], needs=["resume"])
async def seq_never_sent(t: Test) -> None:
    """A `seq` above everything that was sent is refused with `mismatch` and the `last_id`."""
    for count, ahead in ((0, 1), (2, 1), (2, 1000)):
        alice = await t.session(name="alice")
        for _ in range(count):
            await (await alice.start("auth", token=str(nobody(t)["token"]))).error()
        await pause(alice)
        fresh = await t.resume(alice, seq=count + ahead, expect="either")
        hint = "the client cannot have received what was never sent"
        is_refused(t, fresh, alice, "mismatch", last_id=count, hint=hint)
        await t.alive(fresh, requirement="RES-26")


@check("res/seq-acknowledged", covers=["RES-23", "RES-28"], needs=["resume"])
async def seq_acknowledged(t: Test) -> None:
    """A `seq` below what was acknowledged, by an ack or by a resume, is refused with `mismatch`."""
    for by_resume in (False, True):
        alice = await t.session(name="alice", acks=False)
        if alice.limit("window") < 3:
            raise t.unverified("the window is too small to leave some frames without an ack")
        for _ in range(3):
            await (await alice.start("auth", token=str(nobody(t)["token"]))).error()
        if by_resume:
            await pause(alice)
            alice = await t.resume(alice, seq=2, acks=False)
        else:
            await alice.ack(2)
            await alice.ping()
        await pause(alice)
        fresh = await t.resume(alice, seq=1, expect="either")
        why = "RES-28" if by_resume else "RES-23"
        is_refused(t, fresh, alice, "mismatch", last_id=3, requirement=why, hint="that frame is gone")


@check("res/seq-at-the-edges", covers="RES-27", needs=["resume"])
async def seq_at_the_edges(t: Test) -> None:
    """The highest `seq` that was sent and the highest that was acknowledged are both good."""
    for seq in (1, 3):
        alice = await t.session(name="alice", acks=False)
        if alice.limit("window") < 3:
            raise t.unverified("the window is too small to leave some frames without an ack")
        for _ in range(3):
            await (await alice.start("auth", token=str(nobody(t)["token"]))).error()
        await alice.ack(1)
        await alice.ping()
        await pause(alice)
        new = await t.resume(alice, seq=seq)
        await t.alive(new)
        t.equal([frame.get("seq") for frame in new.resent], list(range(seq + 1, 4)), "what came again")


@check(
    "res/mismatch-ends-the-session",
    covers=["RES-24", "RES-23", "RES-16"],
    needs=["resume", "rpc", "pubsub", "script:hold", "script:emit"],
)
async def mismatch_ends_the_session(t: Test) -> None:
    """A mismatch ends the session: the older connection closes with 4008, its work stops, its id is final."""
    alice, bob = await t.session(secluded(t), name="carol"), await t.session(name="bob")
    channel = t.channel()
    await bob.subscribe(channel)
    proof, ghost = await t.emit(channel), t.payload()
    await t.control(bob.gets(proof))
    hold = min(4000, 300 + int(20_000 * t.bench.clock.rtt.p50))  # longer than the resumes take
    await alice.run(["hold", hold], ["emit", channel, ghost])
    await alice.ping()
    fresh = await t.resume(alice, seq=alice.receipts.got + 7, expect="either")
    is_refused(t, fresh, alice, "mismatch", last_id=1, requirement="RES-23")
    await t.closes(alice, 4008, hint="the older connection has lost its session")
    again = await t.resume(alice, expect="either")
    is_refused(t, again, alice, "ended", "not_found", last_id=1, hint="a mismatch ends the session")
    marker = await bob.run(["hold", hold + 200])
    await marker.result()
    came = [frame for frame in bob.frames if frame.get("data") == ghost]
    t.that(not came, "the work of the session went on", frame=came[0] if came else None, requirement="SES-45")
    await stale_or_unknown(t, alice, attempt=1)
