"""One connection and its session, as a state machine without I/O.

`receive` applies a frame, `tick` applies time, the other commands apply what the application or the operator
decided. Each returns effects for the owner to carry out, in order; frames to write wait until `pull`.
The state is plain data: `copy` gives an independent twin, `key` a value that is equal for equal states.

Only this file turns faults into frames and closes. What it refuses to know: bytes, sockets, clocks, who may do
what (it asks the grant), and who else is connected.

Spec: 02-envelope, 03-session, 04-requests.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from holdfast_reference.protocol import messages
from holdfast_reference.protocol.codec import (
    Suspect,
    channel_of,
    decode,
    encode_error,
    encode_frame,
    encode_result,
    is_base64,
    is_integer,
    tail,
)
from holdfast_reference.protocol.correlation import Exchange, Exchanges, Pool
from holdfast_reference.protocol.effects import NOTHING, Authenticate, Call, Close, Publish, Stop, Subscribe
from holdfast_reference.protocol.errors import CloseCode, ErrorCode, ExchangeError, ProtocolViolation
from holdfast_reference.protocol.events import Event, event_head
from holdfast_reference.protocol.grants import Credentials, Grant
from holdfast_reference.protocol.limits import FIRST_FRAME, MAX_TAG, Bucket, Limits, Timers
from holdfast_reference.protocol.messages import FIELD_PROFILES, TYPES, UNSET, Payload
from holdfast_reference.protocol.names import Pattern, fits
from holdfast_reference.protocol.outgoing import CHUNK, OPEN, REFUSAL, Outgoing
from holdfast_reference.protocol.states import CONNECTION, Input, Phase, Stage, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from holdfast_reference.protocol.effects import Effect, Effects

__all__ = ["PROFILES", "Connection", "Settings"]

#: What this server can offer, and what each needs.
PROFILES: Final[Mapping[str, frozenset[str]]] = {
    "rpc": frozenset(),
    "pubsub": frozenset(),
    "pattern": frozenset({"pubsub"}),
    "fence": frozenset({"pubsub"}),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What all connections of a server have in common; `server` is the name and version shown in `welcome`."""

    limits: Limits = field(default_factory=Limits)
    timers: Timers = field(default_factory=Timers)
    profiles: frozenset[str] = frozenset(PROFILES)
    server: tuple[str, str] | None = None


