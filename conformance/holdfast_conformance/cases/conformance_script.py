"""The script that a server may offer to a suite: `spec/appendix-conformance.md`.

Other checks believe what the script does, so each of its steps is looked at here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_conformance.case import Exchange, Session, Test, check
from holdfast_conformance.traffic import number, roomy, script, upcoming

if TYPE_CHECKING:
    from collections.abc import Sequence

EARLY = 0.9
"""The share of a wait that has to have passed; the rest is the difference of two clocks."""


async def listening(t: Test) -> tuple[Session, Exchange, str]:
    """Open a session that runs scripts, and a subscription of it whose path is proved to be live."""
    alice = await t.session()
    channel = t.channel()
    sub = await alice.subscribe(channel)
    event = upcoming(t, channel)
    await alice.publish(channel, event.data)
    await t.control(sub.gets(event))
    return alice, sub, channel


def data_of(sub: Exchange) -> list[object]:
    """Return the data of the events of a subscription, its control aside."""
    return [frame.get("data") for frame in sub.frames if frame.type == "event"][1:]


@check("cnf/bad-script-runs-nothing", covers="CNF-01", needs=["rpc", "pubsub", "script:emit"])
async def bad_script_runs_nothing(t: Test) -> None:
    """A script with a fault in any step is a `bad_request`, and the good steps before it are not run."""
    alice, sub, channel = await listening(t)
    good = await alice.run(["emit", channel, t.payload()])
    await t.must(good.result(), requirement="CNF-03")
    await t.until(alice, lambda: len(data_of(sub)) == 1, "the event of a good script", requirement="CNF-02")
    ghost = upcoming(t, channel)
    emit = ["emit", channel, ghost.data]
    faults: dict[str, list[object]] = {
        "emit": [
            ["emit"],
            ["emit", channel],
            ["emit", 5, 1],
            ["emit", "", 1],
            ["emit", "x" * 256, 1],
            [*emit, 1],
        ],
        "burst": [
            ["burst", channel],
            ["burst", channel, -1],
            ["burst", channel, 100_001],
            ["burst", channel, "1"],
        ],
        "hold": [["hold"], ["hold", -1], ["hold", 60_001], ["hold", "5"], ["hold", None], ["hold", 1, 1]],
        "reply": [["reply", 5], ["reply", []], ["reply", {"after_ms": -1}], ["reply", {"result": 1}]],
        "error": [
            *(
                ["error"],
                ["error", {}],
                ["error", "app"],
                ["error", {"code": 5}],
                ["error", {"code": "nonsense"}],
            ),
            *(["error", {"code": "app", "retry_ms": 60_001}], ["error", {"code": "app", "reason": 1}]),
        ],
        "close": [
            ["close"],
            *(["close", code] for code in (999, 1004, 1005, 1006, 1015, 2000, 5000, "1000")),
        ],
        "drain": [["drain"], ["drain", -1], ["drain", "5"]],
        "abort": [["abort", 1]],
        "expire": [["expire", 1]],
    }
    bad: list[object] = [["conf.no_such_step"], [], "emit", 5, None, {"emit": channel}, [5], [["emit"]]]
    for step, wrong in faults.items():
        if step in t.bench.target.script_steps:
            bad += wrong
    for fault in bad:
        call = await alice.start("request", method=alice.script_method, data=[emit, fault])
        await t.must(
            call.error("bad_request"), hint=f"look at the whole script first; the fault is {fault!r}"
        )
    for data in ({"steps": [emit]}, "emit", 5, None):
        call = await alice.start("request", method=alice.script_method, data=data)
        await t.must(call.error("bad_request"), hint=f"the script {data!r} is no list")
    await t.must_not(sub.gets(ghost), hint="look at the whole script before you run its first step")


@check("cnf/bad-stream-step-runs-nothing", covers="CNF-01", needs=["rpc", "script:stream"])
async def bad_stream_step_runs_nothing(t: Test) -> None:
    """A `stream` step with wrong arguments is a `bad_request`, and no chunk comes."""
    alice = await t.session()
    await t.must((await script(alice, ["stream", 0], stream=True)).result(), requirement="CNF-03")
    most = alice.limit("max_frame")
    for step in (
        ["stream"],
        ["stream", -1],
        ["stream", 100_001],
        ["stream", "1"],
        ["stream", 1.5],
        ["stream", 1, -1],
        ["stream", 1, 60_001],
        ["stream", 1, 0, -1],
        ["stream", 1, 0, most + 1],
    ):
        call = await script(alice, ["stream", 1], step, stream=True)
        await t.must(call.error("bad_request"), hint=f"the fault is in {step!r}")
        t.equal(len(call.frames), 1, f"the number of frames for {step!r}")


@check(
    "cnf/steps-in-order",
    covers="CNF-02",
    needs=["rpc", "pubsub", "script:emit", "script:burst", "script:hold"],
)
async def steps_in_order(t: Test) -> None:
    """The steps take effect in their order: events before and behind a wait."""
    alice, sub, channel = await listening(t)
    roomy(t, sub, 6)
    one, two, three = t.payload(), t.payload(), t.payload()
    call = await alice.run(
        ["emit", channel, one],
        ["hold", 20],
        ["emit", channel, two],
        ["burst", channel, 3],
        ["emit", channel, three],
    )
    await t.must(call.result(), requirement="CNF-03")
    await t.until(alice, lambda: len(data_of(sub)) >= 6, "six events")
    t.equal(data_of(sub), [one, two, {"n": 0}, {"n": 1}, {"n": 2}, three], "the events of the script")


@check("cnf/emit-reaches-everybody", covers="CNF-02", needs=["rpc", "pubsub", "script:emit"])
async def emit_reaches_everybody(t: Test) -> None:
    """The event of `emit` comes from the server itself: the session that runs the script gets it, too."""
    alice, sub, channel = await listening(t)
    other = await t.session(name="other")
    theirs = await other.subscribe(channel)
    for data in (t.payload(), None, "\u03c8", [], 0, False):
        event = upcoming(t, channel)
        event.data = data
        await t.must((await alice.run(["emit", channel, data])).result(), requirement="CNF-03")
        await t.must(sub.gets(event), hint="`emit` has no `echo:false`")
        await t.must(theirs.gets(event))


@check("cnf/burst-counts", covers="CNF-02", needs=["rpc", "pubsub", "script:burst"])
async def burst_counts(t: Test) -> None:
    """`burst` publishes numbered events, padded to the letter when asked."""
    alice, sub, channel = await listening(t)
    many = min(20, alice.limit("queue"))
    await t.must(
        (await alice.run(["burst", channel, 0], ["burst", channel, many])).result(), requirement="CNF-03"
    )
    await t.until(alice, lambda: len(data_of(sub)) >= many, f"{many} events")
    t.equal(data_of(sub), [{"n": n} for n in range(many)], "the data of the events")
    await t.must((await alice.run(["burst", channel, 1, 777])).result(), requirement="CNF-03")
    await t.until(alice, lambda: len(data_of(sub)) > many, "the padded event")
    t.equal(data_of(sub)[-1], {"n": 0, "pad": "x" * 777}, "the data of the padded event")


@check("cnf/hold-waits", covers="CNF-02", needs=["rpc", "script:hold"])
async def hold_waits(t: Test) -> None:
    """`hold` lets its time pass before the next step."""
    alice = await t.session()
    begin = t.now()
    end = await t.must(
        (await alice.run(["hold", 30], ["hold", 0], ["hold", 40])).result(), requirement="CNF-03"
    )
    t.that(end.at - begin >= 0.07 * EARLY, f"70 ms took {(end.at - begin) * 1000:.0f} ms", frame=end)


@check("cnf/stream-counts-and-paces", covers="CNF-02", needs=["rpc", "script:stream"])
async def stream_counts_and_paces(t: Test) -> None:
    """`stream` sends numbered chunks, waits between them, and pads them to the letter when asked."""
    alice = await t.session()
    begin = t.now()
    call = await script(alice, ["stream", 4, 15], stream=True)
    end = await t.must(call.result(), requirement="CNF-03")
    chunks = [frame for frame in call.frames if frame.type == "chunk"]
    t.equal([chunk.get("data") for chunk in chunks], [{"n": n} for n in range(4)], "the chunks", frame=end)
    t.that(end.at - begin >= 0.045 * EARLY, "the chunks came without a wait between them", frame=end)
    call = await script(alice, ["stream", 1, 0, 777], stream=True)
    await t.must(call.chunk(data={"n": 0, "pad": "x" * 777}))
    await t.must(call.result(), requirement="CNF-03")


@check("cnf/reply-ends-the-request", covers="CNF-02", needs=["rpc", "script:reply"])
async def reply_ends_the_request(t: Test) -> None:
    """`reply` ends the request with its data, at once or later, with no data when it has none."""
    alice = await t.session()
    value = t.payload()
    await t.must((await alice.run(["reply", {"data": value}])).result(data=value))
    begin = t.now()
    later = await t.must((await alice.run(["reply", {"data": value, "after_ms": 50}])).result(data=value))
    t.that(later.at - begin >= 0.05 * EARLY, "the reply came before its `after_ms`", frame=later)
    for step in (["reply"], ["reply", {}]):
        await t.must(
            (await alice.run(step)).result(), hint="the object of `reply` and its members may be left out"
        )


@check("cnf/error-ends-the-request", covers=["CNF-02", "RPC-16"], needs=["rpc", "script:error"])
async def error_ends_the_request(t: Test) -> None:
    """`error` ends the request with the code, the data and the time that it was given."""
    alice = await t.session()
    value = t.payload()
    for body in (
        {"code": "app", "message": "no", "data": value},
        {"code": f"conf.c{t.random.getrandbits(24):x}", "message": "no", "data": value, "retry_ms": 250},
        {"code": "unavailable", "message": "no", "retry_ms": 0},
    ):
        call = await alice.run(["error", body])
        end = await t.must(call.error(str(body["code"])))
        error = end["error"]
        for name, wanted in body.items():
            got = error.get(name) if isinstance(error, dict) else None
            if name != "message":
                t.equal(got, wanted, f"`error.{name}`", frame=end)
        await t.alive(alice)
    begin = t.now()
    call = await alice.run(["error", {"code": "app", "after_ms": 50}])
    late = await t.must(call.error("app"))
    t.that(late.at - begin >= 0.05 * EARLY, "the error came before its `after_ms`", frame=late)


@check("cnf/close-closes", covers="CNF-02", needs=["rpc", "script:close"])
async def close_closes(t: Test) -> None:
    """`close` closes this connection, and no other, with the code that it was given."""
    other = await t.session(name="other")
    for code in (1000, 1001, 1012, 3000 + t.random.randrange(1000), 4200, 4600 + t.random.randrange(400)):
        alice = await t.session(name=f"alice-{code}")
        await alice.run(["close", code])
        await t.closes(alice, code)
    await t.alive(other)


@check("cnf/abort-cuts", covers="CNF-02", needs=["rpc", "script:abort"])
async def abort_cuts(t: Test) -> None:
    """`abort` ends the TCP connection without a close frame."""
    alice, other = await t.session(name="alice"), await t.session(name="other")
    await alice.run(["abort"])
    await t.ends(alice)
    t.that(
        alice.closure is not None and alice.closure.how in ("eof", "reset"),
        f"the connection was {alice.closure}",
    )
    await t.alive(other)


@check("cnf/expire-expires", covers=["CNF-02", "SES-18"], needs=["rpc", "script:expire"])
async def expire_expires(t: Test) -> None:
    """`expire` ends the identity of this session: it is closed with 4100, and its other sessions are not."""
    alice, other = await t.session(name="alice"), await t.session(name="other")
    await alice.run(["expire"])
    await t.closes(alice, 4100)
    await t.alive(other)


@check("cnf/drain-drains", covers=["CNF-02", "SES-38", "SES-42"], needs=["rpc", "script:drain"])
async def drain_drains(t: Test) -> None:
    """`drain` sends goaway, and closes with 4200 at the deadline that it was given, this connection only."""
    alice, other = await t.session(name="alice"), await t.session(name="other")
    begin = t.now()
    await alice.run(["drain", 150])
    goaway = await t.must(alice.receives("goaway"), requirement="SES-38")
    deadline = goaway["deadline_ms"]
    t.that(isinstance(deadline, int) and deadline <= 150, f"deadline_ms is {deadline!r}", frame=goaway)
    await t.closes(alice, 4200, within=0.15, requirement="SES-42")
    t.that(
        t.now() - begin >= 0.15 * EARLY, "the connection was closed before the deadline", requirement="SES-42"
    )
    await t.alive(other)


@check("cnf/end-of-the-list", covers="CNF-03", needs=["rpc", "pubsub", "script:emit"])
async def end_of_the_list(t: Test) -> None:
    """A script that ends without ending its request ends it with `result`, an empty script too."""
    alice, sub, channel = await listening(t)
    await t.must((await alice.run()).result(), hint="an empty list is a list")
    event = upcoming(t, channel)
    await t.must((await alice.run(["emit", channel, event.data])).result())
    await t.must(sub.gets(event), requirement="CNF-02")


@check(
    "cnf/steps-behind-the-end",
    covers="CNF-04",
    needs=["rpc", "pubsub", "script:emit", "script:reply", "script:hold"],
)
async def steps_behind_the_end(t: Test) -> None:
    """Steps behind the one that ends the request are run; those that would end it again do nothing."""
    alice, sub, channel = await listening(t)
    one, two = t.payload(), t.payload()
    steps: list[Sequence[object]] = [["reply", {"data": one}], ["hold", 20], ["emit", channel, two]]
    ended: list[Sequence[object]] = [["reply", {"data": two}]]
    if "error" in t.bench.target.script_steps:
        ended.append(["error", {"code": "app"}])
    if "stream" in t.bench.target.script_steps:
        ended.append(["stream", 3])
    for extra in ([], ended):
        event = upcoming(t, channel, two)
        call = await script(alice, steps[0], *extra, *steps[1:], stream=True)
        await t.must(call.result(data=one), requirement="CNF-02")
        await t.must(sub.gets(event), hint="the terminal ends the request, not the script")
        await t.alive(alice)
        t.equal(
            len(call.frames),
            1,
            "the number of frames of a request that `reply` has ended",
            requirement="RPC-02",
        )


@check("cnf/stream-then-reply", covers="CNF-02", needs=["rpc", "script:stream", "script:reply"])
async def stream_then_reply(t: Test) -> None:
    """Chunks and the reply behind them come in the order of the steps."""
    alice = await t.session()
    value = t.payload()
    call = await script(alice, ["stream", 3], ["stream", 2], ["reply", {"data": value}], stream=True)
    await t.must(call.result(data=value))
    row = [number(frame) for frame in call.frames if frame.type == "chunk"]
    t.equal(row, [0, 1, 2, 0, 1], "the chunks", requirement="RPC-19")
