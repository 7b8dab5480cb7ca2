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
    from holdfast_reference.protocol.session import Session

__all__ = ["PROFILES", "Settings", "expiry", "negotiate", "welcome"]

#: What this server can offer, and what each needs.
PROFILES: Final[Mapping[str, frozenset[str]]] = {
    "rpc": frozenset(),
    "pubsub": frozenset(),
    "pattern": frozenset({"pubsub"}),
    "fence": frozenset({"pubsub"}),
    "ack": frozenset(),
    "resume": frozenset({"ack"}),
    "history": frozenset({"pubsub"}),
}


#: Which limits `welcome` shows with which profile; `rate` is shown where there is one.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "core": ("max_frame", "max_inflight", "max_subscriptions"),
    "pubsub": ("queue", "queue_bytes"),
    "ack": ("window", "window_bytes", "ack_delay_ms"),
    "resume": ("resume_ms",),
    "history": ("dedupe_ms", "history_limit"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What all connections of a server have in common.

    `profiles` are those it offers; `server` is the name and version that `welcome` shows, if it shows any.
    `suspended` sessions and `tombstones` are what one principal can have at most. Spec: [RES-11].
    """

    limits: Limits = field(default_factory=Limits)
    timers: Timers = field(default_factory=Timers)
    profiles: frozenset[str] = frozenset(PROFILES)
    server: tuple[str, str] | None = None
    suspended: int = 32
    tombstones: int = 64


def negotiate(wanted: Iterable[str], offered: frozenset[str]) -> frozenset[str]:
    """The profiles in force: those wanted and offered whose needs are in force too."""
    agreed = offered.intersection(wanted)
    while (kept := frozenset(name for name in agreed if PROFILES[name] <= agreed)) != agreed:
        agreed = kept
    return agreed


def welcome(settings: Settings, conn: str, session: Session, resumption: Mapping[str, object]) -> bytes:
    """The frame that opens or resumes a session.

    Args:
        settings: see there.
        conn: the connection.
        session: its profiles, limits and grant are shown.
        resumption: the members that profile `resume` adds.
    """
    profiles, limits, grant, timers = session.profiles, session.limits, session.grant, settings.timers
    assert grant is not None
    shown: dict[str, object] = {
        name: getattr(limits, name)
        for profile, names in _SHOWN.items()
        if profile == "core" or profile in profiles
        for name in names
    }
    if limits.rate is not None:
        shown["rate"] = {"count": limits.rate.count, "per_ms": limits.rate.per_ms}
    frame: dict[str, object] = {
        "type": "welcome",
        "conn": conn,
        **resumption,
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
