"""A session that goes on after a cut: `spec/07-resume.md`, accepted resumes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.frames import Opcode, close_payload, encode
from holdfast_conformance.lives import pause, secluded, tight_session
from holdfast_conformance.logs import arrived
from holdfast_conformance.traffic import account, number, pour, reached, roomy, script, upcoming

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_conformance.case import Frame

LONG = 60000
"""Milliseconds that a request is held when it has to outlive the check."""

NAMES = 32
"""Sessions whose names are compared."""

UUID4 = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
"""A random UUID, which has 122 random bits."""

BITS = 90
"""Names that vary in fewer bits than this are not random enough, however few were seen; see `variety`."""


@check("res/welcome-names-the-session", covers=["RES-01", "RES-04"], needs=["resume"])
async def welcome_names_the_session(t: Test) -> None:
    """A welcome without a resume gives a new session its name, with `resumed:false` and no `resume_error`."""
    alice = await t.session(name="alice")
    t.that(isinstance(alice.welcome.get("session"), str), "welcome has no `session`", frame=alice.welcome)
    t.that("resumed" in alice.welcome.body, "welcome has no `resumed`", frame=alice.welcome)
    t.equal(alice.welcome.get("resumed"), False, "`resumed`", frame=alice.welcome, requirement="RES-04")
    t.that(
        "resume_error" not in alice.welcome.body,
        "welcome tells of a resume that nobody asked for",
        frame=alice.welcome,
        requirement="RES-04",
    )


@check("res/names-are-drawn", covers=["RES-03", "RES-02"], needs=["resume"])
async def names_are_drawn(t: Test) -> None:
    """The names of sessions never repeat, and vary as much as random names do."""
    names: list[str] = []
    for _ in range(NAMES):
        session = await t.session(name="one")
        name = str(session.welcome["session"])
        t.that(name not in names, "two sessions got one name", frame=session.welcome, requirement="RES-02")
        names.append(name)
        await session.leave()
    bits = variety(names)
    hint = "draw at least 16 bytes with the random numbers for keys"
    t.that(bits >= BITS, f"the names of {NAMES} sessions vary in {bits:.0f} bits at most", hint=hint)
    t.that(
        not all(map(UUID4.fullmatch, names)), "the names are UUIDs, of which 122 bits are random", hint=hint
    )


def variety(names: Sequence[str]) -> float:
    """Return how many bits some names differ in: for each byte, the logarithm of the values seen there.

    Of a few dozen random names it is less than what was drawn, as not every value has come up yet: no less
    than 100 bits of 128.
    """
    columns = zip(*(name.encode() for name in names), strict=False)
    return sum(math.log2(len(set(column))) for column in columns)


@check("res/clean-resume", covers=["RES-27", "RES-05", "RES-38"], needs=["resume", "pubsub"])
async def clean_resume(t: Test) -> None:
    """After a cut a resume gives the session back: its name, its `last_id`, its subscriptions, its ids."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await sub.gets(await t.emit(channel, by=bob))
    other = await alice.start("subscribe", channel=t.channel(), id=40)
    await other.opened()
    await alice.cut()
    meanwhile = await t.emit(channel, by=bob)
    new = await t.resume(alice)
    t.equal(new.welcome.get("session"), alice.welcome["session"], "`session`", frame=new.welcome)
    t.equal(
        new.welcome.get("last_id"),
        40,
        "`last_id`",
        frame=new.welcome,
        hint="the highest id that was consumed, refused ones and holes included",
    )
    t.that("resume_error" not in new.welcome.body, "it was accepted with a resume_error", frame=new.welcome)
    await t.must(sub.gets(meanwhile), requirement="RES-38")
    await t.must(sub.gets(await t.emit(channel, by=bob)), hint="a subscription goes on after a resume")
    later = await new.start("subscribe", channel=t.channel())
    t.equal(later.id, 41, "the next id")
    await t.must(later.opened())
    await new.send({"type": "subscribe", "id": 40, "channel": channel})
    await t.closes(new, 4003, requirement="ENV-17", hint="ids go on where they were, not at 1")


