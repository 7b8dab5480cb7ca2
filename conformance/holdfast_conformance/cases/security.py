"""Browsers, credentials, isolation: `spec/11-security.md`."""

from __future__ import annotations

from holdfast_conformance.case import Peer, Session, Test, check
from holdfast_conformance.frames import Opcode, encode

SUBPROTOCOL = "holdfast.v1.json"


# Browsers


@check("sec/foreign-origin", covers="SEC-01", needs=["ambient"])
async def foreign_origin(t: Test) -> None:
    """An upgrade request from an origin that is not on the list is answered with HTTP status 403."""
    headers = ambient_headers(t)
    control, _ = await t.handshake(name="no origin", headers=headers, omit=("origin",))
    t.equal(control.status, 101, "the HTTP status without Origin", requirement="SEC-03")
    host = t.bench.endpoint.host
    stranger = f"x{t.random.getrandbits(32):x}.example"
    own = own_origin(t)
    for origin in (
        f"https://{stranger}",
        f"{own}.{stranger}",
        f"http://{stranger}:{t.bench.endpoint.port}",
        f"http://{stranger}?{host}",
        f"http://{host}@{stranger}",
        "null",
    ):
        for cookies in (headers, {}):
            response, _ = await t.handshake(name="foreign", headers={**cookies, "Origin": origin})
            hint = "compare scheme, host and port as a whole, before the 101"
            t.equal(response.status, 403, f"the HTTP status for Origin {origin}", hint=hint)


@check("sec/own-origin", covers="SEC-02", needs=["ambient"])
async def own_origin_accepted(t: Test) -> None:
    """An upgrade request from the server's own origin is accepted."""
    if any(name.lower() == "origin" for name, _ in t.bench.endpoint.headers):
        raise t.not_applicable(
            "the target file names another origin under [headers], so a list is configured"
        )
    response, _ = await t.handshake(headers={**ambient_headers(t), "Origin": own_origin(t)})
    hint = "if a list is configured, put one of its origins under [headers] as Origin"
    t.equal(response.status, 101, f"the HTTP status for Origin {own_origin(t)}", hint=hint)


@check("sec/no-origin", covers="SEC-03")
async def no_origin(t: Test) -> None:
    """An upgrade request without Origin is accepted."""
    response, _ = await t.handshake(omit=("origin",))
    t.equal(
        response.status,
        101,
        "the HTTP status without Origin",
        hint="programs that are no browsers send no Origin",
    )


@check("sec/ambient-identity-served", covers="SEC-05", needs=["ambient", "identity:alice", "identity:bob"])
async def ambient_identity_served(t: Test) -> None:
    """A hello without auth is served as the identity that the upgrade request carries."""
    name = ambient_name(t)
    session = await t.session(name, profiles=())
    await is_principal(t, session, t.bench.target.identities[name].principal)


@check("sec/hello-auth-counts-alone", covers="SEC-04", needs=["ambient", "identity:alice", "identity:bob"])
async def hello_auth_counts_alone(t: Test) -> None:
    """Where hello carries auth, the identity of the upgrade request counts for nothing."""
    name = ambient_name(t)
    other = next(
        who
        for who in t.bench.target.identities.values()
        if who.token and who.principal != t.bench.target.identities[name].principal and not who.expired
        if who.expires_in_ms is None
    )
    control = await t.session(name, profiles=(), name="ambient alone")
    await is_principal(t, control, t.bench.target.identities[name].principal, requirement="SEC-05")
    both = await t.session(
        name, profiles=(), name="both", hello={"auth": {"scheme": other.scheme, "token": other.token}}
    )
    await is_principal(t, both, other.principal)


@check("sec/bad-hello-auth-with-ambient-identity", covers=["SEC-04", "SES-14"], needs=["ambient"])
async def bad_hello_auth_with_ambient_identity(t: Test) -> None:
    """Where the token of hello is bad, the good identity of the upgrade request does not help."""
    name = ambient_name(t)
    await t.alive(await t.session(name, profiles=(), name="ambient alone"))
    peer = await t.connect(identity=name)
    await peer.send(
        {"type": "hello", "profiles": [], "auth": {"token": f"nobody-{t.random.getrandbits(64):x}"}}
    )
    await t.closes(peer, 4101, hint="if hello carries auth, never fall back to the cookie")


