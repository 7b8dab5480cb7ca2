"""Mutants of numbers, acks and the window, spec/06-delivery.md and spec/09-limits-timers.md."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.errors import CloseCode, ProtocolViolation
from holdfast_reference.protocol.outgoing import REFUSAL, Outgoing

from mutants.harness import Patch, mutant
from mutants.tools import on_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.protocol.limits import Limits
    from holdfast_reference.protocol.session import Session

    from mutants.tools import Read, Row

SEQ = re.compile(rb'"seq":(\d+)')


def on_leave(patch: Patch, change: Callable[[bytes], bytes]) -> None:
    """Let `change(text)` replace each frame when it leaves, its number included."""

    def peek(original: Callable[..., list[bytes]], self: Connection, size: int) -> list[bytes]:
        return [change(text) for text in original(self, size)]

    patch.wrap(Connection, "peek", peek)


def on_begin(patch: Patch, change: Callable[[Connection, Session], None]) -> None:
    """Let `change(core, session)` alter each new session before its welcome."""

    def begin(original: Callable[..., Session], self: Connection, grant: Grant, now: float) -> Session:
        session = original(self, grant, now)
        change(self, session)
        return session

    patch.wrap(Connection, "_begin", begin)


def on_ack(patch: Patch, take: Callable[[Outgoing, int, Callable[[int], None]], None]) -> None:
    """Let `take(queue, seq, ack)` stand between each good ack and its effect."""

    def ack(original: Callable[..., None], self: Outgoing, seq: int) -> None:
        self.check_ack(seq)
        take(self, seq, lambda other: original(self, other))

    patch.wrap(Outgoing, "ack", ack)


@mutant(
    "del/refusals-unnumbered", violates="DEL-20", killed_by="del/every-kind-is-numbered", says="it is null"
)
def _(patch: Patch) -> None:
    """A refusal has no number."""
    on_leave(patch, lambda text: SEQ.sub(b'"x":1', text) if b'"type":"error"' in text else text)


@mutant("del/pongs-numbered", violates="DEL-20", killed_by="del/every-kind-is-numbered", says="without an id")
def _(patch: Patch) -> None:
    """A pong has a number."""
    on_leave(patch, lambda text: text[:-1] + b',"seq":1}' if b'"type":"pong"' in text else text)


@mutant(
    "del/pings-numbered",
    violates="DEL-20",
    killed_by="del/frames-are-numbered",
    says="with seq",
    during=["del/not-acking-*", "ses/ping-to-*"],
)
def _(patch: Patch) -> None:
    """The server's own ping has a number."""
    on_leave(patch, lambda text: b'{"type":"ping","seq":1}' if text == b'{"type":"ping"}' else text)