@check("res/nothing-received-yet", covers="RES-27", needs=["resume"])
async def nothing_received_yet(t: Test) -> None:
    """A session in which nothing has happened is resumed with `seq` 0, and has the `last_id` 0."""
    alice = await t.session(name="alice")
    await pause(alice)
    new = await t.resume(alice)
    t.equal(new.welcome.get("last_id"), 0, "`last_id`", frame=new.welcome)
    await t.alive(new)


@check("res/unacknowledged-again", covers=["RES-29", "RES-28"], needs=["resume", "pubsub"])
async def unacknowledged_again(t: Test) -> None:
    """Frames above `seq` come again, with their numbers and their content, before anything new."""
    alice, bob = await t.session(name="alice", acks=False), await t.session(name="bob")
    if alice.limit("window") < 8:
        raise t.unverified("the window is too small to leave some frames without an ack")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    for _ in range(3):
        await sub.gets(await t.emit(channel, by=bob))
    await alice.publish(channel, t.payload())
    refused = await alice.start("publish", channel=channel, malformed=True)
    await refused.error("bad_request")
    await alice.fence()
    had = numbered(alice.frames)
    await alice.cut()
    new = await t.resume(alice, seq=2)
    fresh = await new.start("subscribe", channel=t.channel())
    marker = await t.must(fresh.opened())
    t.equal(
        [frame.get("seq") for frame in new.resent],
        [frame.get("seq") for frame in had[2:]],
        "the numbers of the frames that come again after a resume from 2",
        hint="keep every frame as it was numbered until it is acknowledged, and write those again first",
    )
    for before, again in zip(had[2:], new.resent, strict=True):
        t.equal(again.body, before.body, f"frame {before.get('seq')}, sent again,", frame=again)
    t.that(new.resent[-1].entry < marker.entry, "a new frame came before those sent again", frame=marker)
    t.equal(marker.get("seq"), len(had) + 1, "the number of the first new frame", requirement="DEL-21")


