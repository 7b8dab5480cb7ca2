"""Pages of the log: `spec/12-history.md`, the verb `history`."""

from __future__ import annotations

import trio

from holdfast_conformance.case import Test, check
from holdfast_conformance.lives import tight_session
from holdfast_conformance.logs import Page, Row, cursor_of, numbers, opened, page, recovers, row
from holdfast_conformance.traffic import account, pour, reached

SMALL = 4096
"""The least `max_frame` that a client may ask for."""

NOT_TRIMMED = "a page says `trimmed` although nothing older is gone, or something older is left"


@check("his/page", covers=["HIS-20", "HIS-21", "HIS-24", "HIS-42"], needs=["history"])
async def a_page(t: Test) -> None:
    """Without a bound the page ends with the newest event, oldest first, each with its data and its place."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    count = min(4, alice.limit("history_limit"))
    written = await row(t, bob, count, more=count)
    call = await alice.start("history", channel=written.channel, limit=count)
    answer = await t.must(call.result(), requirement="HIS-20")
    data = answer.get("data")
    t.that(isinstance(data, dict), "the data of the result is not an object", frame=answer)
    assert isinstance(data, dict)
    t.that(isinstance(data.get("events"), list), "the page has no `events`", frame=answer)
    t.that(isinstance(data.get("more"), bool), "the page does not say whether there is `more`", frame=answer)
    read = await page(alice, written.channel, limit=count)
    t.equal(
        numbers(read)[-1:], [count - 1], "the last event of the page", frame=read.frame, requirement="HIS-24"
    )
    due = list(range(count))
    t.equal(numbers(read), due, "the events", frame=read.frame, requirement="HIS-21", hint="oldest first")
    for n, event in enumerate(read.events):
        t.equal(event.get("data"), {"n": n, "pad": ""}, f"event {n}", frame=read.frame, requirement="HIS-21")
        place = event.get("cursor")
        t.that(isinstance(place, str), f"event {n} has no cursor", frame=read.frame, requirement="HIS-21")
        hint = "the place just behind it"
        sub = await recovers(t, bob, written, str(place), requirement="HIS-21", hint=hint)
        await pour(t, bob, written.channel, 1, first=count + n)
        await t.until(bob, reached(sub, count + n), "the newest event", requirement="SUB-05")
        account(t, bob.frames, sub, count + n + 1, first=n + 1, hole="HIS-21")
        await bob.cancel(sub)
    again = await page(alice, written.channel, after=read.start, limit=1)
    t.equal(numbers(again), [0], "the event behind `start`", frame=again.frame, requirement="HIS-42")
    empty = await page(alice, t.channel(), limit=3)
    t.equal(empty.events, [], "the events of a channel to which nobody published", frame=empty.frame)


@check("his/page-carries-enc", covers="HIS-21", needs=["history"])
async def page_carries_enc(t: Test) -> None:
    """Data in base64 is marked as such on a page, and other data is not."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 1, more=2)
    await alice.publish(written.channel, "aGk=", enc="base64")
    await alice.publish(written.channel, None)
    place = written.places[1]
    for due in (("aGk=", "base64"), (None, None)):
        read = await page(alice, written.channel, after=place, limit=1)
        seen = [(event.get("data"), event.get("enc")) for event in read.events]
        t.that(seen == [due], f"the events are {seen}", frame=read.frame)
        place = read.end


def holds_at_most(t: Test, read: Page, limit: int, what: str) -> None:
    """State that a page, called `what`, has no more events than it was asked for."""
    count = len(read.events)
    t.that(count <= limit, f"{what} has {count}", frame=read.frame, requirement="HIS-25")


