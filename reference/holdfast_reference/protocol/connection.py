"""One connection and its session, as a state machine without I/O.

`receive` applies a frame, `tick` applies time, the other commands apply what the application or the
operator decided. Each returns effects for the owner to carry out, in order; frames to write wait for `peek`
and `written`. The state is plain data: `copy` gives an independent twin, `key` a value that is equal for
equal states.

Only this file turns faults into frames and closes. What it refuses to know: bytes, sockets, clocks, who may
do what (it asks the grant), and who else is connected.

Spec: 02-envelope, 03-session, 04-requests.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final, Self

from holdfast_reference.protocol import messages
from holdfast_reference.protocol.codec import (
    Suspect,
    channel_of,
    decode,
    encode_error,
    encode_frame,
    encode_result,
    shorten_error,
    tail,
)
from holdfast_reference.protocol.correlation import Exchange, Exchanges, Pool
from holdfast_reference.protocol.effects import NOTHING, Authenticate, Call, Close, Publish, Stop, Subscribe
from holdfast_reference.protocol.errors import (
    CLOSE_REASONS,
    CloseCode,
    ErrorCode,
    ExchangeError,
    ProtocolViolation,
)
from holdfast_reference.protocol.events import Event, event_head
from holdfast_reference.protocol.grants import Credentials, Grant
from holdfast_reference.protocol.greeting import expiry, negotiate, welcome
from holdfast_reference.protocol.limits import FIRST_FRAME, Bucket
from holdfast_reference.protocol.messages import TYPES, UNSET, Payload
from holdfast_reference.protocol.outgoing import CHUNK, OPEN, Outgoing
from holdfast_reference.protocol.reading import (
    check_ping,
    check_publish,
    check_request,
    check_subscribe,
    check_suspect,
    is_ignored,
    starts_exchange,
    suspect_id,
    suspect_of,
)
from holdfast_reference.protocol.states import CONNECTION, Input, Phase, Stage, Step
from holdfast_reference.protocol.timers import NEVER, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from holdfast_reference.protocol.effects import Effect, Effects
    from holdfast_reference.protocol.grants import Action
    from holdfast_reference.protocol.greeting import Settings

__all__ = ["Connection"]


# Looked up once: a member of an enumeration costs as much as three names, and these are met in every frame.
_NEW: Final = Phase.NEW
_DRAINING: Final = Phase.DRAINING
_CLOSED: Final = Phase.CLOSED
_CALLS: Final = Pool.CALLS
_OPEN: Final = Stage.OPEN


class Connection:
    """The server's side of one connection, from the 101 response on.

    Args:
        settings: see there.
        conn: its name in logs, given to no other connection.
        now: monotonic seconds; never decreasing from call to call.
    """

    __slots__ = (
        "_bucket",
        "_clock",
        "_exchanges",
        "_greeting",
        "_limits",
        "_max_out",
        "_outgoing",
        "_settings",
        "conn",
        "grant",
        "phase",
        "profiles",
    )

    def __init__(self, settings: Settings, conn: str, now: float) -> None:
        self._settings = settings
        self.conn = conn
        self.phase = Phase.NEW
        self.profiles: frozenset[str] = frozenset()
        self.grant: Grant | None = None
        self._limits = settings.limits
        self._exchanges = Exchanges(settings.limits)
        self._outgoing = Outgoing(settings.limits)
        self._greeting = False  # hello was read, welcome is not queued yet
        self._max_out = settings.limits.max_frame
        self._bucket: Bucket | None = None
        self._clock = Clock(settings.timers, now)

    # What the owner asks.

    def may_read(self) -> bool:
        """Whether another frame may be applied now. Spec: [SES-08] [DEL-12] [DEL-14]."""
        return not (self._outgoing.full or self._greeting or self.phase is _CLOSED)

    @property
    def max_message(self) -> int:
        """Bytes of the largest message that may arrive now. Spec: [TRN-07] [TRN-09]."""
        return FIRST_FRAME if self.phase is Phase.NEW else self._limits.max_frame

    @property
    def pending(self) -> bool:
        """Whether `peek` has something to give."""
        return bool(self._outgoing)

    def peek(self, size: int) -> list[bytes]:
        """The next frames to write, about `size` bytes, at least one if any waits; then call `written`."""
        return self._outgoing.peek(size)

    def written(self, count: int, now: float) -> None:
        """The first `count` frames of the last `peek` were handed to the socket."""
        self._outgoing.written(count)
        self._clock.sent = now

    def is_running(self, id: int) -> bool:
        return id in self._exchanges.running

    def chunk_waits(self, id: int) -> bool:
        """Whether a chunk of this request is queued; the stream waits while it is. Spec: [DEL-09]."""
        return self._outgoing.holds(CHUNK, id)

    # Frames.

    def receive(self, text: bytes, now: float) -> Effects:
        """Apply one frame, faults included.

        Args:
            text: a whole text message, at most `max_message` bytes, known to be UTF-8.
            now: see the class.
        """
        if self.phase is _CLOSED:
            return NOTHING
        self._clock.received = now
        try:
            message = decode(text)
            if self.phase is _NEW:
                return self._read_first(message)
            return _READERS[type(message)](self, message, now)
        except ProtocolViolation as violation:
            return self.close(violation.code, violation.detail)
        except ExchangeError as error:
            # Step 8: the id was consumed just now, and no slot was taken.
            self._outgoing.refuse(self._exchanges.last_id, encode_error(self._exchanges.last_id, error))
            return NOTHING

    def _read_first(self, message: messages.Message | Suspect) -> Effects:
        if not isinstance(message, messages.Hello):
            if isinstance(message, Suspect) and message.type == "hello":
                raise ProtocolViolation(CloseCode.BAD_SCHEMA, message.fault)
            return self.close(CloseCode.UNEXPECTED_FRAME, "the first frame is not hello", Input.NOT_HELLO)
        self.profiles = negotiate(message.profiles, self._settings.profiles)
        if message.limits is not UNSET and message.limits.max_frame is not UNSET:
            self._max_out = min(self._max_out, message.limits.max_frame)
        self._greeting = True
        self._clock.hello_by = NEVER
        auth = message.auth
        return [Authenticate(0, None if auth is UNSET else Credentials(auth.scheme, auth.token))]

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
            self._exchanges.consume(suspect_id(frame))
            if frame.type == "auth":
                self._check_auth_slot()
            else:
                self._charge(now)
            raise check_suspect(frame, self.profiles)
        if frame.type == "cancel":
            self._check_of(suspect_of(frame))
        if row is not None:
            raise ProtocolViolation(CloseCode.BAD_SCHEMA, frame.fault)
        self._charge_or_close(now)
        return NOTHING

    def _read_request(self, message: messages.Request, now: float) -> Effects:
        id, method, timeout_ms = message.id, message.method, message.timeout_ms
        stream = message.stream is True
        self._exchanges.consume(id)
        wait_ms = self._charge(now)
        check_request(message, self.profiles)
        self._admit(_CALLS, wait_ms)
        self._authorize("call", method)
        deadline = None if timeout_ms is UNSET else now + timeout_ms / 1000
        self._exchanges.start(id, Exchange(_CALLS, method, stream), deadline)
        data = None if message.data is UNSET else bytes(message.data)
        return [Call(id, method, data, message.enc is not UNSET, stream)]

    def _read_publish(self, message: messages.Publish, now: float) -> Effects:
        id = message.id
        self._exchanges.consume(id)
        wait_ms = self._charge(now)
        payload = check_publish(message, self.profiles)
        self._admit(_CALLS, wait_ms)
        self._authorize("publish", message.channel)
        event = Event(message.channel, payload, self.conn if message.echo is False else "")
        if event.largest > self._limits.max_frame:
            raise ExchangeError(ErrorCode.TOO_LARGE, "the event would not fit into max_frame")
        self._exchanges.start(id, Exchange(_CALLS, message.channel))
        return [Publish(id, event)]

    def _read_subscribe(self, message: messages.Subscribe, now: float) -> Effects:
        id = message.id
        self._exchanges.consume(id)
        wait_ms = self._charge(now)
        name, pattern = check_subscribe(message, self.profiles)
        self._admit(Pool.SUBSCRIPTIONS, wait_ms)
        # A pattern is never forbidden as a whole: what the principal may not see is filtered. [SUB-25]
        if not pattern:
            self._authorize("subscribe", name)
        self._exchanges.start(id, Exchange(Pool.SUBSCRIPTIONS, name, pattern=pattern, head=event_head(id)))
        return [Subscribe(id, name, pattern)]

    def _read_auth(self, message: messages.Auth, now: float) -> Effects:
        self._exchanges.consume(message.id)
        self._check_auth_slot()
        self._exchanges.start(message.id, Exchange(Pool.AUTH, "auth"))
        return [Authenticate(message.id, Credentials(message.scheme, message.token))]

    def _read_cancel(self, message: messages.Cancel, now: float) -> Effects:
        id = message.of
        self._check_of(id)
        self._charge_or_close(now)
        exchange = self._exchanges.running.get(id)
        if exchange is None or exchange.stage is Stage.CANCELLING:
            return NOTHING
        exchange.step(Step.CANCEL)
        if exchange.pool is Pool.AUTH:
            return NOTHING  # it ends with its real outcome, which is on its way
        if exchange.pool is Pool.SUBSCRIPTIONS:
            self._end(id, encode_result(id, None))
        else:
            self._end(id, encode_error(id, ExchangeError(ErrorCode.CANCELLED, "cancelled by the client")))
        return [Stop(id)]

    def _read_ping(self, message: messages.Ping, now: float) -> Effects:
        check_ping(message)
        self._charge_or_close(now)
        text = _PONG if message.t is UNSET else encode_frame({"type": "pong", "t": message.t})
        if "fence" in self.profiles:
            self._outgoing.fence(text)
        else:
            self._outgoing.urgent(text)
        return NOTHING

    def _read_pong(self, message: messages.Pong, now: float) -> Effects:
        check_ping(message)
        return NOTHING

    # What a frame is checked against in the session.

    def _check_of(self, of: int) -> None:
        if of > self._exchanges.last_id:
            raise ProtocolViolation(CloseCode.BAD_ID, f"of {of} after {self._exchanges.last_id}")

    def _check_auth_slot(self) -> None:
        if not self._exchanges.is_free(Pool.AUTH, self._outgoing):
            raise ExchangeError(ErrorCode.CONFLICT, "another auth is unfinished")

    def _charge(self, now: float) -> int | None:
        """Pay for a frame, whatever becomes of it; the milliseconds to wait when the bucket is empty."""
        return None if self._bucket is None else self._bucket.take(now)

    def _charge_or_close(self, now: float) -> None:
        if self._charge(now) is not None:
            raise ProtocolViolation(CloseCode.RATE_LIMITED, "over the rate")

    def _admit(self, pool: Pool, wait_ms: int | None) -> None:
        if wait_ms is not None:
            raise ExchangeError(ErrorCode.RATE_LIMITED, "over the rate", retry_ms=wait_ms)
        if self.phase is _DRAINING:
            raise ExchangeError(ErrorCode.DRAINING, "this connection is going away")
        if not self._exchanges.is_free(pool, self._outgoing):
            raise ExchangeError(ErrorCode.LIMIT_EXCEEDED, "no slot is free")

    def _authorize(self, action: Action, name: str) -> None:
        if not self._may(action, name):
            raise ExchangeError(ErrorCode.FORBIDDEN, "not allowed")

    def _may(self, action: Action, name: str) -> bool:
        assert self.grant is not None
        return self.grant.permissions.may(action, name)

    # What the application answers.

    def granted(self, id: int, grant: Grant, now: float) -> Effects:
        """The credentials of an `Authenticate` are good. Spec: [SES-19] [SES-20] [SES-22] [SES-48]."""
        if id == 0:
            if self._greeting:
                self._welcome(grant, now)
            return NOTHING
        if not self.is_running(id):
            return NOTHING
        assert self.grant is not None
        if grant.principal != self.grant.principal:
            return self.fail(id, ExchangeError(ErrorCode.PRINCIPAL_MISMATCH, "another principal"))
        self._adopt(grant, now)
        self._end(id, encode_result(id, Payload(encode_frame(expiry(grant)))))
        return self._reauthorize(grant)

    def _welcome(self, grant: Grant, now: float) -> None:
        limits = grant.limits or self._limits
        if limits != self._limits:
            self._limits = limits
            self._exchanges = Exchanges(limits)
            self._outgoing = Outgoing(limits)
            self._max_out = min(self._max_out, limits.max_frame)
        self._greeting = False
        self.phase = CONNECTION[self.phase][Input.HELLO]
        self._adopt(grant, now)
        self._clock.received = self._clock.pinged = now
        if limits.rate is not None:
            self._bucket = Bucket(limits.rate, limits.rate.count, now)
        self._outgoing.urgent(welcome(self._settings, self.conn, self.profiles, grant, limits))
        if self._clock.drained_at != NEVER:
            self._go_away(now)

    def _adopt(self, grant: Grant, now: float) -> None:
        self.grant = grant
        self._clock.expires_at = NEVER if grant.expires_in_ms is None else now + grant.expires_in_ms / 1000

    def _reauthorize(self, grant: Grant) -> Effects:
        """End exactly what the new grant no longer allows. Spec: [SES-28] [SES-29] [SUB-25]."""
        may = grant.permissions.may
        effects: list[Effect] = []
        for id, exchange in list(self._exchanges.running.items()):
            if exchange.pattern:
                self._outgoing.forget_events(id, lambda text: not may("subscribe", channel_of(text)))
            elif exchange.pool is Pool.SUBSCRIPTIONS and not may("subscribe", exchange.name):
                effects += self.fail(id, ExchangeError(ErrorCode.FORBIDDEN, "no longer allowed"))
        return effects

    def denied(self, id: int, error: ExchangeError) -> Effects:
        """The credentials of an `Authenticate` are bad, or nobody can tell. Spec: [SES-14] [SES-21]."""
        if id != 0:
            return self.fail(id, error)
        if not self._greeting:
            return NOTHING
        return self.close(_HELLO_DENIED.get(error.code, CloseCode.TRY_AGAIN_LATER), error.message)

    def succeed(self, id: int, payload: Payload | None) -> Effects:
        """An exchange ends well; nothing happens when it has ended already. Spec: [DEL-07]."""
        text = encode_result(id, payload)
        if len(text) > self._max_out:
            return self.fail(id, ExchangeError(ErrorCode.TOO_LARGE, "the result does not fit into max_frame"))
        exchange = self._exchanges.finish(id)
        if exchange is not None:
            self._outgoing.push(exchange.pool, id, text)
        return NOTHING

    def fail(self, id: int, error: ExchangeError) -> Effects:
        """An exchange ends with an error; nothing happens when it has ended already.

        Raises:
            TypeError: `error.data` has no JSON form.
        """
        text = encode_error(id, error)
        if len(text) > self._max_out:
            text = shorten_error(id, error, self._max_out)
        return [Stop(id)] if self._end(id, text) else NOTHING

    def reject(self, id: int, error: ExchangeError) -> None:
        """An exchange cannot even start: its terminal is a refusal, which holds no slot. Spec: [DEL-14]."""
        if self._exchanges.finish(id) is not None:
            self._outgoing.refuse(id, encode_error(id, error))

    def _end(self, id: int, text: bytes) -> bool:
        exchange = self._exchanges.finish(id)
        if exchange is None:
            return False
        self._outgoing.discard(id)
        self._outgoing.push(exchange.pool, id, text)
        return True

    def chunk(self, id: int, payload: Payload) -> Effects:
        """A method produced a part of its answer. Spec: [RPC-19] [RPC-20] [RPC-21] [DEL-08]."""
        exchange = self._exchanges.running.get(id)
        if exchange is None:
            return NOTHING
        if not exchange.stream:
            return self.fail(id, ExchangeError(ErrorCode.BAD_REQUEST, "the method streams: send stream:true"))
        text = b'{"type":"chunk","id":%d%b' % (id, tail(payload))
        if len(text) > self._max_out:
            return self.fail(id, ExchangeError(ErrorCode.TOO_LARGE, "a chunk does not fit into max_frame"))
        exchange.step(Step.PART)
        self._outgoing.push(CHUNK, id, text)
        return NOTHING

    def opened(self, id: int) -> Effects:
        """A subscription has its place among the events. Spec: [SUB-01]."""
        exchange = self._exchanges.running.get(id)
        if exchange is not None:
            exchange.step(Step.OPEN)
            self._outgoing.push(OPEN, id, b'{"type":"open","id":%d}' % id)
        return NOTHING

    def deliver(self, id: int, event: Event, *, lossy: bool) -> bool:
        """An event for a subscription. Spec: [SUB-02] [SUB-15] [SUB-24] [SUB-25] [DEL-06] [DEL-18].

        Args:
            lossy: whether events may be lost for it, because the socket takes nothing at the moment.
        Returns:
            False if there is no room for it and nothing may be lost: write, and deliver it again.
        """
        exchange = self._exchanges.running.get(id)
        if exchange is None or exchange.stage is not _OPEN or event.exclude == self.conn:
            return True
        if not exchange.pattern:
            text = exchange.head + event.tail
        else:
            if not self._may("subscribe", event.channel):
                return True
            text = exchange.head + event.named_tail
        if len(text) > self._max_out:
            text = b'{"type":"gap","id":%d,"reason":"too_large","missed":1}' % id
        return self._outgoing.event(id, text, lossy)

    # Time and the operator.

    def deadline(self) -> float:
        """When `tick` has something to do next, unless a call comes before."""
        due = self._clock.deadline(self.phase, auth_pending=self._auth_pending())
        return min(due, *self._exchanges.deadlines.values()) if self._exchanges.deadlines else due

    def _auth_pending(self) -> bool:
        return not self._exchanges.is_idle(Pool.AUTH)

    def tick(self, now: float) -> Effects:
        """Apply the time; call it when `deadline` has come."""
        end = self._clock.end(self.phase, now, auth_pending=self._auth_pending())
        if end is not None:
            return self.close(_ENDS[end], end.value, end)
        effects: list[Effect] = []
        for id in [id for id, due in self._exchanges.deadlines.items() if now >= due]:
            effects += self.fail(id, ExchangeError(ErrorCode.DEADLINE_EXCEEDED, "timeout_ms has passed"))
        if self.phase in _GREETED and now >= self._clock.ping_at():
            self._clock.pinged = now
            self._outgoing.urgent(b'{"type":"ping"}')
        return effects

    def drain(self, after_ms: int, deadline_ms: int, now: float) -> Effects:
        """Send the client away: it should move after `after_ms`, it must at `deadline_ms`. Spec: [SES-38].

        A later drain counts if it brings the deadline closer.
        """
        if now + deadline_ms / 1000 < self._clock.drained_at:
            self._clock.move_at = now + after_ms / 1000
            self._clock.drained_at = now + deadline_ms / 1000
            if self.phase in _GREETED:
                self._go_away(now)
        return NOTHING

    def _go_away(self, now: float) -> None:
        if self.phase is Phase.READY:
            self.phase = CONNECTION[self.phase][Input.DRAIN]
        after_ms, deadline_ms = (
            # Never later than the truth [SES-49]; the little extra undoes what floats lose.
            max(0, int((when - now) * 1000 + 1e-6))
            for when in (self._clock.move_at, self._clock.drained_at)
        )
        self._outgoing.urgent(
            encode_frame({"type": "goaway", "after_ms": after_ms, "deadline_ms": deadline_ms})
        )

    def expire(self, now: float) -> Effects:
        """Let the identity of the session expire now."""
        self._clock.expires_at = now
        return self.tick(now)

    def close(self, code: int, detail: str = "", input: Input = Input.CLOSE) -> Effects:
        """Close the connection; what runs is cancelled. Also: the peer is gone. Spec: [SES-45]."""
        if self.phase is Phase.CLOSED:
            return NOTHING
        self.phase = CONNECTION[self.phase][input]
        self._greeting = False
        effects: list[Effect] = []
        for id, exchange in self._exchanges.running.items():
            exchange.step(Step.SESSION_END)
            effects.append(Stop(id))
        self._exchanges.running.clear()
        self._exchanges.deadlines.clear()
        effects.append(Close(code, CLOSE_REASONS.get(code, ""), detail))
        return effects

    # The state as a value.

    def copy(self) -> Self:
        twin = copy.copy(self)
        twin._exchanges = self._exchanges.copy()
        twin._outgoing = self._outgoing.copy()
        twin._clock = self._clock.copy()
        twin._bucket = None if self._bucket is None else self._bucket.copy()
        return twin

    def key(self) -> Hashable:
        bucket = self._bucket
        return (
            self.phase,
            self.profiles,
            self.grant,
            self._greeting,
            self._max_out,
            None if bucket is None else (bucket.level, bucket.at),
            self._clock.key(),
            self._exchanges.key(),
            self._outgoing.key(),
        )


_GREETED: Final = (Phase.READY, Phase.DRAINING)
_PONG: Final = b'{"type":"pong"}'
_ENDS: Final[Mapping[Input, CloseCode]] = {
    Input.HELLO_TIMEOUT: CloseCode.HELLO_TIMEOUT,
    Input.DEADLINE: CloseCode.GOING_AWAY,
    Input.EXPIRY: CloseCode.TOKEN_EXPIRED,
    Input.SILENCE: CloseCode.HEARTBEAT_TIMEOUT,
}
_HELLO_DENIED: Final[Mapping[str, CloseCode]] = {
    ErrorCode.UNAUTHENTICATED: CloseCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN: CloseCode.FORBIDDEN,
}
_READERS: Final[Mapping[type, Callable[..., Effects]]] = {
    messages.Hello: Connection._read_again,
    messages.Cancel: Connection._read_cancel,
    messages.Auth: Connection._read_auth,
    messages.Ping: Connection._read_ping,
    messages.Pong: Connection._read_pong,
    messages.Request: Connection._read_request,
    messages.Subscribe: Connection._read_subscribe,
    messages.Publish: Connection._read_publish,
    Suspect: Connection._read_suspect,
}
