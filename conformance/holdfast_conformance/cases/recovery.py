"""Subscriptions that begin in the past: `spec/12-history.md`, recovery."""

from __future__ import annotations

import trio

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.lives import tight_session
from holdfast_conformance.logs import arrived, cursor_of, opened, recovers, row
from holdfast_conformance.traffic import account, pour, reached

# Cursors


@check("his/cursors-on-events", covers=["HIS-01", "HIS-02"], needs=["history"])
async def cursors_on_events(t: Test) -> None:
    """On a channel with a log `open` and each event carry a cursor, from the first moment on."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    frames = [await sub.gets(await t.emit(channel, by=bob)) for _ in range(3)]
    again = await alice.subscribe(channel)
    first, later = opened(sub), opened(again)
    if not any("cursor" in frame.body for frame in (first, later, *frames)):
        raise t.unverified("the channels `open` of the target file have no log")
    hint = "a log has a place before its first event, also while it is empty"
    t.that(
        "cursor" in first.body,
        "the first open on the channel has no cursor",
        frame=first,
        requirement="HIS-02",
        hint=hint,
    )
    t.that("cursor" in later.body, "open has no cursor", frame=later, requirement="HIS-02")
    for frame in frames:
        t.that("cursor" in frame.body, "an event has no cursor although open had one", frame=frame)


@check("his/place-of-open", covers="HIS-02", needs=["history"])
async def place_of_open(t: Test) -> None:
    """The cursor of `open` is the place from which the events of the subscription continue."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    for before in (3, 0):  # in this order: only the first finds out whether a log holds anything
        written = await row(t, alice, before)
        sub = await alice.subscribe(written.channel)
        place = cursor_of(opened(sub), "HIS-02")
        await pour(t, bob, written.channel, 2, first=before)
        other = await recovers(t, bob, written, place, requirement="HIS-02")
        await t.until(bob, reached(other, before + 1), "the events behind open.cursor", requirement="HIS-02")
        account(t, bob.frames, other, before + 2, first=before, hole="HIS-02")


@check("his/cursors-are-shared", covers="HIS-03", needs=["history"])
async def cursors_are_shared(t: Test) -> None:
    """A cursor is good in every session that may subscribe, also when the session that got it has ended."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 4)
    await alice.close(1000)
    await alice.wait_closed()
    for identity in (None, *(name for name in ("bob", "carol") if name in t.bench.target.identities)):
        other = await t.session(identity, name="other")
        hint = "a cursor belongs to the channel and to nobody"
        sub = await recovers(t, other, written, 2, requirement="HIS-03", hint=hint)
        await t.until(other, reached(sub, 3), "the events behind the cursor", requirement="HIS-05")
        account(t, other.frames, sub, 4, first=2, hole="HIS-05")


# Recovery


@check("his/since-any-place", covers="HIS-05", needs=["history"])
async def since_any_place(t: Test) -> None:
    """`since` any place of the log gives exactly what followed, `since` the newest event nothing old."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    many = min(5, alice.limit("max_subscriptions") - 2)
    written = await row(t, alice, many, more=2)
    subs = [await recovers(t, alice, written, n) for n in range(many + 1)]
    place = cursor_of(opened(subs[1]), "HIS-02")
    await pour(t, bob, written.channel, 2, first=many)
    for n, sub in enumerate(subs):
        await t.until(alice, reached(sub, many + 1), "the newest event", requirement="SUB-05")
        account(t, alice.frames, sub, many + 2, first=n, hole="HIS-05")
    twin = await recovers(
        t, bob, written, place, requirement="HIS-02", hint="open.cursor is the place of `since`"
    )
    await t.until(bob, reached(twin, many + 1), "the newest event", requirement="SUB-05")
    account(t, bob.frames, twin, many + 2, first=1, hole="HIS-02")


