"""The outgoing queue: order, room, and an honest account of what was lost."""

from __future__ import annotations

import json

import pytest
from holdfast_reference.protocol.errors import ProtocolViolation
from holdfast_reference.protocol.limits import MAX_UNSEQUENCED, Limits
from holdfast_reference.protocol.outgoing import CALL_END, CHUNK, OPEN, REFUSAL, Outgoing
from hypothesis import given
from hypothesis import strategies as st


def drain(outgoing: Outgoing, size: int = 2**40, count: int | None = None) -> list[bytes]:
    """Write what `peek` gives for so many bytes, or only the first `count` of it."""
    texts = outgoing.peek(size)[:count]
    outgoing.written(len(texts))
    return texts


def event(id: int, n: int, size: int = 0) -> bytes:
    return json.dumps({"type": "event", "id": id, "n": n, "pad": "x" * size}).encode()


def test_frames_leave_in_order_and_unnumbered_ones_first() -> None:
    outgoing = Outgoing(Limits())
    outgoing.push(OPEN, 1, b"open")
    outgoing.event(1, b"", b"event", 0, True)
    outgoing.urgent(b"ping")
    assert drain(outgoing) == [b"ping", b"open", b"event"]
    assert not outgoing


def test_a_peek_takes_about_so_many_bytes_and_at_least_one_frame() -> None:
    outgoing = Outgoing(Limits())
    for _ in range(5):
        outgoing.event(1, b"", b"0123456789", 0, True)
    assert len(outgoing.peek(1)) == 1
    assert len(outgoing.peek(11)) == 2
    assert len(outgoing.peek(50)) == 5


def test_what_was_not_written_is_still_queued() -> None:
    """A frame that the socket did not take may still be overtaken or discarded."""
    outgoing = Outgoing(Limits())
    outgoing.push(CALL_END, 1, b"a")
    outgoing.push(CALL_END, 2, b"b")
    assert drain(outgoing, count=1) == [b"a"]
    assert outgoing.counts[CALL_END] == 1
    outgoing.urgent(b"ping")
    assert drain(outgoing) == [b"ping", b"b"]


def test_discarding_spares_open_and_terminals_and_other_exchanges() -> None:
    """[RPC-11]."""
    outgoing = Outgoing(Limits(queue=2))
    outgoing.push(OPEN, 1, b"open")
    for n in range(4):
        outgoing.event(1, b"", b"e%d" % n, 0, True)
    outgoing.push(CHUNK, 2, b"chunk")
    outgoing.push(CALL_END, 3, b"end")
    outgoing.discard(1)
    assert drain(outgoing) == [b"open", b"chunk", b"end"]
    assert outgoing.size == 0


def test_a_fenced_pong_stands_behind_what_is_queued_now() -> None:
    """[DEL-15]."""
    outgoing = Outgoing(Limits())
    outgoing.fence(b"pong0")
    outgoing.event(1, b"", b"e1", 0, True)
    outgoing.fence(b"pong1")
    outgoing.event(1, b"", b"e2", 0, True)
    assert drain(outgoing) == [b"pong0", b"e1", b"pong1", b"e2"]


def test_bytes_bound_the_queue_too() -> None:
    outgoing = Outgoing(Limits(queue_bytes=100))
    outgoing.event(1, b"", b"x" * 60, 0, True)
    outgoing.event(2, b"", b"y" * 50, 0, True)
    assert drain(outgoing) == [b'{"type":"gap","id":1,"reason":"overflow","missed":1}', b"y" * 50]


def test_a_second_overflow_raises_the_gap_that_is_still_queued() -> None:
    """[DEL-03] [DEL-04] [DEL-05]."""
    outgoing = Outgoing(Limits(queue=2))
    for n in range(7):
        outgoing.event(1, b"", b"%d" % n, 0, True)
    assert drain(outgoing) == [b'{"type":"gap","id":1,"reason":"overflow","missed":6}', b"6"]


