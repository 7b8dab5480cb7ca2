"""Long replays: how much `last` gives, and what a pong says amid a recovery. `spec/12-history.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check
from holdfast_conformance.lives import tight_session
from holdfast_conformance.logs import arrived, recovers, row
from holdfast_conformance.traffic import account, narrow_session, pour, reached

MOST = 600
"""Events that a check is willing to publish."""


@check("his/last-of-many", covers="HIS-15", needs=["history"])
async def last_of_many(t: Test) -> None:
    """`last` may ask for more events than `history_limit` and `queue`, and gets them."""
    tight, bob = await tight_session(t), await t.session(name="bob")
    count = min(MOST, max(tight.limit("history_limit"), tight.limit("queue")) + 3)
    written = await row(t, bob, count)
    sub = await tight.subscribe(written.channel, last=count)
    await pour(t, bob, written.channel, 1, first=count)
    await t.until(tight, arrived(sub, count), "the live event", requirement="SUB-05")
    hint = "`history_limit` bounds a page; `last` has no bound but the log"
    account(t, tight.frames, sub, count + 1, hole="HIS-15", hint=hint)


@check("his/held-amid-recovery", covers=["DEL-15", "DEL-36"], needs=["history", "ack", "fence"])
async def held_amid_recovery(t: Test) -> None:
    """A pong amid a recovery says `held`, also when the window has just been opened."""
    narrow, bob = await narrow_session(t), await t.session(name="bob")
    window = narrow.receipts.window
    written = await row(t, bob, 3 * window)
    sub = await recovers(t, narrow, written, 0)
    await t.until(narrow, lambda: narrow.receipts.got == window, "a full window", requirement="HIS-05")
    await narrow.pipeline({"type": "ack", "seq": window}, {"type": "ping", "t": "amid"})
    narrow.receipts.acknowledged(window)
    pong = await t.must(narrow.receives("pong", t="amid"), requirement="DEL-36")
    hint = "an event that the replay has not come to belongs before the pong like one that is queued"
    t.equal(pong.get("held"), True, f"`held`, {window} events before the end,", frame=pong, hint=hint)
    narrow.acks = True
    await narrow.ack()
    await t.until(narrow, reached(sub, written.end - 1), "the last event", requirement="HIS-05")
    account(t, narrow.frames, sub, written.end, hole="HIS-05")