@check("his/after", covers=["HIS-22", "HIS-26", "HIS-25", "HIS-45"], needs=["history"])
async def after(t: Test) -> None:
    """A page `after` a place begins with the event that follows it; `more` tells whether others follow."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 5)
    for place in range(6):
        for limit in (1, 2, 5):
            if limit > alice.limit("history_limit"):
                continue
            read = await page(alice, written.channel, after=written.places[place], limit=limit)
            what = f"the page of {limit} behind event {place - 1}"
            holds_at_most(t, read, limit, what)
            due = list(range(place, min(5, place + limit)))
            t.equal(len(read.events), len(due), f"events on {what}", frame=read.frame, requirement="HIS-45")
            t.equal(numbers(read), due, what, frame=read.frame)
            further = place + limit < 5
            t.equal(read.more, further, f"`more` of {what}", frame=read.frame, requirement="HIS-26")
            if read.events:
                back = await page(alice, written.channel, after=read.start, limit=1)
                t.equal(
                    numbers(back), due[:1], "the event behind `start`", frame=back.frame, requirement="HIS-42"
                )


@check("his/before", covers=["HIS-23", "HIS-26", "HIS-25", "HIS-42", "HIS-45"], needs=["history"])
async def before(t: Test) -> None:
    """A page `before` a place ends with the event that leads up to it; `more` tells whether others do."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 5)
    for place in range(6):
        for limit in (1, 2, 5):
            if limit > alice.limit("history_limit"):
                continue
            read = await page(alice, written.channel, before=written.places[place], limit=limit)
            what = f"the page of {limit} that leads up to event {place - 1}"
            holds_at_most(t, read, limit, what)
            due = list(range(max(0, place - limit), place))
            t.equal(numbers(read)[-1:], due[-1:], f"the last event on {what}", frame=read.frame)
            t.equal(len(read.events), len(due), f"events on {what}", frame=read.frame, requirement="HIS-45")
            t.equal(
                numbers(read),
                due,
                what,
                frame=read.frame,
                hint="the event that the cursor was taken from is included",
            )
            t.equal(read.more, place > limit, f"`more` of {what}", frame=read.frame, requirement="HIS-26")
            if read.events:
                front = await page(alice, written.channel, before=read.start, limit=1)
                due = list(range(max(0, due[0] - 1), due[0]))
                t.equal(
                    numbers(front), due, "the event before `start`", frame=front.frame, requirement="HIS-42"
                )


@check("his/page-limits", covers=["HIS-25", "HIS-26"], needs=["history"])
async def page_limits(t: Test) -> None:
    """No page holds more than `history_limit`, whatever `limit` asks for; without `limit` it is the limit."""
    tight = await tight_session(t)
    most = tight.limit("history_limit")
    written = await row(t, tight, most + 2)
    for limit in ({}, {"limit": most + 1}, {"limit": 2**53 - 1}, {"limit": most}):
        newest = await page(tight, written.channel, **limit)
        t.equal(numbers(newest), list(range(2, most + 2)), f"the newest events, {limit}", frame=newest.frame)
        t.equal(newest.more, True, "`more`", frame=newest.frame, requirement="HIS-26")
        oldest = await page(tight, written.channel, after=written.places[0], **limit)
        t.equal(numbers(oldest), list(range(most)), f"the oldest events, {limit}", frame=oldest.frame)


async def forward(t: Test, written: Row, size: int) -> list[list[object]]:
    """Read a log page by page with a narrow client and return the numbers of each page."""
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    pages: list[list[object]] = []
    place, more = written.places[0], True
    while more and len(pages) <= written.end:
        read = await page(narrow, written.channel, after=place)
        bytes_ = len(read.frame.text.encode())
        t.that(bytes_ <= SMALL, f"a page has {bytes_} bytes", frame=read.frame)
        t.that(bool(read.events), "a page with `more` is empty", frame=read.frame, hint="paging must advance")
        pages.append(numbers(read))
        place, more = read.end, read.more is True
    return pages


@check("his/page-fits-the-frame", covers=["HIS-27", "HIS-26"], needs=["history"])
async def page_fits_the_frame(t: Test) -> None:
    """A page holds no more events than fit into a frame, and paging reaches them all."""
    alice = await t.session(name="alice")
    if alice.limit("max_frame") < 2 * SMALL:
        raise t.unverified("max_frame is so small that no client can ask for less")
    written = await row(t, alice, 6, size=1500)
    pages = await forward(t, written, 1500)
    t.equal([n for read in pages for n in read], list(range(6)), "the events of all pages together")
    t.that(max(map(len, pages)) <= 2, "more events stand on a page than can fit into it")
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    newest = await page(narrow, written.channel)
    t.equal(numbers(newest)[-1:], [5], "the last event of the newest page", frame=newest.frame)
    t.equal(newest.more, True, "`more`", frame=newest.frame, requirement="HIS-26")
    rest = await page(narrow, written.channel, before=newest.start)
    t.equal(
        numbers(rest)[-1:], [5 - len(newest.events)], "the last event of the page before", frame=rest.frame
    )