@check("his/published-meanwhile", covers="HIS-05", needs=["history"])
async def published_meanwhile(t: Test) -> None:
    """What is published while a subscription recovers comes once and in order, whenever that is."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    hint = "what happens between the last event read from the log and the first live one?"
    for before in (0, 1, 3):
        written = await row(t, bob, before)
        frame = alice.frame("subscribe", channel=written.channel, since=written.places[0])
        own = [
            alice.frame("publish", channel=written.channel, data={"n": before + n})
            for n in range(min(4, alice.limit("max_inflight")))
        ]
        await alice.pipeline(frame, *own)
        sub, calls = alice.exchange(frame), [alice.exchange(publish) for publish in own]
        for call in calls:
            await call.result()
        end = before + len(own)
        await t.until(alice, reached(sub, end - 1), "the last event", requirement="HIS-05")
        account(t, alice.frames, sub, end, hole="HIS-05", hint=hint)
        await alice.cancel(sub)
    written = await row(t, bob, 20, more=40)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour_singly, t, bob, written.channel, 20, 60)
        subs = []
        for _ in range(min(4, alice.limit("max_subscriptions"))):
            subs.append(await recovers(t, alice, written, 0))
            await alice.ping()
    for sub in subs:
        await t.until(alice, reached(sub, 59), "the last event", requirement="HIS-05")
        account(t, alice.frames, sub, 60, hole="HIS-05", hint=hint)


async def pour_singly(t: Test, publisher: Session, channel: str, first: int, end: int) -> None:
    """Publish numbered events one after the other, each when the one before it has taken effect."""
    for n in range(first, end, 2):
        await pour(t, publisher, channel, 2, first=n)


@check("his/recovery-behind-a-window", covers=["HIS-05", "HIS-06"], needs=["history", "ack"])
async def recovery_behind_a_window(t: Test) -> None:
    """A recovery that the window holds up goes on with each ack, and meets what was published meanwhile."""
    alice = await t.session(name="alice", acks=False, hello={"limits": {"window": 3}})
    bob = await t.session(name="bob")
    written = await row(t, bob, 6, more=6)
    sub = await recovers(t, alice, written, 0)
    end = 6
    for _ in range(5):
        await pour(t, bob, written.channel, 1, first=end)
        end += 1
        await alice.ack()
    for n in range(end):
        await t.until(alice, reached(sub, n), f"event {n} of the recovery", requirement="HIS-05")
        await alice.ack()
    await pour(t, bob, written.channel, 1, first=end)
    await t.must(
        sub.receives("event", data={"n": end}), requirement="SUB-05", hint="after a recovery it is live"
    )
    account(t, alice.frames, sub, end + 1, hole="HIS-05")


@check("his/long-recovery", covers=["HIS-06", "HIS-05"], needs=["history"], intrusive=True)
async def long_recovery(t: Test) -> None:
    """More events than fit into the queue are recovered without a gap."""
    tight, bob = await tight_session(t), await t.session(name="bob")
    count = tight.limit("queue") + tight.limit("queue") // 2 + 20
    written = await row(t, bob, count, more=2)
    sub = await recovers(t, tight, written, 0)
    await pour(t, bob, written.channel, 2, first=count)
    await t.until(tight, arrived(sub, count + 1), "the newest event", requirement="HIS-06")
    hint = "read from the log as the queue drains; the queue needs room for one event"
    told = account(t, tight.frames, sub, count + 2, hole="HIS-05", hint=hint)
    t.that(not told.gaps, f"a recovery of {count} events has a gap", hint=hint)


@check("his/cut-amid-recovery", covers=["HIS-05", "RES-29"], needs=["history", "resume"])
async def cut_amid_recovery(t: Test) -> None:
    """A recovery that is cut twice goes on with each resume where it was."""
    session = await t.session(name="alice", hello={"limits": {"window": 4}})
    bob = await t.session(name="bob")
    written = await row(t, bob, 30, more=2)
    sub = await recovers(t, session, written, 0)
    for n in (5, 17):
        await t.until(session, reached(sub, n), f"event {n}", requirement="HIS-05")
        await session.cut()
        await pour(t, bob, written.channel, 1, first=30 if n == 5 else 31)
        session = await t.resume(session)
    await t.until(session, reached(sub, 31), "the newest event", requirement="HIS-05")
    account(t, session.frames, sub, 32, hole="HIS-05")


# Recovery that is not possible


async def begins_at_open(
    t: Test, session: Session, channel: str, since: str, reason: str, requirement: str
) -> None:
    """Assert that a subscription is not recovered, for this reason, and is live from its `open.cursor` on."""
    sub = await session.start("subscribe", channel=channel, since=since)
    answer = await t.must(
        sub.opened(), requirement="HIS-07", hint="without `recover` a loss is told, not an error"
    )
    why = requirement if answer.get("recovered") is True else "HIS-07"
    t.equal(answer.get("recovered"), False, "`recovered`", frame=answer, requirement=why)
    t.equal(answer.get("reason"), reason, "`reason`", frame=answer, requirement=requirement)
    event = await t.emit(channel)
    first = await t.must(sub.receives("event"), requirement="HIS-07")
    t.equal(first.get("data"), event.data, "the first event", frame=first, requirement="HIS-07")
    place = answer.get("cursor")
    if isinstance(place, str):
        other = await session.start("subscribe", channel=channel, since=place)
        if (await other.opened()).get("recovered") is True:
            again = await t.must(other.receives("event"), requirement="HIS-07")
            t.equal(
                again.get("data"),
                event.data,
                "the first event behind open.cursor",
                frame=again,
                requirement="HIS-07",
            )
        await session.cancel(other)
    await session.cancel(sub)


@check("his/unknown-cursor", covers=["HIS-10", "HIS-07"], needs=["history"])
async def unknown_cursor(t: Test) -> None:
    """A cursor of another channel, or one that no server made, is `unknown`."""
    alice = await t.session(name="alice")
    written, other = await row(t, alice, 3), await row(t, alice, 3)
    for since in (
        other.places[2],
        other.places[0],
        f"~{t.random.getrandbits(64):x}",
        "\u00e9\U0001f642 %00",
        "-" * 256,
    ):
        await begins_at_open(t, alice, written.channel, since, "unknown", "HIS-10")


@check("his/trimmed-cursor", covers=["HIS-09", "HIS-07"], needs=["history", "rpc", "script:trim"])
async def trimmed_cursor(t: Test) -> None:
    """A cursor before the beginning of the log is `expired`."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 4)
    await (await alice.run(["trim", written.channel])).result()
    await begins_at_open(t, alice, written.channel, written.places[0], "expired", "HIS-09")
    await begins_at_open(t, alice, written.channel, written.places[3], "expired", "HIS-09")
    sub = await alice.subscribe(written.channel, since=written.places[4])
    if opened(sub).get("recovered") is not True:
        t.note("the place at which the log was trimmed empty counts as expired")


