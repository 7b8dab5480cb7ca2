"""Where bytes come from and go to: a socket in life, a pair in memory under a virtual clock in tests.

`try_send` never waits and never leaves a frame half sent without saying so; that is what lets one task
write for every connection. Nobody but a connection's own tasks waits on its transport.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import trio

from holdfast_reference.server.poller import READ_SIZE

__all__ = ["MemoryTransport", "SocketTransport", "TlsTransport", "Transport", "memory_pair"]

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.server.poller import Poller

    Take = Callable[[bytes], bool]


class Transport(Protocol):
    """One byte stream to a client."""

    @property
    def peer(self) -> str:
        """The other end's address, for the log."""
        ...

    def try_send(self, data: bytes) -> int:
        """Send what can be sent at once.

        Returns:
            how many bytes were taken; fewer than all means that `wait_writable` is next.

        Raises:
            OSError: the stream is broken.
        """
        ...

    async def wait_writable(self) -> None:
        """Wait until `try_send` is worth another attempt."""
        ...

    async def recv(self, take: Take | None = None) -> bytes | None:
        """Wait for bytes.

        Args:
            take: a transport may hand it what arrives, piece by piece and from any task, for as long as it
                returns True, instead of returning it.

        Returns:
            what arrived; b"" at the end of the stream; None when `take` has returned False.

        Raises:
            OSError: the stream is broken.
        """
        ...

    def send_eof(self) -> None:
        """Say that nothing more will be sent, if the stream can say so; a broken one keeps silent."""
        ...

    def close(self, *, abort: bool = False) -> None:
        """Release everything. `abort` tells the peer by a reset that the end is not a regular one."""
        ...


class SocketTransport:
    """A connected TCP socket, made non-blocking."""

    __slots__ = ("_poller", "_socket", "peer")

    def __init__(self, connected: socket.socket, poller: Poller) -> None:
        self._poller = poller
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self.peer = "{0[0]}:{0[1]}".format(connected.getpeername())

    def try_send(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._socket)

    async def recv(self, take: Take | None = None) -> bytes | None:
        if take is not None and self._poller.works:
            return await self._poller.read(self._socket, take)
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                continue

    def send_eof(self) -> None:
        with suppress(OSError):  # the peer may be faster
            self._socket.shutdown(socket.SHUT_WR)

    def close(self, *, abort: bool = False) -> None:
        if self._socket.fileno() < 0:
            return
        if abort:
            with suppress(OSError):  # some systems know no options of a connection that the peer has reset
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class TlsTransport:
    """TLS over another transport; encrypted bytes that it did not take wait here, and hold up the next.

    While such bytes wait, the last byte that they stand for counts as not taken: the sender comes back.
    """

    __slots__ = ("_incoming", "_inner", "_outgoing", "_owed", "_tls", "_unsent")

    def __init__(self, inner: Transport, context: ssl.SSLContext) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""
        self._owed = 0  # 1 when the next byte to send was encrypted before, and not counted

    @property
    def peer(self) -> str:
        return self._inner.peer

    async def handshake(self) -> None:
        """Agree on keys.

        Raises:
            OSError: the peer does not speak TLS, or not ours (`ssl.SSLError` is one), or it went away.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush_all()
                data = await self._inner.recv()
                if not data:
                    raise ConnectionResetError("the peer left during the TLS handshake") from None
                self._incoming.write(data)
            else:
                await self._flush_all()
                return

    def _flush(self) -> bool:
        self._unsent += self._outgoing.read()
        if self._unsent:
            self._unsent = self._unsent[self._inner.try_send(self._unsent) :]
        return not self._unsent

    async def _flush_all(self) -> None:
        while not self._flush():
            await self._inner.wait_writable()

    def try_send(self, data: bytes) -> int:
        if not self._flush():
            return 0
        sent, self._owed = self._owed, 0
        if sent < len(data):
            sent += self._tls.write(data[sent:])
            if not self._flush():
                self._owed = 1
        return sent - self._owed

    async def wait_writable(self) -> None:
        await self._flush_all()

    async def recv(self, take: Take | None = None) -> bytes | None:
        while True:
            try:
                return self._tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                self._flush()  # a key update may have been answered
                data = await self._inner.recv()
                if not data:
                    return b""
                self._incoming.write(data)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def send_eof(self) -> None:
        with suppress(ssl.SSLError):  # it would wait for the peer's answer; ours is in the buffer
            self._tls.unwrap()
        with suppress(OSError):  # the peer may be faster
            self._flush()
        if not self._unsent:
            self._inner.send_eof()

    def close(self, *, abort: bool = False) -> None:
        self._inner.close(abort=abort)


class _Pipe:
    """One direction of a pair: at most `capacity` bytes wait in it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._data = bytearray()
        self._ended = False
        self._broken = False
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()

    def write(self, data: bytes) -> int:
        if self._broken or self._ended:
            raise BrokenPipeError("the other end is closed")
        taken = data[: self._capacity - len(self._data)]
        self._data += taken
        if taken:
            self._readers.unpark_all()
        return len(taken)

    async def wait_room(self) -> None:
        while len(self._data) >= self._capacity and not self._broken and not self._ended:
            await self._writers.park()

    async def read(self, size: int) -> bytes:
        while not self._data and not self._ended and not self._broken:
            await self._readers.park()
        if self._broken:
            raise ConnectionResetError("reset by the other end")
        data = bytes(self._data[:size])
        del self._data[:size]
        self._writers.unpark_all()
        return data

    def end(self) -> None:
        """The writer says that nothing follows."""
        self._ended = True
        self._wake()

    def break_(self) -> None:
        """Either side is gone: what waits is lost."""
        self._broken = True
        self._wake()

    def _wake(self) -> None:
        self._readers.unpark_all()
        self._writers.unpark_all()


class MemoryTransport:
    """The server's end of a pair."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.peer = "memory"

    def try_send(self, data: bytes) -> int:
        return self._outgoing.write(data)

    async def wait_writable(self) -> None:
        await self._outgoing.wait_room()

    async def recv(self, take: Take | None = None) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return await self._incoming.read(READ_SIZE)

    def send_eof(self) -> None:
        self._outgoing.end()

    def close(self, *, abort: bool = False) -> None:
        self._incoming.break_()
        if abort:
            self._outgoing.break_()
        else:
            self._outgoing.end()


class _MemoryStream(trio.abc.HalfCloseableStream):
    """The client's end of a pair."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._check()
        rest = bytes(data)
        while rest:
            try:
                rest = rest[self._outgoing.write(rest) :]
            except OSError as error:
                raise trio.BrokenResourceError from error
            if rest:
                await self._outgoing.wait_room()

    async def wait_send_all_might_not_block(self) -> None:
        await self._check()
        await self._outgoing.wait_room()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self._check()
        try:
            return await self._incoming.read(READ_SIZE if max_bytes is None else max_bytes)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def send_eof(self) -> None:
        await self._check()
        self._outgoing.end()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._outgoing.end()
            self._incoming.break_()
        await trio.lowlevel.checkpoint()

    async def _check(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError


def memory_pair(capacity: int) -> tuple[trio.abc.HalfCloseableStream, MemoryTransport]:
    """A client's stream and the server's transport, joined; each direction holds at most `capacity` bytes."""
    upward, downward = _Pipe(capacity), _Pipe(capacity)
    return _MemoryStream(downward, upward), MemoryTransport(upward, downward)
