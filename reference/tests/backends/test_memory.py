"""The broker in memory keeps the contract, and little else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.backends.channel_log import Retention
from holdfast_reference.backends.memory import MemoryBroker
from tests.backends.contract import BrokerContract, Listener, event

if TYPE_CHECKING:
    from collections.abc import Callable


class TestMemoryBroker(BrokerContract):
    def make(self, retention: Retention, clock: Callable[[], float]) -> MemoryBroker:
        return MemoryBroker(retention, clock=clock)

    def test_it_forgets_who_listens_to_nothing(self) -> None:
        broker, listener = MemoryBroker(), Listener()
        for pattern in (False, True):
            broker.subscribe("a/b", pattern, listener)
            broker.unsubscribe("a/b", pattern, listener)
        assert (broker._channels, broker._patterns) == ({}, {})

    def test_what_it_remembers_about_channels_is_bounded(self) -> None:
        broker, listener = MemoryBroker(Retention(channels=10)), Listener()
        broker.subscribe("**", True, listener)
        for n in range(5000):
            broker.publish(event(f"c/{n}", n))
        assert len(listener.got) == 5000
        assert len(broker._matching) <= 4096
        assert len(broker._logs) == 10
        assert broker._bytes == sum(log.bytes for log in broker._logs.values())

    async def test_looking_at_a_log_costs_nothing(self) -> None:
        broker = MemoryBroker()
        for n in range(100):
            log = broker.log(f"c/{n}")
            assert log is not None
            log.page(before=None, after=None, limit=1, max_bytes=100)
            await broker.trim(f"c/{n}")
        assert broker._logs == {}
