"""Limits, slots and rate: `spec/09-limits-timers.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_conformance.case import Exchange, Session, Test, check
from holdfast_conformance.traffic import fits, script_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

FOREVER = 30_000
"""Milliseconds that no check waits for."""

FILLABLE = 512
"""The largest number of slots that a check fills."""

BURSTS = 2000
"""The largest bucket that a check empties."""


async def session_to_fill(t: Test, limit: str) -> Session:
    """Open a session whose slots can all be filled: of the first identity, or of `limited`."""
    first = await t.session()
    if first.limit(limit) <= FILLABLE and "rate" not in limits_of(first):
        return first
    if "limited" in t.bench.target.identities:
        limited = await t.session("limited")
        if limited.limit(limit) <= FILLABLE:
            return limited
    raise t.unverified(f"{limit} is too large to be filled; add an identity `limited` with small limits")


def limits_of(session: Session) -> Mapping[str, object]:
    """Return the limits that `welcome` advertises."""
    limits = session.welcome["limits"]
    return limits if isinstance(limits, dict) else {}


@check(
    "lim/inflight-slots",
    covers=["LIM-07", "LIM-02", "LIM-09"],
    needs=["rpc", "pubsub", "method:echo", "script:hold"],
)
async def inflight_slots(t: Test) -> None:
    """Exactly `max_inflight` requests run at once; one more is refused alone, and a freed slot counts."""
    alice = await session_to_fill(t, "max_inflight")
    slots = alice.limit("max_inflight")
    held = [alice.exchange(frame) for frame in await send_all(alice, slots, ["hold", FOREVER])]
    for type, members in (
        ("request", {"method": t.method("echo"), "data": 1}),
        ("publish", {"channel": t.channel(), "data": 1}),
        ("request", {"method": t.method("echo"), "data": 2}),
    ):
        extra = await alice.start(type, **members)
        await t.must(
            extra.error("limit_exceeded"), hint="publishes share the slots of `max_inflight` with requests"
        )
    early = next((call for call in held if call.frames), None)
    t.that(
        early is None,
        f"of {slots} requests within `max_inflight` one ended at once",
        frame=early.frames[0] if early else None,
        requirement="LIM-02",
        hint="a refusal concerns the new exchange, never one that runs; and it takes no slot",
    )
    sub = await alice.start("subscribe", channel=t.channel())
    await t.must(sub.opened(), requirement="LIM-02", hint="subscriptions have slots of their own")
    for n in range(3):
        await alice.send({"type": "cancel", "of": held[n % slots].id})
        await t.must(held[n % slots].terminal(), requirement="RPC-06")
        again = await alice.start("request", method=alice.script_method, data=[["hold", FOREVER]])
        await t.alive(alice)
        t.that(
            not again.frames,
            "the slot of an exchange that had ended was not free",
            frame=again.frames[0] if again.frames else None,
            requirement="LIM-09",
            hint="free the slot when the terminal leaves the queue",
        )
        held[n % slots] = again


async def send_all(session: Session, count: int, *steps: list[object]) -> list[dict[str, object]]:
    """Send a script several times in one write and return the frames."""
    frames = [script_frame(session, *steps) for _ in range(count)]
    await session.pipeline(*frames)
    return frames


@check("lim/subscription-slots", covers=["LIM-08", "LIM-02", "LIM-09"], needs=["pubsub"])
async def subscription_slots(t: Test) -> None:
    """Exactly `max_subscriptions` are open at once; one more is refused, and freed slots count."""
    alice = await session_to_fill(t, "max_subscriptions")
    channel = t.channel()
    subs = await fill_subscriptions(t, alice, channel)
    for _ in range(2):
        extra = await alice.start("subscribe", channel=channel)
        await t.must(extra.error("limit_exceeded"), hint="count the subscriptions of a session")
    event = await t.emit(channel)
    for sub in subs if fits(subs[0], len(subs)) else ():
        await t.must(sub.gets(event), requirement="SUB-05")
    publish = await alice.start("publish", channel=channel, data=t.payload())
    await t.must(publish.result(), requirement="LIM-02", hint="subscriptions have slots of their own")
    for n in range(3):
        await alice.cancel(subs[n % len(subs)])
        subs[n % len(subs)] = await alice.start("subscribe", channel=channel)
        await t.must(subs[n % len(subs)].opened(), requirement="LIM-09")


async def fill_subscriptions(t: Test, session: Session, channel: str) -> list[Exchange]:
    """Open as many subscriptions as the session may have."""
    slots = session.limit("max_subscriptions")
    frames = [session.frame("subscribe", channel=channel) for _ in range(slots)]
    await session.pipeline(*frames)
    subs = [session.exchange(frame) for frame in frames]
    for sub in subs:
        await t.must(sub.opened(), requirement="LIM-02", hint="what `welcome` advertises has to be possible")
    return subs


@check("lim/limits-stay", covers="LIM-03", needs=["pubsub"])
async def limits_stay(t: Test) -> None:
    """A session that has used all its subscriptions, and has been refused more, has as many the next time."""
    alice = await session_to_fill(t, "max_subscriptions")
    channel = t.channel()
    for _ in range(3):
        subs = await fill_subscriptions(t, alice, channel)
        extra = await alice.start("subscribe", channel=channel)
        await t.must(
            extra.error("limit_exceeded"), hint="neither refusals nor cancels change the number of slots"
        )
        await alice.pipeline(*({"type": "cancel", "of": sub.id} for sub in subs))
        for sub in subs:
            await t.must(sub.result(), requirement="RPC-07")


@check("lim/slots-come-back", covers="LIM-09", needs=["rpc", "method:echo"])
async def slots_come_back(t: Test) -> None:
    """A client that keeps `max_inflight` exchanges running, one for each that ends, is never refused."""
    alice = await session_to_fill(t, "max_inflight")
    echo, slots = t.method("echo"), alice.limit("max_inflight")
    fail = t.bench.target.methods.get("fail")
    kinds = [echo, echo, f"conf.{t.random.getrandbits(48):012x}", fail.name if fail else echo]
    running = [alice.frame("request", method=kinds[n % 4], data=n) for n in range(slots)]
    await alice.pipeline(*running)
    for n in range(slots, 3 * slots + 20):
        call = alice.exchange(running.pop(0))
        end = await t.must(call.terminal())
        error = end.get("error")
        t.that(
            not (isinstance(error, dict) and error.get("code") == "limit_exceeded"),
            f"refused although only {slots} exchanges were running",
            frame=end,
            hint="free the slot before the client can have the terminal",
        )
        running.append(alice.frame("request", method=kinds[n % 4], data=n))
        await alice.send(running[-1])
    for frame in running:
        await t.must(alice.exchange(frame).terminal())


@check("lim/nothing-hidden", covers="LIM-02", needs=["rpc", "method:echo"])
async def nothing_hidden(t: Test) -> None:
    """Data of every shape that fits into `max_frame` is accepted: many members, long strings, long names."""
    alice = await t.session()
    room = min(alice.limit("max_frame") // 2, 200_000)
    shapes: list[object] = [
        "x" * room,
        [0] * (room // 2),
        {f"n{n}": n for n in range(room // 16)},
        {"k" * (room - 100): 1},
        [[], {}, ""] * (room // 10),
        "\u00e9" * (room // 2),
    ]
    for shape in shapes:
        call = await alice.start("request", method=t.method("echo"), data=shape)
        await t.must(
            call.result(data=shape), hint="refuse nothing for a limit that `welcome` does not advertise"
        )


@check("lim/no-rate-no-limit", covers="LIM-02", needs=["pubsub"], intrusive=True)
async def no_rate_no_limit(t: Test) -> None:
    """Where `welcome` advertises no `rate`, frames in quick succession are neither refused nor punished."""
    alice = await t.session()
    if "rate" in limits_of(alice):
        raise t.not_applicable("the first identity has a `rate`")
    hint = "advertise `rate`, or do not limit"
    pings = [{"type": "ping", "t": f"p{n}"} for n in range(500)]
    await alice.pipeline(*pings)
    await t.until(alice, lambda: len(alice.find("pong")) >= len(pings), f"{len(pings)} pongs", hint=hint)
    at_once, channel = max(1, min(8, alice.limit("max_inflight"))), t.channel()
    for _ in range(0, 300, at_once):
        frames = [alice.frame("publish", channel=channel, data=1, echo=False) for _ in range(at_once)]
        await alice.pipeline(*frames)
        for frame in frames:
            await t.must(alice.exchange(frame).result(), hint=hint)


@check("lim/client-lowers-only-what-it-gets", covers=["LIM-02", "LIM-05", "TRN-08"], needs=["pubsub"])
async def client_lowers_only_what_it_gets(t: Test) -> None:
    """A client that asks for small frames may still send large ones."""
    narrow, wide = (
        await t.session(name="narrow", hello={"limits": {"max_frame": 4096}}),
        await t.session(name="wide"),
    )
    most = wide.limit("max_frame")
    t.equal(narrow.limit("max_frame"), most, "`welcome.limits.max_frame`", frame=narrow.welcome)
    room = min(most // 2, wide.limit("queue_bytes") // 2)
    if room < 4096:
        raise t.not_applicable("max_frame is as small as a client may ask for")
    channel = t.channel()
    sub = await wide.subscribe(channel)
    event = await t.emit(channel, {"pad": "x" * room}, by=narrow)
    await t.must(
        sub.gets(event), requirement="SUB-05", hint="`hello.limits` binds what the server sends, only that"
    )


@check("lim/client-cannot-raise-max-frame", covers="LIM-06", needs=["rpc", "method:echo"])
async def client_cannot_raise_max_frame(t: Test) -> None:
    """A `limits.max_frame` in hello that exceeds the server's own changes nothing."""
    plain = await t.session(name="plain")
    most = plain.limit("max_frame")
    for asked in (most, most + 1, 2**53 - 1):
        greedy = await t.session(name=f"greedy-{asked}", hello={"limits": {"max_frame": asked}})
        t.equal(greedy.limit("max_frame"), most, "`welcome.limits.max_frame`", frame=greedy.welcome)
        data = "x" * (most // 2)
        call = await greedy.start("request", method=t.method("echo"), data=data)
        await t.must(call.result(data=data), hint="treat a number above your own as absent")


# Rate


async def rated_session(t: Test) -> tuple[Session, int, float]:
    """Open a session with a rate that does not pace itself; return it, the bucket, and tokens per second."""
    limited = "limited" if "limited" in t.bench.target.identities else None
    session = await t.session(limited)
    rate = limits_of(session).get("rate")
    if not isinstance(rate, dict):
        raise t.not_applicable("`welcome` advertises no `rate`")
    count, per_second = int(rate["count"]), rate["count"] * 1000 / rate["per_ms"]
    if count > BURSTS:
        raise t.unverified(
            "the rate is too generous to be used up; add an identity `limited` with a small one"
        )
    session.paced = False
    return session, count, per_second


def is_limited(call: Exchange) -> bool:
    """Return whether an exchange ended with `rate_limited`."""
    error = call.frames[-1].get("error") if call.frames else None
    return isinstance(error, dict) and error.get("code") == "rate_limited"


async def use_up(t: Test, session: Session, count: int, requirement: str = "LIM-13") -> None:
    """Send as many pings as the bucket holds tokens and wait for the last pong."""
    await session.pipeline(*({"type": "ping", "t": f"token-{n}"} for n in range(count)))
    await t.until(
        session,
        lambda: any(frame.get("t") == f"token-{count - 1}" for frame in session.find("pong")),
        f"{count} pongs",
        requirement=requirement,
        hint="the bucket is full when `welcome` is sent",
    )


@check("lim/rate-full-bucket", covers="LIM-13", needs=["pubsub"])
async def rate_full_bucket(t: Test) -> None:
    """The first `rate.count` frames of a session are accepted, however fast they come."""
    alice, count, _ = await rated_session(t)
    channel, at_once = t.channel(), max(1, alice.limit("max_inflight") // 2)
    for start in range(0, count, at_once):
        frames = [
            alice.frame("publish", channel=channel, data=n) for n in range(start, min(start + at_once, count))
        ]
        await alice.pipeline(*frames)
        for frame in frames:
            await t.must(alice.exchange(frame).result(), hint="the bucket is full when `welcome` is sent")


@check("lim/rate-exceeded", covers=["LIM-10", "ERR-02"], needs=["pubsub"])
async def rate_exceeded(t: Test) -> None:
    """Exchanges beyond the rate end with `rate_limited` and `retry_ms`, each alone, and the session lives."""
    before = t.now()
    alice, count, per_second = await rated_session(t)
    channel = t.channel()
    pings = [{"type": "ping"} for _ in range(count - 1)]
    frames = [alice.frame("publish", channel=channel, data=n) for n in range(count + 5)]
    await alice.pipeline(*pings, *frames)
    calls = [alice.exchange(frame) for frame in frames]
    first = await t.must(calls[0].terminal(), requirement="LIM-13")
    t.equal(
        first.type,
        "result",
        "the end of the last frame that the bucket allows",
        frame=first,
        requirement="LIM-13",
    )
    for call in calls[1:]:
        end = await t.must(call.terminal(), requirement="RPC-01")
        if is_limited(call):
            error = end["error"]
            retry = error.get("retry_ms") if isinstance(error, dict) else None
            t.that(
                isinstance(retry, int) and retry >= 0,
                f"retry_ms is {retry!r}",
                frame=end,
                requirement="ERR-02",
                hint="say when the next token will be there",
            )
    elapsed = t.now() - before
    accepted = sum(not is_limited(call) for call in calls) + len(pings)
    t.that(
        accepted <= count + elapsed * per_second + 1,
        f"{accepted} frames in {elapsed * 1000:.0f} ms were within the rate",
        hint="take one token for each frame, and refuse when there is none",
    )


@check("lim/rate-closes-without-id", covers="LIM-11", needs=["pubsub"])
async def rate_closes_without_id(t: Test) -> None:
    """A frame without `id` that finds no token closes the connection with 4302."""
    kinds: list[Mapping[str, object]] = [
        {"type": "ping"},
        {"type": "cancel", "of": 1},
        {"type": "conf.no_such_type"},
    ]
    for frame in kinds:
        alice, count, _ = await rated_session(t)
        await alice.publish(t.channel(), 1)
        await alice.pipeline(*([frame] * (2 * count + 10)))
        await t.closes(alice, 4302, hint="there is no `id` to answer on, so the connection has to go")


@check("lim/rate-spares-signs-of-life", covers="LIM-12", needs=["pubsub"])
async def rate_spares_signs_of_life(t: Test) -> None:
    """Any number of `pong` and `ack` frames leaves the bucket as it is, also when it is empty."""
    alice, count, _ = await rated_session(t)
    await alice.auth(t.token(alice.identity))  # so that there is a frame to acknowledge; it costs nothing
    free: list[Mapping[str, object]] = [{"type": "pong"}, {"type": "ack", "seq": 1}] * (2 * count)
    await alice.pipeline(*free, malformed=True)
    await use_up(t, alice, count, requirement="LIM-12")
    await alice.pipeline(*free, malformed=True)
    call = await alice.start("publish", channel=t.channel(), data=1)
    await t.must(call.terminal(), hint="do not charge what keeps the connection alive")


@check("lim/rate-spares-auth", covers="LIM-12", needs=["pubsub", "identity:limited"])
async def rate_spares_auth(t: Test) -> None:
    """`auth` is accepted when the bucket is empty, and costs nothing when it is not."""
    alice, count, _ = await rated_session(t)
    for _ in range(count + 1):
        await t.must((await alice.start("auth", token=t.token("limited"))).result())
    await use_up(t, alice, count)
    call = await alice.start("auth", token=t.token("limited"))
    await t.must(call.result(), hint="fresh credentials must get through however busy the client is")


@check("lim/rate-refills", covers=["LIM-14", "LIM-13"], needs=["pubsub"], slow=True)
async def rate_refills(t: Test) -> None:
    """After `retry_ms` without frames there is a token, and after half the period half the bucket."""
    alice, count, per_second = await rated_session(t)
    channel = t.channel()
    await use_up(t, alice, count)
    frames = [alice.frame("publish", channel=channel, data=n) for n in range(count + 5)]
    await alice.pipeline(*frames)
    calls = [alice.exchange(frame) for frame in frames]
    for call in calls:
        await t.must(call.terminal())
    limited = [call for call in calls if is_limited(call)]
    t.that(bool(limited), "not one exchange beyond the bucket was refused", requirement="LIM-10")
    error = limited[-1].frames[-1]["error"]
    retry = error.get("retry_ms") if isinstance(error, dict) else None
    if isinstance(retry, int) and retry > 0:
        await t.sit_out(retry / 1000, "the retry_ms of rate_limited")
        again = await alice.start("publish", channel=channel, data=1)
        await t.must(again.result(), hint="`retry_ms` has to reach to the next token")
    tokens = count // 2
    await t.sit_out(tokens / per_second, f"the time in which {tokens} tokens come")
    for _ in range(tokens - 1):
        call = await alice.start("publish", channel=channel, data=1)
        await t.must(call.result(), requirement="LIM-13", hint="refill evenly, not once in a period")


@check("lim/rate-bucket-has-a-brim", covers="LIM-10", needs=["pubsub"], slow=True)
async def rate_bucket_has_a_brim(t: Test) -> None:
    """A session that was idle has `rate.count` tokens, not more."""
    alice, count, per_second = await rated_session(t)
    await t.sit_out(count / per_second * 1.5, "more than the period of the rate")
    channel, before = t.channel(), t.now()
    frames = [alice.frame("publish", channel=channel, data=n) for n in range(2 * count + 10)]
    await alice.pipeline(*frames)
    calls = [alice.exchange(frame) for frame in frames]
    for call in calls:
        await t.must(call.terminal(), requirement="RPC-01")
    accepted = sum(not is_limited(call) for call in calls)
    t.that(
        accepted <= count + (t.now() - before) * per_second + 1,
        f"{accepted} frames at once were within a rate of {count}",
        hint="the bucket never holds more than `count` tokens",
    )
