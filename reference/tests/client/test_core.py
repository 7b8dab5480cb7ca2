"""The client without a network: ids, the exchange table, and what a server may say when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest
import referencing
from holdfast_reference.client import calls
from holdfast_reference.client.core import ClientCore
from holdfast_reference.client.effects import Arrived
from holdfast_reference.client.errors import BadServerFrame, RequestError
from holdfast_reference.client.exchanges import TRANSITIONS, Happening, State
from holdfast_reference.client.frames import Chunk, Event, Gap, Opened, Pong, Result, Welcome, encode_again

if TYPE_CHECKING:
    from referencing.jsonschema import SchemaRegistry

SCHEMAS = Path(__file__).parents[3] / "schemas" / "v1"
ALL = ("rpc", "pubsub", "pattern", "fence", "history")


def ready(profiles: tuple[str, ...] = ALL, max_frame: int = 4096) -> ClientCore:
    """A core that has its welcome."""
    core = ClientCore()
    core.hello(profiles, token=None, max_frame=4096)
    welcome = {
        "type": "welcome",
        "conn": "c-1",
        "profiles": list(profiles),
        "limits": {"max_frame": max_frame, "max_inflight": 8, "max_subscriptions": 8},
        "heartbeat": {"interval_ms": 1000, "timeout_ms": 500},
        "auth": {"principal": "alice"},
    }
    assert isinstance(hear(core, json.dumps(welcome)), Welcome)
    return core


def hear(core: ClientCore, text: str) -> object:
    """What follows from a frame that nothing or one thing follows from."""
    effects = core.receive(text, 0.0)
    assert len(effects) <= 1
    return effects[0] if effects else None


def start(core: ClientCore, call: calls.Call) -> tuple[int, dict[str, object]]:
    """Start something on a core that has nothing else to send; return its id and its frame."""
    number = core.start(call, 0.0)
    frame: dict[str, object] = json.loads(core.outbox.popleft())
    assert not core.outbox
    return number, frame


def test_the_exchange_table_is_the_one_of_the_registry() -> None:
    """Same states, same events, same transitions."""
    registry = json.loads((SCHEMAS / "protocol.json").read_text())
    machine = next(machine for machine in registry["machines"] if machine["name"] == "exchange")
    assert {state["name"] for state in machine["states"]} == {state.name for state in State}
    assert {event["name"].upper() for event in machine["events"]} == {event.name for event in Happening}
    theirs = {(a, row["event"].upper(), row["to"]) for row in machine["transitions"] for a in row["from"]}
    ours = {(a.name, by.name, to.name) for a, row in TRANSITIONS.items() for by, to in row.items()}
    assert ours == theirs


def test_hello_names_profiles_credentials_and_the_largest_frame() -> None:
    """And nothing of profiles that this client does not have. [VER-11]"""
    hello = json.loads(ClientCore().hello(["rpc"], token="t", max_frame=5000))
    assert hello == {
        "type": "hello",
        "profiles": ["rpc"],
        "limits": {"max_frame": 5000},
        "auth": {"scheme": "bearer", "token": "t"},
    }
    assert "auth" not in json.loads(ClientCore().hello(["rpc"], token=None, max_frame=5000))


@pytest.mark.parametrize("text", ['{"type":"ping"}', '{"type":"result","id":1}', '{"type":"vendor.x"}'])
def test_the_first_frame_is_welcome(text: str) -> None:
    """A server says nothing before it. [SES-07]"""
    with pytest.raises(BadServerFrame):
        ClientCore().receive(text, 0.0)


def test_welcome_comes_once() -> None:
    """[SES-06]"""
    core = ready()
    with pytest.raises(BadServerFrame):
        hear(core, '{"type":"welcome","conn":"c","profiles":[],"limits":{"max_frame":4096},"heartbeat":'
                     '{"interval_ms":1,"timeout_ms":1}}')  # fmt: skip


def test_ids_rise_and_a_frame_that_cannot_be_sent_uses_up_none() -> None:
    """[ENV-04]"""
    core = ready(max_frame=4096)
    assert start(core, calls.request("m"))[0] == 1
    with pytest.raises(RequestError, match="too_large"):
        start(core, calls.publish("c", "x" * 5000))
    with pytest.raises(ValueError, match="JSON"):
        start(core, calls.publish("c", float("nan")))
    number, frame = start(core, calls.publish("c", 1, echo=False))
    assert frame == {"type": "publish", "id": 2, "channel": "c", "echo": False, "data": 1}
    assert number == 2


def test_the_frames_that_start_exchanges() -> None:
    """Members are there when asked for, and only then."""
    core = ready()
    assert start(core, calls.request("m", None, timeout_ms=5, stream=True))[1] == {
        "type": "request", "id": 1, "method": "m", "timeout_ms": 5, "stream": True, "data": None,
    }  # fmt: skip
    assert start(core, calls.subscribe("c"))[1] == {"type": "subscribe", "id": 2, "channel": "c"}
    assert start(core, calls.subscribe(pattern="a/*"))[1] == {"type": "subscribe", "id": 3, "pattern": "a/*"}
    assert start(core, calls.auth("t"))[1] == {"type": "auth", "id": 4, "token": "t"}


def test_a_subscription_has_one_of_channel_and_pattern() -> None:
    """[SUB-04]"""
    core = ready()
    with pytest.raises(TypeError):
        start(core, calls.subscribe())
    with pytest.raises(TypeError):
        start(core, calls.subscribe("c", pattern="a/*"))


def test_what_was_not_negotiated_is_refused_without_a_frame() -> None:
    """[VER-11]"""
    core = ready(profiles=("pubsub",))
    with pytest.raises(RequestError, match="unsupported"):
        start(core, calls.request("m"))
    with pytest.raises(RequestError, match="unsupported"):
        start(core, calls.subscribe(pattern="a/*"))
    assert start(core, calls.subscribe("c"))[0] == 1


def test_a_subscription_from_open_to_the_end() -> None:
    """open, events and gaps, cancel, one last event, result."""
    core = ready()
    number, _ = start(core, calls.subscribe("c"))
    assert hear(core, '{"type":"open","id":1}') == Arrived(1, Opened())
    assert hear(core, '{"type":"event","id":1,"data":5}') == Arrived(1, Event(5))
    assert hear(core, '{"type":"gap","id":1,"reason":"overflow"}') == Arrived(1, Gap("overflow"))
    core.cancel(number)
    core.cancel(number)
    assert list(core.outbox) == ['{"type":"cancel","of":1}']
    assert hear(core, '{"type":"event","id":1,"data":6}') == Arrived(1, Event(6))
    assert hear(core, '{"type":"result","id":1}') == Arrived(1, Result())
    core.cancel(number)
    assert len(core.outbox) == 1


def test_open_may_cross_a_cancel() -> None:
    """It was already on its way. [RPC-07]"""
    core = ready()
    number, _ = start(core, calls.subscribe("c"))
    core.cancel(number)
    assert hear(core, '{"type":"open","id":1}') == Arrived(1, Opened())
    assert hear(core, '{"type":"result","id":1}') == Arrived(1, Result())


def test_a_stream_has_chunks_and_then_its_terminal() -> None:
    """[RPC-19]"""
    core = ready()
    start(core, calls.request("m", stream=True))
    assert hear(core, '{"type":"chunk","id":1,"data":1}') == Arrived(1, Chunk(1))
    assert hear(core, '{"type":"result","id":1,"data":2}') == Arrived(1, Result(2))


@pytest.mark.parametrize(
    "frames",
    [
        ['{"type":"result","id":9}'],  # never used [RPC-03]
        ['{"type":"result","id":1}', '{"type":"result","id":1}'],  # a second terminal [RPC-01]
        ['{"type":"result","id":1}', '{"type":"error","id":1,"error":{"code":"app","message":""}}'],
        ['{"type":"chunk","id":1,"data":1}'],  # not asked for [RPC-20]
        ['{"type":"open","id":1}'],  # not a subscription
        ['{"type":"event","id":2,"data":1}'],  # before open [SUB-02]
        ['{"type":"gap","id":2,"reason":"overflow"}'],
        ['{"type":"open","id":2}', '{"type":"open","id":2}'],  # twice [SUB-01]
        ['{"type":"result","id":2}'],  # neither opened, cancelled nor refused
        ['{"type":"event","id":3,"data":1}'],  # a stream has chunks
    ],
)
def test_a_server_that_breaks_the_table_is_found(frames: list[str]) -> None:
    """The last of the frames is the bad one."""
    core = ready()
    start(core, calls.request("m"))
    start(core, calls.subscribe("c"))
    start(core, calls.request("m", stream=True))
    for text in frames[:-1]:
        hear(core, text)
    with pytest.raises(BadServerFrame):
        hear(core, frames[-1])


def test_pings_are_answered_with_their_t() -> None:
    """Unchanged when there is one, and none when there is none. [SES-34] [SES-35]"""
    core = ready()
    for t, pong in (("", '{"type":"pong"}'), (',"t":"é"', '{"type":"pong","t":"é"}')):
        assert hear(core, f'{{"type":"ping"{t}}}') is None
        assert core.urgent(0.0) == pong
        assert core.urgent(0.0) is None


def test_each_ping_of_ours_has_a_t_of_its_own() -> None:
    """So that a pong tells which it answers."""
    core = ready()
    first, second = core.ping(), core.ping()
    assert first != second
    assert json.loads(core.outbox[0]) == {"type": "ping", "t": first}
    assert hear(core, f'{{"type":"pong","t":"{first}"}}') == Pong(first)


def test_the_end_of_the_session_ends_what_is_unfinished() -> None:
    """Once each. [SES-46]"""
    core = ready()
    start(core, calls.request("m"))
    start(core, calls.subscribe("c"))
    start(core, calls.request("m"))
    hear(core, '{"type":"result","id":1}')
    assert core.end() == [2, 3]
    assert core.end() == []


def test_every_frame_that_the_client_sends_is_valid_under_its_schema() -> None:
    """[ENV-01]"""
    schemas = [json.loads(file.read_text()) for file in SCHEMAS.rglob("*.schema.json")]
    known = {schema["$id"]: schema for schema in schemas}
    resources = [(name, referencing.Resource.from_contents(schema)) for name, schema in known.items()]
    registry: SchemaRegistry = referencing.Registry().with_resources(resources)
    core = ready()
    subscription = core.start(calls.subscribe("c", since="x", require=True), 0.0)
    for call in (
        calls.subscribe("c", last=1),
        calls.subscribe(pattern="a/**"),
        calls.request("m", b"bytes", timeout_ms=1, stream=True),
        calls.request("m"),
        calls.publish("c", None, echo=False, dedupe="d"),
        calls.auth("t"),
    ):
        core.start(call, 0.0)
    core.cancel(subscription)
    core.ping()
    hear(core, '{"type":"ping","t":"x"}')
    core.session = "s-1"
    texts = [
        *core.outbox,
        core.urgent(0.0),
        encode_again(core.outbox[0], 7, "y"),
        ClientCore().hello(ALL, token="t", max_frame=4096),
        core.hello(ALL, token="t", max_frame=4096),
    ]
    for text in texts:
        frame = json.loads(text or "")
        schema = known[f"https://holdfast.example/v1/messages/{frame['type']}.schema.json"]
        jsonschema.Draft202012Validator(schema, registry=registry).validate(frame)
