"""Subscriptions that have a log: where they begin, how they catch up, and what they are told of holes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
from holdfast_reference.backends.channel_log import Retention, Row
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol import Limits, Settings
from holdfast_reference.protocol.logs import CursorError, CursorReason
from holdfast_reference.protocol.names import Pattern
from hypothesis import given
from hypothesis import strategies as st
from tests.driving import EVERY, Frame, Peer, Server, code

if TYPE_CHECKING:
    from collections.abc import Iterable

WINDOWLESS = ("rpc", "pubsub", "pattern", "fence", "history")


def server(*, events: int = 1000, queue: int = 4, window: int = 256, max_frame: int = 262_144) -> Server:
    limits = Limits(queue=queue, window=window, max_frame=max_frame, history_limit=3)
    retention = Retention(events=events, unlogged=(Pattern("nolog/**"),))
    return Server(Settings(limits=limits), MemoryBroker(retention, clock=lambda: 0.0))


def ready(shared: Server, *profiles: str, conn: str = "c-1") -> Peer:
    peer = Peer(server=shared, conn=conn)
    peer.hello(*(profiles or WINDOWLESS))
    return peer


def subscribe(id: int, channel: str = "room", **fields: object) -> Frame:
    return {"type": "subscribe", "id": id, "channel": channel, **fields}


def fill(shared: Server, numbers: Iterable[int], channel: str = "room") -> None:
    for n in numbers:
        shared.publish(channel, n)


def cursor(shared: Server, position: int, channel: str = "room") -> str:
    log = shared.broker.log(channel)
    assert log is not None
    return log.cursor(position)


def data(frames: Iterable[Frame]) -> list[object]:
    """What events hold, and why there are gaps."""
    return [frame.get("data", frame.get("reason")) for frame in frames]


def acked(peer: Peer, frames: list[Frame]) -> list[Frame]:
    """These frames, and those that come when whatever came is acknowledged."""
    all_frames = [*frames]
    while frames:
        frames = peer.send({"type": "ack", "seq": frames[-1]["seq"]})
        all_frames += frames
    return all_frames


class TestOpen:
    def test_events_follow_the_cursor_of_open(self) -> None:
        """[HIS-01] [HIS-02]: also when the log is empty."""
        shared = server()
        peer = ready(shared)
        assert peer.send(subscribe(1)) == [{"type": "open", "id": 1, "cursor": cursor(shared, 0)}]
        fill(shared, [1])
        assert peer.read() == [{"type": "event", "id": 1, "cursor": cursor(shared, 1), "data": 1}]

    def test_without_the_profile_or_a_log_there_is_no_cursor(self) -> None:
        """[VER-07] [HIS-12]."""
        shared = server()
        peer, logged = ready(shared, "pubsub"), ready(shared, conn="c-2")
        assert peer.send(subscribe(1)) == [{"type": "open", "id": 1}]
        assert logged.send(subscribe(1, "nolog/a")) == [{"type": "open", "id": 1}]
        assert logged.send(subscribe(2, "nolog/a", last=5)) == [{"type": "open", "id": 2}]
        (opened,) = logged.send(subscribe(3, "nolog/a", since="x"))
        assert (opened["recovered"], opened["reason"]) == (False, "unknown")
        assert code(logged.send(subscribe(4, "nolog/a", since="x", recover="require"))) == "unrecoverable"

    def test_since(self) -> None:
        """[HIS-05]: from the cursor on, and then what is published."""
        shared = server()
        fill(shared, range(1, 6))
        peer = ready(shared)
        opened, *events = peer.send(subscribe(1, since=cursor(shared, 2)))
        assert (opened["recovered"], opened["cursor"]) == (True, cursor(shared, 2))
        fill(shared, [6])
        assert data(events + peer.read()) == [3, 4, 5, 6]

    @pytest.mark.parametrize(("last", "expected"), [(1, [5]), (3, [3, 4, 5]), (99, [1, 2, 3, 4, 5])])
    def test_last(self, last: int, expected: list[int]) -> None:
        """[HIS-15]."""
        shared = server()
        fill(shared, range(1, 6))
        opened, *events = ready(shared).send(subscribe(1, last=last))
        assert opened["cursor"] == cursor(shared, 5 - len(expected))
        assert "recovered" not in opened
        assert data(events) == expected

    async def test_what_cannot_be_recovered(self) -> None:
        """[HIS-07] to [HIS-13]: live from `open.cursor`, or not at all."""
        shared = server()
        fill(shared, [1, 2])
        fill(shared, [1], "other")
        places = {
            "unknown": ["garbage", cursor(shared, 1, "other")],
            "ahead": [cursor(shared, 3)],
            "expired": [cursor(shared, 1)],
        }
        await shared.broker.trim("room")
        old = cursor(shared, 2)
        peer = ready(shared)
        id = 0
        for reason, cursors in places.items():
            for since in cursors:
                id += 2
                (opened,) = peer.send(subscribe(id, since=since))
                assert (opened["recovered"], opened["reason"]) == (False, reason)
                assert opened["cursor"] == cursor(shared, 2)
                assert code(peer.send(subscribe(id + 1, since=since, recover="require"))) == "unrecoverable"
        await shared.broker.wipe("room")
        (opened,) = peer.send(subscribe(id + 2, since=old))
        assert opened["reason"] == "epoch"
        assert len(shared.subscribers["c-1"]) == 5  # the refused ones are not registered

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"since": "c", "last": 1}, "bad_request"),
            ({"recover": "require"}, "bad_request"),
            ({"recover": "maybe", "since": "c"}, "bad_request"),
            ({"since": "é" * 129}, "bad_request"),
            ({"since": ""}, "bad_request"),
            ({"last": 0}, "bad_request"),
            ({"channel": None, "since": "c"}, "bad_request"),
        ],
    )
    def test_bad_wishes(self, fields: dict[str, object], error: str) -> None:
        """[HIS-16] [HIS-43]."""
        assert code(ready(server()).send({**subscribe(1), **fields})) == error

    @pytest.mark.parametrize("fields", [{"since": "c"}, {"last": 1}, {"since": 5}, {"since": "c", "last": 1}])
    def test_patterns_have_no_past(self, fields: dict[str, object]) -> None:
        """[HIS-17]."""
        frame = {"type": "subscribe", "id": 1, "pattern": "a/*", **fields}
        assert code(ready(server()).send(frame)) == "unsupported"


class TestReplay:
    def test_more_than_the_queue_holds(self) -> None:
        """[HIS-06]: one at a time is queued, none is lost."""
        shared = server(window=3)
        fill(shared, range(100))
        peer = ready(shared, *EVERY)
        frames = peer.send(subscribe(1, last=100))
        assert len(frames) == 3
        assert sum(peer.session.outgoing.counts) == 1
        fill(shared, range(100, 110))  # what is published meanwhile is read from the log, too
        assert sum(peer.session.outgoing.counts) == 1
        frames = acked(peer, frames)
        fill(shared, [110])
        frames += peer.read()
        assert data(frames[1:]) == list(range(111))
        assert [frame["cursor"] for frame in frames[1:]] == [cursor(shared, n + 1) for n in range(111)]

    def test_others_are_served_meanwhile(self) -> None:
        """Two replays and an answer share the queue, and a peek takes little of a log."""
        shared = server()
        fill(shared, range(50))
        peer = ready(shared)
        peer.apply(peer.core.receive(b'{"type":"subscribe","id":1,"channel":"room","last":50}', 0.0))
        peer.apply(peer.core.receive(b'{"type":"subscribe","id":2,"channel":"room","last":50}', 0.0))
        peer.apply(peer.core.receive(b'{"type":"request","id":3,"method":"echo"}', 0.0))
        frames = peer.read()
        assert [frame["type"] for frame in frames[:5]] == ["open", "event", "open", "event", "result"]
        assert len(frames) < 15
        assert peer.core.replaying
        while peer.core.pending:
            frames += peer.read()
        for id in (1, 2):
            assert data(frame for frame in frames if frame == {**frame, "type": "event", "id": id}) == [
                *range(50)
            ]
        assert not peer.core.replaying

    def test_what_was_peeked_and_not_taken_is_read_again(self) -> None:
        shared = server()
        fill(shared, range(10))
        peer = ready(shared)
        peer.apply(peer.core.receive(b'{"type":"subscribe","id":1,"channel":"room","last":10}', 0.0))
        got = []
        while texts := peer.core.peek(2**20)[:2]:
            peer.core.written(len(texts), 0.0)
            got += texts
        assert len(got) == 11
        assert len(set(got)) == 11

    def test_overflow_becomes_replay(self) -> None:
        """[DEL-35]: nothing is lost, nothing comes twice, and the others keep their place."""
        shared = server(window=2)
        peer = ready(shared, *EVERY)
        frames = peer.send(subscribe(1), subscribe(2, "nolog/x"))
        for n in range(20):
            shared.publish("room", n)
        shared.publish("nolog/x", "quiet")
        frames = acked(peer, frames)
        assert [frame["type"] for frame in frames].count("gap") == 0
        assert data(frame for frame in frames if frame["id"] == 1)[1:] == list(range(20))
        assert data(frame for frame in frames if frame["id"] == 2)[1:] == ["quiet"]
        fill(shared, [20, 21])
        assert data(acked(peer, peer.read())) == [20, 21]

    async def test_trimming_overtakes_a_replay(self) -> None:
        """[HIS-18] [HIS-19]: so does a wipe."""
        for overtake in ("trim", "wipe"):
            shared = server(window=2)
            fill(shared, range(10))
            peer = ready(shared, *EVERY)
            frames = peer.send(subscribe(1, last=10))
            await getattr(shared.broker, overtake)("room")
            fill(shared, [10])
            frames = acked(peer, frames)
            assert data(frames[1:]) == [0, 1, "expired", 10]
            assert frames[3]["cursor"] == cursor(shared, 10)
            assert "missed" not in frames[3]

    def test_an_event_that_cannot_be_read_is_a_gap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """[HIS-18]: the others are not lost with it, and none comes twice."""
        shared = server()
        fill(shared, range(5))
        read = shared.broker.row

        def row(channel: str, position: int) -> Row:
            if position == 3:
                raise CursorError(CursorReason.EXPIRED)
            return read(channel, position)

        monkeypatch.setattr(shared.broker, "row", row)
        frames = ready(shared).send(subscribe(1, last=5))
        assert data(frames[1:]) == [0, 1, "expired", 3, 4]
        assert frames[3]["cursor"] == cursor(shared, 3)

    async def test_a_live_subscription_loses_nothing_by_a_wipe(self) -> None:
        shared = server()
        peer = ready(shared)
        peer.send(subscribe(1))
        fill(shared, [1])
        before = peer.read()
        await shared.broker.wipe("room")
        fill(shared, [2])
        assert data(before + peer.read()) == [1, 2]

    def test_own_events_stay_away_from_a_replay_too(self) -> None:
        """[SUB-15]: of this session, after a resume as well; a later session gets them."""
        shared = server()
        peer = ready(shared, *EVERY)
        quiet = {"type": "publish", "channel": "room", "data": "mine", "echo": False}
        peer.send({**quiet, "id": 1})
        fill(shared, [1])
        peer.lose()
        again = Peer(server=shared, conn="c-2")
        again.hello(*EVERY, resume={"session": "secret of c-1", "seq": 1, "attempt": 1})
        assert data(again.send(subscribe(2, last=9))[1:]) == [1]
        assert data(ready(shared, conn="c-3").send(subscribe(1, last=9))[1:]) == ["mine", 1]

    def test_an_event_too_large_for_the_client_is_a_gap_with_its_place(self) -> None:
        """[DEL-06] [HIS-19]: live and replayed."""
        shared = server()
        peer = Peer(server=shared)
        peer.hello(*WINDOWLESS, limits={"max_frame": 4096})
        peer.send(subscribe(1))
        fill(shared, [0])
        shared.publish("room", "x" * 5000)
        gap = {"type": "gap", "reason": "too_large", "missed": 1, "cursor": cursor(shared, 2)}
        assert peer.read()[1:] == [{"id": 1, **gap}]
        assert peer.send(subscribe(2, last=1))[1:] == [{"id": 2, **gap}]

    def test_a_cancelled_replay_ends_at_once(self) -> None:
        """[RPC-11]."""
        shared = server(window=2)
        fill(shared, range(10))
        peer = ready(shared, *EVERY)
        frames = peer.send(subscribe(1, last=10))
        peer.send({"type": "cancel", "of": 1})
        assert [frame["type"] for frame in acked(peer, frames)] == ["open", "event", "result"]
        assert not peer.session.outgoing.places

    def test_no_log_is_read_for_a_session_that_is_over(self) -> None:
        shared = server()
        fill(shared, range(100))
        peer = ready(shared)
        peer.apply(peer.core.receive(b'{"type":"subscribe","id":1,"channel":"room","last":100}', 0.0))
        peer.apply(peer.core.close(4300))
        assert [frame["type"] for frame in peer.read()] == ["open"]
        assert not peer.core.pending


class TestFence:
    def test_a_pong_behind_a_replay_says_that_it_was_held(self) -> None:
        """[DEL-36]: and one behind its end does not."""
        shared = server(window=2)
        fill(shared, range(3))
        peer = ready(shared, *EVERY)
        frames = peer.send(subscribe(1, last=3))
        assert peer.send({"type": "ping", "t": "a"}) == [{"type": "pong", "t": "a", "held": True}]
        acked(peer, frames)
        assert peer.send({"type": "ping", "t": "b"}) == [{"type": "pong", "t": "b"}]

    def test_a_waiting_pong_goes_when_overflow_turns_into_replay(self) -> None:
        """[DEL-36]: it waited for the socket, and now it would wait for the log."""
        shared = server()
        peer = ready(shared)
        peer.send(subscribe(1))
        fill(shared, range(4))
        peer.apply(peer.core.receive(b'{"type":"ping"}', 0.0))
        fill(shared, [4])
        assert peer.read()[0] == {"type": "pong", "held": True}


class TestHistory:
    def history(self, peer: Peer, id: int, channel: str = "room", **query: object) -> Frame:
        (frame,) = peer.send({"type": "history", "id": id, "channel": channel, **query})
        page: Frame = frame.get("data") or frame["error"]  # type: ignore[assignment]  # both are objects
        return page

    def test_pages(self) -> None:
        """[HIS-20] to [HIS-26] [HIS-42]."""
        shared = server()
        fill(shared, range(1, 8))
        peer = ready(shared)
        page = self.history(peer, 1)
        expected = [{"cursor": cursor(shared, n), "data": n} for n in (5, 6, 7)]
        assert page == {"events": expected, "more": True, "start": cursor(shared, 4)}
        page = self.history(peer, 2, before=page["start"], limit=2)
        assert data(page["events"]) == [3, 4]  # type: ignore[arg-type]  # a list of objects
        page = self.history(peer, 3, after=cursor(shared, 4), limit=99)
        assert (data(page["events"]), page["more"]) == ([5, 6, 7], False)  # type: ignore[arg-type]  # as above

    async def test_places_that_are_none(self) -> None:
        """[HIS-30] [HIS-31] [HIS-32]."""
        shared = server()
        fill(shared, [1, 2])
        early, late = cursor(shared, 1), cursor(shared, 3)
        await shared.broker.trim("room")
        peer = ready(shared)
        assert self.history(peer, 1, after=early)["code"] == "unrecoverable"
        assert self.history(peer, 2, before=late)["code"] == "bad_cursor"
        assert self.history(peer, 3, before="x")["code"] == "bad_cursor"
        assert self.history(peer, 4, "nolog/a", after=early)["code"] == "bad_cursor"
        assert self.history(peer, 5, "nolog/a") == {"events": [], "more": False, "trimmed": True}

    @pytest.mark.parametrize(
        "query", [{"before": "a", "after": "b"}, {"limit": 0}, {"after": "é" * 129}, {"channel": "x" * 256}]
    )
    def test_bad_questions(self, query: dict[str, object]) -> None:
        """[HIS-33] [HIS-43]."""
        frame = {"type": "history", "id": 1, "channel": "room", **query}
        assert code(ready(server()).send(frame)) == "bad_request"

    def test_only_who_may_subscribe(self) -> None:
        """[HIS-34]."""
        peer = Peer(server=server())
        peer.hello(*WINDOWLESS, token="narrow")
        assert code(peer.send({"type": "history", "id": 1, "channel": "restricted/a"})) == "forbidden"

    def test_a_page_fits_the_frame(self) -> None:
        """[HIS-27] [HIS-28]."""
        shared = server()
        for n in range(3):
            shared.publish("room", [n, "x" * 1900])
        shared.publish("room", "x" * 9000)
        peer = Peer(server=shared)
        peer.hello(*WINDOWLESS, limits={"max_frame": 4096})
        page = self.history(peer, 1)
        assert page["more"] is True
        assert page["events"][-1] == {"cursor": cursor(shared, 4), "too_large": True}  # type: ignore[index]  # a list


class TestPublish:
    def test_a_publish_says_where_it_stands_and_counts_once(self) -> None:
        """[HIS-35] [HIS-36] [HIS-37] [HIS-41]."""
        shared = server()
        peer, other = ready(shared), ready(shared, conn="c-2")
        other.send(subscribe(1))
        publish: Frame = {"type": "publish", "channel": "room", "data": 1, "dedupe": "k"}
        place = {"cursor": cursor(shared, 1)}
        assert peer.send({**publish, "id": 1})[0]["data"] == place
        assert peer.send({**publish, "id": 2})[0]["data"] == {**place, "duplicate": True}
        assert peer.send({**publish, "id": 3, "channel": "nolog/a"})[0]["data"] == {}
        assert peer.send({**publish, "id": 4, "channel": "nolog/a"})[0]["data"] == {"duplicate": True}
        assert data(other.read()) == [1]

    @pytest.mark.parametrize("dedupe", ["", "é" * 128, 5, None])
    def test_a_bad_key(self, dedupe: object) -> None:
        frame: Frame = {"type": "publish", "id": 1, "channel": "room", "data": 1, "dedupe": dedupe}
        assert code(ready(server()).send(frame)) == "bad_request"


STEPS = st.lists(st.sampled_from(["publish", "mine", "read", "ack", "cut", "slow", "trim"]), max_size=60)


@given(STEPS, st.integers(1, 4), st.integers(1, 4), st.integers(3, 12))
def test_whatever_happens_the_run_has_no_silent_hole(
    steps: list[str], window: int, queue: int, kept: int
) -> None:
    """I1 [DEL-01]: each event once, in order, or a gap that ends where the next one begins."""
    shared = server(events=kept, queue=queue, window=window)
    peer = ready(shared, *EVERY)
    frames: dict[object, Frame] = {}
    attempts = published = 0
    mine = set()

    def keep(new: list[Frame]) -> None:
        for frame in new:
            if "seq" in frame:
                assert frames.setdefault(frame["seq"], frame) == frame

    keep(peer.send(subscribe(1)))
    for step in [*steps, *["read", "ack"] * (len(steps) + 5)]:
        if step == "publish":
            published += 1
            shared.publish("room", published)
        elif step == "mine":
            published += 1
            mine.add(published)
            id = peer.session.exchanges.last_id + 1
            keep(
                peer.send({"type": "publish", "id": id, "channel": "room", "data": published, "echo": False})
            )
        elif step == "read":
            keep(peer.read())
        elif step == "slow":
            texts = peer.core.peek(200)[:1]
            peer.core.written(len(texts), 0.0)
            if texts:
                keep([decoded(texts[0])])
        elif step == "ack" and frames:
            keep(peer.send({"type": "ack", "seq": max(frames)}))  # type: ignore[type-var]  # numbers all
        elif step == "trim":
            trio.run(shared.broker.trim, "room")
        elif step == "cut":
            peer.lose()
            attempts += 1
            got = max(frames, default=0)  # type: ignore[type-var]  # numbers all
            peer = Peer(server=shared, conn=f"again-{attempts}")
            keep(peer.hello(*EVERY, resume={"session": "secret of c-1", "seq": got, "attempt": attempts}))

    assert sorted(frames) == list(range(1, len(frames) + 1))  # type: ignore[type-var]  # numbers all
    at = 0
    for seq in sorted(frames):  # type: ignore[type-var]  # numbers all
        frame = frames[seq]
        if frame["type"] == "event":
            assert set(range(at + 1, int(str(frame["data"])))) <= mine
            at = int(str(frame["data"]))
        elif frame["type"] == "gap":
            assert frame["reason"] == "expired"
            at = next(n for n in range(published + 1) if cursor(shared, n) == frame["cursor"])
    assert set(range(at + 1, published + 1)) <= mine


def decoded(text: bytes) -> Frame:
    frame: Frame = json.loads(text)
    return frame
