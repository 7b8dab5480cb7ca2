"""What becomes of a session when its connection ends, and how long it is kept: `spec/07-resume.md`."""

from __future__ import annotations

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.lives import is_refused, pause, resume_error
from holdfast_conformance.traffic import upcoming

LONG = 60000
"""Milliseconds that a request is held when it has to outlive the check."""

SLACK = 2.0
"""Seconds, before scaling, by which a timer of the target may be late without blame."""

LONGEST = 5000
"""Milliseconds of `resume_ms` beyond which a check does not wait for it."""

DROPPED = 40
"""Sessions of one principal that are dropped at once."""

KEPT = (
    1001, 1011, 1012, 1013, 3000, 3999, 4008, 4100, 4101, 4199, 4200, 4299, 4300, 4302, 4303, 4304, 4399,
    4499, 4500, 4599, 4999,
)  # fmt: skip
ENDED = (
    1000, 1002, 1003, 1007, 1008, 1009, 1010, 4000, 4001, 4002, 4003, 4004, 4005, 4099, 4102, 4103, 4301,
    4501,
)  # fmt: skip
"""What the table of close codes says of each, whoever sends it. The parser of the suite cannot read 1014."""

CLIENTS = range(4500, 4600)
"""Codes that no server sends."""


# Close codes


@check("res/kept-by-the-client", covers=["RES-05", "RES-27"], needs=["resume"])
async def kept_by_the_client(t: Test) -> None:
    """A session outlives a connection that its client closed with a code that keeps it."""
    for code in KEPT:
        alice = await t.session(name=f"alice, {code}")
        await alice.close(code)
        await alice.wait_closed()
        await is_kept(t, alice, f"the client closed with {code}")


@check("res/ended-by-the-client", covers=["RES-06", "RES-21"], needs=["resume"])
async def ended_by_the_client(t: Test) -> None:
    """A session ends with a connection that its client closed with a code that ends it, or without a code."""
    for code in (*ENDED, None):
        alice = await t.session(name=f"alice, {code}")
        await alice.close(code)
        await alice.wait_closed()
        await is_ended(t, alice, f"the client closed with {code or 'no code'}")


@check("res/kept-without-goodbye", covers=["RES-05", "RES-27"], needs=["resume"])
async def kept_without_goodbye(t: Test) -> None:
    """A session outlives a connection that ended without a close frame, by a reset or by a FIN."""
    alice = await t.session(name="reset")
    await alice.abort()
    await is_kept(t, alice, "the connection was reset")
    if t.bench.endpoint.tls is None:
        alice = await t.session(name="fin")
        await alice.half_close()
        await alice.wait_closed()
        await is_kept(t, alice, "the client ended the stream without a close frame")


@check("res/kept-by-the-server", covers=["RES-05", "RES-27"], needs=["resume", "rpc", "script:close"])
async def kept_by_the_server(t: Test) -> None:
    """A session outlives a connection that its server closed with a code that keeps it."""
    for code in KEPT:
        if code in CLIENTS:
            continue
        alice = await t.session(name=f"alice, {code}")
        await alice.run(["close", code])
        await alice.wait_closed()
        await is_kept(t, alice, f"the server closed with {code}")


@check("res/ended-by-the-server", covers=["RES-06", "RES-21"], needs=["resume", "rpc", "script:close"])
async def ended_by_the_server(t: Test) -> None:
    """A session ends with a connection that its server closed with a code that ends it."""
    for code in ENDED:
        if code in CLIENTS:
            continue
        alice = await t.session(name=f"alice, {code}")
        await alice.run(["close", code])
        await alice.wait_closed()
        await is_ended(t, alice, f"the server closed with {code}", last_id=1)


@check("res/kept-after-abort", covers="RES-05", needs=["resume", "rpc", "script:abort"])
async def kept_after_abort(t: Test) -> None:
    """A session outlives a connection that the server's side lost without a close frame."""
    alice = await t.session(name="alice")
    await alice.run(["abort"])
    await alice.wait_closed()
    await is_kept(t, alice, "the server's side lost the connection")


