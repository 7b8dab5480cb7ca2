"""What an application's handler is and what it sees of a request.

Three shapes, told apart once, when the handler is registered: a plain function answers within the read and
must not block; an `async def` gets a task of its own; an async generator streams, one chunk per value.
"""

from __future__ import annotations

import base64
import inspect
from typing import TYPE_CHECKING, Protocol

from holdfast_reference.protocol.codec import decode_data, encode_data
from holdfast_reference.protocol.messages import Payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Call as CallEffect
    from holdfast_reference.protocol.errors import ExchangeError

__all__ = ["Call", "ConnectionControl", "Method"]


class Method:
    """A registered handler.

    What it returns is the `data` of the result: a JSON value, bytes, a `Payload`, or None for no `data`.
    """

    __slots__ = ("function", "inline", "streams")

    def __init__(self, function: Callable[[Call], object]) -> None:
        self.function = function
        self.streams = inspect.isasyncgenfunction(function)
        self.inline = not self.streams and not inspect.iscoroutinefunction(function)


class ConnectionControl(Protocol):
    """What a handler may do to the session that its request came from, and to the connection it has now.

    What concerns the connection alone (`close`, `abort`, `expire`, `drain`) does nothing while there is none.
    """

    @property
    def conn(self) -> str:
        """The connection's name in logs, and in `welcome`; that of the first one while there is none."""
        ...

    @property
    def principal(self) -> str:
        """Whom it belongs to."""
        ...

    def answer(self, id: int, payload: Payload | None) -> None:
        """End a request with `result`; nothing happens when it has ended."""

    def refuse(self, id: int, error: ExchangeError) -> None:
        """End a request with `error`; nothing happens when it has ended."""

    async def send_chunk(self, id: int, payload: Payload) -> bool:
        """Send a part of an answer once the one before has been written; whether the request still runs."""
        ...

    def close(self, code: int) -> None:
        """Write what is queued, then close with this code."""

    def abort(self) -> None:
        """End the TCP connection without a close frame."""

    def expire(self) -> None:
        """Let the identity of the session expire now."""

    def drain(self, deadline_ms: int) -> None:
        """Send this client away."""

    def forget(self) -> None:
        """Make the session unknown to later resumes."""


class Call:
    """One request, as its handler sees it."""

    __slots__ = ("_effect", "connection")

    def __init__(self, connection: ConnectionControl, effect: CallEffect) -> None:
        self.connection = connection
        self._effect = effect

    @property
    def method(self) -> str:
        """Which method was called."""
        return self._effect.method

    @property
    def stream(self) -> bool:
        """Whether the client takes chunks."""
        return self._effect.stream

    @property
    def principal(self) -> str:
        """Who asks."""
        return self.connection.principal

    @property
    def data(self) -> object:
        """The arguments: a JSON value, bytes if they came as base64, None if there are none.

        Raises:
            ExchangeError: `bad_request`, Python cannot hold them; not to be caught.
        """
        data = self._effect.data
        if data is None:
            return None
        value = decode_data(data)
        return base64.b64decode(value) if self._effect.base64 and isinstance(value, str) else value

    @property
    def payload(self) -> Payload | None:
        """The arguments as they came, to be sent on as they are; None if there are none."""
        data = self._effect.data
        return None if data is None else Payload(data, self._effect.base64)

    async def chunk(self, value: object) -> bool:
        """Send a part of the answer, once the one before has been written.

        Returns:
            whether the request is still running.
        """
        return await self.connection.send_chunk(self._effect.id, encode_data(value))

    def reply(self, value: object = None) -> None:
        """End the request before the handler ends; what the handler returns later is ignored."""
        self.connection.answer(self._effect.id, None if value is None else encode_data(value))

    def fail(self, error: ExchangeError) -> None:
        """End the request with an error before the handler ends."""
        self.connection.refuse(self._effect.id, error)
