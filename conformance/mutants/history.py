"""Mutants of spec/12-history.md: pages of a log."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast_reference.backends import channel_log
from holdfast_reference.backends.channel_log import ChannelLog
from holdfast_reference.protocol import connection, intake, messages
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.logs import CursorError, CursorReason
from holdfast_reference.protocol.session import Session

from mutants.harness import Patch, mutant
from mutants.lives import on_page
from mutants.tools import on_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects, History
    from holdfast_reference.protocol.logs import Page

    from mutants.lives import Row
    from mutants.tools import Read


def _paging(patch: Patch, **changes: Callable[[ChannelLog, int | None], int | None]) -> None:
    """Change `before`, `after`, `limit` or `max_bytes` of each page that is read."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        changed = {name: change(self, bounds[name]) for name, change in changes.items()}
        return original(self, **(bounds | changed))

    patch.wrap(ChannelLog, "page", page)


def _paged(patch: Patch, change: Callable[[ChannelLog, Page, bool], Page]) -> None:
    """Let `change(log, page, backward)` replace each page that is read."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        return change(self, original(self, **bounds), bounds["after"] is None)

    patch.wrap(ChannelLog, "page", page)


def _without(patch: Patch, name: str) -> None:
    """Leave a member out of each page."""
    on_page(patch, lambda data: {k: v for k, v in data.items() if k != name})


# The page


@mutant("his/no-events", violates="HIS-20", killed_by="his/page", says="the page has no `events`")
def _(patch: Patch) -> None:
    """A page calls its events otherwise."""
    on_page(patch, lambda data: {"items" if k == "events" else k: v for k, v in data.items()})


@mutant("his/no-more", violates="HIS-20", killed_by="his/page", says="whether there is `more`")
def _(patch: Patch) -> None:
    """A page says only that there is more."""
    on_page(patch, lambda data: {k: v for k, v in data.items() if k != "more" or v})


@mutant("his/newest-first", violates="HIS-21", killed_by="his/everybodys-events", says="the events")
def _(patch: Patch) -> None:
    """A page begins with the newest event."""
    _paged(patch, lambda _, page, __: page._replace(items=page.items[::-1]))


@mutant(
    "his/page-with-a-hole",
    violates="HIS-21",
    killed_by=["his/page", "his/everybodys-events"],
    says="the events",
)
def _(patch: Patch) -> None:
    """A page lacks its second event."""
    _paged(patch, lambda _, page, __: page._replace(items=page.items[:1] + page.items[2:]))


@mutant("his/page-without-enc", violates="HIS-21", killed_by="his/page-carries-enc", says="the events are")
def _(patch: Patch) -> None:
    """A page does not say how its data is encoded."""
    _each(patch, lambda event: {k: v for k, v in event.items() if k != "enc"})


@mutant("his/page-without-cursors", violates="HIS-21", killed_by="his/page", says="has no cursor")
def _(patch: Patch) -> None:
    """The events of a page have no cursors."""
    _each(patch, lambda event: {k: v for k, v in event.items() if k != "cursor"})


def _each(patch: Patch, change: Callable[[Row], Row]) -> None:
    """Replace each event of each page."""

    def page(data: Row) -> Row:
        events = data["events"]
        assert isinstance(events, list)
        return data | {"events": [change(event) for event in events]}

    on_page(patch, page)


@mutant("his/cursor-before-its-event", violates="HIS-21", killed_by="his/page", says="recover")
def _(patch: Patch) -> None:
    """On a page the cursor of an event is the place behind the newest one."""

    def page(original: Callable[..., bytes], cursor: str, tail: bytes) -> bytes:
        tag, _, position = cursor.rpartition("-")
        return original(f"{tag}-{int(position) + 40}", tail)

    patch.wrap(channel_log, "history_item", page)


@mutant("his/own-events-unlisted", violates="HIS-21", killed_by="his/everybodys-events", says="the events")
def _(patch: Patch) -> None:
    """What was published with `echo:false` is left out of every page."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        read = original(self, **bounds)
        kept = []
        for item in read.items:
            position = int(json.loads(item)["cursor"].rpartition("-")[2])
            event = self.after(position - 1)
            if event is None or not event.exclude:
                kept.append(item)
        return read._replace(items=tuple(kept))

    patch.wrap(ChannelLog, "page", page)


# Bounds


@mutant("his/after-includes-its-event", violates="HIS-22", killed_by="his/after", says="the page of")
def _(patch: Patch) -> None:
    """`after` begins with the event that the cursor was taken from."""
    _paging(patch, after=lambda log, after: after and max(log.first, after - 1))


