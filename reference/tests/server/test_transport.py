"""Streams of bytes: a pair in memory, TLS over it."""

from __future__ import annotations

import ssl

import pytest
import trio
import trustme
from holdfast_reference.server.transport import TlsTransport, memory_pair


async def test_a_pair_holds_no_more_than_its_capacity() -> None:
    with trio.fail_after(1):
        stream, transport = memory_pair(4)
        assert transport.try_send(b"abcdef") == 4
        assert transport.try_send(b"ef") == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.wait_writable)
            assert await stream.receive_some(3) == b"abc"
        assert transport.try_send(b"ef") == 2
        assert await stream.receive_some() == b"def"


async def test_a_sender_waits_for_room() -> None:
    with trio.fail_after(1):
        stream, transport = memory_pair(4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b"abcdefgh")
            assert await transport.recv() == b"abcd"
            assert await transport.recv() == b"efgh"


async def test_ends_and_breaks() -> None:
    with trio.fail_after(1):
        stream, transport = memory_pair(10)
        await stream.send_eof()
        assert await transport.recv() == b""
        transport.try_send(b"last")
        transport.close()
        assert await stream.receive_some() == b"last"
        assert await stream.receive_some() == b""

        stream, transport = memory_pair(10)
        transport.try_send(b"lost")
        transport.close(abort=True)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()

        stream, transport = memory_pair(10)
        await stream.aclose()
        assert await transport.recv() == b""
        with pytest.raises(OSError, match="closed"):
            transport.try_send(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and that of a client who trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_tls_carries_bytes_both_ways_through_a_narrow_pair() -> None:
    """Larger than any buffer, with waiting in between."""
    server_context, client_context = contexts()
    stream, inner = memory_pair(1000)
    client = trio.SSLStream(stream, client_context, server_hostname="localhost")
    server = TlsTransport(inner, server_context)
    data = b"0123456789" * 5000

    async def send() -> None:
        rest = data
        while rest:
            rest = rest[server.try_send(rest) :]
            await server.wait_writable()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            await server.handshake()
        assert server.peer == "memory"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            got = b""
            while len(got) < len(data):
                got += await client.receive_some()
            nursery.start_soon(client.send_all, data)
            back = b""
            while len(back) < len(data):
                back += await server.recv() or b""
        assert got == back == data
        server.send_eof()
        assert await client.receive_some() == b""


async def test_what_tls_took_does_not_stay_behind() -> None:
    """A sender that is told that all was taken waits no more: then all must have left."""
    server_context, client_context = contexts()
    stream, inner = memory_pair(1000)
    client = trio.SSLStream(stream, client_context, server_hostname="localhost")
    server = TlsTransport(inner, server_context)
    data = bytes(range(256)) * 20

    async def send(data: bytes) -> None:
        while data := data[server.try_send(data) :]:
            await server.wait_writable()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            await server.handshake()
        for piece in (data, b"1", data[:980], data):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, piece)
                got = b""
                while len(got) < len(piece):
                    got += await client.receive_some()
            assert got == piece


async def test_a_client_that_is_gone_before_the_end_is_said() -> None:
    """The flusher says it, for everybody: nothing may be raised there."""
    server_context, client_context = contexts()
    stream, inner = memory_pair(10_000)
    client = trio.SSLStream(stream, client_context, server_hostname="localhost")
    server = TlsTransport(inner, server_context)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            await server.handshake()
        assert server.try_send(b"last") == 4
        await stream.aclose()
        with pytest.raises(OSError, match="closed"):
            inner.try_send(b"x")
        server.send_eof()


async def test_a_client_that_leaves_during_the_handshake() -> None:
    server_context, _ = contexts()
    stream, inner = memory_pair(1000)
    server = TlsTransport(inner, server_context)
    await stream.send_eof()
    with trio.fail_after(1), pytest.raises(OSError, match="left"):
        await server.handshake()


async def test_a_client_that_speaks_something_else() -> None:
    server_context, _ = contexts()
    stream, inner = memory_pair(1000)
    server = TlsTransport(inner, server_context)
    await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with trio.fail_after(1), pytest.raises(ssl.SSLError):
        await server.handshake()
