"""One connection as a client sees it: frames in, frames and close codes out."""

from __future__ import annotations

import json

import pytest
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol import (
    ErrorCode,
    Event,
    ExchangeError,
    Grant,
    Limits,
    Payload,
    Rate,
    Settings,
    Timers,
)
from holdfast_reference.protocol.effects import Authenticate, Call, Close, Ended, Stop
from tests.driving import ALL, Allow, Peer, code, ready


def request(id: int, method: str = "hang", **fields: object) -> dict[str, object]:
    return {"type": "request", "id": id, "method": method, **fields}


def subscribe(id: int, channel: str = "room") -> dict[str, object]:
    return {"type": "subscribe", "id": id, "channel": channel}


def publish(id: int, channel: str = "room", data: object = 1, **fields: object) -> dict[str, object]:
    return {"type": "publish", "id": id, "channel": channel, "data": data, **fields}


class TestHello:
    def test_a_good_hello_is_answered_with_one_welcome(self) -> None:
        """[SES-06] [LIM-01]: profiles and every limit in force."""
        (welcome,) = Peer().hello()

        assert welcome["type"] == "welcome"
        assert welcome["profiles"] == sorted(ALL)
        assert welcome["limits"] == {
            "max_frame": 262_144,
            "max_inflight": 64,
            "max_subscriptions": 256,
            "queue": 1024,
            "queue_bytes": 4_194_304,
        }

    def test_nothing_is_read_between_hello_and_welcome(self) -> None:
        """[SES-08]: frames behind hello wait for the authenticator."""
        peer = Peer()
        peer.slow_to_authenticate = True
        assert peer.hello() == []

        assert not peer.core.may_read()

        (effect,) = peer.effects
        assert isinstance(effect, Authenticate)
        peer.authenticate(effect)
        assert peer.core.may_read()
        assert [frame["type"] for frame in peer.read()] == ["welcome"]

    @pytest.mark.parametrize(
        ("frame", "close"),
        [
            ({"type": "ping"}, 4002),
            ({"type": "request", "id": 1, "method": "m"}, 4002),
            ({"type": "welcome"}, 4002),
            ({"type": "x.private"}, 4002),
            ({"type": "hello"}, 4005),
            ({"type": "hello", "profiles": "rpc"}, 4005),
            ({"type": "hello", "profiles": [], "limits": {"max_frame": 4095}}, 4005),
            ({"type": "Hello", "profiles": []}, 4005),
            (b"[]", 4001),
            (b"", 4001),
        ],
    )
    def test_a_bad_first_frame_closes(self, frame: dict[str, object] | bytes, close: int) -> None:
        """[SES-02] [ENV-22]."""
        peer = Peer()
        assert peer.send(frame) == []
        assert peer.closed == close

    def test_no_hello_in_time_closes(self) -> None:
        """[SES-04]."""
        peer = Peer()
        peer.at(9.9)
        assert peer.closed is None
        peer.at(0.2)
        assert peer.closed == 4303

    def test_a_bad_token_closes_before_welcome(self) -> None:
        """[SES-14]."""
        peer = Peer()
        assert peer.hello(token="wrong") == []
        assert peer.closed == 4101

    def test_an_authenticator_that_cannot_tell_closes_for_a_later_attempt(self) -> None:
        peer = Peer()
        peer.slow_to_authenticate = True
        peer.hello()
        peer.apply(peer.core.denied(0, ExchangeError(ErrorCode.UNAVAILABLE, "down")))
        assert peer.closed == 1013

    def test_members_of_profiles_that_are_not_negotiated_are_ignored(self) -> None:
        """[SES-13]: whatever they contain."""
        peer = Peer()
        (welcome,) = peer.hello("rpc", resume=[5], limits={"window": "x", "max_frame": 4096})
        assert welcome["profiles"] == ["rpc"]

    def test_a_second_hello_closes(self) -> None:
        """[SES-03]: even a broken one."""
        peer = ready()
        peer.send({"type": "hello"})
        assert peer.closed == 4002

    def test_the_limits_of_a_grant_are_those_of_its_session(self) -> None:
        """[LIM-03]: advertised and enforced."""
        peer = Peer()
        tight = Limits(max_inflight=1, max_frame=8192)
        peer.tokens = {"tight": Grant("t", Allow(), limits=tight)}
        (welcome,) = peer.hello(token="tight")

        limits = welcome["limits"]
        assert isinstance(limits, dict)
        assert (limits["max_inflight"], limits["max_frame"]) == (1, 8192)
        assert peer.core.max_message == 8192
        assert peer.send(request(1)) == []
        assert code(peer.send(request(2))) == "limit_exceeded"


