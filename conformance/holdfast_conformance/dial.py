"""Reaching the target: streams, TLS, and the WebSocket handshake with any headers.

An `Endpoint` knows one address. It opens streams to it (or asks a `connect` function that a test supplies)
and speaks the HTTP/1.1 upgrade through h11. Problems are `DialError`s that say what failed and where.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11
import trio

from .client import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["SUBPROTOCOL", "DialError", "Endpoint"]

SUBPROTOCOL = "holdfast.v1.json"

LARGEST_BODY = 65536
"""Bytes of a refusal's body that are read before we stop caring."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


NOT_THERE = "is the server running, and is this its address and port?"
NOT_WEBSOCKET = "is this the address of a WebSocket server? wss:// is for those that speak TLS"


class DialError(Exception):
    """The target cannot be reached, or what answers is not HTTP.

    Args:
        message: what failed, and where.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class Endpoint:
    """An address of the target.

    Args:
        url: a `ws` or `wss` URL.
        headers: extra request headers for every handshake, such as a cookie or an Origin.
        tls: how to verify a `wss` target; None for `ws`.
        connect: opens a stream instead of TCP, for running in memory.
        patience: seconds that connecting and the handshake may take.
    """

    url: str
    headers: Sequence[tuple[str, str]] = ()
    tls: ssl.SSLContext | None = None
    connect: Callable[[], Awaitable[trio.abc.Stream]] | None = None
    patience: float = 10.0
    host: str = field(init=False)
    port: int = field(init=False)
    path: str = field(init=False)
    _address: tuple[int, object] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "wss" else 80)
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    @property
    def loopback(self) -> bool:
        """Whether the target runs on this machine, so that nobody else is harmed by floods and stalls."""
        if self.connect is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    async def stream(self, receive_buffer: int | None = None) -> trio.abc.Stream:
        """Open a stream to the target, TLS included.

        Args:
            receive_buffer: bytes of the kernel's receive buffer, small to make the target's writes back up
                early.
        """
        if self.connect is not None:
            try:
                return await self.connect()
            except OSError as error:
                raise DialError(f"cannot connect: {_reason(error)}", NOT_THERE) from error
        if self._address is None:
            self._address = await self._resolve()
        family, address = self._address
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            with trio.fail_after(self.patience):
                await sock.connect(address)
        except (OSError, trio.TooSlowError) as error:
            sock.close()
            raise DialError(
                f"cannot connect to {self.host}:{self.port}: {_reason(error)}", NOT_THERE
            ) from error
        except BaseException:
            sock.close()
            raise
        stream: trio.abc.Stream = trio.SocketStream(sock)
        if self.tls is not None:
            stream = trio.SSLStream(stream, self.tls, server_hostname=self.host, https_compatible=True)
            try:
                with trio.fail_after(self.patience):
                    await stream.do_handshake()
            except (trio.BrokenResourceError, ssl.SSLError, trio.TooSlowError) as error:
                await trio.aclose_forcefully(stream)
                cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
                raise DialError(
                    f"TLS with {self.host}:{self.port} failed: {_reason(cause or error)}",
                    "name the CA under [tls] in the target file, or use ws:// if the server speaks no TLS",
                ) from error
        return stream

    async def handshake(
        self,
        stream: trio.abc.Stream,
        *,
        subprotocols: Sequence[str] = (SUBPROTOCOL,),
        headers: Sequence[tuple[str, str]] = (),
        omit: Sequence[str] = (),
        method: str = "GET",
        path: str | None = None,
        version: str = "1.1",
        raw: bytes | None = None,
    ) -> tuple[Response, bytes]:
        """Send an upgrade request and return the answer and the bytes that followed it.

        Args:
            subprotocols: values of Sec-WebSocket-Protocol; none leaves the header out.
            headers: further headers; one that is there already is replaced.
            omit: lower-case names of headers to leave out.
            raw: send these bytes in place of the request.

        Raises:
            DialError: no answer in time, the connection ended, or the answer is not HTTP or fails RFC 6455.
        """
        key = base64.b64encode(os.urandom(16)).decode()
        fields = {
            "host": ("Host", self.host if self.port in (80, 443) else f"{_bracketed(self.host)}:{self.port}"),
            "upgrade": ("Upgrade", "websocket"),
            "connection": ("Connection", "Upgrade"),
            "sec-websocket-key": ("Sec-WebSocket-Key", key),
            "sec-websocket-version": ("Sec-WebSocket-Version", "13"),
        }
        if subprotocols:
            fields["sec-websocket-protocol"] = ("Sec-WebSocket-Protocol", ", ".join(subprotocols))
        for name, value in (*self.headers, *headers):
            fields[name.lower()] = (name, value)
        for name in omit:
            fields.pop(name, None)
        head = [f"{method} {path or self.path} HTTP/{version}", *(f"{n}: {v}" for n, v in fields.values())]
        request = "\r\n".join(head).encode() + b"\r\n\r\n" if raw is None else raw
        # h11 parses the answer; it has to believe that it wrote the request itself.
        parser = h11.Connection(h11.CLIENT)
        parser.send(
            h11.Request(
                method="GET",
                target="/",
                headers=[("Host", "x"), ("Upgrade", "websocket"), ("Connection", "upgrade")],
            )
        )
        parser.send(h11.EndOfMessage())
        try:
            with trio.fail_after(self.patience):
                await stream.send_all(request)
                response = await _answer(stream, parser)
        except trio.TooSlowError as error:
            raise DialError(
                f"{self.url} did not answer the handshake within {self.patience:g} s", NOT_WEBSOCKET
            ) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise DialError(f"{self.url} cut the connection during the handshake", NOT_WEBSOCKET) from error
        except h11.RemoteProtocolError as error:
            raise DialError(f"{self.url} does not speak HTTP/1.1: {error}", NOT_WEBSOCKET) from error
        if response.status == 101 and raw is None:
            sent_key = fields.get("sec-websocket-key", ("", ""))[1]
            accept = base64.b64encode(hashlib.sha1(sent_key.encode() + _GUID).digest()).decode()
            if response.header("sec-websocket-accept") != accept:
                raise DialError(
                    f"{self.url} answered 101 with a wrong Sec-WebSocket-Accept",
                    "it is computed from Sec-WebSocket-Key, see RFC 6455, section 4.2.2",
                )
        return response, bytes(parser.trailing_data[0])

    async def _resolve(self) -> tuple[int, object]:
        try:
            found = await trio.socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise DialError(
                f"cannot resolve {self.host!r}: {_reason(error)}", "look at the host name in the URL"
            ) from error
        for family, _, _, _, address in found:
            with trio.socket.socket(family, socket.SOCK_STREAM) as probe, trio.move_on_after(self.patience):
                try:
                    await probe.connect(address)
                except OSError:
                    continue
                return family, address
        return found[0][0], found[0][4]


async def _answer(stream: trio.abc.Stream, parser: h11.Connection) -> Response:
    status, headers, body = 0, [], bytearray()
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            if parser.their_state is h11.SWITCHED_PROTOCOL:
                break
            data = await stream.receive_some(65536)
            if not data and not status:
                raise h11.RemoteProtocolError("it closed the connection without an answer")
            parser.receive_data(bytes(data))
        elif isinstance(event, (h11.InformationalResponse, h11.Response)):
            if event.status_code == 101 or isinstance(event, h11.Response):
                status = event.status_code
                headers = [(name.decode().lower(), value.decode("latin-1")) for name, value in event.headers]
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LARGEST_BODY:
                break
        else:  # PAUSED after 101, EndOfMessage or ConnectionClosed after a refusal
            break
    return Response(status, tuple(headers), bytes(body[:LARGEST_BODY]))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reason(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):  # its errno is OpenSSL's, not the system's
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
