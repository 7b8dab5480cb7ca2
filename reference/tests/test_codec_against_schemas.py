"""One frame, two judges: the server's reader and the JSON Schemas must agree on what is well-formed.

Frames are the valid examples of the specification with one or two members removed, replaced or added.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
from holdfast_reference.protocol import Limits, Settings
from holdfast_reference.protocol.codec import decode
from holdfast_reference.protocol.messages import Ack
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from referencing import Registry, Resource
from tests.driving import EVERY, Frame, Peer, ready

if TYPE_CHECKING:
    from collections.abc import Mapping

V1 = Path(__file__).parents[2] / "schemas/v1"
CLIENT_TYPES = (
    "hello",
    "cancel",
    "auth",
    "ping",
    "pong",
    "request",
    "subscribe",
    "publish",
    "ack",
    "history",
)


def read(path: Path) -> Frame:
    value: Frame = json.loads(path.read_text(encoding="utf-8"))
    return value


SCHEMAS = {path.name.split(".")[0]: read(path) for path in V1.glob("messages/*.schema.json")}
REGISTRY: Registry[bool | Mapping[str, object]] = Registry().with_resources(
    (str(schema["$id"]), Resource.from_contents(schema))
    for schema in [*SCHEMAS.values(), *map(read, V1.glob("*.schema.json"))]
)
VALIDATORS = {
    kind: jsonschema.Draft202012Validator(SCHEMAS[kind], registry=REGISTRY) for kind in CLIENT_TYPES
}
EXAMPLES = {
    kind: [read(path) for path in sorted((V1 / "examples" / kind / "valid").glob("*.json"))]
    for kind in CLIENT_TYPES
}
#: Bytes, which a schema that counts characters cannot bound.
BYTES = {
    **{"channel": 255, "pattern": 255, "method": 255, "dedupe": 255},
    **{"t": 64, "since": 256, "before": 256, "after": 256},
}

ODD: st.SearchStrategy[object] = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2, 1.5, 4095, 4096, 2**31 - 1, 2**31, 2**53 - 1, 2**53),
        *("", "x", "a/b", "a//b", "**", "**/a", "a/**", "base64", "aGk=", "aGk", "bearer", "__proto__", "\0"),
        *("x" * 64, "x" * 65, "é" * 32, "é" * 33, "x" * 255, "x" * 256, "é" * 127, "é" * 128),
        *([], [1], ["rpc"], {}, {"token": "t"}, {"token": 5}, {"max_frame": 4095}, {"name": 5}, {"a": []}),
    ]
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """A frame that may be good."""
    kind = draw(st.sampled_from(CLIENT_TYPES))
    frame = copy.deepcopy(draw(st.sampled_from(EXAMPLES[kind])))
    properties = SCHEMAS[kind]["properties"]
    assert isinstance(properties, dict)
    members = st.sampled_from([*sorted(set(properties) - {"type"}), "frobnicate"])
    for _ in range(draw(st.integers(0, 2))):
        member = draw(members)
        if draw(st.booleans()):
            frame.pop(member, None)
        else:
            frame[member] = draw(ODD)
    return frame


def is_valid(frame: Frame) -> bool:
    """What the schemas say, bytes included."""
    kind = frame["type"]
    assert isinstance(kind, str)
    if not VALIDATORS[kind].is_valid(frame):
        return False
    return all(len(str(frame[name]).encode()) <= size for name, size in BYTES.items() if name in frame)


def is_accepted(frame: Frame) -> bool:
    """What the server says."""
    if frame["type"] == "hello":
        peer = Peer()
        peer.slow_to_authenticate = True
        peer.send(frame)
        return peer.closed is None
    # Slots for none but `auth`: a good frame is refused by the first check that is not about its shape.
    peer = ready(Settings(limits=Limits(max_inflight=0, max_subscriptions=0)), *EVERY)
    peer.slow_to_authenticate = True
    if frame["type"] == "cancel":
        peer.send({"type": "x.y", "id": 2**53 - 1})  # so that no `of` lies in the future
    answers = peer.send(frame)
    if peer.closed is not None:
        if peer.closed == 4004:  # nothing was sent that an `ack` could be about, and that comes first
            return isinstance(decode(json.dumps(frame).encode()), Ack)
        assert peer.closed == 4005
        return False
    return not any("bad_request" in json.dumps(answer.get("error")) for answer in answers)


@settings(max_examples=1500)
@given(frames())
def test_the_server_and_the_schemas_agree(frame: Frame) -> None:
    """[ENV-01] [ENV-20] [ENV-21] [ENV-22]."""
    # A pong's `held` belongs to a profile, so the server need not look at it.
    assume(frame["type"] != "pong" or "held" not in frame)
    # On a pattern these are `unsupported`, whatever they hold. [HIS-17]
    assume("pattern" not in frame or frame.keys().isdisjoint({"since", "last"}))
    assert is_accepted(frame) == is_valid(frame)


def test_every_valid_example_is_accepted() -> None:
    for kind in CLIENT_TYPES:
        assert EXAMPLES[kind]
        for frame in EXAMPLES[kind]:
            assert is_accepted(frame), frame


def test_every_invalid_example_is_refused() -> None:
    """Those that are a client's frame of a known type; others are covered by the wire vectors."""
    seen = 0
    for kind in CLIENT_TYPES:
        for path in sorted((V1 / "examples" / kind / "invalid").glob("*.json")):
            frame = read(path)["frame"]
            if isinstance(frame, dict) and frame.get("type") == kind and "held" not in frame:
                assert not is_accepted(frame), path
                seen += 1
    assert seen > 40