class TestReadingOrder:
    @pytest.mark.parametrize(
        ("text", "close"),
        [
            (b'{"type":"request","id":1', 4001),
            (b'"text"', 4001),
            (b'\xef\xbb\xbf{"type":"ping"}', 4001),
            (b'{"type":"ping"} x', 4001),
            (b'{"type":"ping","t":NaN}', 4001),
            (b'{"id":1}', 4005),
            (b'{"type":5}', 4005),
            (b'{"type":"a-b"}', 4005),
            (b'{"type":"%s"}' % (b"a" * 65), 4005),
            (b'{"type":"event","id":1,"data":1}', 4002),
            (b'{"type":"synced","id":1}', 4002),
            (b'{"type":"request","method":"m"}', 4005),
            (b'{"type":"request","id":true,"method":"m"}', 4005),
            (b'{"type":"request","id":0}', 4005),
            (b'{"type":"request","id":9007199254740992}', 4005),
            (b'{"type":"x.y","id":"1"}', 4005),
            (b'{"type":"history","channel":"c"}', 4005),
            (b'{"type":"cancel"}', 4005),
            (b'{"type":"cancel","of":1.5}', 4005),
            (b'{"type":"cancel","of":1}', 4003),
            (b'{"type":"cancel","of":1,"meta":5}', 4003),
            (b'{"type":"ping","t":5}', 4005),
            (b'{"type":"ping","meta":[]}', 4005),
            (b'{"type":"ping","t":"%s"}' % ("é" * 33).encode(), 4005),
            (b'{"type":"pong","t":"%s"}' % (b"x" * 65), 4005),
        ],
    )
    def test_faults_that_close(self, text: bytes, close: int) -> None:
        """Steps 3 to 7, and 9."""
        peer = ready()
        assert peer.send(text) == []
        assert peer.closed == close

    @pytest.mark.parametrize(
        ("frame", "expected"),
        [
            ({"type": "x.y"}, "unsupported"),
            ({"type": "history"}, "unsupported"),
            ({"type": "present", "channel": "c"}, "unsupported"),
            ({"type": "subscribe", "channel": "c", "since": None}, "unsupported"),
            ({"type": "subscribe", "since": "x"}, "unsupported"),
            ({"type": "publish", "channel": "c", "removed": False}, "unsupported"),
            ({"type": "publish", "channel": "c", "data": 1, "dedupe": "k"}, "unsupported"),
            ({"type": "request"}, "bad_request"),
            ({"type": "request", "method": ""}, "bad_request"),
            ({"type": "request", "method": "é" * 128}, "bad_request"),
            ({"type": "request", "method": "m", "timeout_ms": 0}, "bad_request"),
            ({"type": "request", "method": "m", "stream": False}, "bad_request"),
            ({"type": "request", "method": "m", "enc": "base64"}, "bad_request"),
            ({"type": "request", "method": "m", "enc": "base64", "data": "a"}, "bad_request"),
            ({"type": "request", "method": "m", "enc": "hex", "data": "aa"}, "bad_request"),
            ({"type": "request", "method": "m", "meta": 5}, "bad_request"),
            ({"type": "publish", "channel": "c"}, "bad_request"),
            ({"type": "publish", "channel": "c", "data": 1, "echo": True}, "bad_request"),
            ({"type": "subscribe"}, "bad_request"),
            ({"type": "subscribe", "channel": "c", "pattern": "p"}, "bad_request"),
            ({"type": "subscribe", "pattern": "a//b"}, "bad_request"),
            ({"type": "auth", "token": 5}, "bad_request"),
        ],
    )
    def test_faults_that_cost_one_exchange(self, frame: dict[str, object], expected: str) -> None:
        """Step 8: the id is consumed, the connection lives. [ENV-23] [ENV-24]"""
        peer = ready()
        (error,) = peer.send({**frame, "id": 3})
        assert error["id"] == 3
        assert code([error]) == expected
        assert peer.send(request(4, "echo", data=[1])) == [{"type": "result", "id": 4, "data": [1]}]

    def test_a_profile_that_was_not_negotiated_is_unsupported(self) -> None:
        """[VER-04] [VER-05]."""
        peer = ready(None, "rpc")
        assert code(peer.send(subscribe(1))) == "unsupported"
        peer = ready(None, "pubsub")
        assert code(peer.send(request(1, "echo"))) == "unsupported"
        assert code(peer.send({"type": "subscribe", "id": 2, "pattern": ""})) == "unsupported"

    def test_what_is_ignored(self) -> None:
        """[VER-01] [VER-03] [VER-06] [SES-36] [ENV-19]."""
        peer = ready()
        ignored: list[dict[str, object]] = [
            {"type": "x.y"},
            {"type": "ack", "seq": "no"},
            {"type": "pong", "t": "unasked", "held": 5},
        ]
        assert peer.send(*ignored) == []
        assert peer.send({"type": "ping", "id": "no"}) == [{"type": "pong"}]
        assert peer.send(request(1, "echo", frobnicate={})) == [{"type": "result", "id": 1}]

    def test_ids_only_rise(self) -> None:
        """[ENV-17]: used up by a refusal, holes are fine."""
        peer = ready()
        assert code(peer.send({"type": "x.y", "id": 7})) == "unsupported"
        peer.send(request(7))
        assert peer.closed == 4003

    def test_of_two_members_of_one_name_the_last_counts(self) -> None:
        """[ENV-10]: also where the first is a fault, and inside data."""
        peer = ready()
        assert peer.send(b'{"type":"request","id":"x","id":2,"method":"echo","data":1}') == [
            {"type": "result", "id": 2, "data": 1}
        ]

    def test_a_refusal_stays_small(self) -> None:
        """[DEL-13]: whatever the frame said."""
        peer = ready()
        peer.apply(peer.core.receive(json.dumps(request(1, enc="\\\x01" * 4000, data="")).encode(), 0))
        (text,) = peer.core.peek(1)
        assert len(text) <= 512


