"""Text to frames and back: what is refused before it is sent, and what a client makes of what it gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from holdfast_reference.client.errors import BadServerFrame, RequestError
from holdfast_reference.client.frames import (
    ABSENT,
    Chunk,
    Event,
    Gap,
    GoAway,
    Numbered,
    Opened,
    Ping,
    Pong,
    Result,
    Unknown,
    decode,
    encode,
)

EXAMPLES = Path(__file__).parents[3] / "schemas" / "v1" / "examples"
SERVER_TYPES = ("chunk", "error", "event", "gap", "goaway", "open", "ping", "pong", "result", "welcome")


def nested(levels: int) -> object:
    """Arrays in arrays, `levels` of them."""
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def test_data_is_written_last_and_only_when_it_is_there() -> None:
    """Null is data; absent is not. [ENV-01]"""
    assert (
        encode({"type": "publish", "id": 1}, None, max_frame=4096) == '{"type":"publish","id":1,"data":null}'
    )
    assert encode({"type": "request", "id": 1}, ABSENT, max_frame=4096) == '{"type":"request","id":1}'


def test_bytes_travel_as_base64_both_ways() -> None:
    """What goes out as bytes comes back as bytes."""
    text = encode({"type": "chunk", "id": 1}, b"\x00\xff", max_frame=4096)
    assert json.loads(text) == {"type": "chunk", "id": 1, "enc": "base64", "data": "AP8="}
    assert decode(text) == Numbered(None, 1, Chunk(b"\x00\xff"))


@pytest.mark.parametrize(
    "data",
    [float("nan"), float("inf"), "\ud800", {1: "a", "1": "b"}, {"a": [{True: 1}]}, object(), nested(64)],
)
def test_what_json_cannot_carry_is_refused(data: object) -> None:
    """The caller is told; nothing is sent. [ENV-01] [ENV-03]"""
    with pytest.raises((TypeError, ValueError)):
        encode({"type": "publish", "id": 1}, data, max_frame=65536)


def test_63_levels_of_data_are_sent() -> None:
    """With the frame's own object they are the 64 that every server accepts. [ENV-08]"""
    assert encode({"type": "publish", "id": 1}, nested(63), max_frame=65536).endswith("]" * 63 + "}")


def test_size_is_counted_in_bytes_and_may_reach_the_limit() -> None:
    """One byte more would cost the connection. [TRN-07]"""
    size = len(encode({"type": "x"}, "é" * 100, max_frame=4096).encode())
    encode({"type": "x"}, "é" * 100, max_frame=size)
    with pytest.raises(RequestError, match="too_large"):
        encode({"type": "x"}, "é" * 100, max_frame=size - 1)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ('{"type":"result","id":7}', Numbered(None, 7, Result())),
        ('{"type":"result","id":7,"data":null}', Numbered(None, 7, Result(None))),
        ('{"type":"open","id":7,"cursor":"x"}', Numbered(None, 7, Opened("x"))),
        ('{"type":"event","id":7,"data":{"a":1}}', Numbered(None, 7, Event({"a": 1}))),
        ('{"type":"event","id":7,"seq":3,"cursor":"x","data":1}', Numbered(3, 7, Event(1, cursor="x"))),
        (
            '{"type":"open","id":7,"seq":1,"cursor":"x","recovered":false,"reason":"epoch"}',
            Numbered(1, 7, Opened("x", recovered=False, reason="epoch")),
        ),
        (
            '{"type":"gap","id":7,"reason":"expired","cursor":"x"}',
            Numbered(None, 7, Gap("expired", cursor="x")),
        ),
        ('{"type":"event","id":7,"channel":"c","data":1,"future":[]}', Numbered(None, 7, Event(1, "c"))),
        ('{"type":"gap","id":7,"reason":"overflow","missed":3}', Numbered(None, 7, Gap("overflow", 3))),
        ('{"type":"gap","id":7,"reason":"too_large"}', Numbered(None, 7, Gap("too_large"))),
        ('{"type":"ping"}', Ping(None)),
        ('{"type":"ping","t":""}', Ping("")),
        ('{"type":"pong","t":"x"}', Pong("x")),
        ('{"type":"goaway","after_ms":1,"deadline_ms":2}', GoAway(1, 2)),
        ('{"type":"vendor.thing","id":"whatever"}', Unknown()),
        ('{"type":"vendor.thing","id":1,"seq":4}', Unknown(4)),
    ],
)
def test_reads_what_it_needs_and_ignores_the_rest(text: str, meaning: object) -> None:
    """Unknown members and types do no harm. [VER-09] [VER-10]"""
    assert decode(text) == meaning


def test_an_error_keeps_everything_a_program_needs() -> None:
    """Code, details and the time after which to try again."""
    text = '{"type":"error","id":2,"error":{"code":"app","message":"m","retry_ms":5,"data":[1],"ref":"r"}}'
    match decode(text):
        case Numbered(None, 2, RequestError() as error):
            assert (error.code, error.message, error.data, error.retry_ms, error.ref) == (
                "app",
                "m",
                [1],
                5,
                "r",
            )
        case other:
            pytest.fail(f"{other}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"type":"event","id":1,"data":NaN}',
        "[" * 100_000,
        '{"id":1}',
        '{"type":1}',
        '{"type":"result"}',
        '{"type":"result","id":true}',
        '{"type":"result","id":null}',
        '{"type":"event","id":1}',
        '{"type":"event","id":1,"data":"=","enc":"base64"}',
        '{"type":"event","id":1,"data":"aa","enc":"hex"}',
        '{"type":"error","id":1,"error":{"message":"m"}}',
        '{"type":"gap","id":1}',
        '{"type":"welcome","conn":"c","profiles":[],"limits":{},"heartbeat":{"interval_ms":1,"timeout_ms":1}}',
    ],
)
def test_a_broken_frame_of_the_server_is_found(text: str) -> None:
    """Each of these is the server's fault, whatever it is about."""
    with pytest.raises(BadServerFrame):
        decode(text)


@pytest.mark.parametrize(
    "example",
    [file for type_ in SERVER_TYPES for file in sorted((EXAMPLES / type_ / "valid").glob("*.json"))],
    ids=lambda file: f"{file.parts[-3]}-{file.stem}",
)
def test_every_valid_example_is_understood(example: Path) -> None:
    """What the schemas allow to a server, the client takes."""
    assert not isinstance(decode(example.read_text()), Unknown)
