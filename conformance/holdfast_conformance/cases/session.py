"""Hello, drain and the end of a session: `spec/03-session.md`, but for identity and heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_conformance.case import Emitted, Peer, Test, check, without
from holdfast_conformance.expect import StalledError
from holdfast_conformance.registry import published

if TYPE_CHECKING:
    from collections.abc import Iterable

LONG = 60000
"""Milliseconds that a request is held, or a drain lasts, when it has to outlive the check."""

SLACK = 2.0
"""Seconds, before scaling, by which a timer of the target may be late without blame."""


# Hello


@check("ses/frames-behind-hello", covers=["SES-08", "SES-07"], needs=["rpc", "method:echo"])
async def frames_behind_hello(t: Test) -> None:
    """Frames that arrive together with hello are acted on, all of them, after welcome."""
    peer = await t.connect()
    data = t.payload()
    await peer.pipeline(
        t.hello(profiles=without("ack")),  # nothing waits for an ack that only a session sends
        {"type": "request", "id": 3, "method": t.method("echo"), "data": data},
        {"type": "ping", "t": "behind"},
        {"type": "auth", "id": 5, "token": f"nobody-{t.random.getrandbits(64):x}"},
    )
    await t.must(
        peer.receives("welcome"), hint="keep what you have read behind hello until welcome is written"
    )
    await t.must(peer.receives("result", id=3, data=data))
    await t.must(peer.receives("pong", t="behind"))
    await t.must(peer.receives("error", id=5, error={"code": "unauthenticated"}))
    t.equal(peer.frames[0].type, "welcome", "the first frame of the server", requirement="SES-07")


@check("ses/fault-behind-hello", covers="SES-08", needs=["session"])
async def fault_behind_hello(t: Test) -> None:
    """A faulty frame that arrives together with hello closes the connection after welcome."""
    peer = await t.connect()
    await peer.pipeline(t.hello(), {"type": "ping", "t": 7}, malformed=True)
    await t.must(peer.receives("welcome"), hint="hello was good: answer it before you read on")
    await t.closes(peer, 4005, requirement="ENV-22")


@check("ses/profiles-exactly", covers=["SES-09", "SES-10"], needs=["session"])
async def profiles_exactly(t: Test) -> None:
    """Welcome lists what was asked for, is offered and has its needs, and nothing else."""
    known = [name for name in published().needs if name != "core"]
    everything = await t.session(profiles=known)
    offered = everything.profiles
    nonsense = f"x{t.random.getrandbits(32):x}.profile"
    asked = [[name] for name in known] + [t.random.sample(known, t.random.randrange(2, 6)) for _ in range(8)]
    for wish in asked:
        session = await t.session(profiles=[*wish, nonsense, "core"], name="asking")
        expected = sorted(with_their_needs(offered.intersection(wish)))
        listed = session.welcome["profiles"]
        what = f"the profiles for {' '.join(wish)}"
        t.equal(sorted(map(str, as_list(listed))), expected, what, frame=session.welcome)
        await session.leave()


@check("ses/conn-never-repeats", covers="SES-11", needs=["session"])
async def conn_never_repeats(t: Test) -> None:
    """No two connections have the same `conn`, neither beside nor after each other."""
    seen: list[object] = []
    for _ in range(5):
        some = [await t.session() for _ in range(3)]
        for session in some:
            conn = session.welcome["conn"]
            t.that(conn not in seen, f"conn {conn} was given before", frame=session.welcome)
            seen.append(conn)
        for session in some[1:]:
            await session.leave()


@check("ses/hello-just-in-time", covers="SES-05", needs=["session"], slow=True)
async def hello_just_in_time(t: Test) -> None:
    """A hello that comes shortly before the first second is over is welcomed."""
    begin = t.now()
    peer = await t.connect()
    await t.sit_out(max(0.0, begin + 0.8 - t.now()), "most of the shortest hello timeout allowed")
    await peer.send(t.hello())
    if t.now() > begin + 0.93:
        raise StalledError
    await t.must(
        peer.receives("welcome"), hint="a hello timeout below one second turns away clients far away"
    )


@check("ses/hello-never-sent", covers=["SES-04", "SES-05", "SES-07"], needs=["limit:hello_ms"], slow=True)
async def hello_never_sent(t: Test) -> None:
    """A client that never says hello is closed with 4303 at the hello timeout, and gets no frame before."""
    begin = t.now()
    peer = await t.connect()
    await times_out(t, peer, begin)
    t.that(t.now() - begin >= 1, "the hello timeout is below one second", requirement="SES-05")
    t.that(not peer.frames, "a frame came before welcome", requirement="SES-07")


@check("ses/hello-half-sent", covers="SES-04", needs=["limit:hello_ms"], slow=True)
async def hello_half_sent(t: Test) -> None:
    """Half a hello and then silence is closed with 4303 at the hello timeout."""
    begin = t.now()
    peer = await t.connect()
    await peer.send_frame(1, b'{"type":"hel', declared_length=200)
    await times_out(t, peer, begin)


@check("ses/hello-trickles", covers="SES-04", needs=["limit:hello_ms"], slow=True)
async def hello_trickles(t: Test) -> None:
    """A hello that comes byte by byte, and is never complete, is closed with 4303 at the hello timeout."""
    begin = t.now()
    peer = await t.connect()
    await peer.send_frame(1, b"{", declared_length=4000)
    while peer.closure is None and t.now() < begin + 2 * hello_timeout(t) + SLACK * t.bench.clock.scale:
        await t.sit_out(hello_timeout(t) / 8, "an eighth of the hello timeout")
        await peer.send_raw_bytes(b" ")
    await times_out(t, peer, begin)


@check("ses/control-frames-are-no-hello", covers="SES-04", needs=["limit:hello_ms"], slow=True)
async def control_frames_are_no_hello(t: Test) -> None:
    """WebSocket pings and fragments without an end do not put the hello timeout off."""
    begin = t.now()
    peer = await t.connect()
    await peer.send_frame(1, b"{", fin=False)
    while peer.closure is None and t.now() < begin + 2 * hello_timeout(t) + SLACK * t.bench.clock.scale:
        await t.sit_out(hello_timeout(t) / 8, "an eighth of the hello timeout")
        await peer.send_frame(9, b"still here")
        await peer.send_frame(0, b" ", fin=False)
    await times_out(t, peer, begin)


# Drain


@check("ses/goaway", covers="SES-38", needs=["rpc", "script:drain"])
async def goaway(t: Test) -> None:
    """A drain begins with a goaway whose `after_ms` is not above its `deadline_ms`."""
    for deadline in (0, 5, t.random.randrange(3000, 60000)):
        alice = await t.session("alice", name=f"alice, {deadline} ms")
        await alice.run(["drain", deadline], ["hold", LONG])
        frame = await t.must(alice.receives("goaway"))
        after, until = frame["after_ms"], frame["deadline_ms"]
        assert isinstance(after, int)
        assert isinstance(until, int)
        t.that(after <= until, f"after_ms {after} is above deadline_ms {until}", frame=frame)
        t.that(until <= deadline, f"deadline_ms {until} is above that of the drain, {deadline}", frame=frame)


@check("ses/goaway-spreads-clients", covers="SES-39", needs=["rpc", "script:drain"])
async def goaway_spreads_clients(t: Test) -> None:
    """The `after_ms` of several connections that are drained alike differ."""
    drawn: set[object] = set()
    for _ in range(6):
        alice = await t.session("alice", name="alice")
        await alice.run(["drain", LONG])
        drawn.add((await alice.receives("goaway"))["after_ms"])
    hint = "draw after_ms at random, or all clients come back in the same moment"
    t.that(len(drawn) > 1, f"six connections got the same after_ms, {drawn}", hint=hint)


@check("ses/draining-refuses", covers="SES-40", needs=["rpc", "script:drain", "method:echo"])
async def draining_refuses(t: Test) -> None:
    """On a draining connection every new exchange is answered with `draining`, and the others are not."""
    alice, other = await t.sessions("alice", "alice")
    channel = t.channel()
    frames: list[tuple[str, dict[str, object]]] = [("request", {"method": t.method("echo")})]
    if "pubsub" in alice.profiles:
        frames += [
            ("publish", {"channel": channel, "data": t.payload()}),
            ("subscribe", {"channel": channel}),
        ]
    for type, fields in frames:
        before = await alice.start(type, **fields)
        await t.control(before.opened() if type == "subscribe" else before.result())
    await alice.run(["drain", LONG])
    await alice.receives("goaway")
    for type, fields in frames:
        await t.must((await alice.start(type, **fields)).error("draining"))
    await t.alive(alice, requirement="SES-34")
    await t.must((await other.start("request", method=t.method("echo"))).result(), requirement="SEC-09")


@check(
    "ses/draining-accepts-auth",
    covers="SES-26",
    needs=["rpc", "script:drain", "method:echo", "identity:alice"],
)
async def draining_accepts_auth(t: Test) -> None:
    """On a draining connection an auth is decided as always."""
    alice = await t.session("alice")
    await alice.run(["drain", LONG])
    await alice.receives("goaway")
    await t.must(
        (await alice.start("request", method=t.method("echo"))).error("draining"), requirement="SES-40"
    )
    await t.must(
        (await alice.start("auth", token=t.token("alice"))).result(), hint="an identity may expire in a drain"
    )
    bad = await alice.start("auth", token=f"nobody-{t.random.getrandbits(64):x}")
    await t.must(bad.error("unauthenticated"), requirement="SES-21")


@check(
    "ses/draining-lets-work-finish", covers="SES-41", needs=["pubsub", "rpc", "script:drain", "script:reply"]
)
async def draining_lets_work_finish(t: Test) -> None:
    """On a draining connection running requests finish, subscriptions go on, and a cancel works."""
    alice = await t.session("alice")
    channel, answer = t.channel(), t.payload()
    sub, other = await alice.subscribe(channel), await alice.subscribe(t.channel())
    await t.control(sub.gets(await t.emit(channel)))
    running = await alice.run(["drain", LONG], ["reply", {"data": answer, "after_ms": 300}])
    await alice.receives("goaway")
    await t.must(sub.gets(await t.emit(channel)), hint="a subscription is a running exchange")
    await t.must(running.result(data=answer))
    await alice.send({"type": "cancel", "of": other.id})
    await t.must(other.result(), requirement="RPC-07")
    await t.must(sub.gets(await t.emit(channel)))


@check("ses/second-hello-while-draining", covers="SES-03", needs=["rpc", "script:drain"])
async def second_hello_while_draining(t: Test) -> None:
    """A second hello on a draining connection closes it with 4002."""
    alice = await t.session("alice")
    await alice.run(["drain", LONG])
    await alice.receives("goaway")
    await t.alive(alice)
    await alice.send(t.hello("alice"))
    await t.closes(alice, 4002)


@check(
    "ses/drain-deadline",
    covers=["SES-42", "SES-41"],
    needs=["pubsub", "rpc", "script:drain", "script:hold"],
    slow=True,
)
async def drain_deadline(t: Test) -> None:
    """At the deadline of a drain the connection is closed with 4200, and not before while work is running."""
    alice, bob = await t.sessions("alice", "bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    begin = t.now()
    await alice.run(["drain", 1000], ["hold", LONG])
    frame = await alice.receives("goaway")
    deadline = frame["deadline_ms"]
    assert isinstance(deadline, int)
    await t.must(sub.gets(await t.emit(channel, by=bob)), requirement="SES-41")
    await t.closes(alice, 4200, within=deadline / 1000, hint="the deadline ends what is still running")
    lived = t.now() - begin
    t.that(
        lived > deadline / 1000 - 0.05, f"closed {lived:.2f} s after the drain began", requirement="SES-41"
    )
    t.that(
        lived < deadline / 1000 + SLACK * t.bench.clock.scale, f"closed {lived:.2f} s after the drain began"
    )


# The end


@check("ses/end-cancels-work", covers="SES-45", needs=["pubsub", "rpc", "script:hold", "script:emit"])
async def end_cancels_work(t: Test) -> None:
    """When a session ends, by a goodbye, a cut or a fault, its running requests do not go on."""
    bob, keeper = await t.sessions("bob", "bob")
    channel = t.channel()
    await bob.subscribe(channel)
    proof = Emitted(channel, t.payload(), t.now())
    await keeper.run(["hold", 20], ["emit", channel, proof.data])
    await t.control(bob.gets(proof))
    hold = min(4000, 300 + int(20_000 * t.bench.clock.rtt.p50))
    ghosts: list[Emitted] = []
    for ending in ("goodbye", "cut", "fault"):
        alice = await t.session("alice", name=ending, profiles=without("resume"))
        ghosts.append(Emitted(channel, t.payload(), t.now()))
        await alice.run(["hold", hold], ["emit", channel, ghosts[-1].data])
        await alice.ping()
        if ending == "goodbye":
            await alice.close(1000)
        elif ending == "fault":
            await alice.send_text("[]")
        else:
            await alice.abort()
        await alice.wait_closed()
    # Started later and held longer, so when this event is there, the others would be.
    marker = Emitted(channel, t.payload(), t.now())
    await keeper.run(["hold", hold + 300], ["emit", channel, marker.data])
    await bob.gets(marker)
    for ghost in ghosts:
        await t.must_not(bob.gets(ghost), hint="cancel the tasks of a session when its connection ends")


# Helpers


def as_list(value: object) -> list[object]:
    """Return a list as it is, anything else as no list at all."""
    return value if isinstance(value, list) else []


def with_their_needs(profiles: Iterable[str]) -> set[str]:
    """Return those profiles whose needs are met by others of them, transitively."""
    kept = set(profiles)
    while unmet := {name for name in kept if not published().needs.get(name, frozenset()) <= kept | {"core"}}:
        kept -= unmet
    return kept


def hello_timeout(t: Test) -> float:
    """Return the hello timeout that the target file states, in seconds."""
    return t.bench.target.limits["hello_ms"] / 1000


async def times_out(t: Test, peer: Peer, begin: float) -> None:
    """Assert that a connection made at `begin` is closed with 4303, and not much later than declared."""
    timeout = hello_timeout(t)
    if timeout > t.bench.clock.max_wait:
        raise t.unverified(f"the hello timeout is {timeout:g} s; allow it with --max-wait {timeout:g}")
    await t.closes(peer, 4303, within=timeout, hint="count from the 101 response to a complete hello")
    late = t.now() - begin - timeout
    allowed = SLACK * t.bench.clock.scale
    t.that(late < allowed, f"it was closed {late:.1f} s later than the hello timeout of the target file")
