"""Subscriptions and publishing: `spec/05-subscriptions.md`. Patterns: `patterns.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from holdfast_conformance.case import Exchange, Session, Test, check
from holdfast_conformance.client import dumps
from holdfast_conformance.traffic import account, all_end, number, pour, reached, roomy, unrated, upcoming

if TYPE_CHECKING:
    from collections.abc import Callable

BURST = 1000
"""Subscriptions of the burst, each cancelled again."""


@check("sub/cancel-stops-delivery", covers="RPC-02", needs=["pubsub", "events"])
async def cancel_stops_delivery(t: Test) -> None:
    """After the terminal of a cancelled subscription, no event of it reaches the session."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await bob.subscribe(channel)
    await t.control(alice.gets(await t.emit(channel)))
    await alice.cancel(sub)
    ghost = await t.emit(channel)
    await bob.gets(ghost)
    await t.must_not(alice.gets(ghost), hint="remove the subscriber before you queue the result, not after")


@check("sub/cancel-amid-events", covers=["RPC-02", "DEL-01"], needs=["pubsub"])
async def cancel_amid_events(t: Test) -> None:
    """A subscription cancelled while events stream in gets an unbroken run of them, then its terminal."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    channel, total = t.channel(), 300
    keeper = await alice.subscribe(channel)
    subs: list[Exchange] = []

    async def come_and_go() -> None:
        for n in range(10):
            sub = await alice.subscribe(channel)
            subs.append(sub)
            await t.until(alice, reached(keeper, total * n // 10), "events")
            await alice.send({"type": "cancel", "of": sub.id})
            await t.must(sub.result(), requirement="RPC-07")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_and_go)
        await pour(t, publisher, channel, total)
    await alice.ping()
    await t.until(alice, reached(keeper, total - 1), "the last event", requirement="SUB-05")
    for sub in subs:
        kinds = [frame.type for frame in sub.frames]
        t.equal(kinds[0], "open", "the first frame of a subscription", requirement="SUB-02")
        t.equal(kinds[-1], "result", "the last frame of a cancelled subscription")
        row = [frame for frame in sub.frames if frame.type == "event"]
        if row:  # what lies between its first and its last event is an unbroken run
            frames = [frame for frame in sub.frames if row[0].entry <= frame.entry <= row[-1].entry]
            account(t, frames, sub, number(row[-1]) + 1, first=number(row[0]))


@check("sub/publish-after-open-is-seen", covers=["SUB-05", "SUB-02"], needs=["pubsub"])
async def publish_after_open_is_seen(t: Test) -> None:
    """A subscription that opens amid events misses none that is published after its `open`."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    channel = t.channel()
    for _ in range(30):
        early = publisher.frame("publish", channel=channel, data=t.payload())
        await publisher.send(early)  # races with the subscribe
        sub = await alice.subscribe(channel)
        roomy(t, sub, 2)
        event = await t.emit(channel, by=publisher)
        await t.must(sub.gets(event), hint="register the subscription before you queue its `open`")
        await publisher.exchange(early).result()
        kinds = [frame.type for frame in sub.frames]
        t.equal(kinds[0], "open", "the first frame of a subscription", requirement="SUB-02")
        await alice.cancel(sub)


