"""Exchanges: which ids are used, which are running, and whether another one may start.

An exchange holds a slot from its first frame until its terminal has left the outgoing queue; that is why
slots are counted over both. This file does not know what an exchange does.

Spec: 04-requests [RPC-01] [RPC-02], 09-limits-timers [LIM-07] [LIM-08].
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.errors import CloseCode, ProtocolViolation
from holdfast_reference.protocol.outgoing import AUTH_END, CALL_END, SUBSCRIPTION_END, Outgoing
from holdfast_reference.protocol.states import EXCHANGE, Stage, Step

if TYPE_CHECKING:
    from collections.abc import Hashable

    from holdfast_reference.protocol.limits import Limits

__all__ = ["Exchange", "Exchanges", "Pool"]


class Pool(IntEnum):
    """What an exchange takes a slot of; the value is the kind of its terminal in the outgoing queue."""

    CALLS = CALL_END
    SUBSCRIPTIONS = SUBSCRIPTION_END
    AUTH = AUTH_END


# Looked up once: a member of an enumeration costs as much as three names, and these are met in every frame.
_SENT: Final = Stage.SENT
_TERMINAL: Final = Step.TERMINAL


class Exchange:
    """One running exchange.

    Args:
        pool: what its slot is of.
        name: method, channel or pattern.
        pattern: whether `name` is a pattern.
        stream: whether the client takes chunks.
        head: what each of its events begins with.

    Attributes:
        logged: whether it is a subscription that has a log.
    """

    __slots__ = ("head", "logged", "name", "pattern", "pool", "stage", "stream")

    def __init__(
        self, pool: Pool, name: str, stream: bool = False, pattern: bool = False, head: bytes = b""
    ) -> None:
        self.pool = pool
        self.name = name
        self.pattern = pattern
        self.stream = stream
        self.head = head
        self.logged = False
        self.stage = _SENT

    def step(self, step: Step) -> Stage:
        """Move on; a step that the table lacks is a fault of this server, not of the peer."""
        self.stage = EXCHANGE[self.stage][step]
        return self.stage

    def copy(self) -> Exchange:
        twin = Exchange(self.pool, self.name, self.stream, self.pattern, self.head)
        twin.logged = self.logged
        twin.stage = self.stage
        return twin

    def key(self) -> Hashable:
        return (self.pool, self.name, self.pattern, self.stream, self.stage)


class Exchanges:
    """The exchanges of one session; `running` by id, `deadlines` of those with a `timeout_ms`."""

    __slots__ = ("_bounds", "_held", "deadlines", "last_id", "running")

    def __init__(self, limits: Limits) -> None:
        self._bounds = {
            Pool.CALLS: limits.max_inflight,
            Pool.SUBSCRIPTIONS: limits.max_subscriptions,
            Pool.AUTH: 1,
        }
        self._held = dict.fromkeys(Pool, 0)
        self.last_id = 0
        self.running: dict[int, Exchange] = {}
        self.deadlines: dict[int, float] = {}

    def consume(self, id: int) -> None:
        """Use up a fresh id.

        Raises:
            ProtocolViolation: 4003, it is not above all before it.
        """
        if id <= self.last_id:
            raise ProtocolViolation(CloseCode.BAD_ID, f"id {id} after {self.last_id}")
        self.last_id = id

    def is_free(self, pool: Pool, outgoing: Outgoing) -> bool:
        """Whether a slot is free; one whose terminal is still queued is not."""
        return self._held[pool] + outgoing.counts[pool] < self._bounds[pool]

    def is_idle(self, pool: Pool) -> bool:
        """Whether no exchange of this pool is running."""
        return self._held[pool] == 0

    def start(self, id: int, exchange: Exchange, deadline: float | None = None) -> None:
        self.running[id] = exchange
        self._held[exchange.pool] += 1
        if deadline is not None:
            self.deadlines[id] = deadline

    def finish(self, id: int) -> Exchange | None:
        """Take an exchange off the running ones; None when it has its terminal already."""
        exchange = self.running.pop(id, None)
        if exchange is not None:
            exchange.stage = EXCHANGE[exchange.stage][_TERMINAL]
            self._held[exchange.pool] -= 1
            if self.deadlines:
                self.deadlines.pop(id, None)
        return exchange

    def copy(self) -> Exchanges:
        twin = Exchanges.__new__(Exchanges)
        twin._bounds = self._bounds
        twin._held = self._held.copy()
        twin.last_id = self.last_id
        twin.running = {id: exchange.copy() for id, exchange in self.running.items()}
        twin.deadlines = self.deadlines.copy()
        return twin

    def key(self) -> Hashable:
        running = frozenset((id, exchange.key()) for id, exchange in self.running.items())
        return (self.last_id, running, frozenset(self.deadlines.items()))