# Credentials


@check("sec/tokens-not-returned", covers="SEC-07", needs=["session"])
async def tokens_not_returned(t: Test) -> None:
    """Neither errors nor close reasons repeat a token that the client sent."""
    session = await t.session(profiles=())
    secret = f"secret-{t.random.getrandbits(96):x}"
    refused: list[dict[str, object]] = [
        {"token": secret},
        {"token": secret, "scheme": secret},
        {"token": secret, "meta": secret},
        {"token": {"value": secret}},
    ]
    for fields in refused:
        answer = await (await session.start("auth", malformed=True, **fields)).error()
        t.that(
            secret not in answer.text,
            "the error repeats the token",
            frame=answer,
            hint="never quote input in auth",
        )
    hellos: list[dict[str, object]] = [
        {"auth": {"token": secret}},
        {"auth": {"token": secret, "scheme": 5}},
        {"auth": {"token": [secret]}},
        {"auth": secret},
    ]
    for fields in hellos:
        peer = await t.connect(name="refused")
        await peer.send({"type": "hello", "profiles": []} | fields, malformed=True)
        closure = await t.closes(peer, 4101, 4005, requirement="SES-14")
        heard = closure.reason + "".join(frame.text for frame in peer.frames)
        t.that(
            secret not in heard,
            "the close reason repeats the token",
            hint="the reason is the name of the code",
        )


@check("sec/tls-off-loopback", covers="SEC-08")
async def tls_off_loopback(t: Test) -> None:
    """A target that is not on a loopback address is reached through wss."""
    if t.bench.endpoint.loopback:
        raise t.not_applicable("the target is on a loopback address")
    t.that(t.bench.endpoint.tls is not None, "the URL is ws://, and the target is not on loopback")


# Isolation


@check("sec/garbage-disturbs-nobody", covers="SEC-09", needs=["pubsub"])
async def garbage_disturbs_nobody(t: Test) -> None:
    """Whatever nonsense other connections send, a subscriber misses no event and hears nothing else."""
    alice = await t.session("alice")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel)))
    deep = "[" * 20000
    nonsense: dict[str, bytes] = {
        "random bytes": t.random.randbytes(300),
        "a reserved opcode": encode(15, b"x" * 200),
        "a huge announcement": encode(Opcode.TEXT, b"{", declared_length=(1 << 63) - 1),
        "invalid UTF-8": encode(Opcode.TEXT, b'{"type":"\xff\xfe"}'),
        "an unclosed nest": encode(Opcode.TEXT, deep.encode()),
        "a nest": encode(Opcode.TEXT, (deep + "]" * 20000).encode()),
        "a stray hello": encode(Opcode.TEXT, b'{"type":"hello","profiles":[{}],"auth":[]}'),
        "odd names": encode(Opcode.TEXT, b'{"type":"__proto__","id":{"__proto__":null},"__proto__":[]}'),
    }
    for what, raw in nonsense.items():
        for fresh in (True, False):
            peer: Peer = await (t.connect(name=what) if fresh else t.session("alice", name=what))
            peer.answer_close = False
            await peer.send_raw_bytes(raw)
            await (peer.abort() if fresh else peer.half_close())
        hint = f"after {what} on another connection: catch faults where they are local"
        await t.must(sub.gets(await t.emit(channel)), hint=hint)
    await t.alive(alice)


@check("sec/garbage-upgrade-disturbs-nobody", covers="SEC-09", needs=["session"])
async def garbage_upgrade_disturbs_nobody(t: Test) -> None:
    """Broken HTTP requests are answered without 101 or dropped, and disturb nobody."""
    session = await t.session(profiles=())
    good = f"GET {t.bench.endpoint.path} HTTP/1.1\r\nHost: x\r\n"
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        good.encode() + b"\r\n",
        good.encode() + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        good.encode() + b"X: " + b"a" * 100000 + b"\r\n\r\n",
    ):
        await t.poke(raw)
        await t.alive(await t.session(profiles=(), name="after it"))
        await t.alive(session, hint="a broken request may cost its own connection, nothing more")