class TestExchanges:
    def test_data_is_carried_byte_for_byte(self) -> None:
        """[ENV-28]: numbers that no binary64 holds, and data null."""
        peer = ready()
        text = b'{"type":"request","id":1,"method":"echo","data":[9007199254740993, 1e400, -0]}'
        peer.apply(peer.core.receive(text, 0))
        assert peer.core.peek(1) == [b'{"type":"result","id":1,"data":[9007199254740993, 1e400, -0]}']
        peer.read()
        assert peer.send(request(2, "echo", data=None)) == [{"type": "result", "id": 2, "data": None}]
        assert peer.send(request(3, "echo")) == [{"type": "result", "id": 3}]

    def test_base64_travels_with_data(self) -> None:
        peer = ready()
        assert peer.send(request(1, "echo", data="aGk=", enc="base64")) == [
            {"type": "result", "id": 1, "enc": "base64", "data": "aGk="}
        ]

    def test_cancel_ends_a_request_once(self) -> None:
        """[RPC-06] [RPC-09] [RPC-10]."""
        peer = ready()
        peer.send(request(1))
        assert code(peer.send({"type": "cancel", "of": 1})) == "cancelled"
        assert peer.effects[-1] == Stop(1)
        assert peer.send({"type": "cancel", "of": 1}) == []
        peer.apply(peer.session.succeed(1, None))
        assert peer.read() == []

    def test_cancel_of_a_hole_is_ignored(self) -> None:
        peer = ready()
        peer.send(request(5))
        assert peer.send({"type": "cancel", "of": 3}) == []
        assert peer.closed is None

    def test_a_timeout_ends_a_request(self) -> None:
        """[RPC-17]: counted from the read, once, and not the others."""
        peer = ready()
        peer.send(request(1, timeout_ms=50), request(2, timeout_ms=80), request(3))
        assert peer.session.deadline() == peer.now + 0.05
        assert code(peer.at(0.05)) == "deadline_exceeded"
        assert peer.effects[-1] == Stop(1)
        assert peer.session.is_running(2)
        assert peer.session.is_running(3)

    def test_slots_are_free_when_the_terminal_has_left(self) -> None:
        """[LIM-07] [LIM-08] [LIM-09]."""
        peer = ready(Settings(limits=Limits(max_inflight=1, max_subscriptions=1)))
        peer.send(request(1))
        assert code(peer.send(request(2))) == "limit_exceeded"
        peer.apply(peer.core.receive(json.dumps({"type": "cancel", "of": 1}).encode(), peer.now))
        peer.apply(peer.core.receive(json.dumps(request(3)).encode(), peer.now))
        assert [frame["id"] for frame in peer.read()] == [1, 3]
        assert peer.send(request(4)) == []

        peer.send(subscribe(5))
        assert code(peer.send(subscribe(6))) == "limit_exceeded"
        peer.send({"type": "cancel", "of": 5})
        assert peer.send(subscribe(7)) == [{"type": "open", "id": 7}]

    def test_a_result_too_large_for_the_client_is_an_error(self) -> None:
        """[DEL-07]."""
        peer = Peer()
        peer.hello(limits={"max_frame": 4096})
        assert code(peer.send(request(1, "echo", data="x" * 4090))) == "too_large"

    @pytest.mark.parametrize("message", ["no", "é\x01" * 2000, "x" * 4048])
    def test_an_error_too_large_for_the_client_loses_its_details(self, message: str) -> None:
        """[DEL-19]: the code stays, and as much of the message as fits."""
        peer = Peer()
        peer.hello(limits={"max_frame": 4096})
        peer.send(request(1))
        peer.apply(peer.session.fail(1, ExchangeError(ErrorCode.APP, message, data="x" * 5000)))
        (text,) = peer.core.peek(1)
        error = json.loads(text)["error"]
        assert error["code"] == "app"
        assert message.startswith(error["message"])
        assert 4090 < len(text) <= 4096 or error["message"] == message

    def test_an_exchange_that_cannot_start_ends_with_a_refusal(self) -> None:
        """[DEL-14]: `not_found` holds no slot."""
        peer = ready(Settings(limits=Limits(max_inflight=1)))
        peer.send(request(1))
        peer.session.reject(1, ExchangeError(ErrorCode.NOT_FOUND, "no such method"))
        peer.apply(peer.core.receive(json.dumps(request(2)).encode(), peer.now))
        assert code(peer.read()) == "not_found"
        assert peer.session.is_running(2)

    def test_chunks_need_stream(self) -> None:
        """[RPC-20] [RPC-21] [DEL-08] [DEL-09]."""
        peer = Peer()
        peer.hello(limits={"max_frame": 4096})
        peer.send(request(1, stream=True), request(2))
        peer.apply(peer.session.chunk(1, Payload(b"1")))
        assert peer.session.chunk_waits(1)
        assert peer.read() == [{"type": "chunk", "id": 1, "data": 1}]
        assert not peer.session.chunk_waits(1)

        peer.apply(peer.session.chunk(2, Payload(b"1")))
        assert code(peer.read()) == "bad_request"
        assert peer.effects[-1] == Stop(2)

        peer.apply(peer.session.chunk(1, Payload(b'"%s"' % (b"x" * 5000))))
        assert code(peer.read()) == "too_large"
        peer.apply(peer.session.chunk(1, Payload(b"1")))
        assert peer.read() == []

    def test_an_error_discards_a_queued_chunk(self) -> None:
        """[RPC-11]."""
        peer = ready()
        peer.send(request(1, stream=True))
        peer.apply(peer.session.chunk(1, Payload(b"1")))
        assert code(peer.send({"type": "cancel", "of": 1})) == "cancelled"

    def test_what_is_not_allowed_is_forbidden(self) -> None:
        """[RPC-15] [SUB-03] [SUB-13]: and takes no slot."""
        peer = Peer(Settings(limits=Limits(max_inflight=1)))
        peer.tokens = {"alice": Grant("alice", Allow("secret"))}
        peer.hello()
        for n, frame in enumerate(
            [request(1, "secret.m"), subscribe(2, "secret"), publish(3, "secret"), request(4, "secret")], 1
        ):
            assert code(peer.send(frame)) == "forbidden", n

    def test_exchanges_end_with_the_connection(self) -> None:
        """[SES-45]: the application is told, before the close."""
        peer = ready()
        peer.send(request(1), subscribe(2))
        peer.apply(peer.core.close(1001))
        assert peer.effects[-2] == Ended("c-1")
        assert not peer.session.exchanges.running
        assert isinstance(peer.effects[-1], Close)
        assert peer.core.receive(b'{"type":"ping"}', peer.now) == ()
        assert peer.core.close(1000) == ()


