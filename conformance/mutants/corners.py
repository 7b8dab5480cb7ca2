"""Mutants of spec/12-history.md and of refused resumes, in the corners."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from holdfast_reference.backends.channel_log import ChannelLog
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.resume import Refusal, Sessions
from holdfast_reference.protocol.session import Session
from holdfast_reference.server.serve import Server

from mutants.harness import Patch, mutant
from mutants.lives import on_decision
from mutants.tools import NOTHING, on_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Close, Effects, Start
    from holdfast_reference.protocol.logs import Log, Page, Published
    from holdfast_reference.protocol.messages import Resume

    from mutants.lives import Decide, Decision, Row
    from mutants.tools import Read


def _on_page(patch: Patch, change: Callable[[ChannelLog, Page, bool], Page]) -> None:
    """Let `change(log, page, backward)` replace each page."""

    def page(original: Callable[..., Page], self: ChannelLog, **bounds: int | None) -> Page:
        return change(self, original(self, **bounds), bounds["after"] is None)

    patch.wrap(ChannelLog, "page", page)


@mutant(
    "his/large-event-skipped-backward",
    violates="HIS-28",
    killed_by="his/large-event-backward",
    says="the events on the page",
)
def _(patch: Patch) -> None:
    """A page that goes backward leaves out an event that fits on no page."""

    def change(_: ChannelLog, page: Page, backward: bool) -> Page:
        kept = tuple(item for item in page.items if b'"too_large":true' not in item)
        return page._replace(items=kept) if backward else page

    _on_page(patch, change)


@mutant(
    "his/empty-is-not-trimmed", violates="HIS-29", killed_by="his/trimmed-empty", says="`trimmed` to be true"
)
def _(patch: Patch) -> None:
    """A log of which nothing is left looks like one to which nobody published."""
    _on_page(patch, lambda _, page, backward: page if page.items else page._replace(trimmed=False))


@mutant("his/trimmed-forward", violates="HIS-44", killed_by="his/trimmed-empty", says="goes forward")
def _(patch: Patch) -> None:
    """Every page of a log that was trimmed says so, whatever its direction."""

    def change(log: ChannelLog, page: Page, backward: bool) -> Page:
        head = log._store.head(log._channel)
        return page if backward else page._replace(trimmed=head.first > head.origin)

    _on_page(patch, change)


@mutant(
    "his/last-counts-the-visible",
    violates="HIS-15",
    killed_by="his/last-counts-the-hidden",
    says="the newest two events",
)
def _(patch: Patch) -> None:
    """`last` counts the events alone that the session gets."""

    def opened(
        original: Callable[..., Effects], self: Session, id: int, log: Log | None, start: Start
    ) -> Effects:
        if log is not None and start.last is not None:
            place, seen = log.end, 0
            while place > log.first and seen < start.last:
                event = log.after(place - 1)
                seen += event is not None and event.exclude != self.origin
                place -= 1
            start = start._replace(last=log.end - place)
        return original(self, id, log, start)

    patch.wrap(Session, "opened", opened)


@mutant(
    "his/no-cursor-without-echo",
    violates="HIS-35",
    killed_by="his/cursor-without-echo",
    says="has no cursor",
)
def _(patch: Patch) -> None:
    """Who publishes with `echo:false` is not told where."""
    silent: set[tuple[int, object]] = set()

    def react(core: Connection, frame: Row, read: Read) -> Effects | None:
        if frame.get("type") == "publish" and frame.get("echo") is False:
            silent.add((id(core.session), frame.get("id")))
        return None

    def published(
        original: Callable[..., Effects], self: Session, number: int, outcome: Published
    ) -> Effects:
        if (id(self), number) in silent:
            outcome = outcome._replace(cursor=None)
        return original(self, number, outcome)

    on_frame(patch, react)
    patch.wrap(Session, "published", published)


# Resumes that are refused


@mutant(
    "res/stranger-acknowledges",
    violates="RES-18",
    killed_by="res/refused-hellos-acknowledge-nothing",
    says="has acknowledged",
)
def _(patch: Patch) -> None:
    """The `seq` of a stranger's hello is taken as an ack."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        found, effects = decide(wanted)
        if session is not None and isinstance(found, Refusal) and found.code == "not_found":
            session.outgoing.ack(wanted.seq)
        return found, effects

    on_decision(patch, react)


@mutant(
    "res/late-hello-acknowledges",
    violates="RES-19",
    killed_by="res/refused-hellos-acknowledge-nothing",
    says="has acknowledged",
)
def _(patch: Patch) -> None:
    """The `seq` of a hello that comes too late is taken as an ack."""

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        if session is not None and wanted.attempt <= session.attempt:
            session.outgoing.ack(wanted.seq)
        return decide(wanted)

    on_decision(patch, react)


@mutant(
    "res/mismatch-leaves-input",
    violates="RES-31",
    killed_by="res/old-input-dies-with-a-mismatch",
    says="must not come",
)
def _(patch: Patch) -> None:
    """Publishes that the older connection brings after a mismatch are published all the same."""
    servers: list[Server] = []
    leaving: list[Connection] = []
    older: set[Connection] = set()

    def init(original: Callable[..., None], self: Server, *arguments: object) -> None:
        original(self, *arguments)
        servers.append(self)

    def supersede(original: Callable[..., Close], self: Connection) -> Close:
        leaving.append(self)
        return original(self)

    def react(_: Sessions, session: Session | None, wanted: Resume, decide: Decide) -> Decision:
        leaving.clear()
        found, effects = decide(wanted)
        if isinstance(found, Refusal) and found.code == "mismatch":
            older.update(leaving)
        return found, effects

    def receive(original: Callable[..., Effects], self: Connection, text: bytes, now: float) -> Effects:
        frame = json.loads(text) if self in older else {}
        if frame.get("type") != "publish":
            return original(self, text, now)
        servers[-1].publish(frame["channel"], frame["data"])
        return NOTHING

    patch.wrap(Server, "__init__", init)
    patch.wrap(Connection, "supersede", supersede)
    patch.wrap(Connection, "receive", receive)
    on_decision(patch, react)
