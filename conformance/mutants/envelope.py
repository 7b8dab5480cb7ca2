"""Mutants of spec/02-envelope.md."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol import codec, reading
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.correlation import Exchanges, Pool
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.outgoing import REFUSAL, Outgoing
from holdfast_reference.protocol.states import Phase

from mutants.harness import Patch, mutant
from mutants.tools import answer, on_frame, on_text, on_write

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects

    Row = dict[str, object]
    Read = Callable[[Row], Effects]
    ReadText = Callable[[bytes], Effects]

STARTS = ("request", "subscribe", "publish", "auth", "history", "present")


# What the server writes


@mutant(
    "env/gap-counts-in-words",
    violates="ENV-01",
    killed_by="env/frames-match-schema",
    says="$.missed: '1' is not of type 'integer'",
)
def _(patch: Patch) -> None:
    """`missed` of a gap is a string."""

    def change(frame: Row) -> Row | None:
        return frame | {"missed": str(frame["missed"])} if "missed" in frame else None

    on_write(patch, change)


@mutant(
    "env/ids-as-floats",
    violates="ENV-02",
    killed_by="env/plain-integers",
    says="the id is 1.0",
)
def _(patch: Patch) -> None:
    """Ids of events are written as numbers with a fraction."""

    def change(frame: Row) -> Row | None:
        return frame | {"id": float(cast("int", frame["id"]))} if frame["type"] == "event" else None

    on_write(patch, change)


@mutant(
    "env/members-twice",
    violates="ENV-03",
    killed_by="env/no-duplicate-names",
    says="occurs twice",
)
def _(patch: Patch) -> None:
    """An error has its `type` twice."""

    def queue(original: Callable[..., None], self: Outgoing, kind: int, id: int, text: bytes) -> None:
        original(self, kind, id, text.replace(b'"error",', b'"error","type":"error",', 1))

    patch.wrap(Outgoing, "push", queue)


# The order of reading


@mutant(
    "env/limit-before-faults",
    violates="ENV-05",
    killed_by="env/order-with-full-slots",
    says='got error "limit_exceeded"',
)
def _(patch: Patch) -> None:
    """A full session answers `limit_exceeded` before it looks at the frame."""

    def charge(original: Callable[..., int | None], self: Connection, now: float) -> int | None:
        if not self.session.exchanges.is_free(Pool.CALLS, self._outgoing):
            raise ExchangeError(ErrorCode.LIMIT_EXCEEDED, "full")
        return original(self, now)

    patch.wrap(Connection, "_charge", charge)


@mutant(
    "env/permission-before-limit",
    violates="ENV-05",
    killed_by="env/order-with-full-slots",
    says='got error "forbidden"',
)
def _(patch: Patch) -> None:
    """Permissions are asked for before a slot is looked for."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        method = frame.get("method")
        if core.phase is Phase.READY and frame.get("type") == "request" and isinstance(method, str):
            return None if core.session.may("call", method) else answer(core, frame, "forbidden")
        return None

    on_frame(patch, look)


@mutant(
    "env/draining-before-faults",
    violates="ENV-05",
    killed_by="env/order-while-draining",
    says='expected error "unsupported" on exchange 2; got error "draining"',
)
def _(patch: Patch) -> None:
    """A draining connection does not look at frames any more."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        starts = "id" in frame and frame.get("type") not in ("ping", "pong", "cancel", "hello", "auth")
        return answer(core, frame, "draining") if core.phase is Phase.DRAINING and starts else None

    on_frame(patch, look)


@mutant(
    "env/limit-before-draining",
    violates="ENV-05",
    killed_by="env/order-draining-before-limit",
    says='got error "limit_exceeded"',
)
def _(patch: Patch) -> None:
    """A free slot is looked for before the drain is thought of."""

    def admit(original: Callable[..., None], self: Connection, pool: Pool, wait_ms: int | None) -> None:
        if wait_ms is None and not self.session.exchanges.is_free(pool, self._outgoing):
            raise ExchangeError(ErrorCode.LIMIT_EXCEEDED, "full")
        original(self, pool, wait_ms)

    patch.wrap(Connection, "_admit", admit)


@mutant(
    "env/rate-before-faults",
    violates="ENV-05",
    killed_by="env/order-around-rate-limited",
    says='got error "rate_limited"',
)
def _(patch: Patch) -> None:
    """Without a token a frame is not looked at."""

    def charge(original: Callable[..., int | None], self: Connection, now: float) -> int | None:
        wait_ms = original(self, now)
        if wait_ms is not None:
            raise ExchangeError(ErrorCode.RATE_LIMITED, "too fast", retry_ms=wait_ms)
        return wait_ms

    patch.wrap(Connection, "_charge", charge)


@mutant(
    "env/ids-before-direction",
    violates="ENV-05",
    killed_by=["reading-order/direction-id", "reading-order/direction-id-missing"],
    says="4005",
)
def _(patch: Patch) -> None:
    """The `id` is checked before the direction of the type."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        server = frame.get("type") in ("result", "error", "chunk", "open", "event", "gap")
        bad = not isinstance(frame.get("id"), int) or cast("int", frame["id"]) < 1
        return core.close(4005) if core.phase is not Phase.NEW and server and bad else None

    on_frame(patch, look)


