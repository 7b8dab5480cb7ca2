"""What a history is about: sessions, exchanges, subscriptions and publishes, and what each of them saw.

Moments are numbers of rows. `Publish.call` is the last moment at which a publish had surely not taken effect,
`Publish.done` the first at which it surely had: its result was there, or somebody had its event. Between the
two nobody knows, and nothing is concluded from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from .history import Called, Said

__all__ = [
    "NEVER",
    "Connection",
    "Exchange",
    "Facts",
    "Gap",
    "Life",
    "Place",
    "Publish",
    "Subscription",
]

NEVER = 1 << 60
"""The moment of what did not happen."""


@dataclass(slots=True, eq=False)
class Publish:
    """One event that a client wanted: several calls when it was tried again with a `dedupe` key.

    It is `loose` when it was tried so late that its key may have been forgotten: then it may rightly exist
    twice, and nothing is concluded from where it comes. `at` is its place in the order of its channel, -1
    while it has none.
    """

    token: str
    life: Life
    channel: str
    data: object
    call: int
    exchanges: list[Exchange]
    echo: bool = True
    dedupe: str = ""
    done: int = NEVER
    seen: int = NEVER
    outcome: str = "maybe"
    loose: bool = False
    at: int = -1


class Place(NamedTuple):
    """A place in a channel's log: just after `event`, or fixed by the server between two moments."""

    event: Publish | None
    low: int
    high: int


@final
class Gap(NamedTuple):
    """A gap that was delivered: how many events it stands for, None when it does not say."""

    missed: int | None


@dataclass(slots=True, eq=False)
class Exchange:
    """One call: its moments, and its terminal."""

    life: Life
    id: int
    sent: Called
    call: int
    ended: int = NEVER
    cancelled: int = NEVER
    outcome: str = ""
    code: str = ""
    publish: Publish | None = None
    subscription: Subscription | None = None


@dataclass(slots=True, eq=False)
class Subscription:
    """What reached one subscription: events and gaps in their order, and the row of each.

    `cursor` is that of its `open`; `start` the place from which it promised to continue, where that is known.
    `unsure` says that it may begin with older events, as with `last`.
    """

    exchange: Exchange
    channel: str | None
    pattern: str | None
    opened: int = NEVER
    has_log: bool = False
    cursor: str = ""
    recovered: bool | None = None
    start: Place | None = None
    items: list[Publish | Gap] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    had: set[Publish] = field(default_factory=set)
    gaps: int = 0

    @property
    def name(self) -> str:
        """How a report calls it."""
        return f"subscription {self.exchange.id} of {self.exchange.life.name}"

    @property
    def unsure(self) -> bool:
        """Whether old events may come although nothing recovered."""
        return "last" in self.exchange.sent

    def horizon(self) -> tuple[int, int]:
        """Return the last moment whose events must have arrived, and the row that proves it; 0 for none."""
        proofs = self.exchange.life.proofs
        until = min(self.exchange.cancelled, self.exchange.ended)
        index = bisect_left(proofs, (until, 0))
        # What is still queued is discarded by a cancel, so the proof has to have arrived before that.
        while index and proofs[index - 1][1] >= until:
            index -= 1
        return proofs[index - 1] if index else (0, 0)

    def sees(self, event: Publish) -> bool:
        """Return whether the event was meant for it, the channel aside."""
        return event.echo or event.life is not self.exchange.life


@dataclass(slots=True, eq=False)
class Life:
    """One session of a client, from its first welcome to the last connection on which it was attached.

    `most` is the highest `seq` for which its window has room.
    `proofs` are pairs (moment, row): everything that took effect before the moment had arrived by the row.
    Once it is `broken`, by a frame that is missing, nothing that follows says anything new.
    """

    client: str
    number: int
    principal: str
    opened: int
    expires: float = float("inf")
    dedupe_ms: int = 0
    window: int = 0
    acked: int = 0
    most: float = float("inf")
    got: int = 0
    frames: dict[int, Said] = field(default_factory=dict)
    last_id: int = 0
    highest: int = 0
    consumed: int = 0
    newest_conn: int = 0
    broken: bool = False
    resumes: int = 0
    exchanges: dict[int, Exchange] = field(default_factory=dict)
    proofs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """How a report calls it."""
        return self.client if self.number == 1 else f"{self.client} (session {self.number})"


@dataclass(slots=True, eq=False)
class Connection:
    """One connection; `next` is the seq that the server has to send next."""

    number: int
    client: str
    resume_seq: int | None
    previous: Life | None
    life: Life | None = None
    next: int = 0
    resumed: bool = False
    pings: dict[str, int] = field(default_factory=dict)
    fence: int = 0
    fence_row: int = 0
    first: bool = True


@dataclass(slots=True, eq=False)
class Facts:
    """Everything that the first reading of a history found; `counts` is the evidence, see `guarantees`."""

    publishes: dict[str, Publish] = field(default_factory=dict)
    channels: dict[str, list[Publish]] = field(default_factory=lambda: defaultdict(list))
    subscriptions: list[Subscription] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    pages: list[tuple[Exchange, dict[str, object], int]] = field(default_factory=list)
    cursors: dict[str, dict[str, Publish | Place]] = field(default_factory=lambda: defaultdict(dict))
    profiles: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def let_go(self) -> None:
        """Open every circle of references, so that all goes at once and leaves the collector no work."""
        for publish in self.publishes.values():
            publish.exchanges.clear()
        for subscription in self.subscriptions:
            subscription.exchange.subscription = None
        for life in self.lives:
            life.exchanges.clear()

    def place(self, channel: str, cursor: str) -> Place | None:
        """Return what a cursor names, as far as this history tells."""
        named = self.cursors[channel].get(cursor)
        return Place(named, named.call, named.done) if isinstance(named, Publish) else named