@check("his/event-larger-than-a-page", covers=["HIS-28", "HIS-27"], needs=["history"])
async def event_larger_than_a_page(t: Test) -> None:
    """An event that fits on no page stands there as `too_large`, with its cursor, and paging goes past it."""
    alice = await t.session(name="alice")
    if alice.limit("max_frame") < 2 * SMALL:
        raise t.unverified("max_frame is so small that no client can ask for less")
    written = await row(t, alice, 1, more=2)
    await pour(t, alice, written.channel, 1, first=1, size=SMALL + 50)
    await pour(t, alice, written.channel, 1, first=2)
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    seen: list[object] = []
    place: str = written.places[0]
    for _ in range(3):
        call = await narrow.start("history", channel=written.channel, after=place, limit=1)
        answer = await t.must(call.result(), hint="one large event must not make the log unreadable")
        read = await page(narrow, written.channel, after=place, limit=1)
        t.equal(len(read.events), 1, "the events on the page", frame=answer)
        (event,) = read.events
        if event.get("too_large") is True:
            t.equal(sorted(event), ["cursor", "too_large"], "the members of the large event", frame=answer)
            seen.append("too_large")
        else:
            seen.append(numbers(read)[0])
        place = read.end
    t.equal(seen, [0, "too_large", 2], "the events, one page each")


@check(
    "his/trimmed", covers=["HIS-29", "HIS-30", "HIS-26", "HIS-44"], needs=["history", "rpc", "script:trim"]
)
async def trimmed(t: Test) -> None:
    """A page that reaches back to where the log was trimmed says so; a place before it is `unrecoverable`."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 3)
    await (await alice.run(["trim", written.channel])).result()
    count = min(3, alice.limit("history_limit"))
    await pour(t, alice, written.channel, count, first=3)
    newest = await page(alice, written.channel, limit=count)
    if not newest.events:
        raise t.unverified(f"the log of a channel does not hold {count} events")
    due = list(range(3, 3 + count))
    t.equal(numbers(newest), due, "the events that are left", frame=newest.frame, requirement="HIS-24")
    t.equal(newest.data.get("trimmed"), True, "`trimmed`", frame=newest.frame)
    t.equal(newest.more, False, "`more`", frame=newest.frame, requirement="HIS-26")
    back = await page(alice, written.channel, before=newest.end, limit=count)
    t.equal(back.data.get("trimmed"), True, "`trimmed` of a page before a place", frame=back.frame)
    if count > 1:
        short = await page(alice, written.channel, limit=1)
        t.that("trimmed" not in short.data, NOT_TRIMMED, frame=short.frame, requirement="HIS-44")
    for name in ("after", "before"):
        for place in written.places[:3]:
            call = await alice.start("history", channel=written.channel, **{name: place})
            await t.must(call.error("unrecoverable"), requirement="HIS-30")


@check("his/nothing-trimmed", covers="HIS-44", needs=["history"])
async def nothing_trimmed(t: Test) -> None:
    """`trimmed` stands on no page in whose direction events are left, nor when none were ever trimmed."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 3)
    bounds: list[dict[str, object]] = [
        {"limit": 1},
        {"before": written.places[3], "limit": 2},
        {"before": written.places[1]},
        {"before": written.places[0]},
        {"after": written.places[0]},
        {"after": written.places[3]},
    ]
    for some in bounds:
        read = await page(alice, written.channel, **some)
        t.that(
            "trimmed" not in read.data, NOT_TRIMMED, frame=read.frame, hint="older than the page, and gone"
        )
    fresh = await page(alice, t.channel())
    t.that("trimmed" not in fresh.data, NOT_TRIMMED, frame=fresh.frame)


@check("his/bad-cursor", covers="HIS-31", needs=["history"])
async def bad_cursor(t: Test) -> None:
    """A place of another channel or another epoch, or none at all, is a `bad_cursor`."""
    alice = await t.session(name="alice")
    written, other = await row(t, alice, 2), await row(t, alice, 2)
    channel, bad = (
        written.channel,
        [other.places[1], f"~{t.random.getrandbits(64):x}", "\u00e9\U0001f642 %00"],
    )
    for name in ("after", "before"):
        for place in bad:
            call = await alice.start("history", channel=channel, **{name: place})
            await t.must(call.error("bad_cursor"))
    if "wipe" in t.bench.target.script_steps:
        await (await alice.run(["wipe", channel])).result()
        for name in ("after", "before"):
            call = await alice.start("history", channel=channel, **{name: written.places[1]})
            await t.must(call.error("bad_cursor"), hint="a place of another epoch")


