"""Mutants of spec/10-versioning.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol import connection as core
from holdfast_reference.protocol import greeting, intake, messages, reading
from holdfast_reference.protocol.codec import Suspect
from holdfast_reference.protocol.errors import CloseCode, ErrorCode, ExchangeError, ProtocolViolation
from holdfast_reference.protocol.messages import Ack
from holdfast_reference.protocol.outgoing import Outgoing

from mutants.harness import Patch, mutant
from mutants.tools import on_write

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from holdfast_reference.protocol.connection import Connection
    from holdfast_reference.protocol.effects import Effects


@mutant(
    "ver/unknown-member-refused",
    violates="VER-01",
    killed_by="ver/unpredictable-members",
    says="closed with 4005",
)
def _(patch: Patch) -> None:
    """A member that nobody knows closes the connection."""

    known = {name for row in messages.FIELD_PROFILES.values() for name in row}
    known |= {name for kind in intake.READERS for name in getattr(kind, "__struct_fields__", ())} | {
        "type",
        "meta",
    }

    def decode(original: Callable[[bytes], object], text: bytes) -> object:
        message = original(text)
        if json.loads(text).keys() - known:
            raise ProtocolViolation(CloseCode.BAD_SCHEMA, "unknown member")
        return message

    patch.wrap(core, "decode", decode)


@mutant(
    "ver/unknown-type-bad-request",
    violates="VER-02",
    killed_by=["ver/unpredictable-types", "negotiation/type-unknown", "negotiation/type-private"],
    says='got error "bad_request"',
)
def _(patch: Patch) -> None:
    """A frame of an unknown type is a bad request."""

    def check(
        original: Callable[[Suspect, frozenset[str]], ExchangeError], frame: Suspect, profiles: frozenset[str]
    ) -> ExchangeError:
        error = original(frame, profiles)
        unknown = frame.type not in messages.TYPES
        return ExchangeError(ErrorCode.BAD_REQUEST, error.message) if unknown else error

    patch.wrap(intake, "check_suspect", check)


@mutant(
    "ver/unknown-type-closes",
    violates="VER-03",
    killed_by=["negotiation/type-unknown-no-id", "negotiation/type-private-no-id"],
    says="closed with 4005",
)
def _(patch: Patch) -> None:
    """A frame of an unknown type without an id closes the connection."""

    def read(original: Callable[..., Effects], self: Connection, frame: Suspect, now: float) -> Effects:
        if frame.type not in messages.TYPES and "id" not in frame.fields:
            raise ProtocolViolation(CloseCode.BAD_SCHEMA, "unknown type")
        return original(self, frame, now)

    _read_suspect(patch, read)


@mutant(
    "ver/absent-profile-served",
    violates="VER-04",
    killed_by=["ver/profiles-of-each-connection", "negotiation/type-request", "negotiation/type-publish"],
    says='expected error "unsupported"',
)
def _(patch: Patch) -> None:
    """Requests and publishes work whatever was negotiated."""
    everything = frozenset(greeting.PROFILES)
    patch.wrap(intake, "check_request", lambda original, message, profiles: original(message, everything))
    patch.wrap(intake, "check_publish", lambda original, message, profiles: original(message, everything))


@mutant(
    "ver/member-of-absent-profile-ignored",
    violates="VER-05",
    killed_by=[
        "negotiation/member-subscribe-since",
        "negotiation/member-subscribe-last",
        "negotiation/member-publish-dedupe",
        "negotiation/member-subscribe-state",
    ],
    says='expected error "unsupported"',
)
def _(patch: Patch) -> None:
    """Members of profiles that were not negotiated are ignored, and their promises with them."""
    patch.set(reading, "_check_fields", lambda kind, message, profiles: None)


@mutant(
    "ver/ack-closes",
    violates="VER-06",
    killed_by=[
        "negotiation/ack-ignored-zero",
        "negotiation/ack-ignored-far",
        "negotiation/ack-ignored-string",
        "negotiation/ack-ignored-empty",
    ],
    says="closed with 4005",
)
def _(patch: Patch) -> None:
    """An ack without its profile is a broken frame."""
    patch.set(intake, "is_ignored", lambda frame, profiles: False)

    def ack(original: Callable[..., Effects], core: Connection, *args: object) -> Effects:
        return core.close(4005) if "ack" not in core.profiles else original(core, *args)

    read = cast("MutableMapping[type, Callable[..., Effects]]", intake.READERS)
    before = read[Ack]
    patch.item(read, Ack, lambda *args: ack(before, *args))


@mutant(
    "ver/seq-without-ack",
    violates="VER-07",
    killed_by=["ver/only-negotiated", "ver/nothing-of-absent-profiles"],
    says="seq",
)
def _(patch: Patch) -> None:
    """Results are numbered although nobody negotiated acks."""
    on_write(patch, lambda frame: {**frame, "seq": 1} if frame["type"] == "result" else None)


@mutant(
    "ver/private-name-without-dot",
    violates="VER-08",
    killed_by="ver/private-names",
    says="notice",
)
def _(patch: Patch) -> None:
    """The server sends a type of its own whose name looks like one of the protocol's."""

    def push(original: Callable[..., None], self: Outgoing, kind: int, id: int, text: bytes) -> None:
        original(self, kind, id, text)
        self.urgent(b'{"type":"notice","text":"hello"}')

    patch.wrap(Outgoing, "push", push)


def _read_suspect(patch: Patch, around: Callable[..., Effects]) -> None:
    original = intake.READERS[Suspect]

    def read(self: Connection, frame: Suspect, now: float) -> Effects:
        return around(original, self, frame, now)

    patch.item(intake.READERS, Suspect, read)  # type: ignore[arg-type]  # a Mapping by type, a dict in truth
