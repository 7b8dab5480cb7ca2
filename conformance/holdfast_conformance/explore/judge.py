"""The judge: what a whole history proves, and what it does not.

The first reading (`reading`) finds what single rows prove. Here the runs of events that subscriptions got are
compared with each other and with what was published. All of it takes time linear in the history, but for the
search that explains a contradiction. Nothing is concluded from silence without a proof that the silence was
listened to: a fence, or a client that was attached long enough.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, cast

from .facts import NEVER, Gap, Place
from .history import kept
from .order import consistent, inversion, order, precedes
from .pages import judge_pages
from .reading import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .anomalies import Anomaly
    from .facts import Facts, Publish, Subscription
    from .history import Row
    from .order import Order

__all__ = ["MOST", "Judgement", "judge"]

MOST = 20
"""Findings of one class in one history; what broke once in a thousand places is told often enough."""


_call = attrgetter("call")
_done = attrgetter("done")


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
    events: Sequence[Publish] = ()
    indices: Sequence[int] = ()  # of each event among all items of the subscription

    @property
    def rows(self) -> list[int]:
        """The row of each event."""
        return [self.subscription.rows[index] for index in self.indices]


def judge(rows: Sequence[Row]) -> Judgement:
    """Judge a history that `history.validate` accepts."""
    with kept():  # half of the time would go into looking for garbage
        reading = Reading(rows)
        reading.read()
        judgement = _Judge(reading, rows).judge()
        reading.facts.let_go()
        del reading
    return judgement


class _Judge:
    def __init__(self, reading: Reading, rows: Sequence[Row]) -> None:
        self._reading = reading
        self._rows = rows
        self._facts: Facts = reading.facts
        self._accuse = reading.accuse
        self._loose = False  # whether any event is
        self._per_publisher = True
        self._per_channel = True

    def judge(self) -> Judgement:
        facts = self._facts
        for life in facts.lives:
            life.proofs.sort()
        for publish in facts.publishes.values():
            if len(publish.exchanges) > 1:
                publish.loose = self._outlives_its_key(publish)
                self._loose |= publish.loose
        runs: dict[str, list[_Run]] = {channel: [] for channel in facts.channels}
        for subscription in facts.subscriptions:
            for channel, run in self._runs(subscription).items():
                runs[channel].append(run)
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
        """Return whether a publish was tried again when its key may have been forgotten, or was another's."""
        rows, exchanges = self._rows, publish.exchanges
        if len({exchange.life.principal for exchange in exchanges}) > 1:
            return True
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
        by_life: dict[object, list[Subscription]] = {}
        for subscription in self._facts.subscriptions:
            by_life.setdefault(subscription.exchange.life, []).append(subscription)
        runs = []
        for several in by_life.values():
            items: Iterable[Publish | Gap] = several[0].items
            if len(several) > 1:
                came = sorted((row, item) for s in several for row, item in zip(s.rows, s.items, strict=True))
                # An event that several subscriptions of a session got counts where it came first.
                items = dict.fromkeys(item for _, item in came)
            runs.append([item for item in items if type(item) is not Gap])
        return runs

    # One run after the other

    def _runs(self, subscription: Subscription) -> dict[str, _Run]:
        """Split a subscription into runs by channel, and judge each event by the moments alone."""
        channel, items = subscription.channel, subscription.items
        if subscription.start is None and subscription.has_log and channel is not None:
            # What the cursor of its `open` names may have come out later.
            place = self._facts.place(channel, subscription.cursor)
            if place is not None and place.event is not None:
                subscription.start = place
        asked = -1 if subscription.recovered or subscription.unsure else subscription.exchange.call
        if channel is not None and not subscription.gaps and not self._loose:
            events = cast("list[Publish]", items)
            subscription.had = set(events)
            if len(subscription.had) == len(events) and min(map(_done, events), default=NEVER) >= asked:
                # Nearly always nothing is odd, which is seen much faster than what is.
                whole = _Run(subscription, events, range(len(events)))
                return {channel: whole} if channel in self._facts.channels else {}
        sifted = self._sifted(subscription, asked)
        channels = [channel] if channel is not None else self._facts.channels
        for other in channels:
            if other in self._facts.channels and self._matches(subscription, other):
                sifted.setdefault(other, ([], []))
        return {channel: _Run(subscription, *lists) for channel, lists in sifted.items()}

    def _sifted(self, subscription: Subscription, asked: int) -> dict[str, tuple[list[Publish], list[int]]]:
        """Return for each channel its events that may stand where they do, and their indices."""
        sifted: dict[str, tuple[list[Publish], list[int]]] = {}
        subscription.had = had = set()
        for index, event in enumerate(subscription.items):
            if type(event) is Gap:
                continue
            if event.loose:
                had.add(event)
                continue
            events, indices = sifted.setdefault(event.channel, ([], []))
            if event in had:
                self._twice(event, index, subscription)
                continue
            had.add(event)
            if event.done < asked:
                self._ghost(event, index, subscription)
                continue
            events.append(event)
            indices.append(index)
        return sifted

    def _matches(self, subscription: Subscription, channel: str) -> bool:
        if subscription.pattern is None:
            return True
        prefix = subscription.pattern.removesuffix("**")
        return channel.startswith(prefix) and len(channel) > len(prefix)

    def _twice(self, event: Publish, index: int, subscription: Subscription) -> None:
        first, second = subscription.rows[subscription.items.index(event)], subscription.rows[index]
        if event.dedupe and len(event.exchanges) > 1:
            message = f"{event.token} was tried {len(event.exchanges)} times with one key and delivered twice"
            self._accuse("dedupe-broken", "HIS-37", message, event.call, first, second)
            return
        spoils = "connection" if self._conn(first) == self._conn(second) else "session"
        message = f"{event.token} reached {subscription.name} twice"
        self._accuse("duplicate", "SUB-06", message, event.call, first, second, spoils=spoils)

    def _conn(self, row: int) -> int:
        """Return the connection on which a frame came."""
        return self._rows[row]["conn"]

    def _ghost(self, event: Publish, index: int, subscription: Subscription) -> None:
        message = f"{event.token} took effect before {subscription.name} was asked for, and reached it"
        self._accuse(
            "ghost", "SUB-28", message, event.done, subscription.exchange.call, subscription.rows[index]
        )

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
        sequences = [run.events for run in runs if run.events]
        if not sequences:
            return None
        found = order(sequences)
        if found is None:
            self._per_channel = False
            # A run that contradicts the moments by itself says more than two that contradict each other.
            if not any([self._in_time(run) for run in runs]):
                self._disagree(runs, sequences)
        return found

    def _in_time(self, run: _Run) -> bool:
        """Judge one run by the moments of its publishes; return whether it was accused."""
        told = False
        latest: Publish | None = None
        calls: dict[object, Publish] = {}
        for event, row in zip(run.events, run.rows, strict=True):
            if latest is not None and event.done < latest.call:
                message = (
                    f"{run.subscription.name} got {latest.token} before {event.token}, "
                    "whose result was there before the other was published"
                )
                self._accuse("reorder", "SUB-29", message, event.done, latest.call, row)
                told = True
            if latest is None or event.call > latest.call:
                latest = event
            if not event.dedupe:
                other = calls.get(event.life)
                if other is not None and other.call > event.call:
                    message = (
                        f"{run.subscription.name} got {other.token} before {event.token}, called earlier"
                    )
                    self._accuse("reorder", "SUB-12", message, event.call, other.call, row)
                    self._per_publisher, told = False, True
                else:
                    calls[event.life] = event
        return told

    def _disagree(self, runs: list[_Run], sequences: list[Sequence[Publish]]) -> None:
        pair = inversion(sequences)
        if pair is None:
            self._accuse(
                "reorder",
                "SUB-08",
                "no single order explains what the subscribers got",
                runs[0].rows[-1],
            )
            return
        rows = [row for run in runs for event, row in zip(run.events, run.rows, strict=True) if event in pair]
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
        for event, row in zip(run.events, run.rows, strict=True):
            if start.event is not None:
                early = event is start.event or (
                    found is not None and event.at < start.event.at and found.proven(event.at, start.event.at)
                )
            else:
                early = event.done < start.low
            if early:
                message = f"{event.token} does not follow the cursor with which {run.subscription.name} began"
                rows = (event.done,) if event.done < NEVER else ()
                sentence = "HIS-05" if run.subscription.recovered else "HIS-02"
                self._accuse("cursor-lie", sentence, message, *rows, row)

    def _holes(
        self, run: _Run, start: Place | None, found: Order, missing: dict[Publish, tuple[int, int] | None]
    ) -> None:
        """Find events that others got between two neighbours of this run."""
        last, where = -1, -1
        if start is not None and start.event is not None:
            last = start.event.at
        for event, index in zip(run.events, run.indices, strict=True):
            at = event.at
            if last >= 0 and at > last + 1 and found.proven(last, at):
                for other in found.events[last + 1 : at]:
                    if run.subscription.sees(other) and other not in run.subscription.had:
                        missing[other] = (where, index)
            last, where = at if at > last else last, index

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
        first, last = bisect_right(published, since, key=_call), bisect_left(published, horizon, key=_call)
        for event in [event for event in published[first:last] if event not in had]:
            if event.done < horizon and sees(event) and not event.loose:
                missing.setdefault(event, None)

    def _excuse(self, run: _Run, missing: dict[Publish, tuple[int, int] | None], found: Order | None) -> None:
        """Let every gap excuse as many events as it stands for where it stands, and accuse of the rest."""
        subscription = run.subscription
        items = subscription.items
        left = {
            index: NEVER if item.missed is None else item.missed
            for index, item in enumerate(items)
            if type(item) is Gap
        }
        places = {event: missing[event] or self._between(run, event, found) for event in missing}
        # Whoever has to be excused first chooses first, and takes the first gap: so none is wasted.
        for event in sorted(missing, key=lambda event: (places[event][1], event.call)):
            low, high = places[event]
            for index in left:
                if low < index < high and left[index]:
                    left[index] -= 1
                    break
            else:
                self._missing(run, event, low, high)

    def _between(self, run: _Run, event: Publish, found: Order | None) -> tuple[int, int]:
        """Return between which items of its subscription an event surely belongs, both exclusive."""
        low, high = -1, len(run.subscription.items)
        for other, index in zip(run.events, run.indices, strict=True):
            if found is not None and event.at >= 0:
                a, b = other.at, event.at
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
        before = subscription.rows[low] if low >= 0 else None
        after = subscription.rows[high] if high < len(items) else None
        life = subscription.exchange.life
        if subscription.recovered and event.call < subscription.opened:
            kind, sentence, spoils = "recovery-lie", "HIS-05", "recovery"
            message = f"{event.token} is missing from {subscription.name}, which claims to have recovered"
        elif after is None:
            kind, sentence, spoils = "lost", "SUB-05", "session" if life.resumes else "connection"
            message = (
                f"{event.token} was published after {subscription.name} had opened, and never reached it"
            )
        elif (
            before is not None
            and type(items[low]) is not Gap
            and self._conn(before) != self._conn(after)
            and life.resumes
        ):
            kind, sentence, spoils = "resume-lie", "RES-38", "session"
            message = f"{event.token} is missing from {subscription.name}, which was resumed there"
        else:
            kind, sentence, spoils = "skip", "DEL-01", "connection"
            message = f"{event.token} is missing from {subscription.name} between its neighbours"
        rows = [
            event.call,
            *([before] if before is not None else []),
            after if after is not None else proof,
        ]
        self._accuse(kind, sentence, message, *rows, spoils=spoils)

    def _overstated(self, subscription: Subscription) -> None:
        """Judge whether its gaps stand for more events than it can have lost."""
        gaps = [
            (row, item.missed)
            for row, item in zip(subscription.rows, subscription.items, strict=True)
            if type(item) is Gap and item.missed is not None
        ]
        if not gaps:
            return
        last = gaps[-1][0]
        since = 0 if subscription.start or subscription.unsure else subscription.exchange.call
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
        missed = sum(missed for _, missed in gaps)
        if missed > lost:
            message = f"the gaps of {subscription.name} stand for {missed} events, and it lost {lost} at most"
            self._accuse("false-gap", "DEL-05", message, last)