@check("res/ended-by-faults", covers=["RES-06", "RES-21"], needs=["resume"])
async def ended_by_faults(t: Test) -> None:
    """A client that breaks a rule loses its session with the connection, and gets its final `last_id`."""
    faults: list[tuple[int, str]] = [
        (4001, "[]"),
        (4002, '{"type":"welcome"}'),
        (4003, '{"type":"auth","id":1,"token":"x"}'),
        (4004, '{"type":"ack","seq":4711}'),
        (4005, '{"type":"ping","t":7}'),
    ]
    for code, text in faults:
        alice = await t.session(name=f"alice, {code}")
        await (await alice.start("auth", token=f"nobody-{t.random.getrandbits(64):x}")).error()
        await alice.send_text(text)
        closure = await alice.wait_closed()
        await is_ended(t, alice, f"the client sent {text} and was closed with {closure.code}", last_id=1)


@check(
    "res/kept-after-expiry", covers=["RES-36", "RES-05"], needs=["resume", "rpc", "pubsub", "script:expire"]
)
async def kept_after_expiry(t: Test) -> None:
    """A session whose identity expired is resumed with a valid one, and goes on."""
    alice = await t.session(name="alice")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await alice.run(["expire"], ["hold", LONG])
    closure = await alice.wait_closed()
    if closure.code != 4100:
        raise t.unverified("the script step `expire` did not close with 4100")
    await is_kept(t, alice, "its identity had expired", requirement="RES-36")
    await t.must(sub.gets(await t.emit(channel)), hint="the session goes on with its new identity")


@check("res/kept-after-drain", covers="RES-05", needs=["resume", "rpc", "pubsub", "script:drain"])
async def kept_after_drain(t: Test) -> None:
    """A drained session is resumed before and after the deadline, and goes on undrained."""
    alice = await t.session(name="alice")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await alice.run(["drain", LONG])
    await alice.receives("goaway")
    new = await t.resume(alice)
    await t.must(
        (await new.start("subscribe", channel=t.channel())).opened(), hint="it was a connection that drained"
    )
    await new.run(["drain", 0])
    await new.wait_closed()
    await is_kept(t, new, "the deadline of a drain had passed")
    await t.must(sub.gets(await t.emit(channel)))


async def is_kept(t: Test, alice: Session, what: str, *, requirement: str = "RES-05") -> None:
    """Assert that a session can be resumed; `what` says how its connection ended."""
    new = await t.resume(alice, expect="either")
    t.kept_until_now(alice, new.welcome)
    t.that(
        new.welcome.get("resumed") is True,
        f"the session was lost ({resume_error(new).get('code')}) although {what}",
        frame=new.welcome,
        requirement=requirement,
        hint="the table of close codes says what each of them means for the session",
    )


async def is_ended(t: Test, alice: Session, what: str, *, last_id: int | None = None) -> None:
    """Assert that a session cannot be resumed; `what` says how its connection ended."""
    new = await t.resume(alice, expect="either")
    t.that(
        new.welcome.get("resumed") is not True,
        f"the session was resumed although {what}",
        frame=new.welcome,
        requirement="RES-06",
        hint="the table of close codes says what each of them means for the session",
    )
    is_refused(t, new, alice, "ended", "not_found", last_id=last_id, requirement="RES-21")


# Time


@check("res/resume-ms-over", covers=["RES-10", "RES-20", "RES-09", "RES-12"], needs=["resume"], slow=True)
async def resume_ms_over(t: Test) -> None:
    """A session is kept until it was suspended for `resume_ms`, and is refused after that."""
    early, late, last = [await brief_session(t, name=name) for name in ("early", "late", "last")]
    resume = early.limit("resume_ms") / 1000
    await comes_back(t, early, requirement="RES-09")
    for session in (late, last):
        await (await session.start("auth", token=f"nobody-{t.random.getrandbits(64):x}")).error()
        await pause(session)
    begin = t.now()
    await t.sit_out(max(0.0, begin + 1.5 * resume - t.now()), "resume_ms, and half of it again")
    fresh = await t.resume(late, expect="either")
    if fresh.welcome.get("resumed") is True:
        t.note("the session was resumed half a resume_ms too late; that is within the slack for timers")
    else:
        hint = "what ended by the clock is `expired`, anything else is `ended`"
        is_refused(t, fresh, late, "expired", "not_found", last_id=1, requirement="RES-20", hint=hint)
    rest = begin + resume + SLACK * t.bench.clock.scale - t.now()
    await t.sit_out(max(0.0, rest), "the rest of the slack for timers")
    fresh = await t.resume(last, expect="either")
    is_refused(t, fresh, last, "expired", "not_found", last_id=1, requirement="RES-10")


