"""Mutants of spec/01-transport.md, but for the handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol import connection, effects
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.states import Phase
from holdfast_reference.server import link, websocket
from holdfast_reference.server.link import Link
from holdfast_reference.server.websocket import Closed, Fault, Pinged, Reader

from mutants.harness import Patch, mutant
from mutants.tools import NOTHING, on_text

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from holdfast_reference.protocol.effects import Effects


# Messages


@mutant(
    "trn/frames-joined",
    violates="TRN-06",
    killed_by="trn/one-message-for-each-frame",
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """Results that wait together go out as the lines of one message."""

    joined: dict[int, int] = {}

    def peek(original: Callable[..., list[bytes]], self: Connection, size: int) -> list[bytes]:
        texts = original(self, size)
        joined[id(self)] = len(texts)
        return [b"\n".join(texts)] if len(texts) > 5 else texts

    def written(original: Callable[..., None], self: Connection, count: int, now: float) -> None:
        original(self, joined[id(self)], now)

    patch.wrap(Connection, "peek", peek)
    patch.wrap(Connection, "written", written)


@mutant(
    "trn/large-frames-binary",
    violates="TRN-06",
    killed_by="trn/one-message-for-each-frame",
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """Large frames go out as binary messages."""

    def header(original: Callable[[int], bytes], size: int) -> bytes:
        head = original(size)
        return b"\x82" + head[1:] if size > 60_000 else head

    patch.wrap(link, "text_header", header)


@mutant(
    "trn/limit-above-what-is-advertised",
    violates="TRN-07",
    killed_by=["trn/larger-in-small-fragments", "framing/size-one-more"],
    says="1009",
)
def _(patch: Patch) -> None:
    """A message of one byte more than `max_frame` is accepted."""
    change_limit(patch, after=1)


@mutant(
    "trn/limit-not-applied",
    violates="TRN-07",
    killed_by=["trn/larger-twice-as-large", "trn/larger-in-small-fragments"],
    says="closed with 1009; it is still open",
)
def _(patch: Patch) -> None:
    """A message may be as large as it likes."""
    change_limit(patch, after=1 << 30)


@mutant(
    "trn/limit-below-what-is-advertised",
    violates="TRN-08",
    killed_by=["trn/exact-size-in-many-fragments", "framing/size-exact"],
    says="closed with 1009",
)
def _(patch: Patch) -> None:
    """A message of exactly `max_frame` bytes is refused."""
    change_limit(patch, after=-1)


@mutant(
    "trn/fragments-counted-with-headers",
    violates="TRN-08",
    killed_by="trn/exact-size-in-many-fragments",
    says="closed with 1009",
)
def _(patch: Patch) -> None:
    """The headers of the fragments count as bytes of the message."""
    count_fragments(patch, lambda count, size: (count * 6 + size, None))


@mutant(
    "trn/few-fragments",
    violates="TRN-08",
    killed_by="trn/many-fragments",
    says="closed with 1008",
)
def _(patch: Patch) -> None:
    """A message may have no more than 100 fragments."""
    count_fragments(patch, lambda count, size: (size, Fault(1008, "cut to pieces") if count > 100 else None))


@mutant(
    "trn/large-hello-ignored",
    violates="SES-06",
    killed_by="trn/first-message-beyond-65536-bytes",
    says="closed with 1009; it was closed with 4303",
)
def _(patch: Patch) -> None:
    """A hello that is too large is thrown away without a word."""
    change_limit(patch, before=1 << 20)

    def look(core: Connection, text: bytes, read: Callable[[bytes], Effects]) -> Effects:
        return NOTHING if core.phase is Phase.NEW and len(text) > 65_536 else read(text)

    on_text(patch, look)


@mutant(
    "trn/hello-limit-too-low",
    violates="TRN-09",
    killed_by=["trn/hello-of-65536-bytes-in-fragments", "framing/size-first-65536"],
    says="closed with 1009",
)
def _(patch: Patch) -> None:
    """A hello of 65536 bytes is refused."""
    change_limit(patch, before=-1)


@mutant(
    "trn/utf8-unchecked",
    violates="TRN-11",
    killed_by=["trn/invalid-utf8-in-hello", "framing/utf8-overlong"],
    says="1007",
)
def _(patch: Patch) -> None:
    """Text that is not UTF-8 is left to the JSON parser."""
    patch.set(websocket, "_is_utf8", lambda data: True)


@mutant(
    "trn/utf8-checked-by-fragment",
    violates="SES-06",
    killed_by="trn/invalid-utf8-in-hello",
    says="closed with 1007",
)
def _(patch: Patch) -> None:
    """Each fragment has to be UTF-8 by itself, so a character cut in two is refused."""

    def fragment(original: Callable[..., object], self: Reader, first: int, payload: bytes) -> object:
        if first & 0xF == 1 and not websocket._is_utf8(payload):
            return Fault(1007, "text is not UTF-8")
        return original(self, first, payload)

    patch.wrap(Reader, "_fragment", fragment)


@mutant(
    "trn/binary-accepted",
    violates="TRN-12",
    killed_by=["trn/binary-hello", "framing/binary-message"],
    says="1003",
)
def _(patch: Patch) -> None:
    """A binary message is read like a text message."""

    def fragment(original: Callable[..., object], self: Reader, first: int, payload: bytes) -> object:
        return original(self, first & 0xF0 | 1 if first & 0xF == 2 else first, payload)

    patch.wrap(Reader, "_fragment", fragment)


@mutant(
    "trn/reserved-bits-ignored",
    violates="TRN-13",
    killed_by=["trn/broken-frame-before-hello", "framing/ws-reserved-bit"],
    says="1002",
)
def _(patch: Patch) -> None:
    """Reserved bits are not looked at."""

    def look(original: Callable[..., object], self: Reader, first: int, second: int, size: int) -> object:
        return original(self, first & 0x8F, second, size)

    patch.wrap(Reader, "_check", look)


@mutant(
    "trn/unmasked-accepted",
    violates="TRN-13",
    killed_by=["trn/broken-frame-before-hello", "framing/ws-unmasked"],
    says="1002",
)
def _(patch: Patch) -> None:
    """A frame without a mask is not refused."""

    def look(original: Callable[..., object], self: Reader, first: int, second: int, size: int) -> object:
        return original(self, first, second | 0x80, size)

    patch.wrap(Reader, "_check", look)


@mutant(
    "trn/faults-closed-with-1008",
    violates="TRN-13",
    killed_by=["trn/broken-frame-before-hello", "trn/broken-close-frame", "framing/ws-stray-continuation"],
    says="closed with 1008",
)
def _(patch: Patch) -> None:
    """Faults of the WebSocket layer are closed with another code."""

    def control(original: Callable[..., None], self: Link, message: object) -> None:
        if isinstance(message, Fault) and message.code == 1002:
            message = Fault(1008, message.detail)
        original(self, message)

    patch.wrap(Link, "_control", control)


@mutant(
    "trn/endless-frame-awaited",
    violates="TRN-13",
    killed_by="trn/length-with-the-highest-bit",
    says="closed with 1002 or 1009",
)
def _(patch: Patch) -> None:
    """A WebSocket frame of 2^63 bytes is waited for."""

    def look(original: Callable[..., object], self: Reader, first: int, second: int, size: int) -> object:
        return None if size >> 63 else original(self, first, second, size)

    patch.wrap(Reader, "_check", look)


@mutant(
    "trn/unsolicited-pong-refused",
    violates="TRN-13",
    killed_by="trn/unsolicited-websocket-pong",
    says="closed with 1002",
)
def _(patch: Patch) -> None:
    """A WebSocket pong that nothing asked for is a fault."""

    def control(original: Callable[..., object], self: Reader, opcode: int, payload: bytes) -> object:
        return Fault(1002, "nobody asked") if opcode == 10 else original(self, opcode, payload)

    patch.wrap(Reader, "_control", control)


@mutant(
    "trn/single-bytes-lost",
    violates="TRN-20",
    killed_by="trn/message-in-any-segments",
    says='expected "pong"',
)
def _(patch: Patch) -> None:
    """A byte that arrives alone is lost."""
    patch.wrap(Reader, "feed", lambda original, self, data: original(self, data if len(data) > 1 else b""))


@mutant(
    "trn/small-pieces-lost",
    violates="TRN-20",
    killed_by="trn/message-in-any-segments",
    says="expected",
)
def _(patch: Patch) -> None:
    """What arrives in pieces of three bytes or fewer is lost."""
    patch.wrap(Reader, "feed", lambda original, self, data: original(self, data if len(data) > 3 else b""))


@mutant(
    "trn/reading-stops-midway",
    violates="TRN-20",
    killed_by="trn/many-messages-in-one-segment",
    says='expected "pong"',
)
def _(patch: Patch) -> None:
    """Of what arrives at once, 16 messages are read; the rest waits for more bytes."""
    left: dict[int, int] = {}

    def feed(original: Callable[..., None], self: Reader, data: bytes) -> None:
        left[id(self)] = 16
        original(self, data)

    def next(original: Callable[..., object], self: Reader) -> object:
        if not left.get(id(self)):
            return None
        left[id(self)] -= 1
        return original(self)

    patch.wrap(Reader, "feed", feed)
    patch.wrap(Reader, "next", next)


@mutant(
    "trn/pong-without-payload",
    violates="TRN-14",
    killed_by=["trn/ping-answered", "trn/ping-answered-before-hello"],
    says="expected a WebSocket pong with the 1 bytes of the ping",
)
def _(patch: Patch) -> None:
    """WebSocket pongs come without the payload of the ping."""
    patch.wrap(link, "pong_frame", lambda original, payload: original(b""))


@mutant(
    "trn/pings-unanswered-before-hello",
    violates="TRN-14",
    killed_by="trn/ping-answered-before-hello",
    says="expected a WebSocket pong",
)
def _(patch: Patch) -> None:
    """WebSocket pings are answered from hello on only."""

    def control(original: Callable[..., None], self: Link, message: object) -> None:
        if not (isinstance(message, Pinged) and self.core.phase is Phase.NEW):
            original(self, message)

    patch.wrap(Link, "_control", control)


# Closing


@mutant(
    "trn/close-unanswered",
    violates="TRN-15",
    killed_by=["trn/close-answered", "trn/close-answered-before-hello", "trn/close-answered-amid-work"],
    says="ended without a close frame",
)
def _(patch: Patch) -> None:
    """The connection is dropped when the client's close frame arrives."""

    def control(original: Callable[..., None], self: Link, message: object) -> None:
        if isinstance(message, Closed) and self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        else:
            original(self, message)

    patch.wrap(Link, "_control", control)


