"""One session, several connections at once: `spec/07-resume.md`, takeovers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.client import dumps
from holdfast_conformance.expect import StalledError
from holdfast_conformance.frames import Opcode, encode
from holdfast_conformance.lives import ask
from holdfast_conformance.traffic import RECEIVE_BUFFER, Push, account, pour, reached, roomy, upcoming

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SLACK = 1.0
"""Seconds, before scaling, in which a server that waits for nobody has answered."""

FLOOD = 4000
"""Pings that surely fill what lies between a server that does not read and us."""


@check("res/takeover", covers=["RES-30", "RES-32", "RES-27"], needs=["resume", "pubsub"])
async def takeover(t: Test) -> None:
    """A session is taken over from a living connection, which closes with 4008 and gets nothing more."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await sub.gets(await t.emit(channel, by=bob))
    new = await t.resume(alice)
    later = [await t.emit(channel, by=bob) for _ in range(3)]
    for event in later:
        await t.must(
            sub.gets(event), requirement="RES-32", hint="the newest connection gets the session's frames"
        )
    await t.closes(alice, 4008, hint="superseded: the session has a newer connection")
    late = [frame for frame in alice.find("event") if frame.get("data") in [event.data for event in later]]
    t.that(
        not late,
        "the older connection got a frame too",
        frame=late[0] if late else None,
        requirement="RES-32",
    )
    await t.alive(new)


@check("res/takeover-waits-for-nobody", covers="RES-33", needs=["resume"])
async def takeover_waits_for_nobody(t: Test) -> None:
    """A resume is answered although the older connection neither reads nor answers a close frame."""
    alice = await t.session(name="alice", receive_buffer=RECEIVE_BUFFER)
    alice.answer_close = False
    alice.pause_reading()
    begin = t.now()
    new = await t.resume(alice)
    took = t.now() - begin
    if took > SLACK and t.bench.clock.stalled(begin, t.now()):
        raise StalledError
    hint = "a connection that is dead never answers: write welcome first"
    t.that(took < SLACK * t.bench.clock.scale, f"the resume was answered after {took:.1f} s", hint=hint)
    await t.alive(new)
    alice.resume_reading()


@check("res/old-input-dies", covers=["RES-31", "RES-27"], needs=["resume", "pubsub"])
async def old_input_dies(t: Test) -> None:
    """What arrives on the older connection after the welcome of the newer one is not acted on."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    await bob.subscribe(channel)
    await t.control(bob.gets(await t.emit(channel, by=alice)))
    last_id = 1
    alice.answer_close = False
    new = await t.resume(alice)
    t.equal(new.welcome.get("last_id"), last_id, "`last_id`", frame=new.welcome, requirement="RES-27")
    ghost = upcoming(t, channel)
    await alice.send({"type": "publish", "id": last_id + 1, "channel": channel, "data": ghost.data})
    await new.ping()
    await t.must_not(bob.gets(ghost), hint="drop what an older connection still brings")
    event = upcoming(t, channel)
    call = await new.start("publish", channel=channel, data=event.data, id=last_id + 1)
    await t.must(call.result(), hint="an id that only the older connection used is free")
    await t.must(bob.gets(event))


@check("res/half-a-frame", covers="RES-31", needs=["resume", "pubsub"])
async def half_a_frame(t: Test) -> None:
    """A frame that the older connection has sent half of when the session is taken over never runs."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    await bob.subscribe(channel)
    await t.control(bob.gets(await t.emit(channel)))
    alice.answer_close = False
    ghost = upcoming(t, channel)
    frame = {"type": "publish", "id": 1, "channel": channel, "data": ghost.data}
    raw = encode(Opcode.TEXT, dumps(frame).encode())
    await alice.send_raw_bytes(raw[:-9])
    new = await t.resume(alice)
    t.equal(new.welcome.get("last_id"), 0, "`last_id`", frame=new.welcome)
    await alice.send_raw_bytes(raw[-9:])
    await new.ping()
    await t.must_not(bob.gets(ghost))
    await t.must(bob.gets(await t.emit(channel, by=new)), hint="its id was not used")


@check(
    "res/unread-input-dies",
    covers="RES-31",
    needs=["resume", "pubsub"],
    intrusive=True,
    serial=True,
)
async def unread_input_dies(t: Test) -> None:
    """What lies unread, or read and not applied, behind a client that does not read dies with a takeover."""
    alice = await t.session(name="alice", receive_buffer=RECEIVE_BUFFER)
    bob = await t.session(name="bob")
    channel = t.channel()
    roomy(t, await bob.subscribe(channel), 4)
    await t.control(bob.gets(await t.emit(channel)))
    ghosts = [upcoming(t, channel) for _ in range(min(3, alice.limit("max_inflight")))]
    frames = [alice.frame("publish", channel=channel, data=ghost.data) for ghost in ghosts]
    alice.pause_reading()
    async with trio.open_nursery() as nursery:
        push = Push(t, alice, lambda n: [{"type": "ping", "t": f"{n:064}"}], FLOOD)
        await push.until_blocked(nursery)
        nursery.start_soon(alice.pipeline, *frames)
        new = await t.resume(alice)
        alice.resume_reading()
        await t.quiet("time for what lay unread to be acted on")
        nursery.cancel_scope.cancel()
    last_id = new.welcome["last_id"]
    assert isinstance(last_id, int)
    await runs_once(t, new, bob, frames, last_id)