def test_nothing_is_lost_while_the_socket_takes_more() -> None:
    """[DEL-18]: the owner is asked to write first."""
    outgoing = Outgoing(Limits(queue=2))
    assert [outgoing.event(1, b"", b"%d" % n, 0, False) for n in range(3)] == [True, True, False]
    assert drain(outgoing) == [b"0", b"1"]
    assert outgoing.event(1, b"", b"2", 0, False)


STEPS = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from([0, 20, 90])) | st.tuples(st.just(0), st.integers(1, 400)),
    max_size=120,
)


@given(STEPS, st.integers(4, 20), st.integers(0, 3))
def test_every_lost_event_is_counted_where_it_stood(
    steps: list[tuple[int, int]], queue: int, spare: int
) -> None:
    """[DEL-01] [DEL-05]: whatever is published, lost and written in whatever order."""
    outgoing = Outgoing(Limits(queue=queue))
    published = {1: 0, 2: 0, 3: 0}
    got: list[bytes] = []
    for id, size in steps:
        if id == 0:
            got += drain(outgoing, size, count=spare)
        else:
            published[id] += 1
            outgoing.event(id, b"", event(id, published[id], size), 0, True)
            assert outgoing.counts[0] <= queue
    while outgoing:
        got += drain(outgoing)

    seen = {1: 0, 2: 0, 3: 0}
    for text in got:
        frame = json.loads(text)
        id = frame["id"]
        if frame["type"] == "gap":
            seen[id] += frame["missed"]
        else:
            seen[id] += 1
            assert frame["n"] == seen[id]
    assert seen == published
    assert outgoing.size == 0
    assert not any(outgoing.counts)


def test_a_copy_is_independent() -> None:
    outgoing = Outgoing(Limits(queue=2))
    for n in range(4):
        outgoing.event(1, b"", b"%d" % n, 0, True)
    twin = outgoing.copy()
    assert twin.key() == outgoing.key()
    drain(twin)
    assert twin.key() != outgoing.key()
    assert len(outgoing.peek(100)) == 2


def sequenced(
    window: int = 3, window_bytes: int = 10_000, queue: int = 100, max_inflight: int = 64
) -> Outgoing:
    limits = Limits(window=window, window_bytes=window_bytes, queue=queue, max_inflight=max_inflight)
    return Outgoing(limits, sequenced=True)


def numbers(texts: list[bytes]) -> list[int | None]:
    return [json.loads(text).get("seq") for text in texts]


def answer(outgoing: Outgoing, id: int, pad: str = "") -> None:
    outgoing.push(CALL_END, id, json.dumps({"type": "result", "id": id, "data": pad}).encode())


