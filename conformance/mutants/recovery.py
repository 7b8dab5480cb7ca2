"""Mutants of spec/12-history.md: cursors, recovery and gaps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from holdfast_reference.backends.channel_log import ChannelLog
from holdfast_reference.protocol import replay
from holdfast_reference.protocol import session as core
from holdfast_reference.protocol.effects import NOWHERE
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.logs import CursorError, CursorReason
from holdfast_reference.protocol.outgoing import OPEN, REPLAYED, Outgoing
from holdfast_reference.protocol.replay import Place
from holdfast_reference.protocol.session import Session

from mutants.harness import Patch, mutant
from mutants.tools import on_frame, varied

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.connection import Connection
    from holdfast_reference.protocol.effects import Effects, Start
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.logs import Log
    from holdfast_reference.protocol.outgoing import Item

    from mutants.tools import Read, Row


def _located(patch: Patch, change: Callable[[ChannelLog, str, Callable[[str], int]], int]) -> None:
    """Let `change(log, cursor, locate)` say which place a cursor names."""
    patch.wrap(
        ChannelLog,
        "locate",
        lambda original, self, cursor: change(self, cursor, lambda other: original(self, other)),
    )


def _opening(patch: Patch, change: Callable[[Session, Log | None, Start], tuple[Log | None, Start]]) -> None:
    """Let `change(session, log, start)` say where a subscription begins."""

    def opened(
        original: Callable[..., Effects],
        self: Session,
        id: int,
        log: Log | None = None,
        start: Start = NOWHERE,
    ) -> Effects:
        return original(self, id, *change(self, log, start))

    patch.wrap(Session, "opened", opened)


def _opens(patch: Patch, change: Callable[[Row], Row]) -> None:
    """Let `change(open)` replace each `open` when it is queued."""

    def push(original: Callable[..., None], self: Outgoing, kind: int, id: int, text: bytes) -> None:
        if kind == OPEN:
            text = json.dumps(change(json.loads(text)), separators=(",", ":")).encode()
        original(self, kind, id, text)

    patch.wrap(Outgoing, "push", push)


# Cursors


@mutant(
    "his/event-without-cursor", violates="HIS-01", killed_by="his/cursors-on-events", says="has no cursor"
)
def _(patch: Patch) -> None:
    """Only `open` carries a cursor."""

    def event(
        original: Callable[..., bool], self: Outgoing, id: int, head: bytes, tail: bytes, *rest: object
    ) -> bool:
        if tail.startswith(b',"cursor":"'):
            tail = tail[tail.index(b'"', 11) + 1 :]
        return original(self, id, head, tail, *rest)

    patch.wrap(Outgoing, "event", event)


@mutant("his/empty-log-is-none", violates="HIS-02", killed_by="his/cursors-on-events", says="has no cursor")
def _(patch: Patch) -> None:
    """A log begins with its first event; before that there is none."""
    _opening(patch, lambda _, log, start: (None if log is not None and log.end == log.first else log, start))


@mutant(
    "his/open-ahead-of-its-place", violates="HIS-02", killed_by="his/place-of-open", says="recovered false"
)
def _(patch: Patch) -> None:
    """The cursor of `open` is that of the next event."""

    def change(frame: Row) -> Row:
        cursor = frame.get("cursor")
        if not isinstance(cursor, str) or "recovered" in frame:
            return frame
        tag, _, position = cursor.rpartition("-")
        return frame | {"cursor": f"{tag}-{int(position) + 9}"}

    _opens(patch, change)


@mutant(
    "his/cursors-are-personal", violates="HIS-03", killed_by="his/cursors-are-shared", says="recovered false"
)
def _(patch: Patch) -> None:
    """A cursor is good for the principal alone that got it."""
    owners: dict[str, set[str]] = {}

    def deliver(original: Callable[..., bool], self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        assert self.grant is not None
        owners.setdefault(event.cursor, set()).add(self.grant.principal)
        return original(self, id, event, lossy=lossy)

    def change(session: Session, log: Log | None, start: Start) -> tuple[Log | None, Start]:
        assert session.grant is not None
        foreign = start.since in owners and session.grant.principal not in owners[start.since]
        return log, start._replace(since="~") if foreign else start

    patch.wrap(Session, "deliver", deliver)
    _opening(patch, change)


# Recovery


@mutant(
    "his/nothing-recovered",
    violates="HIS-05",
    killed_by="his/since-any-place",
    says="recovered false",
)
def _(patch: Patch) -> None:
    """No cursor is good enough to recover from."""
    _opening(patch, lambda _, log, start: (log, start if start.since is None else start._replace(since="~")))


@mutant(
    "his/newest-is-not-recovered", violates="HIS-05", killed_by="his/since-any-place", says="recovered false"
)
def _(patch: Patch) -> None:
    """A cursor behind which there is nothing is as good as none."""

    def locate(log: ChannelLog, cursor: str, original: Callable[[str], int]) -> int:
        position = original(cursor)
        if position == log.end > log.first:
            raise CursorError(CursorReason.EXPIRED)
        return position

    _located(patch, locate)


def _begins(patch: Patch, shift: int) -> None:
    """Begin replays that many events later than they should."""

    def follow(original: Callable[..., None], self: Outgoing, id: int, place: Place) -> None:
        if place.position < place.log.end:
            place.position = max(place.log.first, place.position + shift)
        original(self, id, place)

    patch.wrap(Outgoing, "follow", follow)


@mutant(
    "his/replay-begins-late",
    violates="HIS-05",
    killed_by=["his/since-any-place", "his/published-meanwhile"],
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """A recovery leaves out the event that follows the cursor."""
    _begins(patch, 1)


@mutant(
    "his/replay-begins-early", violates="SUB-06", killed_by="his/since-any-place", says="came again, or late"
)
def _(patch: Patch) -> None:
    """A recovery begins with the event that the cursor was taken from."""
    _begins(patch, -1)


@mutant(
    "his/first-live-event-lost",
    violates="HIS-05",
    killed_by=["his/since-any-place", "his/published-meanwhile", "his/recovery-behind-a-window"],
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """After a recovery the first event that is published is lost."""

    def on(original: Callable[..., None], self: Outgoing, id: int, place: Place, item: Item | None) -> None:
        was = place.replaying
        original(self, id, place, item)
        if was and item is None:
            place.position += 1

    patch.wrap(Outgoing, "_replay", on)


@mutant(
    "his/first-live-event-twice",
    violates="SUB-06",
    killed_by="his/published-meanwhile",
    says="came again, or late",
)
def _(patch: Patch) -> None:
    """What is published during a recovery is delivered at once and read from the log again."""

    def deliver(original: Callable[..., bool], self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        place = self.outgoing.places.get(id)
        if place is None or not place.replaying:
            return original(self, id, event, lossy=lossy)
        place.replaying = False
        position, done = place.position, original(self, id, event, lossy=lossy)
        place.replaying, place.position = True, position
        return done

    patch.wrap(Session, "deliver", deliver)


@mutant("his/replay-fills-the-queue", violates="HIS-06", killed_by="his/long-recovery", says="has a gap")
def _(patch: Patch) -> None:
    """A recovery queues everything at once, and loses what does not fit."""

    def follow(self: Outgoing, id: int, place: Place) -> None:
        position = place.position
        while (item := place.read(position)) is not None:
            _, _, head, tail, position = item
            self.event(id, head, tail, 0, True)
        place.position = place.log.end
        self.places[id] = place

    def give_up(original: Callable[..., None], self: Outgoing, victim: int) -> None:
        place = self.places.pop(victim, None)
        original(self, victim)
        if place is not None:
            self.places[victim] = place

    patch.set(Outgoing, "follow", follow)
    patch.wrap(Outgoing, "_give_up", give_up)


@mutant(
    "his/replay-ends-with-the-connection",
    violates="HIS-05",
    killed_by="his/cut-amid-recovery",
    says="expected event 17",
)
def _(patch: Patch) -> None:
    """A recovery that a cut interrupts is live after the resume."""

    def attach(original: Callable[..., None], self: Outgoing) -> None:
        self._remove(lambda item: item[0] == REPLAYED)
        for place in self.places.values():
            place.replaying, place.position = False, place.log.end
        original(self)

    patch.wrap(Outgoing, "attach", attach)


# Recovery that is not possible


@mutant(
    "his/refused-without-require",
    violates="HIS-07",
    killed_by=["his/unknown-cursor", "his/trimmed-cursor", "his/cursor-of-another-epoch"],
    says='got error "unrecoverable"',
)
def _(patch: Patch) -> None:
    """A subscription that cannot be recovered is refused, asked or not."""
    _opening(patch, lambda _, log, start: (log, start._replace(require=start.since is not None)))


@mutant("his/loss-unsaid", violates="HIS-07", killed_by="his/unknown-cursor", says="`recovered`")
def _(patch: Patch) -> None:
    """A subscription that cannot be recovered opens as if nothing had been asked."""
    _opens(
        patch, lambda frame: {k: v for k, v in frame.items() if frame.get("recovered") or k != "recovered"}
    )


@mutant("his/reason-unsaid", violates="HIS-10", killed_by="his/unknown-cursor", says="`reason`")
def _(patch: Patch) -> None:
    """`open` does not say why nothing was recovered."""
    _opens(patch, lambda frame: {k: v for k, v in frame.items() if k != "reason"})


@mutant("his/all-that-is-left", violates="HIS-07", killed_by="his/unknown-cursor", says="the first event")
def _(patch: Patch) -> None:
    """A subscription that cannot be recovered gets whatever the log holds."""

    def follow(original: Callable[..., None], self: Outgoing, id: int, place: Place) -> None:
        if any(item[1] == id and b'"recovered":false' in item[3] for item in self._queue):
            place.position = place.log.first
        original(self, id, place)

    patch.wrap(Outgoing, "follow", follow)


def _reason(patch: Patch, which: CursorReason, instead: CursorReason) -> None:
    """Give another reason."""

    def locate(_: ChannelLog, cursor: str, original: Callable[[str], int]) -> int:
        try:
            return original(cursor)
        except CursorError as error:
            raise CursorError(instead if error.reason is which else error.reason) from None

    _located(patch, locate)


@mutant("his/epoch-is-expired", violates="HIS-08", killed_by="his/cursor-of-another-epoch", says="`reason`")
def _(patch: Patch) -> None:
    """A cursor of another epoch has expired."""
    _reason(patch, CursorReason.EPOCH, CursorReason.EXPIRED)


@mutant("his/epoch-ignored", violates="HIS-08", killed_by="his/cursor-of-another-epoch", says="`recovered`")
def _(patch: Patch) -> None:
    """A cursor of another epoch names the same place in this one."""

    def locate(log: ChannelLog, cursor: str, original: Callable[[str], int]) -> int:
        try:
            return original(cursor)
        except CursorError as error:
            if error.reason is not CursorReason.EPOCH:
                raise
            return log.end

    _located(patch, locate)


@mutant("his/expired-is-epoch", violates="HIS-09", killed_by="his/trimmed-cursor", says="`reason`")
def _(patch: Patch) -> None:
    """A cursor before the beginning of the log is of another epoch."""
    _reason(patch, CursorReason.EXPIRED, CursorReason.EPOCH)


@mutant("his/expired-recovered", violates="HIS-09", killed_by="his/trimmed-cursor", says="`recovered`")
def _(patch: Patch) -> None:
    """A cursor before the beginning of the log counts as the beginning."""

    def locate(log: ChannelLog, cursor: str, original: Callable[[str], int]) -> int:
        try:
            return original(cursor)
        except CursorError as error:
            if error.reason is not CursorReason.EXPIRED:
                raise
            return log.first

    _located(patch, locate)


@mutant("his/unknown-is-expired", violates="HIS-10", killed_by="his/unknown-cursor", says="`reason`")
def _(patch: Patch) -> None:
    """Whatever is no cursor has expired."""
    _reason(patch, CursorReason.UNKNOWN, CursorReason.EXPIRED)


@mutant("his/any-channel-will-do", violates="HIS-10", killed_by="his/unknown-cursor", says="`re")
def _(patch: Patch) -> None:
    """A cursor of another channel names a place in this one."""

    def locate(log: ChannelLog, cursor: str, original: Callable[[str], int]) -> int:
        try:
            return original(cursor)
        except CursorError:
            tag, _, position = cursor.rpartition("-")
            if not tag or not position.isdigit():
                raise
            return min(int(position), log.end)

    _located(patch, locate)


@mutant("his/no-log-is-expired", violates="HIS-12", killed_by="his/no-log", says="`reason`")
def _(patch: Patch) -> None:
    """Without a log every cursor has expired."""
    _opens(
        patch,
        lambda frame: frame | {"reason": "expired"} if "reason" in frame and "cursor" not in frame else frame,
    )


@mutant("his/no-log-recovers", violates="HIS-12", killed_by="his/no-log", says="`recovered`")
def _(patch: Patch) -> None:
    """Without a log there is nothing that could be missing."""

    def change(frame: Row) -> Row:
        if "cursor" in frame or "recovered" not in frame:
            return frame
        return {"type": "open", "id": frame["id"], "recovered": True}

    _opens(patch, change)


@mutant(
    "his/require-ignored",
    violates="HIS-13",
    killed_by=["his/require", "his/no-log"],
    says='expected error "unrecoverable"',
)
def _(patch: Patch) -> None:
    """`recover` makes no difference."""
    _opening(patch, lambda _, log, start: (log, start._replace(require=False)))


@mutant(
    "his/require-with-another-code", violates="HIS-13", killed_by="his/require", says='got error "bad_cursor"'
)
def _(patch: Patch) -> None:
    """What cannot be recovered is a bad cursor."""

    def fail(original: Callable[..., Effects], self: Session, id: int, error: ExchangeError) -> Effects:
        if error.code == ErrorCode.UNRECOVERABLE:
            error = ExchangeError(ErrorCode.BAD_CURSOR, "")
        return original(self, id, error)

    patch.wrap(Session, "fail", fail)


@mutant("his/always-recovered", violates="HIS-14", killed_by="his/nothing-to-recover", says="open has")
def _(patch: Patch) -> None:
    """Every `open` says whether it was recovered."""
    _opens(patch, lambda frame: {"recovered": False} | frame if "cursor" in frame else frame)


# Subscribe


def _last(patch: Patch, shift: int) -> None:
    """Let `last` count otherwise."""
    _opening(
        patch,
        lambda _, log, start: (log, start if start.last is None else start._replace(last=start.last + shift)),
    )


@mutant("his/one-too-few", violates="HIS-15", killed_by="his/last", says="no gap before it")
def _(patch: Patch) -> None:
    """`last` gives one event less than it could."""

    def follow(original: Callable[..., None], self: Outgoing, id: int, place: Place) -> None:
        if place.position < place.log.end and not any(b'"recovered"' in item[3] for item in self._queue):
            place.position += 1
        original(self, id, place)

    patch.wrap(Outgoing, "follow", follow)


@mutant("his/one-too-many", violates="SUB-06", killed_by="his/last", says="came again, or late")
def _(patch: Patch) -> None:
    """`last` gives one event more than was asked for."""
    _last(patch, 1)


@mutant("his/last-ignored", violates="HIS-15", killed_by="his/last", says="no gap before it")
def _(patch: Patch) -> None:
    """`last` makes no difference."""
    _opening(patch, lambda _, log, start: (log, start._replace(last=None)))


@mutant("his/last-of-a-short-log", violates="HIS-15", killed_by="his/last", says="no gap before it")
def _(patch: Patch) -> None:
    """`last` gives nothing when the log holds fewer."""
    _opening(
        patch,
        lambda _, log, start: (
            log,
            start._replace(last=None)
            if start.last is not None and log is not None and start.last > log.end - log.first
            else start,
        ),
    )


def _without(patch: Patch, type: str, names: Callable[[Row], set[str]]) -> None:
    """Ignore some members of a frame."""

    def react(_: Connection, frame: Row, read: Read) -> Effects | None:
        if frame.get("type") != type or not (unwanted := names(frame)):
            return None
        return read({k: v for k, v in frame.items() if k not in unwanted})

    on_frame(patch, react)


@mutant(
    "his/since-before-last", violates="HIS-16", killed_by="his/subscribe-combinations", says="expected error"
)
def _(patch: Patch) -> None:
    """With `since` a `last` is ignored."""
    _without(patch, "subscribe", lambda frame: {"last"} if "since" in frame else set())


@mutant(
    "his/recover-without-since",
    violates="HIS-16",
    killed_by="his/subscribe-combinations",
    says="expected error",
)
def _(patch: Patch) -> None:
    """Without `since` a `recover` is ignored."""
    _without(patch, "subscribe", lambda frame: set() if "since" in frame else {"recover"} & set(frame))


@mutant("his/any-recover", violates="HIS-16", killed_by="his/subscribe-combinations", says="expected error")
def _(patch: Patch) -> None:
    """A `recover` that nobody knows is ignored."""
    _without(
        patch,
        "subscribe",
        lambda frame: {"recover"} if frame.get("recover", "require") != "require" else set(),
    )


@mutant(
    "his/pattern-since-ignored",
    violates="HIS-17",
    killed_by="his/patterns-have-no-past",
    says="expected error",
)
def _(patch: Patch) -> None:
    """With a pattern `since` and `last` are ignored."""
    _without(
        patch, "subscribe", lambda frame: {"since", "last"} & set(frame) if "pattern" in frame else set()
    )


@mutant(
    "his/odd-cursors-are-unknown",
    violates="HIS-43",
    killed_by="his/bad-cursors-of-subscribe",
    says="expected error",
)
def _(patch: Patch) -> None:
    """Whatever stands in the place of a cursor is one that names no place."""

    def react(_: Connection, frame: Row, read: Read) -> Effects | None:
        odd = {
            name: "~"
            for name in ("since", "before", "after")
            if name in frame
            and not (isinstance(frame[name], str) and 1 <= len(str(frame[name]).encode()) <= 256)
        }
        return read(frame | odd) if odd and frame.get("type") in ("subscribe", "history") else None

    on_frame(patch, react)


# Gaps


@mutant(
    "his/trimmed-silently", violates="HIS-18", killed_by="his/trimmed-amid-recovery", says="no gap before it"
)
def _(patch: Patch) -> None:
    """A recovery that trimming overtakes goes on with what is left, and does not say so."""

    def read(original: Callable[..., Item | None], self: Place, position: int) -> Item | None:
        return original(self, max(position, self.log.first))

    patch.wrap(Place, "read", read)


@mutant("his/trimmed-as-overflow", violates="HIS-18", killed_by="his/trimmed-amid-recovery", says="`reason`")
def _(patch: Patch) -> None:
    """What trimming takes away is lost by overflow, as the gap says."""

    def read(original: Callable[..., Item | None], self: Place, position: int) -> Item | None:
        item = original(self, position)
        if item is None:
            return None
        kind, id, head, tail, position = item
        return kind, id, head, tail.replace(b'"reason":"expired"', b'"reason":"overflow"'), position

    patch.wrap(Place, "read", read)


@mutant(
    "his/gap-without-cursor",
    violates="HIS-19",
    killed_by=["his/gap-names-its-end"],
    says="has no cursor",
)
def _(patch: Patch) -> None:
    """The gap for one large event does not say where it ends."""
    for module in (replay, core):
        patch.wrap(module, "too_large", lambda original, cursor: original(""))


@mutant(
    "his/expired-gap-without-cursor",
    violates="HIS-19",
    killed_by="his/trimmed-amid-recovery",
    says="has no cursor",
)
def _(patch: Patch) -> None:
    """The gap for what was trimmed does not say where it ends."""

    def read(original: Callable[..., Item | None], self: Place, position: int) -> Item | None:
        item = original(self, position)
        if item is not None and b'"expired"' in item[3][:30]:
            item = (*item[:3], b',"reason":"expired"}', item[4])
        return item

    patch.wrap(Place, "read", read)


@mutant(
    "his/gap-begins-at-its-cursor",
    violates="HIS-19",
    killed_by="his/trimmed-amid-recovery",
    says="recovered false",
)
def _(patch: Patch) -> None:
    """The cursor of a gap is the place before what was lost."""

    def read(original: Callable[..., Item | None], self: Place, position: int) -> Item | None:
        item = original(self, position)
        if item is not None and b'"expired"' in item[3][:30]:
            cursor = self.log.cursor(position).encode()
            item = (*item[:3], b',"reason":"expired","cursor":"%b"}' % cursor, item[4])
        return item

    patch.wrap(Place, "read", read)


# Who may see what


@mutant("his/echo-recovered", violates="SUB-15", killed_by="his/echo-in-recovery", says="with echo:false")
def _(patch: Patch) -> None:
    """The log has forgotten who does not get an event."""

    def after(original: Callable[..., Event | None], self: ChannelLog, position: int) -> Event | None:
        event = original(self, position)
        return None if event is None else varied(event, exclude="")

    patch.wrap(ChannelLog, "after", after)


@mutant(
    "his/echo-kept-from-all", violates="SUB-16", killed_by="his/echo-in-recovery", says="no gap before it"
)
def _(patch: Patch) -> None:
    """An event with `echo:false` is recovered by nobody."""

    def read(original: Callable[..., Item | None], self: Place, position: int) -> Item | None:
        event = self.log.after(position) if position >= self.log.first else None
        if event is not None and event.exclude:
            position += 1
        return original(self, position)

    patch.wrap(Place, "read", read)