@check("res/resume-ms-begins-anew", covers=["RES-09", "RES-05"], needs=["resume"], slow=True)
async def resume_ms_begins_anew(t: Test) -> None:
    """`resume_ms` counts from the end of each connection, not from the beginning of the session."""
    alice = await brief_session(t, name="alice")
    resume = alice.limit("resume_ms") / 1000
    await t.sit_out(1.3 * resume, "more than resume_ms, connected")
    await t.alive(alice)
    for _ in range(3):
        back = await comes_back(t, alice, hint="count from the moment at which the connection was lost")
        if back is None:
            break
        alice = back


async def comes_back(t: Test, session: Session, *, requirement: str = "", hint: str = "") -> Session | None:
    """Assert that a session is kept for 0.4 times `resume_ms`; return its new connection.

    None when all of `resume_ms` may have passed before the server read the resume: then nobody is to blame.
    """
    resume = session.limit("resume_ms") / 1000
    begin = t.now()
    await pause(session)
    await t.sit_out(0.4 * resume, "a part of resume_ms")
    back = await t.resume(session, expect="either")
    resumed, took = back.welcome.get("resumed") is True, t.now() - begin
    if not resumed and took > 0.9 * resume:
        t.note(f"it took {took:.2f} s to come back, too long for a resume_ms of {resume:g} s")
        return None
    t.that(
        resumed,
        f"the session was lost before it had been suspended for resume_ms, {resume:g} s",
        frame=back.welcome,
        requirement=requirement,
        hint=hint,
    )
    return back


@check(
    "res/expired-work-stops",
    covers=["SES-45", "RES-10"],
    needs=["resume", "rpc", "pubsub", "script:hold", "script:emit"],
    slow=True,
)
async def expired_work_stops(t: Test) -> None:
    """When a suspended session expires its running requests are cancelled."""
    alice, bob = await brief_session(t, name="alice"), await t.session(name="bob")
    resume = alice.limit("resume_ms") + int(SLACK * 1000 * t.bench.clock.scale)
    channel = t.channel()
    await bob.subscribe(channel)
    proof = upcoming(t, channel)
    await bob.run(["hold", 10], ["emit", channel, proof.data])
    await t.control(bob.gets(proof))
    ghost = upcoming(t, channel)
    await alice.run(["hold", resume], ["emit", channel, ghost.data])
    await alice.ping()
    await pause(alice)
    marker = upcoming(t, channel)
    await bob.run(["hold", resume + 500], ["emit", channel, marker.data])
    await t.sit_out(resume / 1000 + 0.5, "resume_ms, and the slack for timers")
    await bob.gets(marker)
    await t.must_not(bob.gets(ghost), hint="the end of a session cancels what runs, connected or not")


async def brief_session(t: Test, *, name: str) -> Session:
    """Open a session with a short `resume_ms`: of the identity `small`, where the target file has it."""
    session = await t.session("small" if "small" in t.bench.target.identities else None, name=name)
    if session.limit("resume_ms") > LONGEST:
        raise t.unverified(
            "resume_ms is long; add an identity `small`, whose limits are small, to the target file"
        )
    return session


@check(
    "res/many-dropped",
    covers=["RES-09", "RES-05"],
    needs=["resume", "pubsub", "identity:bob"],
    intrusive=True,
    serial=True,
)
async def many_dropped(t: Test) -> None:
    """A client that connects and disappears again and again pushes out its own oldest sessions at most."""
    bob = await t.session("bob", name="bob")
    channel = t.channel()
    sub = await bob.subscribe(channel)
    await pause(bob)
    dropped: list[Session] = []
    for _ in range(DROPPED):
        session = await t.session("alice", name="dropped")
        await session.abort()
        dropped.append(session)
    newest = await t.resume(dropped[-1], expect="either")
    t.that(
        newest.welcome.get("resumed") is True,
        "the session that was suspended last is gone",
        frame=newest.welcome,
        hint="when there are too many of one principal, end the one that was suspended first",
    )
    await t.resume(bob, expect="resumed")
    await t.must(sub.gets(await t.emit(channel)), requirement="RES-05", hint="the bound is one per principal")
    oldest = await t.resume(dropped[0], expect="either")
    t.note(f"the first of {DROPPED} dropped sessions was {resume_error(oldest).get('code') or 'kept'}")
