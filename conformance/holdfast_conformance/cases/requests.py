"""Exchanges and requests: `spec/04-requests.md`."""

from __future__ import annotations

import trio

from holdfast_conformance.case import Exchange, Frame, Test, check
from holdfast_conformance.expect import Expectation, same_json
from holdfast_conformance.traffic import number, overfill, pour, script, script_frame, small_session, upcoming

RACES = 100
"""How often a cancel is raced against the end of what it names."""

FOREVER = 30_000
"""Milliseconds that no check waits for."""


def is_result(end: Frame, value: object) -> bool:
    """Return whether a terminal is the `result` with this data."""
    return end.type == "result" and same_json(end.get("data"), value)


def is_error(end: Frame, code: str) -> bool:
    """Return whether a terminal is the `error` with this code."""
    error = end.get("error")
    return end.type == "error" and isinstance(error, dict) and error.get("code") == code


async def nothing_follows(t: Test, call: Exchange, end: Frame) -> None:
    """Assert that the session lives and that no frame of the exchange comes behind its terminal."""
    tag = f"{t.random.getrandbits(48):012x}"
    await call.session.send({"type": "ping", "t": tag})
    await t.control(call.session.receives("pong", t=tag))
    late = Expectation(
        call.session,
        f"a frame of exchange {call.id} behind its terminal",
        lambda frame: frame.get("id") == call.id and frame.entry > end.entry,
    )
    hint = "once the terminal is queued, throw away what the handler still sends"
    await t.must_not(late, requirement="RPC-02", hint=hint)


@check("rpc/result-carries-the-value", covers="RPC-13", needs=["rpc", "method:echo"])
async def result_carries_the_value(t: Test) -> None:
    """A method that succeeds ends its request with a result that carries the value."""
    alice = await t.session()
    value = {"text": "ψ", "list": [1, True, None, {"n": t.payload()}]}
    call = await alice.start("request", method=t.method("echo"), data=value)
    await t.must(call.result(data=value), hint="the value of the method is the `data` of the result")


@check("rpc/every-exchange-ends-once", covers="RPC-01", needs=["rpc", "pubsub", "method:echo"])
async def every_exchange_ends_once(t: Test) -> None:
    """Exchanges of every kind, sent in one piece, each end exactly once and with their own outcome."""
    alice = await t.session()
    for _ in range(5):
        value = t.payload()
        slots = alice.limit("max_inflight")
        echo = alice.frame("request", method=t.method("echo"), data=value)
        broken = alice.frame("request", method="", data=value)
        unknown = alice.frame("conf.no_such_type", data=value)
        subscribe = alice.frame("subscribe", channel=t.channel())
        publish = alice.frame("publish", channel=t.channel(), data=value)
        row = [echo, broken, unknown, subscribe, {"type": "cancel", "of": subscribe["id"]}]
        await alice.pipeline(*row, *([publish] if slots > 1 else []), malformed=True)
        await t.must(alice.exchange(echo).result(data=value))
        await t.must(alice.exchange(broken).error("bad_request"))
        await t.must(alice.exchange(unknown).error("unsupported"))
        await t.must(alice.exchange(subscribe).result())
        started = [echo, broken, unknown, subscribe]
        if slots > 1:
            await t.must(alice.exchange(publish).result())
            started.append(publish)
        await t.alive(alice)
        for frame in started:
            ends = [f for f in alice.exchange(frame).frames if f.type in ("result", "error")]
            t.equal(len(ends), 1, f"the number of terminals of a {frame['type']}", frame=ends[-1])


