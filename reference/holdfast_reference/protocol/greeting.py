"""What hello and welcome agree on: profiles, limits, and what a server says of itself.

Spec: 03-session [SES-06] [SES-09] [SES-10] [SES-17], 09-limits-timers [LIM-01].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.codec import encode_frame
from holdfast_reference.protocol.limits import Limits, Timers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast_reference.protocol.grants import Grant

__all__ = ["PROFILES", "Settings", "expiry", "negotiate", "welcome"]

#: What this server can offer, and what each needs.
PROFILES: Final[Mapping[str, frozenset[str]]] = {
    "rpc": frozenset(),
    "pubsub": frozenset(),
    "pattern": frozenset({"pubsub"}),
    "fence": frozenset({"pubsub"}),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What all connections of a server have in common.

    `profiles` are those it offers; `server` is the name and version that `welcome` shows, if it shows any.
    """

    limits: Limits = field(default_factory=Limits)
    timers: Timers = field(default_factory=Timers)
    profiles: frozenset[str] = frozenset(PROFILES)
    server: tuple[str, str] | None = None


def negotiate(wanted: Iterable[str], offered: frozenset[str]) -> frozenset[str]:
    """The profiles in force: those wanted and offered whose needs are in force too."""
    agreed = offered.intersection(wanted)
    while (kept := frozenset(name for name in agreed if PROFILES[name] <= agreed)) != agreed:
        agreed = kept
    return agreed


def welcome(settings: Settings, conn: str, profiles: frozenset[str], grant: Grant, limits: Limits) -> bytes:
    """The frame that opens a session."""
    timers = settings.timers
    shown: dict[str, object] = {
        "max_frame": limits.max_frame,
        "max_inflight": limits.max_inflight,
        "max_subscriptions": limits.max_subscriptions,
    }
    if "pubsub" in profiles:
        shown |= {"queue": limits.queue, "queue_bytes": limits.queue_bytes}
    if limits.rate is not None:
        shown["rate"] = {"count": limits.rate.count, "per_ms": limits.rate.per_ms}
    frame: dict[str, object] = {
        "type": "welcome",
        "conn": conn,
        "profiles": sorted(profiles),
        "limits": shown,
        "heartbeat": {
            "interval_ms": timers.heartbeat_interval_ms,
            "timeout_ms": timers.heartbeat_timeout_ms,
        },
        "auth": {"principal": grant.principal, **expiry(grant)},
    }
    if settings.server is not None:
        frame["server"] = {"name": settings.server[0], "version": settings.server[1]}
    return encode_frame(frame)


def expiry(grant: Grant) -> dict[str, object]:
    """When a grant ends, as `welcome` and the result of `auth` say it; nothing when it never does."""
    return {} if grant.expires_in_ms is None else {"expires_in_ms": grant.expires_in_ms}
