"""Publishing once: `spec/12-history.md`, cursors of publishes and `dedupe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_conformance.case import Session, Test, check
from holdfast_conformance.client import dumps
from holdfast_conformance.lives import tight_session
from holdfast_conformance.logs import recovers, row
from holdfast_conformance.traffic import account, reached

if TYPE_CHECKING:
    from holdfast_conformance.case import Exchange, Frame

SLACK = 2.0
"""Seconds, before scaling, by which a timer of the target may be late without blame."""

LONGEST = 5000
"""Milliseconds of `dedupe_ms` beyond which a check does not wait for it."""


def data_of(answer: Frame) -> dict[str, object]:
    """Return the `data` of the result of a publish, empty when it has none."""
    data = answer.get("data")
    return data if isinstance(data, dict) else {}


def is_duplicate(answer: Frame) -> bool:
    """Return whether the result of a publish says that it was a duplicate."""
    return data_of(answer).get("duplicate") is True


def counts(
    t: Test,
    session: Session,
    answer: Frame,
    since: float,
    *,
    message: str = "a duplicate is not called one",
    requirement: str = "HIS-36",
    hint: str = "",
) -> None:
    """Assert that a publish was a duplicate of one that was sent at `since`.

    Raises:
        Unverified: it was none, and `dedupe_ms` may have passed.
    """
    dedupe = session.limit("dedupe_ms") / 1000
    if not is_duplicate(answer) and t.now() - since >= dedupe:
        raise t.unverified(f"a key counts for {dedupe:g} s here; that is shorter than two publishes took")
    t.that(is_duplicate(answer), message, frame=answer, requirement=requirement, hint=hint)


async def once(
    t: Test, session: Session, sub: Exchange, expected: list[object], *, requirement: str = "HIS-37"
) -> None:
    """Assert that exactly these payloads were delivered on a subscription of `session`."""
    marker = await t.emit(str(sub.sent["channel"]))
    await sub.gets(marker)
    await session.ping()
    came = [frame.get("data") for frame in sub.frames if frame.type == "event"]
    t.equal(
        came,
        [*expected, marker.data],
        "what was delivered",
        frame=sub.frames[-1],
        requirement=requirement,
        hint="a duplicate is answered as the first one was, and delivered to nobody",
    )


async def twin(t: Test, session: Session) -> Session:
    """Return another session of the same principal; of an anonymous one there is only itself."""
    identities = t.bench.target.identities
    first = next(iter(identities.values()), None)
    known = first is not None and (first.token or first.headers)
    return await t.session(name="again") if known else session


@check("his/cursor-of-a-publish", covers="HIS-35", needs=["history"])
async def cursor_of_a_publish(t: Test) -> None:
    """The result of a publish carries the place just behind its event."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 2)
    for n in (2, 3):
        answer = await alice.publish(written.channel, {"n": n})
        place = data_of(answer).get("cursor")
        t.that(isinstance(place, str), "the result of a publish has no cursor", frame=answer)
        sub = await recovers(t, alice, written, str(place), requirement="HIS-35")
        await alice.publish(written.channel, {"n": 10 * n})
        first = await t.must(sub.receives("event"), requirement="HIS-35")
        t.equal(first.get("data"), {"n": 10 * n}, "the first event behind it", frame=first)
        await alice.cancel(sub)


@check("his/duplicate", covers=["HIS-36", "HIS-37"], needs=["history"])
async def duplicate(t: Test) -> None:
    """A publish with a key that took effect before is a success, has the first cursor, and reaches nobody."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    again = await twin(t, alice)
    written = await row(t, bob, 1)
    sub, begin = await bob.subscribe(written.channel), t.now()
    first = await alice.publish(written.channel, {"n": 1}, dedupe="k")
    t.that(not is_duplicate(first), "the first publish with a key is called a duplicate", frame=first)
    await alice.publish(written.channel, {"n": 2})
    for session, payload in ((alice, {"n": 1}), (again, {"n": 1}), (again, {"n": 77})):
        repeated = await session.publish(written.channel, payload, dedupe="k")
        hint = "the key belongs to the principal, not to the session"
        counts(t, alice, repeated, begin, hint=hint)
        place = data_of(repeated).get("cursor")
        t.that(isinstance(place, str), "the result of a duplicate has no cursor", frame=repeated)
        other = await recovers(
            t, bob, written, str(place), requirement="HIS-36", hint="the cursor of the first"
        )
        await t.until(bob, reached(other, 2), "the event behind the first publish", requirement="HIS-36")
        account(t, bob.frames, other, 3, first=2, hole="HIS-36")
        await bob.cancel(other)
    await once(t, bob, sub, [{"n": 1}, {"n": 2}])


@check("his/duplicate-without-a-log", covers=["HIS-36", "HIS-37"], needs=["history", "channel:unlogged"])
async def duplicate_without_a_log(t: Test) -> None:
    """A key counts on a channel without a log too; no cursor is there then."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel("unlogged")
    sub, begin = await bob.subscribe(channel), t.now()
    await alice.publish(channel, {"n": 1}, dedupe="k")
    repeated = await alice.publish(channel, {"n": 1}, dedupe="k")
    counts(t, alice, repeated, begin, hint="dedupe needs no log")
    await once(t, bob, sub, [{"n": 1}])


