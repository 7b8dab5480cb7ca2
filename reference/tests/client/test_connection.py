"""A session against a server that each test plays itself, in memory and on a virtual clock."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trio.testing
import trio_websocket
from holdfast_reference.client import (
    ConnectionClosed,
    ConnectionFailed,
    Event,
    Gap,
    Lagged,
    Reaction,
    RequestError,
    Session,
    SessionLost,
    connect,
    connection,
)
from holdfast_reference.client import Opened as SubscriptionOpened
from trio.testing import wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    Opened = Callable[..., AbstractAsyncContextManager[tuple[Session, "Server"]]]

PROFILES = ["rpc", "pubsub", "pattern", "fence"]
INTERVAL_S, TIMEOUT_S = 25, 10


class Server:
    """The other end, which says what a test tells it to; `freeze.cancel()` stops it reading for good."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection, freeze: trio.CancelScope) -> None:
        self.websocket = websocket
        self.freeze = freeze

    async def receive(self) -> dict[str, object]:
        """The next frame of the client."""
        frame: dict[str, object] = json.loads(await self.websocket.get_message())
        return frame

    async def send(self, type_: str, **members: object) -> None:
        await self.websocket.send_message(json.dumps({"type": type_, **members}))

    async def welcome(self, profiles: list[str] = PROFILES, **limits: object) -> None:
        await self.receive()
        await self.send(
            "welcome",
            conn="c-1",
            profiles=profiles,
            limits={"max_frame": 65536, "max_inflight": 8, "max_subscriptions": 8, **limits},
            heartbeat={"interval_ms": INTERVAL_S * 1000, "timeout_ms": TIMEOUT_S * 1000},
        )

    async def closed(self) -> int:
        """Wait for the client's close frame; return its code."""
        try:
            while True:
                await self.websocket.get_message()
        except trio_websocket.ConnectionClosed:
            assert self.websocket.closed is not None
            return self.websocket.closed.code


@pytest.fixture
def dial(monkeypatch: pytest.MonkeyPatch) -> Iterator[trio.MemoryReceiveChannel[Server]]:
    """Have `connect` reach a server in this process; the other ends come from this channel."""
    arriving, arrived = trio.open_memory_channel[Server](5)

    async def reach(url: str, ssl_context: object) -> tuple[str, str, trio.abc.Stream]:
        near, far = trio.testing.lockstep_stream_pair()  # a write waits until it is read
        trio.lowlevel.spawn_system_task(answer, far)
        return "server.example", "/", near

    async def answer(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            websocket = await request.accept(subprotocol=request.proposed_subprotocols[0])
            arriving.send_nowait(Server(websocket, nursery.cancel_scope))

    monkeypatch.setattr(connection, "_reach", reach)
    with arriving, arrived:
        yield arrived


@pytest.fixture
def opened(dial: trio.MemoryReceiveChannel[Server]) -> Opened:
    """Open a session and its other end."""

    @asynccontextmanager
    async def opened(
        profiles: list[str] = PROFILES, **limits: object
    ) -> AsyncIterator[tuple[Session, Server]]:
        arrived: list[Server] = []

        async def greet() -> None:
            arrived.append(await dial.receive())
            await arrived[0].welcome(profiles, **limits)

        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(greet)
                async with connect("ws://server.example/", token="t") as session:
                    yield session, arrived[0]

    return opened


async def test_a_session_says_hello_and_closes_with_1000(
    dial: trio.MemoryReceiveChannel[Server],
) -> None:
    """[SES-01] [TRN-01]"""
    codes = []

    async def serve() -> None:
        server = await dial.receive()
        assert server.websocket.subprotocol == "holdfast.v1.json"
        hello = await server.receive()
        assert (hello["type"], hello["profiles"]) == ("hello", PROFILES)
        await server.send(
            "welcome",
            conn="c-1",
            profiles=["rpc"],
            limits={"max_frame": 4096},
            heartbeat={"interval_ms": 1, "timeout_ms": 1},
            auth={"principal": "alice", "expires_in_ms": 5},
        )
        codes.append(await server.closed())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with connect("ws://server.example/") as session:
            assert session.welcome.profiles == {"rpc"}
            assert (session.welcome.principal, session.welcome.expires_in_ms) == ("alice", 5)
    assert codes == [1000]


async def test_requests_run_side_by_side_and_end_in_any_order(opened: Opened) -> None:
    """Each answer goes to the one who asked."""
    answers: dict[str, object] = {}

    async with opened() as (session, server):

        async def ask(method: str) -> None:
            answers[method] = await session.request(method, {"for": method})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "a")
            first = await server.receive()
            nursery.start_soon(ask, "b")
            second = await server.receive()
            assert [first["id"], second["id"]] == [1, 2]
            await server.send("result", id=2, data=second["data"])
            await server.send("result", id=1)
    assert answers == {"b": {"for": "b"}, "a": None}