class TestSubscriptions:
    def test_events_come_between_open_and_terminal(self) -> None:
        """[SUB-01] [SUB-05] [SUB-17] [RPC-07]."""
        peer = ready()
        assert peer.send(subscribe(1)) == [{"type": "open", "id": 1}]
        assert peer.send(publish(2)) == [
            {"type": "event", "id": 1, "data": 1},
            {"type": "result", "id": 2, "data": {}},
        ]
        assert peer.send({"type": "cancel", "of": 1}) == [{"type": "result", "id": 1}]
        assert peer.send(publish(3)) == [{"type": "result", "id": 3, "data": {}}]

    def test_cancel_discards_queued_events_but_not_open(self) -> None:
        """[RPC-11]."""
        peer = ready()
        frames = peer.send(subscribe(1), publish(2), publish(3), {"type": "cancel", "of": 1})
        assert [(frame["type"], frame["id"]) for frame in frames] == [
            ("open", 1),
            ("result", 2),
            ("result", 3),
            ("result", 1),
        ]

    def test_an_event_before_open_is_not_delivered(self) -> None:
        """[SUB-02]: a broker may be slow to fix the place."""
        peer = ready()
        effects = peer.core.receive(json.dumps(subscribe(1)).encode(), peer.now)
        assert len(effects) == 1
        peer.session.deliver(1, Event("room", Payload(b"0")), lossy=True)
        peer.session.opened(1)
        peer.session.deliver(1, Event("room", Payload(b"1")), lossy=True)
        assert [frame.get("data") for frame in peer.read()] == [None, 1]

    def test_echo_false_spares_the_own_session_alone(self) -> None:
        """[SUB-15] [SUB-16]."""
        broker = MemoryBroker()
        alice, other = Peer(broker=broker, conn="c-1"), Peer(broker=broker, conn="c-2")
        for peer in (alice, other):
            peer.hello()
            peer.send(subscribe(1))
        assert alice.send(publish(2, echo=False)) == [{"type": "result", "id": 2, "data": {}}]
        assert other.read() == [{"type": "event", "id": 1, "data": 1}]

    def test_a_pattern_names_the_channel_and_shows_only_what_is_allowed(self) -> None:
        """[SUB-24] [SUB-25]."""
        peer = Peer()
        peer.tokens = {"alice": Grant("alice", Allow("a/secret"))}
        peer.hello()
        peer.send({"type": "subscribe", "id": 1, "pattern": "a/*"})
        peer.session.deliver(1, Event("a/secret", Payload(b"0")), lossy=True)
        peer.session.deliver(1, Event("a/b", Payload(b"1", True)), lossy=True)
        assert peer.read() == [{"type": "event", "id": 1, "channel": "a/b", "enc": "base64", "data": 1}]

    def test_an_event_too_large_for_the_client_becomes_a_gap(self) -> None:
        """[DEL-06]: in its place."""
        peer = Peer()
        peer.hello(limits={"max_frame": 4096})
        frames = peer.send(subscribe(1), publish(2, data=0), publish(3, data="x" * 5000), publish(4, data=2))
        about = [frame for frame in frames if frame["id"] == 1][1:]
        assert [frame["type"] for frame in about] == ["event", "gap", "event"]
        assert about[1] == {"type": "gap", "id": 1, "reason": "too_large", "missed": 1}

    def test_a_publish_whose_event_could_not_fit_is_refused(self) -> None:
        """[SUB-18] [SUB-14]."""
        peer = ready(Settings(limits=Limits(max_frame=4096)))
        peer.send(subscribe(1))
        assert code(peer.send(publish(2, data="x" * 4040))) == "too_large"

    def test_the_heaviest_subscription_pays_for_overflow(self) -> None:
        """[DEL-02] [DEL-03]: one gap where the first lost event stood."""
        peer = ready(Settings(limits=Limits(queue=4)))
        peer.send(subscribe(1, "noisy"), subscribe(2, "quiet"))
        frames = peer.send(publish(3, "quiet"), *(publish(n, "noisy") for n in range(4, 9)))
        assert [(f["type"], f["id"]) for f in frames if f["type"] != "result"] == [
            ("event", 2),
            ("gap", 1),
            ("event", 1),
        ]
        assert [f["missed"] for f in frames if f["type"] == "gap"] == [4]


