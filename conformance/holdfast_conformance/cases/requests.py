"""Exchanges and requests: `spec/04-requests.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check


@check("rpc/result-carries-the-value", covers="RPC-13", needs=["rpc", "method:echo"])
async def result_carries_the_value(t: Test) -> None:
    """A method that succeeds ends its request with a result that carries the value."""
    alice = await t.session("alice")
    value = {"text": "ψ", "list": [1, True, None, {"n": t.payload()}]}
    call = await alice.start("request", method=t.method("echo"), data=value)
    await t.must(call.result(data=value), hint="the value of the method is the `data` of the result")
