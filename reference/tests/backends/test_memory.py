"""The broker in memory keeps the contract, and nothing else."""

from __future__ import annotations

from holdfast_reference.backends.memory import MemoryBroker
from tests.backends.contract import BrokerContract, Listener, publish


class TestMemoryBroker(BrokerContract):
    make = MemoryBroker

    def test_it_forgets_what_nobody_listens_to(self) -> None:
        broker, listener = MemoryBroker(), Listener()
        for pattern in (False, True):
            broker.subscribe("a/b", pattern, listener)
            broker.unsubscribe("a/b", pattern, listener)
        assert (broker._channels, broker._patterns) == ({}, {})

    def test_what_it_remembers_about_channels_is_bounded(self) -> None:
        broker, listener = MemoryBroker(), Listener()
        broker.subscribe("**", True, listener)
        for n in range(5000):
            publish(broker, f"c/{n}", n)
        assert len(listener.got) == 5000
        assert len(broker._matching) <= 4096