class TestFence:
    def test_a_fenced_pong_waits_for_queued_events(self) -> None:
        """[DEL-15] [SES-35]."""
        peer = ready()
        frames = peer.send(subscribe(1), publish(2), {"type": "ping", "t": "x"}, publish(3))
        order = [frame["type"] for frame in frames]
        assert order == ["open", "event", "result", "pong", "event", "result"]
        assert frames[3] == {"type": "pong", "t": "x"}

    def test_without_the_profile_pong_goes_first(self) -> None:
        """[DEL-17]."""
        peer = ready(None, "pubsub")
        frames = peer.send(subscribe(1), publish(2), {"type": "ping"})
        assert frames[0] == {"type": "pong"}


class TestStopReading:
    def test_at_max_inflight_queued_refusals(self) -> None:
        """[DEL-14]."""
        peer = ready(Settings(limits=Limits(max_inflight=2)))
        bad = b'{"type":"x.y","id":%d}'
        peer.apply(peer.core.receive(bad % 1, 0))
        assert peer.core.may_read()
        peer.apply(peer.core.receive(bad % 2, 0))
        assert not peer.core.may_read()
        peer.core.written(len(peer.core.peek(1)), 0)
        assert peer.core.may_read()

    @pytest.mark.parametrize("profiles", [("pubsub", "fence"), ("pubsub",)])
    def test_at_sixteen_unwritten_pongs(self, profiles: tuple[str, ...]) -> None:
        """[DEL-12]: fenced or not."""
        peer = ready(None, *profiles)
        peer.apply(peer.core.receive(json.dumps(subscribe(1)).encode(), 0))
        for _ in range(16):
            assert peer.core.may_read()
            peer.apply(peer.core.receive(b'{"type":"ping"}', 0))
        assert not peer.core.may_read()
        peer.read()
        assert peer.core.may_read()


