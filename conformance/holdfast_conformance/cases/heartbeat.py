"""The heartbeat: `spec/03-session.md`, its section of that name."""

from __future__ import annotations

from holdfast_conformance.case import Session, Test, check, without

SLACK = 0.25
"""Seconds, before scaling, by which a heartbeat may be late without blame."""

EARLY = 0.05
"""Seconds by which a timer may be early without blame: clocks are read at both ends, and rounded."""


@check("ses/ping-to-an-idle-client", covers=["SES-30", "SES-31"], needs=["session"], slow=True)
async def ping_to_an_idle_client(t: Test) -> None:
    """On an idle connection the server pings once per interval, and a client that answers stays connected."""
    session = await t.session(profiles=())
    interval, timeout = heartbeat(t, session, 3.5)
    await t.sit_out(3.5 * interval, "three and a half heartbeat intervals")
    pings = session.find("ping")
    t.that(
        len(pings) >= 2,
        f"{len(pings)} pings came in 3.5 intervals",
        hint="ping whenever an interval was silent",
    )
    t.that(len(pings) <= 4, f"{len(pings)} pings came in 3.5 intervals", requirement="SES-31")
    first = pings[0].at - session.welcome.at
    limit = interval + timeout + SLACK * t.bench.clock.scale
    t.that(
        first <= limit, f"the first ping came after {first:.2f} s, when clients have given up", frame=pings[0]
    )
    await t.alive(session, requirement="SES-33")


@check("ses/ping-to-a-listening-client", covers="SES-30", needs=["pubsub"], slow=True)
async def ping_to_a_listening_client(t: Test) -> None:
    """A client that only listens is pinged while events flow to it, and stays connected."""
    alice = await t.session("alice", profiles=without("ack"))
    interval, timeout = heartbeat(t, alice, 3)
    channel = t.channel()
    sub = await alice.subscribe(channel)
    begin = t.now()
    while alice.closure is None and t.now() < begin + max(3 * interval, interval + 2 * timeout):
        await t.sit_out(interval / 5, "a fifth of the heartbeat interval")
        await sub.gets(await t.emit(channel)).wait_or_close()
    hint = "silence in either direction is a reason: watch what you receive apart from what you send"
    t.that(len(alice.find("ping")) >= 1, "no ping came while events flowed", hint=hint)
    await t.alive(alice, requirement="SES-33")


@check("ses/ping-to-a-talking-client", covers="SES-30", needs=["session"], slow=True)
async def ping_to_a_talking_client(t: Test) -> None:
    """A client that talks, and whose frames need no answer, is pinged."""
    session = await t.session(profiles=())
    interval, _ = heartbeat(t, session, 3)
    begin = t.now()
    while t.now() < begin + 3 * interval:
        await t.sit_out(interval / 5, "a fifth of the heartbeat interval")
        await session.send({"type": "pong"})
    hint = "silence in either direction is a reason: watch what you send apart from what you receive"
    t.that(len(session.find("ping")) >= 1, "no ping came while the client talked", hint=hint)


@check("ses/silent-client-closed", covers="SES-32", needs=["session"], slow=True)
async def silent_client_closed(t: Test) -> None:
    """A client that answers nothing is closed with 4304 after interval and timeout."""
    session = await t.session(profiles=())
    session.answer_heartbeats = False
    interval, timeout = heartbeat(t, session, 1)
    await falls_silent(t, session, interval + timeout)
    t.that(len(session.find("ping")) >= 1, "it was closed without a ping before", requirement="SES-30")


@check("ses/silent-listener-closed", covers="SES-32", needs=["pubsub"], slow=True)
async def silent_listener_closed(t: Test) -> None:
    """A client that answers nothing is closed with 4304, although events flow to it."""
    alice = await t.session("alice", profiles=without("ack"))
    alice.answer_heartbeats = False
    interval, timeout = heartbeat(t, alice, 1)
    channel = t.channel()
    await alice.subscribe(channel)
    begin = t.now()
    while alice.closure is None and t.now() < begin + 2 * (interval + timeout) + 2 * t.bench.clock.scale:
        await t.sit_out(interval / 5, "a fifth of the heartbeat interval")
        await t.emit(channel)
    await has_fallen_silent(t, alice)


@check("ses/websocket-pings-are-no-life", covers="SES-32", needs=["session"], slow=True)
async def websocket_pings_are_no_life(t: Test) -> None:
    """WebSocket pings and pongs of a client do not keep the session."""
    session = await t.session(profiles=())
    session.answer_heartbeats = False
    interval, timeout = heartbeat(t, session, 1)
    begin = t.now()
    while session.closure is None and t.now() < begin + 2 * (interval + timeout) + 2 * t.bench.clock.scale:
        await t.sit_out(interval / 5, "a fifth of the heartbeat interval")
        await session.send_frame(9, b"alive?")
        await session.send_frame(10, b"alive!")
    await has_fallen_silent(t, session)


