"""What every broker must do; a test module of a broker calls each of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.protocol import Event, Payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.backends.base import Broker


class Listener:
    """A subscriber that remembers."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    def deliver(self, event: Event) -> None:
        self.got.append((event.channel, event.tail))


def publish(broker: Broker, channel: str, *values: int) -> None:
    for value in values:
        broker.publish(Event(channel, Payload(b"%d" % value)))


def tails(*values: int) -> list[bytes]:
    return [b',"data":%d}' % value for value in values]


class BrokerContract:
    """Subclass it, and say how a broker is made."""

    make: Callable[[], Broker]

    def test_a_channel_reaches_its_subscribers_alone(self) -> None:
        broker, here, there = self.make(), Listener(), Listener()
        broker.subscribe("a", False, here)
        broker.subscribe("b", False, there)
        publish(broker, "a", 1, 2)
        publish(broker, "c", 3)
        assert here.got == [("a", tail) for tail in tails(1, 2)]
        assert there.got == []

    def test_all_subscribers_see_one_order(self) -> None:
        broker, listeners = self.make(), [Listener() for _ in range(3)]
        for listener in listeners:
            broker.subscribe("a", False, listener)
        publish(broker, "a", *range(10))
        assert all([tail for _, tail in listener.got] == tails(*range(10)) for listener in listeners)

    def test_patterns_see_what_they_match(self) -> None:
        broker, one, rest = self.make(), Listener(), Listener()
        broker.subscribe("a/*", True, one)
        broker.subscribe("a/**", True, rest)
        publish(broker, "a/b", 1)
        publish(broker, "a/b/c", 2)
        publish(broker, "b/a", 3)
        assert [channel for channel, _ in one.got] == ["a/b"]
        assert [channel for channel, _ in rest.got] == ["a/b", "a/b/c"]

    def test_a_star_in_a_channel_is_a_character(self) -> None:
        broker, listener = self.make(), Listener()
        broker.subscribe("a/*", False, listener)
        publish(broker, "a/b", 1)
        publish(broker, "a/*", 2)
        assert [channel for channel, _ in listener.got] == ["a/*"]

    def test_who_unsubscribes_hears_no_more_and_the_others_do(self) -> None:
        broker, leaving, staying = self.make(), Listener(), Listener()
        for listener in (leaving, staying):
            broker.subscribe("a/b", False, listener)
            broker.subscribe("a/*", True, listener)
        publish(broker, "a/b", 1)
        broker.unsubscribe("a/b", False, leaving)
        broker.unsubscribe("a/*", True, leaving)
        publish(broker, "a/b", 2)
        assert len(leaving.got) == 2
        assert len(staying.got) == 4

    def test_a_pattern_that_comes_later_sees_what_comes_later(self) -> None:
        """Whatever the broker remembers about a channel."""
        broker, early, late = self.make(), Listener(), Listener()
        broker.subscribe("a/*", True, early)
        publish(broker, "a/b", 1)
        broker.subscribe("*/b", True, late)
        publish(broker, "a/b", 2)
        broker.unsubscribe("a/*", True, early)
        publish(broker, "a/b", 3)
        assert [tail for _, tail in early.got] == tails(1, 2)
        assert [tail for _, tail in late.got] == tails(2, 3)
