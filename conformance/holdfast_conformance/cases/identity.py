"""Identity: `spec/03-session.md`, its section of that name."""

from __future__ import annotations

from holdfast_conformance.case import Frame, Session, Test, check
from holdfast_conformance.expect import StalledError
from holdfast_conformance.traffic import showing_life

LONG = 60000
"""Milliseconds that a request is held, or a drain lasts, when it has to outlive the check."""

SLACK = 2.0
"""Seconds, before scaling, by which a timer of the target may be late without blame."""


@check("ses/nearly-a-token", covers="SES-14", needs=["identity:alice"])
async def nearly_a_token(t: Test) -> None:
    """A token that resembles a good one closes with 4101."""
    good = await t.session("alice", profiles=())
    await t.alive(good)
    token = t.token("alice")
    for bad in {token[:-1], token * 2, token.swapcase(), token[::-1], f"{t.random.getrandbits(128):x}"} - {
        token
    }:
        peer = await t.connect(name="bad")
        await peer.send(t.hello("alice", profiles=(), auth={"token": bad}))
        await t.closes(peer, 4101, hint="compare the whole token")


@check("ses/no-identity", covers="SES-15", needs=["identity:alice"])
async def no_identity(t: Test) -> None:
    """A hello without any identity closes with 4101, unless the target serves anonymous clients."""
    if anonymous(t) is not None:
        raise t.not_applicable("the target serves anonymous clients")
    await t.alive(await t.session("alice", profiles=()))
    peer = await t.connect()
    await peer.send({"type": "hello", "profiles": []})
    hint = "if anonymous clients are welcome, say so: [identities] anonymous = { headers = {} }"
    await t.closes(peer, 4101, hint=hint)


@check("ses/anonymous-principals", covers=["SES-16", "SES-22"])
async def anonymous_principals(t: Test) -> None:
    """Anonymous connections are principals of their own, neither each other's nor anybody else's."""
    name = anonymous(t)
    if name is None and t.bench.target.identities:
        raise t.not_applicable("the target file names no identity without credentials")
    one, two = await t.session(name), await t.session(name)
    names = [
        principal
        for session in (one, two)
        if (principal := welcome_auth(session).get("principal")) is not None
    ]
    t.that(
        len(set(map(str, names))) == len(names), f"two anonymous connections are {names}", frame=two.welcome
    )
    known = [
        identity for identity in t.bench.target.identities.values() if identity.token and not identity.expired
    ]
    if not known and not names:
        raise t.unverified("nothing tells who an anonymous client is: let welcome carry auth.principal")
    for identity in known[:1]:
        call = await one.start("auth", token=identity.token, scheme=identity.scheme)
        await t.must(call.error("principal_mismatch"), requirement="SES-22")


@check("ses/expiry-announced", covers=["SES-17", "SES-18"], needs=["identity:brief"], slow=True)
async def expiry_announced(t: Test) -> None:
    """An identity that expires is announced with `expires_in_ms`, and closed with 4100 after that time."""
    begin = t.now()
    brief = await t.session("brief", profiles=())
    expires = announced(t, brief)
    await t.alive(brief)
    await t.closes(brief, 4100, within=expires, requirement="SES-18")
    lived = t.now() - begin
    t.that(
        lived > expires - 0.05,
        f"it was closed after {lived:.2f} s; welcome says {expires:.2f}",
        requirement="SES-17",
    )
    late = lived - expires
    t.that(late < SLACK * t.bench.clock.scale, f"it was closed {late:.1f} s too late", requirement="SES-18")


@check("ses/expiry-amid-work", covers="SES-18", needs=["rpc", "pubsub", "script:expire", "script:hold"])
async def expiry_amid_work(t: Test) -> None:
    """A session whose identity expires amid running work is closed with 4100."""
    alice = await t.session("alice")
    if alice.limit("max_inflight") < 2:
        raise t.unverified("max_inflight leaves no room for work beside the request that lets it expire")
    await alice.subscribe(t.channel())
    await alice.run(["hold", LONG])
    await t.alive(alice)
    await alice.run(["expire"], ["hold", LONG])
    await t.closes(alice, 4100, hint="expiry does not wait for running work")


