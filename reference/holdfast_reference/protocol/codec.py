"""Bytes to frames and back: the only file that knows JSON.

Reading is fast where a frame is good: msgspec decodes and validates in one pass, and `data` stays the bytes
it was. Whatever msgspec refuses goes to a slow strict path, which alone decides what is wrong: it either
raises the `ProtocolViolation` of steps 3 and 4 of the reading order, or hands a `Suspect` to the
connection, which knows the rest of the order. Writing puts frames together from bytes, for most carry
`data` that is bytes already.

Spec: 02-envelope [ENV-05] [ENV-06] [ENV-07] [ENV-08] [ENV-10] [ENV-11] [ENV-28].
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from holdfast_reference.protocol.errors import CloseCode, ExchangeError, ProtocolViolation
from holdfast_reference.protocol.limits import MAX_INTEGER, MAX_NESTING
from holdfast_reference.protocol.messages import Message, Payload

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Suspect",
    "channel_of",
    "decode",
    "decode_data",
    "decode_member",
    "encode_data",
    "encode_error",
    "encode_frame",
    "encode_result",
    "is_base64",
    "is_integer",
    "shorten_error",
    "tail",
]

T = TypeVar("T")

_DECODER: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)
_ENCODER: Final = msgspec.json.Encoder()
_ANY: Final = msgspec.json.Decoder()

_MAX_FAULT: Final = 60  # characters, so that a refusal stays within its 512 bytes however they are escaped
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
#: One that does not end matches too: searching on behind each of its quotes would take quadratic time.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_BASE64: Final = re.compile(rb'"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"')


class _Named(msgspec.Struct):
    channel: str


_CHANNEL: Final = msgspec.json.Decoder(_Named)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A frame of a good `type` that is none of our messages, or a broken one of them.

    Args:
        type: its well-formed `type`.
        fields: all its members.
        fault: what msgspec held against it, for humans; short, for it may quote the frame.
    """

    type: str
    fields: Mapping[str, object]
    fault: str


def decode(text: bytes) -> Message | Suspect:
    """Read one frame.

    Args:
        text: a whole text message, known to be UTF-8.
    Raises:
        ProtocolViolation: 4001 or 4005, as steps 3 and 4 of the reading order say.
    """
    # At most as many levels as opening brackets: the exact count is needed for bracket-rich frames only.
    if text.count(b"{") + text.count(b"[") > MAX_NESTING and _too_deep(text):
        raise ProtocolViolation(CloseCode.BAD_FRAME, "nested too deep")
    try:
        return _DECODER.decode(text)
    except msgspec.MsgspecError as error:
        return _decode_strictly(text, str(error))


def _too_deep(text: bytes) -> bool:
    # Each round takes the innermost levels away, so that a frame of n levels is empty after n rounds. What is
    # unbalanced is no JSON, and has the same close code.
    brackets = _STRING.sub(b"", text).translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(MAX_NESTING):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def _decode_strictly(text: bytes, fault: str) -> Message | Suspect:
    try:
        frame = json.loads(text.decode(), parse_constant=_refuse, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(CloseCode.BAD_FRAME, f"not JSON: {error}") from None
    if not isinstance(frame, dict):
        raise ProtocolViolation(CloseCode.BAD_FRAME, "not an object")
    kind = frame.get("type")
    if not isinstance(kind, str) or len(kind) > 64 or _TYPE.fullmatch(kind) is None:
        raise ProtocolViolation(CloseCode.BAD_SCHEMA, "bad type")
    try:
        # [ENV-10]: of two members of one name the last counts, also where the first one was the bad one.
        return _DECODER.decode(json.dumps(frame))
    except msgspec.MsgspecError:
        return Suspect(kind, frame, fault[:_MAX_FAULT])


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


def _parse_int(digits: str) -> int | float:
    # Python refuses to read integers of thousands of digits; nothing here needs more than 2**53 exactly.
    return int(digits) if len(digits) < 32 else float(digits)


def is_integer(value: object) -> bool:
    """Whether a member is an `id` or an `of` in range; `true` and `1.0` are not."""
    return type(value) is int and 1 <= value <= MAX_INTEGER


def channel_of(event: bytes) -> str:
    """The `channel` that an encoded event names."""
    return _CHANNEL.decode(event).channel


def decode_member(raw: msgspec.Raw, kind: type[T]) -> T:
    """A member of `hello` that only a negotiated profile gives a meaning to.

    Raises:
        ProtocolViolation: 4005.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise ProtocolViolation(CloseCode.BAD_SCHEMA, str(error)[:_MAX_FAULT]) from None


def is_base64(data: bytes) -> bool:
    """Whether a JSON value is a string of base64 with padding."""
    return _BASE64.fullmatch(data) is not None or (
        b"\\" in data
        and data[:1] == b'"'
        and _BASE64.fullmatch(_ENCODER.encode(_ANY.decode(data))) is not None
    )


def decode_data(data: bytes) -> object:
    """The Python value of a JSON value.

    Raises:
        ExchangeError: `bad_request`, when Python cannot hold it.
    """
    try:
        return _ANY.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ExchangeError("bad_request", f"data cannot be read: {error}") from None


def encode_data(value: object) -> Payload:
    """The payload of a Python value; bytes become base64, a payload stays what it is.

    Raises:
        TypeError: it has no JSON form; a float that is not finite has none.
    """
    if isinstance(value, Payload):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError("a float that is not finite has no JSON form")
    try:
        return Payload(_ENCODER.encode(value), isinstance(value, bytes | bytearray | memoryview))
    except (ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"no JSON form: {error}") from None


def tail(payload: Payload | None) -> bytes:
    """What follows the envelope's members: `enc` and `data`, and the closing brace."""
    if payload is None:
        return b"}"
    if payload.base64:
        return b',"enc":"base64","data":%b}' % payload.json
    return b',"data":%b}' % payload.json


def encode_frame(fields: Mapping[str, object]) -> bytes:
    """A frame without `data`, such as `welcome`."""
    return _ENCODER.encode(fields)


def encode_result(id: int, payload: Payload | None) -> bytes:
    if payload is not None and not payload.base64:
        return b'{"type":"result","id":%d,"data":%b}' % (id, payload.json)
    return b'{"type":"result","id":%d%b' % (id, tail(payload))


def encode_error(id: int, error: ExchangeError) -> bytes:
    """The terminal of an exchange that failed.

    Raises:
        TypeError: `error.data` has no JSON form.
    """
    body: dict[str, object] = {"code": error.code, "message": error.message}
    if error.retry_ms is not None:
        body["retry_ms"] = error.retry_ms
    if error.ref is not None:
        body["ref"] = error.ref
    if error.data is not None:
        body["data"] = msgspec.Raw(encode_data(error.data).json)
    return _ENCODER.encode({"type": "error", "id": id, "error": body})


def shorten_error(id: int, error: ExchangeError, size: int) -> bytes:
    """The same without `data`, and with as much of `message` as fits into `size` bytes. Spec: [DEL-19]."""
    keep = len(error.message)
    while True:
        short = ExchangeError(error.code, error.message[:keep], retry_ms=error.retry_ms, ref=error.ref)
        text = encode_error(id, short)
        if len(text) <= size or not keep:
            return text
        # A character takes at most 6 bytes in JSON, so this much has to go at least.
        keep = max(0, keep - max(1, (len(text) - size) // 6))
