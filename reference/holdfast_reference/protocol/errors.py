"""What can go wrong, by whom, and which code says so.

Two families: an `ExchangeError` costs one exchange, a `ProtocolViolation` costs the connection.
Both are raised where the fault is seen and turned into a frame or a close in one place (`connection.py`).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CLOSE_REASONS",
    "FINAL",
    "RETRYABLE",
    "CloseCode",
    "ErrorCode",
    "ExchangeError",
    "ProtocolViolation",
]


class ErrorCode(StrEnum):
    """Codes of `error` frames that a server sends; private ones contain a dot and are plain strings."""

    BAD_REQUEST = "bad_request"
    UNSUPPORTED = "unsupported"
    NOT_FOUND = "not_found"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    PRINCIPAL_MISMATCH = "principal_mismatch"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    LIMIT_EXCEEDED = "limit_exceeded"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"
    INTERNAL = "internal"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    UNRECOVERABLE = "unrecoverable"
    BAD_CURSOR = "bad_cursor"
    APP = "app"


#: These always carry `retry_ms`: the same frame may succeed later, unchanged.
RETRYABLE: Final = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE, ErrorCode.DRAINING})

#: These never carry it: the same frame fails again.
FINAL: Final = frozenset(
    {
        ErrorCode.BAD_REQUEST,
        ErrorCode.UNSUPPORTED,
        ErrorCode.NOT_FOUND,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.PRINCIPAL_MISMATCH,
        ErrorCode.CONFLICT,
        ErrorCode.TOO_LARGE,
        ErrorCode.UNRECOVERABLE,
        ErrorCode.BAD_CURSOR,
    }
)

_CODES: Final = frozenset(ErrorCode)


class CloseCode(IntEnum):
    """Close codes that this server has a reason of its own to send."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_PAYLOAD = 1007
    MESSAGE_TOO_BIG = 1009
    TRY_AGAIN_LATER = 1013
    BAD_FRAME = 4001
    UNEXPECTED_FRAME = 4002
    BAD_ID = 4003
    BAD_ACK = 4004
    BAD_SCHEMA = 4005
    SUPERSEDED = 4008
    TOKEN_EXPIRED = 4100
    UNAUTHENTICATED = 4101
    FORBIDDEN = 4102
    GOING_AWAY = 4200
    INTERNAL = 4300
    SLOW_CONSUMER = 4301
    RATE_LIMITED = 4302
    HELLO_TIMEOUT = 4303
    HEARTBEAT_TIMEOUT = 4304


#: The reason that goes with each code that a server may send.
CLOSE_REASONS: Final[Mapping[int, str]] = {
    **{code.value: code.name.lower() for code in CloseCode},
    1001: "going_away",
    1008: "policy_violation",
    1010: "mandatory_extension",
    1011: "internal_error",
    1012: "service_restart",
    1014: "bad_gateway",
    4000: "protocol_error",
    4103: "revoked",
}


class ProtocolViolation(Exception):
    """The peer broke a rule that costs the connection.

    Args:
        code: the close code to send.
        detail: for the log, never on the wire.
    """

    def __init__(self, code: CloseCode, detail: str) -> None:
        super().__init__(f"{code.value} {CLOSE_REASONS[code]}: {detail}")
        self.code = code
        self.detail = detail


class ExchangeError(Exception):
    """One exchange ends with `error`; application handlers raise it too.

    Args:
        code: an `ErrorCode`, or a private code with a dot.
        message: for humans; never parsed.
        retry_ms: milliseconds after which the same frame may succeed unchanged, 0 for "use your own backoff",
            None when repeating does not help. Codes that must have it get 0, codes that must not lose it.
        data: JSON value for the application, or None for none.
        ref: id under which the server's log tells more, or None.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_ms: int | None = None,
        data: object = None,
        ref: str | None = None,
    ) -> None:
        if code not in _CODES and "." not in code:
            raise ValueError(f"{code!r} is no error code, and private ones contain a dot")
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        if code in RETRYABLE:
            retry_ms = retry_ms or 0
        elif code in FINAL:
            retry_ms = None
        self.retry_ms = retry_ms
        self.data = data
        self.ref = ref
