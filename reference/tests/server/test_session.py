"""Connections on the wire: handlers, streams, slow readers, and every way to end."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from holdfast_reference.protocol import ErrorCode, ExchangeError, Limits, Timers
from holdfast_reference.server.link import Link
from holdfast_reference.server.log import configure as configure_log
from tests.wire import Closed, Wire, masked, serving, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from holdfast_reference.config import Config
    from holdfast_reference.server.methods import Call
    from holdfast_reference.server.serve import Server
    from trio.testing import MockClock


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    configure_log("debug")
    yield
    logging.getLogger("holdfast").handlers.clear()


def request(id: int, method: str, **fields: object) -> dict[str, object]:
    return {"type": "request", "id": id, "method": method, **fields}


def methods(server: Server) -> None:
    """One handler of each kind, and some that break."""

    @server.method("plain")
    def plain(call: Call) -> object:
        return {"method": call.method, "principal": call.principal, "data": call.data, "stream": call.stream}

    @server.method("bytes")
    def as_bytes(call: Call) -> object:
        assert isinstance(call.data, bytes)
        return call.data + b"!"

    @server.method("slow")
    async def slow(call: Call) -> object:
        await trio.sleep(0.5)
        return "slept"

    @server.method("count")
    async def count(call: Call) -> AsyncIterator[object]:
        for n in range(3):
            yield n

    @server.method("endless")
    async def endless(call: Call) -> AsyncIterator[object]:
        n = 0
        while True:
            produced.append(n)
            yield {"n": n, "pad": "x" * 1000}
            n += 1

    produced = server.produced = []  # type: ignore[attr-defined]  # a note for one test

    @server.method("refuse")
    def refuse(call: Call) -> object:
        raise ExchangeError("app.no", "not today", data=[1])

    @server.method("refuse.later")
    async def refuse_later(call: Call) -> object:
        await trio.sleep(0.1)
        raise ExchangeError(ErrorCode.UNAVAILABLE, "down", retry_ms=7)

    @server.method("break")
    def break_(call: Call) -> object:
        raise RuntimeError("secret detail")

    @server.method("break.later")
    async def break_later(call: Call) -> object:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("secret detail")

    @server.method("break.stream")
    async def break_stream(call: Call) -> AsyncIterator[object]:
        yield 1
        raise RuntimeError("secret detail")

    @server.method("not.json")
    def not_json(call: Call) -> object:
        return object()

    @server.method("error.not.json")
    def error_not_json(call: Call) -> object:
        raise ExchangeError(ErrorCode.APP, "odd", data=object())


class TestHandlers:
    async def test_a_plain_function_answers_at_once(self) -> None:
        """[RPC-13]."""
        async with serving(prepare=methods) as house:
            wire = await house.ready()
            await wire.send(request(1, "plain", data=[1]), request(2, "bytes", data="aGk=", enc="base64"))
            assert await wire.receive() == {
                "type": "result",
                "id": 1,
                "data": {"method": "plain", "principal": "alice", "data": [1], "stream": False},
            }
            assert await wire.receive() == {"type": "result", "id": 2, "enc": "base64", "data": "aGkh"}

    async def test_a_slow_one_delays_nobody(self, autojump_clock: MockClock) -> None:
        """[RPC-04]."""
        async with serving(prepare=methods) as house:
            wire = await house.ready()
            await wire.send(request(1, "slow"), request(2, "plain"))
            assert (await wire.receive())["id"] == 2
            assert await rest_of(wire, 1) == [{"type": "result", "id": 1, "data": "slept"}]

    async def test_a_cancelled_one_stops(self, autojump_clock: MockClock) -> None:
        """[RPC-12]."""
        async with serving(prepare=methods) as house:
            wire = await house.ready()
            await wire.send(request(1, "slow"), {"type": "cancel", "of": 1}, request(2, "plain"))
            assert [(await wire.receive())["id"] for _ in range(2)] == [1, 2]
            (session,) = house.server.sessions.values()
            await trio.testing.wait_all_tasks_blocked()
            assert session._work == {}

    async def test_a_timeout_stops_one_on_time(self, autojump_clock: MockClock) -> None:
        """[RPC-17]."""
        async with serving(prepare=methods) as house:
            wire = await house.ready()
            start = trio.current_time()
            await wire.send(request(1, "slow", timeout_ms=40))
            assert error_of(await wire.receive()) == "deadline_exceeded"
            assert trio.current_time() - start == pytest.approx(0.04)

    @pytest.mark.parametrize("method", ["break", "break.later", "break.stream", "not.json", "error.not.json"])
    async def test_a_broken_one_costs_its_exchange(
        self, method: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """[ERR-04]: the log has the reference, the client no detail."""
        async with serving(prepare=methods) as house:
            wire = await house.ready()
            configure_log("error")
            await wire.send(request(1, method, stream=True))
            frame = await wire.receive()
            if frame["type"] == "chunk":
                frame = await wire.receive()
            assert error_of(frame) == "internal"
            assert "secret" not in str(frame)
            assert str(frame["error"]["ref"]) in capsys.readouterr().err  # type: ignore[index]  # of a frame
            await wire.send(request(2, "plain"))
            assert (await wire.receive())["id"] == 2

    async def test_errors_of_their_own_are_answers(self, autojump_clock: MockClock) -> None:
        """[RPC-16]."""
        async with serving(prepare=methods) as house:
            wire = await house.ready()
            await wire.send(request(1, "refuse"), request(2, "refuse.later"))
            assert (await wire.receive())["error"] == {"code": "app.no", "message": "not today", "data": [1]}
            assert (await wire.receive())["error"] == {
                "code": "unavailable",
                "message": "down",
                "retry_ms": 7,
            }

    async def test_a_generator_streams(self) -> None:
        """[RPC-19] [RPC-21]."""
        async with serving(prepare=methods) as house:
            wire = await house.ready()
            await wire.send(request(1, "count", stream=True), request(2, "count"))
            frames = [await wire.receive() for _ in range(5)]
            assert [frame["data"] for frame in frames if frame["type"] == "chunk"] == [0, 1, 2]
            assert [frame for frame in frames if frame["type"] == "result"] == [{"type": "result", "id": 1}]
            assert [error_of(frame) for frame in frames if frame["type"] == "error"] == ["bad_request"]

    async def test_a_stream_waits_for_its_reader(self) -> None:
        """[DEL-09]: and produces no more than one chunk ahead."""
        async with serving(prepare=methods, capacity=4000) as house:
            wire = await house.ready()
            await wire.send(request(1, "endless", stream=True))
            await trio.testing.wait_all_tasks_blocked()
            produced = house.server.produced  # type: ignore[attr-defined]  # see `methods`
            assert len(produced) <= 7
            for n in range(20):
                assert (await wire.receive())["data"]["n"] == n  # type: ignore[index]  # of a frame
            await wire.send({"type": "cancel", "of": 1})
            frames = [await wire.receive()]
            while frames[-1]["type"] == "chunk":
                frames.append(await wire.receive())
            assert error_of(frames[-1]) == "cancelled"
            before = len(produced)
            await trio.testing.wait_all_tasks_blocked()
            assert len(produced) == before


async def test_two_tasks_may_share_a_stream() -> None:
    """Each waits for its turn, and none is forgotten."""

    def prepare(server: Server) -> None:
        @server.method("both")
        async def both(call: Call) -> None:
            async with trio.open_nursery() as nursery:
                for n in range(3):
                    nursery.start_soon(some, call, n)

    async def some(call: Call, n: int) -> None:
        for k in range(3):
            await call.chunk([n, k])

    async with serving(prepare=prepare) as house:
        wire = await house.ready()
        await wire.send(request(1, "both", stream=True))
        frames = [await wire.receive() for _ in range(10)]
        assert sorted(str(frame.get("data")) for frame in frames[:9]) == [
            str([n, k]) for n in range(3) for k in range(3)
        ]
        assert frames[9]["type"] == "result"


async def test_a_stream_that_says_goodbye_to_nobody_ends(autojump_clock: MockClock) -> None:
    """Its session is over, with a chunk that nobody will write."""
    ended: list[bool] = []

    def prepare(server: Server) -> None:
        @server.method("polite")
        async def polite(call: Call) -> None:
            try:
                while True:
                    await call.chunk("x" * 1000)
            finally:
                with trio.CancelScope(shield=True):
                    ended.append(await call.chunk("bye"))

    async with serving(prepare=prepare, capacity=2000) as house:
        wire = await house.ready()
        await wire.send(request(1, "polite", stream=True))
        await trio.testing.wait_all_tasks_blocked()
        await wire.close(1000)
        await trio.sleep(5)
        assert ended == [False]


async def rest_of(wire: Wire, id: int) -> list[dict[str, object]]:
    """The next frame about an exchange; pings are passed over."""
    while True:
        frame = await wire.receive()
        if frame.get("id") == id:
            return [frame]


def error_of(frame: dict[str, object]) -> object:
    error = frame["error"]
    assert isinstance(error, dict)
    return error["code"]


class TestDelivery:
    async def test_one_publish_reaches_all_in_one_order(self) -> None:
        """[SUB-08] [SUB-12]."""
        async with serving() as house:
            wires = [await house.ready() for _ in range(5)]
            for n, wire in enumerate(wires):
                await wire.send({"type": "subscribe", "id": n + 1, "channel": "c"})
                assert (await wire.receive())["type"] == "open"
            async with trio.open_nursery() as nursery:
                for n, wire in enumerate(wires):
                    many = [
                        {"type": "publish", "id": 100 + k, "channel": "c", "data": [n, k]} for k in range(20)
                    ]
                    nursery.start_soon(wire.send, *many)
            orders = []
            for wire in wires:
                frames = [await wire.receive() for _ in range(120)]
                orders.append([str(frame["data"]) for frame in frames if frame["type"] == "event"])
            assert all(order == orders[0] for order in orders)
            assert len(orders[0]) == 100

    async def test_one_who_does_not_read_delays_nobody_and_learns_what_was_lost(self) -> None:
        """[DEL-10] [DEL-11]: the queue is bounded, the gap says how many."""

        def configure(config: Config) -> Config:
            return replace(config, limits=Limits(queue=10))

        async with serving(configure, capacity=2000) as house:
            slow, fast = await house.ready(), await house.ready()
            for wire in (slow, fast):
                await wire.send({"type": "subscribe", "id": 1, "channel": "c"})
                await wire.receive()
            for n in range(100):
                house.server.publish("c", {"n": n, "pad": "x" * 500})
                assert (await fast.receive())["data"]["n"] == n  # type: ignore[index]  # of a frame

            seen = lost = 0
            while seen + lost < 100:
                frame = await slow.receive()
                if frame["type"] == "gap":
                    lost += int(str(frame["missed"]))
                else:
                    assert frame["data"]["n"] == seen + lost  # type: ignore[index]  # of a frame
                    seen += 1
            assert lost > 50

    async def test_a_burst_loses_nothing_while_the_client_has_room(self) -> None:
        """[DEL-18]: more events in one step than the queue holds."""
        async with serving(lambda config: replace(config, limits=Limits(queue=5))) as house:
            wire = await house.ready()
            await wire.send({"type": "subscribe", "id": 1, "channel": "c"})
            await wire.receive()
            for n in range(100):
                house.server.publish("c", n)
            for n in range(100):
                assert await wire.receive() == {"type": "event", "id": 1, "data": n}

    async def test_an_event_larger_than_the_queue_reaches_whoever_reads(self) -> None:
        """[DEL-18]: one after another; only a full socket makes it a gap."""
        async with serving(lambda config: replace(config, limits=Limits(queue_bytes=100))) as house:
            wire = await house.ready()
            await wire.send({"type": "subscribe", "id": 1, "channel": "c"})
            await wire.receive()
            for _ in range(3):
                house.server.publish("c", "x" * 1000)
            for _ in range(3):
                assert (await wire.receive())["type"] == "event"

    async def test_many_requests_in_one_segment_are_all_answered(self) -> None:
        """Slots and refusals bound what is queued, writing makes room, reading goes on."""
        async with serving() as house:
            wire = await house.ready()
            await wire.send(*({"type": "x.y", "id": n} for n in range(1, 500)))
            for n in range(1, 500):
                assert (await wire.receive())["id"] == n
            pings: list[dict[str, object]] = [{"type": "ping", "t": str(n)} for n in range(200)]
            await wire.send(*pings)
            for n in range(200):
                assert await wire.receive() == {"type": "pong", "t": str(n)}

    async def test_one_who_asks_and_never_reads_is_not_read_and_ends(self, autojump_clock: MockClock) -> None:
        """[DEL-12] [DEL-14]: 4304."""
        async with serving(capacity=1000) as house:
            wire = await house.ready()
            with trio.move_on_after(1):
                for n in range(1, 1000):
                    await wire.send({"type": "x.y", "id": n}, {"type": "ping"})
            assert n < 500
            assert await wire.closed() in (4304, 1006)

    async def test_websocket_pings_are_answered_and_bounded(self) -> None:
        """[TRN-14]."""
        async with serving(capacity=500) as house:
            wire = await house.ready()
            await wire.raw(masked(b"hi", 9))
            assert await wire.message() == (10, b"hi")
            with trio.move_on_after(0.05):
                for _ in range(1000):
                    await wire.raw(masked(b"x" * 100, 9))
            (link,) = house.server.links.values()
            assert len(link._controls) <= 17


class TestEnds:
    async def test_the_client_closes(self) -> None:
        """[TRN-15]: and the server answers with its code."""
        async with serving() as house:
            wire = await house.ready()
            assert await wire.close(3003) == 3003
            assert await wire.stream.receive_some() == b""
            await trio.testing.wait_all_tasks_blocked()
            assert house.server._connections == 0

    async def test_the_client_closes_with_a_code_that_is_not_for_servers(self) -> None:
        """[ERR-07]: its answer is an ordinary one."""
        async with serving() as house:
            wire = await house.ready()
            assert await wire.close(4501) == 1000

    async def test_the_client_closes_without_a_code(self) -> None:
        """[TRN-16]."""
        async with serving() as house:
            wire = await house.ready()
            await wire.raw(masked(b"", 8))
            assert await wire.closed() == 1005

    async def test_a_close_frame_comes_behind_the_answers_before_it(self) -> None:
        async with serving() as house:
            wire = await house.ready()
            await wire.send(request(1, "conf.echo", data=1), request(1, "conf.echo"))
            assert (await wire.receive())["id"] == 1
            assert await wire.closed() == 4003

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (masked(b"\xff"), 1007),
            (masked(b"{}", 2), 1003),
            (b"\x81\x00", 1002),
            (masked(b"x" * 300_000)[:20], 1009),
            (masked(b"nope"), 4001),
            (text({"type": "result", "id": 1}), 4002),
        ],
    )
    async def test_faults_close_with_their_code(self, data: bytes, code: int) -> None:
        """And whatever is sent behind them does not turn the close into a reset."""
        async with serving() as house:
            wire = await house.ready()
            await wire.raw(data + masked(b"more") * 1000)
            with pytest.raises(Closed) as caught:
                await wire.receive()
            assert caught.value.code == code
            await wire.stream.aclose()

    async def test_nothing_is_sent_or_done_after_a_close(self, autojump_clock: MockClock) -> None:
        """[TRN-17]."""
        async with serving() as house:
            wire, other = await house.ready(), await house.ready()
            for each in (wire, other):
                await each.send({"type": "subscribe", "id": 1, "channel": "c"})
                await each.receive()
            await wire.send({"type": "hello", "profiles": []})
            await wire.send({"type": "publish", "id": 5, "channel": "c", "data": 1})
            assert await wire.closed() == 4002
            await trio.testing.wait_all_tasks_blocked()
            house.server.publish("c", 2)
            assert (await other.receive())["data"] == 2
            await wire.stream.send_all(masked(b"", 8))
            assert await wire.stream.receive_some() == b""

    async def test_a_client_that_never_answers_a_close_is_dropped(self, autojump_clock: MockClock) -> None:
        async with serving() as house:
            wire = await house.ready()
            await wire.send({"type": "hello", "profiles": []})
            start = trio.current_time()
            with trio.move_on_after(60):
                while True:
                    await wire.raw(masked(b"still here"))
                    await trio.sleep(0.1)
                    if not house.server._connections:
                        break
            assert trio.current_time() - start == pytest.approx(2, abs=0.3)

    async def test_a_client_that_vanishes_leaves_nothing(self) -> None:
        """[SES-45]: its handlers are cancelled and its subscriptions gone."""
        async with serving(prepare=methods) as house:
            wire = await house.ready()
            await wire.send(request(1, "slow"), {"type": "subscribe", "id": 2, "channel": "c"})
            await wire.receive()
            await wire.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert house.server._connections == 0
            assert house.server.broker._channels == {}  # type: ignore[attr-defined]  # a memory broker

    async def test_no_hello_in_time(self, autojump_clock: MockClock) -> None:
        """[SES-04]: half a frame is no hello."""
        async with serving() as house:
            wire = await house.connect()
            start = trio.current_time()
            await wire.raw(text({"type": "hello", "profiles": []})[:10])
            assert await wire.closed() == 4303
            assert trio.current_time() - start == pytest.approx(1)

    async def test_an_authenticator_that_hangs(self, autojump_clock: MockClock) -> None:
        class Hanging:
            ambient = False

            async def authenticate(self, *shown: object) -> None:
                await trio.sleep_forever()

        def prepare(server: Server) -> None:
            server.authenticator = Hanging()  # type: ignore[assignment]  # never answers

        async with serving(prepare=prepare) as house:
            wire = await house.connect()
            await wire.send({"type": "hello", "profiles": []})
            assert await wire.closed() == 1013

    async def test_a_broken_connection_disturbs_nobody_else(self, caplog: pytest.LogCaptureFixture) -> None:
        """[SEC-09]: it ends with 4300, and the log says why."""
        async with serving() as house:
            wire, other = await house.ready(), await house.ready()
            link = next(each for each in house.server.links.values() if each.conn.endswith("-1"))
            link._reader = None  # type: ignore[assignment]  # as broken as can be
            await wire.send({"type": "ping"})
            assert await wire.closed() == 4300
            await other.send({"type": "ping", "t": "x"})
            assert await other.receive() == {"type": "pong", "t": "x"}
            assert "connection failed" in caplog.text


class TestIdentity:
    async def test_a_cookie_identifies_where_hello_does_not(self) -> None:
        """[SEC-04] [SEC-05]."""
        from tests.wire import REQUEST

        cookie = b"Cookie: a=b; conf_token=tok-bob\r\n\r\n"
        async with serving() as house:
            for auth, principal in (({}, "bob"), ({"auth": {"token": "tok-alice"}}, "alice")):
                wire = Wire(house.stream())
                await wire.http(REQUEST + cookie)
                await wire.send({"type": "hello", "profiles": [], **auth})
                assert (await wire.receive())["auth"] == {"principal": principal}
            wire = Wire(house.stream())
            await wire.http(REQUEST + cookie)
            await wire.send({"type": "hello", "profiles": [], "auth": {"token": "wrong"}})
            assert await wire.closed() == 4101

    async def test_anonymous_clients_have_principals_of_their_own(self) -> None:
        """[SES-15] [SES-16]."""
        async with serving(lambda config: replace(config, anonymous=True)) as house:
            seen = set()
            for _ in range(2):
                wire = await house.connect()
                await wire.send({"type": "hello", "profiles": []})
                seen.add(str((await wire.receive())["auth"]))
            assert len(seen) == 2
        async with serving() as house:
            wire = await house.connect()
            await wire.send({"type": "hello", "profiles": []})
            assert await wire.closed() == 4101


class TestDrain:
    async def test_a_server_drains(self, autojump_clock: MockClock) -> None:
        """[SES-38] [SES-42] [SES-43] [SES-44]."""
        timers = Timers(drain_ms=3000)
        async with serving(lambda config: replace(config, timers=timers), prepare=methods) as house:
            busy, idle, new = await house.ready(), await house.ready(), await house.connect()
            await busy.send(request(1, "slow"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.server.drain)
                await trio.testing.wait_all_tasks_blocked(0.001)
                for wire in (busy, idle):
                    goaway = await wire.receive()
                    assert goaway["type"] == "goaway"
                    assert 0 <= int(str(goaway["after_ms"])) <= int(str(goaway["deadline_ms"])) == 3000
                assert (await new.hello())["type"] == "welcome"
                assert (await new.receive())["type"] == "goaway"
                head = await Wire(house.stream()).http(REQUEST_HEAD)
                assert head.startswith(b"HTTP/1.1 503")
                for wire in (busy, idle, new):
                    assert await wire.closed() == 4200
                    await wire.stream.aclose()

    async def test_a_drain_ends_when_all_are_gone(self, autojump_clock: MockClock) -> None:
        async with serving() as house:
            wire = await house.ready()
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.server.drain)
                await wire.receive()
                await wire.close(1001)
                await wire.stream.aclose()
            assert trio.current_time() - start < 0.1


REQUEST_HEAD = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: holdfast.v1.json\r\n\r\n"
)


async def test_writing_to_a_connection_that_is_just_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """[SEC-09]: its full socket is nobody else's fault, whether the flusher or its last step comes first."""
    original = Link._read

    async def read(self: Link, data: bytes) -> None:
        await original(self, data)
        house.server.publish("news", "x" * 10_000)

    monkeypatch.setattr(Link, "_read", read)
    async with serving(capacity=4096) as house:
        for _ in range(30):
            leaving = await house.ready()
            await leaving.send({"type": "subscribe", "id": 1, "channel": "news"})
            await leaving.receive()
            await leaving.stream.send_eof()  # type: ignore[attr-defined]  # a HalfCloseableStream
            await trio.testing.wait_all_tasks_blocked()
        assert not house.server.links
        assert (await house.ready()) is not None


async def test_an_error_whose_message_is_no_text_is_internal(caplog: pytest.LogCaptureFixture) -> None:
    def prepare(server: Server) -> None:
        @server.method("odd")
        def odd(call: Call) -> object:
            raise ExchangeError("app.odd", "\ud800")

    async with serving(prepare=prepare) as house:
        wire = await house.ready()
        await wire.send(request(1, "odd"), {"type": "ping"})
        frames = [await wire.receive(), await wire.receive()]
        assert {frame["type"] for frame in frames} == {"error", "pong"}
