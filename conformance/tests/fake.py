"""A small server for the suite's own tests, made to misbehave: it knows just enough to be judged.

It is no reference: what it does right it does in the fewest lines. `Fake.faults` names what it does wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import h11
import trio
import trio.testing
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.utilities import generate_accept_token

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMITS = {"max_frame": 65536, "max_inflight": 16, "max_subscriptions": 16, "queue": 64, "queue_bytes": 65536}
WINDOW = {"window": 8, "window_bytes": 65536, "ack_delay_ms": 500, "resume_ms": 9000}
STARTS = ("request", "subscribe", "publish", "auth")


@dataclass(eq=False)
class Seat:
    """One connection: its stream, its parser, and its subscriptions by exchange id.

    With profile ack, `kept` has the frames that are not acknowledged, by `seq`.
    """

    stream: trio.abc.Stream
    parser: Connection
    last_id: int = 0
    profiles: list[str] = field(default_factory=list)
    channels: dict[int, str] = field(default_factory=dict)
    ghosts: dict[int, str] = field(default_factory=dict)
    sent: int = 0
    kept: dict[int, dict[str, object]] = field(default_factory=dict)
    acks: list[int] = field(default_factory=list)
    resumed: bool = False

    async def send(self, **frame: object) -> None:
        """Send a frame, numbered if it has to be; a client that is gone is no error."""
        if "ack" in self.profiles and "id" in frame and "seq" not in frame:
            self.sent += 1
            frame["seq"] = self.sent
            self.kept[self.sent] = frame
        try:
            await self.stream.send_all(self.parser.send(Message(json.dumps(frame))))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame and end the stream."""
        try:
            await self.stream.send_all(self.parser.send(CloseConnection(code=code, reason=reason)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()
        await self.stream.aclose()


class Fake:
    """The server.

    Args:
        faults: `silent`, `html`, `refuse`, `ghost`, `reuse`, `twice`, `crosstalk`, `leak`, `flaky`, `dies`,
            `undeclared`.
        offers: its profiles.
        welcome: members of its welcome that differ from the regular ones.
    """

    def __init__(
        self,
        *faults: str,
        offers: tuple[str, ...] = ("rpc", "pubsub", "pattern", "fence"),
        welcome: Mapping[str, object] | None = None,
    ) -> None:
        self.faults = set(faults)
        self.names = count(1)
        self.welcome = welcome or {}
        self.offers = offers
        self.seats: list[Seat] = []
        self.all: list[Seat] = []
        self.sessions: dict[object, Seat] = {}
        self.connections = 0
        self.requests = 0
        self.nursery: trio.Nursery | None = None

    async def connect(self) -> trio.abc.Stream:
        """Return the client's end of a new connection; `nursery` must be set."""
        assert self.nursery is not None
        self.connections += 1
        if "dies" in self.faults and self.connections > 4:
            raise OSError(111, "gone")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.serve, theirs)
        return ours

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end."""
        try:
            head = await self._upgrade(stream)
            if head is not None:
                await self._converse(Seat(stream, Connection(ConnectionType.SERVER, trailing_data=head)))
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass

    async def _upgrade(self, stream: trio.abc.Stream) -> bytes | None:
        http = h11.Connection(h11.SERVER)
        while (event := http.next_event()) is h11.NEED_DATA:
            data = await stream.receive_some(65536)
            if not data:
                return None
            http.receive_data(bytes(data))
        assert isinstance(event, h11.Request)
        headers = {name.decode(): value.decode() for name, value in event.headers}
        if "html" in self.faults:
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
            )
            return None
        if "holdfast.v1.json" not in headers.get("sec-websocket-protocol", ""):
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return None
        accept = generate_accept_token(headers["sec-websocket-key"].encode()).decode()
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: "
            + accept.encode()
            + b"\r\nSec-WebSocket-Protocol: holdfast.v1.json\r\n\r\n"
        )
        return http.trailing_data[0]

    async def _converse(self, seat: Seat) -> None:
        self.seats.append(seat)
        self.all.append(seat)
        try:
            while True:
                for event in seat.parser.events():
                    match event:
                        case TextMessage() if event.message_finished:
                            await self._act(seat, event.data)
                        case Ping():
                            await seat.stream.send_all(seat.parser.send(event.response()))
                        case CloseConnection():
                            seat.channels.clear()
                            await seat.close(event.code)
                            return
                data = await seat.stream.receive_some(65536)
                if not data:
                    return
                seat.parser.receive_data(bytes(data))
        finally:
            if "resume" not in seat.profiles:  # otherwise it goes on filling
                self.seats.remove(seat)

    async def _act(self, seat: Seat, text: str) -> None:
        if "silent" in self.faults:
            return
        try:
            frame = json.loads(text)
        except ValueError:
            await seat.close(4001, "bad_frame")
            return
        match frame["type"]:
            case "hello":
                await self._welcome(seat, frame)
            case "ack":
                seat.acks.append(frame["seq"])
                seat.kept = {seq: kept for seq, kept in seat.kept.items() if seq > frame["seq"]}
            case "ping":
                await seat.send(type="pong", **({"t": frame["t"]} if "t" in frame else {}))
            case "cancel":
                if (channel := seat.channels.pop(frame["of"], None)) is not None:
                    seat.ghosts[frame["of"]] = channel
                    await seat.send(type="result", id=frame["of"])
            case "request" | "subscribe" | "publish" | "auth" | "history":
                if frame["id"] <= seat.last_id and "reuse" not in self.faults:
                    await seat.close(4003, "bad_id")
                else:
                    seat.last_id = frame["id"]
                    await self._exchange(seat, frame)

    async def _welcome(self, seat: Seat, hello: dict[str, object]) -> None:
        if "refuse" in self.faults:
            await seat.close(4101, "unauthenticated")
            return
        asked = hello["profiles"]
        assert isinstance(asked, list)
        seat.profiles = [name for name in asked if name in self.offers]
        regular: dict[str, object] = {
            "type": "welcome",
            "conn": f"c-{next(self.names)}",
            "profiles": seat.profiles,
            "limits": LIMITS,
            "heartbeat": {"interval_ms": 60000, "timeout_ms": 10000},
            "server": {"name": "fake", "version": "1"},
        }
        if "ack" in seat.profiles:
            regular["limits"] = LIMITS | WINDOW
        earlier = None
        if "resume" in seat.profiles:
            asked_for = hello.get("resume")
            name = asked_for["session"] if isinstance(asked_for, dict) else ""
            earlier = self.sessions.pop(name, None)
            name = name if earlier is not None else f"s-{next(self.names)}"
            regular |= {"session": name, "resumed": earlier is not None}
            if earlier is not None:
                self.seats.remove(earlier)
                seat.resumed = True
                seat.channels, seat.kept = earlier.channels, earlier.kept
                seat.last_id, seat.sent = earlier.last_id, earlier.sent
                regular["last_id"] = seat.last_id
            elif asked_for is not None:
                regular["resume_error"] = {"code": "not_found"}
            self.sessions[name] = seat
        await seat.send(**{**regular, **self.welcome})
        for seq, frame in seat.kept.items():
            if earlier is not None and isinstance(asked_for, dict) and seq > asked_for["seq"]:
                await seat.send(**frame)

    async def _exchange(self, seat: Seat, frame: dict[str, object]) -> None:
        number, type = frame["id"], frame["type"]
        assert isinstance(number, int)
        profile = {"request": "rpc", "history": "history"}.get(str(type), "pubsub")
        if profile not in seat.profiles and "undeclared" not in self.faults:
            await seat.send(type="error", id=number, error={"code": "unsupported", "message": "no"})
        elif type == "request":
            await self._request(seat, frame)
        elif type == "subscribe" and "channel" in frame:
            seat.channels[number] = str(frame["channel"])
            await seat.send(type="open", id=number)
        elif type == "publish":
            await self._deliver(str(frame["channel"]), frame["data"])
            await seat.send(type="result", id=number)
        else:
            await seat.send(type="error", id=number, error={"code": "bad_request", "message": "no"})

    async def _request(self, seat: Seat, frame: dict[str, object]) -> None:
        self.requests += 1
        if "leak" in self.faults:
            await seat.send(
                type="error", id=frame["id"], error={"code": "app", "message": "no tok-secret here"}
            )
            return
        data = frame.get("data")
        if "flaky" in self.faults and self.requests == 1:
            data = "flaky"
        await seat.send(type="result", id=frame["id"], data=data)
        if "twice" in self.faults:
            await seat.send(type="result", id=frame["id"], data=data)

    async def _deliver(self, channel: str, data: object) -> None:
        for seat in list(self.seats):
            listed = seat.channels | (seat.ghosts if "ghost" in self.faults else {})
            for number, subscribed in list(listed.items()):
                if subscribed == channel or "crosstalk" in self.faults:
                    await seat.send(type="event", id=number, data=data)


async def announce(fake: Fake) -> None:
    """Serve on a free port for ever and print the URL: the fake as a process of its own."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, fake.serve, 0, host="127.0.0.1"))
        print(f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/", flush=True)
