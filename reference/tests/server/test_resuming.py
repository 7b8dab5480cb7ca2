"""Sessions on the wire: what runs on while nobody is connected, and how a client comes back to it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio
import trio.testing
from holdfast_reference.protocol import Limits, Timers
from holdfast_reference.protocol.logs import Published
from tests.wire import Wire, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from holdfast_reference.config import Config
    from holdfast_reference.server.methods import Call
    from holdfast_reference.server.serve import Server
    from tests.wire import Frame, House
    from trio.testing import MockClock

PROFILES = ("rpc", "pubsub", "fence", "ack", "resume", "history")


class Client:
    """One session of a client that comes back."""

    def __init__(self, house: House, token: str = "tok-alice") -> None:
        self.house = house
        self.token = token
        self.session: object = None
        self.attempt = self.got = 0
        self.wire: Wire

    async def connect(self) -> Frame:
        """Open the session, or resume it; the welcome."""
        self.wire = await self.house.connect()
        hello: Frame = {"type": "hello", "profiles": PROFILES, "auth": {"token": self.token}}
        if self.session is not None:
            self.attempt += 1
            hello["resume"] = {"session": self.session, "seq": self.got, "attempt": self.attempt}
        await self.wire.send(hello)
        welcome = await self.wire.receive()
        self.session = welcome["session"]
        return welcome

    async def next(self) -> Frame:
        """The next frame with a number; it is acknowledged."""
        while True:
            frame = await self.wire.receive()
            if "seq" in frame:
                assert frame["seq"] == self.got + 1
                self.got += 1
                await self.wire.send({"type": "ack", "seq": self.got})
                return frame

    async def cut(self) -> None:
        await self.wire.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def client(
    configure: Callable[[Config], Config] = lambda config: config,
    prepare: Callable[[Server], None] = lambda server: None,
    capacity: int = 2**20,
    token: str = "tok-alice",
) -> AsyncIterator[tuple[Client, Server]]:
    """A client with a session, and its server."""
    async with serving(configure, prepare=prepare, capacity=capacity) as house:
        peer = Client(house, token)
        await peer.connect()
        yield peer, house.server


def request(id: int, *script: list[object], **fields: object) -> Frame:
    return {"type": "request", "id": id, "method": "conf.run", "data": list(script), **fields}


async def test_handlers_and_subscriptions_go_on(autojump_clock: MockClock) -> None:
    """[RES-07] [RES-27] [RES-38]."""
    async with client() as (peer, server):
        await peer.wire.send({"type": "subscribe", "id": 1, "channel": "c"}, request(2, ["hold", 300]))
        await peer.next()
        await peer.cut()
        server.publish("c", "meanwhile")
        await trio.sleep(0.5)
        assert (await peer.connect())["last_id"] == 2
        assert (await peer.next())["data"] == "meanwhile"
        assert (await peer.next())["id"] == 2
        outcomes: list[object] = []
        server.publish("c", "live", outcomes.append)
        assert (await peer.next())["data"] == "live"
        assert [type(outcome) for outcome in outcomes] == [Published]


async def test_a_stream_waits_for_its_client(autojump_clock: MockClock) -> None:
    """[DEL-09]: through a cut, and without losing or repeating a chunk."""
    produced: list[int] = []

    def prepare(server: Server) -> None:
        @server.method("count")
        async def count(call: Call) -> AsyncIterator[object]:
            for n in range(20):
                produced.append(n)
                yield n

    async with client(prepare=prepare, token="tok-small") as (peer, _):
        await peer.wire.send({"type": "request", "id": 1, "method": "count", "stream": True})
        got = [(await peer.next())["data"] for _ in range(3)]
        await peer.cut()
        assert len(produced) < 12  # a window of 4, one that is queued, one that waits
        await peer.connect()
        got += [(await peer.next())["data"] for _ in range(17)]
        assert got == [*range(20)]
        assert (await peer.next())["type"] == "result"


async def test_everything_stops_when_the_session_ends(autojump_clock: MockClock) -> None:
    """[SES-45] [RES-10]: `resume_ms` after the cut, not before."""
    stopped: list[float] = []

    def prepare(server: Server) -> None:
        @server.method("hang")
        async def hang(call: Call) -> None:
            try:
                await trio.sleep_forever()
            finally:
                stopped.append(trio.current_time())

    async with client(prepare=prepare, token="tok-small") as (peer, server):
        await peer.wire.send({"type": "request", "id": 1, "method": "hang"})
        await peer.wire.send({"type": "subscribe", "id": 2, "channel": "c"})
        await peer.next()
        cut = trio.current_time()
        await peer.cut()
        await trio.sleep(0.35)
        assert (len(server.sessions), stopped) == (1, [])
        await trio.sleep(0.1)
        assert [round(at - cut, 3) for at in stopped] == [0.4]
        assert (server.sessions, server.links) == ({}, {})
        server.publish("c", "nobody hears it")
        assert (await peer.connect())["resume_error"] == {"code": "expired", "last_id": 2}


async def test_a_timeout_is_kept_while_nobody_is_there(autojump_clock: MockClock) -> None:
    """[RES-08]."""
    async with client() as (peer, _):
        await peer.wire.send(request(1, ["hold", 60_000], timeout_ms=200))
        await peer.cut()
        await trio.sleep(1)
        await peer.connect()
        assert (await peer.next())["error"]["code"] == "deadline_exceeded"  # type: ignore[index]  # an object


async def test_a_takeover_does_not_wait_for_the_older_connection(autojump_clock: MockClock) -> None:
    """[RES-30] [RES-31] [RES-32] [RES-33]: though its socket is full and its input unread."""
    async with client(capacity=2000) as (peer, server):
        await peer.wire.send({"type": "subscribe", "id": 1, "channel": "c"})
        await peer.next()
        older = peer.wire
        for _ in range(10):
            server.publish("c", "x" * 500)
        await trio.testing.wait_all_tasks_blocked()
        await older.send(*(request(n, ["emit", "c", "late"]) for n in range(2, 5)))
        assert (await peer.connect())["resumed"] is True
        for _ in range(10):
            assert (await peer.next())["data"] == "x" * 500
        code, frames = await older.rest()
        assert code in (4008, 1006)  # 1006 when it was given up before it could be written
        assert len(frames) < 10
        await older.send(request(9, ["emit", "c", "later"]))
        server.publish("c", "end")
        seen: list[object] = []
        while "end" not in seen:
            seen.append((await peer.next()).get("data"))
        assert "later" not in seen


async def test_a_replay_yields_to_live_traffic(autojump_clock: MockClock) -> None:
    """[HIS-06]: a client that recovers much delays nobody."""
    async with client() as (peer, server):
        for n in range(1000):
            server.publish("c", n)
        other = Client(peer.house)
        await other.connect()
        await other.wire.send({"type": "subscribe", "id": 1, "channel": "live"})
        await other.next()
        await peer.wire.send({"type": "subscribe", "id": 1, "channel": "c", "last": 1000})
        await peer.next()
        server.publish("live", "now")
        assert (await other.next())["data"] == "now"
        assert peer.got < 100
        assert [(await peer.next())["data"] for _ in range(1000)] == [*range(1000)]


async def test_replays_cost_a_live_burst_nothing(autojump_clock: MockClock) -> None:
    """[DEL-18]: a queue full of replays is written first, however little of them leaves at a time."""

    def configure(config: Config) -> Config:
        return replace(config, limits=Limits(queue=3, window=10_000))

    async with client(configure) as (peer, server):
        for n in range(30):
            server.publish("c", n)
        subscribes: list[Frame] = [
            {"type": "subscribe", "id": id, "channel": "c", "last": 30} for id in range(2, 42)
        ]
        await peer.wire.send({"type": "subscribe", "id": 1, "channel": "nolog/live"}, *subscribes)
        assert (await peer.next())["type"] == "open"  # all were read at once: most replays are still to come
        for n in range(50):
            server.publish("nolog/live", n)
        assert peer.got < 100
        live: list[object] = []
        while len(live) < 50:
            frame = await peer.next()
            if frame["id"] == 1:
                live.append(frame.get("data", frame["type"]))
        assert live == [*range(50)]


async def test_a_drain_keeps_sessions_and_a_server_s_end_stops_them(autojump_clock: MockClock) -> None:
    """[SES-42] [RES-05]: 4200 keeps; what is suspended does not hold up the drain."""

    def configure(config: Config) -> Config:
        return replace(config, timers=Timers(drain_ms=1000))

    async with client(configure) as (peer, server):
        await peer.wire.send(request(1, ["hold", 50_000]))
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            assert (await peer.wire.receive())["type"] == "goaway"
            assert await peer.wire.closed() == 4200
            await peer.wire.stream.aclose()
        assert len(server.sessions) == 1


async def test_script_steps_for_a_connection_do_nothing_without_one(autojump_clock: MockClock) -> None:
    async with client() as (peer, _):
        steps: list[list[object]] = [["close", 4000], ["abort"], ["expire"], ["drain", 10]]
        await peer.wire.send(request(1, ["hold", 100], *steps, ["reply", {"data": "alive"}]))
        await peer.cut()
        await trio.sleep(0.2)
        assert (await peer.connect())["resumed"] is True
        assert (await peer.next())["data"] == "alive"


async def test_a_session_forgotten_while_it_is_suspended_ends(autojump_clock: MockClock) -> None:
    async with client() as (peer, server):
        await peer.wire.send(request(1, ["hold", 100], ["forget"], ["hold", 60_000]))
        await peer.cut()
        await trio.sleep(0.2)
        assert not server.sessions
        assert (await peer.connect())["resume_error"] == {"code": "not_found"}


async def test_a_flood_of_unknown_methods_behind_the_window_ends_it(autojump_clock: MockClock) -> None:
    """[DEL-32] [DEL-33]: with the last frame that is one too many, not with the next."""

    def configure(config: Config) -> Config:
        return replace(config, limits=Limits(window=1, window_bytes=1000))

    async with client(configure) as (peer, _):
        await peer.wire.send(*({"type": "request", "id": n, "method": "no.such"} for n in range(1, 200)))
        code, frames = await peer.wire.rest()
        assert code == 4301
        assert [frame["seq"] for frame in frames] == [1]
