"""One connection as a state machine without I/O: greeting, receiving, heartbeat, drain, closing.

`receive` applies a frame, `tick` applies time, the other commands apply what the application or the
operator decided. Each returns effects for the owner to carry out, in order; frames to write wait for `peek`
and `written`. The state is plain data: `copy` gives an independent twin, `key` a value that is equal for
equal states.

What a frame does to the session is in `intake.py`. What outlives a connection is its session: one that it
began with itself, or one that it has resumed. The application answers to the session (`session.py`); which
one that is, `resume.py` decides.

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
from holdfast_reference.protocol.correlation import Pool
from holdfast_reference.protocol.effects import (
    NOTHING,
    Authenticate,
    Close,
)
from holdfast_reference.protocol.errors import (
    CLOSE_REASONS,
    CloseCode,
    ErrorCode,
    ExchangeError,
    ProtocolViolation,
)
from holdfast_reference.protocol.fates import NO_CODE, NO_FRAME, keeps
from holdfast_reference.protocol.grants import Credentials, Grant
from holdfast_reference.protocol.greeting import expiry, negotiate, welcome
from holdfast_reference.protocol.intake import READERS, Intake
from holdfast_reference.protocol.limits import FIRST_FRAME, Bucket
from holdfast_reference.protocol.messages import UNSET, Amount, Payload, Resume
from holdfast_reference.protocol.outgoing import Outgoing
from holdfast_reference.protocol.reading import (
    check_resume,
)
from holdfast_reference.protocol.session import Session
from holdfast_reference.protocol.states import (
    CONNECTION,
    Input,
    Phase,
    SessionInput,
)
from holdfast_reference.protocol.timers import NEVER, Clock

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from holdfast_reference.protocol.effects import Effect, Effects
    from holdfast_reference.protocol.resume import Refusal, Sessions

__all__ = ["Connection"]


# Looked up once: a member of an enumeration costs as much as three names, and these are met in every frame.
_NEW: Final = Phase.NEW
_DRAINING: Final = Phase.DRAINING
_CLOSED: Final = Phase.CLOSED
_CALLS: Final = Pool.CALLS


class Connection(Intake):
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
        "_resume",
        "_secret",
        "_sessions",
        "_window",
        "conn",
    )

    def __init__(self, sessions: Sessions, conn: str, secret: str, now: float) -> None:
        settings = sessions.settings
        self._sessions = sessions
        self._secret = secret
        self.conn = conn
        self.phase = Phase.NEW
        self.profiles = frozenset()
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
            return READERS[type(message)](self, message, now)
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
            self._clock.ping(now)
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
        for name in (*Intake.__slots__, *self.__slots__):
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
