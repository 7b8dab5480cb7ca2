"""JSON text to and from what the client works with; the only file of the client that knows JSON.

Outgoing frames are checked here, so that a bad value costs its caller an exception and not the connection
that everybody shares. Incoming frames are read for the members that the client needs; whatever else they
hold is ignored.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, NoReturn, TypeVar

from holdfast_reference.client.errors import BadServerFrame, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_DEPTH = 64
MAX_FIRST_FRAME = 65536
"""Bytes of a `hello` that every server takes."""

T = TypeVar("T")


class Absent(Enum):
    """`data` that is not there, which is something else than `data` that is null."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the server says about the session.

    Attributes:
        conn: name of the connection, for logs.
        profiles: those negotiated, `core` not among them.
        limits: what is in force, as on the wire.
        interval_ms, timeout_ms: the heartbeat.
        principal: who we are to the server, None when it does not say.
        expires_in_ms: how long the credentials last from now on; None for ever.
        session: the name to resume it by, a secret; None without profile `resume`.
        resumed: whether it is the session that was asked for.
        last_id: the last id that the session asked for has accepted, or will ever; None when nobody can tell.
        refused: why it was not resumed, such as `expired`; None when it was, or was not asked for.
    """

    conn: str
    profiles: frozenset[str]
    limits: Mapping[str, object]
    interval_ms: int
    timeout_ms: int
    principal: str | None
    expires_in_ms: int | None
    session: str | None = None
    resumed: bool = False
    last_id: int | None = None
    refused: str | None = None

    @property
    def max_frame(self) -> int:
        """Bytes of the largest frame that the server takes."""
        return self._limit("max_frame")

    @property
    def dedupe_ms(self) -> int:
        """How long a `dedupe` is remembered; 0 without profile `history`."""
        return self._limit("dedupe_ms")

    def _limit(self, name: str) -> int:
        value = self.limits.get(name)
        return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server wants new work to go elsewhere after `after_ms`, and closes at `deadline_ms`."""

    after_ms: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The subscription is live.

    Attributes:
        cursor: where its events continue from; None on a channel without a log.
        recovered: whether nothing is missing since the cursor that was asked for; None when none was.
        reason: why it is not recovered.
    """

    cursor: str | None = None
    recovered: bool | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something was published. `channel` is always there for a pattern; bytes are `data` sent as bytes.

    `cursor` is the place just after it, None on a channel without a log.
    """

    data: object
    channel: str | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Events are missing here: `missed` of them, None when nobody counted.

    Reason `overflow` also stands for events that came and were not taken in time on this side. `cursor` is
    the place just after them, None on a channel without a log.
    """

    reason: str
    missed: int | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a streamed answer."""

    data: object


@dataclass(frozen=True, slots=True)
class Result:
    """The exchange went well."""

    data: object = ABSENT


