"""The sans-I/O core: what a Holdfast server does, without sockets, clocks, randomness or logging.

`Connection` takes frames, commands and times, and gives back effects and frames to write; `Session` is what
outlives it, and takes the answers of the application; `Sessions` brings the two together.
Nothing below this package knows how bytes travel; nothing in it awaits.
"""

from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.errors import CloseCode, ErrorCode, ExchangeError
from holdfast_reference.protocol.events import Event
from holdfast_reference.protocol.grants import Credentials, Grant, Permissions
from holdfast_reference.protocol.greeting import Settings
from holdfast_reference.protocol.limits import Limits, Rate, Timers
from holdfast_reference.protocol.messages import Payload
from holdfast_reference.protocol.resume import Sessions
from holdfast_reference.protocol.session import Session

__all__ = [
    "CloseCode",
    "Connection",
    "Credentials",
    "ErrorCode",
    "Event",
    "ExchangeError",
    "Grant",
    "Limits",
    "Payload",
    "Permissions",
    "Rate",
    "Session",
    "Sessions",
    "Settings",
    "Timers",
]