@check("ses/auth-extends", covers=["SES-20", "SES-27", "SES-19"], needs=["identity:brief"], slow=True)
async def auth_extends(t: Test) -> None:
    """An accepted auth before the expiry is answered, and from then on the new expiry counts alone."""
    begin = t.now()
    brief = await t.session("brief", profiles=())
    first = announced(t, brief)
    await t.sit_out(max(0.0, begin + 0.6 * first - t.now()), "a part of the identity's life")
    renewed = t.now()
    in_time(t, begin + 0.85 * first)
    call = await brief.start("auth", token=t.token("brief"))
    answer = await t.must(
        call.result(), requirement="SES-27", hint="an auth that came in time is answered first"
    )
    second = expiry_of(t, answer)
    await t.sit_out(max(0.0, begin + 1.1 * first - t.now()), "the rest of the old identity's life")
    in_time(t, renewed + 0.85 * second)
    await t.alive(brief, hint="forget the expiry of the old identity", requirement="SES-20")
    await t.closes(brief, 4100, within=second, requirement="SES-18", hint="the new identity expires, too")


@check(
    "ses/auth-shortens",
    covers=["SES-20", "SES-19"],
    needs=["identity:alice", "identity:alice-brief"],
    slow=True,
)
async def auth_shortens(t: Test) -> None:
    """After an accepted auth with an identity that expires sooner, the session ends sooner."""
    alice = await t.session("alice", profiles=())
    answer = await alice.auth(t.token("alice-brief"))
    await t.closes(
        alice, 4100, within=expiry_of(t, answer), hint="the expiry of the newest identity counts alone"
    )


@check("ses/auth-tells-expiry", covers="SES-19", needs=["identity:alice", "identity:alice-2"])
async def auth_tells_expiry(t: Test) -> None:
    """The result of an auth has `expires_in_ms` exactly when welcome has it for that identity."""
    alice = await t.session("alice", profiles=())
    for name in ("alice-2", "alice"):
        other = await t.session(name, profiles=())
        answer = await t.must((await alice.start("auth", token=t.token(name))).result())
        data = answer.get("data")
        t.that(isinstance(data, dict), "the data of the result is not an object", frame=answer)
        assert isinstance(data, dict)
        expires = "expires_in_ms" in welcome_auth(other)
        t.equal("expires_in_ms" in data, expires, "whether the result has expires_in_ms", frame=answer)


@check("ses/refused-auth-keeps-expiry", covers="SES-23", needs=["identity:brief", "identity:bob"], slow=True)
async def refused_auth_keeps_expiry(t: Test) -> None:
    """Refused auths neither prolong nor shorten the life of the identity."""
    begin = t.now()
    brief = await t.session("brief", profiles=())
    expires = announced(t, brief)
    await t.sit_out(max(0.0, begin + 0.4 * expires - t.now()), "a part of the identity's life")
    unknown = await brief.start("auth", token=f"nobody-{t.random.getrandbits(64):x}")
    await unknown.error("unauthenticated")
    foreign = await brief.start("auth", token=t.token("bob"))
    await foreign.error("principal_mismatch")
    in_time(t, begin + 0.85 * expires)
    await t.alive(brief, hint="a refused auth costs its own exchange only")
    await t.closes(
        brief, 4100, within=expires, hint="take over the new identity only when the auth is accepted"
    )
    late = t.now() - begin - expires
    t.that(late < SLACK * t.bench.clock.scale, f"it was closed {late:.1f} s after the expiry")


@check(
    "ses/refused-auth-keeps-permissions",
    covers="SES-23",
    needs=["pubsub", "identity:alice", "identity:alice-narrow", "identity:bob", "channel:restricted"],
)
async def refused_auth_keeps_permissions(t: Test) -> None:
    """After auths refused for every reason, no permission is gained, and no running subscription is lost."""
    alice, narrow = await t.sessions("alice", "alice-narrow")
    channel = t.channel("restricted")
    sub = await alice.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel, by=alice)))
    denied = await narrow.start("subscribe", channel=channel)
    await denied.error("forbidden")
    for session in (alice, narrow):
        foreign = await session.start("auth", token=t.token("bob"))
        await foreign.error("principal_mismatch")
        unknown = await session.start("auth", token=f"nobody-{t.random.getrandbits(64):x}")
        await unknown.error("unauthenticated")
    await t.must(sub.gets(await t.emit(channel, by=alice)), hint="keep the permissions of the old identity")
    again = await narrow.start("subscribe", channel=channel)
    await t.must(again.error("forbidden"), hint="a refused identity gives no permission")


