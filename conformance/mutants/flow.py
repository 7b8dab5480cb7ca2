"""Mutants of what waits behind a closed window, spec/06-delivery.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.protocol import outgoing
from holdfast_reference.protocol.errors import CloseCode
from holdfast_reference.protocol.outgoing import EVENT, GAP, OPEN, PONG, Outgoing

from mutants.harness import Patch, mutant
from mutants.tools import on_close, on_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.connection import Connection
    from holdfast_reference.protocol.effects import Effects

LOSING = [
    "del/closed-window-leaves-one-gap",
    "del/closed-window-on-a-pattern",
    "del/closed-window-without-a-log",
]


def on_loss(patch: Patch, react: Callable[[Outgoing, int, Callable[[], None]], None]) -> None:
    """Let `react(queue, victim, give_up)` stand for what happens when a subscription has to give up events
    behind a closed window.
    """

    def give_up(original: Callable[..., None], self: Outgoing, victim: int) -> None:
        if self.blocked:
            react(self, victim, lambda: original(self, victim))
        else:
            original(self, victim)

    patch.wrap(Outgoing, "_give_up", give_up)


def _remove_gaps(queue: Outgoing, victim: int) -> None:
    left = [item for item in queue._queue if item[0] != GAP or item[1] != victim]
    queue.counts[GAP] -= len(queue._queue) - len(left)
    queue._queue = type(queue._queue)(left)


@mutant("del/silent-loss-behind-the-window", violates="DEL-03", killed_by=LOSING, says="no gap before it")
def _(patch: Patch) -> None:
    """What overflows behind a closed window is lost, and nobody hears of it."""

    def react(self: Outgoing, victim: int, give_up: Callable[[], None]) -> None:
        give_up()
        _remove_gaps(self, victim)
        self._missed.pop(victim, None)

    on_loss(patch, react)


@mutant("del/gap-after-gap-behind-the-window", violates="DEL-04", killed_by=LOSING, says="2 gaps")
def _(patch: Patch) -> None:
    """Every overflow behind a closed window queues a gap of its own."""

    def react(self: Outgoing, victim: int, give_up: Callable[[], None]) -> None:
        give_up()
        if victim in self._missed:
            _remove_gaps(self, victim)
            self.push(OPEN, victim, outgoing._overflow_gap(victim, self._missed.pop(victim)))

    on_loss(patch, react)


@mutant("del/missed-behind-the-window", violates="DEL-05", killed_by=LOSING, says="`missed`")
def _(patch: Patch) -> None:
    """`missed` counts one event too many for each overflow behind a closed window."""

    def react(self: Outgoing, victim: int, give_up: Callable[[], None]) -> None:
        give_up()
        if victim in self._missed:
            self._missed[victim] += 1

    on_loss(patch, react)


@mutant(
    "del/no-bound-behind-the-window",
    violates="DEL-11",
    killed_by="del/closed-window-leaves-one-gap",
    says="nothing was lost",
)
def _(patch: Patch) -> None:
    """Behind a closed window any number of events waits."""
    patch.wrap(Outgoing, "_overflow", lambda original, self: None if self.blocked else original(self))


@mutant(
    "del/memory-behind-the-window",
    violates="DEL-11",
    killed_by="del/memory-without-acks",
    says="the memory grows with every event",
    process=True,
)
def _(patch: Patch) -> None:
    """Behind a closed window any number of events waits."""
    patch.wrap(Outgoing, "_overflow", lambda original, self: None if self.blocked else original(self))


def _forgets_its_log(self: Outgoing, victim: int, give_up: Callable[[], None]) -> None:
    places = self.places
    self.places = {id: place for id, place in places.items() if id != victim}
    give_up()
    self.places = places


@mutant(
    "del/gap-with-a-log",
    violates="DEL-35",
    killed_by="del/closed-window-with-a-log",
    says="a gap where the log",
)
def _(patch: Patch) -> None:
    """A subscription that has a log loses what overflows, like any other."""
    on_loss(patch, _forgets_its_log)


@mutant(
    "del/gap-with-a-log-everywhere",
    violates="DEL-35",
    killed_by="del/no-overflow-with-a-log",
    says="overflow",
    during=["del/closed-window-with-a-log"],
)
def _(patch: Patch) -> None:
    """A subscription that has a log loses what overflows, like any other."""
    on_loss(patch, _forgets_its_log)


@mutant(
    "del/silent-loss-with-a-log",
    violates="DEL-35",
    killed_by="del/closed-window-with-a-log",
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """A subscription that has a log goes on with the newest event after an overflow."""

    def react(self: Outgoing, victim: int, give_up: Callable[[], None]) -> None:
        lost = [item for item in self._queue if item[0] == EVENT and item[1] == victim]
        for item in lost:
            self._lost(item)
        self._queue = type(self._queue)(item for item in self._queue if item not in lost)

    on_loss(patch, react)


@mutant(
    "del/quiet-one-pays-behind-the-window",
    violates="DEL-02",
    killed_by="del/closed-window-noisy-one-pays",
    says="what the quiet subscription got",
)
def _(patch: Patch) -> None:
    """Behind a closed window every subscription gives up its events."""

    def react(self: Outgoing, victim: int, give_up: Callable[[], None]) -> None:
        for other in {item[1] for item in self._queue if item[0] == EVENT} - {victim}:
            for_all(self, other)
        give_up()

    def for_all(self: Outgoing, victim: int) -> None:
        original(self, victim)

    original = Outgoing._give_up
    on_loss(patch, react)


@mutant(
    "del/loss-closes",
    violates="DEL-33",
    killed_by="del/not-acking-is-no-reason-to-close",
    says="closed with 4301",
)
def _(patch: Patch) -> None:
    """A client that loses events because it does not acknowledge is closed with 4301."""

    lossy: set[Outgoing] = set()

    def react(self: Outgoing, victim: int, give_up: Callable[[], None]) -> None:
        give_up()
        lossy.add(self)

    def read(core: Connection, text: bytes, read: Callable[[bytes], Effects]) -> Effects:
        lost = core.session.outgoing in lossy
        return core.close(CloseCode.SLOW_CONSUMER) if lost else read(text)

    on_loss(patch, react)
    on_text(patch, read)


@mutant(
    "del/refusals-end-early", violates="DEL-33", killed_by="del/refusals-end-in-4301", says="closed with 4301"
)
def _(patch: Patch) -> None:
    """An eighth of `window_bytes` of refusals closes the connection."""

    def look(original: Callable[..., None], self: Outgoing) -> None:
        original(self)
        self.flooded = self.blocked and self._refused_bytes > self._limits.window_bytes // 8

    patch.wrap(Outgoing, "_look", look)


@mutant("del/refusals-for-ever", violates="DEL-32", killed_by="del/refusals-end-in-4301", says="4301")
def _(patch: Patch) -> None:
    """Refusals wait behind a closed window without a bound."""

    def look(original: Callable[..., None], self: Outgoing) -> None:
        original(self)
        self.flooded = False

    patch.wrap(Outgoing, "_look", look)


@mutant("del/refusals-end-in-4302", violates="DEL-32", killed_by="del/refusals-end-in-4301", says="4302")
def _(patch: Patch) -> None:
    """Too many refusals behind a closed window are called a matter of rate."""
    on_close(patch, lambda core, code: 4302 if code == 4301 else code)


@mutant(
    "del/held-unsaid",
    violates="DEL-36",
    killed_by=["del/held-behind-a-closed-window", "del/held-when-the-window-closes"],
    says="`held`",
)
def _(patch: Patch) -> None:
    """A pong that could not wait for its events looks like one that did."""
    patch.set(outgoing, "_held", lambda pong: pong)


@mutant(
    "del/pong-waits-for-acks",
    violates="DEL-36",
    killed_by="del/held-behind-a-closed-window",
    says='"pong"',
)
def _(patch: Patch) -> None:
    """A pong waits for the events before it, however long the window stays closed."""

    def fence(original: Callable[..., None], self: Outgoing, text: bytes, publish: int = 0) -> None:
        if self.blocked and self._queue and not publish:
            self._append((PONG, 0, text, b"", 0))
        else:
            original(self, text, publish)

    patch.wrap(Outgoing, "fence", fence)
    patch.set(Outgoing, "_release", lambda self: None)


@mutant(
    "del/pong-waits-on",
    violates="DEL-36",
    killed_by="del/held-when-the-window-closes",
    says='"pong"',
)
def _(patch: Patch) -> None:
    """A pong that waits already goes on waiting when the window closes."""
    patch.set(Outgoing, "_release", lambda self: None)


@mutant(
    "del/held-for-ever",
    violates="DEL-15",
    killed_by="del/held-behind-a-closed-window",
    says="the pong says held",
)
def _(patch: Patch) -> None:
    """Once a pong had to say `held`, every later one says it."""
    once: set[Outgoing] = set()

    def fence(original: Callable[..., None], self: Outgoing, text: bytes, publish: int = 0) -> None:
        if self.blocked and self._queue:
            once.add(self)
        if self in once:
            self.urgent(outgoing._held(text))
        else:
            original(self, text, publish)

    patch.wrap(Outgoing, "fence", fence)


@mutant(
    "del/small-queue",
    violates="DEL-18",
    killed_by="del/burst-is-no-overflow",
    says="although the client reads",
)
def _(patch: Patch) -> None:
    """The queue overflows although the socket takes everything."""

    def event(
        original: Callable[..., bool],
        self: Outgoing,
        id: int,
        head: bytes,
        tail: bytes,
        position: int,
        lossy: bool,
    ) -> bool:
        return original(self, id, head, tail, position, True)

    patch.wrap(Outgoing, "event", event)
