"""Mutants that show only under concurrency or faults: `holdfast explore` has to find each by itself.

They live apart from the others: no check is named for them, because what kills them is a history. Run in the
folder `conformance`:

    python -m mutants --explore                  all of them, and the reference server, which must be blamless
    python -m mutants --explore 'explore/fan*'   only these
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import count, islice
from typing import TYPE_CHECKING

import trio
import trio.testing
from holdfast_conformance.dial import Endpoint
from holdfast_conformance.explore.draw import draw
from holdfast_conformance.explore.perform import perform
from holdfast_reference.backends.fanout import Fanout
from holdfast_reference.protocol import effects
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.outgoing import EVENT, REPLAYED, SUBSCRIPTION_END, Outgoing
from holdfast_reference.protocol.replay import Place
from holdfast_reference.protocol.resume import Sessions
from holdfast_reference.protocol.session import Session

from mutants.harness import Patch, world
from mutants.tools import on_effect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast_conformance.explore.anomalies import Anomaly
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.server.session import Session as Owned

    Deliver = Callable[..., bool]

__all__ = ["EXPLORED", "Explored", "find", "main"]

PLANS = 120
"""In so many plans each mutant has to be found, and nothing in the reference server."""

SEED = 1
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Explored:
    """A mutant: its name, what it does wrong, the kinds of anomalies that may give it away, and its patch."""

    name: str
    title: str
    kinds: frozenset[str]
    apply: Callable[[Patch], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """After how many plans an anomaly was found, and which; None when there was none."""

    plans: int
    anomaly: Anomaly | None
    seconds: float


EXPLORED: dict[str, Explored] = {}
"""Every mutant of this file, by name."""


def _explored(name: str, *kinds: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def define(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        EXPLORED[name] = Explored(name, (apply.__doc__ or "").strip(), frozenset(kinds), apply)
        return apply

    return define


@_explored("explore/resend-leaves-one-out", "resume-lie")
def _(patch: Patch) -> None:
    """After a resume the oldest frame that is not acknowledged is not sent again."""

    def attach(original: Callable[[Outgoing], None], self: Outgoing) -> None:
        self._again = max(0, len(self.unacked) - 1)

    patch.wrap(Outgoing, "attach", attach)


@_explored("explore/resend-changes-content", "seq-changed")
def _(patch: Patch) -> None:
    """Frames that are sent again have a member more."""

    def attach(original: Callable[[Outgoing], None], self: Outgoing) -> None:
        for at, text in enumerate(self.unacked):
            self.unacked[at] = text[:-1] + b',"again":true}'
        original(self)

    patch.wrap(Outgoing, "attach", attach)


@_explored("explore/resume-does-not-acknowledge", "ack-regression")
def _(patch: Patch) -> None:
    """The `seq` of a hello is checked and not taken as an ack."""
    ack = Outgoing.ack

    def resume(original: Callable[..., object], *args: object) -> object:
        patch.set(Outgoing, "ack", Outgoing.check_ack)
        result = original(*args)
        patch.set(Outgoing, "ack", ack)
        return result

    patch.wrap(Sessions, "resume", resume)


@_explored("explore/suspended-miss-events", "resume-lie", "lost", "skip")
def _(patch: Patch) -> None:
    """What is published while a session has no connection is not queued for it."""

    def deliver(original: Deliver, self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        return self.attached is None or original(self, id, event, lossy=lossy)

    patch.wrap(Session, "deliver", deliver)


@_explored("explore/last-id-goes-back", "ack-regression", "wrongly-closed", "phantom", "duplicate")
def _(patch: Patch) -> None:
    """After a cut the server forgets that it has read the newest exchange, which runs on."""

    def detach(original: Callable[[Session], object], self: Session) -> object:
        exchanges = self.exchanges
        if exchanges.last_id in exchanges.running:
            exchanges.last_id -= 1
        return original(self)

    patch.wrap(Session, "detach", detach)


@_explored("explore/window-counts-anew", "ack-regression", "broken-rule")
def _(patch: Patch) -> None:
    """After a resume the window counts only what was not sent before."""

    def attach(original: Callable[[Outgoing], None], self: Outgoing) -> None:
        original(self)
        self._limits = replace(self._limits, window=self._limits.window + len(self.unacked))

    patch.wrap(Outgoing, "attach", attach)


@_explored("explore/fan-out-races", "reorder", "skip", "fence-lie", "lost")
def _(patch: Patch) -> None:
    """Each second event is delivered a moment later, while the next may pass it."""
    counter = count()

    async def later(original: Callable[[Fanout, Event], None], self: Fanout, event: Event) -> None:
        await trio.sleep(0.001)
        original(self, event)

    def deliver(original: Callable[[Fanout, Event], None], self: Fanout, event: Event) -> None:
        if next(counter) % 2:
            trio.lowlevel.spawn_system_task(later, original, self, event)
        else:
            original(self, event)

    patch.wrap(Fanout, "_deliver", deliver)


@_explored("explore/keys-belong-to-sessions", "dedupe-broken")
def _(patch: Patch) -> None:
    """A dedupe key is known in the session that used it, and in no other one of its principal."""

    def publish(original: Callable[..., None], session: Owned, effect: effects.Publish) -> None:
        dedupe = effect.dedupe
        if dedupe is not None:
            dedupe = dedupe._replace(principal=f"{dedupe.principal} {session.conn}")
        original(session, effects.Publish(effect.id, effect.event, dedupe))

    on_effect(patch, effects.Publish, publish)


@_explored("explore/terminal-overtakes", "ghost")
def _(patch: Patch) -> None:
    """The end of a cancelled subscription overtakes its events that wait behind a closed window."""

    def discard(original: Callable[[Outgoing, int], None], self: Outgoing, id: int) -> None:
        if self.counts[REPLAYED] or not self.blocked:
            original(self, id)

    def push(original: Callable[..., None], self: Outgoing, kind: int, id: int, text: bytes) -> None:
        original(self, kind, id, text)
        if kind == SUBSCRIPTION_END and self.blocked and not self.counts[REPLAYED]:
            self._queue.rotate(1)

    patch.wrap(Outgoing, "discard", discard)
    patch.wrap(Outgoing, "push", push)


@_explored("explore/falls-behind-by-one", "skip", "lost", "resume-lie")
def _(patch: Patch) -> None:
    """A subscription whose queue overflows goes on from the log one event too late."""

    def read(original: Callable[[Place, int], object], self: Place, position: int) -> object:
        return original(self, position + 1 if position < self.position - 1 else position)

    def give_up(original: Callable[[Outgoing, int], None], self: Outgoing, victim: int) -> None:
        patch.wrap(Place, "read", read)
        original(self, victim)
        patch.set(Place, "read", honest)

    honest = Place.read
    patch.wrap(Outgoing, "_give_up", give_up)


@_explored("explore/expiry-forgotten-by-resume", "auth-bypass")
def _(patch: Patch) -> None:
    """The identity of a resumed session never expires, whatever the welcome says."""

    def adopt(original: Callable[..., None], self: Connection, grant: Grant, now: float) -> None:
        original(self, grant if self._resume is None else replace(grant, expires_in_ms=None), now)

    patch.wrap(Connection, "_adopt", adopt)


@_explored("explore/takeover-forgets-the-queue", "resume-lie", "lost", "skip", "lost-reply")
def _(patch: Patch) -> None:
    """When a living connection is superseded, what was queued for it is gone."""

    def detach(original: Callable[[Session], object], self: Session) -> object:
        result = original(self)
        if self.outgoing.blocked:
            self.outgoing._remove(lambda item: item[0] == EVENT)
        return result

    patch.wrap(Session, "detach", detach)


def find(name: str, plans: int = PLANS) -> Outcome:
    """Explore a mutant, or with the name "" the reference server, until something is found."""
    mutant = EXPLORED.get(name)
    began = time.perf_counter()
    performed = 0
    found: list[Anomaly] = []

    async def main() -> None:
        nonlocal performed
        with world(mutant.apply if mutant is not None else None) as (here, target):
            async with trio.open_nursery() as nursery:
                endpoint = Endpoint("ws://in-memory/", connect=await here.open(nursery))
                supply = islice(draw(SEED), plans)

                async def job() -> None:
                    nonlocal performed
                    for plan in supply:
                        performance = await perform(plan, target, endpoint)
                        performed += 1
                        found.extend(performance.judgement.found)
                        if any(mutant is None or anomaly.kind in mutant.kinds for anomaly in found):
                            return

                async with trio.open_nursery() as jobs:
                    for _ in range(AT_ONCE):
                        jobs.start_soon(job)
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    wanted = [a for a in found if mutant is None or a.kind in mutant.kinds]
    return Outcome(performed, next(iter(wanted or found), None), time.perf_counter() - began)


def main(patterns: Sequence[str]) -> int:
    """Explore the mutants that match, all without a pattern; 0 when each was found and nothing else was."""
    names = (
        ["", *EXPLORED] if not patterns else [n for n in EXPLORED if any(fnmatchcase(n, p) for p in patterns)]
    )
    if not names:
        print(f"nothing matches {' '.join(patterns)}", file=sys.stderr)
        return 2
    failed = 0
    with ProcessPoolExecutor(2) as pool:
        for name, outcome in zip(names, pool.map(find, names), strict=True):
            anomaly = outcome.anomaly
            good = (anomaly.kind if anomaly else "") in (EXPLORED[name].kinds if name else {""})
            failed += not good
            what = f"{anomaly.kind} [{anomaly.requirement}] {anomaly.message}" if anomaly else "nothing"
            verdict = ("found" if name else "clean") if good else "FAILED"
            shown = name or "the reference server"
            print(
                f"  {verdict:<7} {shown:<40} {outcome.plans:>4} plans {outcome.seconds:5.1f} s  {what[:120]}",
                flush=True,
            )
    return 1 if failed else 0