@mutant("his/after-skips-one", violates="HIS-22", killed_by="his/after", says="the page of")
def _(patch: Patch) -> None:
    """`after` leaves out the event that follows."""
    _paging(patch, after=lambda log, after: None if after is None else min(log.end, after + 1))


@mutant("his/before-excludes-its-event", violates="HIS-23", killed_by="his/before", says="the page of")
def _(patch: Patch) -> None:
    """`before` leaves out the event that the cursor was taken from."""
    _paging(patch, before=lambda log, before: before and max(log.first, before - 1))


@mutant("his/before-includes-the-next", violates="HIS-23", killed_by="his/before", says="the page of")
def _(patch: Patch) -> None:
    """`before` ends with the event that follows."""
    _paging(patch, before=lambda log, before: before and min(log.end, before + 1))


@mutant("his/before-from-the-beginning", violates="HIS-23", killed_by="his/before", says="the page of")
def _(patch: Patch) -> None:
    """`before` a place gives the oldest events of the log, not those that lead up to it."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        if bounds["before"] is not None and bounds["limit"] is not None:
            room = bounds["before"] - self.first
            bounds["before"] = self.first + min(room, bounds["limit"])
        return original(self, **bounds)

    patch.wrap(ChannelLog, "page", page)


@mutant("his/oldest-page", violates="HIS-24", killed_by="his/trimmed", says="the events that are left")
def _(patch: Patch) -> None:
    """Without a bound a page leaves the newest event out."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        if bounds["before"] is None and bounds["after"] is None:
            bounds["before"] = max(self.first, self.end - 1)
        return original(self, **bounds)

    patch.wrap(ChannelLog, "page", page)


@mutant("his/limit-ignored", violates="HIS-25", killed_by=["his/after", "his/before"], says="has 2")
def _(patch: Patch) -> None:
    """`limit` is one more than it says."""
    _paging(patch, limit=lambda _, limit: (limit or 0) + 1)


