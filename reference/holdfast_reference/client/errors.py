"""What can go wrong for a user of the client, each with what a program needs to know about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.client.reaction import reaction

if TYPE_CHECKING:
    from holdfast_reference.client.reaction import Reaction


class HoldfastError(Exception):
    """Base of every error that the client raises on its own account."""


class RequestError(HoldfastError):
    """One exchange ended with an `error`; the session lives on.

    Attributes:
        code: for programs, such as `forbidden`.
        message: for humans.
        data: details, None when there are none.
        retry_ms: the same exchange may succeed after so many milliseconds (0: when the caller thinks fit);
            None when trying again is no use.
        ref: where the server's log tells more; empty when it gave none.

    The client itself raises `unsupported` and `too_large` for what the server would not take, without
    sending it.
    """

    def __init__(
        self, code: str, message: str, data: object = None, retry_ms: int | None = None, ref: str = ""
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.data = data
        self.retry_ms = retry_ms
        self.ref = ref


class ConnectionFailed(HoldfastError):
    """There is no session: no connection, no WebSocket, or no `welcome` in time.

    Attributes:
        status: HTTP status with which the server refused the upgrade; None when it did not get as far.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class ConnectionClosed(HoldfastError):
    """The session is over; what is called now was not sent (`closed`).

    Attributes:
        code: close code, None when the connection ended without a close frame.
        reason: the text that came with it.
    """

    error = "closed"

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"{'no close frame' if code is None else code} {reason}".rstrip())
        self.code = code
        self.reason = reason

    @property
    def reaction(self) -> Reaction:
        """What to do next. Spec: 08-errors [ERR-09]."""
        return reaction(self.code)


class SessionLost(ConnectionClosed):
    """The session ended while this exchange was unfinished: it may have happened or not (`session_lost`)."""

    error = "session_lost"


class Lagged(HoldfastError):
    """A stream's chunks were taken too slowly: it was cancelled, and what came after the last one is lost."""


class BadServerFrame(HoldfastError):
    """The server sent what it must not; the connection is closed with 4501."""
