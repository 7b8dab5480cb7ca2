"""Mutants of spec/01-transport.md."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol import effects
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.states import Phase
from holdfast_reference.server import handshake, session, websocket
from holdfast_reference.server.session import Session
from holdfast_reference.server.websocket import Closed, Fault, Pinged, Reader

from mutants.harness import Patch, mutant
from mutants.tools import NOTHING, on_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

    from holdfast_reference.protocol.effects import Effects


# Handshake


@mutant(
    "trn/subprotocol-assumed",
    violates="TRN-02",
    killed_by="trn/upgrade-without-subprotocol",
    says="expected the HTTP status to be 400; it is 101",
)
def _(patch: Patch) -> None:
    """An upgrade request without a subprotocol is accepted."""
    patch.wrap(handshake, "_tokens", lambda original, value: original(value or handshake.SUBPROTOCOL))


@mutant(
    "trn/subprotocol-by-prefix",
    violates="TRN-02",
    killed_by="trn/upgrade-with-unknown-subprotocols",
    says="it is 101",
)
def _(patch: Patch) -> None:
    """Any subprotocol that begins like ours is taken for it."""

    def tokens(original: Callable[[str], list[str]], value: str) -> list[str]:
        return [handshake.SUBPROTOCOL if t.startswith("holdfast") else t for t in original(value)]

    patch.wrap(handshake, "_tokens", tokens)


@mutant(
    "trn/first-subprotocol-only",
    violates="TRN-03",
    killed_by="trn/known-subprotocol-among-others",
    says="to be 101; it is 400",
)
def _(patch: Patch) -> None:
    """Only the first subprotocol of the offer is looked at."""
    patch.wrap(handshake, "_tokens", lambda original, value: original(value)[:1])


@mutant(
    "trn/extensions-accepted",
    violates="TRN-04",
    killed_by="trn/compression-declined",
    says="expected Sec-WebSocket-Extensions of the answer to be null",
)
def _(patch: Patch) -> None:
    """Every extension is accepted without being asked for by the operator."""
    accept_extensions(patch)


@mutant(
    "trn/inflated-without-limit",
    violates="TRN-05",
    killed_by="trn/inflated-size-counts",
    says="expected too large to be closed with 1009",
)
def _(patch: Patch) -> None:
    """With permessage-deflate, the limit is applied to the compressed message."""
    accept_extensions(patch)

    def feed(original: Callable[..., None], self: Reader, data: bytes) -> None:
        if data and data[0] & 0x40:
            self.max_size = 1 << 40
            data = inflated(data)
        original(self, data)

    patch.wrap(Reader, "feed", feed)


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

    patch.wrap(session, "text_header", header)


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

    def fragment(original: Callable[..., object], self: Reader, first: int, payload: bytes) -> object:
        if not first & 0x80:
            self._parts_size += 6
        return original(self, first, payload)

    patch.wrap(Reader, "_fragment", fragment)


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

    def control(original: Callable[..., None], self: Session, message: object) -> None:
        if isinstance(message, Fault) and message.code == 1002:
            message = Fault(1008, message.detail)
        original(self, message)

    patch.wrap(Session, "_control", control)


@mutant(
    "trn/pong-without-payload",
    violates="TRN-14",
    killed_by=["trn/ping-answered", "trn/ping-answered-before-hello"],
    says="expected a WebSocket pong with the 1 bytes of the ping",
)
def _(patch: Patch) -> None:
    """WebSocket pongs come without the payload of the ping."""
    patch.wrap(session, "pong_frame", lambda original, payload: original(b""))


@mutant(
    "trn/pings-unanswered-before-hello",
    violates="TRN-14",
    killed_by="trn/ping-answered-before-hello",
    says="expected a WebSocket pong",
)
def _(patch: Patch) -> None:
    """WebSocket pings are answered from hello on only."""

    def control(original: Callable[..., None], self: Session, message: object) -> None:
        if not (isinstance(message, Pinged) and self.core.phase is Phase.NEW):
            original(self, message)

    patch.wrap(Session, "_control", control)


# Closing


@mutant(
    "trn/close-unanswered",
    violates="TRN-15",
    killed_by=["trn/close-answered", "trn/close-answered-before-hello", "trn/close-answered-amid-work"],
    says="ended without a close frame",
)
def _(patch: Patch) -> None:
    """The connection is dropped when the client's close frame arrives."""

    def control(original: Callable[..., None], self: Session, message: object) -> None:
        if isinstance(message, Closed) and self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        else:
            original(self, message)

    patch.wrap(Session, "_control", control)


@mutant(
    "trn/close-copied",
    violates="TRN-16",
    killed_by="trn/reserved-codes-not-returned",
    says="it was unreadable",
)
def _(patch: Patch) -> None:
    """The answer to a close frame copies its code, whatever that is."""
    patch.set(websocket, "_WIRE_CODES", websocket._WIRE_CODES | {1005, 1006, 1015})

    def close(original: Callable[..., bytes], code: int, reason: str = "") -> bytes:
        return b"\x88\x02" + code.to_bytes(2, "big")

    patch.wrap(session, "close_frame", close)


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
    "trn/dropped-behind-close",
    violates="TRN-19",
    killed_by="trn/connection-kept-after-close",
    says="the TCP connection ended right behind the close frame",
)
def _(patch: Patch) -> None:
    """The TCP connection ends right behind the server's close frame."""

    def close(self: Session, effect: effects.Close) -> None:
        Session._close(self, effect)
        self.flush(0.0)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    table = cast("MutableMapping[type, Callable[..., None]]", session._APPLY)
    patch.item(table, effects.Close, close)


# Tools


def change_limit(patch: Patch, *, before: int = 0, after: int = 0) -> None:
    """Make the limit of messages differ from what it should be, before or after welcome."""
    limit = cast("Callable[[Connection], int]", vars(Connection)["max_message"].fget)

    def changed(self: Connection) -> int:
        return limit(self) + (before if self.phase is Phase.NEW else after)

    patch.set(Connection, "max_message", property(changed))


def accept_extensions(patch: Patch) -> None:
    """Name permessage-deflate in the answer to every upgrade request that offers it."""
    offered = False

    def look(
        original: Callable[..., str], request: object, headers: Mapping[str, str], policy: object
    ) -> str:
        nonlocal offered
        offered = "permessage-deflate" in headers.get("sec-websocket-extensions", "")
        return original(request, headers, policy)

    async def send(original: Callable[..., object], transport: object, data: bytes) -> None:
        if offered and data.startswith(b"HTTP/1.1 101"):
            data = data[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        await original(transport, data)  # type: ignore[misc]  # a coroutine function

    patch.wrap(handshake, "_check", look)
    patch.wrap(handshake, "_send", send)


def inflated(data: bytes) -> bytes:
    """Replace the one compressed frame in `data` by the same message, uncompressed and masked with zeros."""
    start = 2 + {126: 2, 127: 8}.get(data[1] & 0x7F, 0)
    mask, payload = data[start : start + 4], data[start + 4 :]
    plain = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    text = zlib.decompressobj(wbits=-15).decompress(plain + b"\x00\x00\xff\xff")
    return bytes([data[0] & 0x8F, 0xFF]) + len(text).to_bytes(8, "big") + bytes(4) + text
