"""Mutants of what a session keeps when it changes its connection: its window, its queue, its limits."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.errors import CloseCode
from holdfast_reference.protocol.outgoing import EVENT, GAP, REFUSAL, Outgoing
from holdfast_reference.protocol.resume import Sessions, _digest
from holdfast_reference.protocol.states import SessionInput

from mutants.harness import Patch, mutant
from mutants.lives import attaches, on_decision, on_welcome
from mutants.tools import on_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.protocol.messages import Resume
    from holdfast_reference.protocol.outgoing import Item
    from holdfast_reference.protocol.session import Session

    from mutants.lives import Decide, Decision, Row
    from mutants.tools import Read


# The window


@mutant(
    "res/again-outside-the-window",
    violates="DEL-22",
    killed_by="del/window-counts-what-came-again",
    says="the highest number after a resume",
)
def _(patch: Patch) -> None:
    """What is sent again does not count in the window."""

    def widen(queue: Outgoing) -> None:
        limits = queue._limits
        queue._limits = replace(limits, window=limits.window + len(queue.unacked))

    attaches(patch, widen)


@mutant(
    "res/bytes-again-outside-the-window",
    violates="DEL-23",
    killed_by="del/bytes-count-what-came-again",
    says="left the window open",
)
def _(patch: Patch) -> None:
    """The bytes of what is sent again do not count in the window."""

    def widen(queue: Outgoing) -> None:
        limits = queue._limits
        queue._limits = replace(limits, window_bytes=limits.window_bytes + queue._unacked_bytes)

    attaches(patch, widen)


@mutant(
    "res/old-acks-close", violates="DEL-27", killed_by="del/old-acks-after-resume", says="closed with 4004"
)
def _(patch: Patch) -> None:
    """After a resume an ack below its `seq` is a fault."""

    def react(core: Connection, frame: Row, read: Read) -> Effects | None:
        seq = frame.get("seq")
        old = frame.get("type") == "ack" and isinstance(seq, int) and 0 < seq < core._outgoing.acked
        return core.close(CloseCode.BAD_ACK) if old and core._resume is not None else None

    on_frame(patch, react)


@mutant(
    "res/sixteen-again",
    violates="RES-29",
    killed_by="res/many-unacknowledged-again",
    says="the numbers of the frames",
)
def _(patch: Patch) -> None:
    """Only the newest 16 frames are sent again."""

    def attach(original: Callable[..., None], self: Outgoing) -> None:
        original(self)
        self._again = min(self._again, 16)

    patch.wrap(Outgoing, "attach", attach)


# Limits


def _on_resumed(patch: Patch, change: Callable[[Connection, Session], None]) -> None:
    """Let `change(core, session)` follow each welcome that resumes."""

    def welcome(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        effects = original(self, grant, now)
        if self._resume is not None and self.session is not None and self.session.origin != self.conn:
            change(self, self.session)
        return effects

    patch.wrap(Connection, "_welcome", welcome)


@mutant("res/window-of-the-resume", violates="RES-37", killed_by="res/window-stays", says="a window of")
def _(patch: Patch) -> None:
    """The window that a resume asks for is in force, although `welcome` shows that of the session."""

    def change(core: Connection, session: Session) -> None:
        if core._window is not None:
            window = min(core._window, session.limits.window)
            session.outgoing._limits = replace(session.outgoing._limits, window=window)

    _on_resumed(patch, change)


@mutant(
    "res/window-of-the-server", violates="RES-37", killed_by="res/window-stays", says="the highest number"
)
def _(patch: Patch) -> None:
    """A resume that asks for no window gets the server's own."""

    def change(core: Connection, session: Session) -> None:
        if core._window is None:
            session.outgoing._limits = replace(session.outgoing._limits, window=256)

    _on_resumed(patch, change)


@mutant(
    "res/max-frame-forgotten",
    violates="RES-37",
    killed_by="res/max-frame-stays",
    says="what stands for an event",
)
def _(patch: Patch) -> None:
    """A resume that names no frame limit lifts that of the first hello."""
    _on_resumed(patch, lambda core, session: setattr(session, "_max_out", core._max_out))


@mutant("res/rate-begins-anew", violates="RES-37", killed_by="res/rate-goes-on", says="within the rate")
def _(patch: Patch) -> None:
    """Each connection has a full bucket."""

    def refill(_: Connection, session: Session) -> None:
        if session.bucket is not None:
            session.bucket.level = session.bucket.rate.count

    _on_resumed(patch, refill)


# The queue


@mutant(
    "res/patterns-leak",
    violates="RES-35",
    killed_by="res/pattern-after-fewer-permissions",
    says="was delivered after the resume",
)
def _(patch: Patch) -> None:
    """What is queued for a pattern is delivered to whoever resumes."""
    patch.set(Outgoing, "forget_events", lambda self, id, unwanted: None)


def _while_suspended(patch: Patch, give_up: Callable[[Outgoing, int, Callable[[int], None]], None]) -> None:
    """Let `give_up(queue, victim, give_up)` stand for an overflow of a session without a connection, where
    the victim has a log.
    """
    gone: set[Outgoing] = set()

    def detach(original: Callable[..., None], self: Outgoing) -> None:
        gone.add(self)
        original(self)

    def instead(original: Callable[..., None], self: Outgoing, victim: int) -> None:
        if self in gone and victim in self.places:
            give_up(self, victim, lambda victim: original(self, victim))
        else:
            original(self, victim)

    attaches(patch, gone.discard)
    patch.wrap(Outgoing, "detach", detach)
    patch.wrap(Outgoing, "_give_up", instead)