class Connection:
    """The server's side of one connection, from the 101 response on.

    Args:
        settings: see there.
        conn: its name in logs, given to no other connection.
        now: monotonic seconds; never decreasing from call to call.
    """

    __slots__ = (
        "_bucket",
        "_drain",
        "_exchanges",
        "_expires_at",
        "_greeting",
        "_hello_by",
        "_max_out",
        "_outgoing",
        "_pinged",
        "_received",
        "_sent",
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
        self._exchanges = Exchanges(settings.limits)
        self._outgoing = Outgoing(settings.limits)
        self._greeting = False  # hello was read, welcome is not queued yet
        self._max_out = settings.limits.max_frame
        self._bucket: Bucket | None = None
        self._drain: tuple[float, float] | None = None  # when to move, when it is closed
        self._hello_by = now + settings.timers.hello_ms / 1000
        self._expires_at: float | None = None
        self._received = self._sent = self._pinged = now

    # What the owner asks.

    @property
    def reading(self) -> bool:
        """Whether another frame may be applied now. Spec: [SES-08] [DEL-12] [DEL-14]."""
        return not self._greeting and self.phase is not Phase.CLOSED and not self._outgoing.full

    @property
    def max_message(self) -> int:
        """Bytes of the largest message that may arrive now. Spec: [TRN-07] [TRN-09]."""
        return FIRST_FRAME if self.phase is Phase.NEW else self._settings.limits.max_frame

    @property
    def pending(self) -> bool:
        """Whether `pull` has something to give."""
        return bool(self._outgoing)

    def pull(self, size: int, now: float) -> list[bytes]:
        """Take the next frames to write, about `size` bytes, at least one if any waits."""
        texts = self._outgoing.pull(size)
        if texts:
            self._sent = now
        return texts

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
        if self.phase is Phase.CLOSED:
            return NOTHING
        self._received = now
        try:
            message = decode(text)
            if self.phase is Phase.NEW:
                return self._read_first(message)
            return _READERS[type(message)](self, message, now)
        except ProtocolViolation as violation:
            return self.close(violation.code, violation.detail)
        except ExchangeError as error:
            # Step 8: the id was consumed just now, and no slot was taken.
            self._outgoing.push(
                REFUSAL, self._exchanges.last_id, encode_error(self._exchanges.last_id, error)
            )
            return NOTHING

    def _read_first(self, message: messages.Message | Suspect) -> Effects:
        if not isinstance(message, messages.Hello):
            if isinstance(message, Suspect) and message.type == "hello":
                raise ProtocolViolation(CloseCode.BAD_SCHEMA, message.fault)
            return self.close(CloseCode.UNEXPECTED_FRAME, "the first frame is not hello", Input.NOT_HELLO)
        wanted = self._settings.profiles.intersection(message.profiles)
        # No profile's need has a need of its own here, so one pass is the transitive closure.
        self.profiles = frozenset(name for name in wanted if PROFILES[name] <= wanted)
        if message.limits is not UNSET and message.limits.max_frame is not UNSET:
            self._max_out = min(self._max_out, message.limits.max_frame)
        self._greeting = True
        if message.auth is UNSET:
            return [Authenticate(0, None)]
        return [Authenticate(0, Credentials(message.auth.scheme, message.auth.token))]

    def _read_again(self, message: messages.Hello, now: float) -> Effects:
        return self.close(CloseCode.UNEXPECTED_FRAME, "a second hello", Input.HELLO_AGAIN)

    def _read_suspect(self, frame: Suspect, now: float) -> Effects:
        """Steps 5 to 9 for a frame that is none of our messages. Spec: [ENV-05]."""
        kind, fields = frame.type, frame.fields
        row = TYPES.get(kind)
        if row is not None and not row.client:
            return self.close(CloseCode.UNEXPECTED_FRAME, f"{kind} from a client", Input.WRONG_DIRECTION)
        if kind == "hello":
            return self.close(CloseCode.UNEXPECTED_FRAME, "a second hello", Input.HELLO_AGAIN)
        if kind == "ack" and "ack" not in self.profiles:
            return NOTHING
        if row.exchange if row is not None else "id" in fields:
            self._refuse_suspect(frame, now)
        if kind == "cancel":
            if not is_integer(of := fields.get("of")):
                raise ProtocolViolation(CloseCode.BAD_SCHEMA, f"of is {of!r:.40}")
            assert isinstance(of, int)
            self._check_of(of)
        if row is not None:
            raise ProtocolViolation(CloseCode.BAD_SCHEMA, frame.fault)
        self._charge_or_close(now)
        return NOTHING

    def _refuse_suspect(self, frame: Suspect, now: float) -> None:
        id = frame.fields.get("id")
        if not is_integer(id):
            raise ProtocolViolation(CloseCode.BAD_SCHEMA, f"id is {id!r:.40}")
        assert isinstance(id, int)
        self._exchanges.consume(id)
        if frame.type == "auth":
            self._check_auth_slot()
        else:
            self._charge(now)
        row = TYPES.get(frame.type)
        if row is None:
            raise ExchangeError(ErrorCode.UNSUPPORTED, "unknown type")
        self._check_profile(row.profile)
        for field, profile in FIELD_PROFILES.get(frame.type, {}).items():
            if field in frame.fields:
                self._check_profile(profile)
        raise ExchangeError(ErrorCode.BAD_REQUEST, frame.fault[:60])

    def _read_request(self, message: messages.Request, now: float) -> Effects:
        id = message.id
        self._exchanges.consume(id)
        wait_ms = self._charge(now)
        self._check_profile("rpc")
        payload = _payload(message.data, message.enc)
        if message.stream is False or not fits(message.method):
            raise ExchangeError(ErrorCode.BAD_REQUEST, "stream is not true, or method is too long")
        self._admit(Pool.CALLS, wait_ms)
        self._check_permission("call", message.method)
        stream = message.stream is True
        timeout = message.timeout_ms
        self._exchanges.start(
            id,
            Exchange(Pool.CALLS, message.method, stream=stream),
            None if timeout is UNSET else now + timeout / 1000,
        )
        return [Call(id, message.method, payload, stream)]

    def _read_publish(self, message: messages.Publish, now: float) -> Effects:
        id = message.id
        self._exchanges.consume(id)
        wait_ms = self._charge(now)
        self._check_profile("pubsub")
        self._check_fields("publish", message)
        payload = _payload(message.data, message.enc)
        if message.echo is True or not fits(message.channel):
            raise ExchangeError(ErrorCode.BAD_REQUEST, "echo is not false, or channel is too long")
        assert payload is not None
        self._admit(Pool.CALLS, wait_ms)
        self._check_permission("publish", message.channel)
        event = Event(message.channel, payload, self.conn if message.echo is False else "")
        if event.largest > self._settings.limits.max_frame:
            raise ExchangeError(ErrorCode.TOO_LARGE, "the event would not fit into max_frame")
        self._exchanges.start(id, Exchange(Pool.CALLS, message.channel))
        return [Publish(id, event)]

    def _read_subscribe(self, message: messages.Subscribe, now: float) -> Effects:
        self._exchanges.consume(message.id)
        wait_ms = self._charge(now)
        self._check_profile("pubsub")
        self._check_fields("subscribe", message)
        channel, pattern = message.channel, message.pattern
        if (channel is UNSET) == (pattern is UNSET):
            raise ExchangeError(ErrorCode.BAD_REQUEST, "exactly one of channel and pattern")
        name = pattern if channel is UNSET else channel
        assert name is not UNSET
        if not fits(name):
            raise ExchangeError(ErrorCode.BAD_REQUEST, "the name is too long")
        if channel is UNSET:
            try:
                Pattern(name)
            except ValueError as error:
                raise ExchangeError(ErrorCode.BAD_REQUEST, str(error)) from None
        self._admit(Pool.SUBSCRIPTIONS, wait_ms)
        # A pattern is never forbidden as a whole: what the principal may not see is filtered. [SUB-25]
        if channel is not UNSET:
            self._check_permission("subscribe", name)
        self._exchanges.start(
            message.id,
            Exchange(Pool.SUBSCRIPTIONS, name, pattern=channel is UNSET, head=event_head(message.id)),
        )
        return [Subscribe(message.id, name, channel is UNSET)]

    def _read_auth(self, message: messages.Auth, now: float) -> Effects:
        self._exchanges.consume(message.id)
        self._check_auth_slot()
        self._exchanges.start(message.id, Exchange(Pool.AUTH, "auth"))
        return [Authenticate(message.id, Credentials(message.scheme, message.token))]

    def _read_cancel(self, message: messages.Cancel, now: float) -> Effects:
        self._check_of(message.of)
        self._charge_or_close(now)
        id = message.of
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
        if message.t is UNSET:
            text = b'{"type":"pong"}'
        elif fits(message.t, MAX_TAG):
            text = encode_frame({"type": "pong", "t": message.t})
        else:
            raise ProtocolViolation(CloseCode.BAD_SCHEMA, "t is too long")
        self._charge_or_close(now)
        if "fence" in self.profiles:
            self._outgoing.fence(text)
        else:
            self._outgoing.urgent(text)
        return NOTHING

    def _read_pong(self, message: messages.Pong, now: float) -> Effects:
        if message.held is False or (message.t is not UNSET and not fits(message.t, MAX_TAG)):
            raise ProtocolViolation(CloseCode.BAD_SCHEMA, "t is too long, or held is not true")
        return NOTHING

    # The checks of steps 7 and 8, each under its own name.

    def _check_of(self, of: int) -> None:
        if of > self._exchanges.last_id:
            raise ProtocolViolation(CloseCode.BAD_ID, f"of {of} after {self._exchanges.last_id}")

    def _check_auth_slot(self) -> None:
        if not self._exchanges.is_free(Pool.AUTH, self._outgoing):
            raise ExchangeError(ErrorCode.CONFLICT, "another auth is unfinished")

    def _check_profile(self, profile: str) -> None:
        if profile not in self.profiles and profile != "core":
            raise ExchangeError(ErrorCode.UNSUPPORTED, f"needs profile {profile}")

    def _check_fields(self, kind: str, message: messages.Subscribe | messages.Publish) -> None:
        for field, profile in FIELD_PROFILES[kind].items():
            if getattr(message, field) is not UNSET:
                self._check_profile(profile)

    def _check_permission(self, action: str, name: str) -> None:
        assert self.grant is not None
        if not self.grant.permissions.may(action, name):
            raise ExchangeError(ErrorCode.FORBIDDEN, "not allowed")

    def _charge(self, now: float) -> int | None:
        """Pay for a frame; the milliseconds to wait when the bucket is empty. Every fate costs. [LIM-10]"""
        return None if self._bucket is None else self._bucket.take(now)

    def _charge_or_close(self, now: float) -> None:
        if self._charge(now) is not None:
            raise ProtocolViolation(CloseCode.RATE_LIMITED, "over the rate")

    def _admit(self, pool: Pool, wait_ms: int | None) -> None:
        if wait_ms is not None:
            raise ExchangeError(ErrorCode.RATE_LIMITED, "over the rate", retry_ms=wait_ms)
        if self.phase is Phase.DRAINING:
            raise ExchangeError(ErrorCode.DRAINING, "this connection is going away")
        if not self._exchanges.is_free(pool, self._outgoing):
            raise ExchangeError(ErrorCode.LIMIT_EXCEEDED, "no slot is free")

    # What the application answers.

    def granted(self, id: int, grant: Grant, now: float) -> Effects:
        """The credentials of an `Authenticate` are good. Spec: [SES-06] [SES-19] [SES-20] [SES-22] [SES-28]."""
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
        self._end(id, encode_result(id, Payload(encode_frame(_expiry(grant)))))
        return self._reauthorize(grant)

    def _welcome(self, grant: Grant, now: float) -> None:
        settings = self._settings
        limits, timers = settings.limits, settings.timers
        self._greeting = False
        self.phase = CONNECTION[self.phase][Input.HELLO]
        self._adopt(grant, now)
        self._received = self._pinged = now
        shown: dict[str, object] = {
            "max_frame": limits.max_frame,
            "max_inflight": limits.max_inflight,
            "max_subscriptions": limits.max_subscriptions,
        }
        if "pubsub" in self.profiles:
            shown |= {"queue": limits.queue, "queue_bytes": limits.queue_bytes}
        if limits.rate is not None:
            shown["rate"] = {"count": limits.rate.count, "per_ms": limits.rate.per_ms}
            self._bucket = Bucket(limits.rate, limits.rate.count, now)
        frame: dict[str, object] = {
            "type": "welcome",
            "conn": self.conn,
            "profiles": sorted(self.profiles),
            "heartbeat": {
                "interval_ms": timers.heartbeat_interval_ms,
                "timeout_ms": timers.heartbeat_timeout_ms,
            },
            "limits": shown,
            "auth": {"principal": grant.principal, **_expiry(grant)},
        }
        if settings.server is not None:
            frame["server"] = {"name": settings.server[0], "version": settings.server[1]}
        self._outgoing.urgent(encode_frame(frame))
        if self._drain is not None:
            self._go_away(now)

    def _adopt(self, grant: Grant, now: float) -> None:
        self.grant = grant
        self._expires_at = None if grant.expires_in_ms is None else now + grant.expires_in_ms / 1000

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
        """The credentials of an `Authenticate` are not good, or nobody could tell. Spec: [SES-14] [SES-21]."""
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
            text = encode_error(
                id, ExchangeError(ErrorCode.TOO_LARGE, "the error does not fit into max_frame")
            )
        return [Stop(id)] if self._end(id, text) else NOTHING

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

    def deliver(self, id: int, event: Event) -> None:
        """An event for a subscription. Spec: [SUB-02] [SUB-15] [SUB-24] [SUB-25] [DEL-06]."""
        exchange = self._exchanges.running.get(id)
        if exchange is None or exchange.stage is not Stage.OPEN or event.exclude == self.conn:
            return
        if not exchange.pattern:
            text = exchange.head + event.tail
        else:
            assert self.grant is not None
            if not self.grant.permissions.may("subscribe", event.channel):
                return
            text = exchange.head + event.named_tail
        if len(text) > self._max_out:
            text = b'{"type":"gap","id":%d,"reason":"too_large","missed":1}' % id
        self._outgoing.event(id, text)

    # Time and the operator.

    def deadline(self) -> float:
        """When `tick` has something to do next, unless a call comes before."""
        if self.phase is Phase.NEW:
            return _NEVER if self._greeting else self._hello_by
        if self.phase is Phase.CLOSED:
            return _NEVER
        due = min(self._ping_at(), self._silent_at())
        if self._expires_at is not None and self._exchanges.is_idle(Pool.AUTH):
            due = min(due, self._expires_at)
        if self._drain is not None:
            due = min(due, self._drain[1])
        if self._exchanges.deadlines:
            due = min(due, *self._exchanges.deadlines.values())
        return due

    def _ping_at(self) -> float:
        # [SES-30] [SES-31]: silence in either direction, but one ping per interval.
        silent_since = max(min(self._sent, self._received), self._pinged)
        return silent_since + self._settings.timers.heartbeat_interval_ms / 1000

    def _silent_at(self) -> float:
        timers = self._settings.timers
        return self._received + (timers.heartbeat_interval_ms + timers.heartbeat_timeout_ms) / 1000

    def tick(self, now: float) -> Effects:
        """Apply the time; call it when `deadline` has come."""
        if self.phase is Phase.CLOSED or now < self.deadline():
            return NOTHING
        if self.phase is Phase.NEW:
            return self.close(CloseCode.HELLO_TIMEOUT, "no hello in time", Input.HELLO_TIMEOUT)
        if self._drain is not None and now >= self._drain[1]:
            return self.close(CloseCode.GOING_AWAY, "drained", Input.DEADLINE)
        # [SES-27]: an auth that was read in time is decided before its session can expire.
        if self._expires_at is not None and now >= self._expires_at and self._exchanges.is_idle(Pool.AUTH):
            return self.close(CloseCode.TOKEN_EXPIRED, "the credentials have expired", Input.EXPIRY)
        if now >= self._silent_at():
            return self.close(CloseCode.HEARTBEAT_TIMEOUT, "nothing was received", Input.SILENCE)
        effects: list[Effect] = []
        for id in [id for id, due in self._exchanges.deadlines.items() if now >= due]:
            effects += self.fail(id, ExchangeError(ErrorCode.DEADLINE_EXCEEDED, "timeout_ms has passed"))
        if now >= self._ping_at():
            self._pinged = now
            self._outgoing.urgent(b'{"type":"ping"}')
        return effects

    def drain(self, after_ms: int, deadline_ms: int, now: float) -> Effects:
        """Send the client away: it should move after `after_ms` and is closed at `deadline_ms`. Spec: [SES-38]."""
        if self._drain is None and self.phase is not Phase.CLOSED:
            self._drain = (now + after_ms / 1000, now + deadline_ms / 1000)
            if self.phase is Phase.READY:
                self._go_away(now)
        return NOTHING

    def _go_away(self, now: float) -> None:
        assert self._drain is not None
        self.phase = CONNECTION[self.phase][Input.DRAIN]
        after_ms, deadline_ms = (max(0, round((when - now) * 1000)) for when in self._drain)
        self._outgoing.urgent(
            encode_frame({"type": "goaway", "after_ms": after_ms, "deadline_ms": deadline_ms})
        )

    def expire(self, now: float) -> Effects:
        """Let the identity of the session expire now."""
        self._expires_at = now
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
        reason = CloseCode(code).name.lower() if code in _CLOSE_CODES else ""
        effects.append(Close(code, reason, detail))
        return effects

    # The state as a value.

    def copy(self) -> Self:
        twin = copy.copy(self)
        twin._exchanges = self._exchanges.copy()
        twin._outgoing = self._outgoing.copy()
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
            self._drain,
            self._hello_by if self.phase is Phase.NEW else None,
            self._expires_at,
            (self._received, self._sent, self._pinged),
            None if bucket is None else (bucket.level, bucket.at),
            self._exchanges.key(),
            self._outgoing.key(),
        )


_NEVER: Final = float("inf")
_CLOSE_CODES: Final = frozenset(CloseCode)
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


def _payload(data: object, enc: object) -> Payload | None:
    """`data` as bytes. Spec: [ENV-31]."""
    if data is UNSET:
        if enc is not UNSET:
            raise ExchangeError(ErrorCode.BAD_REQUEST, "enc without data")
        return None
    json = bytes(data)
    if enc is UNSET:
        return Payload(json)
    if not is_base64(json):
        raise ExchangeError(ErrorCode.BAD_REQUEST, "data is not base64")
    return Payload(json, True)


def _expiry(grant: Grant) -> dict[str, object]:
    return {} if grant.expires_in_ms is None else {"expires_in_ms": grant.expires_in_ms}
