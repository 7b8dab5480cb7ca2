"""Whether a frame is good: that part of the reading order which needs only the frame and the profiles.

What has to do with the session (ids, rate, slots, permissions) is checked in `connection.py`, around this.

Spec: 02-envelope [ENV-05] [ENV-11] to [ENV-25] [ENV-31], 10-versioning [VER-02] to [VER-06].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.codec import Suspect, is_base64, is_integer
from holdfast_reference.protocol.effects import NOWHERE, Query, Start
from holdfast_reference.protocol.errors import CloseCode, ErrorCode, ExchangeError, ProtocolViolation
from holdfast_reference.protocol.limits import MAX_CURSOR, MAX_DEDUPE, MAX_SESSION, MAX_TAG
from holdfast_reference.protocol.messages import FIELD_PROFILES, TYPES, UNSET, Payload
from holdfast_reference.protocol.names import Pattern, fits

if TYPE_CHECKING:
    from holdfast_reference.protocol import messages

__all__ = [
    "check_history",
    "check_ping",
    "check_publish",
    "check_request",
    "check_resume",
    "check_subscribe",
    "check_suspect",
    "is_ignored",
    "starts_exchange",
    "suspect_id",
    "suspect_of",
    "suspect_seq",
]


def check_request(message: messages.Request, profiles: frozenset[str]) -> None:
    """Check what msgspec could not.

    Raises:
        ExchangeError: `unsupported` or `bad_request`.
    """
    if "rpc" not in profiles:
        raise ExchangeError(ErrorCode.UNSUPPORTED, "needs profile rpc")
    if message.stream is False:
        raise ExchangeError(ErrorCode.BAD_REQUEST, "stream has no other value than true")
    if not message.method.isascii():
        _check_name(message.method)
    if message.enc is not UNSET:
        _check_base64(message.data)


def check_publish(message: messages.Publish, profiles: frozenset[str]) -> Payload:
    """The payload of a good publish.

    Raises:
        ExchangeError: `unsupported` or `bad_request`.
    """
    _check_profile("pubsub", profiles)
    _check_fields("publish", message, profiles)
    if message.echo is True:
        raise ExchangeError(ErrorCode.BAD_REQUEST, "echo has no other value than false")
    _check_name(message.channel)
    if message.dedupe is not UNSET and not fits(message.dedupe, MAX_DEDUPE):
        raise ExchangeError(ErrorCode.BAD_REQUEST, "dedupe is too long")
    base64 = message.enc is not UNSET
    if base64:
        _check_base64(message.data)
    return Payload(bytes(message.data), base64)


def check_subscribe(message: messages.Subscribe, profiles: frozenset[str]) -> tuple[str, bool, Start]:
    """The name that a good subscribe gives, whether it is a pattern, and where its events begin.

    Raises:
        ExchangeError: `unsupported` or `bad_request`.

    Spec: [SUB-19] [HIS-16] [HIS-17].
    """
    _check_profile("pubsub", profiles)
    _check_fields("subscribe", message, profiles)
    channel, pattern = message.channel, message.pattern
    start = NOWHERE
    if message.since is not UNSET or message.last is not UNSET or message.recover is not UNSET:
        start = _start_of(message)
    if channel is not UNSET and pattern is UNSET:
        _check_name(channel)
        return channel, False, start
    if pattern is UNSET or channel is not UNSET:
        raise ExchangeError(ErrorCode.BAD_REQUEST, "exactly one of channel and pattern")
    _check_name(pattern)
    try:
        Pattern(pattern)
    except ValueError as error:
        raise ExchangeError(ErrorCode.BAD_REQUEST, str(error)) from None
    return pattern, True, start


def _start_of(message: messages.Subscribe) -> Start:
    since = None if message.since is UNSET else message.since
    last = None if message.last is UNSET else message.last
    if message.pattern is not UNSET and (since is not None or last is not None):
        raise ExchangeError(ErrorCode.UNSUPPORTED, "since and last go with a channel")
    if since is not None and last is not None:
        raise ExchangeError(ErrorCode.BAD_REQUEST, "at most one of since and last")
    if since is None and message.recover is not UNSET:
        raise ExchangeError(ErrorCode.BAD_REQUEST, "recover goes with since")
    _check_cursor(since)
    return Start(since, last, message.recover is not UNSET)


def check_history(message: messages.History, profiles: frozenset[str]) -> Query:
    """Which page a good history asks for.

    Raises:
        ExchangeError: `unsupported` or `bad_request`.
    """
    _check_profile("history", profiles)
    _check_name(message.channel)
    before = None if message.before is UNSET else message.before
    after = None if message.after is UNSET else message.after
    if before is not None and after is not None:
        raise ExchangeError(ErrorCode.BAD_REQUEST, "at most one of before and after")
    _check_cursor(before)
    _check_cursor(after)
    return Query(before, after, None if message.limit is UNSET else message.limit)


def check_ping(message: messages.Ping | messages.Pong) -> None:
    """Check what msgspec could not.

    Raises:
        ProtocolViolation: 4005.
    """
    if message.t is not UNSET and not fits(message.t, MAX_TAG):
        raise ProtocolViolation(CloseCode.BAD_SCHEMA, "t is too long")


def check_resume(wanted: messages.Resume) -> messages.Resume:
    """Check what msgspec could not.

    Raises:
        ProtocolViolation: 4005.
    """
    if not fits(wanted.session, MAX_SESSION):
        raise ProtocolViolation(CloseCode.BAD_SCHEMA, "resume.session is too long")
    return wanted


def is_ignored(frame: Suspect, profiles: frozenset[str]) -> bool:
    """An `ack` without its profile is not even looked at. Spec: [VER-06]."""
    return frame.type == "ack" and "ack" not in profiles


def starts_exchange(frame: Suspect) -> bool:
    """Whether a frame starts an exchange: its type says so, or is unknown and it has an `id`."""
    row = TYPES.get(frame.type)
    return row.exchange if row is not None else "id" in frame.fields


def suspect_id(frame: Suspect) -> int:
    """Step 6 for a frame that starts an exchange.

    Raises:
        ProtocolViolation: 4005, its `id` is not one.
    """
    return _integer(frame, "id")


def suspect_of(frame: Suspect) -> int:
    """Step 6 for a `cancel`.

    Raises:
        ProtocolViolation: 4005, its `of` is not an id.
    """
    return _integer(frame, "of")


def suspect_seq(frame: Suspect) -> int:
    """Step 6 for an `ack`.

    Raises:
        ProtocolViolation: 4005, its `seq` is not one.
    """
    return _integer(frame, "seq")


def check_suspect(frame: Suspect, profiles: frozenset[str]) -> ExchangeError:
    """Step 8, as far as it concerns the frame itself, for one that is none of our messages: what is wrong."""
    row = TYPES.get(frame.type)
    if row is None:
        return ExchangeError(ErrorCode.UNSUPPORTED, "unknown type")
    needed = [row.profile]
    needed += (
        profile for field, profile in FIELD_PROFILES.get(frame.type, {}).items() if field in frame.fields
    )
    try:
        for profile in needed:
            _check_profile(profile, profiles)
    except ExchangeError as error:
        return error
    if (
        frame.type == "subscribe"
        and "pattern" in frame.fields
        and not frame.fields.keys().isdisjoint(_STARTS)
    ):
        return ExchangeError(ErrorCode.UNSUPPORTED, "since and last go with a channel")
    return ExchangeError(ErrorCode.BAD_REQUEST, frame.fault)


def _integer(frame: Suspect, name: str) -> int:
    value = frame.fields.get(name)
    if not isinstance(value, int) or not is_integer(value):
        raise ProtocolViolation(CloseCode.BAD_SCHEMA, f"{name} is {value!r:.40}")
    return value


def _check_profile(profile: str, profiles: frozenset[str]) -> None:
    if profile not in profiles and profile != "core":
        raise ExchangeError(ErrorCode.UNSUPPORTED, f"needs profile {profile}")


def _check_fields(
    kind: str, message: messages.Subscribe | messages.Publish, profiles: frozenset[str]
) -> None:
    for field, profile in FIELD_PROFILES[kind].items():
        if getattr(message, field) is not UNSET:
            _check_profile(profile, profiles)


def _check_name(name: str) -> None:
    if not fits(name):
        raise ExchangeError(ErrorCode.BAD_REQUEST, "a name is too long")


def _check_cursor(cursor: str | None) -> None:
    if cursor is not None and not fits(cursor, MAX_CURSOR):
        raise ExchangeError(ErrorCode.BAD_REQUEST, "a cursor is too long")


def _check_base64(data: messages.OptionalRaw) -> None:
    if data is UNSET or not is_base64(bytes(data)):
        raise ExchangeError(ErrorCode.BAD_REQUEST, "enc without data that is base64")


_STARTS: Final = frozenset({"since", "last"})
