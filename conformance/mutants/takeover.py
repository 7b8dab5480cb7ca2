"""Mutants of spec/07-resume.md: which resumes are accepted, and what becomes of the older connection."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

import trio
from holdfast_reference.protocol import resume
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.effects import Close, Publish, Supersede
from holdfast_reference.protocol.resume import Refusal, Sessions
from holdfast_reference.protocol.session import Session
from holdfast_reference.protocol.states import Phase, SessionInput
from holdfast_reference.server.link import Link
from holdfast_reference.server.session import Session as Served
from msgspec.structs import replace

from mutants.harness import Patch, mutant
from mutants.lives import on_decision, wanted_by

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast_reference.protocol.effects import Authenticate, Effect, Effects
    from holdfast_reference.protocol.errors import ExchangeError
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.protocol.messages import Resume

    from mutants.lives import Decide, Decision, Row


def _refused(patch: Patch, change: Callable[[Refusal], Refusal]) -> None:
    """Change what a refused resume is told."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        found, effects = decide(wanted)
        return (change(found) if isinstance(found, Refusal) else found), effects

    on_decision(patch, react)


# Credentials


def _denied(patch: Patch, react: Callable[[Connection, Session, ExchangeError], Effects | None]) -> None:
    """Let `react` answer bad credentials of a hello that resumes; None refuses them as ever."""

    def denied(original: Callable[..., Effects], self: Connection, id: int, error: ExchangeError) -> Effects:
        session = wanted_by(self) if id == 0 else None
        reaction = None if session is None else react(self, session, error)
        return original(self, id, error) if reaction is None else reaction

    patch.wrap(Connection, "denied", denied)


@mutant("res/name-is-enough", violates="RES-16", killed_by="res/bad-credentials", says="it is still open")
def _(patch: Patch) -> None:
    """Who names a session needs no credentials."""

    def react(core: Connection, session: Session, _: ExchangeError) -> Effects:
        assert session.grant is not None
        return core.granted(0, session.grant, core._clock.received)

    _denied(patch, react)


@mutant(
    "res/bad-credentials-end-the-session",
    violates="RES-17",
    killed_by=["res/bad-credentials", "res/expired-credentials"],
    says="expected",
)
def _(patch: Patch) -> None:
    """A resume with bad credentials ends the session."""

    def react(core: Connection, session: Session, _: ExchangeError) -> Effects:
        sessions, now = core._sessions, core._clock.received
        return [
            *sessions._detach(session),
            *sessions.end(session, SessionInput.MISMATCH, now),
            *core.close(4101),
        ]

    _denied(patch, react)


@mutant("res/bad-credentials-count", violates="RES-17", killed_by="res/expired-credentials", says="4008")
def _(patch: Patch) -> None:
    """The attempt of a hello with bad credentials counts."""

    def react(core: Connection, session: Session, _: ExchangeError) -> None:
        assert core._resume is not None
        session.attempt = max(session.attempt, core._resume.attempt)

    _denied(patch, react)


# Whose session it is


@mutant("res/foreign-taken-over", violates="RES-18", killed_by="res/foreign-session", says="was resumed")
def _(patch: Patch) -> None:
    """Who knows the name of a session gets it."""
    patch.set(resume, "_is_same", lambda *_: True)