@dataclass(frozen=True, slots=True)
class Ping:
    """The server asks for a `pong` with this `t`."""

    t: str | None


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to the `ping` with this `t`; `held` when events from before it are still to come."""

    t: str | None
    held: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """A type that this client does not know; its `seq` counts. Spec: 10-versioning [VER-09]."""

    seq: int | None = None


Part = Opened | Event | Gap | Chunk
Terminal = Result | RequestError


class Numbered(NamedTuple):
    """What the server says about exchange `id`; `seq` is None without profile `ack`."""

    seq: int | None
    id: int
    item: Part | Terminal


Incoming = Welcome | GoAway | Ping | Pong | Unknown | Numbered


def encode(frame: dict[str, object], data: object = ABSENT, *, max_frame: int) -> str:
    """One frame as text, with `data` last; bytes travel as base64.

    Raises:
        TypeError, ValueError: `data` is nothing that JSON can carry (NaN, a lone surrogate, keys that are not
            strings, an object of another kind) or is nested deeper than a frame may be.
        RequestError: `too_large` for the server.

    Spec: 02-envelope [ENV-01] [ENV-02] [ENV-03].
    """
    if isinstance(data, bytes):
        frame = {**frame, "enc": "base64", "data": b64encode(data).decode()}
    elif data is not ABSENT:
        _check(data, MAX_DEPTH - 1)
        frame = {**frame, "data": data}
    text = json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    size = len(text.encode())
    if size > max_frame:
        raise RequestError("too_large", f"the frame has {size} bytes, the server takes {max_frame}")
    return text


def encode_hello(
    profiles: Iterable[str], token: str | None, max_frame: int, resume: Mapping[str, object] | None
) -> str:
    """The first frame of a connection. Spec: [SES-01]."""
    frame: dict[str, object] = {
        "type": "hello",
        "profiles": list(profiles),
        "limits": {"max_frame": max_frame},
    }
    if token is not None:
        frame["auth"] = {"scheme": "bearer", "token": token}
    if resume is not None:
        frame["resume"] = resume
    return encode(frame, max_frame=MAX_FIRST_FRAME)


def encode_again(text: str, id: int, since: str | None) -> str:
    """A frame of `encode` as it is sent to another session.

    Args:
        since: where a subscription continues from; None for where it began.
    """
    frame = json.loads(text)
    frame["id"] = id
    if since is not None:
        frame.pop("last", None)
        frame["since"] = since
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))


def _check(data: object, levels: int) -> None:
    """Refuse what json.dumps would change in silence, and what nests deeper than `levels`."""
    if not isinstance(data, dict | list | tuple):
        return
    if not levels:
        raise ValueError(f"data is nested deeper than {MAX_DEPTH - 1} levels")
    if isinstance(data, dict):
        for key in data:
            if not isinstance(key, str):  # 1 and "1" would become two members of one name
                raise TypeError(f"the keys of objects are strings, not {key!r}")
    for item in data.values() if isinstance(data, dict) else data:
        _check(item, levels - 1)


def decode(text: str) -> Incoming:
    """Read one frame of the server.

    Raises:
        BadServerFrame: it is none.
    """
    try:
        frame = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadServerFrame(f"not JSON: {error}") from error
    if not isinstance(frame, dict):
        raise BadServerFrame("not an object")
    kind = _take(frame, "type", str)
    if kind in _NUMBERED:
        return Numbered(_maybe(frame, "seq", int), _take(frame, "id", int), _NUMBERED[kind](frame))
    match kind:
        case "ping":
            return Ping(_maybe(frame, "t", str))
        case "pong":
            return Pong(_maybe(frame, "t", str), frame.get("held") is True)
        case "goaway":
            return GoAway(_take(frame, "after_ms", int), _take(frame, "deadline_ms", int))
        case "welcome":
            return _welcome(frame)
        case _:
            seq = frame.get("seq")
            return Unknown(seq if isinstance(seq, int) else None)


def _welcome(frame: Mapping[str, object]) -> Welcome:
    heartbeat = _take(frame, "heartbeat", dict)
    auth = _maybe(frame, "auth", dict) or {}
    limits = _take(frame, "limits", dict)
    _take(limits, "max_frame", int)
    refused = _maybe(frame, "resume_error", dict)
    return Welcome(
        conn=_take(frame, "conn", str),
        profiles=frozenset(str(profile) for profile in _take(frame, "profiles", list)),
        limits=limits,
        interval_ms=_take(heartbeat, "interval_ms", int),
        timeout_ms=_take(heartbeat, "timeout_ms", int),
        principal=_maybe(auth, "principal", str),
        expires_in_ms=_maybe(auth, "expires_in_ms", int),
        session=_maybe(frame, "session", str),
        resumed=frame.get("resumed") is True,
        last_id=_maybe(frame if refused is None else refused, "last_id", int),
        refused=None if refused is None else _take(refused, "code", str),
    )


def _opened(frame: Mapping[str, object]) -> Opened:
    recovered = frame.get("recovered")
    return Opened(
        _maybe(frame, "cursor", str),
        recovered if isinstance(recovered, bool) else None,
        _maybe(frame, "reason", str),
    )


def _error(error: Mapping[str, object]) -> RequestError:
    return RequestError(
        _take(error, "code", str),
        _take(error, "message", str),
        error.get("data"),
        _maybe(error, "retry_ms", int),
        _maybe(error, "ref", str) or "",
    )


_NUMBERED: Final[Mapping[str, Callable[[Mapping[str, object]], Part | Terminal]]] = {
    "event": lambda frame: Event(
        _data(frame, needed=True), _maybe(frame, "channel", str), _maybe(frame, "cursor", str)
    ),
    "result": lambda frame: Result(_data(frame)),
    "chunk": lambda frame: Chunk(_data(frame, needed=True)),
    "error": lambda frame: _error(_take(frame, "error", dict)),
    "open": _opened,
    "gap": lambda frame: Gap(
        _take(frame, "reason", str), _maybe(frame, "missed", int), _maybe(frame, "cursor", str)
    ),
}


def _data(frame: Mapping[str, object], needed: Literal[True, False] = False) -> object:
    data = frame.get("data", ABSENT)
    if needed and data is ABSENT:
        raise BadServerFrame("data is missing")
    if "enc" not in frame:
        return data
    if frame["enc"] != "base64" or not isinstance(data, str):
        raise BadServerFrame("enc is not base64 of a string")
    try:
        return b64decode(data, validate=True)
    except ValueError as error:
        raise BadServerFrame(f"data is not base64: {error}") from error


def _take(frame: Mapping[str, object], name: str, kind: type[T]) -> T:
    value = _maybe(frame, name, kind)
    if value is None:
        raise BadServerFrame(f"{name} is missing")
    return value


def _maybe(frame: Mapping[str, object], name: str, kind: type[T]) -> T | None:
    value = frame.get(name)
    if value is None and name not in frame:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadServerFrame(f"{name} is not {kind.__name__}: {value!r}"[:200])
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
