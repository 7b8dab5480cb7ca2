"""Judging pages of history: each is a part of its channel, in order, whole, and where it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .reading import unique

if TYPE_CHECKING:
    from .facts import Exchange, Facts, Publish
    from .order import Order

__all__ = ["judge_pages"]


class Accuse(Protocol):
    """Records a finding, as `Reading.accuse` does."""

    def __call__(self, kind: str, requirement: str, message: str, *rows: int, spoils: str = "") -> None: ...


def judge_pages(facts: Facts, channel: str, found: Order | None, accuse: Accuse) -> None:
    """Judge every page of one channel, by the order of its events as far as there is one."""
    for exchange, data, row in facts.pages:
        entries = data.get("events")
        if exchange.sent.get("channel") != channel or not isinstance(entries, list):
            continue
        page = _events(facts, channel, entries, row, accuse)
        if page is None or not page:
            continue  # nothing is listed whole, or what is listed is wrong already
        if found is None or _in_order(page, found, row, accuse):
            _stands_right(facts, exchange, page, row, accuse)


def _events(
    facts: Facts, channel: str, entries: list[object], row: int, accuse: Accuse
) -> list[Publish] | None:
    """Return the events of a page; None when something on it is wrong, or left out for its size [HIS-28]."""
    page: list[Publish] = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("too_large"):
            return None
        event = facts.publishes.get(unique(entry.get("data")) or "")
        if event is None or event.channel != channel:
            accuse("phantom", "DEL-01", "a page of history holds what nobody published there", row)
            return None
        if entry.get("data") != event.data:
            accuse("corrupted", "ENV-28", f"{event.token} on a page is not what was published", row)
        page.append(event)
    return page


def _in_order(page: list[Publish], found: Order, row: int, accuse: Accuse) -> bool:
    """Judge the order of a page and that it has no hole, where the order of the channel is proven."""
    places = [event.at for event in page if event.at >= 0]
    if not places or not found.proven(min(places), max(places)):
        return True
    if places != sorted(places):
        accuse("reorder", "HIS-21", "a page of history is not in the channel's order", row)
        return False
    if len(places) == len(page):
        for hole in found.events[places[0] : places[-1] + 1]:
            if hole not in page:
                accuse("cursor-lie", "HIS-21", f"{hole.token} is missing from a page of history", row)
                return False
    return True


def _stands_right(facts: Facts, exchange: Exchange, page: list[Publish], row: int, accuse: Accuse) -> None:
    """Judge where a page begins or ends."""
    sent = exchange.sent
    after, before, channel = sent.get("after"), sent.get("before"), sent.get("channel", "")
    if after is None and before is None:
        for event in facts.channels[channel]:
            if page[-1].done < event.call and event.done < exchange.call and event not in page:
                accuse("cursor-lie", "HIS-24", f"the newest page lacks {event.token}", event.done, row)
                return
        return
    place = facts.place(channel, after or before or "")
    if place is None or place.event is None or place.event.loose:
        return
    if after is not None and place.event in page:
        accuse("cursor-lie", "HIS-22", f"a page after {place.event.token} holds it", row)
    elif before is not None and place.event not in page:
        accuse("cursor-lie", "HIS-23", f"a page up to {place.event.token} does not hold it", row)