@check("his/page-without-a-log", covers=["HIS-32", "HIS-31"], needs=["history", "channel:unlogged"])
async def page_without_a_log(t: Test) -> None:
    """The page of a channel without a log is empty and `trimmed`; no cursor names a place there."""
    alice = await t.session(name="alice")
    channel, written = t.channel("unlogged"), await row(t, alice, 1)
    await alice.publish(channel, t.payload())
    read = await page(alice, channel)
    t.equal(read.events, [], "the events", frame=read.frame)
    t.equal(read.more, False, "`more`", frame=read.frame)
    t.equal(read.data.get("trimmed"), True, "`trimmed`", frame=read.frame)
    for name in ("after", "before"):
        call = await alice.start("history", channel=channel, **{name: written.places[0]})
        await t.must(call.error("bad_cursor"), requirement="HIS-31")


@check("his/bad-requests", covers="HIS-33", needs=["history"])
async def bad_requests(t: Test) -> None:
    """Both bounds at once, and a `limit` that is no integer of at least 1, are `bad_request`."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 2)
    good: dict[str, object] = {"type": "history", "channel": written.channel, "after": written.places[0]}
    await t.rejects(good | {"before": written.places[2]}, like=good, code="bad_request")
    good |= {"limit": 1}
    for limit in (0, -1, "1", None, True, 1.5):
        await t.rejects(good | {"limit": limit}, like=good, code="bad_request")


@check(
    "his/forbidden-page",
    covers="HIS-34",
    needs=["history", "identity:alice", "identity:alice-narrow", "channel:restricted"],
)
async def forbidden_page(t: Test) -> None:
    """Who may not subscribe to a channel may not read its log either, and may again with the permission."""
    alice, narrow = await t.session("alice"), await t.session("alice-narrow")
    written = await row(t, alice, 2, channel=t.channel("restricted"), by=alice)
    for bounds in ({}, {"after": written.places[0]}, {"before": "~"}):
        call = await narrow.start("history", channel=written.channel, **bounds)
        await t.must(call.error("forbidden"), hint="whoever can read the log can read the events")
    for place, n in ((written.places[0], 0), (written.places[1], 1)):
        read = await page(alice, written.channel, after=place, limit=1)
        t.equal(numbers(read), [n], "what another identity reads", frame=read.frame)
    answer = await alice.start("auth", token=t.token("alice-narrow"))
    await answer.result()
    await t.must((await alice.start("history", channel=written.channel)).error("forbidden"))


@check("his/everybodys-events", covers="HIS-21", needs=["history"])
async def everybodys_events(t: Test) -> None:
    """A page lists what the reader published itself too, whatever its `echo`."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 1, more=2)
    await alice.publish(written.channel, {"n": 1}, echo=False)
    await alice.publish(written.channel, {"n": 2})
    seen: list[object] = []
    place, more = written.places[0], True
    while more and len(seen) < 9:
        read = await page(alice, written.channel, after=place)
        seen += numbers(read)
        more = read.more is True and bool(read.events)
        place = read.end if more else place
    t.equal(seen, [0, 1, 2], "the events", frame=read.frame)


@check("his/paging-back-from-open", covers=["HIS-23", "HIS-02", "HIS-42"], needs=["history"])
async def paging_back_from_open(t: Test) -> None:
    """Paging back from `open.cursor` under load, plus what the subscription gets, is every event once."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    written = await row(t, bob, 7, more=20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish_on, t, written)
        sub = await alice.subscribe(written.channel)
        back: list[object] = []
        place, more = cursor_of(opened(sub), "HIS-02"), True
        while more and len(back) < 100:
            read = await page(alice, written.channel, before=place, limit=2)
            back = numbers(read) + back
            more = read.more is True and bool(read.events)
            place = read.start if read.events else place
    await t.until(alice, reached(sub, 26), "the newest event", requirement="SUB-05")
    t.equal(back, list(range(len(back))), "the events of the pages")
    account(t, alice.frames, sub, 27, first=len(back), hole="HIS-23", hint="neither a hole nor an overlap")


async def publish_on(t: Test, written: Row) -> None:
    """Publish 20 more events of a row, a few at a time."""
    publisher = await t.session(name="busy")
    for first in range(written.end, written.end + 20, 4):
        await pour(t, publisher, written.channel, 4, first=first)
