"""The judge: what a whole history proves, and what it does not.

The first reading (`reading`) finds what single rows prove. Here the runs of events that subscriptions got are
compared with each other and with what was published. All of it takes time linear in the history, but for the
search that explains a contradiction. Nothing is concluded from silence without a proof that the silence was
listened to: a fence, or a client that was attached long enough.
"""

from __future__ import annotations

import gc
from bisect import bisect_right
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from .facts import NEVER, Gap, Item, Place
from .order import consistent, inversion, order, precedes
from .pages import judge_pages
from .reading import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .anomalies import Anomaly
    from .facts import Facts, Publish, Subscription
    from .history import Row
    from .order import Order

__all__ = ["MOST", "Judgement", "judge"]

MOST = 20
"""Findings of one class in one history; what broke once in a thousand places is told often enough."""


_call = attrgetter("call")
_row = attrgetter("row")


@dataclass(slots=True)
class Judgement:
    """What a history proves.

    Attributes:
        found: the anomalies, in the order of the rows that complete their proofs.
        counts: how often each thing occurred that could have gone wrong.
        profiles: what was negotiated.
        order: the strongest order that explains all deliveries: one of `guarantees.ORDERS`.
    """

    found: list[Anomaly]
    counts: dict[str, int]
    profiles: set[str]
    order: str = "total"


@dataclass(slots=True)
class _Run:
    """One subscription's share of one channel: its events in order, and where its gaps stand."""

    subscription: Subscription
    events: list[Publish] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    at: list[int] = field(default_factory=list)  # the index of each among all items of the subscription


def judge(rows: Sequence[Row]) -> Judgement:
    """Judge a history that `history.validate` accepts."""
    collecting = gc.isenabled()
    gc.disable()  # half of the time would go into looking for garbage among millions of facts that are none
    try:
        reading = Reading(rows)
        reading.read()
        return _Judge(reading, rows).judge()
    finally:
        if collecting:
            gc.enable()


