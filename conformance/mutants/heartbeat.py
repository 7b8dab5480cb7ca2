"""Mutants of spec/03-session.md, its section about the heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.states import Input, Phase
from holdfast_reference.protocol.timers import NEVER, Clock
from holdfast_reference.server.link import Link
from holdfast_reference.server.websocket import Pinged

from mutants.harness import Patch, mutant
from mutants.tools import on_close, on_frame, on_write

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects

    Ends = tuple[tuple[Input, float], ...]
    Row = dict[str, object]
    Read = Callable[[Row], Effects]


@mutant(
    "ses/ping-never",
    violates="SES-30",
    killed_by=[
        "ses/ping-to-an-idle-client",
        "ses/ping-to-a-listening-client",
        "ses/ping-to-a-talking-client",
    ],
    says="ping",
)
def _(patch: Patch) -> None:
    """The server never pings."""
    patch.set(Clock, "ping_at", lambda self: NEVER)


@mutant(
    "ses/ping-when-both-are-silent",
    violates="SES-30",
    killed_by=["ses/ping-to-a-listening-client", "ses/ping-to-a-talking-client"],
    says="no ping came while",
)
def _(patch: Patch) -> None:
    """Traffic in either direction puts the ping off."""
    patch.set(Clock, "ping_at", lambda self: max(self.sent, self.received, self.pinged) + self._interval)


@mutant(
    "ses/ping-when-nothing-came",
    violates="SES-30",
    killed_by="ses/ping-to-a-talking-client",
    says="no ping came while the client talked",
)
def _(patch: Patch) -> None:
    """Only the silence of the client is a reason to ping."""
    patch.set(Clock, "ping_at", lambda self: max(self.received, self.pinged) + self._interval)


@mutant(
    "ses/ping-when-nothing-went",
    violates="SES-30",
    killed_by="ses/ping-to-a-listening-client",
    says="no ping came while events flowed",
)
def _(patch: Patch) -> None:
    """Only the silence of the server is a reason to ping."""
    patch.set(Clock, "ping_at", lambda self: max(self.sent, self.pinged) + self._interval)


@mutant(
    "ses/pings-too-often",
    violates="SES-31",
    killed_by=["ses/ping-to-an-idle-client", "ses/one-ping-per-interval"],
    says="pings",
)
def _(patch: Patch) -> None:
    """A silent client is pinged again and again."""
    patch.set(Clock, "ping_at", lambda self: self.pinged + self._interval / 4)


@mutant(
    "ses/silence-forgiven",
    violates="SES-32",
    killed_by=["ses/silent-client-closed", "ses/silent-listener-closed"],
    says="closed with 4304; it is still open",
)
def _(patch: Patch) -> None:
    """A silent client is kept."""

    def change(core: Connection, code: int) -> int | None:
        if code != 4304:
            return code
        core._clock.received = trio.current_time()
        return None

    on_close(patch, change)


@mutant(
    "ses/writing-is-life",
    violates="SES-32",
    killed_by="ses/silent-listener-closed",
    says="closed with 4304; it is still open",
)
def _(patch: Patch) -> None:
    """What the server writes counts as a sign of life of the client."""

    def written(original: Callable[..., None], self: Connection, count: int, now: float) -> None:
        original(self, count, now)
        if count:
            self._clock.received = now

    patch.wrap(Connection, "written", written)


@mutant(
    "ses/control-frames-are-life",
    violates="SES-32",
    killed_by="ses/websocket-pings-are-no-life",
    says="closed with 4304; it is still open",
)
def _(patch: Patch) -> None:
    """A WebSocket ping counts as a sign of life."""

    def control(original: Callable[..., None], self: Link, message: object) -> None:
        if isinstance(message, Pinged):
            self.core._clock.received = trio.current_time()
        original(self, message)

    patch.wrap(Link, "_control", control)


@mutant(
    "ses/only-pongs-are-life",
    violates="SES-33",
    killed_by="ses/every-frame-is-life",
    says="closed with 4304",
)
def _(patch: Patch) -> None:
    """Only pongs and pings count as signs of life."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        before = core._clock.received
        done = read(frame)
        if core.phase is not Phase.NEW and frame.get("type") not in ("ping", "pong", "hello"):
            core._clock.received = before
        return done

    on_frame(patch, look)


@mutant("ses/ping-without-t-unanswered", violates="SES-34", killed_by="framing/ping-plain", says='"pong"')
def _(patch: Patch) -> None:
    """A ping without `t` has no pong."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        bare = core.phase is not Phase.NEW and frame.get("type") == "ping" and "t" not in frame
        return NOTHING if bare else None

    on_frame(patch, look)


@mutant(
    "ses/t-in-ascii",
    violates="SES-35",
    killed_by=["ses/pings-in-a-burst", "framing/ping-t-64-bytes-multibyte"],
    says="pong",
)
def _(patch: Patch) -> None:
    """A pong has a `t` without the characters beyond ASCII."""

    def change(frame: Row) -> Row | None:
        t = frame.get("t")
        return frame | {"t": t.encode("ascii", "ignore").decode()} if isinstance(t, str) else None

    on_write(patch, change)


@mutant("ses/t-invented", violates="SES-35", killed_by="ses/pings-in-a-burst", says="carries a t")
def _(patch: Patch) -> None:
    """The pong for a ping without `t` has an empty one."""
    on_write(patch, lambda frame: {"t": ""} | frame if frame["type"] == "pong" else None)


@mutant("ses/pong-unexpected", violates="SES-36", killed_by="framing/pong-unsolicited", says="4000")
def _(patch: Patch) -> None:
    """A pong that nothing asked for is a fault."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        fresh = core._clock.pinged == core._clock.received  # no ping of ours since welcome
        return core.close(4000) if fresh and frame.get("type") == "pong" else None

    on_frame(patch, look)


def _clock_ends(patch: Patch, end: Input, early: float) -> None:
    """Let one timer that ends connections go off `early` seconds too soon."""

    def ends(original: Callable[..., Ends], self: Clock, *args: object, **more: object) -> Ends:
        return tuple((input, at - early * (input is end)) for input, at in original(self, *args, **more))

    patch.wrap(Clock, "_ends", ends)


@mutant(
    "ses/silence-cut-short",
    violates="SES-49",
    killed_by="ses/silence-is-not-cut-short",
    says="of silence",
)
def _(patch: Patch) -> None:
    """4304 comes 400 ms too early."""
    _clock_ends(patch, Input.SILENCE, 0.4)


@mutant(
    "ses/drain-cut-short", violates="SES-49", killed_by="ses/drain-is-not-cut-short", says="closed with 4200"
)
def _(patch: Patch) -> None:
    """4200 comes 400 ms too early."""
    _clock_ends(patch, Input.DEADLINE, 0.4)


@mutant(
    "ses/identity-cut-short",
    violates="SES-49",
    killed_by="ses/identity-is-not-cut-short",
    says="closed with 4100",
)
def _(patch: Patch) -> None:
    """4100 comes 200 ms too early."""
    _clock_ends(patch, Input.EXPIRY, 0.2)
