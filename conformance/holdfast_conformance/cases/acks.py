"""Numbers, acks and the window: `spec/06-delivery.md` and `spec/09-limits-timers.md`."""

from __future__ import annotations

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.traffic import close_window, narrow_session, number, pour, script, upcoming


@check(
    "del/every-kind-is-numbered", covers=["DEL-20", "DEL-21"], needs=["rpc", "pubsub", "ack", "method:echo"]
)
async def every_kind_is_numbered(t: Test) -> None:
    """Frames of every kind that has an id are numbered in one row from 1, refusals included; no other is."""
    alice, channel = await t.session(), t.channel()
    sub = await alice.subscribe(channel)
    await alice.request(t.method("echo"), data=1)
    if "stream" in t.bench.target.script_steps:
        await (await script(alice, ["stream", 3], stream=True)).result()
    await alice.publish(channel, 1)
    await (await alice.start("conf.no_such_type")).error("unsupported")
    await (await alice.start("request", malformed=True)).error("bad_request")
    await (await alice.start("request", method="conf.no_such_method")).error()
    await alice.cancel(sub)
    await alice.ping()
    row = [frame for frame in alice.frames if "id" in frame.body]
    for due, frame in enumerate(row, 1):
        t.equal(
            frame.get("seq"), due, "`seq`", frame=frame, requirement="DEL-21" if "seq" in frame.body else "",
            hint="number each frame that has an `id` when it leaves the queue of the session",
        )  # fmt: skip
    t.that(not alice.resent, "a number came twice", requirement="DEL-21")
    odd = next((frame for frame in alice.frames if "seq" in frame.body and "id" not in frame.body), None)
    t.that(odd is None, "a frame without an id has a number", frame=odd)


@check("del/window-closes", covers=["DEL-22", "DEL-25"], needs=["pubsub", "ack"])
async def window_closes(t: Test) -> None:
    """A client that does not acknowledge gets `window` frames; then only what has no id, and is read on."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    channel, elsewhere = t.channel(), t.channel()
    sub = await narrow.subscribe(channel)
    await narrow.ack()
    await publisher.subscribe(channel)
    await publisher.subscribe(elsewhere)
    end = await close_window(t, narrow, publisher, channel)
    await t.control(sub.receives("event", data={"n": end - 1}))
    late = await t.emit(channel, by=publisher)
    await publisher.gets(late)
    await t.alive(narrow, requirement="DEL-25", hint="what has no `id` goes past the queue and the window")
    own = upcoming(t, elsewhere)
    await narrow.start("publish", channel=elsewhere, data=own.data)
    await t.must(
        publisher.gets(own), requirement="DEL-25", hint="read on: the ack that opens the window is to be read"
    )
    await t.must_not(
        narrow.gets(late), hint="send a frame with an `id` only while `sent - acked` is less than `window`"
    )
    await narrow.ack()
    await t.must(sub.gets(late), requirement="DEL-24")


@check("del/ack-opens-the-window", covers="DEL-24", needs=["pubsub", "ack"])
async def ack_opens_the_window(t: Test) -> None:
    """Each acknowledged frame makes room for one of those that wait, in their order."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    channel = t.channel()
    sub = await narrow.subscribe(channel)
    end = await close_window(t, narrow, publisher, channel)
    waiting = min(3, narrow.limit("queue"))
    await pour(t, publisher, channel, waiting, first=end)
    second = await narrow.start("subscribe", channel=t.channel())
    for _ in range(waiting + 1):
        due = narrow.receipts.got + 1
        await narrow.ack(narrow.receipts.acked + 1)
        await t.until(
            narrow,
            lambda due=due: narrow.receipts.got >= due,  # type: ignore[misc]  # a default fixes the number
            "one more frame",
            hint="go on writing when an ack arrives, not only when the next event does",
        )
    row = [number(frame) for frame in sub.frames if frame.type == "event"]
    t.equal(row, list(range(end + waiting)), "the row of events", hint="the queue is first in, first out")
    opened = await t.must(second.opened(), requirement="SUB-01")
    # Without a fence nobody knows whether the events were queued when the subscription was asked for.
    behind = "fence" not in narrow.profiles or opened.entry > sub.frames[-1].entry
    t.that(behind, "open came too early", frame=opened)


