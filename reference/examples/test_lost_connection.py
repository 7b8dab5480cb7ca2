"""Two bad moments in the life of a client, on demand: a connection that is lost, and a session that is gone.

The client is a few lines of trio-websocket and JSON. It keeps the highest `seq` and the last cursor, the two
things with which nothing is lost; put your own client in its place.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast_reference.pytest_fixture import HoldfastServer

SUBPROTOCOL = "holdfast.v1.json"
PROFILES = ["rpc", "pubsub", "ack", "resume", "history"]


class Client:
    """What outlives a connection.

    Attributes:
        got: the highest `seq` that has arrived.
        cursor: the place behind the last event.
        heard: the data of all events.
    """

    def __init__(self, server: HoldfastServer) -> None:
        self.url = server.url
        self.auth = {"token": server.tokens["alice"]}
        self.got = 0
        self.cursor = ""
        self.heard: list[object] = []

    @asynccontextmanager
    async def connection(self, **resume: object) -> AsyncIterator[tuple[WebSocketConnection, dict[str, Any]]]:
        """Connect, say hello, and give the connection and its welcome."""
        hello = {"type": "hello", "profiles": PROFILES, "auth": self.auth}
        address = urlsplit(self.url)
        assert address.hostname is not None
        assert address.port is not None
        # The stream is ours: trio-websocket leaves it open when a connection breaks.
        stream = await trio.open_tcp_stream(address.hostname, address.port)
        async with stream, trio.open_nursery() as tasks:
            socket = await wrap_client_stream(tasks, stream, address.netloc, "/", subprotocols=[SUBPROTOCOL])
            await self.send(socket, **hello, **({"resume": resume} if resume else {}))
            yield socket, json.loads(await socket.get_message())
            await socket.aclose()

    async def send(self, socket: WebSocketConnection, **frame: object) -> None:
        await socket.send_message(json.dumps(frame))

    async def read(self, socket: WebSocketConnection, until: str) -> dict[str, Any]:
        """Take frames until one of this type has come; return that."""
        while True:
            frame: dict[str, Any] = json.loads(await socket.get_message())
            self.got = frame.get("seq", self.got)
            self.cursor = frame.get("cursor", self.cursor)
            if frame["type"] == "event":
                self.heard.append(frame["data"])
            if frame["type"] == until:
                return frame

    async def lose(self, socket: WebSocketConnection, *steps: list[object]) -> None:
        """Subscribe, have the server run these steps, and take what comes until the connection breaks."""
        await self.send(socket, type="subscribe", id=1, channel="conf/room")
        await self.read(socket, "open")
        await self.send(socket, type="request", id=2, method="conf.run", data=steps)
        with pytest.raises(ConnectionClosed):
            await self.read(socket, "result")


@pytest.mark.trio
async def test_a_session_goes_on_without_its_connection(holdfast_server: HoldfastServer) -> None:
    client = Client(holdfast_server)
    async with client.connection() as (socket, welcome):
        await client.lose(socket, ["emit", "conf/room", "a"], ["abort"], ["emit", "conf/room", "b"])
    async with client.connection(session=welcome["session"], seq=client.got, attempt=1) as (socket, again):
        assert (again["resumed"], again["last_id"]) == (True, 2)
        assert (await client.read(socket, "result"))["id"] == 2
    assert client.heard == ["a", "b"]


@pytest.mark.trio
async def test_a_cursor_outlives_the_session(holdfast_server: HoldfastServer) -> None:
    client = Client(holdfast_server)
    async with client.connection() as (socket, welcome):
        await client.lose(socket, ["emit", "conf/room", "a"], ["forget"], ["abort"])
    async with client.connection(session=welcome["session"], seq=client.got, attempt=1) as (socket, other):
        assert (other["resumed"], other["resume_error"]) == (False, {"code": "not_found"})
        await client.send(socket, type="publish", id=1, channel="conf/room", data="b")
        await client.read(socket, "result")
        await client.send(socket, type="subscribe", id=2, channel="conf/room", since=client.cursor)
        assert (await client.read(socket, "open"))["recovered"] is True
        while "b" not in client.heard:
            await client.read(socket, "event")
    assert client.heard == ["a", "b"]
