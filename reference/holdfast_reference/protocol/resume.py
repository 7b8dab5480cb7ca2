"""All sessions of a server that can be resumed, what is left of those that cannot, and who gets which.

No I/O, no clock, no randomness: the secret names come from the owner, and only their digests are kept.

Spec: 07-resume.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast_reference.protocol.effects import NOTHING, Ended, Supersede
from holdfast_reference.protocol.errors import CloseCode, ProtocolViolation
from holdfast_reference.protocol.states import SessionInput, SessionState
from holdfast_reference.protocol.timers import NEVER

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from holdfast_reference.protocol.effects import Effect, Effects
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.protocol.greeting import Settings
    from holdfast_reference.protocol.messages import Resume
    from holdfast_reference.protocol.session import Session

__all__ = ["Refusal", "Sessions", "Tombstone"]


class Tombstone(NamedTuple):
    """What is left of a session that has ended, until the time `until`."""

    owner: str | None
    attempt: int
    last_id: int
    why: str
    until: float


class Refusal(NamedTuple):
    """Why a resume was refused: a code, and the final `last_id` of the session if the client may know it."""

    code: str
    last_id: int | None


#: What a later resume is told about a session that ended so.
_WHY: Final[Mapping[SessionInput, str]] = {
    SessionInput.CONNECTION_END: "ended",
    SessionInput.MISMATCH: "ended",
    SessionInput.SUSPENSION_TIMEOUT: "expired",
    SessionInput.EVICTION: "expired",
}
_UNKNOWN: Final = Refusal("not_found", None)


class Sessions:
    """The sessions of a server, by the digest of their secret name.

    Args:
        settings: see there; `suspended` and `tombstones` bound what one principal can have.
    """

    __slots__ = ("_graves", "_sessions", "_suspended", "_tombstones", "settings")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._sessions: dict[bytes, Session] = {}
        self._suspended: dict[str | None, dict[bytes, Session]] = {}  # by owner, longest suspended first
        self._tombstones: dict[bytes, Tombstone] = {}  # oldest first
        self._graves: dict[str | None, dict[bytes, None]] = {}  # names of tombstones by owner, oldest first

    def begin(self, session: Session, secret: str) -> None:
        """From now on a session can be resumed by its name."""
        session.secret = _digest(secret)
        self._sessions[session.secret] = session

    def forget(self, session: Session) -> Effects:
        """Make a session unknown to every later resume; its connection stays. Without one it ends."""
        suspended = session.state is SessionState.SUSPENDED
        self._wake(session)
        self._sessions.pop(session.secret, None)
        session.secret = b""
        if not suspended:
            return NOTHING
        session.end(SessionInput.EVICTION)
        return [Ended(session.origin)]

    # A connection comes.

    def resume(
        self, wanted: Resume, grant: Grant, profiles: frozenset[str], now: float
    ) -> tuple[Session | Refusal, Effects]:
        """Decide on a resume whose credentials are good: checks 2 to 6, in one step.

        A session that is accepted has no connection, goes by its new grant, and has `seq` applied.

        Raises:
            ProtocolViolation: 4008, a later attempt was here before.

        Spec: [RES-16] [RES-18] [RES-19] [RES-20] [RES-21] [RES-22] [RES-23] [RES-24] [RES-28].
        """
        secret = _digest(wanted.session)
        session = self._sessions.get(secret)
        if session is None:
            return self._recall(secret, wanted, grant, now), NOTHING
        assert session.grant is not None
        if not _is_same(_owner(session.grant), grant):
            return _UNKNOWN, NOTHING
        _check_attempt(wanted.attempt, session.attempt)
        session.attempt = wanted.attempt
        if session.ends_at <= now:  # and nobody has had the time to end it
            over = self.end(session, SessionInput.SUSPENSION_TIMEOUT, now)
            return Refusal("expired", session.exchanges.last_id), over
        outgoing = session.outgoing
        effects = self._detach(session)
        if profiles != session.profiles or not outgoing.acked <= wanted.seq <= outgoing.sent:
            effects += self.end(session, SessionInput.MISMATCH, now)
            return Refusal("mismatch", session.exchanges.last_id), effects
        self._wake(session)
        session.step(SessionInput.RESUME)
        session.ends_at = NEVER
        effects += session.reauthorize(replace(grant, principal=session.grant.principal))
        outgoing.ack(wanted.seq)
        return session, effects

    def _recall(self, secret: bytes, wanted: Resume, grant: Grant, now: float) -> Refusal:
        """What a resume of a session is told that is no more."""
        self._forget_old(now)
        tombstone = self._tombstones.get(secret)
        if tombstone is None or not _is_same(tombstone.owner, grant):
            return _UNKNOWN
        _check_attempt(wanted.attempt, tombstone.attempt)
        self._tombstones[secret] = tombstone._replace(attempt=wanted.attempt)
        return Refusal(tombstone.why, tombstone.last_id)

    def _detach(self, session: Session) -> list[Effect]:
        """Take a session from the connection that it has. Spec: [RES-30] [RES-31] [RES-32] [RES-33]."""
        older = session.attached
        effects: list[Effect] = [] if older is None else [Supersede(older.conn, older.supersede())]
        effects += session.detach()
        return effects

    # A connection goes.

    def suspend(self, session: Session, now: float) -> Effects:
        """A session has lost its connection; it is kept, if it can be found. Spec: [RES-09] [RES-11]."""
        if not session.secret:
            return self.end(session, SessionInput.CONNECTION_END, now)
        assert session.grant is not None
        session.step(SessionInput.CONNECTION_LOST)
        session.ends_at = now + session.limits.resume_ms / 1000
        effects: list[Effect] = [*session.detach()]
        waiting = self._suspended.setdefault(_owner(session.grant), {})
        waiting[session.secret] = session
        if len(waiting) > self.settings.suspended:
            effects += self.end(next(iter(waiting.values())), SessionInput.EVICTION, now)
        return effects

    def tick(self, session: Session, now: float) -> Effects:
        """Apply the time to a session; call it when its `deadline` has come. Spec: [RES-08] [RES-10]."""
        if now >= session.ends_at:
            return self.end(session, SessionInput.SUSPENSION_TIMEOUT, now)
        return session.time_out(now)

    def end(self, session: Session, input: SessionInput, now: float) -> Effects:
        """A session is over. Spec: [RES-06] [RES-12]."""
        self._wake(session)
        session.end(input)
        if session.secret:
            assert session.grant is not None
            owner = _owner(session.grant)
            del self._sessions[session.secret]
            self._tombstones[session.secret] = Tombstone(
                owner,
                session.attempt,
                session.exchanges.last_id,
                _WHY[input],
                now + session.limits.resume_ms / 1000,
            )
            graves = self._graves.setdefault(owner, {})
            graves[session.secret] = None
            if len(graves) > self.settings.tombstones:
                self._clear(next(iter(graves)))
            self._forget_old(now)
        return [Ended(session.origin)]

    def _wake(self, session: Session) -> None:
        """Take a session off the suspended ones, if it is one of them."""
        if session.state is SessionState.SUSPENDED:
            assert session.grant is not None
            owner = _owner(session.grant)
            del self._suspended[owner][session.secret]
            if not self._suspended[owner]:
                del self._suspended[owner]

    def _forget_old(self, now: float) -> None:
        while self._tombstones:
            secret, tombstone = next(iter(self._tombstones.items()))
            if now < tombstone.until:
                break
            self._clear(secret)

    def _clear(self, secret: bytes) -> None:
        owner = self._tombstones.pop(secret).owner
        del self._graves[owner][secret]
        if not self._graves[owner]:
            del self._graves[owner]

    # The state as a value.

    def copy(self, twins: dict[Session, Session]) -> Sessions:
        """An independent twin.

        Args:
            twins: of sessions that were copied before, to which those are added that are copied now.
        """
        twin = Sessions(self.settings)
        for secret, session in self._sessions.items():
            if session not in twins:
                twins[session] = session.copy()
            twin._sessions[secret] = twins[session]
        for owner, waiting in self._suspended.items():
            twin._suspended[owner] = {secret: twins[session] for secret, session in waiting.items()}
        twin._tombstones = self._tombstones.copy()
        twin._graves = {owner: graves.copy() for owner, graves in self._graves.items()}
        return twin

    def key(self) -> Hashable:
        return (
            frozenset((secret, session.key()) for secret, session in self._sessions.items()),
            tuple(tuple(waiting) for waiting in self._suspended.values()),
            tuple(self._tombstones.items()),
        )


def _digest(secret: str) -> bytes:
    return sha256(secret.encode(errors="surrogatepass")).digest()


def _owner(grant: Grant) -> str | None:
    """Whose sessions are counted together, and may be resumed; None stands for everybody without credentials.

    Such a client is the principal of the session that it names: the name is all there is.
    """
    return None if grant.anonymous else grant.principal


def _is_same(owner: str | None, grant: Grant) -> bool:
    """Whether somebody's session is the grant's. Spec: [RES-18]."""
    return owner == _owner(grant)


def _check_attempt(attempt: int, highest: int) -> None:
    if attempt <= highest:
        raise ProtocolViolation(CloseCode.SUPERSEDED, f"attempt {attempt} after {highest}")