@check("sub/each-event-once", covers=["SUB-06", "SUB-05", "DEL-01"], needs=["pubsub"])
async def each_event_once(t: Test) -> None:
    """Every event reaches every subscription once, without a hole, and in the order of the publishes."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    publisher = await t.session(name="publisher")
    channel, total = t.channel(), 400
    subs = [await alice.subscribe(channel), await alice.subscribe(channel), await bob.subscribe(channel)]
    roomy(t, subs[0], 2)
    await pour(t, publisher, channel, total)
    for sub in subs:
        await t.until(sub.session, reached(sub, total - 1), "the last event", requirement="SUB-05")
    await alice.ping()
    await bob.ping()
    for sub in subs:
        account(t, sub.session.frames, sub, total)


@check("sub/two-subscriptions-are-two", covers="SUB-07", needs=["pubsub", "events"])
async def two_subscriptions_are_two(t: Test) -> None:
    """Of two subscriptions to one channel each gets every event; when one is cancelled the other goes on."""
    alice = await t.session()
    channel = t.channel()
    one, two = await alice.subscribe(channel), await alice.subscribe(channel)
    both = await t.emit(channel)
    await t.control(one.gets(both))
    await t.must(two.gets(both), hint="keep subscriptions by exchange id, not by channel")
    await alice.cancel(one)
    later = await t.emit(channel)
    await t.must(two.gets(later), hint="a cancel removes one subscription, not all to that channel")
    await t.must_not(one.gets(later), requirement="RPC-02")


@check("sub/one-order-for-all", covers="SUB-08", needs=["pubsub"])
async def one_order_for_all(t: Test) -> None:
    """Publishers that publish at the same time: all subscribers see the events in one and the same order."""
    publishers = [await t.session(name=f"publisher{n}") for n in range(4)]
    readers = [*publishers[:2], await t.session(name="reader")]
    channel, each = t.channel(), 40
    subs = [await reader.subscribe(channel) for reader in readers]
    subs.append(await readers[-1].subscribe(channel))
    roomy(t, subs[-1], 2 * len(publishers))
    rows = {publisher.name: [t.payload() for _ in range(each)] for publisher in publishers}

    async def publish(publisher: Session) -> None:
        at_once = max(1, min(8, publisher.limit("max_inflight"), publisher.limit("queue") // 8))
        row = rows[publisher.name]
        for start in range(0, each, at_once):
            frames = [
                publisher.frame("publish", channel=channel, data=data)
                for data in row[start : start + at_once]
            ]
            since = len(publisher.frames)
            await publisher.pipeline(*frames)
            await all_end(publisher, [publisher.exchange(frame) for frame in frames], since=since)

    for publisher in publishers:
        unrated(t, publisher, each)
    async with trio.open_nursery() as nursery:
        for publisher in publishers:
            nursery.start_soon(publish, publisher)
    total = each * len(publishers)
    for sub in subs:
        await t.until(sub.session, has_events(sub, total), f"{total} events", requirement="SUB-05")
    for sub in subs:
        t.that(
            events(sub) == events(subs[0]),
            f"{sub.session.name} sees another order than {subs[0].session.name}",
            hint="give each event its place in the channel once, then hand it to all in that order",
        )
    for publisher in publishers:
        row = [dumps(data) for data in rows[publisher.name]]
        seen = [text for text in events(subs[-1]) if text in set(row)]
        t.equal(seen, row, f"the order of the events of {publisher.name}", requirement="SUB-12")


def has_events(subscription: Exchange, count: int) -> Callable[[], bool]:
    """Return the condition that a subscription has got so many events."""
    return lambda: len(events(subscription)) >= count


def events(subscription: Exchange) -> list[str]:
    """Return the data of the events of a subscription as text, in the order of arrival."""
    return [dumps(frame.get("data")) for frame in subscription.frames if frame.type == "event"]


@check("sub/similar-channels-are-others", covers="SUB-09", needs=["pubsub"])
async def similar_channels_are_others(t: Test) -> None:
    """A subscription gets no event of a channel whose name merely resembles that of its own."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    channel = t.channel() + "/Caf\u00e9"
    sub = await alice.subscribe(channel)
    similar = [
        *(channel[:-1], channel + "s", channel + "/", channel + "/a", channel.lower(), channel.upper()),
        *(channel.replace("\u00e9", e) for e in ("e", "e\u0301", "%C3%A9")),
        *(" " + channel, channel + " ", channel + "\u0000", "/" + channel, channel.rpartition("/")[0]),
        *(channel.replace("/", slash) for slash in (".", "//", "\\")),
    ]
    await t.control(sub.gets(await t.emit(channel, by=publisher)))
    tried = 0
    ghost = upcoming(t, channel)
    for name in similar:
        if name != channel and len(name.encode()) <= 255:
            publish = await publisher.start("publish", channel=name, data=t.payload())
            tried += (await publish.terminal()).type == "result"
    t.that(tried > 0, "not one of the similar names could be published to", requirement="SUB-11")
    await t.must_not(sub.gets(ghost), hint="compare names byte by byte, without any normalisation")
    await t.must(sub.gets(await t.emit(channel, by=publisher)), requirement="SUB-05")


