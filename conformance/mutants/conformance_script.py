"""Mutants of spec/appendix-conformance.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from holdfast_reference import conformance as script
from holdfast_reference.protocol.codec import encode_data
from holdfast_reference.protocol.events import Event
from holdfast_reference.server.methods import Call

from mutants.harness import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from holdfast_reference.protocol.errors import ExchangeError


def _step(patch: Patch, name: str, replacement: Callable[..., Awaitable[None]]) -> None:
    """Give a step another meaning; the replacement gets the script object and the step's arguments."""
    patch.set(script._Script, name, replacement)


@mutant(
    "cnf/runs-up-to-the-fault",
    violates="CNF-01",
    killed_by="cnf/bad-script-runs-nothing",
    says="must not",
)
def _(patch: Patch) -> None:
    """Each step is checked when its turn comes, so the good ones before a bad one are run."""
    whole = script._checked

    def checked(steps: Any, max_frame: int) -> Iterator[list[Any]]:
        if not isinstance(steps, list):
            whole(steps, max_frame)
        for step in steps:
            yield from whole([step], max_frame)

    patch.set(script, "_checked", checked)


@mutant(
    "cnf/odd-arguments-accepted",
    violates="CNF-01",
    killed_by=["cnf/bad-stream-step-runs-nothing", "cnf/bad-script-runs-nothing"],
    says='expected error "bad_request"',
)
def _(patch: Patch) -> None:
    """Integers out of bounds are taken."""
    patch.set(script, "_integer", lambda least, most: lambda value: type(value) is int)


@mutant("cnf/backwards", violates="CNF-02", killed_by="cnf/steps-in-order", says="expected")
def _(patch: Patch) -> None:
    """The last step is run first."""
    whole = script._checked
    patch.set(script, "_checked", lambda steps, max_frame: list(reversed(whole(steps, max_frame))))


@mutant(
    "cnf/emit-skips-the-caller", violates="CNF-02", killed_by="cnf/emit-reaches-everybody", says="expected"
)
def _(patch: Patch) -> None:
    """`emit` spares the session that runs the script."""

    async def emit(self: Any, channel: str, data: object) -> None:
        origin = self._call.connection.core.origin
        self._server.broker.publish(Event(channel, encode_data(data), origin))

    _step(patch, "emit", emit)


@mutant("cnf/burst-one-short", violates="CNF-02", killed_by="cnf/burst-counts", says="events")
def _(patch: Patch) -> None:
    """`burst` publishes one event less."""
    whole = script._Script.burst

    async def burst(self: Any, channel: str, count: int, size: int | None = None) -> None:
        await whole(self, channel, max(0, count - 1), size)

    _step(patch, "burst", burst)


@mutant("cnf/hold-does-not", violates="CNF-02", killed_by="cnf/hold-waits", says="70 ms took")
def _(patch: Patch) -> None:
    """`hold` does not wait."""

    async def hold(self: Any, ms: int) -> None:
        await trio.lowlevel.checkpoint()

    _step(patch, "hold", hold)


@mutant(
    "cnf/stream-in-one-go", violates="CNF-02", killed_by="cnf/stream-counts-and-paces", says="without a wait"
)
def _(patch: Patch) -> None:
    """`stream` does not wait between chunks."""
    whole = script._Script.stream

    async def stream(self: Any, count: int, every_ms: int = 0, size: int | None = None) -> None:
        await whole(self, count, 0, size)

    _step(patch, "stream", stream)


@mutant("cnf/stream-restarts", violates="CNF-02", killed_by="cnf/stream-then-reply", says='expected "result"')
def _(patch: Patch) -> None:
    """`stream` ends the request."""
    whole = script._Script.stream

    async def stream(self: Any, *arguments: Any) -> None:
        await whole(self, *arguments)
        self._call.reply(None)

    _step(patch, "stream", stream)


@mutant("cnf/reply-at-once", violates="CNF-02", killed_by="cnf/reply-ends-the-request", says="`after_ms`")
def _(patch: Patch) -> None:
    """`reply` does not wait."""
    whole = script._Script.reply

    async def reply(self: Any, how: dict[str, Any] | None = None) -> None:
        await whole(self, {**(how or {}), "after_ms": 0})

    _step(patch, "reply", reply)


@mutant(
    "cnf/error-without-data", violates="CNF-02", killed_by="cnf/error-ends-the-request", says="error.data"
)
def _(patch: Patch) -> None:
    """`error` forgets its data."""

    def fail(original: Callable[..., None], self: Call, error: ExchangeError) -> None:
        error.data = None
        original(self, error)

    patch.wrap(Call, "fail", fail)


@mutant("cnf/close-with-1000", violates="CNF-02", killed_by="cnf/close-closes", says="to be closed with")
def _(patch: Patch) -> None:
    """`close` always closes with 1000."""

    async def close(self: Any, code: int) -> None:
        self._call.connection.close(1000)

    _step(patch, "close", close)


@mutant("cnf/abort-says-goodbye", violates="CNF-02", killed_by="cnf/abort-cuts", says="the connection was")
def _(patch: Patch) -> None:
    """`abort` sends a close frame."""

    async def abort(self: Any) -> None:
        self._call.connection.close(1011)

    _step(patch, "abort", abort)


@mutant(
    "cnf/expire-does-not",
    violates="CNF-02",
    killed_by="cnf/expire-expires",
    says="to be closed with 4100",
)
def _(patch: Patch) -> None:
    """`expire` does nothing."""

    async def expire(self: Any) -> None:
        await trio.lowlevel.checkpoint()

    _step(patch, "expire", expire)


@mutant("cnf/drain-is-long", violates="CNF-02", killed_by="cnf/drain-drains", says="deadline_ms is")
def _(patch: Patch) -> None:
    """`drain` takes a minute, whatever it was told."""

    async def drain(self: Any, deadline_ms: int) -> None:
        self._call.connection.drain(60_000)

    _step(patch, "drain", drain)


@mutant("cnf/never-ends", violates="CNF-03", killed_by="cnf/end-of-the-list", says='expected "result"')
def _(patch: Patch) -> None:
    """A script whose steps do not end the request leaves it open."""
    whole = script._checked

    def checked(steps: Any, max_frame: int) -> Iterator[list[Any]]:
        names = [step[0] for step in whole(steps, max_frame)]
        yield from steps
        if not {"reply", "error"} & set(names):
            yield ["hold", 3_600_000]

    patch.set(script, "_checked", checked)


@mutant("cnf/stops-at-reply", violates="CNF-04", killed_by="cnf/steps-behind-the-end", says="expected")
def _(patch: Patch) -> None:
    """The step that ends the request ends the script."""
    whole = script._checked

    def checked(steps: Any, max_frame: int) -> Iterator[list[Any]]:
        for step in whole(steps, max_frame):
            yield step
            if step[0] in ("reply", "error"):
                return

    patch.set(script, "_checked", checked)