@check(
    "ses/auth-gives-permissions",
    covers="SES-48",
    needs=["pubsub", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def auth_gives_permissions(t: Test) -> None:
    """After an auth that allows more, what was forbidden before is allowed, in both directions."""
    alice = await t.session("alice-narrow", name="alice")
    channel = t.channel("restricted")
    before = await alice.start("subscribe", channel=channel)
    await t.control(before.error("forbidden"))
    await t.must((await alice.start("auth", token=t.token("alice"))).result(), requirement="SES-19")
    sub = await alice.start("subscribe", channel=channel)
    await t.must(sub.opened(), hint="ask the new identity what it may do, not the one of hello")
    publish = await alice.start("publish", channel=channel, data=t.payload())
    await t.must(publish.result(), hint="ask the new identity what it may do, not the one of hello")


@check("ses/auth-races-expiry", covers=["SES-27", "SES-20"], needs=["identity:brief"], slow=True)
async def auth_races_expiry(t: Test) -> None:
    """An auth that arrives around the expiry is either accepted, and the session lives on, or too late."""
    late = 0
    for lead in (0.03, 0.015, 0.005, 0.0):
        begin = t.now()
        brief = await t.session("brief", profiles=(), name=f"brief {lead * 1000:.0f} ms ahead")
        expires = announced(t, brief)
        await t.sit_out(
            max(0.0, brief.welcome.at + expires - lead - t.now()), "nearly all of the identity's life"
        )
        call = await brief.start("auth", token=t.token("brief"))
        answer = await call.terminal().wait_or_close()
        if answer is None:
            late += 1
            await t.closes(brief, 4100, requirement="SES-18")
            t.that(t.now() - begin > expires - 0.05, "it was closed before the identity expired")
            continue
        t.equal(answer.type, "result", f"the answer to {call}", frame=answer)
        left = brief.welcome.at + expires + 0.05 - t.now()
        await t.sit_out(max(0.0, left), "the end of the old identity's life")
        await t.alive(
            brief, hint="decide the auth first, then look at the expiry again", requirement="SES-20"
        )
    t.note(f"{late} of 4 auths around the expiry came too late")


@check(
    "ses/auth-takes-permissions",
    covers=["SES-28", "SES-29"],
    needs=["pubsub", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def auth_takes_permissions(t: Test) -> None:
    """An auth that takes a permission away ends the subscriptions that needed it, and no others."""
    alice, bob = await t.sessions("alice", "bob")
    restricted, opened = t.channel("restricted"), t.channel()
    subs = [await alice.subscribe(restricted) for _ in range(2)]
    kept = await alice.subscribe(opened)
    await bob.subscribe(restricted)
    for sub in subs:
        await t.control(sub.gets(await t.emit(restricted, by=bob)))
    await alice.auth(t.token("alice-narrow"))
    for sub in subs:
        hint = "after an auth, ask for every running subscription whether it is still allowed"
        await t.must(sub.error("forbidden"), hint=hint)
    ghost = await t.emit(restricted, by=bob)
    await bob.gets(ghost)
    await t.must_not(alice.gets(ghost), requirement="SES-28")
    await t.must(
        kept.gets(await t.emit(opened, by=bob)),
        requirement="SES-29",
        hint="end only what is not allowed any more",
    )
    again = await alice.start("subscribe", channel=restricted)
    await t.must(again.error("forbidden"), requirement="SUB-03")


@check(
    "ses/auth-narrows-patterns",
    covers=["SES-28", "SUB-25"],
    needs=["pubsub", "pattern", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def auth_narrows_patterns(t: Test) -> None:
    """After an auth that takes permissions away, pattern subscriptions get no event that is not allowed."""
    alice, bob = await t.sessions("alice", "bob")
    channel = t.channel("restricted")
    sub = await alice.subscribe(pattern=f"{channel.rpartition('/')[0]}/*")
    await bob.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel, by=bob)))
    await alice.auth(t.token("alice-narrow"))
    ghost = await t.emit(channel, by=bob)
    await bob.gets(ghost)
    await t.must_not(alice.gets(ghost), requirement="SUB-25", hint="judge patterns by the permissions of now")


@check("ses/auth-twice-at-once", covers="SES-24", needs=["identity:alice", "identity:alice-2"])
async def auth_twice_at_once(t: Test) -> None:
    """Of two auths that arrive together, the first is decided, and the second is decided or is a conflict."""
    alice = await t.session("alice", profiles=())
    first = alice.frame("auth", token=t.token("alice-2"))
    second = alice.frame("auth", token=f"nobody-{t.random.getrandbits(64):x}")
    await alice.pipeline(first, second)
    await t.must(alice.exchange(first).result(), requirement="SES-19")
    answer = await t.must(alice.exchange(second).error("conflict", "unauthenticated"))
    t.note(f"the second of two auths in one segment: {answer}")
    await t.must(
        (await alice.start("auth", token=t.token("alice"))).result(), hint="a refused auth holds no slot"
    )


FILLS_A_SOCKET = 9 << 20
"""Bytes that no socket swallows by itself."""


@check(
    "ses/auth-behind-an-unfinished-one",
    covers="SES-24",
    needs=["rpc", "method:echo", "identity:alice"],
    intrusive=True,
)
async def auth_behind_an_unfinished_one(t: Test) -> None:
    """While the terminal of an auth is stuck in the queue, another auth is a conflict, whatever its token."""
    alice = await t.session("alice", receive_buffer=65536)
    size = alice.limit("max_frame") * 3 // 4
    count = min(alice.limit("max_inflight"), FILLS_A_SOCKET // size + 1)
    if count * size < FILLS_A_SOCKET:
        raise t.unverified("the results of max_inflight requests do not fill a socket; allow 9 MiB in flight")
    alice.pause_reading()
    data = "x" * size
    async with showing_life(alice):  # the target's pings are stuck behind the results
        calls = [await alice.start("request", method=t.method("echo"), data=data) for _ in range(count)]
        first = await alice.start("auth", token=t.token("alice"))
        second = await alice.start("auth", token=f"nobody-{t.random.getrandbits(64):x}")
        third = await alice.start("auth", token=t.token("alice"))
        alice.resume_reading()
        for call in (*calls, first):
            await t.must(call.terminal(), requirement="RPC-01")
    t.equal(first.frames[-1].type, "result", "the terminal of the first auth", requirement="SES-19")
    for behind in (second, third):
        hint = "an auth is unfinished until its terminal has left the queue"
        await t.must(behind.error("conflict"), hint=hint)
    await t.must(
        (await alice.start("auth", token=t.token("alice"))).result(), hint="now nothing is unfinished"
    )


@check(
    "ses/auth-with-full-slots", covers="SES-25", needs=["rpc", "script:hold", "method:echo", "identity:alice"]
)
async def auth_with_full_slots(t: Test) -> None:
    """An auth is decided while every slot of max_inflight is taken."""
    name = "limited" if "limited" in t.bench.target.identities else "alice"
    session = await t.session(name)
    count = session.limit("max_inflight")
    if count > 500:
        raise t.unverified(f"{count} slots are too many to fill; run the server with a max_inflight of 64")
    for _ in range(count):
        await session.run(["hold", LONG])
    full = await session.start("request", method=t.method("echo"))
    await t.must(full.error("limit_exceeded"), requirement="LIM-07")
    call = await session.start("auth", token=t.token(name))
    await t.must(call.result(), hint="an auth has a slot of its own")
    bad = await session.start("auth", token=f"nobody-{t.random.getrandbits(64):x}")
    await t.must(bad.error("unauthenticated"), requirement="SES-21")


def anonymous(t: Test) -> str | None:
    """Return the name of the identity that presents nothing, if the target file has one."""
    identities = t.bench.target.identities.values()
    return next((who.name for who in identities if who.token is None and not who.headers), None)


def welcome_auth(session: Session) -> dict[str, object]:
    """Return `welcome.auth`, empty when it is absent."""
    auth = session.welcome.get("auth")
    return auth if isinstance(auth, dict) else {}


def announced(t: Test, session: Session) -> float:
    """Return the seconds after which the identity expires, by welcome, once that is found sound."""
    expires = welcome_auth(session).get("expires_in_ms")
    right = isinstance(expires, int) and not isinstance(expires, bool) and expires > 0
    t.that(right, f"welcome.auth.expires_in_ms is {expires}", frame=session.welcome, requirement="SES-17")
    assert isinstance(expires, int)
    declared = t.bench.target.identities[session.identity or ""].expires_in_ms
    if declared is not None:
        message = f"expires_in_ms is {expires}; the target file says {declared}"
        t.that(expires <= declared, message, frame=session.welcome, requirement="SES-17")
    if expires / 1000 > t.bench.clock.max_wait:
        raise t.unverified(f"the identity lives for {expires / 1000:g} s; let it expire after 400 ms")
    return expires / 1000


def expiry_of(t: Test, answer: Frame) -> float:
    """Return the seconds after which the identity of an accepted auth expires, once that is found sound."""
    data = answer.get("data")
    expires = data.get("expires_in_ms") if isinstance(data, dict) else None
    right = isinstance(expires, int) and not isinstance(expires, bool) and expires > 0
    t.that(right, f"expires_in_ms of the result is {expires}", frame=answer, requirement="SES-19")
    assert isinstance(expires, int)
    return expires / 1000


def in_time(t: Test, deadline: float) -> None:
    """Give up when the check has come later than it must to say anything about an identity that expires."""
    if t.now() > deadline:
        if t.bench.clock.rtt.p50 > 0.03:
            raise t.unverified(
                "the round trip is too long for the life of the identity `brief`; let it live longer"
            )
        raise StalledError
