"""The envelope: `spec/02-envelope.md`.

Single frames with a single fault are wire vectors; here is what needs several connections or a certain state.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from holdfast_conformance.case import Exchange, Expectation, Frame, Session, Test, check, without
from holdfast_conformance.traffic import roomy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

LONG = 60000
"""Milliseconds that a request is held when it has to outlive the check."""


@check("env/id-twice-in-one-segment", covers="ENV-17", needs=["rpc", "method:echo"])
async def id_twice_in_one_segment(t: Test) -> None:
    """Of two requests with one id that arrive together, the second closes the connection with 4003."""
    alice = await t.session("alice")
    await alice.request(t.method("echo"), data=t.payload())
    call = alice.frame("request", method=t.method("echo"), data=t.payload())
    await alice.pipeline(call, call | {"data": t.payload()})
    await t.closes(alice, 4003, hint="raise last_id when you read a frame, not when its work begins")


@check("env/ids-of-refusals-are-consumed", covers="ENV-23", needs=["rpc", "pubsub", "method:echo"])
async def ids_of_refusals_are_consumed(t: Test) -> None:
    """The id of a frame that was refused for what it asks cannot be used again."""
    refused: list[dict[str, object]] = [{"type": "request", "method": f"no.{t.random.getrandbits(40):x}"}]
    if "forbidden" in t.bench.target.methods:
        refused.append({"type": "request", "method": t.method("forbidden")})
    if "forbidden" in t.bench.target.channels:
        refused.append({"type": "subscribe", "channel": t.channel("forbidden")})
        refused.append({"type": "publish", "channel": t.channel("forbidden"), "data": t.payload()})
    for frame in refused:
        alice = await t.session("alice")
        sent = {"type": frame["type"], "id": t.random.randrange(1, 1 << 40)} | frame
        await alice.send(sent)
        await alice.exchange(sent).error()
        await alice.start("request", id=sent["id"], method=t.method("echo"))
        await t.closes(alice, 4003, hint="consume the id before you look at what the frame asks for")


@check(
    "env/ids-refused-while-draining-are-consumed",
    covers="ENV-23",
    needs=["rpc", "script:drain", "method:echo"],
)
async def ids_refused_while_draining_are_consumed(t: Test) -> None:
    """The id of a frame that was refused with `draining` cannot be used again."""
    alice = await t.session("alice")
    await drained(alice)
    call = await alice.start("request", method=t.method("echo"), data=t.payload())
    await t.must(call.error("draining"), requirement="SES-40")
    await alice.start("request", id=call.id, method=t.method("echo"))
    await t.closes(alice, 4003)


@check(
    "env/refusals-leave-the-rest-alone",
    covers="ENV-24",
    needs=["rpc", "pubsub", "script:reply", "method:echo"],
)
async def refusals_leave_the_rest_alone(t: Test) -> None:
    """Refused frames of all kinds leave the connection, a running request and a subscription as they are."""
    alice = await t.session("alice", profiles=without("history"))
    channel, answer = t.channel(), t.payload()
    sub = await alice.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel)))
    running = await alice.run(["reply", {"data": answer, "after_ms": 150}])
    for fields, code in (
        ({"type": f"x{t.random.getrandbits(32):x}.nothing"}, "unsupported"),
        ({"type": "history", "channel": channel}, "unsupported"),
        ({"type": "subscribe", "channel": channel, "since": "nowhere"}, "unsupported"),
        ({"type": "request"}, "bad_request"),
        ({"type": "publish", "channel": channel}, "bad_request"),
        ({"type": "subscribe", "channel": ""}, "bad_request"),
        ({"type": "request", "method": t.method("echo"), "enc": "base64", "data": "?"}, "bad_request"),
        ({"type": "auth", "token": f"nobody-{t.random.getrandbits(64):x}"}, "unauthenticated"),
    ):
        refused = await start(alice, fields)
        await t.must(
            refused.error(code), hint="a fault from step 8 of the reading order costs one exchange only"
        )
    await t.must(sub.gets(await t.emit(channel)), hint="the subscription was open all the time")
    await t.must(running.result(data=answer), hint="the request was running all the time")


@check("env/order-while-draining", covers="ENV-05", needs=["rpc", "script:drain", "method:echo"])
async def order_while_draining(t: Test) -> None:
    """On a draining connection, faults of the frame come before `draining`, and all else after it."""
    alice = await t.session("alice", profiles=without("history"))
    await drained(alice)
    before: list[tuple[dict[str, object], str]] = [
        ({"type": f"x{t.random.getrandbits(32):x}.nothing"}, "unsupported"),
        ({"type": "history", "channel": t.channel()}, "unsupported"),
        ({"type": "request"}, "bad_request"),
        ({"type": "request", "method": t.method("echo"), "timeout_ms": 0}, "bad_request"),
    ]
    after: list[tuple[dict[str, object], str]] = [
        ({"type": "request", "method": t.method("echo")}, "draining"),
        ({"type": "request", "method": f"no.{t.random.getrandbits(40):x}"}, "draining"),
    ]
    if "forbidden" in t.bench.target.methods:
        after.append(({"type": "request", "method": t.method("forbidden")}, "draining"))
    for fields, code in before + after:
        refused = await start(alice, fields)
        await t.must(
            refused.error(code), hint="the order of the codes: unsupported, bad_request, ..., draining"
        )
    await alice.send({"type": "cancel", "of": alice.next_id() + 10})
    await t.closes(alice, 4003, requirement="ENV-18")


@check("env/order-with-full-slots", covers="ENV-05", needs=["rpc", "script:hold", "method:echo"])
async def order_with_full_slots(t: Test) -> None:
    """With every slot taken, faults of the frame come before `limit_exceeded`, and all else after it."""
    alice = await t.session(few_slots(t))
    for _ in range(slots(t, alice)):
        await alice.run(["hold", LONG])
    cases: list[tuple[dict[str, object], str]] = [
        ({"type": "request", "method": t.method("echo")}, "limit_exceeded"),
        ({"type": f"x{t.random.getrandbits(32):x}.nothing"}, "unsupported"),
        ({"type": "request"}, "bad_request"),
        ({"type": "request", "method": f"no.{t.random.getrandbits(40):x}"}, "limit_exceeded"),
    ]
    if "forbidden" in t.bench.target.methods:
        cases.append(({"type": "request", "method": t.method("forbidden")}, "limit_exceeded"))
    for fields, code in cases:
        refused = await start(alice, fields)
        await t.must(
            refused.error(code),
            hint="unsupported, bad_request, ..., limit_exceeded, ..., forbidden, not_found",
        )


@check(
    "env/order-draining-before-limit",
    covers="ENV-05",
    needs=["rpc", "script:hold", "script:drain", "method:echo"],
)
async def order_draining_before_limit(t: Test) -> None:
    """On a draining connection with every slot taken, a new request is answered with `draining`."""
    alice = await t.session(few_slots(t))
    for _ in range(slots(t, alice) - 1):
        await alice.run(["hold", LONG])
    await alice.run(["drain", LONG], ["hold", LONG])
    await alice.receives("goaway")
    refused = await alice.start("request", method=t.method("echo"))
    await t.must(refused.error("draining"))


@check("env/order-around-rate-limited", covers="ENV-05", needs=["rpc", "identity:limited"])
async def order_around_rate_limited(t: Test) -> None:
    """Without a token, faults of the frame come before `rate_limited`, and all else after it."""
    limited = await t.session("limited")
    limits = limited.welcome["limits"]
    rate = limits.get("rate") if isinstance(limits, dict) else None
    if not isinstance(rate, dict):
        raise t.not_applicable("welcome advertises no rate")
    limited.paced = False
    nothing = f"x{t.random.getrandbits(32):x}.nothing"
    unknown = [limited.frame(nothing) for _ in range(2 * int(rate["count"]))]
    broken = [limited.frame("request") for _ in range(3)]
    asking = [limited.frame("request", method=f"no.{t.random.getrandbits(40):x}") for _ in range(10)]
    await limited.pipeline(*unknown, *broken, *asking, malformed=True)
    for frame in unknown:
        await t.must(limited.exchange(frame).error("unsupported"))
    for frame in broken:
        await t.must(limited.exchange(frame).error("bad_request"))
    # A token may come back in between, but not for all of them.
    answers = [
        await limited.exchange(frame).error("rate_limited", "not_found", "forbidden") for frame in asking
    ]
    t.that("rate_limited" in map(code_of, answers), "no request of ten without tokens was rate_limited")


@check("env/random-data-echoed", covers="ENV-28", needs=["rpc", "method:echo"])
async def random_data_echoed(t: Test) -> None:
    """Data of every shape comes back from an echo as it was sent."""
    alice = await t.session("alice")
    for _ in range(20):
        data = random_json(t.random)
        answer = await alice.request(t.method("echo"), data=data)
        t.that(same_data(answer.get("data"), data), "the data differs from what was sent", frame=answer)


@check("env/random-data-published", covers="ENV-28", needs=["pubsub"])
async def random_data_published(t: Test) -> None:
    """Data of every shape reaches a subscriber as it was published."""
    alice, bob = await t.sessions("alice", "bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    for data in (None, "", [], {}, 0, False, *(random_json(t.random) for _ in range(15))):
        await bob.publish(channel, data)
        event = await sub.receives("event")
        t.that("data" in event.body, "the event has no `data`", frame=event, hint="null is a value; carry it")
        t.that(same_data(event["data"], data), "the data differs from what was published", frame=event)


@check("env/number-beyond-binary64", covers="ENV-29", needs=["rpc", "pubsub", "method:echo"])
async def number_beyond_binary64(t: Test) -> None:
    """A number too large for binary64 is carried unchanged or refused, and never becomes something else."""
    alice, bob = await t.sessions("alice", "bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel, by=bob)))
    digits = t.random.randrange(1000, 9999)
    for number in (f"1.{digits}e400", f"-{digits}e396", f"{digits}{'0' * 400}"):
        data = f'{{"n":[{number}]}}'
        calls = (
            (bob.frame("request", method=t.method("echo")), bob),
            (bob.frame("publish", channel=channel), alice),
        )
        for frame, where in calls:
            await bob.send_text(json.dumps(frame)[:-1] + f',"data":{data}}}')
            answer = await bob.exchange(frame).terminal()
            if answer.type == "error":
                t.equal(code_of(answer), "bad_request", "the code of the refusal", frame=answer)
                continue
            carried = answer if where is bob else await sub.receives("event")
            value = json.loads(carried.text, parse_float=Decimal, parse_int=Decimal, parse_constant=str)[
                "data"
            ]
            t.that(value == {"n": [Decimal(number)]}, f"{number} was not carried unchanged", frame=carried)
    await t.must(
        sub.gets(await t.emit(channel, by=bob)), hint="a refused number leaves the session as it was"
    )


@check("env/lone-surrogate-published", covers="ENV-30", needs=["pubsub"])
async def lone_surrogate_published(t: Test) -> None:
    """A lone surrogate in published data is carried unchanged or refused; nobody sees a third thing."""
    alice, bob = await t.sessions("alice", "bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel, by=bob)))
    for half in ("\ud83d", "\ude00", "\ude00\ud83d"):
        data = {"text": f"{t.random.getrandbits(32):x}{half}"}
        frame = bob.frame("publish", channel=channel)
        await bob.send_text(json.dumps({**frame, "data": data}))
        answer = await bob.exchange(frame).terminal()
        if answer.type == "error":
            t.equal(code_of(answer), "bad_request", "the code of the refusal", frame=answer)
            continue
        event = await sub.receives("event")
        t.that(event.get("data") == data, "the lone surrogate was not carried unchanged", frame=event)
    await t.must(
        sub.gets(await t.emit(channel, by=bob)), hint="a refused string leaves the session as it was"
    )


@check("env/duplicate-names-published", covers=["ENV-10", "ENV-09"], needs=["pubsub"])
async def duplicate_names_published(t: Test) -> None:
    """Published data with two members of one name closes with 4001, or arrives so that the last counts."""
    alice, bob = await t.sessions("alice", "bob")
    channel, last = t.channel(), t.payload()
    sub = await alice.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel)))
    frame = bob.frame("publish", channel=channel)
    twice = f'{{"a":{json.dumps(t.payload())},"a":{json.dumps(last)}}}'
    await bob.send_text(json.dumps(frame)[:-1] + f',"data":{twice}}}')
    answer = await bob.exchange(frame).terminal().wait_or_close()
    if answer is None:
        await t.closes(bob, 4001, hint="close with 4001, or take the last of the members")
        t.note("two members of one name in data: closed with 4001")
        return
    t.equal(answer.type, "result", "the type of the answer", frame=answer)
    event = await t.must(sub.receives("event"))
    # Of two members that the server carried, the last is the one that we read.
    t.equal(event["data"], {"a": last}, "the data of the event", frame=event)
    carried = "both are" if event.text.count('"a"') > 1 else "the last is"
    t.note(f"two members of one name in data: {carried} carried")


@check(
    "env/every-kind-of-frame", covers=["ENV-01", "ENV-02", "ENV-03"], needs=["rpc", "pubsub", "method:echo"]
)
async def every_kind_of_frame(t: Test) -> None:
    """Whatever kind of frame is asked for comes, and the ambient rules find every one of them in order."""
    alice = await t.session("alice", hello={"limits": {"max_frame": 4096}})
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await t.must(sub.gets(await t.emit(channel)))
    if alice.limit("max_frame") > 6000:  # beyond the 4096 of this session, and within that of the publisher
        await t.emit(channel, "x" * 5000)
        await t.must(sub.gap(reason="too_large"))
    await t.must((await alice.start("request", method=t.method("echo"), data=[1])).result(data=[1]))
    await t.must((await alice.start(f"x{t.random.getrandbits(32):x}.y")).error("unsupported"))
    await alice.send({"type": "cancel", "of": sub.id})
    await t.must(sub.result())
    await t.alive(alice)
    steps = t.bench.target.script_steps
    if "stream" in steps:
        stream = await alice.start("request", method=alice.script_method, stream=True, data=[["stream", 2]])
        await t.must(stream.chunk(data={"n": 1}))
        await t.must(stream.result())
    if "drain" in steps:
        await drained(alice)
        await t.must((await alice.start("request", method=t.method("echo"))).error("draining"))


@check("env/enc-delivered", covers="ENV-32", needs=["pubsub"])
async def enc_delivered(t: Test) -> None:
    """Every event of a publish with `enc` carries it, and an event of a publish without it does not."""
    alice, bob, carol = await t.sessions("alice", "bob", "alice")
    channel = t.channel()
    subs = [await session.subscribe(channel) for session in (alice, bob, carol)]
    if "pattern" in alice.profiles:
        subs.append(await alice.subscribe(pattern=f"{channel.rpartition('/')[0]}/*"))
        roomy(t, subs[-1], 2)
    text = "aGVsbG8="
    for fields in ({"enc": "base64"}, {}, {"enc": "base64"}):
        await bob.publish(channel, text, **fields)
        for sub in subs:
            event = await t.must(sub.receives("event", data=text))
            t.equal(event.body.get("enc"), fields.get("enc"), "`enc` of the event", frame=event)


@check("env/meta-of-publish-stays", covers="ENV-33", needs=["pubsub"])
async def meta_of_publish_stays(t: Test) -> None:
    """The `meta` of a publish does not reach its events."""
    alice, bob = await t.sessions("alice", "bob")
    channel, tag = t.channel(), f"{t.random.getrandbits(64):016x}"
    subs = [await session.subscribe(channel) for session in (alice, bob)]
    meta = {"traceparent": f"00-{tag}{tag}-{tag}-01", "conf.secret": tag}
    emitted = await t.emit(channel, by=bob, meta=meta)
    for sub in subs:
        event = await t.must(sub.gets(emitted))
        t.that(
            tag not in json.dumps(event.get("meta")), "the event carries the meta of the publish", frame=event
        )


@check("env/long-names-are-not-cut", covers="ENV-26", needs=["pubsub"])
async def long_names_are_not_cut(t: Test) -> None:
    """Channels with names of 255 bytes work, and two that differ in the last byte alone are two."""
    alice, bob = await t.sessions("alice", "bob")
    stem = t.channel() + "/"
    room = 255 - len(stem.encode())
    one, other = stem + "a" * room, stem + "a" * (room - 1) + "b"
    wide = stem + "ψ" * (room // 2) + "a" * (room % 2)
    subs = {name: await alice.subscribe(name) for name in (one, other, wide)}
    for name in subs:
        await bob.subscribe(name)
    emitted = {name: await t.emit(name) for name in subs}
    for name, sub in subs.items():
        await t.control(sub.gets(emitted[name]))
        await bob.gets(emitted[name])
        await t.must_not(sub.receives("event"), hint="compare whole names", requirement="SUB-09")


@check("env/names-of-objects", covers="ENV-27", needs=["pubsub"])
async def names_of_objects(t: Test) -> None:
    """Channels called `__proto__`, `constructor` and the like are channels, or are refused like others."""
    alice, bob = await t.sessions("alice", "bob")
    for name in ("__proto__", "constructor", "toString", "hasOwnProperty", "__class__", "length", "null"):
        sub = await alice.start("subscribe", channel=name)
        answer = Expectation(alice, f"open or error for {name}", partial(is_open_or_error, sub.id))
        first = await t.must(answer, hint="keep channels in a map, not in the members of an object")
        if first.type == "error":
            t.that(code_of(first) in ("forbidden", "not_found"), f"{name} was refused oddly", frame=first)
            continue
        emitted = await t.emit(name, by=bob)
        await t.must(sub.gets(emitted))
        await alice.cancel(sub)
    await t.alive(alice)


@check("env/names-are-not-normalised", covers=["ENV-27", "SUB-09"], needs=["pubsub"])
async def names_are_not_normalised(t: Test) -> None:
    """Names that look alike, and are not equal, are different channels."""
    alice, bob = await t.sessions("alice", "bob")
    stem = t.channel()
    name = f"{stem}/\u00e9x"
    sub = await alice.subscribe(name)
    await t.control(sub.gets(await t.emit(name)))
    for other in ("e\u0301x", "\u00e9X", "\u00e9x ", "\u00e9x\u0000", "\u00e9x/", "\u00e9"):
        witness = await bob.subscribe(f"{stem}/{other}")
        ghost = await t.emit(f"{stem}/{other}")
        await t.must(bob.gets(ghost), hint="every string of 1 to 255 bytes is a name")
        await t.must_not(alice.gets(ghost), hint="compare names byte by byte")
        await bob.cancel(witness)


def is_open_or_error(id: object, frame: Frame) -> bool:
    """Return whether a frame is the first one of a subscription."""
    return frame.get("id") == id and frame.type in ("open", "error")


async def start(session: Session, fields: Mapping[str, object]) -> Exchange:
    """Start an exchange with a frame that is wrong on purpose."""
    rest = {name: value for name, value in fields.items() if name != "type"}
    return await session.start(str(fields["type"]), malformed=True, **rest)


async def drained(session: Session) -> None:
    """Bring the connection of the session into its drain, with a deadline beyond the end of the check."""
    await (await session.run(["drain", LONG])).result()
    await session.receives("goaway")


def few_slots(t: Test) -> str | None:
    """Return the identity whose slots are quickest to fill."""
    return "limited" if "limited" in t.bench.target.identities else None


def slots(t: Test, session: Session) -> int:
    """Return `max_inflight`, if that many requests can reasonably be started."""
    count = session.limit("max_inflight")
    if count > 500:
        raise t.unverified(f"{count} slots are too many to fill; run the server with a max_inflight of 64")
    return count


def code_of(frame: Frame) -> object:
    """Return `error.code` of a frame, None when it is no error."""
    error = frame.get("error")
    return error.get("code") if isinstance(error, dict) else None


def random_json(random: Random, depth: int = 4) -> object:
    """Return a random JSON value with odd strings, names and numbers."""
    kind = random.randrange(7 if depth else 5)
    match kind:
        case 0:
            return random.choice([None, True, False])
        case 1:
            return random.randrange(-(1 << random.randrange(1, 54)), 1 << random.randrange(1, 54))
        case 2:
            return math.ldexp(random.uniform(-1, 1), random.randrange(-1000, 1000))
        case 3 | 4:
            return random_text(random)
        case 5:
            return [random_json(random, depth - 1) for _ in range(random.randrange(5))]
    return {random_text(random): random_json(random, depth - 1) for _ in range(random.randrange(5))}


def random_text(random: Random) -> str:
    """Return a short string of characters that careless code stumbles over."""
    alphabet = "aZ09 \"\\/<>&'\t\n\r\0\x1b\x7fψée\u0301\u2028\u2029\ufeff\uffff\ufffd😀𝄞"
    return "".join(random.choice(alphabet) for _ in range(random.randrange(12)))


def same_data(a: object, b: object) -> bool:
    """Return whether two JSON values are equal when every number counts as its binary64."""
    numbers = (int, float)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, numbers) and isinstance(b, numbers):
        return float(a) == float(b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_data, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_data(a[name], b[name]) for name in a)
    return type(a) is type(b) and a == b