class TestWindow:
    def test_frames_are_numbered_when_they_leave_and_kept(self) -> None:
        """[DEL-20] [DEL-21]: right behind the `id`, so that `data` stays last."""
        outgoing = sequenced()
        outgoing.event(1, b'{"type":"event","id":1', b',"data":5}', 0, True)
        outgoing.push(CALL_END, 2, b'{"type":"result","id":2}')
        outgoing.urgent(b'{"type":"ping"}')
        assert drain(outgoing) == [
            b'{"type":"ping"}',
            b'{"type":"event","id":1,"seq":1,"data":5}',
            b'{"type":"result","id":2,"seq":2}',
        ]
        assert (outgoing.sent, outgoing.acked, len(outgoing.unacked)) == (2, 0, 2)

    def test_a_number_belongs_to_what_was_written(self) -> None:
        """A frame that was peeked and not taken may still be overtaken or lost."""
        outgoing = sequenced(queue=1)
        answer(outgoing, 1)
        outgoing.event(2, b'{"type":"event","id":2', b"}", 0, True)
        assert numbers(drain(outgoing, count=1)) == [1]
        outgoing.discard(2)
        answer(outgoing, 3)
        assert numbers(drain(outgoing)) == [2]

    def test_the_window_closes_and_opens(self) -> None:
        """[DEL-22] [DEL-24] [DEL-25] [DEL-27]."""
        outgoing = sequenced(window=2)
        for id in range(1, 6):
            answer(outgoing, id)
        assert numbers(drain(outgoing)) == [1, 2]
        assert outgoing.blocked
        outgoing.urgent(b'{"type":"ping"}')
        assert drain(outgoing) == [b'{"type":"ping"}']
        outgoing.ack(1)
        assert numbers(drain(outgoing)) == [3]
        outgoing.ack(1)
        assert drain(outgoing) == []
        outgoing.ack(3)
        assert numbers(drain(outgoing)) == [4, 5]

    def test_bytes_close_it_too_but_one_frame_always_leaves(self) -> None:
        """[DEL-23]."""
        outgoing = sequenced(window=100, window_bytes=100)
        for id in range(1, 4):
            answer(outgoing, id, "x" * 80)
        assert numbers(drain(outgoing)) == [1]
        outgoing.ack(1)
        assert numbers(drain(outgoing)) == [2]

    def test_what_was_not_sent_cannot_be_acknowledged(self) -> None:
        """[DEL-26]."""
        outgoing = sequenced()
        answer(outgoing, 1)
        with pytest.raises(ProtocolViolation, match="4004"):
            outgoing.ack(1)

    def test_another_connection_is_sent_the_rest_again(self) -> None:
        """[RES-29]: before anything new, a frame at a time if need be, and before any pong."""
        outgoing = sequenced(window=4)
        for id in range(1, 4):
            answer(outgoing, id)
        first = drain(outgoing)
        outgoing.urgent(b'{"type":"ping"}')
        outgoing.detach()
        outgoing.ack(1)
        outgoing.attach()
        answer(outgoing, 4)
        outgoing.fence(b'{"type":"pong"}')
        assert drain(outgoing, 1) == first[1:2]
        rest = drain(outgoing)
        assert rest[0] == first[2]
        assert numbers(rest) == [3, 4, None]

    def test_an_ack_may_overtake_what_is_sent_again(self) -> None:
        outgoing = sequenced()
        for id in range(1, 4):
            answer(outgoing, id)
        first = drain(outgoing)
        outgoing.detach()
        outgoing.attach()
        outgoing.ack(2)
        assert drain(outgoing) == first[2:]

    def test_overflow_behind_a_closed_window_is_one_gap(self) -> None:
        """[DEL-03] [DEL-04]: and the socket is not asked for room."""
        outgoing = sequenced(window=1, queue=2)
        for n in range(6):
            assert outgoing.event(1, b'{"type":"event","id":1', b',"data":%d}' % n, 0, False)
            if not n:
                drain(outgoing)
        outgoing.ack(1)
        assert drain(outgoing) == [b'{"type":"gap","id":1,"seq":2,"reason":"overflow","missed":3}']


class TestRefusals:
    def test_behind_a_closed_window_reading_goes_on_until_there_are_too_many(self) -> None:
        """[DEL-14] [DEL-25] [DEL-32]."""
        outgoing = sequenced(window=1, window_bytes=300, max_inflight=2)
        answer(outgoing, 1)
        drain(outgoing)
        count = 0
        while not outgoing.flooded:
            assert not outgoing.full
            count += 1
            outgoing.refuse(count, b"x" * 50)
        assert count == 7

    def test_while_only_the_socket_is_behind_reading_stops(self) -> None:
        """[DEL-14]: whether the window was closed before or not."""
        outgoing = sequenced(window=2, window_bytes=300, max_inflight=2)
        answer(outgoing, 1)
        answer(outgoing, 2)
        drain(outgoing)
        for id in range(3, 12):
            outgoing.refuse(id, b'{"type":"error","id":%d}' % id)
        assert not outgoing.full
        outgoing.ack(2)
        assert (outgoing.full, outgoing.flooded) == (True, False)
        while outgoing.full:
            drain(outgoing, 1)
            outgoing.ack(outgoing.sent)
        assert outgoing.counts[REFUSAL] == 1


