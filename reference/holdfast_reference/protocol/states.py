"""The state machines as tables: state, event, next state. What a table lacks cannot happen or is a violation.

Everything about which state follows which lives here; what else happens at a transition lives in
`connection.py`, `session.py`, `resume.py` and `outgoing.py`. The tables are the server's own hand-written
reading of the specification; a test holds them equal to the registry, which the specification prints.

A connection starts NEW. A good `hello` makes it READY, an operator's drain DRAINING, and it never goes
back. A drained connection that has said no hello yet stays NEW and drains as soon as it is READY.

A session with profile `resume` is SUSPENDED while it has no connection; every other ends with its own.

An exchange is seen here from the server: `SENT` means that its frame was read and its work goes on; a
subscription becomes `OPEN` with its `open` frame. A cancelled exchange whose outcome is still to come is
`CANCELLING`; most end in the same step.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONNECTION",
    "EXCHANGE",
    "SESSION",
    "Input",
    "Phase",
    "SessionInput",
    "SessionState",
    "Stage",
    "Step",
]


class Phase(StrEnum):
    """Where a connection stands."""

    NEW = "NEW"
    READY = "READY"
    DRAINING = "DRAINING"
    CLOSED = "CLOSED"


class Input(StrEnum):
    """What moves a connection."""

    HELLO = "hello"
    NOT_HELLO = "not_hello"
    HELLO_TIMEOUT = "hello_timeout"
    HELLO_AGAIN = "hello_again"
    WRONG_DIRECTION = "wrong_direction"
    START = "start"
    DRAIN = "drain"
    DEADLINE = "deadline"
    SILENCE = "silence"
    EXPIRY = "expiry"
    SUPERSEDED = "superseded"
    CLOSE = "close"


class SessionState(StrEnum):
    """Where a session stands."""

    ATTACHED = "ATTACHED"
    SUSPENDED = "SUSPENDED"
    ENDED = "ENDED"


class SessionInput(StrEnum):
    """What moves a session."""

    CONNECTION_LOST = "connection_lost"
    CONNECTION_END = "connection_end"
    RESUME = "resume"
    MISMATCH = "mismatch"
    SUSPENSION_TIMEOUT = "suspension_timeout"
    EVICTION = "eviction"


class Stage(StrEnum):
    """Where an exchange stands."""

    SENT = "SENT"
    OPEN = "OPEN"
    CANCELLING = "CANCELLING"
    DONE = "DONE"


class Step(StrEnum):
    """What moves an exchange."""

    OPEN = "open"
    PART = "part"
    CANCEL = "cancel"
    TERMINAL = "terminal"
    SESSION_END = "session_end"


CONNECTION: Final[Mapping[Phase, Mapping[Input, Phase]]] = {
    Phase.NEW: {
        Input.HELLO: Phase.READY,
        Input.NOT_HELLO: Phase.CLOSED,
        Input.HELLO_TIMEOUT: Phase.CLOSED,
        Input.WRONG_DIRECTION: Phase.CLOSED,
        Input.DRAIN: Phase.NEW,
        Input.SUPERSEDED: Phase.CLOSED,
        Input.CLOSE: Phase.CLOSED,
    },
    Phase.READY: {
        Input.HELLO_AGAIN: Phase.CLOSED,
        Input.WRONG_DIRECTION: Phase.CLOSED,
        Input.START: Phase.READY,
        Input.DRAIN: Phase.DRAINING,
        Input.SILENCE: Phase.CLOSED,
        Input.EXPIRY: Phase.CLOSED,
        Input.SUPERSEDED: Phase.CLOSED,
        Input.CLOSE: Phase.CLOSED,
    },
    Phase.DRAINING: {
        Input.HELLO_AGAIN: Phase.CLOSED,
        Input.WRONG_DIRECTION: Phase.CLOSED,
        Input.START: Phase.DRAINING,
        Input.DEADLINE: Phase.CLOSED,
        Input.SILENCE: Phase.CLOSED,
        Input.EXPIRY: Phase.CLOSED,
        Input.SUPERSEDED: Phase.CLOSED,
        Input.CLOSE: Phase.CLOSED,
    },
    Phase.CLOSED: {},
}

SESSION: Final[Mapping[SessionState, Mapping[SessionInput, SessionState]]] = {
    SessionState.ATTACHED: {
        SessionInput.CONNECTION_LOST: SessionState.SUSPENDED,
        SessionInput.CONNECTION_END: SessionState.ENDED,
        SessionInput.RESUME: SessionState.ATTACHED,
        SessionInput.MISMATCH: SessionState.ENDED,
    },
    SessionState.SUSPENDED: {
        SessionInput.RESUME: SessionState.ATTACHED,
        SessionInput.MISMATCH: SessionState.ENDED,
        SessionInput.SUSPENSION_TIMEOUT: SessionState.ENDED,
        SessionInput.EVICTION: SessionState.ENDED,
    },
    SessionState.ENDED: {},
}

EXCHANGE: Final[Mapping[Stage, Mapping[Step, Stage]]] = {
    Stage.SENT: {
        Step.OPEN: Stage.OPEN,
        Step.PART: Stage.SENT,
        Step.CANCEL: Stage.CANCELLING,
        Step.TERMINAL: Stage.DONE,
        Step.SESSION_END: Stage.DONE,
    },
    Stage.OPEN: {
        Step.PART: Stage.OPEN,
        Step.CANCEL: Stage.CANCELLING,
        Step.TERMINAL: Stage.DONE,
        Step.SESSION_END: Stage.DONE,
    },
    Stage.CANCELLING: {
        Step.OPEN: Stage.CANCELLING,
        Step.PART: Stage.CANCELLING,
        Step.CANCEL: Stage.CANCELLING,
        Step.TERMINAL: Stage.DONE,
        Step.SESSION_END: Stage.DONE,
    },
    Stage.DONE: {},
}
