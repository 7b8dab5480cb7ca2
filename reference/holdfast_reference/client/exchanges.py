"""One exchange, seen by the client that started it: the table, what may arrive for it, and what is left of it
when its session is lost.

Spec: 04-requests, 05-subscriptions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from holdfast_reference.client.errors import BadServerFrame, RequestError
from holdfast_reference.client.frames import Chunk, Event, Gap, Opened, Part, Result, Terminal

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping


class State(Enum):
    """Where an exchange is."""

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
    AUTH = auto()


class Fate(Enum):
    """Whether a frame of a lost session was acted on, as far as the client can know."""

    ACCEPTED = auto()
    NOT_ACCEPTED = auto()
    UNKNOWN = auto()

    @classmethod
    def of(cls, number: int, last_id: int | None) -> Fate:
        """By the last id that the lost session accepted; None when nobody can tell."""
        if last_id is None:
            return cls.UNKNOWN
        return cls.ACCEPTED if number <= last_id else cls.NOT_ACCEPTED


@dataclass(slots=True)
class Exchange:
    """One unfinished exchange.

    Attributes:
        text: its frame, kept for sending it again unchanged.
        again_until: until when a new session may get it although the old one may have acted on it (`dedupe`).
        opened: whether `open` has come on this session.
        cursor: its place in the log, None where there is none.
    """

    kind: Kind
    text: str
    again_until: float = float("-inf")
    state: State = State.SENT
    opened: bool = False
    cursor: str | None = None

    def arrive(self, item: Part | Terminal) -> None:
        """Move on by what the server said.

        Raises:
            BadServerFrame: it may not say so now.
        """
        happening = Happening.PART
        match item:
            case Opened(cursor):
                legal = self.kind is Kind.SUBSCRIPTION and not self.opened
                self.opened, self.cursor, happening = True, cursor, Happening.OPEN
            case Event(cursor=cursor) | Gap(cursor=cursor):
                legal = self.opened
                self.cursor = cursor or self.cursor
            case Chunk():
                legal = self.kind is Kind.STREAM
            case Result():
                # A subscription only ends well when it is cancelled; refusing it is an error.
                legal = self.kind is not Kind.SUBSCRIPTION or self.state is not State.SENT
                happening = Happening.TERMINAL
            case RequestError():
                legal, happening = True, Happening.TERMINAL
        if not legal:
            raise BadServerFrame(f"{type(item).__name__.lower()} for an exchange that is {self.state.name}")
        self.state = TRANSITIONS[self.state][happening]

    def cancel(self) -> bool:
        """Ask for its end; return False when that was asked before."""
        asked = self.state is State.CANCELLING
        self.state = TRANSITIONS[self.state][Happening.CANCEL]
        return not asked

    def starts_again(self, fate: Fate, now: float) -> bool:
        """Whether a new session gets it: then nothing can happen twice, and nobody has given it up."""
        if self.state is State.CANCELLING or self.kind is Kind.AUTH:
            return False
        return self.kind is Kind.SUBSCRIPTION or fate is Fate.NOT_ACCEPTED or now < self.again_until

    def copy(self) -> Exchange:
        return replace(self)

    def key(self) -> Hashable:
        return (self.text, self.state, self.opened, self.cursor, self.again_until)