@mutant(
    "env/byte-order-mark-accepted",
    violates="ENV-06",
    killed_by="framing/json-bom",
    says="close 4001",
)
def _(patch: Patch) -> None:
    """A byte order mark is skipped."""
    on_text(patch, lambda core, text, read: read(text.removeprefix(b"\xef\xbb\xbf")))


@mutant("env/nan-accepted", violates="ENV-06", killed_by="framing/json-nan", says="close 4001")
def _(patch: Patch) -> None:
    """`NaN` is read as null."""
    on_text(patch, lambda core, text, read: read(text.replace(b":NaN", b":null")))


@mutant(
    "env/nesting-unbounded",
    violates="ENV-07",
    killed_by=["framing/nesting-65-arrays", "framing/nesting-65-objects"],
    says="close 4001",
)
def _(patch: Patch) -> None:
    """A frame nested 65 levels deep is read."""
    patch.set(codec, "MAX_NESTING", 65)


@mutant(
    "env/nesting-too-tight",
    violates="ENV-08",
    killed_by=["framing/nesting-64-arrays", "framing/nesting-64-objects", "exchanges/echo-64-levels"],
    says="4001",
)
def _(patch: Patch) -> None:
    """A frame nested 64 levels deep is refused."""
    patch.set(codec, "MAX_NESTING", 63)


@mutant(
    "env/first-duplicate-counts",
    violates="ENV-10",
    killed_by=["framing/duplicate-value", "env/duplicate-names-published"],
    says="expected",
)
def _(patch: Patch) -> None:
    """Of two members of one name the first counts."""

    def look(core: Connection, text: bytes, read: ReadText) -> Effects:
        doubled = False

        def first(pairs: list[tuple[str, object]]) -> object:
            nonlocal doubled
            value = dict(reversed(pairs))
            doubled = doubled or len(value) < len(pairs)
            return value

        try:
            frame = json.loads(text, object_pairs_hook=first)
        except (ValueError, RecursionError):
            return read(text)
        return read(json.dumps(frame).encode()) if doubled else read(text)

    on_text(patch, look)


@mutant(
    "env/odd-types-ignored",
    violates="ENV-11",
    killed_by=["framing/type-digit-first", "framing/type-dot-first"],
    says="close 4005",
)
def _(patch: Patch) -> None:
    """A `type` of any form is an unknown type."""
    patch.set(codec, "_TYPE", re.compile(r".*", re.DOTALL))


@mutant("env/goaway-from-clients", violates="ENV-12", killed_by="framing/direction-goaway", says="close 4002")
def _(patch: Patch) -> None:
    """A client's goaway is ignored."""
    on_frame(patch, lambda core, frame, read: NOTHING if frame.get("type") == "goaway" else None)


# Ids


@mutant("env/bad-ids-refused", violates="ENV-13", killed_by="framing/id-negative", says="close 4005")
def _(patch: Patch) -> None:
    """An `id` out of range costs its exchange, not the connection."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        id = frame.get("id")
        bad = frame.get("type") in STARTS and isinstance(id, int) and id < 1
        return answer(core, frame, "bad_request") if bad else None

    on_frame(patch, look)


@mutant(
    "env/unknown-types-without-ids",
    violates="ENV-14",
    killed_by="framing/unknown-id-string",
    says="close 4005",
)
def _(patch: Patch) -> None:
    """A frame of an unknown type whose `id` is none is ignored."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        strange = "." in str(frame.get("type")) and "id" in frame and not isinstance(frame["id"], int)
        return NOTHING if strange else None

    on_frame(patch, look)


