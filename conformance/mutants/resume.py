"""Mutants of spec/07-resume.md: what a resumed session is."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.correlation import Pool
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.limits import SEQ_ROOM
from holdfast_reference.protocol.outgoing import CALL_END, EVENT, OPEN, SUBSCRIPTION_END, Outgoing
from holdfast_reference.protocol.resume import Sessions
from holdfast_reference.protocol.session import Session
from msgspec.structs import replace

from mutants.harness import Patch, mutant
from mutants.lives import attaches, on_decision, on_welcome, wanted_by
from mutants.tools import on_frame, varied

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.protocol.messages import Resume
    from holdfast_reference.protocol.outgoing import Item

    from mutants.lives import Decide, Decision, Row
    from mutants.tools import Read


# The name


@mutant(
    "res/no-name",
    violates="RES-01",
    killed_by="res/welcome-names-the-session",
    says="welcome has no `session`",
)
def _(patch: Patch) -> None:
    """Welcome does not name the session."""
    on_welcome(patch, lambda frame: {k: v for k, v in frame.items() if k != "session"})


@mutant(
    "res/no-resumed",
    violates="RES-01",
    killed_by="res/welcome-names-the-session",
    says="welcome has no `resumed`",
)
def _(patch: Patch) -> None:
    """Welcome says nothing of resumption when nothing was resumed."""
    on_welcome(patch, lambda frame: {k: v for k, v in frame.items() if k != "resumed" or v})


def _named(patch: Patch, name: Callable[[], str]) -> None:
    """Let fresh sessions be called otherwise."""
    on_welcome(patch, lambda frame: frame | {"session": name()} if frame.get("resumed") is False else None)


@mutant(
    "res/names-repeat", violates="RES-02", killed_by="res/names-are-drawn", says="two sessions got one name"
)
def _(patch: Patch) -> None:
    """There are a dozen names, which go round."""
    names = [uuid.uuid4().hex + uuid.uuid4().hex for _ in range(12)]
    numbers = count()
    _named(patch, lambda: names[next(numbers) % 12])


@mutant("res/names-count", violates="RES-03", killed_by="res/names-are-drawn", says="vary in")
def _(patch: Patch) -> None:
    """The name of a session is a number behind a prefix that is random once."""
    prefix, numbers = uuid.uuid4().hex, count()
    _named(patch, lambda: f"{prefix}-{next(numbers)}")


@mutant("res/names-are-short", violates="RES-03", killed_by="res/names-are-drawn", says="vary in")
def _(patch: Patch) -> None:
    """The name of a session has 64 random bits."""
    _named(patch, lambda: uuid.uuid4().hex[:16])


@mutant("res/names-are-uuids", violates="RES-03", killed_by="res/names-are-drawn", says="122 bits")
def _(patch: Patch) -> None:
    """The name of a session is a random UUID, which has 122 random bits."""
    _named(patch, lambda: str(uuid.uuid4()))


@mutant(
    "res/always-resumed",
    violates="RES-04",
    killed_by="res/welcome-names-the-session",
    says="`resumed` to be",
)
def _(patch: Patch) -> None:
    """Every welcome says that the session was resumed."""
    on_welcome(patch, lambda frame: frame | {"resumed": True, "last_id": 0} if "resumed" in frame else None)


@mutant(
    "res/error-without-a-wish",
    violates="RES-04",
    killed_by="res/welcome-names-the-session",
    says="nobody asked for",
)
def _(patch: Patch) -> None:
    """A hello without a resume is told that nothing was found."""
    on_welcome(
        patch,
        lambda frame: (
            {"resume_error": {"code": "not_found"}} | frame if frame.get("resumed") is False else None
        ),
    )


# Accepted


@mutant(
    "res/last-id-above",
    violates="RES-27",
    killed_by=["res/clean-resume", "res/nothing-received-yet"],
    says="`last_id`",
)
def _(patch: Patch) -> None:
    """The `last_id` of an accepted resume is the next one to be expected."""
    on_welcome(
        patch,
        lambda frame: frame | {"last_id": int(str(frame["last_id"])) + 1} if "last_id" in frame else None,
    )


@mutant("res/another-name", violates="RES-27", killed_by="res/clean-resume", says="`session`")
def _(patch: Patch) -> None:
    """A resumed session gets a new name."""
    on_welcome(
        patch, lambda frame: frame | {"session": uuid.uuid4().hex * 2} if frame.get("resumed") else None
    )


@mutant("res/profiles-in-order", violates="RES-27", killed_by="res/order-of-profiles", says="it was refused")
def _(patch: Patch) -> None:
    """A resume has to list the profiles as the first hello did."""
    orders: dict[Session, list[str]] = {}
    hellos: dict[Connection, list[str]] = {}

    def first(original: Callable[..., Effects], self: Connection, message: object) -> Effects:
        hellos[self] = [
            name for name in getattr(message, "profiles", ()) if name in self._sessions.settings.profiles
        ]
        return original(self, message)

    def welcome(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        if self._resume is not None:
            session = wanted_by(self)
            if session is not None and orders.get(session) != hellos[self]:
                self.profiles = self.profiles - {"rpc"}
        effects = original(self, grant, now)
        orders[self.session] = hellos[self]
        return effects

    patch.wrap(Connection, "_read_first", first)
    patch.wrap(Connection, "_welcome", welcome)


@mutant(
    "res/seq-acknowledges-nothing",
    violates="RES-28",
    killed_by="res/seq-acknowledges",
    says="expected the event",
)
def _(patch: Patch) -> None:
    """The `seq` of a resume is compared and then forgotten."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        if session is not None and session.outgoing.acked <= wanted.seq <= session.outgoing.sent:
            wanted = replace(wanted, seq=session.outgoing.acked)
        return decide(wanted)

    on_decision(patch, react)


