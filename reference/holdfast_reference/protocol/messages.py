"""The frames a client may send, one msgspec Struct per type, and the type table of version 1.

Whatever fails to decode into one of these goes to the strict path of `codec.py`, which alone decides the
code. Bounds that count bytes, not characters, are checked where the name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from holdfast_reference.protocol.limits import (
    MAX_CURSOR,
    MAX_DEDUPE,
    MAX_INTEGER,
    MAX_NAME,
    MAX_SESSION,
    MIN_FRAME,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FIELD_PROFILES",
    "TYPES",
    "UNSET",
    "Ack",
    "Auth",
    "Cancel",
    "Hello",
    "History",
    "Message",
    "OptionalRaw",
    "Payload",
    "Ping",
    "Pong",
    "Publish",
    "Request",
    "Resume",
    "Subscribe",
    "TypeRow",
]


class Payload(NamedTuple):
    """An opaque JSON value as it stood on the wire; `base64` when it is a string of base64 (`enc`)."""

    json: bytes
    base64: bool = False


ExchangeId = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Amount = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Cursor = Annotated[str, Meta(min_length=1, max_length=MAX_CURSOR)]
Milliseconds = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Tag = Annotated[str, Meta(max_length=64)]
MetaField = dict[str, Raw] | UnsetType
Encoding = Literal["base64"] | UnsetType
OptionalRaw = Raw | UnsetType


class HelloAuth(Struct, frozen=True, gc=False):
    token: str
    scheme: str = "bearer"


class Software(Struct, frozen=True, gc=False):
    name: str | UnsetType = UNSET
    version: str | UnsetType = UNSET


class HelloLimits(Struct, frozen=True, gc=False):
    max_frame: Annotated[int, Meta(ge=MIN_FRAME, le=MAX_INTEGER)] | UnsetType = UNSET
    window: OptionalRaw = UNSET  # an `Amount`, if profile ack is negotiated


class Resume(Struct, frozen=True, gc=False):
    """Which session goes on, and from where; `attempt` says which of several wishes is the newest."""

    session: Annotated[str, Meta(min_length=1, max_length=MAX_SESSION)]
    seq: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
    attempt: Amount


class Hello(Struct, frozen=True, tag="hello", tag_field="type"):
    profiles: list[str]
    auth: HelloAuth | UnsetType = UNSET
    client: Software | UnsetType = UNSET
    limits: HelloLimits | UnsetType = UNSET
    resume: OptionalRaw = UNSET  # a `Resume`, if that profile is negotiated
    meta: MetaField = UNSET


class Cancel(Struct, frozen=True, gc=False, tag="cancel", tag_field="type"):
    of: ExchangeId
    meta: MetaField = UNSET


class Ack(Struct, frozen=True, gc=False, tag="ack", tag_field="type"):
    seq: Amount
    meta: MetaField = UNSET


class Auth(Struct, frozen=True, gc=False, tag="auth", tag_field="type"):
    id: ExchangeId
    token: str
    scheme: str = "bearer"
    meta: MetaField = UNSET


class Ping(Struct, frozen=True, gc=False, tag="ping", tag_field="type"):
    t: Tag | UnsetType = UNSET
    meta: MetaField = UNSET


class Pong(Struct, frozen=True, gc=False, tag="pong", tag_field="type"):
    t: Tag | UnsetType = UNSET
    meta: MetaField = UNSET


class Request(Struct, frozen=True, gc=False, tag="request", tag_field="type"):
    id: ExchangeId
    method: Name
    data: OptionalRaw = UNSET
    timeout_ms: Milliseconds | UnsetType = UNSET
    stream: bool | UnsetType = UNSET
    enc: Encoding = UNSET
    meta: MetaField = UNSET


class Subscribe(Struct, frozen=True, gc=False, tag="subscribe", tag_field="type"):
    id: ExchangeId
    channel: Name | UnsetType = UNSET
    pattern: Name | UnsetType = UNSET
    since: Cursor | UnsetType = UNSET
    last: Amount | UnsetType = UNSET
    recover: Literal["require"] | UnsetType = UNSET
    meta: MetaField = UNSET
    # Fields that other profiles own; any value is `unsupported` until those are negotiated.
    state: OptionalRaw = UNSET
    view: OptionalRaw = UNSET


class Publish(Struct, frozen=True, gc=False, tag="publish", tag_field="type"):
    id: ExchangeId
    channel: Name
    data: Raw
    echo: bool | UnsetType = UNSET
    enc: Encoding = UNSET
    dedupe: Annotated[str, Meta(min_length=1, max_length=MAX_DEDUPE)] | UnsetType = UNSET
    meta: MetaField = UNSET
    # As above.
    key: OptionalRaw = UNSET
    removed: OptionalRaw = UNSET


class History(Struct, frozen=True, gc=False, tag="history", tag_field="type"):
    id: ExchangeId
    channel: Name
    before: Cursor | UnsetType = UNSET
    after: Cursor | UnsetType = UNSET
    limit: Amount | UnsetType = UNSET
    meta: MetaField = UNSET


Message = Hello | Cancel | Ack | Auth | Ping | Pong | Request | Subscribe | Publish | History


class TypeRow(NamedTuple):
    """One row of the type table: who sends it, which profile owns it, whether a client's carries `id`."""

    client: bool
    server: bool
    profile: str
    exchange: bool = False


#: Every type of version 1, whatever is negotiated or implemented: steps 5 to 7 of reading need them all.
TYPES: Final[Mapping[str, TypeRow]] = {
    "hello": TypeRow(True, False, "core"),
    "welcome": TypeRow(False, True, "core"),
    "result": TypeRow(False, True, "core"),
    "error": TypeRow(False, True, "core"),
    "cancel": TypeRow(True, False, "core"),
    "auth": TypeRow(True, False, "core", exchange=True),
    "ping": TypeRow(True, True, "core"),
    "pong": TypeRow(True, True, "core"),
    "goaway": TypeRow(False, True, "core"),
    "request": TypeRow(True, False, "rpc", exchange=True),
    "chunk": TypeRow(False, True, "rpc"),
    "subscribe": TypeRow(True, False, "pubsub", exchange=True),
    "open": TypeRow(False, True, "pubsub"),
    "event": TypeRow(False, True, "pubsub"),
    "gap": TypeRow(False, True, "pubsub"),
    "publish": TypeRow(True, False, "pubsub", exchange=True),
    "ack": TypeRow(True, False, "ack"),
    "history": TypeRow(True, False, "history", exchange=True),
    "synced": TypeRow(False, True, "state"),
    "present": TypeRow(True, False, "presence", exchange=True),
}

#: Fields that a profile adds to another profile's type: without it they are `unsupported`, never ignored.
FIELD_PROFILES: Final[Mapping[str, Mapping[str, str]]] = {
    "subscribe": {
        "pattern": "pattern",
        "since": "history",
        "last": "history",
        "recover": "history",
        "state": "state",
        "view": "presence",
    },
    "publish": {"dedupe": "history", "key": "state", "removed": "state"},
}