@check("rpc/cancel-races-completion", covers=["RPC-01", "RPC-02", "RPC-08"], needs=["rpc", "method:echo"])
async def cancel_races_completion(t: Test) -> None:
    """Whether a cancel comes before, during or after the end of a request, there is one honest terminal."""
    alice = await t.session()
    await t.control((await alice.start("request", method=t.method("echo"), data=1)).result(data=1))
    exchanges: list[Exchange] = []
    for race in range(RACES):
        value = t.payload()
        frame = alice.frame("request", method=t.method("echo"), data=value)
        cancel = {"type": "cancel", "of": frame["id"]}
        exchange = alice.exchange(frame)
        if race % 3 == 0:  # in one segment
            await alice.pipeline(frame, cancel)
        else:
            await alice.send(frame)
            if race % 3 == 1:  # about when the result is on its way
                for _ in range(t.random.randrange(4)):
                    await trio.lowlevel.checkpoint()
            else:
                await alice.ping()
            await alice.send(cancel)
        end = await t.must(exchange.terminal(), hint="a cancelled request still ends with one terminal")
        honest = is_result(end, value) or is_error(end, "cancelled")
        t.that(
            honest,
            f"the terminal is neither the real outcome nor the error cancelled: {end}",
            frame=end,
            requirement="RPC-08",
        )
        exchanges.append(exchange)
    await t.alive(alice)
    for exchange in exchanges:
        t.equal(
            len(exchange.frames), 1, f"the number of frames of exchange {exchange.id}", requirement="RPC-02"
        )


