"""The seams of the server: who may come in, how events find their subscribers, and what is kept of them.

The engines stand beside this module: `tokens.py` knows who may come in, `memory.py` keeps logs as long as
the process lives, `sqlite.py` keeps them in a file. What the core itself sees of a log is in `protocol/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from holdfast_reference.protocol.logs import CursorError, CursorReason, Dedupe, Log, Page, Published

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast_reference.protocol.errors import ExchangeError
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.grants import Credentials, Grant

__all__ = [
    "Authenticator",
    "BackendError",
    "Broker",
    "CursorError",
    "CursorReason",
    "Dedupe",
    "Log",
    "Page",
    "Published",
    "Subscriber",
    "Upgrade",
]


class BackendError(Exception):
    """An engine cannot work with what it was given.

    Args:
        message: one line that says what is wrong.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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
    """Brings the events of a channel to all its subscribers, in one order, and keeps the newest of them."""

    def subscribe(self, name: str, pattern: bool, subscriber: Subscriber) -> None:
        """Deliver from now on what is published to a channel or, with `pattern` true, to what it matches.

        For a channel with a log these are the events after its `end`.
        """
        ...

    def unsubscribe(self, name: str, pattern: bool, subscriber: Subscriber) -> None:
        """Deliver nothing more to a subscriber that was given to `subscribe` with the same arguments."""
        ...

    def publish(
        self,
        event: Event,
        dedupe: Dedupe | None = None,
        done: Callable[[Published | ExchangeError], None] | None = None,
    ) -> None:
        """Give an event its place in its channel, and bring it to the subscribers.

        Events of one channel get their places in the order of the calls. A duplicate is not delivered; that
        of a publish whose outcome is not known yet waits for it. Failures are not remembered.

        Args:
            event: gets its `position` and `cursor` before anybody sees it, where the channel has a log.
            dedupe: the key under which it takes effect once, or None.
            done: is told the outcome, at once or later: when the event is as safe as the engine can make it
                and every subscriber of this process has it, or when none ever will. It must not raise.
                A failure is `unavailable`.

        Spec: [HIS-35] to [HIS-41].
        """
        ...

    def log(self, channel: str) -> Log | None:
        """The log of a channel, or None if the channel keeps none."""
        ...

    async def trim(self, channel: str) -> None:
        """Forget every event of a channel's log; the places stay.

        Raises:
            ExchangeError: `unavailable`: nothing has changed.
        """
        ...

    async def wipe(self, channel: str) -> None:
        """Start a channel's log anew, in another epoch; raises as `trim` does."""
        ...

    async def run(self) -> None:
        """Do what has to be done in the background, until cancelled; returns when there is nothing to do."""
        ...

    def close(self) -> None:
        """Let go of what the engine holds, after everything else has ended."""
        ...
