"""A raw WebSocket client in a few lines, and a server in memory to talk to.

It masks, frames and parses by itself, so that tests can send what a library would not.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from holdfast_reference import conformance
from holdfast_reference.config import Config
from holdfast_reference.server.serve import Server
from holdfast_reference.server.transport import memory_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Frame = dict[str, object]

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: holdfast.v1.json\r\n"
)


def masked(payload: bytes, opcode: int = 1, *, fin: bool = True, bits: int = 0) -> bytes:
    """One client frame."""
    first = (0x80 if fin else 0) | bits | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def text(frame: Frame) -> bytes:
    """One frame of the protocol, ready to be sent."""
    return masked(json.dumps(frame).encode())


class Closed(Exception):
    """The server closed; `code` is 1005 for a close frame without one, 1006 for none at all."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Wire:
    """The client's end of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._data = b""

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise Closed(1006)
        self._data += data

    async def http(self, request: bytes) -> bytes:
        """Send a request; the head of the answer."""
        await self.stream.send_all(request)
        while b"\r\n\r\n" not in self._data:
            await self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        return head

    async def upgrade(self) -> Wire:
        assert (await self.http(REQUEST + b"\r\n")).startswith(b"HTTP/1.1 101 ")
        return self

    async def hello(self, token: str = "tok-alice", *profiles: str) -> Frame:
        """Say hello; the welcome."""
        wanted = profiles or ("rpc", "pubsub", "pattern", "fence")
        await self.send({"type": "hello", "profiles": wanted, "auth": {"token": token}})
        return await self.receive()

    async def send(self, *frames: Frame) -> None:
        """Send frames in one piece."""
        await self.stream.send_all(b"".join(map(text, frames)))

    async def raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def message(self) -> tuple[int, bytes]:
        """The opcode and the payload of the next WebSocket frame."""
        while True:
            data = self._data
            if len(data) >= 2:
                size, start = data[1], 2
                if size > 125:
                    wide = 2 if size == 126 else 8
                    size, start = int.from_bytes(data[2 : 2 + wide], "big"), 2 + wide
                if len(data) >= max(start, start + size):
                    self._data = data[start + size :]
                    return data[0] & 0xF, data[start : start + size]
            await self._more()

    async def receive(self) -> Frame:
        """The next frame of the protocol.

        Raises:
            Closed: there is none.
        """
        opcode, payload = await self.message()
        if opcode == 8:
            raise Closed(int.from_bytes(payload[:2], "big") if payload else 1005, payload[2:].decode())
        assert opcode == 1
        frame: Frame = json.loads(payload)
        return frame

    async def rest(self) -> tuple[int, list[Frame]]:
        """Read on until the close frame; its code, and the frames before it."""
        frames: list[Frame] = []
        try:
            while True:
                frames.append(await self.receive())
        except Closed as closed:
            return closed.code, frames

    async def closed(self) -> int:
        """Read on until the close frame; its code."""
        return (await self.rest())[0]

    async def close(self, code: int = 1000) -> int:
        """Close first; the code of the server's answer."""
        await self.raw(masked(code.to_bytes(2, "big"), 8))
        return await self.closed()


class House:
    """A running server and a way to connect to it."""

    def __init__(self, server: Server, nursery: trio.Nursery, capacity: int) -> None:
        self.server = server
        self._nursery = nursery
        self._capacity = capacity

    def stream(self) -> trio.abc.HalfCloseableStream:
        """A connection on which nothing was said yet."""
        stream, transport = memory_pair(self._capacity)
        self._nursery.start_soon(self.server.serve_transport, transport)
        return stream

    async def connect(self) -> Wire:
        """A connection after its upgrade."""
        return await Wire(self.stream()).upgrade()

    async def ready(self, token: str = "tok-alice", *profiles: str) -> Wire:
        """A connection after its welcome."""
        wire = await self.connect()
        await wire.hello(token, *profiles)
        return wire


@asynccontextmanager
async def serving(
    configure: Callable[[Config], Config] = lambda config: config,
    *,
    capacity: int = 2**20,
    prepare: Callable[[Server], Awaitable[None] | None] = lambda server: None,
) -> AsyncIterator[House]:
    """A server as `--conformance` makes it, in memory, on trio's clock."""
    server = Server(configure(conformance.configure(Config())))
    conformance.register(server)
    prepare(server)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run_background)
        with trio.fail_after(3600):
            yield House(server, nursery, capacity)
        nursery.cancel_scope.cancel()
