"""Profiles and unknown names: `spec/10-versioning.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check
from holdfast_conformance.registry import published


@check("ver/unpredictable-members", covers="VER-01", needs=["rpc", "method:echo"])
async def unpredictable_members(t: Test) -> None:
    """Members that nobody can know are ignored on every kind of frame."""
    peer = await t.connect()
    odd: tuple[object, ...] = (None, 5, "a", [[]], {"type": 1})
    extra = {f"x{t.random.getrandbits(40):x}": value for value in odd}
    await peer.send(t.hello() | extra)
    await t.must(peer.receives("welcome"))
    data = t.payload()
    await peer.send({**extra, "type": "request", "id": 4, "method": t.method("echo"), "data": data})
    await t.must(peer.receives("result", id=4, data=data))
    await peer.send({**extra, "type": "cancel", "of": 4})
    await peer.send({**extra, "type": "pong"})
    await peer.send({**extra, "type": "ping", "t": "mark"})
    await t.must(peer.receives("pong", t="mark"))


@check("ver/unpredictable-types", covers=["VER-02", "VER-03"], needs=["session"])
async def unpredictable_types(t: Test) -> None:
    """A type that nobody can know is `unsupported` with an id and ignored without one."""
    session = await t.session()
    for name in (f"x{t.random.getrandbits(40):x}", f"x{t.random.getrandbits(40):x}.y.z_0"):
        call = await session.start(name, anything={"at": "all"})
        await t.must(call.error("unsupported"))
        await session.send({"type": name, "of": 99, "data": []})
        await t.alive(session, requirement="VER-03", hint="what you do not know and cannot answer, ignore")
    known = published().senders.keys() - {"welcome", "error", "pong", "ping"}
    frames = [frame for frame in session.frames if frame.type in known]
    t.that(
        not frames,
        "an unknown frame had an answer",
        requirement="VER-03",
        frame=frames[0] if frames else None,
    )


@check("ver/profiles-of-each-connection", covers="VER-04", needs=["rpc", "method:echo"])
async def profiles_of_each_connection(t: Test) -> None:
    """Profiles are agreed for one connection: another one of the same client does without them."""
    wide = await t.session("alice", name="wide")
    narrow = await t.session("alice", profiles=(), name="narrow")
    data = t.payload()
    for session in (wide, narrow, wide):
        call = await session.start("request", method=t.method("echo"), data=data)
        if session is wide:
            await t.must(call.result(data=data), requirement="RPC-13")
        else:
            await t.must(
                call.error("unsupported"), hint="keep the profiles with the connection, not with the client"
            )


@check("ver/nothing-of-absent-profiles", covers="VER-07", needs=["rpc", "method:echo"])
async def nothing_of_absent_profiles(t: Test) -> None:
    """A session that asked to resume, without the profile, sees no member of later profiles anywhere."""
    peer = await t.connect()
    asks = {"resume": {"session": "s", "seq": 0, "attempt": 1}}
    await peer.send(t.hello(profiles=["rpc", "resume"]) | asks)
    welcome = await t.must(peer.receives("welcome"))
    listed = welcome["profiles"]
    assert isinstance(listed, list)
    if "resume" in listed:
        raise t.not_applicable("the server lists resume without ack, which another check judges")
    data = t.payload()
    await peer.send({"type": "request", "id": 1, "method": t.method("echo"), "data": data})
    await t.must(peer.receives("result", id=1, data=data), requirement="RPC-13")
    for frame in peer.frames:
        foreign = {"seq", "session", "resumed", "last_id", "resume_error", "recovered"} & frame.body.keys()
        t.that(not foreign, f"{sorted(foreign)} belongs to a profile that is not in force", frame=frame)


@check("ver/private-names", covers="VER-08", needs=["session"])
async def private_names(t: Test) -> None:
    """Whatever the server sends of its own, types, profiles and error codes, has a dot in its name."""
    session = await t.session()
    methods = [method.name for method in t.bench.target.methods.values()]
    for method in (*methods, f"no.{t.random.getrandbits(40):x}"):
        await (await session.start("request", method=method, data=t.payload())).terminal()
    await (await session.start(f"x{t.random.getrandbits(40):x}")).error("unsupported")
    tables = published()
    for frame in session.frames:
        error = frame.get("error")
        names = (
            {str(frame.type)}
            | session.profiles
            | ({str(error.get("code"))} if isinstance(error, dict) else set())
        )
        own = names - tables.senders.keys() - tables.needs.keys() - tables.retry.keys()
        bare = sorted(name for name in own if "." not in name)
        t.that(not bare, f"{bare} are neither in the tables nor have a dot", frame=frame)