@mutant(
    "env/cancel-of-anything",
    violates="ENV-15",
    killed_by=["framing/of-zero", "framing/of-string"],
    says="close 4005",
)
def _(patch: Patch) -> None:
    """A `cancel` whose `of` is no id is ignored."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        of = frame.get("of")
        bad = frame.get("type") == "cancel" and (not isinstance(of, int) or of < 1)
        return NOTHING if bad else None

    on_frame(patch, look)


@mutant(
    "env/finished-ids-used-again",
    violates="ENV-17",
    killed_by=["exchanges/id-finished", "exchanges/id-lower", "exchanges/id-hole-later"],
    says="close 4003",
)
def _(patch: Patch) -> None:
    """Only the ids of running exchanges are taken."""

    def consume(original: Callable[..., None], self: Exchanges, id: int) -> None:
        if id in self.running:
            original(self, id)
        else:
            self.last_id = id

    patch.wrap(Exchanges, "consume", consume)


@mutant(
    "env/repeated-ids-refused",
    violates="ENV-17",
    killed_by=["env/id-twice-in-one-segment", "exchanges/id-in-flight"],
    says="4003",
)
def _(patch: Patch) -> None:
    """A request with a used `id` is refused on that id."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        id = frame.get("id")
        used = (
            frame.get("type") == "request"
            and isinstance(id, int)
            and 0 < id <= core.session.exchanges.last_id
        )
        return answer(core, frame, "bad_request") if used else None

    on_frame(patch, look)


@mutant("env/cancel-ahead", violates="ENV-18", killed_by="exchanges/cancel-future", says="close 4003")
def _(patch: Patch) -> None:
    """A `cancel` of an exchange to come is ignored."""
    patch.set(Connection, "_check_of", lambda self, of: None)


@mutant("env/ids-on-pings", violates="ENV-19", killed_by="framing/id-unknown-on-ping-string", says="pong")
def _(patch: Patch) -> None:
    """An `id` on a ping has to be an integer."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        odd = frame.get("type") == "ping" and not isinstance(frame.get("id", 1), int)
        return core.close(4005) if odd else None

    on_frame(patch, look)


# Shape


@mutant(
    "env/method-missing", violates="ENV-20", killed_by="exchanges/method-missing", says='error "bad_request"'
)
def _(patch: Patch) -> None:
    """A request without a method asks for one that there is not."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        wrong = frame.get("type") == "request" and "method" not in frame and "rpc" in core.profiles
        return answer(core, frame, "not_found") if wrong else None

    on_frame(patch, look)


@mutant(
    "env/only-value-unchecked",
    violates="ENV-21",
    killed_by=["exchanges/stream-false", "exchanges/stream-string"],
    says='error "bad_request"',
)
def _(patch: Patch) -> None:
    """`stream` is read as true or false, whatever it is."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        if "stream" not in frame or frame["stream"] is True:
            return None
        return read({name: value for name, value in frame.items() if name != "stream"})

    on_frame(patch, look)


@mutant("env/pings-of-any-shape", violates="ENV-22", killed_by="framing/ping-bad-t-number", says="close 4005")
def _(patch: Patch) -> None:
    """A ping whose `t` is a number is answered."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        odd = frame.get("type") == "ping" and isinstance(frame.get("t"), int)
        return read(frame | {"t": str(frame["t"])}) if odd else None

    on_frame(patch, look)


# Refusals


@mutant(
    "env/refused-ids-come-back",
    violates="ENV-23",
    killed_by=[
        "env/ids-of-refusals-are-consumed",
        "env/ids-refused-while-draining-are-consumed",
        "exchanges/id-consumed-by-bad-request",
        "exchanges/id-consumed-by-unknown-type",
    ],
    says="4003",
)
def _(patch: Patch) -> None:
    """An exchange that is refused at once does not use its `id` up."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        before = core.session.exchanges.last_id
        refusals = core._outgoing.counts[REFUSAL]
        done = read(frame)
        if core._outgoing.counts[REFUSAL] > refusals:
            core.session.exchanges.last_id = before
        return done

    on_frame(patch, look)


@mutant(
    "env/refusals-close",
    violates="ENV-24",
    killed_by=["env/refusals-leave-the-rest-alone", "exchanges/bad-request-others-live"],
    says="4000",
)
def _(patch: Patch) -> None:
    """A bad request costs the connection."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        refusals = core._outgoing.counts[REFUSAL]
        done = read(frame)
        bad = frame.get("type") == "request" and "method" not in frame
        return core.close(4000) if bad and core._outgoing.counts[REFUSAL] > refusals else done

    on_frame(patch, look)


