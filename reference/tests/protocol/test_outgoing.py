"""The outgoing queue: order, room, and an honest account of what was lost."""

from __future__ import annotations

import json

from holdfast_reference.protocol.limits import Limits
from holdfast_reference.protocol.outgoing import CALL_END, CHUNK, OPEN, Outgoing
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
