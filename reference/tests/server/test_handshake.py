"""HTTP before the WebSocket: who gets a 101, and what the others are told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from holdfast_reference.server.handshake import accept
from tests.wire import REQUEST, Closed, Wire, serving, text

if TYPE_CHECKING:
    from trio.testing import MockClock


def changed(name: bytes, value: bytes | None) -> bytes:
    """The good request, with one header changed or left out."""
    lines = [line for line in REQUEST.split(b"\r\n") if not line.lower().startswith(name.lower() + b":")]
    if value is not None:
        lines.insert(-1, name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n"


async def status(request: bytes) -> int:
    """What a server answers."""
    async with serving() as house:
        wire = Wire(house.stream())
        head = await wire.http(request)
        return int(head.split()[1])


def test_the_accept_header_is_that_of_the_rfc() -> None:
    assert accept("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


async def test_a_good_request_becomes_a_websocket() -> None:
    """[TRN-03] [TRN-04]: and names the subprotocol, and no extension."""
    async with serving() as house:
        head = await Wire(house.stream()).http(changed(b"Sec-WebSocket-Extensions", b"permessage-deflate"))
        lines = head.lower().split(b"\r\n")
        assert lines[0].startswith(b"http/1.1 101")
        assert b"sec-websocket-protocol: holdfast.v1.json" in lines
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in lines
        assert not any(line.startswith(b"sec-websocket-extensions") for line in lines)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (changed(b"Sec-WebSocket-Protocol", None), 400),
        (changed(b"Sec-WebSocket-Protocol", b"chat"), 400),
        (changed(b"Sec-WebSocket-Protocol", b"chat, holdfast.v1.json"), 101),
        (changed(b"Sec-WebSocket-Protocol", b"chat\r\nSec-WebSocket-Protocol: holdfast.v1.json"), 101),
        (changed(b"Sec-WebSocket-Key", None), 400),
        (changed(b"Sec-WebSocket-Key", b"short"), 400),
        (changed(b"Sec-WebSocket-Version", b"8"), 426),
        (changed(b"Upgrade", None), 426),
        (changed(b"Connection", b"keep-alive"), 426),
        (changed(b"Content-Length", b"5"), 400),
        (changed(b"Host", None), 400),
        (REQUEST.replace(b"GET / ", b"GET /other "), 404),
        (REQUEST.replace(b"GET / ", b"GET /?a=b "), 101),
        (REQUEST.replace(b"GET ", b"PUT "), 405),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (b"nonsense\r\n", 400),
        (REQUEST + b"X: " + b"x" * 100_000 + b"\r\n", 431),
    ],
)
async def test_who_is_let_in(request_: bytes, expected: int) -> None:
    """[TRN-02] [TRN-03]."""
    assert await status(request_ + b"\r\n") == expected


@pytest.mark.parametrize(
    ("origin", "listed", "expected"),
    [
        (None, (), 101),
        (b"http://localhost", (), 101),
        (b"http://evil.example", (), 403),
        (b"null", (), 403),
        (b"http://localhost", ("https://app.example",), 403),
        (b"https://app.example", ("https://app.example",), 101),
        (None, ("https://app.example",), 101),
    ],
)
async def test_origins_matter_where_the_browser_identifies_its_user(
    origin: bytes | None, listed: tuple[str, ...], expected: int
) -> None:
    """[SEC-01] [SEC-02] [SEC-03]: as with cookies."""
    async with serving(lambda config: replace(config, origins=frozenset(listed))) as house:
        head = await Wire(house.stream()).http(changed(b"Origin", origin) + b"\r\n")
        assert int(head.split()[1]) == expected


async def test_any_origin_will_do_where_only_hello_identifies() -> None:
    async with serving(lambda config: replace(config, cookie=None)) as house:
        head = await Wire(house.stream()).http(changed(b"Origin", b"http://any.example") + b"\r\n")
        assert head.startswith(b"HTTP/1.1 101")


async def test_too_many_connections_are_told_to_come_again() -> None:
    async with serving(lambda config: replace(config, max_connections=1)) as house:
        await house.connect()
        head = await Wire(house.stream()).http(REQUEST + b"\r\n")
        assert head.startswith(b"HTTP/1.1 503")


async def test_head_gets_an_answer_without_a_body() -> None:
    async with serving() as house:
        wire = Wire(house.stream())
        head = await wire.http(REQUEST.replace(b"GET", b"HEAD") + b"\r\n")
        assert head.startswith(b"HTTP/1.1 405")
        assert await wire.stream.receive_some() == b""
        assert wire._data == b""


async def test_a_head_that_does_not_end_is_dropped(autojump_clock: MockClock) -> None:
    """However slowly it grows; and silence too."""
    async with serving() as house:
        silent, slow = Wire(house.stream()), Wire(house.stream())
        start = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012  # it is dropped at some byte
            for byte in REQUEST:
                await slow.raw(bytes((byte,)))
                await trio.sleep(1)
        assert trio.current_time() - start == pytest.approx(10, abs=1)
        with pytest.raises(Closed):
            await silent.message()
        assert house.server._connections == 0


async def test_a_client_that_leaves_early_leaves_nothing() -> None:
    async with serving() as house:
        for data in (b"", b"GET / HT", REQUEST):
            stream = house.stream()
            await stream.send_all(data)
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert house.server._connections == 0


async def test_frames_behind_the_request_are_not_lost() -> None:
    """The upgrade request and hello in one segment."""
    async with serving() as house:
        wire = Wire(house.stream())
        hello = text({"type": "hello", "profiles": [], "auth": {"token": "tok-alice"}})
        await wire.http(REQUEST + b"\r\n" + hello)
        assert (await wire.receive())["type"] == "welcome"
