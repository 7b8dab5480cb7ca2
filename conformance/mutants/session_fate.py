"""Mutants of spec/07-resume.md: which sessions are kept, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.protocol import connection, resume
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.fates import NO_CODE, NO_FRAME
from holdfast_reference.protocol.resume import Sessions
from holdfast_reference.protocol.states import SessionInput
from holdfast_reference.protocol.timers import NEVER
from holdfast_reference.server.session import Session as Served

from mutants.harness import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.protocol.session import Session


def _fate(patch: Patch, **fates: bool) -> None:
    """Change what some codes mean for a session."""
    table = {int(code[1:]): kept for code, kept in fates.items()}
    patch.wrap(connection, "keeps", lambda original, code: table.get(int(code), original(code)))


@mutant(
    "res/ends-with-the-stream",
    violates="RES-05",
    killed_by=["res/kept-without-goodbye", "res/kept-after-abort"],
    says="the session was lost",
)
def _(patch: Patch) -> None:
    """A connection that ends without a close frame takes its session along."""
    _fate(patch, **{f"c{NO_FRAME}": False})


@mutant(
    "res/ends-with-any-close-frame",
    violates="RES-05",
    killed_by=["res/kept-by-the-client", "res/kept-by-the-server"],
    says="the session was lost",
)
def _(patch: Patch) -> None:
    """Only a connection without a close frame leaves its session behind."""
    patch.set(connection, "keeps", lambda code: code == NO_FRAME)


@mutant(
    "res/ends-with-private-codes",
    violates="RES-05",
    killed_by=["res/kept-by-the-client", "res/kept-by-the-server"],
    says="closed with 3000",
)
def _(patch: Patch) -> None:
    """Codes of other registries end a session."""
    patch.wrap(connection, "keeps", lambda original, code: not 3000 <= code < 4000 and original(code))


@mutant(
    "res/ends-with-a-pause",
    violates="RES-05",
    killed_by="res/kept-by-the-client",
    says="closed with 4599",
)
def _(patch: Patch) -> None:
    """Of the codes of clients that pause one is unknown."""
    _fate(patch, c4599=False)


@mutant(
    "res/drained-ends", violates="RES-05", killed_by="res/kept-after-drain", says="the deadline of a drain"
)
def _(patch: Patch) -> None:
    """With its deadline a drain ends the session."""
    _fate(patch, c4200=False)


@mutant("res/goodbye-keeps", violates="RES-06", killed_by="res/ended-by-the-client", says="closed with 1000")
def _(patch: Patch) -> None:
    """A session outlives the goodbye of its client."""
    _fate(patch, c1000=True)


@mutant(
    "res/goodbye-without-code-keeps", violates="RES-06", killed_by="res/ended-by-the-client", says="no code"
)
def _(patch: Patch) -> None:
    """A session outlives a goodbye without a code."""
    _fate(patch, **{f"c{NO_CODE}": True})


@mutant(
    "res/faults-keep",
    violates="RES-06",
    killed_by=["res/ended-by-faults", "res/ended-by-the-server", "res/ended-by-the-client"],
    says="was resumed although",
)
def _(patch: Patch) -> None:
    """A session outlives the faults of its client."""
    patch.wrap(connection, "keeps", lambda original, code: 4000 <= code < 4100 or original(code))


@mutant("res/revoked-keeps", violates="RES-06", killed_by="res/ended-by-the-server", says="closed with 4103")
def _(patch: Patch) -> None:
    """A session outlives the revocation of its credentials."""
    _fate(patch, c4103=True)


@mutant("res/bad-server-frame-keeps", violates="RES-06", killed_by="res/ended-by-the-client", says="4501")
def _(patch: Patch) -> None:
    """A session outlives the complaint of a client that its frames make no sense."""
    _fate(patch, c4501=True)


# Time


def _kept_until(patch: Patch, until: Callable[[Session, float], float]) -> None:
    """Change until when a session is kept that is suspended now."""

    def suspend(original: Callable[..., Effects], self: Sessions, session: Session, now: float) -> Effects:
        effects = original(self, session, now)
        if session.secret:
            session.ends_at = until(session, now)
        return effects

    patch.wrap(Sessions, "suspend", suspend)


@mutant(
    "res/kept-too-briefly",
    violates="RES-09",
    killed_by=["res/resume-ms-over", "res/resume-ms-begins-anew"],
    says="the session was lost",
)
def _(patch: Patch) -> None:
    """A session is kept for a third of `resume_ms`."""
    _kept_until(patch, lambda session, now: now + session.limits.resume_ms / 3000)


@mutant(
    "res/counted-from-the-start",
    violates="RES-09",
    killed_by="res/resume-ms-begins-anew",
    says="the session was lost before",
)
def _(patch: Patch) -> None:
    """`resume_ms` counts from the beginning of the session."""
    begun: dict[Session, float] = {}

    def begin(original: Callable[..., Session], self: Connection, grant: Grant, now: float) -> Session:
        session = original(self, grant, now)
        begun[session] = now
        return session

    patch.wrap(Connection, "_begin", begin)
    _kept_until(patch, lambda session, now: begun[session] + session.limits.resume_ms / 1000)


@mutant("res/kept-for-ever", violates="RES-10", killed_by="res/resume-ms-over", says="was resumed")
def _(patch: Patch) -> None:
    """A suspended session waits for its client for ever."""
    _kept_until(patch, lambda session, now: NEVER)


@mutant(
    "res/expired-work-goes-on", violates="SES-45", killed_by="res/expired-work-stops", says="must not come"
)
def _(patch: Patch) -> None:
    """What a session does goes on when it expires."""

    def end(original: Callable[..., None], self: Served) -> None:
        if self.link is not None:
            original(self)

    patch.wrap(Served, "end", end)


@mutant(
    "res/newest-is-pushed-out", violates="RES-09", killed_by="res/many-dropped", says="suspended last is gone"
)
def _(patch: Patch) -> None:
    """When there are too many suspended sessions the newest is ended."""

    def suspend(original: Callable[..., Effects], self: Sessions, session: Session, now: float) -> Effects:
        assert session.grant is not None
        if len(self._suspended.get(session.grant.principal, {})) >= self.settings.suspended:
            return self.end(session, SessionInput.CONNECTION_END, now)
        return original(self, session, now)

    patch.wrap(Sessions, "suspend", suspend)


@mutant("res/one-bound-for-all", violates="RES-09", killed_by="res/many-dropped", says="expected")
def _(patch: Patch) -> None:
    """Too many suspended sessions of one principal push out those of others."""

    def suspend(original: Callable[..., Effects], self: Sessions, session: Session, now: float) -> Effects:
        effects = [*original(self, session, now)]
        waiting = [(each.ends_at, each) for some in self._suspended.values() for each in some.values()]
        if len(waiting) > self.settings.suspended - 2:
            oldest = min(waiting, key=lambda pair: pair[0])[1]
            effects += self.end(oldest, SessionInput.EVICTION, now)
        return effects

    patch.wrap(Sessions, "suspend", suspend)


# Tombstones


@mutant(
    "res/no-tombstones", violates="RES-12", killed_by="res/ended-session", says="nothing is known any more"
)
def _(patch: Patch) -> None:
    """Nothing is left of a session that has ended."""

    def end(original: Callable[..., Effects], self: Sessions, session: Session, *rest: object) -> Effects:
        effects = original(self, session, *rest)
        if session.secret in self._tombstones:
            self._clear(session.secret)
        return effects

    patch.wrap(Sessions, "end", end)


@mutant("res/expired-is-ended", violates="RES-20", killed_by="res/resume-ms-over", says="refused with ended")
def _(patch: Patch) -> None:
    """A session that expired has ended, like any other."""
    patch.set(resume, "_WHY", dict.fromkeys(SessionInput, "ended"))


@mutant("res/expired-without-its-id", violates="RES-20", killed_by="res/resume-ms-over", says="the last_id")
def _(patch: Patch) -> None:
    """What is left of an expired session does not know how far it came."""

    def end(
        original: Callable[..., Effects], self: Sessions, session: Session, input: SessionInput, now: float
    ) -> Effects:
        effects = original(self, session, input, now)
        if input is SessionInput.SUSPENSION_TIMEOUT and session.secret in self._tombstones:
            self._tombstones[session.secret] = self._tombstones[session.secret]._replace(last_id=0)
        return effects

    patch.wrap(Sessions, "end", end)