@check("res/racing-requests", covers=["RES-31", "RES-27"], needs=["resume", "pubsub"])
async def racing_requests(t: Test) -> None:
    """A frame that races with a takeover runs at most once, and `last_id` tells whether it did."""
    session, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await bob.subscribe(channel)
    many = max(1, min(6, session.limit("max_inflight") // 2))
    roomy(t, sub, many + 1)
    for round in range(8):
        frames = [session.frame("publish", channel=channel, data=t.payload()) for _ in range(many)]
        async with trio.open_nursery() as nursery:
            before = session
            if round % 2:
                await before.pipeline(*frames)
            else:
                nursery.start_soon(before.pipeline, *frames)
            session = await t.resume(before)
        last_id = session.welcome["last_id"]
        assert isinstance(last_id, int)
        await runs_once(t, session, bob, frames, last_id)


async def runs_once(
    t: Test, session: Session, witness: Session, frames: Sequence[Mapping[str, object]], last_id: int
) -> None:
    """Send again the publishes above `last_id`, and assert that the witness gets each of them once."""
    calls = [session.exchange(frame) for frame in frames]
    await session.pipeline(*(frame for frame in frames if int(str(frame["id"])) > last_id))
    for call in calls:
        await t.must(call.result(), requirement="RPC-01")
    marker = await t.emit(str(frames[0]["channel"]), by=session)
    await witness.gets(marker)
    for frame in frames:
        came = [got for got in witness.frames if got.get("data") == frame["data"]]
        accepted = int(str(frame["id"])) <= last_id
        t.that(
            len(came) == 1,
            f"publish {frame['id']} ran {len(came)} times; welcome said last_id {last_id}, so it was "
            + ("not sent again" if accepted else "sent again"),
            frame=came[-1] if came else session.welcome,
            hint="stop applying frames of the older connection in the moment in which last_id is read",
        )


@check("res/ten-takeovers", covers=["RES-30", "RES-29", "RES-32"], needs=["resume", "pubsub"])
async def ten_takeovers(t: Test) -> None:
    """Ten takeovers in a row amid a stream of events: each event comes once, each older connection ends."""
    session, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await session.subscribe(channel)
    total = 150
    older: list[Session] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour_slowly, t, bob, channel, total)
        for _ in range(10):
            older.append(session)
            session = await t.resume(session)
    await t.until(session, reached(sub, total - 1), "the last event", requirement="SUB-05")
    account(t, session.frames, sub, total, hole="RES-29", hint="what was not acknowledged is sent again")
    for peer in older:
        await t.closes(peer, 4008)
    await t.alive(session)


async def pour_slowly(t: Test, publisher: Session, channel: str, count: int) -> None:
    """Publish numbered events a few at a time, so that other things happen between them."""
    for first in range(0, count, 5):
        await pour(t, publisher, channel, min(5, count - first), first=first)


@check("res/two-at-once", covers=["RES-19", "RES-30", "RES-16"], needs=["resume", "pubsub"])
async def two_at_once(t: Test) -> None:
    """Of two resumes at once the one with the higher attempt gets the session, whichever comes first."""
    for first, second in ((1, 2), (2, 1)):
        alice = await t.session(name="alice", acks=False)
        channel = t.channel()
        await alice.subscribe(channel)
        peers = {}
        for attempt in (first, second):
            peers[attempt] = await ask(t, alice, attempt=attempt, name=f"attempt {attempt}")
        welcome = await t.must(peers[2].receives("welcome", resumed=True), hint="the newest attempt wins")
        await t.closes(peers[1], 4008)
        t.equal(welcome.get("session"), alice.welcome["session"], "`session`", frame=welcome)
        event = await t.emit(channel)
        await t.must(peers[2].receives("event", data=event.data), requirement="RES-32")
        await t.closes(alice, 4008, requirement="RES-30")
        await peers[2].close(1000)


@check("res/stale-hello", covers="RES-19", needs=["resume", "pubsub"])
async def stale_hello(t: Test) -> None:
    """A hello that was under way for long does not take the session from the newer connection."""
    alice = await t.session(name="alice")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await alice.cut()
    new = await t.resume(alice, attempt=2)
    stale = await ask(t, new, attempt=1, name="stale")
    await t.closes(stale, 4008)
    await t.must(sub.gets(await t.emit(channel)), hint="a stale hello changes nothing")
    await t.alive(new)


@check("res/second-hello", covers="SES-03", needs=["resume"])
async def second_hello(t: Test) -> None:
    """A second hello on a connection, which resumes the very session, closes with 4002."""
    alice = await t.session(name="alice")
    resume = {"session": alice.welcome["session"], "seq": 0, "attempt": 1}
    await alice.send(t.hello(alice.identity, profiles=sorted(alice.profiles), resume=resume))
    await t.closes(alice, 4002)


@check("res/acks-after-takeover", covers="DEL-26", needs=["resume", "pubsub"])
async def acks_after_takeover(t: Test) -> None:
    """Right after a resume an ack of everything sent is good, and one above it closes with 4004."""
    alice = await t.session(name="alice", acks=False)
    await alice.subscribe(t.channel())
    new = await t.resume(alice, acks=False)
    await new.ack(1)
    await t.alive(new)
    await new.ack(2)
    await t.closes(new, 4004, hint="the numbers belong to the session")
