"""The server on real sockets, as somebody embeds it."""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from holdfast_reference import conformance
from holdfast_reference.config import Config
from holdfast_reference.protocol import Timers
from holdfast_reference.server.listener import accept_forever
from holdfast_reference.server.serve import Server
from tests.wire import REQUEST, Wire, masked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from holdfast_reference.server.methods import Call


class Place:
    """A server on a free port of the loopback, and the connections to it."""

    def __init__(self, server: Server, address: tuple[str, int]) -> None:
        self.server = server
        self._address = address
        self.streams: list[trio.SocketStream] = []

    async def stream(self) -> trio.SocketStream:
        self.streams.append(await trio.open_tcp_stream(*self._address))
        return self.streams[-1]

    async def ready(self) -> Wire:
        wire = await Wire(await self.stream()).upgrade()
        await wire.hello()
        return wire

    async def gone(self) -> None:
        """Wait until no connection is left."""
        while self.server._connections:
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def listening(server: Server | None = None) -> AsyncIterator[Place]:
    """Serve, and close every connection at the end."""
    if server is None:
        # No heartbeat: these tests run on the clock of the machine, which may be slow.
        calm = Timers(heartbeat_interval_ms=60_000)
        server = Server(replace(conformance.configure(Config(port=0)), timers=calm))
        conformance.register(server)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            addresses: list[tuple[str, int]] = await nursery.start(server.serve)
            place = Place(server, addresses[0])
            try:
                yield place
            finally:
                for stream in place.streams:
                    stream.socket.close()
            nursery.cancel_scope.cancel()


async def test_a_program_embeds_a_server() -> None:
    """Register, serve, publish, drain."""
    server = Server(Config(port=0))

    @server.method("sum")
    def sum_(call: Call) -> object:
        assert isinstance(call.data, list)
        return sum(call.data)

    async with listening(server) as place:
        wire = await Wire(await place.stream()).upgrade()
        await wire.send({"type": "hello", "profiles": ["rpc", "pubsub"]})
        await wire.receive()
        await wire.send(
            {"type": "request", "id": 1, "method": "sum", "data": [1, 2, 3]},
            {"type": "subscribe", "id": 2, "channel": "news"},
        )
        assert await wire.receive() == {"type": "result", "id": 1, "data": 6}
        await wire.receive()
        server.publish("news", {"text": "up"})
        assert (await wire.receive())["data"] == {"text": "up"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            assert (await wire.receive())["type"] == "goaway"
            assert await wire.close() == 1000
    assert sum_.__name__ == "sum_"


async def test_many_clients_at_once() -> None:
    async with listening() as place:

        async def one(n: int) -> None:
            wire = await place.ready()
            for id in range(1, 20):
                await wire.send({"type": "request", "id": id, "method": "conf.echo", "data": [n, id]})
                assert (await wire.receive())["data"] == [n, id]
            assert await wire.close() == 1000

        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(one, n)
        await place.gone()


async def test_a_slow_reader_gets_everything_through_full_buffers() -> None:
    """Larger than what sockets hold: the writer task takes over and ends."""
    async with listening() as place:
        wire = await place.ready()
        data = "x" * 200_000
        asked = {"type": "request", "method": "conf.echo", "data": ["a", 1]}
        long: dict[str, object] = {"type": "publish", "channel": "c", "data": data}
        await wire.send({"type": "subscribe", "id": 1, "channel": "c"})
        await wire.receive()
        for n in range(2, 32):
            await wire.send({**long, "id": n})
        (link,) = place.server.links.values()
        assert link.writing
        for _ in range(30):
            got = [await wire.receive(), await wire.receive()]
            assert [frame["type"] for frame in got] == ["event", "result"]
            assert got[0]["data"] == data
        assert not link.writing
        await wire.send({**asked, "id": 50})
        assert (await wire.receive())["id"] == 50


async def test_ends_are_noticed() -> None:
    """A reset, a half-close and a fault, read by the poller."""
    async with listening() as place:
        reset, half, fault = [await place.ready() for _ in range(3)]
        socket = reset.stream.socket  # type: ignore[attr-defined]  # a SocketStream
        socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await reset.stream.aclose()
        await half.stream.send_eof()  # type: ignore[attr-defined]  # a SocketStream
        await fault.raw(masked(b"\xff") + b"garbage" * 10_000)
        assert await fault.closed() == 1007
        await fault.stream.aclose()
        await place.gone()


async def test_an_aborted_connection_is_reset() -> None:
    async with listening() as place:
        wire = await place.ready()
        await wire.send({"type": "request", "id": 1, "method": "conf.run", "data": [["abort"]]})
        with pytest.raises(trio.BrokenResourceError):
            await wire.stream.receive_some()


async def test_a_bug_in_one_connection_is_that_connection_s(caplog: pytest.LogCaptureFixture) -> None:
    """[SEC-09]: though the poller reads for all of them."""
    async with listening() as place:
        broken, other = await place.ready(), await place.ready()
        link = min(place.server.links.values(), key=lambda link: int(link.conn.split("-")[1], 16))
        link._reader = None  # type: ignore[assignment]  # as broken as can be
        await broken.send({"type": "ping"})
        assert await broken.closed() == 4300
        await other.send({"type": "ping", "t": "x"})
        assert await other.receive() == {"type": "pong", "t": "x"}
        assert "connection failed" in caplog.text


async def test_tls(tmp_path: Path) -> None:
    """With the certificate from files, like the command line."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    path = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = Server(replace(conformance.configure(Config(port=0)), tls_cert=str(path)))
    conformance.register(server)
    async with listening(server) as place:
        inner = await place.stream()
        stream = trio.SSLStream(inner, context, server_hostname="localhost")
        wire = await Wire(stream).upgrade()
        await wire.hello()
        await wire.send({"type": "request", "id": 1, "method": "conf.echo", "data": "x" * 100_000})
        assert len(str((await wire.receive())["data"])) == 100_000
        assert await wire.close() == 1000

        plain = await place.stream()
        await plain.send_all(REQUEST + b"\r\n")
        with suppress(trio.BrokenResourceError):
            assert b"HTTP" not in await plain.receive_some()
        await place.gone()


async def test_a_drain_that_is_faster_than_the_start() -> None:
    """A signal may come at any time."""
    server = Server(Config(port=0))
    await server.drain()
    async with trio.open_nursery() as nursery:
        assert await nursery.start(server.serve)


async def test_a_fault_of_a_waiting_client_does_not_end_the_listener() -> None:
    """accept(2) reports errors of connections that were not accepted yet."""
    faults = [errno.EPROTO, errno.EHOSTUNREACH]

    class Listener(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            if faults:
                raise OSError(faults.pop(), "of the client")
            return super().accept()

    accepted: list[socket.socket] = []
    with Listener() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        client.connect(listener.getsockname())
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept_forever, listener, accepted.append)
                while not accepted:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        accepted[0].close()
    assert not faults
