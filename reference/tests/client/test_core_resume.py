"""The client without a network, over several connections: acks, what is sent again, and what is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from holdfast_reference.client import calls
from holdfast_reference.client.core import ClientCore
from holdfast_reference.client.effects import Arrived, Effect, Lost
from holdfast_reference.client.errors import BadServerFrame, RequestError
from holdfast_reference.client.exchanges import Fate
from holdfast_reference.client.frames import Event, Opened, Result
from holdfast_reference.client.reaction import Reaction

if TYPE_CHECKING:
    from collections.abc import Iterator

PROFILES = ("rpc", "pubsub", "history", "ack", "resume")


def welcome(session: str = "s-1", *, window: int = 4, max_frame: int = 4096, **members: object) -> str:
    """A welcome of a server that has everything."""
    limits = {
        "max_frame": max_frame,
        "window": window,
        "window_bytes": 1000,
        "ack_delay_ms": 500,
        "dedupe_ms": 2000,
    }
    return json.dumps(
        {
            "type": "welcome",
            "conn": "c-1",
            "session": session,
            "resumed": False,
            "profiles": PROFILES,
            "limits": limits,
            "heartbeat": {"interval_ms": 1000, "timeout_ms": 500},
            **members,
        }
    )


def resumed(last_id: int) -> str:
    return welcome(resumed=True, last_id=last_id)


def refused(code: str, **members: int) -> str:
    return welcome("s-2", resume_error={"code": code, **members})


def greeted(window: int = 4) -> ClientCore:
    """A core in its first session."""
    core = ClientCore()
    hello(core)
    core.receive(welcome(window=window), 0.0)
    return core


def hello(core: ClientCore) -> dict[str, object]:
    """Connect; return the `resume` of the hello."""
    frame = json.loads(core.hello(PROFILES, token="t", max_frame=4096))
    resume: dict[str, object] = frame.get("resume", {})
    return resume


def cut(core: ClientCore) -> dict[str, object]:
    """Lose the connection and open another."""
    core.closed(None)
    return hello(core)


def result(number: int, seq: int) -> str:
    return json.dumps({"type": "result", "id": number, "seq": seq})


def sent(core: ClientCore) -> list[tuple[object, object]]:
    """Take what waits: type and id of each, `of` for cancels."""
    frames = [json.loads(text) for text in core.outbox]
    core.outbox.clear()
    return [(frame["type"], frame.get("id", frame.get("of"))) for frame in frames]


def acks(core: ClientCore, now: float = 0.0) -> Iterator[int]:
    """The acks that are due."""
    while (text := core.urgent(now)) is not None:
        yield json.loads(text)["seq"]


@pytest.mark.parametrize(("window", "after"), [(4, 2), (5, 2), (1, 1), (2, 1)])
def test_half_a_window_is_acknowledged_at_once(window: int, after: int) -> None:
    """Rounded down, and at least one frame. [DEL-28]"""
    core = greeted(window=window)
    told = []
    for number in range(1, 2 * after + 1):
        core.start(calls.request("m"), 0.0)
        core.receive(result(number, number), 0.0)
        told += list(acks(core))
    assert told == [after, 2 * after]


def test_half_of_the_bytes_is_acknowledged_at_once() -> None:
    """[DEL-28]"""
    core = greeted(window=100)
    core.start(calls.request("m"), 0.0)
    core.receive('{"type":"result","id":1,"seq":1,"data":"%s"}' % ("x" * 500), 0.0)
    assert list(acks(core)) == [1]


def test_what_is_less_is_acknowledged_after_the_delay() -> None:
    """Counted from the first that was not, and once. [DEL-28]"""
    core = greeted()
    core.start(calls.request("m"), 0.0)
    assert core.received.due == float("inf")
    core.receive(result(1, 1), 10.0)
    assert core.received.due == 10.5
    assert list(acks(core, 10.4)) == []
    assert list(acks(core, 10.5)) == [1]
    assert core.received.due == float("inf")


def test_unknown_types_with_a_seq_count() -> None:
    """[DEL-37]"""
    core = greeted(window=1)
    assert core.receive('{"type":"vendor.x","id":1,"seq":1}', 0.0) == []
    assert list(acks(core)) == [1]


@pytest.mark.parametrize("text", [result(1, 2), '{"type":"result","id":1}'])
def test_a_hole_in_the_sequence_costs_the_session(text: str) -> None:
    """The next hello asks for none. [DEL-31]"""
    core = greeted()
    core.start(calls.request("m"), 0.0)
    with pytest.raises(BadServerFrame):
        core.receive(text, 0.0)
    assert core.closed(4501) is Reaction.RECONNECT_BACKOFF_FRESH
    assert hello(core) == {}


def test_every_resume_tells_what_has_arrived_and_has_an_attempt_of_its_own() -> None:
    """Answered or not. [RES-13] [RES-14]"""
    core = greeted()
    core.start(calls.request("m"), 0.0)
    core.receive(result(1, 1), 0.0)
    assert cut(core) == {"session": "s-1", "seq": 1, "attempt": 1}
    assert cut(core) == {"session": "s-1", "seq": 1, "attempt": 2}
    core.receive(resumed(1), 0.0)
    assert list(acks(core, 99.0)) == []  # the hello was one
    assert cut(core) == {"session": "s-1", "seq": 1, "attempt": 3}


def test_after_welcome_frames_then_cancels_then_what_is_new() -> None:
    """In the order of the ids; what was accepted is not sent again. [RES-39] [RES-40] [RES-41]"""
    core = greeted()
    for _ in range(4):
        core.start(calls.request("m"), 0.0)
    core.cancel(1)
    core.cancel(3)
    cut(core)
    core.start(calls.request("m"), 0.0)
    assert sent(core) == []  # nobody to send it to
    core.receive(resumed(2), 0.0)
    core.start(calls.request("m"), 0.0)
    assert sent(core) == [
        ("request", 3), ("request", 4), ("request", 5), ("cancel", 1), ("cancel", 3), ("request", 6),
    ]  # fmt: skip


def test_an_auth_that_was_not_accepted_ends_with_the_next_welcome() -> None:
    """The hello has shown newer credentials. One that was accepted gets its answer. [RES-42]"""
    core = greeted()
    core.start(calls.auth("a"), 0.0)
    core.start(calls.auth("b"), 0.0)
    cut(core)
    assert core.receive(resumed(1), 0.0)[1:] == [Lost(2, Fate.NOT_ACCEPTED)]
    assert sent(core) == []
    assert core.receive(result(1, 1), 0.0) == [Arrived(1, Result())]


def test_a_refused_session_is_lost_and_what_cannot_happen_twice_starts_again() -> None:
    """Under new ids, in the old order. [RES-43]"""
    core = greeted()
    core.start(calls.request("accepted"), 0.0)
    core.start(calls.subscribe("c"), 0.0)
    core.receive('{"type":"open","id":2,"seq":1,"cursor":"a"}', 0.0)
    core.receive('{"type":"event","id":2,"seq":2,"cursor":"b","data":1}', 0.0)
    core.start(calls.publish("c", 1, dedupe="d"), 0.0)
    core.start(calls.request("not accepted"), 0.0)
    core.start(calls.request("given up"), 0.0)
    core.cancel(5)
    cut(core)
    assert core.receive(refused("expired", last_id=3), 0.5)[1:] == [
        Lost(1, Fate.ACCEPTED),
        Lost(2, Fate.ACCEPTED, again=1),
        Lost(3, Fate.ACCEPTED, again=2),
        Lost(4, Fate.NOT_ACCEPTED, again=3),
        Lost(5, Fate.NOT_ACCEPTED),
    ]
    assert [json.loads(text) for text in core.outbox] == [
        {"type": "subscribe", "id": 1, "channel": "c", "since": "b"},
        {"type": "publish", "id": 2, "channel": "c", "dedupe": "d", "data": 1},
        {"type": "request", "id": 3, "method": "not accepted"},
    ]
    assert core.receive('{"type":"open","id":1,"seq":1,"cursor":"b","recovered":true}', 0.5) == [
        Arrived(1, Opened("b", recovered=True))
    ]
    assert cut(core) == {"session": "s-2", "seq": 1, "attempt": 1}


def test_when_nobody_knows_only_what_is_safe_starts_again() -> None:
    """And `dedupe` is safe for half of its time only. [RES-43]"""
    core = greeted()
    core.start(calls.publish("c", 1, dedupe="d"), 0.0)
    core.start(calls.request("m"), 0.0)
    core.start(calls.publish("c", 1), 0.0)
    core.start(calls.publish("c", 1, dedupe="e"), 0.5)
    cut(core)
    effects = core.receive(refused("not_found"), 1.0)[1:]
    assert [lost.again for lost in effects if isinstance(lost, Lost)] == [None, None, None, 1]
    assert {lost.fate for lost in effects if isinstance(lost, Lost)} == {Fate.UNKNOWN}


def test_a_subscription_that_began_with_the_newest_continues_from_its_cursor() -> None:
    """`since` takes the place of `last`; before `open` there is nothing to continue from."""
    core = greeted()
    for _ in range(2):
        core.start(calls.subscribe("c", last=3), 0.0)
    core.receive('{"type":"open","id":1,"seq":1,"cursor":"a"}', 0.0)
    core.receive('{"type":"gap","id":1,"seq":2,"reason":"expired","cursor":"b"}', 0.0)
    cut(core)
    core.receive(refused("ended", last_id=2), 0.0)
    assert [json.loads(text) for text in core.outbox] == [
        {"type": "subscribe", "id": 1, "channel": "c", "since": "b"},
        {"type": "subscribe", "id": 2, "channel": "c", "last": 3},
    ]


def test_a_frame_that_no_longer_fits_ends_here() -> None:
    """And leaves a hole among the ids. [RES-46]"""
    core = greeted()
    core.start(calls.request("m", "x" * 2000), 0.0)
    core.start(calls.request("m"), 0.0)
    cut(core)
    effects = core.receive(welcome("s-2", max_frame=1024, resume_error={"code": "ended", "last_id": 0}), 0.0)
    too_large = effects[-1]
    assert isinstance(too_large, Arrived)
    assert too_large.id == 1
    assert isinstance(too_large.item, RequestError)
    assert too_large.item.code == "too_large"
    assert sent(core) == [("request", 2)]


def test_the_older_connection_is_read_until_the_welcome_and_never_written() -> None:
    """What it brings is dropped when it comes again. [RES-15] [DEL-30]"""
    core = greeted(window=2)
    core.start(calls.subscribe("c"), 0.0)
    core.receive('{"type":"open","id":1,"seq":1}', 0.0, 1)
    assert list(acks(core)) == [1]
    assert hello(core)["seq"] == 1
    event = '{"type":"event","id":1,"seq":2,"data":1}'
    assert core.receive(event, 0.0, 1) == [Arrived(1, Event(1))]
    assert core.receive('{"type":"ping"}', 0.0, 1) == []
    assert list(acks(core)) == []
    core.receive(resumed(1), 0.0, 2)
    assert list(acks(core)) == [2]
    effects: list[Effect] = core.receive(event, 0.0, 2)
    assert effects == []
    assert core.receive('{"type":"event","id":1,"seq":3,"data":2}', 0.0, 1) == []  # too late for that one
    assert core.received.got == 2


def test_4008_means_stop_on_the_newest_connection_alone() -> None:
    """[RES-44] [RES-45]"""
    core = greeted()
    hello(core)
    assert core.closed(4008, 1) is None
    core.receive(resumed(0), 0.0, 2)
    assert core.ready
    assert core.closed(4008, 2) is Reaction.STOP
    assert not core.ready


@pytest.mark.parametrize(
    "text", [welcome("s-9", resumed=True, last_id=0), welcome(resumed=True)], ids=["another", "no last_id"]
)
def test_a_server_that_resumes_something_else_is_found(text: str) -> None:
    """[RES-27]"""
    core = greeted()
    cut(core)
    with pytest.raises(BadServerFrame):
        core.receive(text, 0.0)


def test_a_server_that_resumes_unasked_is_found() -> None:
    """[RES-04]"""
    core = ClientCore()
    hello(core)
    with pytest.raises(BadServerFrame):
        core.receive(resumed(0), 0.0)


def test_a_copy_is_independent_and_equal() -> None:
    """Of a core with something of everything."""
    core = greeted()
    core.start(calls.subscribe("c"), 0.0)
    core.receive('{"type":"ping"}', 0.0)
    twin = core.copy()
    assert twin.key() == core.key()
    twin.receive('{"type":"open","id":1,"seq":1}', 0.0)
    assert twin.key() != core.key()
    core.receive('{"type":"open","id":1,"seq":1}', 0.0)
    assert twin.key() == core.key()
    core.urgent(0.0)
    assert twin.key() != core.key()