@check("his/two-at-once-with-a-key", covers=["HIS-39", "HIS-37"], needs=["history"])
async def two_at_once_with_a_key(t: Test) -> None:
    """Of publishes with one key that run at once, one takes effect, and the others are its duplicates."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    again = await twin(t, alice)
    channel = t.channel()
    sub = await bob.subscribe(channel)
    expected: list[object] = []
    each = min(2, alice.limit("max_inflight"))
    if each < 2 and again is alice:
        raise t.unverified("max_inflight leaves no room for two publishes at once in one session")
    for round in range(4):
        payload, begin = {"n": round}, t.now()
        frames = {
            session: [
                session.frame("publish", channel=channel, data=payload, dedupe=f"k{round}")
                for _ in range(each)
            ]
            for session in (alice, again)
        }
        for session, some in frames.items():
            t.nursery.start_soon(session.pipeline, *some)
        answers = [
            await t.must(
                session.exchange(frame).result(), hint="a duplicate waits for the first, and succeeds"
            )
            for session, some in frames.items()
            for frame in some
        ]
        fresh = [answer for answer in answers if not is_duplicate(answer)]
        for answer in fresh[1:]:
            message = f"there are {len(fresh)} publishes that were no duplicate"
            counts(t, alice, answer, begin, message=message, requirement="HIS-39")
        t.equal(len(fresh), 1, "the number of publishes that were no duplicate", frame=answers[0])
        expected.append(payload)
    await once(t, bob, sub, expected)


@check(
    "his/failure-is-forgotten",
    covers=["HIS-40", "HIS-36"],
    needs=["history", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def failure_is_forgotten(t: Test) -> None:
    """A publish that failed does not count: the next one with its key takes effect."""
    alice, narrow = await t.session("alice"), await t.session("alice-narrow")
    channel = t.channel("restricted")
    sub = await alice.subscribe(channel)
    call = await narrow.start("publish", channel=channel, data={"n": 1}, dedupe="k")
    answer = await call.terminal()
    if answer.type == "result":
        raise t.unverified("the identity `alice-narrow` may publish to channel `restricted`")
    second = await t.must((await alice.start("publish", channel=channel, data={"n": 1}, dedupe="k")).result())
    t.that(not is_duplicate(second), "a publish counts as the duplicate of one that failed", frame=second)
    await t.must(sub.receives("event", data={"n": 1}), hint="remember a key when its publish took effect")


@check("his/too-large-is-forgotten", covers="HIS-40", needs=["history"])
async def too_large_is_forgotten(t: Test) -> None:
    """A publish whose event was too large does not count: a smaller one with its key takes effect."""
    alice = await t.session(name="alice")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    frame = alice.frame("publish", channel=channel, dedupe="k", data="")
    frame["data"] = "x" * (alice.limit("max_frame") - len(dumps(frame).encode()))
    await alice.send(frame)
    answer = await alice.exchange(frame).terminal()
    if answer.type == "result":
        raise t.not_applicable("the event of the largest publish fits into a frame")
    second = await alice.publish(channel, {"n": 1}, dedupe="k")
    t.that(not is_duplicate(second), "a publish counts as the duplicate of one that failed", frame=second)
    await t.must(sub.receives("event", data={"n": 1}), hint="remember a key when its publish took effect")


@check("his/keys-of-two-principals", covers="HIS-41", needs=["history", "identity:alice", "identity:bob"])
async def keys_of_two_principals(t: Test) -> None:
    """The same key of two principals, or on two channels, is two keys."""
    alice, bob = await t.sessions("alice", "bob")
    one, two = t.channel(), t.channel()
    subs = {channel: await bob.subscribe(channel) for channel in (one, two)}
    for n, (session, channel) in enumerate(((alice, one), (bob, one), (alice, two), (bob, two))):
        answer = await session.publish(channel, {"n": n}, dedupe="k")
        t.that(
            not is_duplicate(answer),
            "a publish counts as the duplicate of one by another principal, or to another channel",
            frame=answer,
        )
    await once(t, bob, subs[one], [{"n": 0}, {"n": 1}], requirement="HIS-41")
    await once(t, bob, subs[two], [{"n": 2}, {"n": 3}], requirement="HIS-41")


@check("his/different-keys", covers="HIS-36", needs=["history"])
async def different_keys(t: Test) -> None:
    """Keys that merely resemble each other are different."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    channel = t.channel()
    sub = await bob.subscribe(channel)
    keys = ["k", "K", "k ", "kk", "\u00e9", "e\u0301", "x" * 255, "x" * 254]
    for n, key in enumerate(keys):
        answer = await alice.publish(channel, {"n": n}, dedupe=key)
        t.that(not is_duplicate(answer), f"the key {key[:20]!r} counts as another", frame=answer)
    await once(t, bob, sub, [{"n": n} for n in range(len(keys))])


@check("his/dedupe-ms-over", covers=["HIS-38", "HIS-36"], needs=["history"], slow=True)
async def dedupe_ms_over(t: Test) -> None:
    """A key counts for `dedupe_ms`, from the first publish on, and no longer."""
    tight, bob = await tight_session(t), await t.session(name="bob")
    dedupe = tight.limit("dedupe_ms") / 1000
    if dedupe * 1000 > LONGEST:
        raise t.unverified("dedupe_ms is long; add an identity `small` with small limits to the target file")
    channel = t.channel()
    sub = await bob.subscribe(channel)
    asked = t.now()
    await tight.publish(channel, {"n": 0}, dedupe="k")
    begin = t.now()
    await t.sit_out(0.6 * dedupe, "a part of dedupe_ms")
    repeated = await tight.publish(channel, {"n": 1}, dedupe="k")
    counts(t, tight, repeated, asked, message="a key was forgotten before dedupe_ms")
    await t.sit_out(max(0.0, begin + dedupe + SLACK * t.bench.clock.scale - t.now()), "dedupe_ms")
    answer = await tight.publish(channel, {"n": 2}, dedupe="k")
    hint = "count from the first publish; a duplicate does not begin the time anew"
    t.that(
        not is_duplicate(answer), "a key still counts although dedupe_ms has passed", frame=answer, hint=hint
    )
    await once(t, bob, sub, [{"n": 0}, {"n": 2}], requirement="HIS-38")