@check("sub/star-in-a-channel-is-a-character", covers="SUB-23", needs=["pubsub"])
async def star_in_a_channel_is_a_character(t: Test) -> None:
    """A subscription to the channel `x/*` gets the events of that very channel and of no other."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    base = t.channel()
    for star in ("*", "**"):
        sub = await alice.subscribe(f"{base}/{star}")
        await t.control(sub.gets(await t.emit(f"{base}/{star}", by=publisher)))
        other = await t.emit(f"{base}/anything", by=publisher)
        await t.must_not(sub.gets(other), hint="only the member `pattern` is a pattern")


@check("sub/publish-in-order", covers="SUB-12", needs=["pubsub"])
async def publish_in_order(t: Test) -> None:
    """Publishes that share TCP segments take effect in the order in which they were sent, large ones too."""
    alice, publisher = await t.session(name="alice"), await t.session(name="publisher")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    at_once = max(1, min(48, publisher.limit("max_inflight")))
    unrated(t, publisher, at_once)
    large = min(20_000, publisher.limit("max_frame") // 2, alice.limit("queue_bytes") // (at_once + 1))
    frames = [
        publisher.frame("publish", channel=channel, data={"n": n, "pad": "x" * (large if n % 5 == 0 else 0)})
        for n in range(at_once)
    ]
    await publisher.pipeline(*frames)
    for frame in frames:
        await t.must(publisher.exchange(frame).result(), requirement="SUB-11")
    all_came, newest = has_events(sub, at_once), reached(sub, at_once - 1)
    await t.until(alice, lambda: all_came() or newest(), "the last event", requirement="SUB-05")
    account(t, alice.frames, sub, at_once, hole="SUB-12", hint="do not let publishes overtake each other")


@check(
    "sub/refused-publish-has-no-event",
    covers=["SUB-13", "SUB-14"],
    needs=["pubsub", "channel:restricted", "identity:alice-narrow"],
)
async def refused_publish_has_no_event(t: Test) -> None:
    """A publish that is forbidden, or broken, is answered with an error and reaches nobody."""
    alice, narrow = await t.session("alice", name="alice"), await t.session("alice-narrow", name="narrow")
    channel = t.channel("restricted")
    sub = await alice.subscribe(channel)
    await t.control(sub.gets(await t.emit(channel, by=alice)))
    ghost = upcoming(t, channel)
    refused = await narrow.start("publish", channel=channel, data=ghost.data)
    await t.must(refused.error("forbidden"), hint="ask for the right to publish before you publish")
    broken = await alice.start("publish", channel=channel, data="=", enc="base64", malformed=True)
    await t.must(broken.error("bad_request"), requirement="ENV-31")
    await t.must_not(sub.gets(ghost), hint="check everything first, then publish", requirement="SUB-14")
    await t.must(sub.gets(await t.emit(channel, by=alice)), requirement="SUB-05")


@check(
    "sub/forbidden-subscribe",
    covers=["SUB-03", "ENV-24"],
    needs=["pubsub", "channel:restricted", "identity:alice-narrow"],
)
async def forbidden_subscribe(t: Test) -> None:
    """A forbidden subscribe fails that exchange alone, and not one event of the channel follows."""
    alice, narrow = await t.session("alice", name="alice"), await t.session("alice-narrow", name="narrow")
    secret, public = t.channel("restricted"), t.channel()
    twin = await alice.subscribe(secret)
    mine = await narrow.subscribe(public)
    await t.control(mine.gets(await t.emit(public, by=alice)))
    refused = await narrow.start("subscribe", channel=secret)
    await t.must(refused.error("forbidden"), hint="ask for the right to subscribe before you send `open`")
    ghost = await t.emit(secret, by=alice)
    await twin.gets(ghost)
    await t.must_not(narrow.gets(ghost), hint="a refused subscription must not be registered")
    await t.must(mine.gets(await t.emit(public, by=alice)), requirement="ENV-24")


@check("sub/echo-false-skips-own-session", covers=["SUB-15", "SUB-16", "SUB-17"], needs=["pubsub"])
async def echo_false_skips_own_session(t: Test) -> None:
    """With `echo:false` the publishing session, and it alone, does not get the event on any subscription."""
    alice, again = await t.session(name="alice"), await t.session(name="again")
    channel = t.channel()
    own = [await alice.subscribe(channel), await alice.subscribe(channel)]
    theirs = await again.subscribe(channel)
    loud = await t.emit(channel, by=alice)
    hint = "`echo` absent means that the publisher gets its event like everybody else"
    await t.control(theirs.gets(loud))
    for sub in own:
        await t.must(sub.gets(loud), requirement="SUB-17", hint=hint)
    quiet = await t.emit(channel, by=alice, echo=False)
    await t.must(
        theirs.gets(quiet),
        requirement="SUB-16",
        hint="leave out the publishing session, not all sessions of its principal",
    )
    for sub in own:
        await t.must_not(sub.gets(quiet), hint="compare the publisher's session with the subscriber's")
    loud = await t.emit(channel, by=alice)
    for sub in own:
        await t.must(
            sub.gets(loud), requirement="SUB-17", hint="`echo` concerns one publish, not the session"
        )


@check("sub/echo-false-same-principal", covers="SUB-16", needs=["pubsub", "identity:alice-2"])
async def echo_false_same_principal(t: Test) -> None:
    """With `echo:false` another session of the same principal, with another token, gets the event."""
    alice, second = await t.session("alice"), await t.session("alice-2", name="second")
    channel = t.channel()
    sub = await second.subscribe(channel)
    await t.must(
        sub.gets(await t.emit(channel, by=alice, echo=False)),
        hint="leave out the publishing session, not all sessions of its principal",
    )


@check("sub/burst-of-subscriptions", covers=["RPC-07", "LIM-09"], needs=["pubsub"], intrusive=True)
async def burst_of_subscriptions(t: Test) -> None:
    """A thousand subscriptions, opened and cancelled in quick succession, open, end and leave nothing."""
    alice, witness = await t.session(name="alice"), await t.session(name="witness")
    unrated(t, alice, 2 * BURST)
    channel = t.channel()
    await witness.subscribe(channel)
    control = await alice.subscribe(channel)
    await t.control(control.gets(await t.emit(channel)))
    await alice.cancel(control)
    at_once = max(1, min(32, alice.limit("max_subscriptions") // 2))
    done = 0
    while done < BURST:
        frames = [alice.frame("subscribe", channel=channel) for _ in range(at_once)]
        exchanges = [alice.exchange(frame) for frame in frames]
        since = len(alice.frames)
        await alice.pipeline(*frames)
        await t.until(alice, have_opened(alice, since, at_once), f"{at_once} subscriptions to open")
        await alice.pipeline(*({"type": "cancel", "of": frame["id"]} for frame in frames))
        await all_end(alice, exchanges, since=since)
        done += at_once
    ghost = await t.emit(channel)
    await witness.gets(ghost)
    await t.must_not(
        alice.gets(ghost), hint="forget a subscription when its terminal is queued", requirement="RPC-02"
    )


def have_opened(session: Session, since: int, count: int) -> Callable[[], bool]:
    """Return the condition that so many `open` frames came behind the first `since` frames."""
    return lambda: sum(frame.type == "open" for frame in session.frames[since:]) >= count


@check("sub/bystander-hears-nothing", covers=["SEC-10", "SUB-09"], needs=["pubsub", "identity:bob"])
async def bystander_hears_nothing(t: Test) -> None:
    """A session subscribed to something else hears nothing while others subscribe, publish and cancel."""
    alice, bob = await t.sessions("alice", "bob")
    busy, still = t.channel(), t.channel()
    canary = await bob.subscribe(still)
    await t.control(canary.gets(await t.emit(still)))
    sub = await alice.subscribe(busy)
    last = await t.emit(busy, by=alice)
    for _ in range(20):
        last = await t.emit(busy, by=alice)
    await sub.gets(last)
    await alice.cancel(sub)
    await t.must_not(bob.gets(last), hint="deliver to the subscribers of the channel only")
    heard = [frame for frame in bob.frames if not frame.taken and frame.type not in ("ping", "pong")]
    t.that(
        not heard, "the bystander got a frame that concerns somebody else", frame=heard[0] if heard else None
    )


@check("sub/nothing-from-before", covers="SUB-28", needs=["pubsub"])
async def nothing_from_before(t: Test) -> None:
    """An event whose publish was answered before a subscription was asked for does not come on it."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    early = await t.emit(channel, by=bob)
    await alice.subscribe(channel)
    await t.control(alice.gets(await t.emit(channel, by=bob)))
    await t.must_not(alice.gets(early), hint="old events come when `since` or `last` asks for them")


@check("sub/answers-show-the-order", covers="SUB-29", needs=["pubsub"])
async def answers_show_the_order(t: Test) -> None:
    """An event whose publish was answered comes before one that somebody published after that."""
    alice = await t.session(name="alice")
    writers = [await t.session(name=name) for name in ("bob", "carol")]
    channel = t.channel()
    sub = await alice.subscribe(channel)
    for _ in range(2):
        written = [await t.emit(channel, by=writer) for writer in writers]
        for event in written:
            await sub.gets(event)
    heard = [frame.get("data") for frame in sub.frames if frame.type == "event"]
    t.equal(heard[-2:], [event.data for event in written], "the last two events, in their order")
