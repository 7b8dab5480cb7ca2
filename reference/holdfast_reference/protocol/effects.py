"""What the core asks its owner to do. Plain tuples, in the order in which they happened.

The frames themselves are not effects: they wait in the connection until its owner writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.grants import Credentials

__all__ = ["NOTHING", "Authenticate", "Call", "Close", "Effect", "Effects", "Publish", "Stop", "Subscribe"]


class Authenticate(NamedTuple):
    """Look at credentials, then answer with `granted` or `denied`.

    `id` names the `auth` exchange, 0 is the `hello`; `credentials` is None when the client showed none.
    """

    id: int
    credentials: Credentials | None


class Call(NamedTuple):
    """Run a method, then answer with `succeed` or `fail`; `chunk` before that if `stream` is true.

    `data` is the JSON of the arguments, None for none; `base64` whether it is a string of base64.
    """

    id: int
    method: str
    data: bytes | None
    base64: bool
    stream: bool


class Publish(NamedTuple):
    """Put an event into its channel, then answer with `succeed` or `fail`."""

    id: int
    event: Event


class Subscribe(NamedTuple):
    """Register for a channel or, with `pattern` true, for a pattern, then answer with `opened` or `fail`."""

    id: int
    name: str
    pattern: bool


class Stop(NamedTuple):
    """The exchange is over as far as the client knows: cancel its handler, drop its subscription."""

    id: int


class Close(NamedTuple):
    """Write what is queued, then close with this code and reason. Nothing follows."""

    code: int
    reason: str
    detail: str


Effect = Authenticate | Call | Publish | Subscribe | Stop | Close
Effects = list[Effect] | tuple[()]
NOTHING: Final = ()