@mutant(
    "res/seq-can-be-taken-back",
    violates="RES-28",
    killed_by="res/seq-acknowledged",
    says="the session was resumed",
)
def _(patch: Patch) -> None:
    """A resume may ask for less than the one before it."""
    asked: dict[Outgoing, int] = {}

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        if session is not None and asked.get(session.outgoing, 0) > wanted.seq:
            wanted = replace(wanted, seq=session.outgoing.acked)
        found = decide(wanted)
        if session is not None:
            asked[session.outgoing] = wanted.seq
        return found

    on_decision(patch, react)


@mutant(
    "res/nothing-again",
    violates="RES-29",
    killed_by=["res/unacknowledged-again"],
    says="the numbers of the frames that come again",
)
def _(patch: Patch) -> None:
    """What was written counts as received."""
    patch.set(Outgoing, "attach", lambda self: None)


@mutant(
    "res/one-too-few-again",
    violates="RES-29",
    killed_by=["res/unacknowledged-again", "res/welcome-lost"],
    says="again",
)
def _(patch: Patch) -> None:
    """The `seq` of a resume is taken as the next frame to be expected."""
    patch.set(Outgoing, "attach", lambda self: setattr(self, "_again", max(0, len(self.unacked) - 1)))


@mutant(
    "res/again-with-new-numbers",
    violates="RES-29",
    killed_by="res/unacknowledged-again",
    says="the numbers of the frames that come again",
)
def _(patch: Patch) -> None:
    """What is sent again gets new numbers."""

    def attach(self: Outgoing) -> None:
        for text in reversed(self.unacked):
            head, tail = re.split(rb',"seq":\d+', text, maxsplit=1)
            self._queue.appendleft((OPEN, 0, head, tail, 0))
            self.counts[OPEN] += 1
            self.size += len(head) + len(tail)
        self.unacked.clear()
        self._unacked_bytes = 0
        self.acked = self.sent

    patch.set(Outgoing, "attach", attach)


@mutant(
    "res/again-made-anew",
    violates="RES-29",
    killed_by="res/unacknowledged-again",
    says="sent again,",
)
def _(patch: Patch) -> None:
    """What is sent again is made anew from what is known by then."""

    def before(queue: Outgoing) -> None:
        queue.unacked = deque(
            text.replace(b'"data":{"n":', b'"data":{"late":true,"n":') for text in queue.unacked
        )

    attaches(patch, before)