@check("his/cursor-of-another-epoch", covers=["HIS-08", "HIS-07"], needs=["history", "rpc", "script:wipe"])
async def cursor_of_another_epoch(t: Test) -> None:
    """A cursor from before the log was started anew is `epoch`."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 4)
    await (await alice.run(["wipe", written.channel])).result()
    for place in (2, 4, 0):
        await begins_at_open(t, alice, written.channel, written.places[place], "epoch", "HIS-08")


@check("his/live-through-a-wipe", covers=["HIS-01", "DEL-01"], needs=["history", "rpc", "script:wipe"])
async def live_through_a_wipe(t: Test) -> None:
    """A live subscription loses nothing when its log is started anew, and has cursors of the new epoch."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    written = await row(t, alice, 2)
    sub = await alice.subscribe(written.channel)
    await pour(t, bob, written.channel, 1)
    await (await bob.run(["wipe", written.channel])).result()
    await pour(t, bob, written.channel, 2, first=1)
    await t.until(alice, reached(sub, 2), "the newest event", requirement="SUB-05")
    kept = account(t, alice.frames, sub, 3)
    t.that(not kept.gaps, "a subscription that lost nothing got a gap", requirement="DEL-01")
    place = cursor_of(sub.frames[-2], "HIS-01")
    other = await bob.subscribe(written.channel, since=place)
    if opened(other).get("recovered") is True:
        await t.until(bob, reached(other, 2), "the event behind the cursor", requirement="HIS-05")
        account(t, bob.frames, other, 3, first=2, hole="HIS-05")


@check("his/no-log", covers=["HIS-12", "HIS-15", "HIS-19"], needs=["history", "channel:unlogged"])
async def no_log(t: Test) -> None:
    """On a channel without a log `since` is `unknown`, and `last` gives nothing old."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel, elsewhere = t.channel("unlogged"), await row(t, alice, 1)
    witness = await alice.subscribe(channel)
    await pour(t, bob, channel, 3)
    await t.until(alice, reached(witness, 2), "the events before", requirement="SUB-05")
    await alice.cancel(witness)  # whatever is old has arrived, also where events come long after results
    for since in (elsewhere.places[0], f"~{t.random.getrandbits(64):x}"):
        sub = await alice.subscribe(channel, since=since)
        answer = opened(sub)
        t.equal(answer.get("recovered"), False, "`recovered`", frame=answer)
        t.equal(answer.get("reason"), "unknown", "`reason`", frame=answer)
        strict = await alice.start("subscribe", channel=channel, since=since, recover="require")
        await t.must(strict.error("unrecoverable"), requirement="HIS-13")
    newest = await alice.subscribe(channel, last=2)
    await pour(t, bob, channel, 1, first=3)
    await t.until(alice, reached(newest, 3), "the live event", requirement="SUB-05")
    account(t, alice.frames, newest, 4, first=3, hole="HIS-15")


@check("his/require", covers=["HIS-13", "HIS-05"], needs=["history"])
async def require(t: Test) -> None:
    """With `recover:"require"` a subscription that cannot be recovered is refused, any other recovered."""
    alice = await t.session(name="alice")
    written, other = await row(t, alice, 3), await row(t, alice, 1)
    bad = [f"~{t.random.getrandbits(64):x}", other.places[0]]
    if "trim" in t.bench.target.script_steps:
        trimmed = await row(t, alice, 3)
        await (await alice.run(["trim", trimmed.channel])).result()
        call = await alice.start(
            "subscribe", channel=trimmed.channel, since=trimmed.places[1], recover="require"
        )
        await t.must(call.error("unrecoverable"), hint="the loss is known before the subscription opens")
    if "wipe" in t.bench.target.script_steps:
        wiped = await row(t, alice, 3)
        await (await alice.run(["wipe", wiped.channel])).result()
        call = await alice.start("subscribe", channel=wiped.channel, since=wiped.places[3], recover="require")
        await t.must(call.error("unrecoverable"))
    for since in bad:
        call = await alice.start("subscribe", channel=written.channel, since=since, recover="require")
        await t.must(call.error("unrecoverable"))
        t.equal(len(call.frames), 1, "the number of frames of a refused subscription")
    for place in (1, 3):
        sub = await recovers(t, alice, written, place, recover="require")
        await alice.cancel(sub)


# Subscribe


@check("his/nothing-to-recover", covers="HIS-14", needs=["history"])
async def nothing_to_recover(t: Test) -> None:
    """Without `since` there is neither `recovered` nor `reason` in open."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 2)
    for sub in (await alice.subscribe(written.channel), await alice.subscribe(written.channel, last=1)):
        extra = {"recovered", "reason"} & set(opened(sub).body)
        t.that(not extra, f"open has {' and '.join(sorted(extra))}", frame=opened(sub))