class TestAuth:
    def test_a_good_token_of_the_same_principal_replaces_the_old(self) -> None:
        """[SES-19] [SES-20]."""
        peer = ready()
        assert peer.send({"type": "auth", "id": 1, "token": "brief"}) == [
            {"type": "result", "id": 1, "data": {"expires_in_ms": 400}}
        ]
        peer.at(0.3)
        assert peer.send({"type": "auth", "id": 2, "token": "alice"}) == [
            {"type": "result", "id": 2, "data": {}}
        ]
        peer.at(1)
        assert peer.closed is None

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"token": "wrong"}, "unauthenticated"),
            ({"token": "alice", "scheme": "magic"}, "unauthenticated"),
            ({"token": "bob"}, "principal_mismatch"),
        ],
    )
    def test_a_refused_auth_changes_nothing(self, fields: dict[str, str], expected: str) -> None:
        """[SES-21] [SES-22] [SES-23]."""
        peer = Peer()
        peer.hello(token="brief")
        assert code(peer.send({"type": "auth", "id": 1, **fields})) == expected
        peer.at(0.4)
        assert peer.closed == 4100

    def test_a_second_auth_is_a_conflict_whatever_is_wrong_with_it(self) -> None:
        """[SES-24]: until the terminal of the first has left."""
        peer = ready()
        peer.slow_to_authenticate = True
        peer.send({"type": "auth", "id": 1, "token": "alice"})
        assert code(peer.send({"type": "auth", "id": 2, "token": 5})) == "conflict"
        assert code(peer.send({"type": "auth", "id": 3, "token": "alice"})) == "conflict"
        first = next(effect for effect in peer.effects if isinstance(effect, Authenticate) and effect.id == 1)
        peer.authenticate(first)
        peer.apply(peer.core.receive(b'{"type":"auth","id":4,"token":"alice"}', peer.now))
        assert [frame["type"] for frame in peer.read()] == ["result", "error"]

    def test_auth_needs_no_slot_and_no_token_of_the_bucket(self) -> None:
        """[SES-25] [SES-26] [LIM-12]."""
        peer = ready(Settings(limits=Limits(max_inflight=1, rate=Rate(1, 1000))))
        peer.send(request(1))
        peer.apply(peer.core.drain(0, 1000, peer.now))
        peer.read()
        assert peer.send({"type": "auth", "id": 2, "token": "alice"}) == [
            {"type": "result", "id": 2, "data": {}}
        ]

    def test_an_auth_read_in_time_is_decided_before_expiry(self) -> None:
        """[SES-27]."""
        peer = Peer()
        peer.hello(token="brief")
        peer.slow_to_authenticate = True
        peer.send({"type": "auth", "id": 1, "token": "alice"})
        peer.at(0.5)
        assert peer.closed is None
        effect = peer.effects[-1]
        assert isinstance(effect, Authenticate)
        peer.authenticate(effect)
        peer.at(0.1)
        assert peer.closed is None

    def test_cancel_of_an_auth_leaves_it_its_outcome(self) -> None:
        """[RPC-08]."""
        peer = ready()
        peer.slow_to_authenticate = True
        peer.send({"type": "auth", "id": 1, "token": "alice"}, {"type": "cancel", "of": 1})
        effect = peer.effects[-1]
        assert isinstance(effect, Authenticate)
        peer.authenticate(effect)
        assert peer.read() == [{"type": "result", "id": 1, "data": {}}]

    def test_what_is_no_longer_allowed_ends(self) -> None:
        """[SES-28] [SES-29] [SUB-25]: and its queued events with it, those on a pattern too."""
        peer = ready()
        peer.send(subscribe(1, "restricted/a"), subscribe(2, "open"))
        peer.send({"type": "subscribe", "id": 3, "pattern": "**"})
        for channel in ("restricted/a", "open"):
            for id in (1, 2, 3):
                if id != (2 if channel == "restricted/a" else 1):
                    peer.session.deliver(id, Event(channel, Payload(b"1")), lossy=True)
        frames = peer.send({"type": "auth", "id": 4, "token": "narrow"})
        assert [(f["type"], f["id"]) for f in frames] == [
            ("event", 2),
            ("event", 3),
            ("result", 4),
            ("error", 1),
        ]
        assert frames[1]["channel"] == "open"
        assert code(frames[3:]) == "forbidden"
        assert peer.effects[-1] == Stop(1)