def numbered(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames that have a number."""
    return [frame for frame in frames if "seq" in frame.body]


@check("res/seq-acknowledges", covers="RES-28", needs=["resume", "pubsub"])
async def seq_acknowledges(t: Test) -> None:
    """The `seq` of a resume opens a closed window, and what it covers does not come again."""
    alice = await t.session(name="alice", acks=False, hello={"limits": {"window": 3}})
    window = alice.limit("window")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    roomy(t, sub, window)
    events = [await t.emit(channel) for _ in range(2 * window - 1)]
    for event in events[: window - 1]:
        await sub.gets(event)
    await alice.cut()
    new = await t.resume(alice, acks=False)
    hint = "a resume acknowledges everything up to its `seq`"
    for event in events[window - 1 :]:
        await t.must(sub.gets(event), hint=hint)
    t.that(not new.resent, f"frame {new.resent and new.resent[0].get('seq')} came again", hint=hint)


@check("res/welcome-lost", covers=["RES-29", "RES-19"], needs=["resume", "pubsub"])
async def welcome_lost(t: Test) -> None:
    """A resume whose answer is lost can be repeated, and gives the same."""
    alice, bob = await t.session(name="alice", acks=False), await t.session(name="bob")
    if alice.limit("window") < 4:
        raise t.unverified("the window is too small to leave some frames without an ack")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    for _ in range(2):
        await sub.gets(await t.emit(channel, by=bob))
    had = numbered(alice.frames)
    await alice.cut()
    for wait in (True, False, True):
        lost = await t.resume(alice, seq=0, acks=False, name="lost") if wait else await t.connect(name="lost")
        if not wait:
            alice.attempt += 1
            resume = {"session": alice.welcome["session"], "seq": 0, "attempt": alice.attempt}
            await lost.send(t.hello(alice.identity, profiles=sorted(alice.profiles), resume=resume))
        await lost.abort()
    new = await t.resume(alice, seq=0, attempt=4)
    marker = await t.must((await new.start("subscribe", channel=t.channel())).opened())
    again = [(frame.get("seq"), frame.get("data")) for frame in new.resent]
    t.that(
        again == [(frame.get("seq"), frame.get("data")) for frame in had],
        f"after a lost welcome {len(again)} frames came again, or others than the {len(had)} before",
        frame=marker,
    )


@check("res/queued-while-suspended", covers=["RES-38", "RES-05"], needs=["resume", "pubsub"])
async def queued_while_suspended(t: Test) -> None:
    """What is published while a session is suspended is delivered after its resume, in order."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    many = max(1, min(30, alice.limit("queue") // 2))
    await pour(t, bob, channel, 3)
    await t.until(alice, reached(sub, 2), "the events before the cut", requirement="SUB-05")
    await pause(alice)
    await pour(t, bob, channel, many, first=3)
    new = await t.resume(alice)
    await pour(t, bob, channel, 3, first=3 + many)
    await t.until(new, reached(sub, many + 5), "the last event", requirement="SUB-05")
    account(t, new.frames, sub, many + 6, hole="RES-38")


@check(
    "res/overflow-while-suspended", covers=["RES-38", "DEL-03"], needs=["resume", "pubsub"], intrusive=True
)
async def overflow_while_suspended(t: Test) -> None:
    """More events than fit into the queue of a suspended session leave one gap that counts the lost ones."""
    profiles = [name for name in ("pubsub", "fence", "ack", "resume") if name in t.bench.offered]
    tight, bob = await tight_session(t, profiles=profiles), await t.session(name="bob")
    channel, queue = t.channel(), tight.limit("queue")
    sub = await tight.subscribe(channel)
    await pause(tight)
    await pour(t, bob, channel, 2 * queue + 3)
    new = await t.resume(tight)
    await new.subscribe(t.channel())  # its `open` comes behind everything that was queued
    await pour(t, bob, channel, 1, first=2 * queue + 3)
    await t.until(new, arrived(sub, 2 * queue + 3), "the newest event", requirement="SUB-05")
    kept = account(t, new.frames, sub, 2 * queue + 4, hole="DEL-03")
    hint = "a suspended session is a client that does not read: the same bounds hold"
    t.that(len(kept.gaps) == 1, f"there are {len(kept.gaps)} gaps", hint=hint, requirement="DEL-03")


@check(
    "res/work-goes-on",
    covers=["RES-07", "RES-38"],
    needs=["resume", "rpc", "pubsub", "script:hold", "script:emit", "script:reply"],
)
async def work_goes_on(t: Test) -> None:
    """A request that runs when its session is suspended goes on, and its result is delivered once."""
    alice, bob = await t.session(secluded(t), name="carol"), await t.session(name="bob")
    if alice.limit("resume_ms") < 1000 * t.bench.clock.scale:
        raise t.unverified("resume_ms is too short for work to go on while the session is suspended")
    channel, answer = t.channel(), t.payload()
    await bob.subscribe(channel)
    proof = upcoming(t, channel)
    call = await alice.run(["hold", 100], ["emit", channel, proof.data], ["reply", {"data": answer}])
    await alice.ping()
    await pause(alice)
    await t.must(bob.gets(proof), hint="a running request belongs to the session, not to the connection")
    new = await t.resume(alice)
    await t.must(call.result(data=answer), requirement="RES-38")
    await new.subscribe(t.channel())
    await new.ack()
    await new.ping()
    await pause(new)
    newest = await t.resume(new)
    await newest.subscribe(t.channel())
    ends = [frame for frame in newest.frames + newest.resent if frame.get("id") == call.id]
    t.equal(len(ends), 1, "the number of results", frame=ends[-1], requirement="RPC-01")


@check(
    "res/timeout-while-suspended",
    covers="RES-08",
    needs=["resume", "rpc", "pubsub", "script:hold"],
    slow=True,
)
async def timeout_while_suspended(t: Test) -> None:
    """A request whose `timeout_ms` passes while its session is suspended has ended by then."""
    alice = await t.session(secluded(t), name="carol")
    margin = t.bench.clock.scale
    if alice.limit("resume_ms") < 1000 * (0.5 + 2 * margin):
        raise t.unverified("resume_ms is too short to see a timeout pass while the session is suspended")
    call = await script(alice, ["hold", LONG], timeout_ms=200)
    await alice.ping()
    await pause(alice)
    await t.sit_out(0.2 + margin, "the timeout of the request")
    new = await t.resume(alice)
    marker = await (await new.start("subscribe", channel=t.channel())).opened()
    end = await t.must(call.error("deadline_exceeded"), hint="a suspended session does not stop its clocks")
    t.that(end.entry < marker.entry, "the request ended only after the resume", frame=end)


@check("res/stream-goes-on", covers=["RES-07", "RES-29"], needs=["resume", "rpc", "script:stream"])
async def stream_goes_on(t: Test) -> None:
    """The chunks of a stream are complete and in order, although the connection is cut twice amid them."""
    session: Session = await t.session(name="alice")
    call = await script(session, ["stream", 12, 10], stream=True)
    for n, leave in ((2, Session.cut), (7, pause)):
        await call.chunk(data={"n": n})
        await leave(session)
        session = await t.resume(session)
    await t.must(call.result())
    chunks = [number(frame) for frame in call.frames if frame.type == "chunk"]
    t.equal(chunks, list(range(12)), "the chunks", requirement="RES-29")


@check(
    "res/cancel-before-the-cut",
    covers=["RPC-06", "RPC-07", "RES-38", "RPC-09"],
    needs=["resume", "rpc", "pubsub", "script:hold"],
)
async def cancel_before_the_cut(t: Test) -> None:
    """A cancel that arrives right before the end of the connection holds, and may be sent again."""
    alice = await t.session(name="alice")
    channel = t.channel()
    sub, call = await alice.subscribe(channel), await alice.run(["hold", LONG])
    cancels = [{"type": "cancel", "of": sub.id}, {"type": "cancel", "of": call.id}]
    await alice.pipeline(*cancels, encode(Opcode.CLOSE, close_payload(1001)))
    await alice.wait_closed()
    new = await t.resume(alice)
    await t.must(call.terminal(), hint="what was cancelled ends, connected or not")
    await t.must(sub.result(), requirement="RPC-07")
    await new.pipeline(*cancels)
    await t.alive(new, requirement="RPC-09", hint="a cancel of what has ended is ignored")
    other = await new.subscribe(channel)
    ghost = await t.emit(channel)
    await t.must(other.gets(ghost), requirement="SUB-05")
    ends = [frame for frame in new.frames if frame.get("id") in (sub.id, call.id) and frame.type != "open"]
    t.equal(len(ends), 2, "the number of frames of two cancelled exchanges", requirement="RPC-09")


@check("res/cancel-again", covers="RPC-06", needs=["resume", "rpc", "pubsub", "script:hold"])
async def cancel_again(t: Test) -> None:
    """A cancel that the cut swallowed is sent again after the resume, and ends the exchange."""
    alice = await t.session(name="alice")
    sub, call = await alice.subscribe(t.channel()), await alice.run(["hold", LONG])
    await alice.ping()
    await alice.cut()
    new = await t.resume(alice)
    await new.pipeline({"type": "cancel", "of": sub.id}, {"type": "cancel", "of": call.id})
    await t.must(sub.result(), requirement="RPC-07")
    await t.must(call.terminal())


@check("res/limits-stay", covers="RES-37", needs=["resume", "pubsub"])
async def limits_stay(t: Test) -> None:
    """The limits of a session hold for its life, whatever the hello of a resume asks for."""
    alice = await t.session(name="alice")
    size = 6000
    if alice.limit("max_frame") < 2 * size:
        raise t.unverified("max_frame is so small that no client can ask for less")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await pause(alice)
    new = await t.resume(alice, hello={"limits": {"max_frame": 4096, "window": 1}})
    t.equal(new.welcome["limits"], alice.welcome["limits"], "`limits`", frame=new.welcome)
    event = await t.emit(channel, {"pad": "x" * size})
    await t.must(sub.gets(event), hint="the max_frame that counts is that of the first hello")


@check("res/echo-after-resume", covers="SUB-15", needs=["resume", "pubsub"])
async def echo_after_resume(t: Test) -> None:
    """After a resume `echo:false` still keeps an event from the publishing session's own subscriptions."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await bob.subscribe(channel)
    await alice.cut()
    new = await t.resume(alice)
    await t.control(sub.gets(await t.emit(channel, by=new)))
    ghost = await t.emit(channel, by=new, echo=False)
    await bob.gets(ghost)
    await t.must_not(sub.gets(ghost), hint="the publisher is the session, on whichever connection")
