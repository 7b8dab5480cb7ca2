"""Mutants of long replays, spec/12-history.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.protocol.effects import NOWHERE
from holdfast_reference.protocol.outgoing import REPLAYED, Outgoing
from holdfast_reference.protocol.session import Session

from mutants.harness import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects, Start
    from holdfast_reference.protocol.logs import Log


def _capped(patch: Patch, most: Callable[[Session], int]) -> None:
    """Let `last` give so many events at most."""

    def opened(
        original: Callable[..., Effects],
        self: Session,
        id: int,
        log: Log | None = None,
        start: Start = NOWHERE,
    ) -> Effects:
        if start.last is not None:
            start = start._replace(last=min(start.last, most(self)))
        return original(self, id, log, start)

    patch.wrap(Session, "opened", opened)


@mutant("his/last-of-a-page", violates="HIS-15", killed_by="his/last-of-many", says="no gap before it")
def _(patch: Patch) -> None:
    """`last` gives no more than a page may hold."""
    _capped(patch, lambda session: session.limits.history_limit)


@mutant("his/last-of-a-queue", violates="HIS-15", killed_by="his/last-of-many", says="no gap before it")
def _(patch: Patch) -> None:
    """`last` gives no more than the queue holds."""
    _capped(patch, lambda session: session.limits.queue)


@mutant("his/pong-before-the-replay", violates="DEL-15", killed_by="his/held-amid-recovery", says="`held`")
def _(patch: Patch) -> None:
    """A pong does not wait for what a replay has not come to."""

    def fence(original: Callable[..., None], self: Outgoing, text: bytes, publish: int = 0) -> None:
        replayed, self.counts[REPLAYED] = self.counts[REPLAYED], 0
        original(self, text, publish)
        self.counts[REPLAYED] = replayed

    patch.wrap(Outgoing, "fence", fence)
