"""A bare broadcaster and echo on trio-websocket, the same application as `server.js`."""

from __future__ import annotations

import json
import signal

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

channels: dict[str, dict[WebSocketConnection, int]] = {}


async def serve(request: WebSocketRequest) -> None:
    socket = await request.accept(subprotocol="holdfast.v1.json")
    try:
        while True:
            message = json.loads(await socket.get_message())
            match message["type"]:
                case "request":
                    answer = {"type": "result", "id": message["id"], "data": message["data"]}
                    await socket.send_message(json.dumps(answer))
                case "publish":
                    for subscriber, number in list(channels.get(message["channel"], {}).items()):
                        event = {"type": "event", "id": number, "data": message["data"]}
                        await subscriber.send_message(json.dumps(event))
                    await socket.send_message(json.dumps({"type": "result", "id": message["id"]}))
                case "subscribe":
                    channels.setdefault(message["channel"], {})[socket] = message["id"]
                    await socket.send_message(json.dumps({"type": "open", "id": message["id"]}))
                case "hello":
                    await socket.send_message(json.dumps({"type": "welcome"}))
    except ConnectionClosed:
        pass
    finally:
        for subscribers in channels.values():
            subscribers.pop(socket, None)


async def main() -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0, None)
            print(f"ws://127.0.0.1:{server.port}/", flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()


trio.run(main)
