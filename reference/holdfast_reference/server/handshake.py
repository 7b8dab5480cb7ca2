"""The HTTP head of a connection: which requests become WebSockets, and what the others are told.

Spec: 01-transport [TRN-02] [TRN-03] [TRN-04], 03-session [SES-43], 11-security [SEC-01] [SEC-02] [SEC-03].
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import h11

from holdfast_reference.backends.base import Upgrade

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast_reference.server.transport import Transport

__all__ = ["Policy", "Refusal", "accept", "upgrade"]

SUBPROTOCOL: Final = "holdfast.v1.json"
_MAX_HEAD: Final = 16_384
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a server asks of upgrade requests.

    Args:
        path: the only path there is.
        origins: allowed values of `Origin`; None when it does not matter, because nothing in the request
            identifies anybody; empty for the server's own origin.
        secure: whether the connection is TLS, which the own origin shows.
        unavailable: why nobody is let in now, or None.
    """

    path: str
    origins: frozenset[str] | None
    secure: bool
    unavailable: str | None


class Refusal(Exception):
    """A request that gets an HTTP answer and nothing else."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


async def upgrade(transport: Transport, policy: Policy) -> tuple[Upgrade, bytes] | None:
    """Read one request and answer it.

    Returns:
        the request and the bytes behind it, when it has become a WebSocket; None when it was refused or left.

    Raises:
        OSError: the stream broke.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
    try:
        request = await _read_head(transport, parser)
        if request is None:
            return None
        headers = _joined(request)
        key = _check(request, headers, policy)
    except h11.RemoteProtocolError as error:
        await _refuse(transport, parser, Refusal(error.error_status_hint, "malformed request"))
        return None
    except Refusal as refusal:
        await _refuse(transport, parser, refusal)
        return None
    answer = parser.send(
        h11.InformationalResponse(
            status_code=101,
            headers=[
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", accept(key)),
                ("Sec-WebSocket-Protocol", SUBPROTOCOL),
            ],
        )
    )
    await _send(transport, answer)
    return Upgrade(transport.peer, headers), parser.trailing_data[0]


def accept(key: str) -> str:
    """The `Sec-WebSocket-Accept` for a key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


async def _read_head(transport: Transport, parser: h11.Connection) -> h11.Request | None:
    request: h11.Request | None = None
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            data = await transport.recv()
            if not data:
                return None
            parser.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
            return request
        elif isinstance(event, h11.Data):
            raise Refusal(400, "a request with a body cannot become a WebSocket")
        else:
            return None


def _check(request: h11.Request, headers: Mapping[str, str], policy: Policy) -> str:
    if policy.unavailable is not None:
        raise Refusal(503, policy.unavailable, {"Retry-After": "1"})
    if request.target.split(b"?")[0].decode("latin-1") != policy.path:
        raise Refusal(404, "nothing here")
    if request.method != b"GET":
        raise Refusal(405, "only GET", {"Allow": "GET"})
    if not _lists(headers, "upgrade", "websocket") or not _lists(headers, "connection", "upgrade"):
        raise Refusal(426, "this is a WebSocket endpoint", {"Upgrade": "websocket"})
    if headers.get("sec-websocket-version") != "13":
        raise Refusal(426, "WebSocket version 13 only", {"Sec-WebSocket-Version": "13"})
    key = headers.get("sec-websocket-key", "")
    try:
        good = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        good = False
    if request.http_version != b"1.1" or not good:
        raise Refusal(400, "not a WebSocket handshake")
    if SUBPROTOCOL not in _tokens(headers.get("sec-websocket-protocol", "")):
        raise Refusal(400, f"offer the subprotocol {SUBPROTOCOL}")
    origin = headers.get("origin")
    if origin is not None and policy.origins is not None:
        scheme = "https" if policy.secure else "http"
        allowed = policy.origins or {f"{scheme}://{headers.get('host', '')}"}
        if origin.lower() not in {known.lower() for known in allowed}:
            raise Refusal(403, "this origin is not on the list")
    return key


def _joined(request: h11.Request) -> Mapping[str, str]:
    """Headers by name; those of one name count as one list (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _tokens(value: str) -> list[str]:
    return [token.strip() for token in value.split(",")]


def _lists(headers: Mapping[str, str], name: str, token: str) -> bool:
    return token in _tokens(headers.get(name, "").lower())


async def _refuse(transport: Transport, parser: h11.Connection, refusal: Refusal) -> None:
    body = f"{refusal.message}\n".encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *refusal.headers.items(),
    ]
    answer = parser.send(h11.Response(status_code=refusal.status, headers=headers)) or b""
    with suppress(h11.LocalProtocolError):  # the answer to HEAD has no body
        answer += parser.send(h11.Data(data=body)) or b""
    await _send(transport, answer)
    transport.send_eof()
    # What the client still sends would turn our answer into a reset; read it away until it has ended.
    while await transport.recv():
        pass


async def _send(transport: Transport, data: bytes | None) -> None:
    rest = data or b""
    while rest := rest[transport.try_send(rest) :]:
        await transport.wait_writable()