@mutant(
    "trn/close-copied",
    violates="TRN-16",
    killed_by="trn/reserved-codes-not-returned",
    says="it was unreadable",
)
def _(patch: Patch) -> None:
    """The answer to a close frame copies its code, whatever that is."""
    patch.set(websocket, "_WIRE_CODES", websocket._WIRE_CODES | {1005, 1006, 1015})
    patch.set(connection, "_ECHOED", range(5000))
    patch.set(link, "close_frame", lambda code, reason="": b"\x88\x02" + (code or 1000).to_bytes(2, "big"))


@mutant(
    "trn/talks-after-close",
    violates="TRN-17",
    killed_by="trn/silent-after-close",
    says="expected what followed the close frame to be",
)
def _(patch: Patch) -> None:
    """Pings are answered after the close frame, too."""

    def look(core: Connection, text: bytes, read: Callable[[bytes], Effects]) -> Effects:
        if core.phase is not Phase.CLOSED:
            return read(text)
        core._outgoing.urgent(b'{"type":"pong"}')
        return NOTHING

    on_text(patch, look)


@mutant(
    "trn/close-overtakes",
    violates="TRN-17",
    killed_by="trn/silent-after-answering-close",
    says="expected what followed the close frame to be",
)
def _(patch: Patch) -> None:
    """The close frame overtakes the answers that are queued."""

    def close(self: Link, effect: effects.Close) -> None:
        Link._close(self, effect)
        if self._final is not None:
            self._controls.append(self._final)
            self._final = None

    table = cast("MutableMapping[type, Callable[..., None]]", link._APPLY)
    patch.item(table, effects.Close, close)