@check("ses/every-frame-is-life", covers=["SES-33", "SES-32"], needs=["session"], slow=True)
async def every_frame_is_life(t: Test) -> None:
    """Frames of every kind, also ignored and refused ones, keep a client that answers no ping."""
    unknown = f"x{t.random.getrandbits(32):x}.nothing"
    kinds = ("pong", "unknown", "ack", "cancel", "refused", "ping", "nothing")
    sessions = {kind: await t.session(profiles=(), name=f"sends {kind}") for kind in kinds}
    interval, timeout = heartbeat(t, sessions["pong"], 2.5)
    hole, used = sessions["cancel"].next_id(), sessions["cancel"].next_id()
    await sessions["cancel"].start(unknown, id=used)
    for session in sessions.values():
        session.answer_heartbeats = False
    for _ in range(5):
        await sessions["pong"].send({"type": "pong"})
        await sessions["unknown"].send({"type": unknown})
        await sessions["ack"].send_text('{"type":"ack","seq":1}')
        await sessions["cancel"].send({"type": "cancel", "of": hole})
        await sessions["refused"].start(unknown)
        await sessions["ping"].send({"type": "ping"})
        await t.sit_out((interval + timeout) / 2, "half of interval and timeout")
    silent = sessions.pop("nothing")
    for session in sessions.values():
        await session.send({"type": "ping", "t": "the end"})
    for session in sessions.values():
        hint = "note the time of every message that you read, before you look into it"
        await t.must(session.receives("pong", t="the end"), hint=hint)
    await falls_silent(t, silent, 0)


@check("ses/silence-is-not-cut-short", covers="SES-49", needs=["session"], slow=True)
async def silence_is_not_cut_short(t: Test) -> None:
    """A client that sends nothing keeps its connection until interval and timeout have passed."""
    session = await t.session(profiles=())
    session.answer_heartbeats = False
    interval, timeout = heartbeat(t, session, 1)
    begin = t.now()
    await session.send({"type": "pong"})  # the last sign of life, read no earlier than now
    await t.closes(session, 4304, within=interval + timeout, requirement="SES-32")
    t.that(
        t.now() - begin >= interval + timeout - EARLY,
        f"closed with 4304 after {t.now() - begin:.2f} s of silence; {interval + timeout:g} s were announced",
        hint="count from the last frame that you received, and wait for interval and timeout",
    )


@check("ses/drain-is-not-cut-short", covers="SES-49", needs=["rpc", "script:drain"], slow=True)
async def drain_is_not_cut_short(t: Test) -> None:
    """A drained connection on which nothing runs stays open until the deadline that goaway named."""
    session = await t.session()
    await session.run(["drain", 600])
    goaway = await t.must(session.receives("goaway"), requirement="SES-38")
    deadline = goaway["deadline_ms"]
    assert isinstance(deadline, int)
    await t.closes(session, 4200, within=deadline / 1000, requirement="SES-42")
    t.that(
        t.now() - goaway.at >= deadline / 1000 - EARLY,
        f"closed with 4200 {t.now() - goaway.at:.2f} s after a goaway that named {deadline} ms",
        hint="also a connection on which nothing runs may want to move in its own time",
    )


@check("ses/identity-is-not-cut-short", covers="SES-49", needs=["identity:brief"], slow=True)
async def identity_is_not_cut_short(t: Test) -> None:
    """A session is not closed for expiry before the time that welcome announced has passed."""
    brief = await t.session("brief", profiles=())
    auth = brief.welcome["auth"]
    expires = auth.get("expires_in_ms") if isinstance(auth, dict) else None
    t.that(isinstance(expires, int), "welcome does not say when the identity expires", requirement="SES-17")
    assert isinstance(expires, int)
    await t.closes(brief, 4100, within=expires / 1000, requirement="SES-18")
    lived = t.now() - brief.welcome.at
    t.that(lived >= expires / 1000 - EARLY, f"closed with 4100 after {lived:.2f} s of {expires} ms")


@check("ses/pings-in-a-burst", covers=["SES-35", "SES-34"], needs=["session"])
async def pings_in_a_burst(t: Test) -> None:
    """Each of many pings that arrive at once gets its own pong with its own `t`, or none when it had none."""
    session = await t.session(profiles=())
    marks = [f"{t.random.getrandbits(60):015x}{'ψ' * (n % 20)}" for n in range(100)]
    await session.pipeline(*({"type": "ping", "t": mark} for mark in marks), {"type": "ping"})
    for mark in marks:
        await t.must(session.receives("pong", t=mark))
    await t.until(session, lambda: len(session.find("pong")) > len(marks), "a pong for the ping without t")
    last = [pong for pong in session.find("pong") if pong.get("t") not in marks]
    t.that(
        len(last) == 1 and "t" not in last[0].body,
        "the pong for the ping without t carries a t",
        frame=last[0],
    )


def heartbeat(t: Test, session: Session, factor: float) -> tuple[float, float]:
    """Return interval and timeout in seconds, if the check can wait for `factor` times their sum."""
    beat = session.welcome["heartbeat"]
    assert isinstance(beat, dict)
    interval, timeout = beat["interval_ms"] / 1000, beat["timeout_ms"] / 1000
    if (needed := factor * (interval + timeout)) > t.bench.clock.max_wait:
        raise t.unverified(
            f"this takes {needed:g} s; run the server with a shorter heartbeat, or --max-wait {needed:g}"
        )
    return interval, timeout


async def falls_silent(t: Test, session: Session, silence: float) -> None:
    """Assert that a session which sends nothing is closed with 4304 after `silence` more seconds."""
    hint = "only frames that arrive prove life, not what you write and not WebSocket control frames"
    await t.closes(session, 4304, within=silence, hint=hint, requirement="SES-32")


async def has_fallen_silent(t: Test, session: Session) -> None:
    """Assert that a session which sent nothing was closed with 4304 some time ago."""
    hint = "only frames that arrive prove life, not what you write and not WebSocket control frames"
    message = f"expected {session.name} to be closed with 4304; it is still open"
    t.that(session.closure is not None, message, hint=hint)
    await falls_silent(t, session, 0)
