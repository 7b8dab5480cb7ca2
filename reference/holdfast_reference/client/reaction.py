"""What a client does when its connection has ended, by close code; the only place that knows these codes.

Spec: 08-errors [ERR-09].
"""

from __future__ import annotations

from enum import Enum


class Reaction(Enum):
    """What a client that did not end the connection itself does next."""

    STOP = "stop"
    """Nothing: the same client would fail again."""
    RECONNECT_NOW = "reconnect_now"
    RECONNECT_BACKOFF = "reconnect_backoff"
    RECONNECT_BACKOFF_FRESH = "reconnect_backoff_fresh"
    """Reconnect with backoff, with a new session."""
    REFRESH_CREDENTIALS = "refresh_credentials"
    """Get new credentials, then reconnect."""


_BY_CODE = {
    1000: Reaction.STOP,
    1001: Reaction.RECONNECT_NOW,
    1002: Reaction.STOP,
    1003: Reaction.STOP,
    1007: Reaction.STOP,
    1008: Reaction.STOP,
    1009: Reaction.STOP,
    1010: Reaction.STOP,
    1012: Reaction.RECONNECT_NOW,
    4301: Reaction.RECONNECT_BACKOFF_FRESH,
    4501: Reaction.RECONNECT_BACKOFF_FRESH,
}
_BY_CLASS = {
    40: Reaction.STOP,
    41: Reaction.REFRESH_CREDENTIALS,
    42: Reaction.RECONNECT_NOW,
}


def reaction(code: int | None) -> Reaction:
    """The reaction to a close code, or to an end without a close frame (None).

    An unknown code counts as its class, and one of no class as if there had been no close frame.
    """
    if code is None:
        return Reaction.RECONNECT_BACKOFF
    return _BY_CODE.get(code) or _BY_CLASS.get(code // 100, Reaction.RECONNECT_BACKOFF)
