"""The reference client: a session on one WebSocket connection.

`connect` opens it; everything else is a method of the `Session` that it gives.
"""

from holdfast_reference.client.connection import Session, connect
from holdfast_reference.client.errors import (
    ConnectionClosed,
    ConnectionFailed,
    HoldfastError,
    Lagged,
    RequestError,
    SessionLost,
)
from holdfast_reference.client.frames import ABSENT, Event, Gap, GoAway, Opened, Welcome
from holdfast_reference.client.inbox import Stream, Subscription
from holdfast_reference.client.reaction import Reaction

__all__ = [
    "ABSENT",
    "ConnectionClosed",
    "ConnectionFailed",
    "Event",
    "Gap",
    "GoAway",
    "HoldfastError",
    "Lagged",
    "Opened",
    "Reaction",
    "RequestError",
    "Session",
    "SessionLost",
    "Stream",
    "Subscription",
    "Welcome",
    "connect",
]