@mutant(
    "res/overflow-is-silent",
    violates="DEL-35",
    killed_by="res/overflow-with-a-log",
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """While a session is suspended, an overflow with a log goes on with the newest event."""

    def give_up(self: Outgoing, victim: int, _: Callable[[int], None]) -> None:
        self._remove(lambda item: item[0] == EVENT and item[1] == victim)

    _while_suspended(patch, give_up)


@mutant(
    "res/overflow-is-lost",
    violates="DEL-35",
    killed_by="res/overflow-with-a-log",
    says="a gap where the log",
)
def _(patch: Patch) -> None:
    """While a session is suspended, an overflow leaves a gap, log or not."""

    def give_up(self: Outgoing, victim: int, original: Callable[[int], None]) -> None:
        place = self.places.pop(victim)
        original(victim)
        self.places[victim] = place

    _while_suspended(patch, give_up)


def _dies(patch: Patch, kind: int) -> None:
    """Let what is queued of one kind be lost when its connection goes."""

    def detach(original: Callable[..., None], self: Outgoing) -> None:
        original(self)
        kept: deque[Item] = deque()
        for item in self._queue:
            if item[0] != kind:
                kept.append(item)
                continue
            self._lost(item)
            if kind == GAP:
                del self._missed[item[1]]
        self._queue = kept

    patch.wrap(Outgoing, "detach", detach)


@mutant(
    "res/queued-refusals-lost", violates="RES-38", killed_by="res/queued-refusals", says='error "unsupported"'
)
def _(patch: Patch) -> None:
    """A refusal that waits for the window is lost with its connection."""
    _dies(patch, REFUSAL)


@mutant("res/queued-gap-lost", violates="RES-38", killed_by="res/queued-gap", says="no gap before it")
def _(patch: Patch) -> None:
    """A gap that waits for the window is lost with its connection."""
    _dies(patch, GAP)


@mutant(
    "res/last-id-of-what-was-answered",
    violates="RES-27",
    killed_by="res/queued-refusals",
    says="`last_id`",
)
def _(patch: Patch) -> None:
    """`last_id` does not count an id whose refusal waits for the window."""
    waiting: set[int] = set()

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        waiting.clear()
        if session is not None:
            waiting.update(item[1] for item in session.outgoing._queue if item[0] == REFUSAL)
        return decide(wanted)

    def lower(frame: Row) -> Row | None:
        last = frame.get("last_id")
        if not isinstance(last, int):
            return None
        return frame | {"last_id": max(id for id in range(last + 1) if id not in waiting)}

    on_decision(patch, react)
    on_welcome(patch, lower)


# The last checks of a resume


@mutant(
    "res/profiles-are-counted",
    violates="RES-22",
    killed_by="res/as-many-other-profiles",
    says="the session was resumed",
)
def _(patch: Patch) -> None:
    """A resume has to list as many profiles as its session has."""

    def resume(
        original: Callable[..., Decision],
        self: Sessions,
        wanted: Resume,
        grant: Grant,
        profiles: frozenset[str],
        now: float,
    ) -> Decision:
        session = self._sessions.get(_digest(wanted.session))
        if session is not None and len(session.profiles) == len(profiles):
            profiles = session.profiles
        return original(self, wanted, grant, profiles, now)

    patch.wrap(Sessions, "resume", resume)


@mutant(
    "res/seq-of-the-queue",
    violates="RES-23",
    killed_by="res/seq-of-what-waits",
    says="the session was resumed",
)
def _(patch: Patch) -> None:
    """A resume may name what is queued and was not sent."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        if session is not None:
            queue = session.outgoing
            if queue.sent < wanted.seq <= queue.sent + len(queue._queue):
                wanted = msgspec.structs.replace(wanted, seq=queue.sent)
        return decide(wanted)

    on_decision(patch, react)


@mutant(
    "res/mismatch-spares-the-suspended",
    violates="RES-24",
    killed_by="res/mismatch-ends-a-suspended-session",
    says="the session was resumed",
)
def _(patch: Patch) -> None:
    """A mismatch ends a session only if it has a connection."""

    def end(
        original: Callable[..., Effects], self: Sessions, session: Session, input: SessionInput, now: float
    ) -> Effects:
        spared = input is SessionInput.MISMATCH and session in _suspended(self)
        return [] if spared else original(self, session, input, now)

    patch.wrap(Sessions, "end", end)


def _suspended(sessions: Sessions) -> list[Session]:
    return [session for waiting in sessions._suspended.values() for session in waiting.values()]


@mutant(
    "res/late-hellos-prolong",
    violates="RES-19",
    killed_by="res/late-hellos-prolong-nothing",
    says="the session was resumed",
)
def _(patch: Patch) -> None:
    """A hello that comes too late shows that somebody is there, and the session is kept for longer."""

    def resume(
        original: Callable[..., Decision],
        self: Sessions,
        wanted: Resume,
        grant: Grant,
        profiles: frozenset[str],
        now: float,
    ) -> Decision:
        session = self._sessions.get(_digest(wanted.session))
        if session in _suspended(self) and wanted.attempt <= session.attempt:
            session.ends_at = now + session.limits.resume_ms / 1000
        return original(self, wanted, grant, profiles, now)

    patch.wrap(Sessions, "resume", resume)