@mutant("his/short-pages", violates="HIS-45", killed_by=["his/after", "his/before"], says="events on")
def _(patch: Patch) -> None:
    """A page holds half of what it may."""
    _paging(patch, limit=lambda _, limit: max(1, (limit or 0) // 2))


@mutant("his/history-limit-ignored", violates="HIS-25", killed_by="his/page-limits", says="the newest events")
def _(patch: Patch) -> None:
    """A page may be as long as the client likes."""

    def listed(original: Callable[..., Effects], self: Session, *args: object) -> Effects:
        limits, self.limits = self.limits, replace(self.limits, history_limit=100_000)
        try:
            return original(self, *args)
        finally:
            self.limits = limits

    patch.wrap(Session, "listed", listed)


@mutant(
    "his/large-limit-refused", violates="HIS-25", killed_by="his/page-limits", says='got error "bad_request"'
)
def _(patch: Patch) -> None:
    """A `limit` above `history_limit` is refused."""

    def listed(original: Callable[..., Effects], self: Session, effect: History, *rest: object) -> Effects:
        if effect.query.limit is not None and effect.query.limit > self.limits.history_limit:
            return self.fail(effect.id, ExchangeError(ErrorCode.BAD_REQUEST, ""))
        return original(self, effect, *rest)

    patch.wrap(Session, "listed", listed)


@mutant(
    "his/never-more",
    violates="HIS-26",
    killed_by=["his/after", "his/before", "his/page-limits"],
    says="`more`",
)
def _(patch: Patch) -> None:
    """`more` is always false."""
    on_page(patch, lambda data: data | {"more": False})


@mutant(
    "his/always-more", violates="HIS-26", killed_by=["his/after", "his/before", "his/trimmed"], says="`more`"
)
def _(patch: Patch) -> None:
    """`more` is true on every page that holds something."""
    on_page(patch, lambda data: data | {"more": bool(data["events"])})


@mutant("his/more-when-full", violates="HIS-26", killed_by=["his/after", "his/before"], says="`more`")
def _(patch: Patch) -> None:
    """`more` is true whenever a page holds as many events as were asked for."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        read = original(self, **bounds)
        return read._replace(more=len(read.items) == bounds["limit"])

    patch.wrap(ChannelLog, "page", page)


@mutant("his/more-in-the-other-direction", violates="HIS-26", killed_by="his/after", says="`more`")
def _(patch: Patch) -> None:
    """`more` says whether the log holds anything older, whatever the direction."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        read = original(self, **bounds)
        after = bounds["after"]
        return read if after is None else read._replace(more=after > self.first)

    patch.wrap(ChannelLog, "page", page)


# Sizes


@mutant(
    "his/page-too-large", violates="HIS-27", killed_by="his/page-fits-the-frame", says='got error "too_large"'
)
def _(patch: Patch) -> None:
    """A page is filled by count alone."""
    _paging(patch, max_bytes=lambda _, __: 1 << 30)


@mutant("his/page-for-the-server", violates="HIS-27", killed_by="his/page-fits-the-frame", says="a page has")
def _(patch: Patch) -> None:
    """A page is measured by what the server takes, not by what the client does."""

    def listed(original: Callable[..., Effects], self: Session, *args: object) -> Effects:
        room, self._max_out = self._max_out, self.limits.max_frame - 64
        try:
            return original(self, *args)
        finally:
            self._max_out = room

    patch.wrap(Session, "listed", listed)


@mutant(
    "his/large-event-ends-paging",
    violates="HIS-28",
    killed_by="his/event-larger-than-a-page",
    says="expected",
)
def _(patch: Patch) -> None:
    """An event that fits on no page makes the page fail."""

    def item(original: Callable[..., bytes], cursor: str, tail: bytes) -> bytes:
        return original(cursor, b',"data":"' + b"x" * 5000 + b'"}' if b"too_large" in tail else tail)

    patch.wrap(channel_log, "history_item", item)


@mutant(
    "his/large-event-skipped",
    violates="HIS-28",
    killed_by="his/event-larger-than-a-page",
    says="the events on the page",
)
def _(patch: Patch) -> None:
    """An event that fits on no page is left out."""
    _paged(
        patch,
        lambda _, page, __: page._replace(items=tuple(i for i in page.items if b'"too_large":true' not in i)),
    )


@mutant(
    "his/large-event-is-null",
    violates="HIS-28",
    killed_by="his/event-larger-than-a-page",
    says="the members of the large event",
)
def _(patch: Patch) -> None:
    """An event that fits on no page stands there with data that it never had."""
    _each(patch, lambda event: event | {"data": None} if "too_large" in event else event)


@mutant("his/no-start", violates="HIS-42", killed_by="his/page", says="lacks a 'start'")
def _(patch: Patch) -> None:
    """A page does not say where it begins."""
    _without(patch, "start")


@mutant("his/start-behind-the-first", violates="HIS-42", killed_by=["his/page", "his/before"], says="`start`")
def _(patch: Patch) -> None:
    """`start` is the cursor of the first event."""

    def change(data: Row) -> Row:
        events = data["events"]
        assert isinstance(events, list)
        return data | {"start": events[0]["cursor"]} if events else data

    on_page(patch, change)


# What is gone


@mutant("his/trimmed-unsaid", violates="HIS-29", killed_by="his/trimmed", says="`trimmed`")
def _(patch: Patch) -> None:
    """A page does not say that older events are gone."""

    def change(data: Row) -> Row:
        return {k: v for k, v in data.items() if k != "trimmed"} if data["events"] else data

    on_page(patch, change)


@mutant(
    "his/trimmed-on-the-newest-page-only", violates="HIS-29", killed_by="his/trimmed", says="before a place"
)
def _(patch: Patch) -> None:
    """`trimmed` is said where no bound is given."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        read = original(self, **bounds)
        return read if bounds["before"] is None else read._replace(trimmed=False)

    patch.wrap(ChannelLog, "page", page)


@mutant("his/always-trimmed", violates="HIS-44", killed_by="his/nothing-trimmed", says="says `trimmed`")
def _(patch: Patch) -> None:
    """Every page is said to be all that is left."""
    on_page(patch, lambda data: data | {"trimmed": True})


@mutant(
    "his/trimmed-amid-the-log",
    violates="HIS-44",
    killed_by="his/trimmed",
    says="says `trimmed`",
)
def _(patch: Patch) -> None:
    """Every page of a log that was trimmed once says so."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        head = self._store.head(self._channel)
        return original(self, **bounds)._replace(trimmed=head.first > head.origin)

    patch.wrap(ChannelLog, "page", page)


def _codes(patch: Patch, was: ErrorCode, becomes: ErrorCode) -> None:
    """Refuse pages with another code."""

    def fail(original: Callable[..., Effects], self: Session, id: int, error: ExchangeError) -> Effects:
        return original(self, id, ExchangeError(becomes, "") if error.code == was else error)

    patch.wrap(Session, "fail", fail)


@mutant("his/expired-is-bad", violates="HIS-30", killed_by="his/trimmed", says='got error "bad_cursor"')
def _(patch: Patch) -> None:
    """A place before the beginning of the log is a bad cursor."""
    _codes(patch, ErrorCode.UNRECOVERABLE, ErrorCode.BAD_CURSOR)


@mutant("his/expired-is-the-beginning", violates="HIS-30", killed_by="his/trimmed", says="got result")
def _(patch: Patch) -> None:
    """A place before the beginning of the log counts as the beginning."""

    def locate(original: Callable[..., int], self: ChannelLog, cursor: str) -> int:
        try:
            return original(self, cursor)
        except CursorError as error:
            if error.reason is CursorReason.EXPIRED:
                return self.first
            raise

    patch.wrap(ChannelLog, "locate", locate)


@mutant(
    "his/bad-is-expired",
    violates="HIS-31",
    killed_by=["his/bad-cursor", "his/page-without-a-log"],
    says='got error "unrecoverable"',
)
def _(patch: Patch) -> None:
    """A cursor that names no place has expired."""
    _codes(patch, ErrorCode.BAD_CURSOR, ErrorCode.UNRECOVERABLE)


@mutant("his/bad-cursor-ignored", violates="HIS-31", killed_by="his/bad-cursor", says="got result")
def _(patch: Patch) -> None:
    """A cursor that names no place is as good as none."""

    def locate(original: Callable[..., int], self: ChannelLog, cursor: str) -> int:
        try:
            return original(self, cursor)
        except CursorError:
            return self.end

    patch.wrap(ChannelLog, "locate", locate)


@mutant("his/no-log-not-trimmed", violates="HIS-32", killed_by="his/page-without-a-log", says="`trimmed`")
def _(patch: Patch) -> None:
    """The page of a channel without a log looks like that of a fresh one."""
    on_page(patch, lambda data: data if data["events"] else {"events": [], "more": False})


@mutant(
    "his/no-log-is-an-error", violates="HIS-32", killed_by="his/page-without-a-log", says='error "bad_cursor"'
)
def _(patch: Patch) -> None:
    """A channel without a log has no pages."""

    def listed(original: Callable[..., Effects], self: Session, effect: History, log: object) -> Effects:
        if log is None:
            return self.fail(effect.id, ExchangeError(ErrorCode.BAD_CURSOR, ""))
        return original(self, effect, log)

    patch.wrap(Session, "listed", listed)


# Refusals


def _ignoring(patch: Patch, names: Callable[[Row], set[str]]) -> None:
    """Ignore some members of a `history`."""

    def react(_: Connection, frame: Row, read: Read) -> Effects | None:
        if frame.get("type") != "history" or not (unwanted := names(frame)):
            return None
        return read({k: v for k, v in frame.items() if k not in unwanted})

    on_frame(patch, react)


@mutant("his/after-before-before", violates="HIS-33", killed_by="his/bad-requests", says="expected error")
def _(patch: Patch) -> None:
    """With `after` a `before` is ignored."""
    _ignoring(patch, lambda frame: {"before"} if "after" in frame and "before" in frame else set())


@mutant("his/any-limit", violates="HIS-33", killed_by="his/bad-requests", says="expected error")
def _(patch: Patch) -> None:
    """A `limit` that is no number of events is ignored."""

    def odd(frame: Row) -> set[str]:
        limit = frame.get("limit", 1)
        return set() if type(limit) is int and limit > 0 else {"limit"}

    _ignoring(patch, odd)


@mutant(
    "his/log-open-to-all",
    violates="HIS-34",
    killed_by="his/forbidden-page",
    says='expected error "forbidden"',
)
def _(patch: Patch) -> None:
    """Anyone may read the log of any channel."""
    reading: list[bool] = []

    def read(original: Callable[..., Effects], self: Connection, *args: object) -> Effects:
        reading.append(True)
        try:
            return original(self, *args)
        finally:
            reading.pop()

    def authorize(original: Callable[..., None], self: Connection, action: str, name: str) -> None:
        if not reading:
            original(self, action, name)

    patch.wrap(Connection, "_authorize", authorize)
    _reader(patch, read)


def _reader(patch: Patch, around: Callable[..., Effects]) -> None:
    """Stand between the server and each `history`."""
    original = intake.READERS[messages.History]
    patch.set(
        connection,
        "READERS",
        {**intake.READERS, messages.History: lambda *args: around(original, *args)},
    )
