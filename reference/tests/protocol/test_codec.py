"""Bytes to frames: the fast path, and the strict one that decides about what it refuses."""

from __future__ import annotations

import json

import pytest
from holdfast_reference.protocol import CloseCode, ExchangeError, Payload
from holdfast_reference.protocol import messages as m
from holdfast_reference.protocol.codec import (
    _STRING,
    Suspect,
    decode,
    decode_data,
    encode_data,
    encode_error,
    encode_result,
    is_base64,
    is_integer,
)
from holdfast_reference.protocol.errors import ProtocolViolation
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nested(levels: int) -> bytes:
    """A frame nested so deep, its own object included."""
    return b'{"type":"ping","x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(("levels", "good"), [(64, True), (65, False), (100_000, False)])
def test_sixty_four_levels_are_the_deepest(levels: int, good: bool) -> None:
    """[ENV-07] [ENV-08]: and no depth breaks the reader."""
    if good:
        assert isinstance(decode(nested(levels)), m.Ping)
    else:
        with pytest.raises(ProtocolViolation) as caught:
            decode(nested(levels))
        assert caught.value.code is CloseCode.BAD_FRAME


def test_a_string_without_an_end_is_passed_over_once() -> None:
    """Anybody may send it as a first frame: 64 KiB of quotes must not keep everybody waiting for seconds."""
    text = b"[" * 65 + b'"' + rb"\"" * 30_000
    assert len(_STRING.findall(text)) == 1
    with pytest.raises(ProtocolViolation):
        decode(text)


@pytest.mark.parametrize("opening", ["{", "["])
def test_levels_of_both_kinds_count_alike(opening: str) -> None:
    """An object around an array is two levels, whichever stands outside."""
    deep: object = 1
    for level in range(64):
        deep = [deep] if (level % 2 == 0) == (opening == "[") else {"a": deep}
    with pytest.raises(ProtocolViolation):
        decode(json.dumps({"type": "ping", "x": deep}).encode())


def test_many_brackets_and_those_in_strings_are_no_depth() -> None:
    assert isinstance(decode(b'{"type":"ping","x":[' + b"[]," * 500 + b"{}]}"), m.Ping)
    assert isinstance(decode(b'{"type":"ping","x":"' + b'[{\\"' * 500 + b'"}'), m.Ping)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"nope",
        b"1",
        b'[{"type":"ping"}]',
        b'{"type":"ping"',
        b'{"type":"ping"}}',
        b'{"type":"ping",}',
        b"{'type':'ping'}",
        b'\xef\xbb\xbf{"type":"ping"}',
        b'{"type":"ping","x":NaN}',
        b'{"type":"ping","x":-Infinity}',
        b'{"type":"ping","x":01}',
        b'{"type":"ping","x":"\x01"}',
        b'{"type":"ping","x":"\\q"}',
    ],
)
def test_what_is_no_json_object(text: bytes) -> None:
    """[ENV-06]."""
    with pytest.raises(ProtocolViolation) as caught:
        decode(text)
    assert caught.value.code is CloseCode.BAD_FRAME


@pytest.mark.parametrize(
    "kind", ["null", "5", '""', '"a-b"', '"A"', '"1a"', '"a."', '".a"', '"a\\n"', '"%s"' % ("a" * 65)]
)
def test_what_is_no_type(kind: str) -> None:
    """[ENV-11]."""
    with pytest.raises(ProtocolViolation) as caught:
        decode(f'{{"type":{kind}}}'.encode())
    assert caught.value.code is CloseCode.BAD_SCHEMA


def test_a_good_frame_that_is_none_of_ours_is_a_suspect() -> None:
    frame = decode(b'{"type":"x.y","id":1}')
    assert isinstance(frame, Suspect)
    assert (frame.type, frame.fields) == ("x.y", {"type": "x.y", "id": 1})


def test_a_number_of_thousands_of_digits_does_not_break_the_strict_path() -> None:
    frame = decode(b'{"type":"x.y","id":1,"data":%s}' % (b"9" * 5000))
    assert isinstance(frame, Suspect)


@given(JSON)
def test_data_is_the_very_bytes_that_came(value: object) -> None:
    """[ENV-28]: whatever it is, spelled however."""
    text = json.dumps(value, indent=1)
    frame = decode(f'{{"type":"request","id":1,"method":"m","data":{text}}}'.encode())
    assert isinstance(frame, m.Request)
    assert bytes(frame.data) == text.encode()  # type: ignore[arg-type]  # data is there


def test_a_lone_surrogate_is_the_exchange_s_fault() -> None:
    """[ENV-30]."""
    assert isinstance(decode(b'{"type":"request","id":1,"method":"m","data":"\\ud800"}'), Suspect)


@pytest.mark.parametrize(
    ("value", "good"),
    [
        (1, True),
        (2**53 - 1, True),
        (0, False),
        (2**53, False),
        (True, False),
        (1.0, False),
        ("1", False),
        (None, False),
    ],
)
def test_integers_of_the_envelope(value: object, good: bool) -> None:
    """[ENV-13] [ENV-16]."""
    assert is_integer(value) is good


@pytest.mark.parametrize(
    ("data", "good"),
    [
        (b'""', True),
        (b'"aGk="', True),
        (b'"aGkh"', True),
        (b'"a\\/+/"', True),
        (b'"aGk"', False),
        (b'"aGk=\\n"', False),
        (b'"a-_="', False),
        (b"5", False),
        (b'["aGk="]', False),
        (b'{"a":"\\n"}', False),
    ],
)
def test_base64_is_strict(data: bytes, good: bool) -> None:
    """[ENV-31]."""
    assert is_base64(data) is good


def test_what_handlers_return() -> None:
    assert encode_data({"a": [1, None]}) == Payload(b'{"a":[1,null]}')
    assert encode_data(b"hi") == Payload(b'"aGk="', True)
    payload = Payload(b"1e400")
    assert encode_data(payload) is payload
    with pytest.raises(TypeError):
        encode_data(float("nan"))
    for unfit in (object(), 1 + 2j, {1: {2: object()}}):
        with pytest.raises(TypeError):
            encode_data(unfit)


def test_data_that_python_cannot_hold_is_a_bad_request() -> None:
    with pytest.raises(ExchangeError) as caught:
        decode_data(b"1e400")
    assert caught.value.code == "bad_request"


def test_frames_that_are_put_together() -> None:
    assert encode_result(5, None) == b'{"type":"result","id":5}'
    assert (
        encode_result(5, Payload(b'"aGk="', True)) == b'{"type":"result","id":5,"enc":"base64","data":"aGk="}'
    )
    error = ExchangeError("x.private", "é", retry_ms=5, data={"a": 1}, ref="r")
    assert json.loads(encode_error(5, error)) == {
        "type": "error",
        "id": 5,
        "error": {"code": "x.private", "message": "é", "retry_ms": 5, "ref": "r", "data": {"a": 1}},
    }
