"""What the core asks its owner to do. Plain tuples, in the order in which they happened.

The frames themselves are not effects: they wait in the connection until its owner writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.grants import Credentials
    from holdfast_reference.protocol.logs import Dedupe

__all__ = [
    "NOTHING",
    "NOWHERE",
    "Authenticate",
    "Call",
    "Close",
    "Effect",
    "Effects",
    "Ended",
    "History",
    "Publish",
    "Query",
    "Start",
    "Stop",
    "Subscribe",
    "Supersede",
]


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
    """Put an event into its channel, once if `dedupe` says so, then answer with `published`."""

    id: int
    event: Event
    dedupe: Dedupe | None = None


class Start(NamedTuple):
    """Where the events of a subscription begin: after the cursor `since`, or with the newest `last` ones.

    With `require` it is the cursor or nothing; without all of them they begin now.
    """

    since: str | None = None
    last: int | None = None
    require: bool = False


NOWHERE: Final = Start()


class Subscribe(NamedTuple):
    """Register for a channel or, with `pattern` true, for a pattern, then answer with `opened` or `fail`."""

    id: int
    name: str
    pattern: bool
    start: Start = NOWHERE


class Query(NamedTuple):
    """Which page of a log: what leads up to a cursor, what follows one, or the newest; `limit` events."""

    before: str | None
    after: str | None
    limit: int | None


class History(NamedTuple):
    """Find the log of a channel, then answer with `listed`."""

    id: int
    channel: str
    query: Query


class Stop(NamedTuple):
    """The exchange is over as far as the client knows: cancel its handler, drop its subscription."""

    id: int


class Close(NamedTuple):
    """Write what `peek` still gives, then close with this code and reason. Nothing follows."""

    code: int
    reason: str
    detail: str


class Supersede(NamedTuple):
    """Carry out `close` on the older connection `conn`: a newer one has its session already."""

    conn: str
    close: Close


class Ended(NamedTuple):
    """A session is over, maybe another than this connection's: cancel all its handlers and subscriptions.

    `origin` is its name, see `Session`.
    """

    origin: str


Effect = Authenticate | Call | Publish | Subscribe | History | Stop | Close | Supersede | Ended
Effects = list[Effect] | tuple[()]
NOTHING: Final = ()
