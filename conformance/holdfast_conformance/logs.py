"""Rows of numbered events in the log of a channel, and pages of it: for checks of profile `history`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .client import dumps
from .expect import Failure
from .traffic import account, number, pour, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .case import Test
    from .expect import Frame
    from .session import Exchange, Session

__all__ = ["Page", "Row", "arrived", "cursor_of", "numbers", "opened", "page", "recovers", "row"]


@dataclass(frozen=True, slots=True)
class Row:
    """Events `{"n": 0}`, `{"n": 1}`, ... that a channel's log holds.

    Attributes:
        places: cursors; `places[0]` stands before the first event and `places[n]` just behind event n - 1.
    """

    channel: str
    places: tuple[str, ...]

    @property
    def end(self) -> int:
        """The number that the next event gets."""
        return len(self.places) - 1


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a `history`."""

    frame: Frame
    data: Mapping[str, object]
    events: Sequence[Mapping[str, object]]

    @property
    def more(self) -> object:
        """Whether the log holds further events in the direction of the page."""
        return self.data.get("more")

    @property
    def start(self) -> str:
        """The place just before the first event."""
        return self._cursor(self.data, "start", "HIS-42")

    @property
    def end(self) -> str:
        """The place just behind the last event."""
        return self._cursor(self.events[-1], "cursor", "HIS-21")

    def _cursor(self, of: Mapping[str, object], name: str, requirement: str) -> str:
        cursor = of.get(name)
        if not isinstance(cursor, str):
            raise Failure(f"the page lacks a {name!r}", frame=self.frame, requirement=requirement)
        return cursor


def arrived(subscription: Exchange, n: int) -> Callable[[], bool]:
    """Return the condition that event `n` has arrived on a subscription, whatever came before it."""

    def condition() -> bool:
        newest = next((frame for frame in reversed(subscription.frames) if frame.type == "event"), None)
        return newest is not None and number(newest) >= n

    return condition


def opened(subscription: Exchange) -> Frame:
    """Return the `open` of a subscription that is open."""
    return next(frame for frame in subscription.frames if frame.type == "open")


def cursor_of(frame: Frame, requirement: str) -> str:
    """Return the `cursor` of a frame; without one the requirement is broken."""
    cursor = frame.get("cursor")
    if not isinstance(cursor, str):
        raise Failure(f"{frame} has no cursor", frame=frame, requirement=requirement)
    return cursor


async def row(
    t: Test,
    reader: Session,
    count: int,
    *,
    channel: str | None = None,
    size: int = 0,
    more: int = 0,
    by: Session | None = None,
) -> Row:
    """Publish numbered events to a fresh channel and return their cursors, as `reader` got them.

    Args:
        size: characters of `pad` in each event.
        more: how many events the check will add, with which the log has to hold the row as well; another
            channel has to show that it does.
        by: who publishes; default: a session of its own.

    Raises:
        Unverified: the channel has no log, or one that does not hold so many events.
    """
    if more:
        await row(t, reader, count + more, size=size)
    channel = channel or t.channel()
    publisher = by or await t.session(name="publisher")
    watch = await reader.subscribe(channel)
    start = opened(watch).get("cursor")
    if not isinstance(start, str):
        raise t.unverified("the channels `open` of the target file have no log")
    places = [start]
    if count:
        await pour(t, publisher, channel, count, size=size)
        await t.until(reader, reached(watch, count - 1), "the events just published", requirement="SUB-05")
        account(t, reader.frames, watch, count)
        events = [frame for frame in watch.frames if frame.type == "event"]
        places += [cursor_of(frame, "HIS-01") for frame in events]
    await reader.cancel(watch)
    written = Row(channel, tuple(places))
    if count and not await _holds(publisher, written):
        raise t.unverified(f"the log of a channel does not hold {count} events of {size + 30} bytes")
    return written


async def _holds(session: Session, written: Row) -> bool:
    """Return whether the log holds the whole row: a page shows its first event, or it can be recovered."""
    bounds: tuple[dict[str, object], ...] = ({}, {"after": written.places[0], "limit": 1})
    for some in bounds:
        with suppress(Failure):
            if numbers(await page(session, written.channel, **some))[:1] == [0]:
                return True
    sub = await session.start("subscribe", channel=written.channel, since=written.places[0])
    answer = await sub.receives_first()
    if answer.type == "open":
        await session.cancel(sub)
    return answer.get("recovered") is True


async def page(session: Session, channel: str, **bounds: object) -> Page:
    """Read a page of a log. Bounds: `before`, `after`, `limit`."""
    frame = await (await session.start("history", channel=channel, **bounds)).result()
    data = frame.get("data")
    events = data.get("events") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(events, list) or not isinstance(data.get("more"), bool):
        text = "the data of the result is no page with `events` and `more`"
        raise Failure(text, frame=frame, requirement="HIS-20")
    if not all(isinstance(event, dict) for event in events):
        raise Failure("an event of the page is not an object", frame=frame, requirement="HIS-21")
    return Page(frame, data, events)


def numbers(read: Page) -> list[object]:
    """Return the numbers of the events on a page, None for each that has none."""
    datas = [event.get("data") for event in read.events]
    return [data.get("n") if isinstance(data, dict) else None for data in datas]


async def recovers(
    t: Test,
    session: Session,
    written: Row,
    place: int | str,
    *,
    requirement: str = "HIS-05",
    hint: str = "",
    **fields: object,
) -> Exchange:
    """Assert that a subscription `since` a place of the row is recovered; return it, with open taken.

    Args:
        place: the number of the event that should come first, or a cursor.
        fields: further members of the subscribe.
    """
    since = written.places[place] if isinstance(place, int) else place
    sub = await session.start("subscribe", channel=written.channel, since=since, **fields)
    answer = await t.must(sub.opened(), requirement=requirement, hint=hint)
    t.that(
        answer.get("recovered") is True,
        f"`since` {dumps(since)} was answered with recovered {dumps(answer.get('recovered'))}, "
        f"reason {dumps(answer.get('reason'))}, although the log holds what followed",
        frame=answer,
        requirement=requirement,
        hint=hint,
    )
    return sub
