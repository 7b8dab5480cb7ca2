"""Subscriptions: `spec/05-subscriptions.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check


@check("sub/cancel-stops-delivery", covers="RPC-11", needs=["pubsub", "events"])
async def cancel_stops_delivery(t: Test) -> None:
    """After the terminal of a cancelled subscription, no event of it reaches the session."""
    alice, bob = await t.sessions("alice", "bob")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await bob.subscribe(channel)
    await t.control(alice.gets(await t.emit(channel)))
    await alice.cancel(sub)
    ghost = await t.emit(channel)
    await bob.gets(ghost)
    await t.must_not(alice.gets(ghost), hint="remove the subscriber before you queue the result, not after")