@check("his/last", covers=["HIS-15", "HIS-02"], needs=["history"])
async def last(t: Test) -> None:
    """`last` gives the newest events of the log, or all of them; open.cursor is just before the first."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    for wanted in (1, 3, 5, 1000):
        written = await row(t, bob, 5, more=2)
        sub = await alice.subscribe(written.channel, last=wanted)
        await pour(t, bob, written.channel, 2, first=5)
        await t.until(alice, reached(sub, 6), "the live event", requirement="SUB-05")
        first = max(0, 5 - wanted)
        account(t, alice.frames, sub, 7, first=first, hole="HIS-15", hint=f"{wanted} of 5 events")
        place = cursor_of(opened(sub), "HIS-02")
        twin = await recovers(t, bob, written, place, requirement="HIS-02")
        await t.until(bob, reached(twin, 6), "the newest event", requirement="HIS-02")
        account(t, bob.frames, twin, 7, first=first, hole="HIS-02", hint="just before the first of them")
        await alice.cancel(sub)
        await bob.cancel(twin)
    empty = await alice.subscribe(t.channel(), last=3)
    await t.must(empty.gets(await t.emit(str(empty.sent["channel"]))))


@check("his/subscribe-combinations", covers="HIS-16", needs=["history"])
async def subscribe_combinations(t: Test) -> None:
    """`since` with `last`, `recover` without `since`, and any other `recover`, are `bad_request`."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 1)
    channel, since = written.channel, written.places[0]
    good: dict[str, object] = {"type": "subscribe", "channel": channel, "since": since, "recover": "require"}
    plain: dict[str, object] = {"type": "subscribe", "channel": channel}
    await t.rejects(good | {"last": 1}, like=good, code="bad_request")
    await t.rejects(plain | {"since": since, "last": 1}, like=plain | {"last": 1}, code="bad_request")
    await t.rejects(plain | {"recover": "require"}, like=plain, code="bad_request")
    await t.rejects(plain | {"recover": "require", "last": 1}, like=plain | {"last": 1}, code="bad_request")
    for recover in ("maybe", True, "", "Require"):
        await t.rejects(good | {"recover": recover}, like=good, code="bad_request")


@check("his/bad-cursors-of-subscribe", covers="HIS-43", needs=["history"])
async def bad_cursors_of_subscribe(t: Test) -> None:
    """A `since`, `before` or `after` that is not a string of 1 to 256 bytes is `bad_request`."""
    good: dict[str, object] = {"type": "subscribe", "channel": t.channel(), "since": "~" * 256}
    for since in ("", "~" * 257, "\u00e9" * 129, 7, ["~"], True):
        await t.rejects(good | {"since": since}, like=good, code="bad_request")
    alice = await t.session(name="alice")
    written = await row(t, alice, 1)
    for name in ("before", "after"):
        page: dict[str, object] = {"type": "history", "channel": written.channel, name: written.places[0]}
        for cursor in ("", "~" * 257, 7):
            await t.rejects(page | {name: cursor}, like=page, code="bad_request")


@check("his/patterns-have-no-past", covers="HIS-17", needs=["history", "pattern"])
async def patterns_have_no_past(t: Test) -> None:
    """A pattern with `since` or `last` is `unsupported`."""
    good: dict[str, object] = {"type": "subscribe", "pattern": f"{t.channel()}/*"}
    for extra in ({"since": "~"}, {"last": 2}):
        await t.rejects(good | extra, like=good, code="unsupported")