@mutant(
    "res/old-again-for-ever",
    violates="RES-28",
    killed_by="res/seq-acknowledges",
    says="came again",
)
def _(patch: Patch) -> None:
    """Everything that was not acknowledged by an `ack` is sent again, whatever `seq` says."""
    kept: dict[Outgoing, deque[bytes]] = {}

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        if session is not None:
            kept[session.outgoing] = session.outgoing.unacked.copy()
        return decide(wanted)

    def attach(self: Outgoing) -> None:
        for text in kept.pop(self, ()):
            self._urgent.append(text)

    def welcomed(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        effects = original(self, grant, now)
        self._outgoing._urgent.sort(key=lambda text: not text.startswith(b'{"type":"welcome"'))
        return effects

    on_decision(patch, react)
    patch.set(Outgoing, "attach", attach)
    patch.wrap(Connection, "_welcome", welcomed)


def _lost(patch: Patch, unwanted: Callable[[Item], bool]) -> None:
    """Let a part of what is queued be lost when a session gets a connection."""

    def before(queue: Outgoing) -> None:
        rest = [item for item in queue._queue if not unwanted(item)]
        for item in queue._queue:
            if item not in rest:
                queue._lost(item)
        queue._queue = deque(rest)

    attaches(patch, before)


@mutant(
    "res/queue-lost",
    violates="RES-38",
    killed_by="res/queued-while-suspended",
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """Events that were queued while nobody was there are lost."""
    _lost(patch, lambda item: item[0] == EVENT)


@mutant("res/results-lost", violates="RES-38", killed_by="res/work-goes-on", says="expected")
def _(patch: Patch) -> None:
    """Results that were queued while nobody was there are lost."""
    _lost(patch, lambda item: item[0] == CALL_END)


@mutant("res/results-twice", violates="RPC-01", killed_by="res/work-goes-on", says="the number of results")
def _(patch: Patch) -> None:
    """A result that was queued while nobody was there is sent once more with the next connection."""
    late: dict[Outgoing, list[Item]] = {}

    def before(queue: Outgoing) -> None:
        for item in late.pop(queue, []):
            queue._append(item)
        late[queue] = [item for item in queue._queue if item[0] == CALL_END]

    attaches(patch, before)


@mutant(
    "res/cancel-lost", violates="RPC-06", killed_by="res/cancel-before-the-cut", says="expected the terminal"
)
def _(patch: Patch) -> None:
    """The terminals of what was cancelled are lost with the connection."""
    _lost(patch, lambda item: item[0] in (CALL_END, SUBSCRIPTION_END) and b'"data"' not in item[3])


@mutant(
    "res/overflow-unsaid",
    violates="DEL-03",
    killed_by="res/overflow-while-suspended",
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """While a session is suspended its queue overflows without a gap."""

    def deliver(original: Callable[..., bool], self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        full = self.outgoing.counts[EVENT] >= self.limits.queue
        return (self.attached is None and full) or original(self, id, event, lossy=lossy)

    patch.wrap(Session, "deliver", deliver)


@mutant(
    "res/limits-of-the-new-hello", violates="RES-37", killed_by="res/limits-stay", says="expected the event"
)
def _(patch: Patch) -> None:
    """After a resume the client takes as much as its newest hello says."""

    def welcome(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        effects = original(self, grant, now)
        self.session._max_out = self._max_out - SEQ_ROOM
        return effects

    patch.wrap(Connection, "_welcome", welcome)


@mutant("res/limits-told-anew", violates="RES-37", killed_by="res/limits-stay", says="`limits`")
def _(patch: Patch) -> None:
    """The welcome of a resumed session shows other limits."""

    def change(frame: Row) -> Row | None:
        limits = frame["limits"]
        assert isinstance(limits, dict)
        return frame | {"limits": limits | {"window": 1}} if frame.get("resumed") else None

    on_welcome(patch, change)


@mutant("res/echo-forgotten", violates="SUB-15", killed_by="res/echo-after-resume", says="must not come")
def _(patch: Patch) -> None:
    """`echo:false` keeps an event from its connection, not from its session."""

    def deliver(original: Callable[..., bool], self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        if self.attached is not None and event.exclude == self.origin != self.attached.conn:
            event = varied(event, exclude="")
        return original(self, id, event, lossy=lossy)

    patch.wrap(Session, "deliver", deliver)


# Work


@mutant(
    "res/work-stops", violates="RES-07", killed_by=["res/work-goes-on", "res/stream-goes-on"], says="expected"
)
def _(patch: Patch) -> None:
    """With the connection the requests that run are cancelled."""

    def suspend(original: Callable[..., Effects], self: Sessions, session: Session, now: float) -> Effects:
        effects = [*original(self, session, now)]
        for id, exchange in list(session.exchanges.running.items()):
            if exchange.pool is Pool.CALLS:
                effects += session.fail(id, ExchangeError(ErrorCode.CANCELLED, ""))
        return effects

    patch.wrap(Sessions, "suspend", suspend)


@mutant(
    "res/cancel-of-older-work-ignored",
    violates="RPC-06",
    killed_by="res/cancel-again",
    says="expected the terminal",
)
def _(patch: Patch) -> None:
    """A connection cancels requests that it has started itself, and no others."""
    begun: dict[Connection, int] = {}

    def welcome(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        effects = original(self, grant, now)
        begun[self] = self.session.exchanges.last_id
        return effects

    def react(core: Connection, frame: Row, read: Read) -> Effects | None:
        of = frame.get("of")
        if frame.get("type") != "cancel" or not isinstance(of, int) or of > begun.get(core, 0):
            return None
        exchange = core.session.exchanges.running.get(of)
        return () if exchange is not None and exchange.pool is Pool.CALLS else None

    patch.wrap(Connection, "_welcome", welcome)
    on_frame(patch, react)


@mutant("res/second-hello-ignored", violates="SES-03", killed_by="res/second-hello", says="it is still open")
def _(patch: Patch) -> None:
    """A second hello that resumes the session of its own connection is ignored."""

    def react(core: Connection, frame: Row, read: Read) -> Effects | None:
        return () if frame.get("type") == "hello" and "resume" in frame and core.session.grant else None

    on_frame(patch, react)


@mutant("res/same-token-again", violates="RES-27", killed_by="res/same-principal", says="it was refused")
def _(patch: Patch) -> None:
    """A session is resumed with the token alone that it began with."""
    tokens: dict[str, object] = {}

    def react(core: Connection, frame: Row, read: Read) -> Effects | None:
        wanted = frame.get("resume")
        if frame.get("type") != "hello" or core.session.grant is not None:
            return None
        token = frame.get("auth")
        if not isinstance(wanted, dict):
            tokens[core._secret] = token
        elif tokens.get(str(wanted.get("session")), token) != token:
            return read(frame | {"resume": wanted | {"session": "another"}})
        return None

    on_frame(patch, react)


@mutant(
    "res/clocks-stop",
    violates="RES-08",
    killed_by="res/timeout-while-suspended",
    says="only after the resume",
)
def _(patch: Patch) -> None:
    """The time in which a session is suspended does not count for its requests."""
    since: dict[Session, float] = {}

    def suspend(original: Callable[..., Effects], self: Sessions, session: Session, now: float) -> Effects:
        since[session] = now
        return original(self, session, now)

    def welcome(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        effects = original(self, grant, now)
        missed = now - since.pop(self.session, now)
        for id in self.session.exchanges.deadlines:
            self.session.exchanges.deadlines[id] += missed
        return effects

    patch.wrap(Sessions, "suspend", suspend)
    patch.wrap(Connection, "_welcome", welcome)
    patch.wrap(
        Session,
        "deadline",
        lambda original, self: self.ends_at if self.attached is None else original(self),
    )
    patch.wrap(
        Session, "time_out", lambda original, self, now: () if self.attached is None else original(self, now)
    )


# Identity and permissions


@mutant(
    "res/old-permissions", violates="RES-34", killed_by="res/more-permissions", says='got error "forbidden"'
)
def _(patch: Patch) -> None:
    """A session keeps the permissions that it began with."""

    def welcome(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        session = wanted_by(self)
        if session is not None and session.grant is not None and session.grant.principal == grant.principal:
            grant = varied_grant(grant, session.grant)
        return original(self, grant, now)

    def varied_grant(grant: Grant, older: Grant) -> Grant:
        return dataclasses.replace(grant, permissions=older.permissions)

    patch.wrap(Connection, "_welcome", welcome)


@mutant("res/old-expiry", violates="RES-34", killed_by="res/new-expiry", says="it is still open")
def _(patch: Patch) -> None:
    """A resumed session goes by the first expiry that it was given."""

    def adopt(original: Callable[..., None], self: Connection, grant: Grant, now: float) -> None:
        if self._resume is None:
            original(self, grant, now)

    patch.wrap(Connection, "_adopt", adopt)


@mutant(
    "res/subscriptions-survive",
    violates="RES-35",
    killed_by=["res/fewer-permissions", "his/recovery-loses-permission"],
    says="forbidden",
)
def _(patch: Patch) -> None:
    """After a resume a running subscription is not looked at again."""

    def reauthorize(self: Session, grant: Grant) -> Effects:
        self.grant = grant
        return ()

    patch.set(Session, "reauthorize", reauthorize)


@mutant(
    "res/queued-secrets",
    violates="RES-35",
    killed_by="res/fewer-permissions",
    says="was delivered after the permission was lost",
)
def _(patch: Patch) -> None:
    """What was queued when the permission was lost is delivered first."""
    patch.set(Outgoing, "discard", lambda self, id: None)


@mutant(
    "res/expired-identity-ends",
    violates="RES-36",
    killed_by="res/kept-after-expiry",
    says="its identity had expired",
)
def _(patch: Patch) -> None:
    """With its identity a session is forgotten."""

    def expire(original: Callable[..., Effects], self: Connection, now: float) -> Effects:
        effects = original(self, now)
        self._sessions.forget(self.session)
        return effects

    patch.wrap(Connection, "expire", expire)
