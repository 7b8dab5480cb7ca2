"""The seams of the server: who may come in, and how events find their subscribers.

Everything here is a Protocol; `memory.py` and `tokens.py` are the engines that need nothing installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.grants import Credentials, Grant

__all__ = ["Authenticator", "Broker", "Subscriber", "Upgrade"]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What is known of a connection from its upgrade request; names of headers are in lower case."""

    peer: str
    headers: Mapping[str, str]


class Authenticator(Protocol):
    """Turns credentials into a grant."""

    @property
    def ambient(self) -> bool:
        """Whether the upgrade request alone can identify a client (a cookie, say): then `Origin` matters."""
        ...

    async def authenticate(self, credentials: Credentials | None, upgrade: Upgrade | None) -> Grant:
        """Decide who it is.

        Args:
            credentials: of `hello.auth` or of an `auth` frame; when present they alone count.
            upgrade: the upgrade request, for a `hello` only.

        Raises:
            ExchangeError: `unauthenticated` or `forbidden`; `unavailable` when nobody can tell now.
        """
        ...


class Subscriber(Protocol):
    """Somebody who wants events; compared by identity."""

    def deliver(self, event: Event) -> None:
        """Take an event; must not wait, raise, subscribe or unsubscribe."""
        ...


class Broker(Protocol):
    """Brings the events of a channel to all its subscribers, in one order."""

    def subscribe(self, name: str, pattern: bool, subscriber: Subscriber) -> None:
        """Deliver from now on what is published to a channel or, with `pattern` true, to what it matches."""
        ...

    def unsubscribe(self, name: str, pattern: bool, subscriber: Subscriber) -> None:
        """Deliver nothing more to a subscriber that was given to `subscribe` with the same arguments."""
        ...

    def publish(self, event: Event) -> None:
        """Give an event its place in its channel; on return every subscriber of this process has it."""
        ...
