"""What a frame of a client does to its session: the reading order from step 5 on.

Each frame is checked against the negotiated profiles, the ids, the rate, the slots and the permissions of the
session, and becomes effects or a refusal. Everything that is about the connection itself is left to the class
that builds on this one (`connection.py`).

Spec: 02-envelope [ENV-05], 04-requests, 05-subscriptions, 09-limits-timers, 12-history.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol import messages
from holdfast_reference.protocol.codec import Suspect, encode_error, encode_frame, encode_result
from holdfast_reference.protocol.correlation import Exchange, Pool
from holdfast_reference.protocol.effects import (
    NOTHING,
    Authenticate,
    Call,
    History,
    Publish,
    Stop,
    Subscribe,
)
from holdfast_reference.protocol.errors import CloseCode, ErrorCode, ExchangeError, ProtocolViolation
from holdfast_reference.protocol.events import Event, event_head
from holdfast_reference.protocol.grants import Credentials
from holdfast_reference.protocol.logs import Dedupe
from holdfast_reference.protocol.messages import TYPES, UNSET
from holdfast_reference.protocol.reading import (
    check_history,
    check_ping,
    check_publish,
    check_request,
    check_subscribe,
    check_suspect,
    is_ignored,
    starts_exchange,
    suspect_id,
    suspect_of,
    suspect_seq,
)
from holdfast_reference.protocol.states import Input, Phase, Stage, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Action
    from holdfast_reference.protocol.outgoing import Outgoing
    from holdfast_reference.protocol.session import Session

__all__ = ["READERS", "Intake"]

# Looked up once: a member of an enumeration costs as much as three names, and these are met in every frame.
_DRAINING: Final = Phase.DRAINING
_CALLS: Final = Pool.CALLS
_PONG: Final = b'{"type":"pong"}'


class Intake(ABC):
    """The reading half of a connection.

    Attributes:
        phase: of the connection.
        profiles: those in force.
        session: what the connection carries.
    """

    __slots__ = ("_outgoing", "phase", "profiles", "session")

    phase: Phase
    profiles: frozenset[str]
    session: Session
    _outgoing: Outgoing  # of the session, or what a connection that has lost it may still write

    @abstractmethod
    def close(self, code: int, detail: str = "", input: Input = Input.CLOSE) -> Effects:
        """Close the connection."""

    def _read_again(self, message: messages.Hello, now: float) -> Effects:
        return self.close(CloseCode.UNEXPECTED_FRAME, "a second hello", Input.HELLO_AGAIN)

    def _read_suspect(self, frame: Suspect, now: float) -> Effects:
        """Steps 5 to 9 for a frame that is none of our messages."""
        row = TYPES.get(frame.type)
        if row is not None and not row.client:
            return self.close(
                CloseCode.UNEXPECTED_FRAME, f"{frame.type} from a client", Input.WRONG_DIRECTION
            )
        if frame.type == "hello":
            return self.close(CloseCode.UNEXPECTED_FRAME, "a second hello", Input.HELLO_AGAIN)
        if is_ignored(frame, self.profiles):
            return NOTHING
        if starts_exchange(frame):
            self.session.exchanges.consume(suspect_id(frame))
            if frame.type == "auth":
                self._check_auth_slot()
            else:
                self._charge(now)
            raise check_suspect(frame, self.profiles)
        if frame.type == "cancel":
            self._check_of(suspect_of(frame))
        elif frame.type == "ack":
            self._outgoing.check_ack(suspect_seq(frame))
        if row is not None:
            raise ProtocolViolation(CloseCode.BAD_SCHEMA, frame.fault)
        self._charge_or_close(now)
        return NOTHING

    def _read_request(self, message: messages.Request, now: float) -> Effects:
        id, method, timeout_ms = message.id, message.method, message.timeout_ms
        stream = message.stream is True
        self.session.exchanges.consume(id)
        wait_ms = self._charge(now)
        check_request(message, self.profiles)
        self._admit(_CALLS, wait_ms)
        self._authorize("call", method)
        deadline = None if timeout_ms is UNSET else now + timeout_ms / 1000
        self.session.exchanges.start(id, Exchange(_CALLS, method, stream), deadline)
        data = None if message.data is UNSET else bytes(message.data)
        return [Call(id, method, data, message.enc is not UNSET, stream)]

    def _read_publish(self, message: messages.Publish, now: float) -> Effects:
        id = message.id
        self.session.exchanges.consume(id)
        wait_ms = self._charge(now)
        payload = check_publish(message, self.profiles)
        self._admit(_CALLS, wait_ms)
        self._authorize("publish", message.channel)
        session = self.session
        event = Event(message.channel, payload, session.origin if message.echo is False else "")
        if event.largest > session.limits.max_frame:
            raise ExchangeError(ErrorCode.TOO_LARGE, "the event would not fit into max_frame")
        session.exchanges.start(id, Exchange(_CALLS, message.channel))
        session.publishing[id] = None
        if message.dedupe is UNSET:
            return [Publish(id, event)]
        assert session.grant is not None
        return [Publish(id, event, Dedupe(session.grant.principal, message.dedupe, session.limits.dedupe_ms))]

    def _read_subscribe(self, message: messages.Subscribe, now: float) -> Effects:
        id = message.id
        self.session.exchanges.consume(id)
        wait_ms = self._charge(now)
        name, pattern, start = check_subscribe(message, self.profiles)
        self._admit(Pool.SUBSCRIPTIONS, wait_ms)
        # A pattern is never forbidden as a whole: what the principal may not see is filtered. [SUB-25]
        if not pattern:
            self._authorize("subscribe", name)
        self.session.exchanges.start(
            id, Exchange(Pool.SUBSCRIPTIONS, name, pattern=pattern, head=event_head(id))
        )
        return [Subscribe(id, name, pattern, start)]

    def _read_history(self, message: messages.History, now: float) -> Effects:
        id, channel = message.id, message.channel
        self.session.exchanges.consume(id)
        wait_ms = self._charge(now)
        query = check_history(message, self.profiles)
        self._admit(_CALLS, wait_ms)
        self._authorize("subscribe", channel)
        self.session.exchanges.start(id, Exchange(_CALLS, channel))
        return [History(id, channel, query)]

    def _read_auth(self, message: messages.Auth, now: float) -> Effects:
        self.session.exchanges.consume(message.id)
        self._check_auth_slot()
        self.session.exchanges.start(message.id, Exchange(Pool.AUTH, "auth"))
        return [Authenticate(message.id, Credentials(message.scheme, message.token))]

    def _read_cancel(self, message: messages.Cancel, now: float) -> Effects:
        id = message.of
        self._check_of(id)
        self._charge_or_close(now)
        exchange = self.session.exchanges.running.get(id)
        if exchange is None or exchange.stage is Stage.CANCELLING:
            return NOTHING
        exchange.step(Step.CANCEL)
        if exchange.pool is Pool.AUTH:
            return NOTHING  # it ends with its real outcome, which is on its way
        if exchange.pool is Pool.SUBSCRIPTIONS:
            self.session.finish(id, encode_result(id, None))
        else:
            self.session.finish(
                id, encode_error(id, ExchangeError(ErrorCode.CANCELLED, "cancelled by the client"))
            )
        return [Stop(id)]

    def _read_ack(self, message: messages.Ack, now: float) -> Effects:
        # A frame without its profile is not even looked at. Spec: [VER-06].
        if "ack" in self.profiles:
            self._outgoing.ack(message.seq)
        return NOTHING

    def _read_ping(self, message: messages.Ping, now: float) -> Effects:
        check_ping(message)
        self._charge_or_close(now)
        text = _PONG if message.t is UNSET else encode_frame({"type": "pong", "t": message.t})
        if "fence" in self.profiles:
            self.session.fence(text)
        else:
            self._outgoing.urgent(text)
        return NOTHING

    def _read_pong(self, message: messages.Pong, now: float) -> Effects:
        check_ping(message)
        return NOTHING

    # What a frame is checked against in the session.

    def _check_of(self, of: int) -> None:
        if of > self.session.exchanges.last_id:
            raise ProtocolViolation(CloseCode.BAD_ID, f"of {of} after {self.session.exchanges.last_id}")

    def _check_auth_slot(self) -> None:
        if not self.session.exchanges.is_free(Pool.AUTH, self._outgoing):
            raise ExchangeError(ErrorCode.CONFLICT, "another auth is unfinished")

    def _charge(self, now: float) -> int | None:
        """Pay for a frame, whatever becomes of it; the milliseconds to wait when the bucket is empty."""
        bucket = self.session.bucket
        return None if bucket is None else bucket.take(now)

    def _charge_or_close(self, now: float) -> None:
        if self._charge(now) is not None:
            raise ProtocolViolation(CloseCode.RATE_LIMITED, "over the rate")

    def _admit(self, pool: Pool, wait_ms: int | None) -> None:
        if wait_ms is not None:
            raise ExchangeError(ErrorCode.RATE_LIMITED, "over the rate", retry_ms=wait_ms)
        if self.phase is _DRAINING:
            raise ExchangeError(ErrorCode.DRAINING, "this connection is going away")
        if not self.session.exchanges.is_free(pool, self._outgoing):
            raise ExchangeError(ErrorCode.LIMIT_EXCEEDED, "no slot is free")

    def _authorize(self, action: Action, name: str) -> None:
        if not self.session.may(action, name):
            raise ExchangeError(ErrorCode.FORBIDDEN, "not allowed")


#: What reads a frame, by what it was decoded to; all take the connection, the frame and the time.
READERS: Final[Mapping[type, Callable[..., Effects]]] = {
    messages.Hello: Intake._read_again,
    messages.Cancel: Intake._read_cancel,
    messages.Ack: Intake._read_ack,
    messages.Auth: Intake._read_auth,
    messages.Ping: Intake._read_ping,
    messages.Pong: Intake._read_pong,
    messages.Request: Intake._read_request,
    messages.Subscribe: Intake._read_subscribe,
    messages.Publish: Intake._read_publish,
    messages.History: Intake._read_history,
    Suspect: Intake._read_suspect,
}