class _Judge:
    def __init__(self, reading: Reading, rows: Sequence[Row]) -> None:
        self._reading = reading
        self._rows = rows
        self._facts: Facts = reading.facts
        self._accuse = reading.accuse
        self._per_publisher = True
        self._per_channel = True

    def judge(self) -> Judgement:
        facts = self._facts
        for life in facts.lives:
            life.proofs.sort()
        for publish in facts.publishes.values():
            if len(publish.exchanges) > 1:
                publish.loose = self._outlives_its_key(publish)
        runs: dict[str, list[_Run]] = {channel: [] for channel in facts.channels}
        for subscription in facts.subscriptions:
            self._runs(subscription, runs)
            if subscription.gaps:
                self._overstated(subscription)
        for channel, published in facts.channels.items():
            found = self._order(runs[channel])
            for run in runs[channel]:
                self._complete(run, published, found)
            judge_pages(self._facts, channel, found, self._accuse)
        for publish in facts.publishes.values():
            if publish.seen < NEVER and publish.outcome == "failed":
                self._refused(publish)
        return self._judgement()

    def _outlives_its_key(self, publish: Publish) -> bool:
        """Return whether a publish was tried again when its key may have been forgotten."""
        rows, exchanges = self._rows, publish.exchanges
        last = max(rows[min(exchange.ended, len(rows) - 1)]["at"] for exchange in exchanges)
        return last - rows[publish.call]["at"] >= min(e.life.dedupe_ms for e in exchanges) / 1000

    def _judgement(self) -> Judgement:
        each: dict[str, int] = {}
        kept = []
        for anomaly in sorted(self._reading.found, key=lambda anomaly: anomaly.rows[-1]):
            each[anomaly.kind] = each.get(anomaly.kind, 0) + 1
            if each[anomaly.kind] <= MOST:
                kept.append(anomaly)
        if not self._per_publisher:
            level = "none"
        elif not self._per_channel:
            level = "per-publisher"
        else:
            level = "total" if consistent(self._sessions()) else "per-channel"
        return Judgement(kept, self._facts.counts, self._facts.profiles, level)

    def _sessions(self) -> list[list[Publish]]:
        """Return, for each session, all that it got, across its subscriptions."""
        by_life: dict[object, list[Item]] = {}
        for subscription in self._facts.subscriptions:
            items = by_life.setdefault(subscription.exchange.life, [])
            items += [item for item in subscription.items if type(item) is Item]
        runs = []
        for items in by_life.values():
            items.sort(key=_row)
            # An event that several subscriptions of a session got counts where it came first.
            runs.append(list(dict.fromkeys([item.event for item in items])))
        return runs

    # One run after the other

    def _runs(self, subscription: Subscription, runs: dict[str, list[_Run]]) -> None:
        """Split a subscription into runs by channel, and judge each event by the moments alone."""
        mine: dict[str, _Run] = {}
        had = subscription.had
        before = subscription.exchange.call
        fresh = not subscription.recovered and not subscription.unsure
        if subscription.start is None and subscription.has_log and subscription.channel is not None:
            # What the cursor of its `open` names may have come out later.
            place = self._facts.place(subscription.channel, subscription.cursor)
            if place is not None and place.event is not None:
                subscription.start = place
        for index, item in enumerate(subscription.items):
            if type(item) is Gap:
                continue
            event = item.event  # type: ignore[union-attr]  # what is no gap is an item
            if event.loose:
                had.add(event)
                continue
            run = mine.get(event.channel)
            if run is None:
                run = mine[event.channel] = _Run(subscription)
                runs[event.channel].append(run)
            if event in had:
                self._twice(event, item, subscription)  # type: ignore[arg-type]  # as above
                continue
            had.add(event)
            if fresh and event.done < before:
                self._ghost(event, item, subscription)  # type: ignore[arg-type]  # as above
                continue
            run.events.append(event)
            run.items.append(item)  # type: ignore[arg-type]  # as above
            run.at.append(index)
        channels = [subscription.channel] if subscription.channel is not None else self._facts.channels
        for channel in channels:
            if channel not in mine and channel in runs and self._matches(subscription, channel):
                runs[channel].append(_Run(subscription))

    def _matches(self, subscription: Subscription, channel: str) -> bool:
        if subscription.pattern is None:
            return True
        prefix = subscription.pattern.removesuffix("**")
        return channel.startswith(prefix) and len(channel) > len(prefix)

    def _twice(self, event: Publish, item: Item, subscription: Subscription) -> None:
        first = next(i for i in subscription.items if isinstance(i, Item) and i.event is event)
        if event.dedupe and len(event.exchanges) > 1:
            message = f"{event.token} was tried {len(event.exchanges)} times with one key and delivered twice"
            self._accuse("dedupe-broken", "HIS-37", message, event.call, first.row, item.row)
            return
        spoils = "session" if first.conn != item.conn else "connection"
        message = f"{event.token} reached {subscription.name} twice"
        self._accuse("duplicate", "SUB-06", message, event.call, first.row, item.row, spoils=spoils)

    def _ghost(self, event: Publish, item: Item, subscription: Subscription) -> None:
        message = f"{event.token} took effect before {subscription.name} was asked for, and reached it"
        self._accuse("ghost", "DEL-01", message, event.done, subscription.exchange.call, item.row)

    def _refused(self, publish: Publish) -> None:
        unsent = all(exchange.code == "not_accepted" for exchange in publish.exchanges)
        why = (
            "was not accepted, by the final last_id,"
            if unsent
            else f"was refused ({publish.exchanges[0].code})"
        )
        sentence = "RES-31" if unsent else "SUB-14"
        self._accuse("phantom", sentence, f"{publish.token} {why} and delivered", publish.call, publish.seen)

    # Order

    def _order(self, runs: list[_Run]) -> Order | None:
        """Find the order of a channel; accuse when there is none."""
        told = False
        for run in runs:
            told |= self._in_time(run)
        sequences = [run.events for run in runs if run.events]
        if not sequences:
            return None
        found = order(sequences)
        if found is None:
            self._per_channel = False
            if not told:
                self._disagree(runs, sequences)
        return found

    def _in_time(self, run: _Run) -> bool:
        """Judge one run by the moments of its publishes; return whether it was accused."""
        told = False
        latest: Publish | None = None
        calls: dict[object, Publish] = {}
        for event, item in zip(run.events, run.items, strict=True):
            if latest is not None and event.done < latest.call:
                message = (
                    f"{run.subscription.name} got {latest.token} before {event.token}, "
                    "whose result was there before the other was published"
                )
                self._accuse("reorder", "SUB-08", message, event.done, latest.call, item.row)
                told = True
            if latest is None or event.call > latest.call:
                latest = event
            if not event.dedupe:
                other = calls.get(event.life)
                if other is not None and other.call > event.call:
                    message = (
                        f"{run.subscription.name} got {other.token} before {event.token}, called earlier"
                    )
                    self._accuse("reorder", "SUB-12", message, event.call, other.call, item.row)
                    self._per_publisher, told = False, True
                else:
                    calls[event.life] = event
        return told

    def _disagree(self, runs: list[_Run], sequences: list[list[Publish]]) -> None:
        pair = inversion(sequences)
        if pair is None:
            self._accuse(
                "reorder",
                "SUB-08",
                "no single order explains what the subscribers got",
                runs[0].items[-1].row,
            )
            return
        rows = [item.row for run in runs for item in run.items if item.event in pair]
        message = f"{pair[0].token} and {pair[1].token} reached two subscribers in different orders"
        self._accuse("reorder", "SUB-08", message, *sorted(rows)[:4])

    # Completeness

    def _complete(self, run: _Run, published: list[Publish], found: Order | None) -> None:
        """Accuse a run of every event that surely belongs into it, is not there, and is excused by no gap."""
        subscription = run.subscription
        if subscription.opened == NEVER:
            return
        missing: dict[Publish, tuple[int, int] | None] = {}
        start = subscription.start
        if start is not None:
            self._begins(run, start, found)
        if found is not None:
            self._holes(run, start, found, missing)
        self._expected(run, published, missing)
        if missing:
            self._excuse(run, missing, found)

    def _begins(self, run: _Run, start: Place, found: Order | None) -> None:
        """Judge whether what a recovery delivered follows the place that was asked for."""
        for event, item in zip(run.events, run.items, strict=True):
            if start.event is not None:
                early = event is start.event or (
                    found is not None
                    and start.event in found.position
                    and found.position[event] < found.position[start.event]
                    and found.proven(found.position[event], found.position[start.event])
                )
            else:
                early = event.done < start.low
            if early:
                message = f"{event.token} does not follow the cursor with which {run.subscription.name} began"
                rows = (event.done,) if event.done < NEVER else ()
                sentence = "HIS-05" if run.subscription.recovered else "HIS-02"
                self._accuse("cursor-lie", sentence, message, *rows, item.row)

    def _holes(
        self, run: _Run, start: Place | None, found: Order, missing: dict[Publish, tuple[int, int] | None]
    ) -> None:
        """Find events that others got between two neighbours of this run."""
        position, last, where = found.position, -1, -1
        if start is not None and start.event in position:
            last = position[start.event]
        for event, index in zip(run.events, run.at, strict=True):
            at = position[event]
            if last >= 0 and at > last + 1 and found.proven(last, at):
                for other in found.events[last + 1 : at]:
                    if run.subscription.sees(other) and other not in run.subscription.had:
                        missing[other] = (where, index)
            last, where = max(last, at), index

    def _expected(
        self, run: _Run, published: list[Publish], missing: dict[Publish, tuple[int, int] | None]
    ) -> None:
        """Find events that were published while the run was surely listening."""
        subscription = run.subscription
        horizon, _ = subscription.horizon()
        since = subscription.opened
        start = subscription.start
        if start is not None:
            since = min(since, start.high if start.event is None else start.event.done)
        had, sees = subscription.had, subscription.sees
        first = bisect_right(published, since, key=_call)
        for at in range(first, len(published)):
            event = published[at]
            if event.call >= horizon:
                break
            if event.done < horizon and event not in had and sees(event) and not event.loose:
                missing.setdefault(event, None)

    def _excuse(self, run: _Run, missing: dict[Publish, tuple[int, int] | None], found: Order | None) -> None:
        """Let every gap excuse as many events as it stands for where it stands, and accuse of the rest."""
        subscription = run.subscription
        items = subscription.items
        left = {
            index: NEVER if item.missed is None else item.missed
            for index, item in enumerate(items)
            if isinstance(item, Gap)
        }
        for event in sorted(missing, key=_call):
            low, high = missing[event] or self._between(run, event, found)
            for index in left:
                if low < index < high and left[index]:
                    left[index] -= 1
                    break
            else:
                self._missing(run, event, low, high)

    def _between(self, run: _Run, event: Publish, found: Order | None) -> tuple[int, int]:
        """Return between which items of its subscription an event surely belongs, both exclusive."""
        low, high = -1, len(run.subscription.items)
        exact = found is not None and event in found.position
        for other, index in zip(run.events, run.at, strict=True):
            if exact and found is not None:
                a, b = found.position[other], found.position[event]
                if a < b and found.proven(a, b):
                    low = index
                elif b < a and found.proven(b, a):
                    high = min(high, index)
            if precedes(other, event):
                low = max(low, index)
            elif precedes(event, other):
                high = min(high, index)
        return low, high

    def _missing(self, run: _Run, event: Publish, low: int, high: int) -> None:
        subscription, items = run.subscription, run.subscription.items
        _, proof = subscription.horizon()
        before = items[low] if low >= 0 else None
        after = items[high] if high < len(items) else None
        life = subscription.exchange.life
        if subscription.recovered and event.call < subscription.opened:
            kind, sentence, spoils = "recovery-lie", "HIS-05", "recovery"
            message = f"{event.token} is missing from {subscription.name}, which claims to have recovered"
        elif after is None:
            kind, sentence, spoils = "lost", "SUB-05", "session" if life.resumes else "connection"
            message = (
                f"{event.token} was published after {subscription.name} had opened, and never reached it"
            )
        elif before is not None and _conn(before) not in (None, _conn(after)) and life.resumes:
            kind, sentence, spoils = "resume-lie", "RES-38", "session"
            message = f"{event.token} is missing from {subscription.name}, which was resumed there"
        else:
            kind, sentence, spoils = "skip", "DEL-01", "connection"
            message = f"{event.token} is missing from {subscription.name} between its neighbours"
        rows = [
            event.call,
            *([before.row] if before is not None else []),
            after.row if after is not None else proof,
        ]
        self._accuse(kind, sentence, message, *rows, spoils=spoils)

    def _overstated(self, subscription: Subscription) -> None:
        """Judge whether its gaps stand for more events than it can have lost."""
        gaps = [item for item in subscription.items if isinstance(item, Gap) and item.missed is not None]
        if not gaps:
            return
        last, since = (
            gaps[-1].row,
            0 if subscription.start or subscription.unsure else subscription.exchange.call,
        )
        lost = sum(
            event not in subscription.had
            and event.call < last
            and event.done > since
            and event.outcome != "failed"
            for channel, published in self._facts.channels.items()
            if channel == subscription.channel
            or (subscription.pattern and self._matches(subscription, channel))
            for event in published
            if subscription.sees(event)
        )
        missed = sum(gap.missed or 0 for gap in gaps)
        if missed > lost:
            message = f"the gaps of {subscription.name} stand for {missed} events, and it lost {lost} at most"
            self._accuse("false-gap", "DEL-05", message, last)


def _conn(item: Item | Gap) -> int | None:
    return item.conn if isinstance(item, Item) else None
