"""Numbers: what a server enforces, what it waits for, and the constants of the protocol.

Nothing is enforced that `welcome.limits` did not advertise, constants aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "FIRST_FRAME",
    "MAX_CURSOR",
    "MAX_DEDUPE",
    "MAX_INTEGER",
    "MAX_NAME",
    "MAX_NESTING",
    "MAX_REFUSAL",
    "MAX_SESSION",
    "MAX_TAG",
    "MAX_UNSEQUENCED",
    "MIN_FRAME",
    "SEQ_ROOM",
    "Bucket",
    "Limits",
    "Rate",
    "Timers",
]

MAX_INTEGER: Final = 2**53 - 1
MAX_NESTING: Final = 64
MAX_NAME: Final = 255  #: bytes of a channel, pattern or method
MAX_CURSOR: Final = 256  #: bytes of a cursor
MAX_DEDUPE: Final = 255  #: bytes of the `dedupe` of a publish
MAX_SESSION: Final = 256  #: bytes of the name of a session
MIN_FRAME: Final = 4096  #: the smallest `max_frame` either side may ask for
FIRST_FRAME: Final = 65_536  #: bytes of `hello`; nobody is known yet, so nobody may send more
MAX_TAG: Final = 64  #: bytes of the `t` of a ping
MAX_REFUSAL: Final = 512  #: bytes of an `error` for an exchange that took no slot
SEQ_ROOM: Final = 24  #: bytes that the member `seq` takes in a frame, at most
MAX_UNSEQUENCED: Final = 16  #: frames without `id` that may wait unwritten before reading stops


_LOST: Final = 1e-3  # the part of a token that floats may lose between the wait we name and its end


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket of `count` frames, refilled evenly within `per_ms` milliseconds."""

    count: int
    per_ms: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What `welcome.limits` advertises; bytes and counts.

    `max_frame` bounds one message inwards; outwards the client's wish may lower it.
    `queue` and `queue_bytes` bound the events that wait for one session, `window` and `window_bytes` the
    frames that were sent and not acknowledged. `ack_delay_ms` is the client's; a suspended session lives for
    `resume_ms`, the key of a publish for `dedupe_ms`; a page of history has at most `history_limit` events.
    """

    max_frame: int = 262_144
    max_inflight: int = 64
    max_subscriptions: int = 256
    queue: int = 1024
    queue_bytes: int = 4_194_304
    window: int = 256
    window_bytes: int = 1_048_576
    ack_delay_ms: int = 1000
    resume_ms: int = 60_000
    dedupe_ms: int = 120_000
    history_limit: int = 500
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class Timers:
    """Milliseconds. The heartbeat pair is advertised in `welcome`, the others are the operator's.

    `head_ms` bounds the HTTP head and the TLS handshake, `hello_ms` the time from the 101 to a whole `hello`,
    `authenticate_ms` one look at credentials, `close_ms` the closing handshake, `drain_ms` a whole drain.
    """

    head_ms: int = 10_000
    hello_ms: int = 10_000
    authenticate_ms: int = 10_000
    heartbeat_interval_ms: int = 25_000
    heartbeat_timeout_ms: int = 10_000
    close_ms: int = 2_000
    drain_ms: int = 10_000


@dataclass(slots=True)
class Bucket:
    """The state of one session's `Rate`: `level` frames were left at time `at`."""

    rate: Rate
    level: float
    at: float

    def take(self, now: float) -> int | None:
        """Pay for one frame.

        Returns:
            None when it was there, else the milliseconds until the next one is.
        """
        rate = self.rate
        refill = (now - self.at) * 1000 * rate.count / rate.per_ms
        self.level = min(float(rate.count), self.level + refill)
        self.at = now
        if self.level > 1 - _LOST:
            self.level -= 1
            return None
        return int((1 - self.level) * rate.per_ms / rate.count) + 1

    def copy(self) -> Bucket:
        return Bucket(self.rate, self.level, self.at)