@check("sec/cut-connections-disturb-nobody", covers="SEC-09", needs=["pubsub"])
async def cut_connections_disturb_nobody(t: Test) -> None:
    """Subscribers that vanish in the middle of everything cost the others no event and no order."""
    alice, bob = await t.sessions("alice", "bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel, by=bob)))
    for n in range(8):
        doomed = await t.session("alice", name=f"doomed {n}")
        await doomed.subscribe(channel)
        first = bob.frame("publish", channel=channel, data=t.payload())
        await bob.send(first)
        await doomed.abort()
        second = bob.frame("publish", channel=channel, data=t.payload())
        await bob.send(second)
        for frame in (first, second):
            await t.must(
                bob.exchange(frame).result(), hint="a subscriber that is gone is no fault of the publisher"
            )
            event = await t.must(sub.receives("event"), hint="deliver to the others, whoever is gone")
            t.equal(
                event["data"], frame["data"], "the data of the next event", frame=event, requirement="SUB-08"
            )


@check("sec/answers-stay-apart", covers="SEC-10", needs=["rpc", "method:echo"])
async def answers_stay_apart(t: Test) -> None:
    """Sessions that use the same ids at the same time, whoever they are, get their own answers."""
    sessions = await t.sessions("alice", "alice", "bob", "bob")
    sent = [(s, s.frame("request", method=t.method("echo"), data=t.payload())) for s in sessions * 20]
    for session, frame in sent:
        await session.send(frame)
    for session, frame in sent:
        await t.must(
            session.exchange(frame).result(data=frame["data"]), hint="key exchanges by session and id"
        )
    for session in sessions:
        terminals = session.find("result") + session.find("error")
        t.equal(len(terminals), 20, f"how many answers {session.name} got")


@check("sec/late-answers-stay-away", covers="SEC-10", needs=["rpc", "script:reply"])
async def late_answers_stay_away(t: Test) -> None:
    """The answer to a request of a connection that is gone does not reach the client's next connection."""
    first = await t.session("alice", name="first")
    await first.run(["reply", {"data": {"for": first.welcome["conn"]}, "after_ms": 150}])
    await first.ping()
    await first.abort()
    second = await t.session("alice", name="second")
    mine = {"for": second.welcome["conn"]}
    call = await second.run(["reply", {"data": mine, "after_ms": 400}])
    await t.must(call.result(data=mine), hint="an answer belongs to its session, not to its principal")
    t.equal(len(second.find("result")), 1, "how many results the second connection got")


def ambient_name(t: Test) -> str:
    """Return the name of an identity that travels in headers alone."""
    for identity in t.bench.target.identities.values():
        if identity.headers and identity.token is None:
            return identity.name
    raise t.unverified("add an identity with headers and without a token to [identities] in the target file")


def ambient_headers(t: Test) -> dict[str, str]:
    """Return the handshake headers of the identity that travels in headers."""
    return dict(t.bench.target.identities[ambient_name(t)].headers)


def own_origin(t: Test) -> str:
    """Return the origin of a page that the target itself would serve."""
    endpoint = t.bench.endpoint
    scheme, default = ("http", 80) if endpoint.tls is None else ("https", 443)
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{scheme}://{host}" + ("" if endpoint.port == default else f":{endpoint.port}")


async def is_principal(t: Test, session: Session, principal: str, requirement: str = "") -> None:
    """Assert that a session belongs to a principal: it accepts a token of that one, and of nobody else."""
    known = [who for who in t.bench.target.identities.values() if who.token and not who.expired]
    same = [who for who in known if who.principal == principal and who.expires_in_ms is None]
    others = [who for who in known if who.principal != principal]
    if not same or not others:
        raise t.unverified(
            f"add an identity with a token of the principal {principal}, and one of somebody else"
        )
    own = await session.start("auth", token=same[0].token, scheme=same[0].scheme)
    hint = f"the session should belong to {principal}"
    await t.must(own.result(), hint=hint, requirement=requirement)
    foreign = await session.start("auth", token=others[0].token, scheme=others[0].scheme)
    await t.must(foreign.error("principal_mismatch"), hint=hint, requirement=requirement)