@mutant(
    "res/foreign-tombstone-told",
    violates="RES-18",
    killed_by="res/foreign-tombstone",
    says="refused with ended",
)
def _(patch: Patch) -> None:
    """Everybody is told what became of a session."""

    def react(self: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        tombstone = self._tombstones.get(resume._digest(wanted.session))
        if session is None and tombstone is not None:
            return Refusal(tombstone.why, tombstone.last_id), ()
        return decide(wanted)

    on_decision(patch, react)


@mutant(
    "res/foreign-is-refused-otherwise", violates="RES-18", killed_by="res/foreign-session", says="mismatch"
)
def _(patch: Patch) -> None:
    """Whoever names the session of another is told that it exists."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        found, effects = decide(wanted)
        if session is not None and isinstance(found, Refusal) and found.code == "not_found":
            found = Refusal("mismatch", 0)
        return found, effects

    on_decision(patch, react)


@mutant(
    "res/unknown-is-ended",
    violates="RES-18",
    killed_by=[
        "res/unknown-session",
        "res/forgotten-session",
        "res/foreign-session",
        "res/foreign-tombstone",
    ],
    says="refused with ended",
)
def _(patch: Patch) -> None:
    """A session that nobody knows has ended, surely."""
    _refused(patch, lambda told: Refusal("ended", 0) if told.code == "not_found" else told)


@mutant(
    "res/not-found-with-last-id",
    violates="RES-18",
    killed_by="res/unknown-session",
    says="comes with a last_id",
)
def _(patch: Patch) -> None:
    """`not_found` comes with the highest id of nothing."""
    _refused(patch, lambda told: told._replace(last_id=0) if told.last_id is None else told)


@mutant(
    "res/attempt-before-owner", violates="RES-18", killed_by="res/foreign-session", says="closed with 4008"
)
def _(patch: Patch) -> None:
    """The attempt is looked at before it is clear whose session it is."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        if session is not None:
            resume._check_attempt(wanted.attempt, session.attempt)
        return decide(wanted)

    on_decision(patch, react)


@mutant(
    "res/foreign-attempts-count", violates="RES-18", killed_by="res/foreign-session", says="closed with 4008"
)
def _(patch: Patch) -> None:
    """The attempts of others count."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        found, effects = decide(wanted)
        if session is not None:
            session.attempt = max(session.attempt, wanted.attempt)
        return found, effects

    on_decision(patch, react)


# The attempt


@mutant(
    "res/same-attempt-again", violates="RES-19", killed_by="res/attempt-not-higher", says="it is still open"
)
def _(patch: Patch) -> None:
    """An attempt may come twice."""

    def check(original: Callable[..., None], attempt: int, highest: int) -> None:
        original(attempt + 1 if highest else attempt, highest)

    patch.wrap(resume, "_check_attempt", check)


@mutant(
    "res/attempt-ignored",
    violates="RES-19",
    killed_by=["res/attempt-not-higher", "res/stale-hello"],
    says="it is still open",
)
def _(patch: Patch) -> None:
    """The order of arrival decides, whatever the attempts are."""
    patch.set(resume, "_check_attempt", lambda attempt, highest: None)


@mutant(
    "res/attempt-has-to-be-next", violates="RES-19", killed_by="res/two-at-once", says='expected "welcome"'
)
def _(patch: Patch) -> None:
    """Only the attempt that follows the last one is accepted."""

    def check(original: Callable[..., None], attempt: int, highest: int) -> None:
        original(attempt if attempt == highest + 1 else highest, highest)

    patch.wrap(resume, "_check_attempt", check)


def _late(patch: Patch, react: Callable[[Connection, int], Effects | None]) -> None:
    """Let `react(core, code)` answer a hello whose attempt comes too late; None closes it as ever."""

    def close(
        original: Callable[..., Effects], self: Connection, code: int, *rest: object, **how: object
    ) -> Effects:
        reaction = react(self, code) if code == 4008 and self._greeting else None
        return original(self, code, *rest, **how) if reaction is None else reaction

    patch.wrap(Connection, "close", close)


@mutant("res/late-is-a-fault", violates="RES-19", killed_by="res/attempt-not-higher", says="closed with 4000")
def _(patch: Patch) -> None:
    """A hello that comes too late is a fault of the client."""
    _late(patch, lambda core, _: core.close(4000, "late"))


@mutant("res/late-hello-disturbs", violates="RES-19", killed_by="res/stale-hello", says="expected")
def _(patch: Patch) -> None:
    """A hello that comes too late takes the connection from its session."""

    def react(core: Connection, _: int) -> None:
        session = wanted_by(core)
        if session is not None and session.attached is not None:
            session.attached.close(4008)

    _late(patch, react)


@mutant(
    "res/late-looked-at-last",
    violates="RES-16",
    killed_by="res/attempt-not-higher",
    says="it is still open",
)
def _(patch: Patch) -> None:
    """Profiles and numbers are compared before the attempt."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        if session is not None and not session.outgoing.acked <= wanted.seq <= session.outgoing.sent:
            return Refusal("mismatch", session.exchanges.last_id), ()
        return decide(wanted)

    on_decision(patch, react)


@mutant(
    "res/attempt-counts-when-it-works",
    violates="RES-16",
    killed_by="res/attempt-of-a-tombstone",
    says="attempt 4 was answered",
)
def _(patch: Patch) -> None:
    """An attempt counts once it was accepted."""

    def recall(original: Callable[..., Refusal], self: Sessions, secret: bytes, *rest: object) -> Refusal:
        before = self._tombstones.get(secret)
        told = original(self, secret, *rest)
        if before is not None:
            self._tombstones[secret] = before
        return told

    patch.wrap(Sessions, "_recall", recall)


@mutant(
    "res/tombstones-forget-attempts",
    violates="RES-16",
    killed_by="res/attempt-of-a-tombstone",
    says="attempt 3 was answered",
)
def _(patch: Patch) -> None:
    """What is left of a session knows nothing of attempts."""

    def end(original: Callable[..., Effects], self: Sessions, session: Session, *rest: object) -> Effects:
        session.attempt = 0
        return original(self, session, *rest)

    patch.wrap(Sessions, "end", end)


# Tombstones and mismatches


@mutant(
    "res/mismatch-before-tombstone",
    violates="RES-16",
    killed_by="res/tombstone-before-mismatch",
    says="refused with mismatch",
)
def _(patch: Patch) -> None:
    """A number that cannot be is a mismatch, also when the session has ended."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        found, effects = decide(wanted)
        if session is None and isinstance(found, Refusal) and found.code == "ended" and wanted.seq > 2:
            found = found._replace(code="mismatch")
        return found, effects

    on_decision(patch, react)


@mutant(
    "res/last-id-of-a-refusal",
    violates="RES-21",
    killed_by=["res/ended-session", "res/ended-by-faults", "res/attempt-of-a-tombstone"],
    says="the last_id of the refusal",
)
def _(patch: Patch) -> None:
    """A refusal names the id that would come next."""
    _refused(patch, lambda told: told if told.last_id is None else told._replace(last_id=told.last_id + 1))


@mutant("res/ended-is-expired", violates="RES-21", killed_by="res/ended-session", says="refused with expired")
def _(patch: Patch) -> None:
    """Whatever is over has expired."""
    _refused(patch, lambda told: told._replace(code="expired") if told.code == "ended" else told)


@mutant("res/other-profiles-accepted", violates="RES-22", killed_by="res/other-profiles", says="was resumed")
def _(patch: Patch) -> None:
    """A resume takes whatever profiles it asks for."""

    def decide(
        original: Callable[..., Decision],
        self: Sessions,
        wanted: Resume,
        grant: Grant,
        profiles: frozenset[str],
        now: float,
    ) -> Decision:
        session = self._sessions.get(resume._digest(wanted.session))
        return original(self, wanted, grant, profiles if session is None else session.profiles, now)

    patch.wrap(Sessions, "resume", decide)


@mutant("res/more-profiles-accepted", violates="RES-22", killed_by="res/other-profiles", says="was resumed")
def _(patch: Patch) -> None:
    """A resume may ask for more profiles than those of the session."""

    def decide(
        original: Callable[..., Decision],
        self: Sessions,
        wanted: Resume,
        grant: Grant,
        profiles: frozenset[str],
        now: float,
    ) -> Decision:
        session = self._sessions.get(resume._digest(wanted.session))
        if session is not None and session.profiles < profiles:
            profiles = session.profiles
        return original(self, wanted, grant, profiles, now)

    patch.wrap(Sessions, "resume", decide)


def _seq(patch: Patch, change: Callable[[int, Session], int]) -> None:
    """Let a resume ask for another number."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        if session is not None:
            wanted = replace(wanted, seq=change(wanted.seq, session))
        return decide(wanted)

    on_decision(patch, react)


@mutant("res/seq-ahead-accepted", violates="RES-23", killed_by="res/seq-never-sent", says="was resumed")
def _(patch: Patch) -> None:
    """A number that was never sent is as good as the highest."""
    _seq(patch, lambda seq, session: min(seq, session.outgoing.sent))


@mutant("res/seq-one-ahead-accepted", violates="RES-23", killed_by="res/seq-never-sent", says="was resumed")
def _(patch: Patch) -> None:
    """The number of the next frame is good, too."""
    _seq(patch, lambda seq, session: seq - (seq == session.outgoing.sent + 1))


@mutant("res/seq-behind-accepted", violates="RES-23", killed_by="res/seq-acknowledged", says="was resumed")
def _(patch: Patch) -> None:
    """Whoever asks for frames that are gone gets the rest."""
    _seq(patch, lambda seq, session: max(seq, session.outgoing.acked))


@mutant("res/seq-at-the-edge-refused", violates="RES-27", killed_by="res/seq-at-the-edges", says="mismatch")
def _(patch: Patch) -> None:
    """A client that has received everything is refused."""
    _seq(patch, lambda seq, session: seq + (seq == session.outgoing.sent > 0))


def _mismatch(patch: Patch, react: Callable[[Sessions, Session, Decision], Decision]) -> None:
    """Change what becomes of a session whose resume is a mismatch."""

    def decide(sessions: Sessions, session: Session | None, wanted: Resume, go: Decide) -> Decision:
        found = go(wanted)
        if session is not None and isinstance(found[0], Refusal) and found[0].code == "mismatch":
            return react(sessions, session, found)
        return found

    on_decision(patch, decide)


@mutant(
    "res/mismatch-leaves-the-connection",
    violates="RES-24",
    killed_by="res/mismatch-ends-the-session",
    says="it is still open",
)
def _(patch: Patch) -> None:
    """After a mismatch the older connection stays."""

    def react(_: Sessions, __: Session, found: Decision) -> Decision:
        return found[0], [effect for effect in found[1] if not isinstance(effect, Supersede)]

    _mismatch(patch, react)


@mutant(
    "res/mismatch-changes-nothing",
    violates="RES-24",
    killed_by="res/mismatch-ends-the-session",
    says="was resumed",
)
def _(patch: Patch) -> None:
    """A mismatch takes the session from its connection, and keeps it for a better resume."""

    def end(
        original: Callable[..., Effects], self: Sessions, session: Session, input: SessionInput, now: float
    ) -> Effects:
        if input is SessionInput.MISMATCH:
            return self.suspend(session, now)
        return original(self, session, input, now)

    patch.wrap(Sessions, "end", end)


@mutant(
    "res/mismatch-lets-work-go-on",
    violates="SES-45",
    killed_by="res/mismatch-ends-the-session",
    says="the work of the session went on",
)
def _(patch: Patch) -> None:
    """What a session was doing when it ended by a mismatch goes on."""

    def end(original: Callable[..., None], self: Served) -> None:
        if self.core.attempt == 0:
            original(self)

    patch.wrap(Served, "end", end)


@mutant(
    "res/same-name-again",
    violates="RES-26",
    killed_by=["res/ended-session", "res/other-profiles", "res/mismatch-ends-the-session"],
    says="did not get a session of its own",
)
def _(patch: Patch) -> None:
    """The session that is opened instead gets the name that was asked for."""

    def resumption(original: Callable[..., Row], self: Connection, found: Session | Refusal | None) -> Row:
        members = original(self, found)
        return members | {"session": self._resume.session} if self._resume is not None else members

    patch.wrap(Connection, "_resumption", resumption)


@mutant(
    "res/opened-instead-forgotten",
    violates="RES-26",
    killed_by="res/unknown-session",
    says="for the session that was opened instead",
)
def _(patch: Patch) -> None:
    """The session that is opened in place of another cannot be resumed."""

    def welcome(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        effects = original(self, grant, now)
        if self._resume is not None and self.session.origin == self.conn:
            self._sessions.forget(self.session)
        return effects

    patch.wrap(Connection, "_welcome", welcome)


# The older connection


def _superseding(patch: Patch, change: Callable[[Connection, Close], Close | None]) -> None:
    """Change how the older connection of a session is closed; None leaves it open."""

    def detach(original: Callable[..., list[Effect]], self: Sessions, session: Session) -> list[Effect]:
        older = session.attached
        effects: list[Effect] = []
        for effect in original(self, session):
            if isinstance(effect, Supersede) and older is not None:
                close = change(older, effect.close)
                effects += [] if close is None else [Supersede(effect.conn, close)]
            else:
                effects.append(effect)
        return effects

    patch.wrap(Sessions, "_detach", detach)


@mutant(
    "res/older-stays-open", violates="RES-30", killed_by=["res/takeover", "res/ten-takeovers"], says="4008"
)
def _(patch: Patch) -> None:
    """The older connection of a session is left to itself."""
    _superseding(patch, lambda older, close: None)


@mutant("res/older-goes-away", violates="RES-30", killed_by="res/takeover", says="closed with 1001")
def _(patch: Patch) -> None:
    """The older connection is closed as if the server went away."""
    _superseding(patch, lambda older, close: close._replace(code=1001, reason="going_away"))


@mutant(
    "res/older-input-runs",
    violates="RES-31",
    killed_by=["res/old-input-dies", "res/half-a-frame"],
    says="must not come",
)
def _(patch: Patch) -> None:
    """What the older connection still brings is acted on until its closing handshake is over."""
    older: set[Connection] = set()

    def supersede(original: Callable[..., Close], self: Connection) -> Close:
        older.add(self)
        return original(self)

    def receive(original: Callable[..., Effects], self: Connection, text: bytes, now: float) -> Effects:
        if self not in older:
            return original(self, text, now)
        self.phase = Phase.READY
        effects = original(self, text, now)
        self.phase = Phase.CLOSED
        return effects

    def apply(original: Callable[..., None], self: Link, effect: Effect) -> None:
        if isinstance(effect, Publish) and self.session is None:
            served = cast("dict[str, Served]", vars(self.owner)["sessions"])[self.core.session.origin]
            served._publish(effect)
        else:
            original(self, effect)

    patch.wrap(Connection, "supersede", supersede)
    patch.wrap(Connection, "receive", receive)
    patch.wrap(Link, "_apply", apply)


@mutant("res/older-hears-on", violates="RES-32", killed_by="res/takeover", says="got a frame too")
def _(patch: Patch) -> None:
    """The older connection gets the events of its session for a while."""
    older: dict[Session, Link] = {}

    async def later(original: Callable[..., None], link: Link, close: Close) -> None:
        await trio.sleep(0.2)
        original(link, close)

    def supersede(original: Callable[..., None], self: Link, close: Close) -> None:
        assert self.session is not None
        older[self.session.core] = self
        self.session.owner.start(later, original, self, close)

    def deliver(original: Callable[..., bool], self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        if self in older and not older[self]._closing:
            text = b'{"type":"event","id":%d,"seq":99%b' % (id, event.cursor_tail)
            older[self].core._outgoing.urgent(text)
            older[self].touch()
        return original(self, id, event, lossy=lossy)

    patch.wrap(Link, "supersede", supersede)
    patch.wrap(Session, "deliver", deliver)


@mutant(
    "res/welcome-waits-for-the-older",
    violates="RES-33",
    killed_by="res/takeover-waits-for-nobody",
    says="was answered after",
)
def _(patch: Patch) -> None:
    """A resume is answered when the older connection has ended."""

    gone: dict[Link, trio.Event] = {}
    patch.config = lambda config: dataclasses.replace(
        config, timers=dataclasses.replace(config.timers, close_ms=6000)
    )

    async def run(original: Callable[..., Awaitable[None]], self: Link, data: bytes) -> None:
        gone[self] = trio.Event()
        await original(self, data)
        gone[self].set()

    async def ask(original: Callable[..., Awaitable[None]], self: Link, effect: Authenticate) -> None:
        session = wanted_by(self.core) if effect.id == 0 else None
        if session is not None and session.attached is not None:
            links = cast("dict[str, Link]", vars(self.owner)["links"])
            link = links[session.attached.conn]
            link.do(link.core.close(4008))
            await gone[link].wait()
        await original(self, effect)

    patch.wrap(Link, "run", run)
    patch.wrap(Link, "_ask", ask)