async def test_an_error_ends_its_exchange_alone(opened: Opened) -> None:
    """And is raised as it came."""
    async with opened() as (session, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def answer() -> None:
            await server.receive()
            error = {"code": "app", "message": "no", "data": {"left": 0}, "retry_ms": 5}
            await server.send("error", id=1, error=error)
            await server.receive()
            await server.send("result", id=2, data="yes")

        with pytest.raises(RequestError) as caught:
            await session.request("m")
        assert (caught.value.code, caught.value.data, caught.value.retry_ms) == ("app", {"left": 0}, 5)
        assert await session.request("m") == "yes"


async def test_a_cancelled_call_cancels_its_exchange(opened: Opened) -> None:
    """The late answer is nobody's, and harms nobody."""
    async with opened() as (session, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.request, "slow")
            assert (await server.receive())["type"] == "request"
            nursery.cancel_scope.cancel()
        assert await server.receive() == {"type": "cancel", "of": 1}
        await server.send("result", id=1, data="late")
        await server.send("ping")
        assert await server.receive() == {"type": "pong"}


async def test_a_subscription_is_live_in_its_block_and_cancelled_after_it(opened: Opened) -> None:
    """What still comes after the block is dropped."""
    async with opened() as (session, server):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def publish() -> None:
                assert await server.receive() == {"type": "subscribe", "id": 1, "pattern": "a/*"}
                await server.send("open", id=1)
                await server.send("event", id=1, channel="a/b", data=1)
                await server.send("gap", id=1, reason="overflow", missed=4)
                await server.send("event", id=1, channel="a/c", data=2)

            got: list[Event | Gap] = []
            async with session.subscribe(pattern="a/*") as events:
                async for event in events:
                    got.append(event)
                    if len(got) == 3:
                        break
        assert got == [Event(1, "a/b"), Gap("overflow", 4), Event(2, "a/c")]
        assert await server.receive() == {"type": "cancel", "of": 1}
        await server.send("event", id=1, channel="a/b", data=3)
        await server.send("result", id=1)
        await server.send("ping")
        assert await server.receive() == {"type": "pong"}


async def test_a_refused_subscription_raises_at_the_door(opened: Opened) -> None:
    """The block is never entered."""
    async with opened() as (session, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def refuse() -> None:
            await server.receive()
            await server.send("error", id=1, error={"code": "forbidden", "message": ""})

        with pytest.raises(RequestError, match="forbidden"):
            async with session.subscribe("c"):
                pytest.fail("not live")


async def test_a_subscription_that_the_server_takes_away_raises_behind_its_last_event(opened: Opened) -> None:
    """[SES-28], seen from the client."""
    async with opened() as (session, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def publish() -> None:
            await server.receive()
            await server.send("open", id=1)
            await server.send("event", id=1, data=1)
            await server.send("error", id=1, error={"code": "forbidden", "message": ""})

        async with session.subscribe("c") as events:
            assert await anext(events) == Event(1)
            with pytest.raises(RequestError, match="forbidden"):
                await anext(events)


async def test_a_subscriber_that_lags_is_told_and_delays_nobody(opened: Opened) -> None:
    """Heartbeats and other exchanges go on while nobody takes the events."""
    async with opened() as (session, server):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def publish() -> None:
                await server.receive()
                await server.send("open", id=1)
                for number in range(10):
                    await server.send("event", id=1, data=number)
                await server.send("ping", t="x")

            async with session.subscribe("c", waiting=3) as events:
                await wait_all_tasks_blocked()
                assert await server.receive() == {"type": "pong", "t": "x"}
                got = [await anext(events) for _ in range(4)]
        assert got == [Event(0), Event(1), Event(2), Gap("overflow", 7)]


async def test_a_stream_gives_its_chunks_and_its_result(opened: Opened) -> None:
    """And is not cancelled when it is over."""
    async with opened() as (session, server):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def answer() -> None:
                assert (await server.receive())["stream"] is True
                for number in range(3):
                    await server.send("chunk", id=1, data=number)
                await server.send("result", id=1, data="sum")

            async with session.stream("count") as chunks:
                assert [chunk async for chunk in chunks] == [0, 1, 2]
                assert chunks.result == "sum"
        await server.send("ping")
        assert await server.receive() == {"type": "pong"}


async def test_a_stream_that_is_left_early_is_cancelled(opened: Opened) -> None:
    """[RPC-06], seen from the client."""
    async with opened() as (session, server):
        async with session.stream("count"):
            await server.receive()
        assert await server.receive() == {"type": "cancel", "of": 1}


async def test_a_stream_taken_too_slowly_ends_with_lagged(opened: Opened) -> None:
    """What came in time is given first."""
    async with opened() as (session, server), session.stream("count", waiting=2) as chunks:
        await server.receive()
        for number in range(3):
            await server.send("chunk", id=1, data=number)
        assert await server.receive() == {"type": "cancel", "of": 1}
        assert [await anext(chunks), await anext(chunks)] == [0, 1]
        with pytest.raises(Lagged):
            await anext(chunks)


async def test_publish_waits_for_its_result(opened: Opened) -> None:
    """And carries bytes as bytes."""
    async with opened() as (session, server), trio.open_nursery() as nursery:
        nursery.start_soon(session.publish, "c", b"\x00")
        frame = await server.receive()
        assert frame == {"type": "publish", "id": 1, "channel": "c", "enc": "base64", "data": "AA=="}
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await server.send("result", id=1)


@pytest.mark.parametrize(("data", "expected"), [({"expires_in_ms": 400}, 400), ({}, None)])
async def test_authenticate_says_how_long_it_lasts(
    opened: Opened, data: dict[str, object], expected: int | None
) -> None:
    """[SES-19], seen from the client."""
    async with opened() as (session, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def answer() -> None:
            assert await server.receive() == {"type": "auth", "id": 1, "token": "new"}
            await server.send("result", id=1, data=data)

        assert await session.authenticate("new") == expected


async def test_ping_waits_for_its_own_pong(opened: Opened) -> None:
    """Others are ignored. [SES-36]"""
    async with opened() as (session, server), trio.open_nursery() as nursery:
        proofs: list[bool] = []

        @nursery.start_soon
        async def ask() -> None:
            proofs.extend([await session.ping(), await session.ping()])

        ping = await server.receive()
        await server.send("pong")
        await server.send("pong", t="another")
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await server.send("pong", t=ping["t"])
        await server.send("pong", t=(await server.receive())["t"], held=True)
    assert proofs == [True, False]


async def test_what_arrives_is_acknowledged(opened: Opened, autojump_clock: trio.testing.MockClock) -> None:
    """Half a window at once, past what the rate holds back; less after the delay. [DEL-28]"""
    limits = {"window": 4, "window_bytes": 65536, "ack_delay_ms": 500, "rate": {"count": 1, "per_ms": 60_000}}
    async with (
        opened(profiles=["pubsub", "ack"], **limits) as (session, server),
        trio.open_nursery() as nursery,
    ):
        acks: list[tuple[object, float]] = []
        start = trio.current_time()

        @nursery.start_soon
        async def publish() -> None:
            await server.receive()
            await server.send("open", id=1, seq=1)
            await server.send("event", id=1, seq=2, data=1)
            acks.append(((await server.receive())["seq"], trio.current_time() - start))
            await server.send("event", id=1, seq=3, data=2)
            acks.append(((await server.receive())["seq"], trio.current_time() - start))

        async with session.subscribe("c") as events:
            assert [await anext(events), await anext(events)] == [Event(1), Event(2)]
            await trio.sleep(1)
    assert acks == [(2, 0.0), (3, pytest.approx(0.5))]


async def test_a_subscription_says_where_it_began(opened: Opened) -> None:
    """And what is published, where that stands. [HIS-02] [HIS-05]"""
    async with opened(profiles=["pubsub", "history"]) as (session, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def publish() -> None:
            frame = await server.receive()
            assert frame == {"type": "subscribe", "id": 1, "channel": "c", "since": "x", "recover": "require"}
            await server.send("open", id=1, cursor="x", recovered=True)
            await server.send("event", id=1, cursor="y", data=1)
            assert await server.receive() == {
                "type": "publish", "id": 2, "channel": "c", "dedupe": "d", "data": 2,
            }  # fmt: skip
            await server.send("result", id=2, data={"cursor": "z"})

        async with session.subscribe("c", since="x", require=True) as events:
            assert events.opened == SubscriptionOpened("x", recovered=True)
            assert await anext(events) == Event(1, cursor="y")
            assert await session.publish("c", 2, dedupe="d") == "z"


async def test_goaway_is_told(opened: Opened) -> None:
    """The application moves when it wants to."""
    async with opened() as (session, server):
        await server.send("goaway", after_ms=5, deadline_ms=10)
        await session.draining.wait()
        assert session.goaway is not None
        assert (session.goaway.after_ms, session.goaway.deadline_ms) == (5, 10)


async def test_a_close_by_the_server_ends_every_exchange_with_session_lost(opened: Opened) -> None:
    """What waits is given first; what is called later was not sent. [SES-46]"""
    async with opened() as (session, server):

        async def lose(call: Callable[[], object]) -> None:
            with pytest.raises(SessionLost) as caught:
                await call()  # type: ignore[misc]  # coroutine functions, all of them
            assert (caught.value.code, caught.value.reason) == (4200, "going_away")
            assert caught.value.reaction is Reaction.RECONNECT_NOW

        async def listen() -> None:
            async with session.subscribe("c") as events:
                assert await anext(events) == Event(1)
                await anext(events)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose, listen)
            await server.receive()
            await server.send("open", id=1)
            await server.send("event", id=1, data=1)
            nursery.start_soon(lose, lambda: session.request("m"))
            nursery.start_soon(lose, session.ping)
            await wait_all_tasks_blocked()
            await server.websocket.aclose(4200, "going_away")
        with pytest.raises(ConnectionClosed) as caught:
            await session.request("m")
        assert (caught.value.error, caught.value.code) == ("closed", 4200)


async def test_an_end_without_a_close_frame_has_no_code(opened: Opened) -> None:
    """A cut cable, say."""
    async with opened() as (session, server):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cut() -> None:
                await server.receive()
                await server.websocket._stream.aclose()

            with pytest.raises(SessionLost) as caught:
                await session.request("m")
        assert caught.value.code is None
        assert caught.value.reaction is Reaction.RECONNECT_BACKOFF


async def test_who_still_waits_when_the_block_ends_is_told(opened: Opened) -> None:
    """A task outside of the block must not wait for ever. [SES-46]"""
    lost: list[int | None] = []

    async with trio.open_nursery() as nursery, opened() as (session, server):

        @nursery.start_soon
        async def ask() -> None:
            with pytest.raises(SessionLost) as caught:
                await session.request("m")
            lost.append(caught.value.code)

        await server.receive()
    assert lost == [1000]


async def test_a_frozen_server_does_not_keep_anybody_waiting(
    opened: Opened, autojump_clock: trio.testing.MockClock
) -> None:
    """It never answers our close frame: who waits is told at once, and the block ends soon. [SES-46]"""
    told: list[float] = []

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with opened() as (session, server):

                @nursery.start_soon
                async def ask() -> None:
                    with pytest.raises(SessionLost):
                        await session.request("m")
                    told.append(trio.current_time())

                await server.receive()
                server.freeze.cancel()
                start = trio.current_time()
            assert trio.current_time() - start == pytest.approx(connection.CLOSE_SECONDS)
    assert told == [start]


async def test_a_cancelled_block_says_goodbye_and_does_not_linger(
    dial: trio.MemoryReceiveChannel[Server], autojump_clock: trio.testing.MockClock
) -> None:
    """What was called last still goes out, and no time is lost."""
    heard: list[object] = []

    async def serve() -> None:
        server = await dial.receive()
        await server.welcome()
        heard.append((await server.receive())["type"])
        heard.append(await server.receive())
        heard.append(await server.closed())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        start = trio.current_time()
        with trio.move_on_after(5):
            async with connect("ws://server.example/") as session:
                await session.request("slow")
    assert trio.current_time() - start == pytest.approx(5)
    assert heard == ["request", {"type": "cancel", "of": 1}, 1000]


async def test_a_group_of_the_block_stays_a_group(opened: Opened) -> None:
    """Only the groups of our own nurseries are taken away."""

    async def block() -> None:
        async with opened():
            raise ExceptionGroup("mine", [LookupError()])

    with pytest.RaisesGroup(pytest.RaisesGroup(LookupError)):
        await block()


async def test_a_silent_server_is_given_up(opened: Opened, autojump_clock: trio.testing.MockClock) -> None:
    """After interval and timeout together; any frame before that starts the time anew."""
    async with opened() as (session, server):
        start = trio.current_time()
        await trio.sleep(INTERVAL_S)
        await server.send("ping")
        with pytest.raises(SessionLost) as caught:
            await session.request("m")
        assert trio.current_time() - start == pytest.approx(2 * INTERVAL_S + TIMEOUT_S)
        assert caught.value.code is None


@pytest.mark.parametrize("bad", ['{"type":"result","id":9}', "{", b"\x00"])
async def test_a_bad_frame_of_the_server_closes_4501(
    opened: Opened, autojump_clock: trio.testing.MockClock, bad: str | bytes
) -> None:
    """The application learns why, and no time is lost over the goodbye."""
    start = trio.current_time()
    async with opened() as (session, server):
        async with trio.open_nursery() as nursery:
            codes: list[int] = []

            @nursery.start_soon
            async def misbehave() -> None:
                await server.receive()
                await server.websocket.send_message(bad)
                codes.append(await server.closed())

            with pytest.raises(SessionLost) as caught:
                await session.request("m")
        assert (caught.value.code, codes) == (4501, [4501])
        assert caught.value.reaction is Reaction.RECONNECT_BACKOFF_FRESH
    assert trio.current_time() == start


async def test_the_exception_of_the_block_comes_out_as_it_is(opened: Opened) -> None:
    """Not in a group, although there are tasks around it."""

    def fail() -> NoReturn:
        raise LookupError("mine")

    async def block() -> None:
        async with opened():
            fail()

    with pytest.RaisesGroup(LookupError):  # the one group is that of the helper's own nursery
        await block()


async def test_frames_go_out_at_the_pace_of_the_rate(
    opened: Opened, autojump_clock: trio.testing.MockClock
) -> None:
    """Two at once, then one each half second; a pong overtakes them. [LIM-15]"""
    async with opened(rate={"count": 2, "per_ms": 1000}) as (session, server):
        start = trio.current_time()
        arrived: list[float] = []
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(session.request, "m")
            for _ in range(3):
                frame = await server.receive()
                arrived.append(trio.current_time() - start)
                await server.send("result", id=frame["id"])
            await server.send("ping")
            for type_ in ("pong", "request"):
                frame = await server.receive()
                assert frame["type"] == type_
                arrived.append(trio.current_time() - start)
            await server.send("result", id=frame["id"])
        assert arrived == pytest.approx([0, 0, 0.5, 0.5, 1])


async def test_no_more_than_an_outbox_full_waits_to_be_sent(
    opened: Opened, autojump_clock: trio.testing.MockClock
) -> None:
    """Callers wait for room; those that are cancelled while they do have used up nothing."""
    async with opened(rate={"count": 1, "per_ms": 100}) as (session, server):
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(session.request, "m")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        sent = 0
        while (await server.receive())["type"] == "request":
            sent += 1
        assert sent == connection.OUTBOX_FRAMES + 1  # one went out at once


async def test_a_server_that_closes_instead_of_welcome_is_told_by_its_code(
    dial: trio.MemoryReceiveChannel[Server],
) -> None:
    """[SES-14], seen from the client."""

    async def refuse() -> None:
        server = await dial.receive()
        await server.receive()
        await server.websocket.aclose(4101, "unauthenticated")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse)
        with pytest.raises(ConnectionClosed) as caught:
            async with connect("ws://server.example/"):
                pytest.fail("no welcome")
    assert (caught.value.code, caught.value.reaction) == (4101, Reaction.REFRESH_CREDENTIALS)


async def test_welcome_is_awaited_for_25_seconds(
    dial: trio.MemoryReceiveChannel[Server], autojump_clock: trio.testing.MockClock
) -> None:
    """[SES-37]"""
    codes: list[int] = []

    async def stall() -> None:
        codes.append(await (await dial.receive()).closed())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stall)
        start = trio.current_time()
        with pytest.raises(ConnectionFailed):
            async with connect("ws://server.example/"):
                pytest.fail("no welcome")
        assert trio.current_time() - start == pytest.approx(connection.WELCOME_SECONDS)
    assert codes == [1013]


async def test_a_refused_upgrade_tells_its_status() -> None:
    """On a real socket, since this is where trio-websocket's own opening matters."""

    async def refuse(request: trio_websocket.WebSocketRequest) -> None:
        await request.reject(503)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_websocket.serve_websocket, refuse, "127.0.0.1", 0, None)
            with pytest.raises(ConnectionFailed) as caught:
                async with connect(f"ws://127.0.0.1:{server.port}/"):
                    pytest.fail("no session")
            nursery.cancel_scope.cancel()
    assert caught.value.status == 503


async def test_a_server_without_our_subprotocol_is_none_of_ours() -> None:
    """Whatever else it speaks. [TRN-01]"""

    async def accept(request: trio_websocket.WebSocketRequest) -> None:
        await (await request.accept()).aclose()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_websocket.serve_websocket, accept, "127.0.0.1", 0, None)
            with pytest.raises(ConnectionFailed, match="speak"):
                async with connect(f"ws://127.0.0.1:{server.port}/"):
                    pytest.fail("no session")
            nursery.cancel_scope.cancel()


async def test_nobody_there_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason below."""

    async def refused(host: str, port: int) -> NoReturn:
        raise ConnectionRefusedError

    monkeypatch.setattr(trio, "open_tcp_stream", refused)
    with trio.fail_after(10), pytest.raises(ConnectionFailed) as caught:
        async with connect("ws://127.0.0.1:1/"):
            pytest.fail("no session")
    assert caught.value.status is None