@check("del/old-acks-are-ignored", covers="DEL-27", needs=["pubsub", "ack"])
async def old_acks_are_ignored(t: Test) -> None:
    """An ack of what is acknowledged already changes nothing: the window counts from the highest."""
    narrow, publisher = await narrow_session(t), await t.session(name="publisher")
    channel = t.channel()
    await narrow.subscribe(channel)
    end = await close_window(t, narrow, publisher, channel)
    await narrow.ack()
    for seq in (1, narrow.receipts.got, max(1, narrow.receipts.got - 1)):
        await narrow.send({"type": "ack", "seq": seq})
    hint = "take the highest number that was ever acknowledged"
    await t.alive(narrow, hint=hint)
    await pour(t, publisher, channel, narrow.receipts.window, first=end)
    full = narrow.receipts.acked + narrow.receipts.window
    await t.until(narrow, lambda: narrow.receipts.got >= full, "a full window after old acks", hint=hint)


@check("del/ack-ahead-closes-4004", covers="DEL-26", needs=["pubsub", "ack"])
async def ack_ahead_closes_4004(t: Test) -> None:
    """An ack of a number that was not sent closes with 4004, by one as by many; one lower is fine."""
    for ahead in (1, 2**53 - 2):
        alice = await t.session(acks=False)
        await alice.subscribe(t.channel())
        await alice.ack()
        await t.alive(alice)
        await alice.send({"type": "ack", "seq": alice.receipts.got + ahead})
        await t.closes(alice, 4004, hint="compare with the highest `seq` that you have sent")
    eager = await t.session(acks=False)
    await eager.send({"type": "ack", "seq": 1})
    await t.closes(eager, 4004, hint="nothing was sent yet, so nothing can be acknowledged")


@check("del/ack-ahead-after-resume-closes-4004", covers="DEL-26", needs=["pubsub", "resume"])
async def ack_ahead_after_resume_closes_4004(t: Test) -> None:
    """Right after a resume, too, an ack may name what was sent, and nothing above it."""
    alice = await t.session(acks=False)
    await alice.subscribe(t.channel())
    await alice.cut()
    again = await t.resume(alice, acks=False)
    await again.ack(again.receipts.got)
    await t.alive(again, requirement="DEL-27")
    await again.send({"type": "ack", "seq": again.receipts.got + 1})
    await t.closes(again, 4004, hint="`sent` belongs to the session, not to its connection")


@check("lim/client-lowers-window", covers="LIM-17", needs=["pubsub", "ack"])
async def client_lowers_window(t: Test) -> None:
    """A lower `limits.window` in hello is in force, and welcome says so."""
    for window in (1, 3):
        narrow, publisher = await narrow_session(t, window=window), await t.session(name="publisher")
        if narrow.limit("window") < window:
            raise t.not_applicable(f"the server's own window is below {window}")
        t.equal(narrow.limit("window"), window, "`welcome.limits.window`", frame=narrow.welcome)
        await stops_at(t, narrow, publisher, window)


@check("lim/client-cannot-raise-window", covers="LIM-18", needs=["pubsub", "ack"])
async def client_cannot_raise_window(t: Test) -> None:
    """A `limits.window` in hello that exceeds the server's own changes nothing."""
    identity = "small" if "small" in t.bench.target.identities else None
    plain, publisher = await t.session(identity), await t.session(name="publisher")
    own = plain.limit("window")
    for asked in (own, own + 1, 2**53 - 1):
        greedy = await narrow_session(t, window=asked)
        t.equal(greedy.limit("window"), own, "`welcome.limits.window`", frame=greedy.welcome)
        if own < publisher.limit("queue") // 2:
            await stops_at(t, greedy, publisher, own)


async def stops_at(t: Test, narrow: Session, publisher: Session, window: int) -> None:
    """Assert that a session that does not acknowledge gets so many frames and no more."""
    channel = t.channel()
    await narrow.subscribe(channel)
    end = await close_window(t, narrow, publisher, channel)
    await publisher.publish(channel, {"n": end})
    for _ in range(3):
        await narrow.ping()
    t.equal(narrow.receipts.got, window, "the frames that came without an ack")
