"""Who gets an event: subscribers by channel and by pattern. What brokers of one process have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.names import Pattern

if TYPE_CHECKING:
    from holdfast_reference.backends.base import Subscriber
    from holdfast_reference.protocol.events import Event

__all__ = ["Fanout"]

_REMEMBERED: Final = 4096  # channels whose matching patterns are remembered


class Fanout:
    """Subscribers by channel and by pattern; dictionaries keep them in the order in which they came."""

    def __init__(self) -> None:
        self._channels: dict[str, dict[Subscriber, None]] = {}
        self._patterns: dict[str, tuple[Pattern, dict[Subscriber, None]]] = {}
        self._matching: dict[str, list[dict[Subscriber, None]]] = {}

    def subscribe(self, name: str, pattern: bool, subscriber: Subscriber) -> None:
        if not pattern:
            self._channels.setdefault(name, {})[subscriber] = None
            return
        if name not in self._patterns:
            self._patterns[name] = (Pattern(name), {})
            self._matching.clear()
        self._patterns[name][1][subscriber] = None

    def unsubscribe(self, name: str, pattern: bool, subscriber: Subscriber) -> None:
        subscribers = self._patterns[name][1] if pattern else self._channels[name]
        del subscribers[subscriber]
        if subscribers:
            return
        if pattern:
            del self._patterns[name]
            self._matching.clear()
        else:
            del self._channels[name]

    def _deliver(self, event: Event) -> None:
        """Bring an event to every subscriber that there is now."""
        for subscriber in self._channels.get(event.channel, ()):
            subscriber.deliver(event)
        if self._patterns:
            for subscribers in self._subscribers_by_pattern(event.channel):
                for subscriber in subscribers:
                    subscriber.deliver(event)

    def _subscribers_by_pattern(self, channel: str) -> list[dict[Subscriber, None]]:
        found = self._matching.get(channel)
        if found is None:
            if len(self._matching) >= _REMEMBERED:
                self._matching.clear()
            found = [
                subscribers for pattern, subscribers in self._patterns.values() if pattern.matches(channel)
            ]
            self._matching[channel] = found
        return found
