"""The state machines as tables: state, event, next state. What a table lacks cannot happen or is a violation.

Everything about which state follows which lives here; what else happens at a transition lives in
`connection.py` and `outgoing.py`. The tables are the server's own hand-written reading of the
specification; a test holds them equal to the registry, which the specification prints.

A connection starts NEW. A good `hello` makes it READY, an operator's drain DRAINING, and it never goes
back. A drained connection that has said no hello yet stays NEW and drains as soon as it is READY.

An exchange is seen here from the server: `SENT` means that its frame was read and its work goes on; a
subscription becomes `OPEN` with its `open` frame. A cancelled exchange whose outcome is still to come is
`CANCELLING`; most end in the same step.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CONNECTION", "EXCHANGE", "Input", "Phase", "Stage", "Step"]


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
    CLOSE = "close"


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
        Input.CLOSE: Phase.CLOSED,
    },
    Phase.READY: {
        Input.HELLO_AGAIN: Phase.CLOSED,
        Input.WRONG_DIRECTION: Phase.CLOSED,
        Input.START: Phase.READY,
        Input.DRAIN: Phase.DRAINING,
        Input.SILENCE: Phase.CLOSED,
        Input.EXPIRY: Phase.CLOSED,
        Input.CLOSE: Phase.CLOSED,
    },
    Phase.DRAINING: {
        Input.HELLO_AGAIN: Phase.CLOSED,
        Input.WRONG_DIRECTION: Phase.CLOSED,
        Input.START: Phase.DRAINING,
        Input.DEADLINE: Phase.CLOSED,
        Input.SILENCE: Phase.CLOSED,
        Input.EXPIRY: Phase.CLOSED,
        Input.CLOSE: Phase.CLOSED,
    },
    Phase.CLOSED: {},
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
