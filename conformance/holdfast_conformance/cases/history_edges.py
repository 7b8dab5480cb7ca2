"""Corners of the log: hidden events, large ones, and what is trimmed. `spec/12-history.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check
from holdfast_conformance.logs import arrived, numbers, page, recovers, row
from holdfast_conformance.traffic import account, number, pour

SMALL = 4096
"""The least `max_frame` that a client may ask for."""


@check("his/last-counts-the-hidden", covers="HIS-15", needs=["history"])
async def last_counts_the_hidden(t: Test) -> None:
    """`last` counts events of the log, those among them that the session does not get included."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    written = await row(t, bob, 2)
    await alice.publish(written.channel, {"n": 2}, echo=False)
    await pour(t, bob, written.channel, 1, first=3)
    sub = await alice.subscribe(written.channel, last=2)
    await t.until(alice, arrived(sub, 3), "the newest event")
    came = [number(frame) for frame in sub.frames if frame.type == "event"]
    t.equal(came, [3], "the newest two events of the log, as far as they are for this session")


@check("his/large-event-backward", covers=["HIS-28", "HIS-42"], needs=["history"])
async def large_event_backward(t: Test) -> None:
    """Paging back goes past an event that fits on no page, and shows where it stood."""
    alice = await t.session(name="alice")
    if alice.limit("max_frame") < 2 * SMALL:
        raise t.unverified("max_frame is so small that no client can ask for less")
    written = await row(t, alice, 1)
    await pour(t, alice, written.channel, 1, first=1, size=SMALL + 50)
    await pour(t, alice, written.channel, 1, first=2)
    narrow = await t.session(name="narrow", hello={"limits": {"max_frame": SMALL}})
    seen: list[object] = []
    bounds: dict[str, object] = {}
    for _ in range(3):
        read = await page(narrow, written.channel, limit=1, **bounds)
        if not read.events and read.data.get("trimmed") is True:
            raise t.unverified("the log of a channel does not hold three events")
        t.equal(len(read.events), 1, "the events on the page", frame=read.frame)
        seen += ["too_large"] if read.events[0].get("too_large") is True else numbers(read)
        bounds = {"before": read.start}
    t.equal(seen, [2, "too_large", 0], "the events, one page each")


@check("his/trimmed-empty", covers=["HIS-29", "HIS-44"], needs=["history", "rpc", "script:trim"])
async def trimmed_empty(t: Test) -> None:
    """A log of which nothing is left says so too; a page that goes forward never does."""
    alice = await t.session(name="alice")
    written = await row(t, alice, 3)
    await (await alice.run(["trim", written.channel])).result()
    gone = await page(alice, written.channel)
    t.equal(gone.events, [], "the events of a trimmed log", frame=gone.frame)
    t.equal(gone.data.get("trimmed"), True, "`trimmed`", frame=gone.frame, requirement="HIS-29")
    await pour(t, alice, written.channel, 1, first=3)
    newest = await page(alice, written.channel)
    if not newest.events:
        raise t.unverified("the log of a channel holds nothing")
    forward = await page(alice, written.channel, after=newest.start)
    t.that(
        "trimmed" not in forward.data,
        "a page that goes forward says `trimmed`",
        frame=forward.frame,
        requirement="HIS-44",
    )


@check("his/cursor-without-echo", covers="HIS-35", needs=["history"])
async def cursor_without_echo(t: Test) -> None:
    """Who publishes with `echo:false` is told the place of the event as well."""
    alice, bob = await t.session(name="alice"), await t.session(name="bob")
    written = await row(t, bob, 1)
    answer = await alice.publish(written.channel, {"n": 1}, echo=False)
    data = answer.get("data")
    place = data.get("cursor") if isinstance(data, dict) else None
    t.that(isinstance(place, str), "the result of a publish has no cursor", frame=answer)
    sub = await recovers(t, bob, written, str(place), requirement="HIS-35")
    await pour(t, bob, written.channel, 1, first=2)
    await t.until(bob, arrived(sub, 2), "the event behind it", requirement="HIS-05")
    account(t, bob.frames, sub, 3, first=2, hole="HIS-35")
