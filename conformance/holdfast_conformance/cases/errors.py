"""Error codes: `spec/08-errors.md`. Close codes and reasons are watched on every connection of a run."""

from __future__ import annotations

from holdfast_conformance.case import Exchange, Frame, Test, check, without


def member(frame: Frame, name: str) -> object:
    """Return a member of the `error` of an error frame, None when it is absent."""
    error = frame.get("error")
    return error.get(name) if isinstance(error, dict) else None


@check("err/definite-errors-name-no-time", covers="ERR-03", needs=["rpc", "pubsub"])
async def definite_errors_name_no_time(t: Test) -> None:
    """Errors that waiting does not cure carry no `retry_ms`."""
    alice = await t.session(profiles=without("history"))
    target = t.bench.target
    calls: list[tuple[Exchange, tuple[str, ...]]] = []

    async def refused(*codes: str, type: str = "request", **members: object) -> None:
        calls.append((await alice.start(type, **members, malformed=True), codes))

    await refused("bad_request", method="")
    await refused("unsupported", type="conf.no_such_type")
    await refused("unsupported", type="subscribe", channel=t.channel(), since="x")
    await refused("not_found", "forbidden", method=f"conf.{t.random.getrandbits(48):012x}")
    await refused("unauthenticated", type="auth", token=f"no-such-token-{t.random.getrandbits(48):012x}")
    if "forbidden" in target.channels:
        await refused("forbidden", type="subscribe", channel=t.channel("forbidden"))
        await refused("forbidden", type="publish", channel=t.channel("forbidden"), data=1)
    if "forbidden" in target.methods:
        await refused("forbidden", method=t.method("forbidden"))
    for call, codes in calls:
        end = await t.must(call.error(*codes), requirement="ERR-01")
        t.that(
            member(end, "retry_ms") is None,
            f"{member(end, 'code')} carries retry_ms",
            frame=end,
            hint="send `retry_ms` only where the same exchange may succeed later",
        )


@check("err/mismatch-names-no-time", covers="ERR-03", needs=["identity:alice", "identity:bob"])
async def mismatch_names_no_time(t: Test) -> None:
    """The error for credentials of somebody else carries no `retry_ms`."""
    alice = await t.session("alice")
    call = await alice.start("auth", token=t.token("bob"))
    end = await t.must(call.error("principal_mismatch"), requirement="SES-22")
    t.that(member(end, "retry_ms") is None, "principal_mismatch carries retry_ms", frame=end)


@check("err/too-large-names-no-time", covers="ERR-03", needs=["rpc", "method:echo"])
async def too_large_names_no_time(t: Test) -> None:
    """The error for a result that does not fit carries no `retry_ms`."""
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": 4096}})
    if narrow.limit("max_frame") < 8192:
        raise t.unverified("max_frame is so small that no client can ask for less")
    call = await narrow.start("request", method=t.method("echo"), data="x" * 5000)
    end = await t.must(call.error("too_large"), requirement="DEL-07")
    t.that(member(end, "retry_ms") is None, "too_large carries retry_ms", frame=end)


@check("err/draining-names-a-time", covers="ERR-02", needs=["rpc", "pubsub", "script:drain"])
async def draining_names_a_time(t: Test) -> None:
    """The error `draining` says with `retry_ms` when to try again, 0 included."""
    alice = await t.session()
    await alice.run(["drain", 5000])
    await t.must(alice.receives("goaway"), requirement="SES-38")
    for type, members in (("publish", {"data": 1}), ("subscribe", {})):
        call = await alice.start(type, channel=t.channel(), **members)
        end = await t.must(call.error("draining"), requirement="SES-40")
        retry = member(end, "retry_ms")
        t.that(
            isinstance(retry, int) and not isinstance(retry, bool) and retry >= 0,
            f"retry_ms is {retry!r}",
            frame=end,
            hint="`retry_ms` is an integer and always there; 0 leaves the pause to the client",
        )


@check("err/unknown-method-is-found-out", covers=["ERR-05", "RPC-14"], needs=["rpc", "method:echo"])
async def unknown_method_is_found_out(t: Test) -> None:
    """Methods that resemble a real one are answered like any other unknown method."""
    alice = await t.session()
    echo = t.method("echo")
    await t.control((await alice.start("request", method=echo, data=1)).result(data=1))
    codes = set()
    for name in (
        echo + "x",
        echo[:-1] or "x",
        echo.swapcase(),
        " " + echo,
        echo + "\u0000",
        f"{echo}/",
        "toString",
    ):
        call = await alice.start("request", method=name, data=1)
        end = await t.must(
            call.error("not_found", "forbidden"), requirement="RPC-14", hint="compare whole names"
        )
        codes.add(str(member(end, "code")))
    t.note(f"unknown methods are answered with {', '.join(sorted(codes))}")


@check("err/broken-method-is-internal", covers="ERR-04", needs=["rpc", "method:broken", "method:echo"])
async def broken_method_is_internal(t: Test) -> None:
    """A method that breaks costs its own request: `internal`, and everything else goes on."""
    alice = await t.session()
    echo = t.method("echo")
    await t.control((await alice.start("request", method=echo, data=1)).result(data=1))
    for data in (1, None, {"deep": [1]}):
        broken = await alice.start("request", method=t.method("broken"), data=data)
        await t.must(broken.error("internal"), hint="catch what handlers throw, and log it under `error.ref`")
        await t.must((await alice.start("request", method=echo, data=data)).result(), requirement="RPC-13")


@check("err/odd-client-stays", covers="ERR-12")
async def odd_client_stays(t: Test) -> None:
    """A client that does odd things and breaks no rule is not closed as one that is at fault."""
    alice = await t.session()
    first = await alice.start("conf.no_such_type", id=1000)
    await t.must(first.error("unsupported"), requirement="VER-02")
    for frame in (
        {"type": "cancel", "of": 1000},
        {"type": "cancel", "of": 7},  # a hole
        {"type": "cancel", "of": 7},
        {"type": "pong", "t": "nobody asked"},
        {"type": "x.nothing", "of": 5, "seq": -1},
        {"type": "ping", "id": 3, "colour": "red"},
    ):
        await alice.send(frame, malformed=True)
    last = await alice.start("conf.no_such_type", id=2**53 - 1, seq=0, held=1)
    await t.must(last.error("unsupported"), hint="ids may have holes, and need not begin with 1")
    if "ack" in alice.profiles:
        await alice.ack(1)
        await alice.ack(1)  # not above an earlier one
    await t.alive(alice, hint="close with 40xx only what the table of close codes gives a reason for")
