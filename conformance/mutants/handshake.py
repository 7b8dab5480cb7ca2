"""Mutants of spec/01-transport.md, its section about the handshake."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from holdfast_reference.server import handshake
from holdfast_reference.server.websocket import Reader

from mutants.harness import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


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
    killed_by=["trn/compression-declined", "trn/unknown-extension-declined"],
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


# Tools


def accept_extensions(patch: Patch) -> None:
    """Name the extension that is offered in the answer to the upgrade request."""
    offered = ""

    def look(
        original: Callable[..., str], request: object, headers: Mapping[str, str], policy: object
    ) -> str:
        nonlocal offered
        offered = headers.get("sec-websocket-extensions", "").partition(";")[0]
        return original(request, headers, policy)

    async def send(original: Callable[..., object], transport: object, data: bytes) -> None:
        if offered and data.startswith(b"HTTP/1.1 101"):
            data = data[:-2] + f"Sec-WebSocket-Extensions: {offered}\r\n\r\n".encode()
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
