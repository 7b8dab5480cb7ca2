"""One connection as a state machine without I/O: greeting, reading frames, heartbeat, drain, closing.

`receive` applies a frame, `tick` applies time, the other commands apply what the application or the
operator decided. Each returns effects for the owner to carry out, in order; frames to write wait for `peek`
and `written`. The state is plain data: `copy` gives an independent twin, `key` a value that is equal for
equal states.

What outlives a connection is its session: one that it began with itself, or one that it has resumed. The
application answers to the session (`session.py`); which one that is, `resume.py` decides.

Only this file turns faults into frames and closes. What it refuses to know: bytes, sockets, clocks, who may
do what (it asks the grant), and who else is connected.

Spec: 02-envelope, 03-session, 04-requests, 07-resume.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from holdfast_reference.protocol import messages
from holdfast_reference.protocol.codec import (
    Suspect,
    decode,
    decode_member,
    encode_error,
    encode_frame,
    encode_result,
)
from holdfast_reference.protocol.correlation import Exchange, Pool
from holdfast_reference.protocol.effects import (
    NOTHING,
    Authenticate,
    Call,
    Close,
    History,
    Publish,
    Stop,
    Subscribe,
)
from holdfast_reference.protocol.errors import (
    CLOSE_REASONS,
    CloseCode,
    ErrorCode,
    ExchangeError,
    ProtocolViolation,
)
from holdfast_reference.protocol.events import Event, event_head
from holdfast_reference.protocol.fates import NO_CODE, NO_FRAME, keeps
from holdfast_reference.protocol.grants import Credentials, Grant
from holdfast_reference.protocol.greeting import expiry, negotiate, welcome
from holdfast_reference.protocol.limits import FIRST_FRAME, Bucket
from holdfast_reference.protocol.logs import Dedupe
from holdfast_reference.protocol.messages import TYPES, UNSET, Amount, Payload, Resume
from holdfast_reference.protocol.outgoing import Outgoing
from holdfast_reference.protocol.reading import (
    check_history,
    check_ping,
    check_publish,
    check_request,
    check_resume,
    check_subscribe,
    check_suspect,
    is_ignored,
    starts_exchange,
    suspect_id,
    suspect_of,
    suspect_seq,
)
from holdfast_reference.protocol.session import Session
from holdfast_reference.protocol.states import (
    CONNECTION,
    Input,
    Phase,
    SessionInput,
    Stage,
    Step,
)
from holdfast_reference.protocol.timers import NEVER, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from holdfast_reference.protocol.effects import Effect, Effects
    from holdfast_reference.protocol.grants import Action
    from holdfast_reference.protocol.resume import Refusal, Sessions

__all__ = ["Connection"]


# Looked up once: a member of an enumeration costs as much as three names, and these are met in every frame.
_NEW: Final = Phase.NEW
_DRAINING: Final = Phase.DRAINING
_CLOSED: Final = Phase.CLOSED
_CALLS: Final = Pool.CALLS


class Connection:
    """The server's side of one connection, from the 101 response on.

    Args:
        sessions: all that there are.
        conn: its name in logs, given to no other connection.
        secret: the name by which the session that may begin here can be resumed; at least 128 random bits.
        now: monotonic seconds; never decreasing from call to call.

    Attributes:
        session: what it carries. One of its own at first, maybe an older one from `granted` on; after the
            end it is still the last one.
    """

    __slots__ = (
        "_clock",
        "_greeting",
        "_max_out",
        "_outgoing",
        "_resume",
        "_secret",
        "_sessions",
        "_window",
        "conn",
        "phase",
        "profiles",
        "session",
    )

    def __init__(self, sessions: Sessions, conn: str, secret: str, now: float) -> None:
        settings = sessions.settings
        self._sessions = sessions
        self._secret = secret
        self.conn = conn
        self.phase = Phase.NEW
        self.profiles: frozenset[str] = frozenset()
        self._greeting = False  # hello was read, welcome is not queued yet
        # What hello said, until welcome.
        self._max_out = settings.limits.max_frame
        self._window: int | None = None
        self._resume: Resume | None = None
        self._clock = Clock(settings.timers, now)
        self.session = Session(conn, settings.limits, self.profiles, self._max_out)
        self._outgoing = self.session.outgoing  # or, once it has lost its session, what it may still write

    # What the owner asks.

    def may_read(self) -> bool:
        """Whether another frame may be applied now. Spec: [SES-08] [DEL-12] [DEL-14]."""
        return not (self._outgoing.full or self._greeting or self.phase is _CLOSED)

    @property
    def max_message(self) -> int:
        """Bytes of the largest message that may arrive now. Spec: [TRN-07] [TRN-09]."""
        return FIRST_FRAME if self.phase is Phase.NEW else self.session.limits.max_frame

    @property
    def pending(self) -> bool:
        """Whether `peek` may have something to give."""
        return bool(self._outgoing)

    @property
    def replaying(self) -> bool:
        """Whether `peek` goes on with a log, of which it gives little at a time."""
        return self._outgoing.replaying

    def peek(self, size: int) -> list[bytes]:
        """The next frames to write, about `size` bytes, at least one if any may leave; `written` is next."""
        return self._outgoing.peek(size)

    def written(self, count: int, now: float) -> None:
        """The first `count` frames of the last `peek` were handed to the socket."""
        self._outgoing.written(count)
        self._clock.sent = now

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
            id = self.session.exchanges.last_id
            self._outgoing.refuse(id, encode_error(id, error))
            return self.end_flood()

    def end_flood(self) -> Effects:
        """Close if too many refusals wait for a window that nobody opens. Spec: [DEL-32] [DEL-33]."""
        if not self._outgoing.flooded:
            return NOTHING
        return self.close(CloseCode.SLOW_CONSUMER, "too many refusals wait for acks")

    def _read_first(self, message: messages.Message | Suspect) -> Effects:
        if not isinstance(message, messages.Hello):
            if isinstance(message, Suspect) and message.type == "hello":
                raise ProtocolViolation(CloseCode.BAD_SCHEMA, message.fault)
            return self.close(CloseCode.UNEXPECTED_FRAME, "the first frame is not hello", Input.NOT_HELLO)
        self.profiles = profiles = negotiate(message.profiles, self._sessions.settings.profiles)
        limits, resume = message.limits, message.resume
        if limits is not UNSET and limits.max_frame is not UNSET:
            self._max_out = min(self._max_out, limits.max_frame)
        if limits is not UNSET and limits.window is not UNSET and "ack" in profiles:
            self._window = decode_member(limits.window, Amount)
        if resume is not UNSET and "resume" in profiles:
            self._resume = check_resume(decode_member(resume, Resume))
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

    # What the authenticator answers.

    def granted(self, id: int, grant: Grant, now: float) -> Effects:
        """The credentials of an `Authenticate` are good. Spec: [SES-19] [SES-20] [SES-22] [SES-48]."""
        if id == 0:
            return self._welcome(grant, now) if self._greeting else NOTHING
        session = self.session
        if self.phase is _CLOSED or not session.is_running(id):
            return NOTHING
        assert session.grant is not None
        if grant.principal != session.grant.principal:
            return session.fail(id, ExchangeError(ErrorCode.PRINCIPAL_MISMATCH, "another principal"))
        self._adopt(grant, now)
        session.finish(id, encode_result(id, Payload(encode_frame(expiry(grant)))))
        return session.reauthorize(grant)

    def denied(self, id: int, error: ExchangeError) -> Effects:
        """The credentials of an `Authenticate` are bad, or nobody can tell. Spec: [SES-14] [SES-21]."""
        if id != 0:
            return NOTHING if self.phase is _CLOSED else self.session.fail(id, error)
        if not self._greeting:
            return NOTHING
        return self.close(_HELLO_DENIED.get(error.code, CloseCode.TRY_AGAIN_LATER), error.message)

    def _welcome(self, grant: Grant, now: float) -> Effects:
        """Go on with the session that hello names, or open a new one."""
        wanted = self._resume
        effects: Effects = NOTHING
        found: Session | Refusal | None = None
        if wanted is not None:
            try:
                found, effects = self._sessions.resume(wanted, grant, self.profiles, now)
            except ProtocolViolation as violation:
                return self.close(violation.code, violation.detail, Input.SUPERSEDED)
        session = found if isinstance(found, Session) else self._begin(grant, now)
        self._greeting = False
        self.phase = CONNECTION[self.phase][Input.HELLO]
        self.session = session
        session.attached = self
        self._outgoing = session.outgoing
        self._outgoing.attach()
        self._adopt(grant, now)
        self._clock.received = self._clock.pinged = now
        self._outgoing.urgent(welcome(self._sessions.settings, self.conn, session, self._resumption(found)))
        if self._clock.drained_at != NEVER:
            self._go_away(now)
        return effects

    def _resumption(self, found: Session | Refusal | None) -> dict[str, object]:
        """What profile `resume` adds to `welcome`. Spec: [RES-01] [RES-04] [RES-26] [RES-27]."""
        if "resume" not in self.profiles:
            return {}
        if isinstance(found, Session):
            assert self._resume is not None
            last_id = found.exchanges.last_id
            return {"session": self._resume.session, "resumed": True, "last_id": last_id}
        members: dict[str, object] = {"session": self._secret, "resumed": False}
        if found is not None:
            known = {} if found.last_id is None else {"last_id": found.last_id}
            members["resume_error"] = {"code": found.code, **known}
        return members

    def _begin(self, grant: Grant, now: float) -> Session:
        limits = grant.limits or self._sessions.settings.limits
        if self._window is not None and self._window < limits.window:
            limits = replace(limits, window=self._window)
        session = Session(self.conn, limits, self.profiles, min(self._max_out, limits.max_frame))
        session.grant = grant
        if limits.rate is not None:
            session.bucket = Bucket(limits.rate, limits.rate.count, now)
        if "resume" in self.profiles:
            self._sessions.begin(session, self._secret)
        return session

    def _adopt(self, grant: Grant, now: float) -> None:
        self._clock.expires_at = NEVER if grant.expires_in_ms is None else now + grant.expires_in_ms / 1000

    # Time and the operator.

    def deadline(self) -> float:
        """When `tick` has something to do next, unless a call comes before."""
        return self._clock.deadline(self.phase, auth_pending=self._auth_pending())

    def _auth_pending(self) -> bool:
        return not self.session.exchanges.is_idle(Pool.AUTH)

    def tick(self, now: float) -> Effects:
        """Apply the time; call it when `deadline` has come."""
        end = self._clock.end(self.phase, now, auth_pending=self._auth_pending())
        if end is not None:
            return self.close(_ENDS[end], end.value, end, now=now)
        if self.phase in _GREETED and now >= self._clock.ping_at():
            self._clock.pinged = now
            self._outgoing.urgent(b'{"type":"ping"}')
        return NOTHING

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

    def closed(self, code: int, now: float) -> Effects:
        """The client's close frame has come, or the end of the stream without one. Spec: [ERR-07].

        Args:
            code: of the close frame, `NO_CODE` if it had none; `NO_FRAME` for the end of the stream.
        """
        answer = code if code in CLOSE_REASONS or code in _ECHOED else CloseCode.NORMAL
        detail = "the stream has ended" if code == NO_FRAME else f"the client closed with {code}"
        return self.close(answer, detail, now=now, kept=keeps(code))

    def close(
        self,
        code: int,
        detail: str = "",
        input: Input = Input.CLOSE,
        *,
        now: float | None = None,
        kept: bool | None = None,
    ) -> Effects:
        """Close the connection. Its session is kept or ends, as the code says. Spec: [RES-05] [RES-06].

        Args:
            now: by default the time of the last frame.
            kept: whether a session that can be resumed outlives this end, if not by the server's own code.
        """
        if self.phase is _CLOSED:
            return NOTHING
        greeted = self.phase in _GREETED
        self.phase = CONNECTION[self.phase][input]
        self._greeting = False
        effects: list[Effect] = []
        if greeted:
            effects += self._let_go(code, self._clock.received if now is None else now, kept)
        effects.append(Close(code, CLOSE_REASONS.get(code, ""), detail))
        return effects

    def _let_go(self, code: int, now: float, kept: bool | None) -> Effects:
        """Part from the session. When the server closes, what may still leave does, and counts as sent."""
        session, texts = self.session, []
        if "resume" not in self.profiles or not (keeps(code) if kept is None else kept):
            session.attached = None
            return self._sessions.end(session, SessionInput.CONNECTION_END, now)
        if kept is None:
            texts = session.outgoing.peek(session.limits.window_bytes)
            session.outgoing.written(len(texts))
        self._write_nothing_but(texts)
        return self._sessions.suspend(session, now)

    def supersede(self) -> Close:
        """Another connection has the session now: write nothing more, and close. Spec: [RES-30] [RES-32]."""
        self.phase = CONNECTION[self.phase][Input.SUPERSEDED]
        self._write_nothing_but([])
        code = CloseCode.SUPERSEDED
        return Close(code, CLOSE_REASONS[code], "another connection resumed the session")

    def _write_nothing_but(self, texts: list[bytes]) -> None:
        self._outgoing = Outgoing(self.session.limits)
        for text in texts:
            self._outgoing.urgent(text)

    # The state as a value.

    def copy(self, sessions: Sessions, twins: dict[Session, Session]) -> Self:
        """An independent twin.

        Args:
            sessions: the copy of what this connection was made with.
            twins: of the sessions that were copied with it, or with other connections.
        """
        twin = type(self).__new__(type(self))
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._sessions = sessions
        twin._clock = self._clock.copy()
        session = self.session
        if session not in twins:
            twins[session] = session.copy()
        twin.session = twins[session]
        if session.attached is self:
            twin.session.attached = twin
        own = self._outgoing is not session.outgoing
        twin._outgoing = self._outgoing.copy() if own else twin.session.outgoing
        return twin

    def key(self) -> Hashable:
        """Equal for equal states; that of a session which `Sessions` does not know is a part of it."""
        return (
            self.conn,
            self.phase,
            self.profiles,
            self._greeting,
            self._max_out,
            self._window,
            self._resume,
            self._clock.key(),
            self.session.origin,
            self.session.key() if not self.session.secret else None,
            None if self._outgoing is self.session.outgoing else self._outgoing.key(),
        )


_ECHOED: Final = frozenset({*range(3000, 4000), NO_CODE, NO_FRAME})
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
    messages.Ack: Connection._read_ack,
    messages.Auth: Connection._read_auth,
    messages.Ping: Connection._read_ping,
    messages.Pong: Connection._read_pong,
    messages.Request: Connection._read_request,
    messages.Subscribe: Connection._read_subscribe,
    messages.Publish: Connection._read_publish,
    messages.History: Connection._read_history,
    Suspect: Connection._read_suspect,
}
