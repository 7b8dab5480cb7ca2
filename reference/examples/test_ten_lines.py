"""A client of ten lines, in nothing but trio-websocket and JSON, tested against a server of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from trio_websocket import WebSocketConnection, open_websocket_url

if TYPE_CHECKING:
    from holdfast_reference.pytest_fixture import HoldfastServer


async def say(socket: WebSocketConnection, **frame: object) -> dict[str, object]:
    await socket.send_message(json.dumps(frame))
    answer: dict[str, object] = json.loads(await socket.get_message())
    return answer


@pytest.mark.trio
async def test_a_request_is_answered(holdfast_server: HoldfastServer) -> None:
    async with open_websocket_url(holdfast_server.url, subprotocols=["holdfast.v1.json"]) as socket:
        auth = {"token": holdfast_server.tokens["alice"]}
        assert (await say(socket, type="hello", profiles=["rpc"], auth=auth))["type"] == "welcome"
        answer = await say(socket, type="request", id=1, method="conf.echo", data="hold fast")
        assert answer == {"type": "result", "id": 1, "data": "hold fast"}