@check("rpc/cancel-races-open", covers=["RPC-07", "RPC-01"], needs=["pubsub"])
async def cancel_races_open(t: Test) -> None:
    """Whether a cancel comes before or after `open`, the subscription ends with result and leaks nothing."""
    alice, witness = await t.session(name="alice"), await t.session(name="witness")
    channel = t.channel()
    await witness.subscribe(channel)
    control = await alice.subscribe(channel)
    await t.control(control.gets(await t.emit(channel)))
    await alice.cancel(control)
    exchanges: list[Exchange] = []
    for race in range(RACES // 2):
        frame = alice.frame("subscribe", channel=channel)
        cancel = {"type": "cancel", "of": frame["id"]}
        exchange = alice.exchange(frame)
        if race % 2:
            await alice.pipeline(frame, cancel)
        else:
            await alice.send(frame)
            for _ in range(t.random.randrange(4)):
                await trio.lowlevel.checkpoint()
            await alice.send(cancel)
        await t.must(exchange.result(), hint="a cancelled subscribe ends with result, `open` or not")
        exchanges.append(exchange)
    ghost = await t.emit(channel)
    await witness.gets(ghost)
    await t.must_not(
        alice.gets(ghost),
        hint="a subscription that is cancelled before its `open` must not stay behind",
        requirement="RPC-02",
    )
    for exchange in exchanges:
        ends = [f for f in exchange.frames if f.type in ("result", "error")]
        t.equal(len(ends), 1, f"the number of terminals of exchange {exchange.id}", requirement="RPC-01")


@check("rpc/cancel-ends-request", covers=["RPC-06", "RPC-08"], needs=["rpc", "script:hold", "script:reply"])
async def cancel_ends_request(t: Test) -> None:
    """A running request that is cancelled ends, with its real outcome or with `cancelled`."""
    alice = await t.session()
    value = t.payload()
    call = await alice.run(["hold", 200], ["reply", {"data": value}])
    await alice.ping()
    await alice.send({"type": "cancel", "of": call.id})
    end = await t.must(
        call.terminal(), hint="a cancel needs no reply of its own, but the exchange has to end"
    )
    honest = is_result(end, value) or is_error(end, "cancelled")
    t.that(honest, f"it ended with {end}", frame=end, requirement="RPC-08", hint="the code is `cancelled`")


@check(
    "rpc/cancel-stops-the-work",
    covers="RPC-12",
    needs=["rpc", "pubsub", "script:hold", "script:emit"],
    slow=True,
)
async def cancel_stops_the_work(t: Test) -> None:
    """The work of a cancelled request stops, and its slot is free before the work would have ended."""
    alice = await t.session(name="alice")
    witness = await t.session(name="witness", profiles=("rpc", "pubsub"))
    channel, work = t.channel(), 1.5
    await witness.subscribe(channel)
    first = upcoming(t, channel)
    await (await alice.run(["hold", 20], ["emit", channel, first.data])).result()
    await t.control(witness.gets(first))
    slots = min(alice.limit("max_inflight"), 256)
    ghost = upcoming(t, channel)
    steps = ["hold", int(work * 1000)], ["emit", channel, ghost.data]
    frames = [script_frame(alice, *steps) for _ in range(slots)]
    await alice.pipeline(*frames)
    await alice.pipeline(*({"type": "cancel", "of": frame["id"]} for frame in frames))
    begin = t.now()
    for frame in frames:
        await t.must(alice.exchange(frame).terminal(), requirement="RPC-06")
    again = await alice.run()
    await t.must(again.result(), hint="a cancelled request gives its slot back at once")
    t.that(t.now() - begin < work, "the slots were free only after the work's natural end")
    await t.sit_out(work + 0.1, "the time at which the cancelled work would have gone on")
    await t.must_not(witness.gets(ghost), hint="let the cancel reach the method, not only the exchange")


@check("rpc/cancel-mid-stream", covers=["RPC-06", "RPC-11"], needs=["rpc", "script:stream"])
async def cancel_mid_stream(t: Test) -> None:
    """A stream that is cancelled between two chunks ends, and no chunk follows its terminal."""
    alice = await t.session()
    call = await script(alice, ["stream", 100_000, 1], stream=True)
    for n in range(3):
        await t.control(call.chunk(data={"n": n}))
    await alice.send({"type": "cancel", "of": call.id})
    end = await t.must(call.terminal(), hint="a cancel ends a stream too")
    t.that(is_error(end, "cancelled"), f"a stream of 100000 chunks ended with {end}", frame=end)
    await nothing_follows(t, call, end)


@check("rpc/cancel-repeated", covers=["RPC-10", "RPC-09"], needs=["pubsub"])
async def cancel_repeated(t: Test) -> None:
    """Cancels of a cancelled subscription, of a finished exchange and of a skipped id change nothing."""
    alice = await t.session()
    channel = t.channel()
    keeper, sub = await alice.subscribe(channel), await alice.subscribe(channel)
    hole = alice.next_id()
    done = await alice.start("publish", channel=channel, data=t.payload())
    await done.result()
    cancels = [{"type": "cancel", "of": of} for of in (sub.id, sub.id, sub.id, hole, done.id, sub.id)]
    await alice.pipeline(*cancels)
    await t.control(sub.result())
    await t.alive(alice, hint="a cancel of something that has ended is ignored")
    await t.must_not(sub.anything())
    await t.must(keeper.gets(await t.emit(channel)), hint="a cancel touches only the exchange that it names")


@check(
    "rpc/cancel-discards-queued-frames",
    covers="RPC-11",
    needs=["pubsub", "loopback"],
    intrusive=True,
    serial=True,
)
async def cancel_discards_queued_frames(t: Test) -> None:
    """What is queued for a subscription when it is cancelled is thrown away."""
    slow, publisher, witness = (
        await small_session(t),
        await t.session(name="publisher"),
        await t.session(name="witness"),
    )
    channel, marker = t.channel(), t.channel()
    sub = await slow.subscribe(channel)
    await witness.subscribe(marker)
    slow.pause_reading()
    count, size = overfill(t, slow, publisher)
    await pour(t, publisher, channel, count, size=size, stalled=slow)
    tail = max(2, min(16, slow.limit("queue") // 2))
    await pour(t, publisher, channel, tail, first=count)  # these are surely behind everything in the kernel
    # The event of a publish that was sent behind the cancel proves that the cancel has been read.
    proof = upcoming(t, marker)
    await slow.pipeline(
        {"type": "cancel", "of": sub.id}, slow.frame("publish", channel=marker, data=proof.data)
    )
    await witness.gets(proof)
    slow.resume_reading()
    await t.must(sub.result(), requirement="RPC-07")
    events = [frame for frame in sub.frames if frame.type == "event"]
    held = [n for n in map(number, events) if n >= count]
    overflowed = len(events) + len([frame for frame in sub.frames if frame.type == "gap"]) < count
    if overflowed or held:
        t.that(
            not held,
            f"{len(held)} queued events came after the cancel was read",
            frame=next((frame for frame in events if number(frame) >= count), None),
            hint="take the frames of the exchange out of the queue, then queue its result",
        )
    else:
        t.note("everything was on its way already; nothing was left to discard")
        t.that(True, "")


@check(
    "rpc/slow-request-blocks-nothing", covers="RPC-04", needs=["rpc", "pubsub", "method:echo", "script:hold"]
)
async def slow_request_blocks_nothing(t: Test) -> None:
    """While a request runs, every other kind of frame of the session is answered."""
    alice = await t.session()
    if alice.limit("max_inflight") < 2:
        raise t.unverified("max_inflight is 1, so nothing can run beside a request")
    channel, value = t.channel(), t.payload()
    held = await alice.run(["hold", FOREVER])
    echo = await alice.start("request", method=t.method("echo"), data=value)
    hint = "do not wait for one handler before you read the next frame"
    await t.must(echo.result(data=value), hint=hint)
    sub = await alice.start("subscribe", channel=channel)
    await t.must(sub.opened(), hint=hint)
    publish = await alice.start("publish", channel=channel, data=value)
    await t.must(publish.result(), hint=hint)
    await t.must(sub.receives("event", data=value), hint=hint)
    await t.alive(alice, hint=hint)
    await alice.send({"type": "cancel", "of": sub.id})
    await t.must(sub.result(), hint=hint)
    t.that(not held.frames, "the request that holds on has ended already", requirement="CNF-02")


@check("rpc/frames-apply-in-order", covers=["RPC-05", "SUB-12"], needs=["rpc", "pubsub", "method:echo"])
async def frames_apply_in_order(t: Test) -> None:
    """Requests and publishes that share one segment take effect in the order in which they stand there."""
    alice = await t.session()
    channel = t.channel()
    sub = await alice.subscribe(channel)
    pairs = max(1, min(20, alice.limit("max_inflight") // 2, alice.limit("queue")))
    values = [t.payload() for _ in range(pairs)]
    frames = [
        frame
        for value in values
        for frame in (
            alice.frame("request", method=t.method("echo"), data=value),
            alice.frame("publish", channel=channel, data=value),
        )
    ][: alice.limit("max_inflight")]
    await alice.pipeline(*frames)
    hint = "read, and consume the ids of, the frames of a connection one after the other"
    for frame in frames:
        await t.must(alice.exchange(frame).result(), hint=hint)
    published = [frame["data"] for frame in frames if frame["type"] == "publish"]
    for value in published:
        await t.must(sub.receives("event", data=value), requirement="SUB-05")
    got = [frame["data"] for frame in sub.frames if frame.type == "event"]
    t.equal(got, published, "the order of the events", requirement="SUB-12", hint=hint)


@check("rpc/failure-of-the-application", covers="RPC-16", needs=["rpc", "method:fail"])
async def failure_of_the_application(t: Test) -> None:
    """A failure that the application foresees has the code `app` or a private one, and costs one exchange."""
    alice = await t.session()
    call = await alice.start("request", method=t.method("fail"), data=t.payload())
    end = await t.must(call.error(), hint="the method must end with an error of its own")
    error = end["error"]
    code = error.get("code") if isinstance(error, dict) else None
    t.that(
        code == "app" or (isinstance(code, str) and "." in code),
        f"the code is {code!r}",
        frame=end,
        hint="codes of the protocol are not for applications; use `app`, or a code with a dot",
    )
    await t.alive(alice)


@check("rpc/deadline-ends-request", covers="RPC-17", needs=["rpc", "script:hold"])
async def deadline_ends_request(t: Test) -> None:
    """A request that takes longer than `timeout_ms` ends with `deadline_exceeded`, not before that time."""
    alice = await t.session()
    sent = t.now()
    call = await script(alice, ["hold", FOREVER], timeout_ms=60)
    end = await t.must(call.error("deadline_exceeded"), hint="start a timer when you read the request")
    t.that(
        end.at - sent > 0.055,
        f"the deadline came {(end.at - sent) * 1000:.0f} ms after the request",
        frame=end,
    )
    await nothing_follows(t, call, end)


@check("rpc/deadline-not-early", covers=["RPC-17", "RPC-13"], needs=["rpc", "script:reply"])
async def deadline_not_early(t: Test) -> None:
    """A request that ends within its `timeout_ms` is not touched by the deadline."""
    alice = await t.session()
    value = t.payload()
    call = await script(alice, ["reply", {"data": value, "after_ms": 30}], timeout_ms=2_147_483_647)
    await t.must(call.result(data=value), requirement="RPC-13", hint="`timeout_ms` may be as long as 2^31-1")


@check("rpc/deadline-races-completion", covers=["RPC-17", "RPC-01"], needs=["rpc", "script:reply"])
async def deadline_races_completion(t: Test) -> None:
    """When the work takes about as long as `timeout_ms`, one of the two wins, and there is one terminal."""
    alice = await t.session()
    at_once = min(20, alice.limit("max_inflight"))
    value = t.payload()
    frames = [
        script_frame(alice, ["reply", {"data": value, "after_ms": ms}], timeout_ms=ms)
        for ms in (1 + n % 7 for n in range(at_once))
    ]
    await alice.pipeline(*frames)
    for frame in frames:
        end = await t.must(alice.exchange(frame).terminal(), requirement="RPC-01")
        honest = is_result(end, value) or is_error(end, "deadline_exceeded")
        t.that(honest, f"the race between work and deadline ended with {end}", frame=end)
    await t.sit_out(0.03, "the deadlines that were not needed")
    await t.alive(alice)
    for frame in frames:
        t.equal(
            len(alice.exchange(frame).frames),
            1,
            f"the frames of exchange {frame['id']}",
            requirement="RPC-01",
        )


@check("rpc/deadline-ends-stream", covers=["RPC-17", "RPC-02"], needs=["rpc", "script:stream"])
async def deadline_ends_stream(t: Test) -> None:
    """A stream that goes on beyond `timeout_ms` ends with `deadline_exceeded`, and no chunk follows."""
    alice = await t.session()
    call = await script(alice, ["stream", 100_000, 5], timeout_ms=80, stream=True)
    await t.control(call.chunk(data={"n": 0}))
    end = await t.must(
        call.error("deadline_exceeded"), hint="the chunks do not prolong the time of a request"
    )
    await nothing_follows(t, call, end)


@check("rpc/stream-in-order", covers="RPC-19", needs=["rpc", "script:stream"])
async def stream_in_order(t: Test) -> None:
    """Streams that run at the same time each send their chunks in order, all of them before the terminal."""
    alice = await t.session()
    at_once = min(3, alice.limit("max_inflight"))
    frames = [script_frame(alice, ["stream", 100], ["stream", 5, 1], stream=True) for _ in range(at_once)]
    await alice.pipeline(*frames)
    expected = [*range(100), *range(5)]
    for frame in frames:
        call = alice.exchange(frame)
        await t.must(call.result())
        *chunks, end = call.frames
        t.equal(end.type, "result", "the last frame of the stream", frame=end)
        t.equal([number(chunk) for chunk in chunks], expected, "the chunks of a stream", frame=end)


@check("rpc/stream-needs-consent", covers=["RPC-21", "RPC-20"], needs=["rpc", "script:stream"])
async def stream_needs_consent(t: Test) -> None:
    """A method that streams answers `bad_request`, and no chunk, to a request without `stream:true`."""
    alice = await t.session()
    await t.control((await script(alice, ["stream", 2], stream=True)).result())
    call = await script(alice, ["stream", 2])
    await t.must(call.error("bad_request"), hint="look for `stream` before you send the first chunk")
    chunks = [frame for frame in call.frames if frame.type == "chunk"]
    t.that(not chunks, "a chunk came without `stream:true`", requirement="RPC-20")
    await t.alive(alice)