def _odd_numbers(patch: Patch) -> None:
    def sent(text: bytes) -> bytes:
        return SEQ.sub(lambda match: b'"seq":%d' % (2 * int(match[1]) - 1), text)

    on_leave(patch, sent)
    patch.wrap(Outgoing, "check_ack", lambda original, self, seq: original(self, (seq + 1) // 2))
    patch.wrap(Outgoing, "ack", lambda original, self, seq: original(self, (seq + 1) // 2))


@mutant("del/numbers-skip", violates="DEL-21", killed_by="del/every-kind-is-numbered", says="`seq`")
def _(patch: Patch) -> None:
    """Only odd numbers are given."""
    _odd_numbers(patch)


@mutant(
    "del/numbers-skip-everywhere",
    violates="DEL-21",
    killed_by="del/numbers-have-no-holes",
    says="was due",
    during=["sub/*"],
)
def _(patch: Patch) -> None:
    """Only odd numbers are given."""
    _odd_numbers(patch)


def in_secret(patch: Patch, change: Callable[[Limits], Limits]) -> None:
    """Let each queue go by other limits than `welcome` shows."""

    def begin(core: Connection, session: Session) -> None:
        session.outgoing._limits = change(session.limits)

    on_begin(patch, begin)


def _window_plus_one(limits: Limits) -> Limits:
    return replace(limits, window=limits.window + 1)


def _any_bytes(limits: Limits) -> Limits:
    return replace(limits, window_bytes=1 << 40)


@mutant("del/window-plus-one", violates="DEL-22", killed_by="del/window-closes", says="must not come")
def _(patch: Patch) -> None:
    """One frame more than `window` is sent."""
    in_secret(patch, _window_plus_one)


@mutant(
    "del/window-plus-one-everywhere",
    violates="DEL-22",
    killed_by="del/window-is-kept",
    says="is acknowledged",
    during=["del/closed-window-leaves-one-gap"],
)
def _(patch: Patch) -> None:
    """One frame more than `window` is sent."""
    in_secret(patch, _window_plus_one)


@mutant(
    "del/window-of-any-bytes", violates="DEL-23", killed_by="del/bytes-close-the-window", says="did not close"
)
def _(patch: Patch) -> None:
    """Only the number of unacknowledged frames counts."""
    in_secret(patch, _any_bytes)


@mutant(
    "del/window-of-any-bytes-everywhere",
    violates="DEL-23",
    killed_by="del/window-bytes-are-kept",
    says="bytes are not",
    during=["del/bytes-close-the-window"],
)
def _(patch: Patch) -> None:
    """Only the number of unacknowledged frames counts."""
    in_secret(patch, _any_bytes)


@mutant(
    "del/window-opens-late", violates="DEL-24", killed_by="del/ack-opens-the-window", says="one more frame"
)
def _(patch: Patch) -> None:
    """The window opens only when everything has been acknowledged."""
    on_ack(patch, lambda self, seq, ack: ack(seq) if seq == self.sent else None)


@mutant(
    "del/last-in-first-out", violates="DEL-24", killed_by="del/ack-opens-the-window", says="the row of events"
)
def _(patch: Patch) -> None:
    """When the window opens the newest frames go first."""

    def take(self: Outgoing, seq: int, ack: Callable[[int], None]) -> None:
        ack(seq)
        self._queue.reverse()

    on_ack(patch, take)


@mutant(
    "del/bytes-stay-unacknowledged",
    violates="DEL-24",
    killed_by=["del/acks-by-bytes-keep-moving"],
    says="the last large event",
)
def _(patch: Patch) -> None:
    """An ack frees its frames, but not their bytes."""

    def take(self: Outgoing, seq: int, ack: Callable[[int], None]) -> None:
        size = self._unacked_bytes
        ack(seq)
        self._unacked_bytes = size

    on_ack(patch, take)


@mutant("del/silent-behind-the-window", violates="DEL-25", killed_by="del/window-closes", says='"pong"')
def _(patch: Patch) -> None:
    """Nothing at all is written while the window is closed."""
    patch.wrap(Outgoing, "peek", lambda original, self, size: [] if self.blocked else original(self, size))


@mutant(
    "del/deaf-behind-the-window",
    violates="DEL-25",
    killed_by=["del/closed-window-is-read-on"],
    says="error",
)
def _(patch: Patch) -> None:
    """At `max_inflight` refusals reading stops, also when the window is closed."""

    def look(original: Callable[..., None], self: Outgoing) -> None:
        original(self)
        self.full = self.full or self.counts[REFUSAL] >= self._limits.max_inflight

    patch.wrap(Outgoing, "_look", look)


@mutant(
    "del/acks-of-anything",
    violates="DEL-26",
    killed_by=["del/ack-ahead-closes-4004", "del/ack-ahead-after-resume-closes-4004"],
    says="4004",
)
def _(patch: Patch) -> None:
    """An ack of what was never sent is taken for one of the newest frame."""
    patch.set(Outgoing, "check_ack", lambda self, seq: None)
    patch.wrap(Outgoing, "ack", lambda original, self, seq: original(self, min(seq, self.sent)))


@mutant(
    "del/ack-ahead-by-one",
    violates="DEL-26",
    killed_by=["del/ack-ahead-closes-4004", "del/ack-ahead-after-resume-closes-4004"],
    says="4004",
)
def _(patch: Patch) -> None:
    """An ack may be one ahead."""
    patch.wrap(Outgoing, "check_ack", lambda original, self, seq: original(self, seq - 1))
    patch.wrap(Outgoing, "ack", lambda original, self, seq: original(self, min(seq, self.sent)))


@mutant(
    "del/acks-free-after-resume",
    violates="DEL-26",
    killed_by="del/ack-ahead-after-resume-closes-4004",
    says="4004",
)
def _(patch: Patch) -> None:
    """After a resume any ack is accepted."""
    times: dict[Outgoing, int] = {}

    def attach(original: Callable[..., None], self: Outgoing) -> None:
        times[self] = times.get(self, 0) + 1
        original(self)

    def check(original: Callable[..., None], self: Outgoing, seq: int) -> None:
        if times.get(self, 0) < 2:
            original(self, seq)

    patch.wrap(Outgoing, "attach", attach)
    patch.wrap(Outgoing, "check_ack", check)
    patch.wrap(Outgoing, "ack", lambda original, self, seq: original(self, min(seq, self.sent)))


@mutant(
    "del/old-acks-close",
    violates="DEL-27",
    killed_by=["del/old-acks-are-ignored", "acks/equal", "acks/lower"],
    says="4004",
)
def _(patch: Patch) -> None:
    """An ack of what is acknowledged already is a fault."""

    def take(self: Outgoing, seq: int, ack: Callable[[int], None]) -> None:
        if seq and seq <= self.acked:
            raise ProtocolViolation(CloseCode.BAD_ACK, "again")
        ack(seq)

    on_ack(patch, take)


@mutant(
    "del/old-acks-count-back",
    violates="DEL-27",
    killed_by="del/old-acks-are-ignored",
    says="a full window",
)
def _(patch: Patch) -> None:
    """The window counts from the newest ack, not from the highest."""

    def take(self: Outgoing, seq: int, ack: Callable[[int], None]) -> None:
        if seq < self.acked:
            self._limits = replace(self._limits, window=max(1, self._limits.window - (self.acked - seq)))
        ack(seq)

    on_ack(patch, take)


def _ignores_bad(core: Connection, frame: Row, read: Read) -> Effects | None:
    bad = frame.get("type") == "ack" and (type(frame.get("seq")) is not int or cast("int", frame["seq"]) < 1)
    return NOTHING if bad and "ack" in core.profiles else None


@mutant(
    "env/bad-acks-ignored",
    violates="ENV-34",
    killed_by=["acks/seq-zero", "acks/seq-string", "acks/seq-missing"],
    says="4005",
)
def _(patch: Patch) -> None:
    """An ack without a usable number is ignored."""
    on_frame(patch, _ignores_bad)


@mutant(
    "ver/ack-without-profile-closes",
    violates="VER-06",
    killed_by=["negotiation/ack-ignored-far", "negotiation/ack-ignored-zero"],
    says="4005",
)
def _(patch: Patch) -> None:
    """An ack is a fault where its profile was not negotiated."""

    def react(core: Connection, frame: Row, read: Read) -> Effects | None:
        wrong = frame.get("type") == "ack" and "ack" not in core.profiles
        return core.close(CloseCode.BAD_SCHEMA) if wrong else None

    on_frame(patch, react)


def _on_window(patch: Patch, change: Callable[[int], int | None]) -> None:
    """Let `change(window)` replace the window that a hello asks for; None leaves it out."""

    def react(core: Connection, frame: Row, read: Read) -> Effects | None:
        limits = frame.get("limits")
        if (
            frame.get("type") != "hello"
            or not isinstance(limits, dict)
            or type(limits.get("window")) is not int
        ):
            return None
        window = change(limits["window"])
        rest = {name: value for name, value in limits.items() if name != "window"}
        return read(frame | {"limits": rest if window is None else rest | {"window": window}})

    on_frame(patch, react)


@mutant(
    "lim/window-of-nothing",
    violates="LIM-16",
    killed_by=["acks/window-zero", "acks/window-negative"],
    says="4005",
)
def _(patch: Patch) -> None:
    """A window below 1 is treated as absent."""
    _on_window(patch, lambda window: window if window > 0 else None)


@mutant(
    "lim/window-not-lowered",
    violates="LIM-17",
    killed_by=["lim/client-lowers-window", "acks/window-one"],
    says="window",
)
def _(patch: Patch) -> None:
    """The window that a client asks for is not looked at."""
    _on_window(patch, lambda window: None if window > 0 else window)


@mutant(
    "lim/window-lowered-in-words",
    violates="LIM-17",
    killed_by="lim/client-lowers-window",
    says="the frames that came without an ack",
)
def _(patch: Patch) -> None:
    """`welcome` shows the lowered window, and the server goes by its own."""
    in_secret(patch, lambda limits: replace(limits, window=256))


@mutant(
    "lim/window-raised",
    violates="LIM-18",
    killed_by="lim/client-cannot-raise-window",
    says="`welcome.limits.window`",
)
def _(patch: Patch) -> None:
    """A client can raise the window."""

    def widen(core: Connection, session: Session) -> None:
        if core._window is not None:
            session.limits = replace(session.limits, window=core._window)
            session.outgoing._limits = session.limits

    on_begin(patch, widen)


@mutant(
    "lim/window-raised-in-secret",
    violates="LIM-18",
    killed_by="lim/client-cannot-raise-window",
    says="the frames that came without an ack",
)
def _(patch: Patch) -> None:
    """A client can raise the window, although `welcome` shows the server's own."""

    def widen(core: Connection, session: Session) -> None:
        if core._window is not None:
            session.outgoing._limits = replace(session.limits, window=core._window)

    on_begin(patch, widen)
