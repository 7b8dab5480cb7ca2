"""Pattern subscriptions: `spec/05-subscriptions.md`. What matches what stands in `vectors/patterns.json`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check
from holdfast_conformance.client import dumps
from holdfast_conformance.traffic import account, pattern_over, pour, reached, roomy, upcoming


@check("sub/echo-false-on-patterns", covers="SUB-15", needs=["pattern"])
async def echo_false_on_patterns(t: Test) -> None:
    """With `echo:false` the publishing session gets the event on its pattern subscriptions neither."""
    alice, again = await t.session(name="alice"), await t.session(name="again")
    channel = t.channel()
    own = await alice.subscribe(pattern=f"{channel}/*")
    theirs = await again.subscribe(pattern=f"{channel}/*")
    await t.control(own.gets(await t.emit(f"{channel}/a", by=alice)))
    quiet = await t.emit(f"{channel}/a", by=alice, echo=False)
    await t.must(theirs.gets(quiet), requirement="SUB-16")
    await t.must_not(own.gets(quiet))


@check("sub/publish-too-large-for-its-event", covers=["SUB-18", "SUB-14"], needs=["pattern"])
async def publish_too_large_for_its_event(t: Test) -> None:
    """A publish that fits into `max_frame`, but whose event would not, is answered with `too_large`."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    channel, most = t.channel(), publisher.limit("max_frame")
    # The event of this subscription is longer than its publish: the highest id, and the name of the channel.
    sub = await alice.start("subscribe", pattern=f"{channel}/*", id=2**53 - 1)
    await sub.opened()
    await t.control(sub.gets(await t.emit(f"{channel}/a", by=publisher)))
    half = upcoming(t, f"{channel}/a", "x" * min(most // 2, alice.limit("queue_bytes") // 2))
    fitting = await publisher.start("publish", channel=half.channel, data=half.data)
    await t.must(fitting.result(), requirement="SUB-11", hint="half of `max_frame` leaves room for any event")
    await t.must(sub.gets(half), requirement="SUB-05")
    frame = publisher.frame("publish", channel=f"{channel}/a", data="")
    frame["data"] = "x" * (most - len(dumps(frame)))
    ghost = upcoming(t, f"{channel}/a", frame["data"])
    await publisher.send(frame)
    await t.must(
        publisher.exchange(frame).error("too_large"),
        hint="an event with an id of 16 digits and its channel has to fit, whoever subscribes",
    )
    await t.must_not(sub.gets(ghost), requirement="SUB-14")
    await t.alive(publisher)


@check("sub/pattern-and-channel-overlap", covers=["SUB-26", "SUB-24"], needs=["pattern"])
async def pattern_and_channel_overlap(t: Test) -> None:
    """An event that several subscriptions of a session match comes once on each, in the same order on all."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    base, total = t.channel(), 30
    patterns = [f"{base}/*", f"{base}/*", f"{base}/**"][: alice.limit("max_subscriptions") - 1]
    subs = [await alice.subscribe(pattern=pattern) for pattern in patterns]
    roomy(t, subs[0], len(subs) + 1)
    subs.append(await alice.subscribe(f"{base}/a"))
    await pour(t, publisher, f"{base}/a", total)
    for sub in subs:
        await t.until(alice, reached(sub, total - 1), "the last event")
    await alice.ping()
    for sub in subs:
        account(
            t,
            alice.frames,
            sub,
            total,
            hole="SUB-26",
            hint="look at every subscription, not at the first match",
        )
    await t.control(subs[0].gets(await t.emit(f"{base}/a", by=publisher)))
    await alice.cancel(subs[0])
    later = await t.emit(f"{base}/a", by=publisher)
    for sub in subs[1:]:
        await t.must(sub.gets(later), hint="an equal pattern of another subscription stays")
    await t.must_not(subs[0].gets(later), requirement="RPC-02")


@check("sub/pattern-sees-new-channels", covers=["SUB-05", "SUB-24"], needs=["pattern"])
async def pattern_sees_new_channels(t: Test) -> None:
    """A pattern subscription gets the events of channels that nobody had used when it was opened."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    base = t.channel()
    sub = await alice.subscribe(pattern=f"{base}/**")
    for n in range(5):
        channel = f"{base}/{t.random.getrandbits(32):08x}" + "/deeper" * n
        event = await t.must(
            sub.gets(await t.emit(channel, by=publisher)), hint="match at publish time, not at subscribe time"
        )
        t.equal(
            event.get("channel"), channel, "the `channel` of the event", frame=event, requirement="SUB-24"
        )


@check(
    "sub/pattern-hides-forbidden-channels",
    covers=["SUB-25", "SUB-27"],
    needs=["pattern", "channel:restricted", "identity:alice-narrow"],
)
async def pattern_hides_forbidden_channels(t: Test) -> None:
    """A pattern subscription gets no event of a matching channel to which its principal may not subscribe."""
    alice, narrow = await t.session("alice", name="alice"), await t.session("alice-narrow", name="narrow")
    secret, public = t.channel("restricted"), t.channel()
    pattern = pattern_over(secret, public)
    if pattern is None:
        raise t.unverified("let `open` and `restricted` under [channels] have the same number of segments")
    control = await alice.subscribe(pattern=pattern)
    sub = await narrow.subscribe(pattern=pattern)
    await t.control(sub.gets(await t.emit(public, by=alice)))
    ghost = await t.emit(secret, by=alice)
    await t.must(control.gets(ghost), requirement="SUB-05")
    await t.must_not(
        sub.gets(ghost), hint="ask for the right to subscribe for each channel, not once for the pattern"
    )
    await t.must(sub.gets(await t.emit(public, by=alice)), requirement="SUB-05")
    only = await narrow.start("subscribe", pattern=secret)
    await t.until(
        narrow, lambda: bool(only.frames), "an answer to a pattern that matches only what is forbidden"
    )
    t.note(f"a pattern that matches only what is forbidden is answered with {only.frames[0]}")