@mutant(
    "trn/dropped-behind-close",
    violates="TRN-19",
    killed_by="trn/connection-kept-after-close",
    says="the TCP connection ended right behind the close frame",
)
def _(patch: Patch) -> None:
    """The TCP connection ends right behind the server's close frame."""

    def close(self: Link, effect: effects.Close) -> None:
        Link._close(self, effect)
        self.flush(0.0)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    table = cast("MutableMapping[type, Callable[..., None]]", link._APPLY)
    patch.item(table, effects.Close, close)


# Tools


def change_limit(patch: Patch, *, before: int = 0, after: int = 0) -> None:
    """Make the limit of messages differ from what it should be, before or after welcome."""
    limit = cast("Callable[[Connection], int]", vars(Connection)["max_message"].fget)

    def changed(self: Connection) -> int:
        return limit(self) + (before if self.phase is Phase.NEW else after)

    patch.set(Connection, "max_message", property(changed))


def count_fragments(patch: Patch, judge: Callable[[int, int], tuple[int, Fault | None]]) -> None:
    """Let `judge(fragments before, size)` give the size to go by, or a fault, for each frame of a message."""
    counts: dict[int, int] = {}

    def look(original: Callable[..., object], self: Reader, first: int, second: int, size: int) -> object:
        if first & 0x8:
            return original(self, first, second, size)
        count = counts.get(id(self), 0)
        counts[id(self)] = 0 if first & 0x80 else count + 1
        size, fault = judge(count, size)
        return fault or original(self, first, second, size)

    patch.wrap(Reader, "_check", look)


@mutant(
    "trn/one-message-per-segment",
    violates="TRN-20",
    killed_by="trn/many-messages-in-one-segment",
    says='expected "pong"',
)
def _(patch: Patch) -> None:
    """Of the messages that arrive together only the first is read."""

    def feed(original: Callable[..., None], self: Reader, data: bytes) -> None:
        length = data[1] & 127 if len(data) > 6 and data[1] & 128 else 127
        original(self, data[: 6 + length] if length < 126 else data)

    patch.wrap(Reader, "feed", feed)