class TestHeld:
    def test_behind_a_closed_window(self) -> None:
        """[DEL-36]: at once; with nothing behind the window there is nothing to hold."""
        outgoing = sequenced(window=1)
        answer(outgoing, 1)
        drain(outgoing)
        outgoing.fence(b'{"type":"pong","t":"a"}')
        answer(outgoing, 2)
        outgoing.fence(b'{"type":"pong","t":"b"}')
        assert drain(outgoing) == [b'{"type":"pong","t":"a"}', b'{"type":"pong","t":"b","held":true}']

    def test_when_the_window_closes_before_its_turn(self) -> None:
        outgoing = sequenced(window=2)
        answer(outgoing, 1)
        outgoing.fence(b'{"type":"pong","t":"a"}')
        answer(outgoing, 2)
        outgoing.fence(b'{"type":"pong","t":"b"}')
        answer(outgoing, 3)
        outgoing.fence(b'{"type":"pong","t":"c"}')
        assert [json.loads(text).get("t") for text in drain(outgoing)] == [None, "a", None, "b"]
        assert drain(outgoing) == [b'{"type":"pong","t":"c","held":true}']

    def test_behind_publishes_that_still_run(self) -> None:
        """[DEL-15]: one whose event is not there yet; a bounded number of pongs waits."""
        outgoing = sequenced()
        for n in range(MAX_UNSEQUENCED):
            assert not outgoing.full
            outgoing.fence(b'{"type":"pong","t":"%d"}' % n, publish=n // 8 + 4)
        assert outgoing.full
        outgoing.took_effect(4)
        assert drain(outgoing) == []
        outgoing.took_effect(5)
        assert len(drain(outgoing)) == 8
        outgoing.took_effect(float("inf"))
        assert len(drain(outgoing)) == 8
        assert not outgoing.full

    def test_a_waiting_pong_goes_with_its_connection(self) -> None:
        outgoing = sequenced()
        answer(outgoing, 1)
        outgoing.fence(b'{"type":"pong"}')
        outgoing.fence(b'{"type":"pong"}', publish=5)
        outgoing.detach()
        outgoing.attach()
        assert numbers(drain(outgoing)) == [1]


@given(st.lists(st.sampled_from(["event", "answer", "peek", "slow", "ack", "cut"]), max_size=80))
def test_whatever_happens_numbers_have_no_hole_and_sizes_add_up(steps: list[str]) -> None:
    """[DEL-11] [DEL-21] [DEL-22] I2."""
    outgoing = sequenced(window=3, queue=4)
    seen: dict[int, bytes] = {}
    got = 0
    for n, step in enumerate(steps):
        if step == "event":
            outgoing.event(n % 2, b'{"type":"event","id":%d' % (n % 2), b',"data":%d}' % n, 0, True)
        elif step == "answer":
            answer(outgoing, n)
        elif step in ("peek", "slow"):
            for text in drain(outgoing, count=1 if step == "slow" else None):
                (seq,) = numbers([text])
                assert seq is not None
                assert seen.setdefault(seq, text) == text
                assert seq <= got + 1
                got = max(got, seq)
        elif step == "ack":
            outgoing.ack(got)
        else:
            outgoing.detach()
            outgoing.ack(got)
            outgoing.attach()
        assert outgoing.sent - outgoing.acked == len(outgoing.unacked) <= 3
        assert outgoing._unacked_bytes == sum(map(len, outgoing.unacked))
        if outgoing._sums is not None:
            assert sum(outgoing._sums.values()) == outgoing._event_bytes
        assert outgoing.size == sum(len(item[2]) + len(item[3]) for item in outgoing._queue)
        assert sum(outgoing.counts) == len(outgoing._queue)
        assert outgoing.copy().key() == outgoing.key()
    assert sorted(seen) == list(range(1, got + 1))


def test_what_was_written_is_let_go() -> None:
    """[DEL-11]: an idle session keeps no copy of its last batch."""
    outgoing = Outgoing(Limits())
    answer(outgoing, 1, "x" * 100_000)
    drain(outgoing)
    assert outgoing._peeked == []