class TestTime:
    def test_a_silent_connection_is_pinged_once_per_interval_and_then_closed(self) -> None:
        """[SES-30] [SES-31] [SES-32]."""
        peer = ready(Settings(timers=Timers(heartbeat_interval_ms=1000, heartbeat_timeout_ms=500)))
        assert peer.core.deadline() == peer.now + 1
        assert peer.at(1.0) == [{"type": "ping"}]
        assert peer.at(0.4) == []
        assert peer.at(0.1) == []
        assert peer.closed == 4304

    def test_any_frame_is_life(self) -> None:
        """[SES-33]: one that is refused too."""
        peer = ready(Settings(timers=Timers(heartbeat_interval_ms=1000, heartbeat_timeout_ms=500)))
        for n in range(1, 5):
            peer.at(1.4)
            peer.send({"type": "x.y", "id": n})
        assert peer.closed is None

    def test_a_client_that_only_listens_is_pinged(self) -> None:
        """[SES-30]: silence in one direction is enough."""
        peer = ready(Settings(timers=Timers(heartbeat_interval_ms=1000, heartbeat_timeout_ms=500)))
        peer.send(subscribe(1))
        peer.at(0.9)
        peer.session.deliver(1, Event("room", Payload(b"1")), lossy=True)
        assert [frame["type"] for frame in peer.at(0.1)] == ["ping", "event"]

    def test_a_client_that_only_sends_is_pinged(self) -> None:
        peer = ready(Settings(timers=Timers(heartbeat_interval_ms=1000, heartbeat_timeout_ms=500)))
        peer.at(0.9)
        peer.send({"type": "pong"})
        assert peer.at(0.1) == [{"type": "ping"}]

    def test_expiry_closes(self) -> None:
        """[SES-17] [SES-18]."""
        peer = Peer()
        (welcome,) = peer.hello(token="brief")
        assert welcome["auth"] == {"principal": "alice", "expires_in_ms": 400}
        peer.at(0.39)
        assert peer.closed is None
        peer.at(0.01)
        assert peer.closed == 4100

    def test_expire_closes_at_once(self) -> None:
        peer = ready()
        peer.apply(peer.core.expire(peer.now))
        assert peer.closed == 4100


class TestLateness:
    def test_whoever_is_late_asks_before_it_closes(self) -> None:
        """[SES-32] [SES-49]: the silence that nobody asked about is ours."""
        peer = ready()
        assert peer.at(1000) == [{"type": "ping"}]
        peer.at(9.9)
        assert peer.closed is None
        peer.at(0.1)
        assert peer.closed == 4304

    def test_an_answer_to_a_late_ping_is_life(self) -> None:
        peer = ready()
        peer.at(1000)
        peer.send({"type": "pong"})
        peer.at(24.9)
        assert peer.closed is None
        assert peer.core.deadline() == pytest.approx(peer.now + 0.1)
        assert peer.at(0.1) == [{"type": "ping"}]