@mutant(
    "env/refusals-end-others",
    violates="ENV-24",
    killed_by="env/refusals-leave-the-rest-alone",
    says='got error "internal" on exchange 1',
)
def _(patch: Patch) -> None:
    """An unsupported frame ends what is running."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        done = list(read(frame))
        if frame.get("type") == "history":
            for id in list(core.session.exchanges.running):
                done += core.session.fail(id, ExchangeError(ErrorCode.INTERNAL, "confused"))
        return done

    on_frame(patch, look)


# Names


@mutant(
    "env/names-counted-in-characters",
    violates="ENV-25",
    killed_by="exchanges/method-256-bytes-multibyte",
    says='error "bad_request"',
)
def _(patch: Patch) -> None:
    """The length of a name is counted in characters."""
    patch.set(reading, "fits", lambda name, size=255: len(name) <= size)


@mutant(
    "env/names-of-254-bytes",
    violates="ENV-26",
    killed_by=["env/long-names-are-not-cut", "exchanges/method-255-bytes"],
    says="bad_request",
)
def _(patch: Patch) -> None:
    """A name of 255 bytes is refused."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        longest = any(len(str(frame.get(name)).encode()) == 255 for name in ("method", "channel"))
        return answer(core, frame, "bad_request") if longest else None

    on_frame(patch, look)


@mutant(
    "env/names-of-objects-refused",
    violates="ENV-27",
    killed_by="env/names-of-objects",
    says="__proto__ was refused oddly",
)
def _(patch: Patch) -> None:
    """A channel called `__proto__` breaks something."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        return answer(core, frame, "internal") if frame.get("channel") == "__proto__" else None

    on_frame(patch, look)


@mutant(
    "env/names-in-lower-case",
    violates="ENV-27",
    killed_by="env/names-are-not-normalised",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Names are compared in lower case."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        channel = frame.get("channel")
        if isinstance(channel, str) and channel != channel.lower():
            return read(frame | {"channel": channel.lower()})
        return None

    on_frame(patch, look)


# Data


@mutant(
    "env/data-cleaned",
    violates="ENV-28",
    killed_by=["env/random-data-echoed", "env/random-data-published", "exchanges/echo-escapes"],
    says="e",
)
def _(patch: Patch) -> None:
    """Control characters are taken out of strings."""
    on_text(patch, lambda core, text, read: read(text.replace(b"\\u0000", b"")))


@mutant(
    "env/null-data-left-out",
    violates="ENV-28",
    killed_by="env/random-data-published",
    says="the event has no `data`",
)
def _(patch: Patch) -> None:
    """An event whose data is null comes without data."""

    def change(frame: Row) -> Row | None:
        if frame["type"] == "event" and frame.get("data", 0) is None:
            return {name: value for name, value in frame.items() if name != "data"}
        return None

    on_write(patch, change)


@mutant(
    "env/numbers-cut",
    violates="ENV-29",
    killed_by="env/number-beyond-binary64",
    says="was not carried unchanged",
)
def _(patch: Patch) -> None:
    """A number too large for binary64 becomes null."""
    on_text(
        patch,
        lambda core, text, read: read(re.sub(rb"(?<=[\[:])-?[0-9.]+e[0-9]{3}(?=[\]},])", b"null", text)),
    )


@mutant(
    "env/surrogates-replaced",
    violates="ENV-30",
    killed_by="env/lone-surrogate-published",
    says="the lone surrogate was not carried unchanged",
)
def _(patch: Patch) -> None:
    """A lone surrogate becomes U+FFFD."""
    on_text(patch, lambda core, text, read: read(re.sub(rb'\\ud83d"', rb'\\ufffd"', text)))


@mutant(
    "env/base64-unchecked",
    violates="ENV-31",
    killed_by=["exchanges/base64-space", "exchanges/base64-url-alphabet", "exchanges/base64-number"],
    says='error "bad_request"',
)
def _(patch: Patch) -> None:
    """Anything goes as base64."""
    patch.set(reading, "is_base64", lambda data: True)


@mutant(
    "env/enc-forgotten", violates="ENV-32", killed_by="env/enc-delivered", says="expected `enc` of the event"
)
def _(patch: Patch) -> None:
    """Events come without `enc`."""

    def change(frame: Row) -> Row | None:
        if frame["type"] == "event" and "enc" in frame:
            return {name: value for name, value in frame.items() if name != "enc"}
        return None

    on_write(patch, change)


@mutant(
    "env/meta-passed-on",
    violates="ENV-33",
    killed_by="env/meta-of-publish-stays",
    says="the event carries the meta of the publish",
)
def _(patch: Patch) -> None:
    """The `meta` of a publish goes on to its events."""
    passed: list[object] = []

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        if frame.get("type") == "publish" and "meta" in frame:
            passed.append(frame["meta"])
        return None

    def change(frame: Row) -> Row | None:
        return frame | {"meta": passed[-1]} if frame["type"] == "event" and passed else None

    on_frame(patch, look)
    on_write(patch, change)
