"""The envelope: `spec/02-envelope.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check


@check("env/finished-id-used-again", covers="ENV-17", needs=["rpc", "method:echo"])
async def finished_id_used_again(t: Test) -> None:
    """An id that was used before, and whose exchange has ended, closes the connection with 4003."""
    alice = await t.session("alice")
    first = await alice.start("request", method=t.method("echo"))
    await first.result()
    await alice.start("request", id=first.id, method=t.method("echo"))
    await t.closes(alice, 4003, hint="compare with the highest id of the session, not with the running ones")