class TestDrain:
    def test_running_work_goes_on_until_the_deadline(self) -> None:
        """[SES-38] [SES-40] [SES-41] [SES-42]."""
        peer = ready()
        peer.send(request(1))
        peer.apply(peer.core.drain(100, 300, peer.now))
        assert peer.read() == [{"type": "goaway", "after_ms": 100, "deadline_ms": 300}]
        (refused,) = peer.send(request(2))
        assert refused["error"] == {
            "code": "draining",
            "message": "this connection is going away",
            "retry_ms": 0,
        }
        peer.apply(peer.session.succeed(1, None))
        assert peer.read() == [{"type": "result", "id": 1}]
        peer.at(0.3)
        assert peer.closed == 4200

    def test_a_new_connection_is_welcomed_first(self) -> None:
        """[SES-44]."""
        peer = Peer()
        peer.apply(peer.core.drain(100, 300, peer.now))
        peer.server.now += 0.2
        assert [frame["type"] for frame in peer.hello()] == ["welcome", "goaway"]

    def test_only_a_closer_deadline_is_told_again(self) -> None:
        peer = ready()
        for deadline_ms in (1000, 5000, 100):
            peer.core.drain(0, deadline_ms, peer.now)
        assert [frame["deadline_ms"] for frame in peer.read()] == [1000, 100]


class TestRate:
    def test_over_the_rate(self) -> None:
        """[LIM-10] [LIM-13] [LIM-14]: every fate costs, auth and pong do not."""
        peer = ready(Settings(limits=Limits(rate=Rate(2, 1000))))
        peer.send({"type": "pong"}, {"type": "auth", "id": 1, "token": "alice"})
        assert code(peer.send({"type": "x.y", "id": 2})) == "unsupported"
        assert peer.send({"type": "ping"}) == [{"type": "pong"}]
        (error,) = peer.send(request(3, "echo"))
        assert error["error"] == {"code": "rate_limited", "message": "over the rate", "retry_ms": 501}
        peer.at(0.501)
        assert peer.send(request(4, "echo")) == [{"type": "result", "id": 4}]

    @pytest.mark.parametrize("frame", [{"type": "ping"}, {"type": "cancel", "of": 1}, {"type": "x.y"}])
    def test_frames_without_id_over_the_rate_close(self, frame: dict[str, object]) -> None:
        """[LIM-11]."""
        peer = ready(Settings(limits=Limits(rate=Rate(1, 1000))))
        peer.send(request(1))
        peer.send(frame)
        assert peer.closed == 4302

    def test_faults_of_the_frame_come_first(self) -> None:
        """[ENV-05]."""
        peer = ready(Settings(limits=Limits(max_inflight=1, rate=Rate(1, 1000))))
        peer.send(request(1))
        assert code(peer.send({"type": "request", "id": 2, "method": 5})) == "bad_request"
        assert code(peer.send(request(3))) == "rate_limited"


class TestState:
    def test_a_copy_goes_its_own_way(self) -> None:
        """What happens to the twin does not happen to the original."""
        peer = ready(Settings(limits=Limits(rate=Rate(5, 1000))))
        peer.send(subscribe(1), request(2, timeout_ms=50))
        peer.session.deliver(1, Event("room", Payload(b"1")), lossy=True)
        key = peer.core.key()
        sessions = peer.server.sessions.copy({})
        twin = peer.core.copy(sessions, {})
        assert twin.key() == key

        twin.receive(b'{"type":"cancel","of":1}', peer.now)
        twin.receive(b'{"type":"auth","id":3,"token":"x"}', peer.now)
        sessions.tick(twin.session, peer.now + 0.05)
        twin.written(len(twin.peek(1000)), peer.now)

        assert twin.key() != key
        assert peer.core.key() == key
        assert peer.session.is_running(2)

    def test_equal_histories_give_equal_keys(self) -> None:
        first, second = ready(), ready()
        for peer in (first, second):
            peer.send(subscribe(1), request(2), publish(3))
        assert first.core.key() == second.core.key()
        assert hash(first.core.key()) == hash(second.core.key())

    def test_a_call_effect_says_everything_about_the_request(self) -> None:
        peer = ready()
        peer.send(request(1, "m", data={"a": 1}, stream=True))
        assert peer.effects[-1] == Call(1, "m", b'{"a": 1}', False, True)
