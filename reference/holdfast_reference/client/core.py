"""The client's side of a session, without input or output: which exchanges there are, and what each may hear.

Text comes in, effects go out; commands return the text to send. It knows no clock and no socket. What
arrives for an exchange is told by its id; keeping it until somebody wants it is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from holdfast_reference.client.errors import BadServerFrame, RequestError
from holdfast_reference.client.frames import (
    ABSENT,
    Chunk,
    Event,
    Gap,
    GoAway,
    Opened,
    Part,
    Ping,
    Pong,
    Result,
    Terminal,
    Unknown,
    Welcome,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUBPROTOCOL = "holdfast.v1.json"
MAX_FIRST_FRAME = 65536
"""Bytes of a `hello` that every server takes."""


class State(Enum):
    """Where an exchange is, seen by the client that started it."""

    SENT = auto()
    OPEN = auto()
    CANCELLING = auto()
    DONE = auto()


class Happening(Enum):
    """What moves an exchange on."""

    OPEN = auto()
    PART = auto()
    CANCEL = auto()
    TERMINAL = auto()
    SESSION_END = auto()


# The table of the specification. A finished exchange has no entry any more, so nothing leads out of DONE.
TRANSITIONS: Final[Mapping[State, Mapping[Happening, State]]] = {
    State.SENT: {
        Happening.OPEN: State.OPEN,
        Happening.PART: State.SENT,
        Happening.CANCEL: State.CANCELLING,
        Happening.TERMINAL: State.DONE,
        Happening.SESSION_END: State.DONE,
    },
    State.OPEN: {
        Happening.PART: State.OPEN,
        Happening.CANCEL: State.CANCELLING,
        Happening.TERMINAL: State.DONE,
        Happening.SESSION_END: State.DONE,
    },
    State.CANCELLING: {
        Happening.OPEN: State.CANCELLING,
        Happening.PART: State.CANCELLING,
        Happening.CANCEL: State.CANCELLING,
        Happening.TERMINAL: State.DONE,
        Happening.SESSION_END: State.DONE,
    },
}


class Kind(Enum):
    """What an exchange is, as far as it decides which frames may come."""

    PLAIN = auto()
    STREAM = auto()
    SUBSCRIPTION = auto()


@dataclass(slots=True)
class Exchange:
    """One unfinished exchange."""

    kind: Kind
    state: State = State.SENT
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """This has to go to the server, free of the rate."""

    text: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """The server said this about exchange `id`."""

    id: int
    item: Part | Terminal


Effect = Welcome | GoAway | Pong | Send | Arrived


class ClientCore:
    """One session, from `hello` to the end of its only connection.

    Attributes:
        welcome: what the server said first; None before that.
    """

    def __init__(self) -> None:
        self.welcome: Welcome | None = None
        self._exchanges: dict[int, Exchange] = {}
        self._last_id = 0
        self._last_t = 0

    def hello(self, profiles: Iterable[str], *, token: str | None, max_frame: int) -> str:
        """The first frame.

        Args:
            token: bearer token; None to go by what the upgrade request proves, or to stay anonymous.
            max_frame: bytes of the largest frame that the server may send.

        Spec: 03-session [SES-01].
        """
        frame: dict[str, object] = {
            "type": "hello",
            "profiles": list(profiles),
            "limits": {"max_frame": max_frame},
        }
        if token is not None:
            frame["auth"] = {"scheme": "bearer", "token": token}
        return encode(frame, max_frame=MAX_FIRST_FRAME)

    def receive(self, text: str) -> Effect | None:
        """Apply one text frame of the server; return what follows from it, None when nothing does.

        Raises:
            BadServerFrame: the server must not send this, or not now.
        """
        incoming = decode(text)
        if self.welcome is None:
            if not isinstance(incoming, Welcome):
                raise BadServerFrame("the first frame is not welcome")
            self.welcome = incoming
            return incoming
        match incoming:
            case Welcome():
                raise BadServerFrame("a second welcome")
            case Ping(t):
                # [SES-35]: `t` goes back as it came, and not at all when it did not come.
                pong: dict[str, object] = {"type": "pong"} if t is None else {"type": "pong", "t": t}
                return Send(self._encode(pong))
            case Unknown():
                return None
            case GoAway() | Pong():
                return incoming
            case number, item:
                self._apply(number, item)
                return Arrived(number, item)

    def _apply(self, number: int, item: Part | Terminal) -> None:
        """Move an exchange on by what arrived for it, if that may arrive now."""
        exchange = self._exchanges.get(number)
        if exchange is None:
            raise BadServerFrame(f"a frame for {number}, which is no unfinished exchange")
        match item:
            case Opened():
                legal = exchange.kind is Kind.SUBSCRIPTION and not exchange.opened
                exchange.opened = True
                happening = Happening.OPEN
            case Event() | Gap():
                legal, happening = exchange.opened, Happening.PART
            case Chunk():
                legal, happening = exchange.kind is Kind.STREAM, Happening.PART
            case Result():
                # A subscription only ends well when it is cancelled; refusing it is an error.
                legal = exchange.kind is not Kind.SUBSCRIPTION or exchange.state is not State.SENT
                happening = Happening.TERMINAL
            case RequestError():
                legal, happening = True, Happening.TERMINAL
        if not legal:
            raise BadServerFrame(f"{type(item).__name__.lower()} for {number}, which is {exchange}")
        exchange.state = TRANSITIONS[exchange.state][happening]
        if exchange.state is State.DONE:
            del self._exchanges[number]

    def request(
        self, method: str, data: object = ABSENT, *, timeout_ms: int | None = None, stream: bool = False
    ) -> tuple[int, str]:
        """Start a request; return its id and the frame to send."""
        self._need("rpc")
        frame: dict[str, object] = {"method": method}
        if timeout_ms is not None:
            frame["timeout_ms"] = timeout_ms
        if stream:
            frame["stream"] = True
        return self._start(Kind.STREAM if stream else Kind.PLAIN, "request", frame, data)

    def subscribe(self, channel: str | None = None, *, pattern: str | None = None) -> tuple[int, str]:
        """Start a subscription to exactly one of `channel` and `pattern`."""
        if (channel is None) == (pattern is None):
            raise TypeError("a subscription has either a channel or a pattern")
        if channel is not None:
            self._need("pubsub")
            return self._start(Kind.SUBSCRIPTION, "subscribe", {"channel": channel})
        self._need("pattern")
        return self._start(Kind.SUBSCRIPTION, "subscribe", {"pattern": pattern})

    def publish(self, channel: str, data: object, *, echo: bool = True) -> tuple[int, str]:
        """Start a publish; without `echo` this session's own subscriptions do not see it."""
        self._need("pubsub")
        frame: dict[str, object] = {"channel": channel}
        if not echo:
            frame["echo"] = False
        return self._start(Kind.PLAIN, "publish", frame, data)

    def auth(self, token: str) -> tuple[int, str]:
        """Start to present new credentials for the same principal."""
        return self._start(Kind.PLAIN, "auth", {"token": token})

    def cancel(self, number: int) -> str | None:
        """Ask for the end of an exchange; None when it has ended or was asked before."""
        exchange = self._exchanges.get(number)
        if exchange is None or exchange.state is State.CANCELLING:
            return None
        exchange.state = TRANSITIONS[exchange.state][Happening.CANCEL]
        return self._encode({"type": "cancel", "of": number})

    def ping(self) -> tuple[str, str]:
        """A ping; return the `t` that its pong will carry, and the frame."""
        self._last_t += 1
        t = str(self._last_t)
        return t, self._encode({"type": "ping", "t": t})

    def end(self) -> list[int]:
        """The session has ended, and every unfinished exchange with it. Return their ids.

        Spec: 03-session [SES-46].
        """
        unfinished = list(self._exchanges)
        self._exchanges.clear()
        return unfinished

    def _start(
        self, kind: Kind, type_: str, frame: Mapping[str, object], data: object = ABSENT
    ) -> tuple[int, str]:
        number = self._last_id + 1
        text = self._encode({"type": type_, "id": number, **frame}, data)
        self._last_id = number  # [ENV-04]; not before the frame exists, so that a bad value uses up nothing
        self._exchanges[number] = Exchange(kind)
        return number, text

    def _encode(self, frame: dict[str, object], data: object = ABSENT) -> str:
        assert self.welcome is not None  # [SES-01]: nothing but hello is said before
        max_frame = self.welcome.limits["max_frame"]
        assert isinstance(max_frame, int)  # `decode` saw to it
        return encode(frame, data, max_frame=max_frame)

    def _need(self, profile: str) -> None:
        """Refuse here what the server would have to. Spec: 10-versioning [VER-11]."""
        if self.welcome is None or profile not in self.welcome.profiles:
            raise RequestError("unsupported", f"the profile {profile} was not negotiated")
