"""What all clients of one plan share: the way to the target, the names, the rules, and the history."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..ambient import Ambient
from ..bench import PROFILES
from ..clock import Clock
from ..journal import Journal
from .history import ANONYMOUS

if TYPE_CHECKING:
    import trio

    from ..client import Peer
    from ..dial import Endpoint
    from ..target import Identity, Target
    from .history import Recorder
    from .plan import Client, Plan

__all__ = ["Scene", "cast", "principal"]

DEFAULT_CHANNEL = "conf/{run}/{test}/{n}"


@dataclass(slots=True)
class Scene:
    """The surroundings of one performance of a plan.

    Args:
        run: a name that no other performance has.
        recorder: writes the history.
        ambient: the rules that every frame has to keep.
        patience: seconds after which an answer that must come is missing.
        peers: every connection, kept to the end: the rules remember a session for as long as one of its
            connections is remembered.
    """

    target: Target
    endpoint: Endpoint
    plan: Plan
    run: str
    recorder: Recorder
    nursery: trio.Nursery
    patience: float = 5.0
    ambient: Ambient = field(default_factory=Ambient)
    clock: Clock = field(default_factory=Clock)
    journal: Journal = field(default_factory=Journal)
    profiles: tuple[str, ...] = PROFILES
    peers: list[Peer] = field(default_factory=list)
    connections: int = 0
    keys: Counter[str] = field(default_factory=Counter)

    def channel(self, at: int) -> str:
        """Return the channel of a plan; a kind that the target does not have is an ordinary one."""
        kinds = self.plan["channels"]
        kind = kinds[at % len(kinds)]
        channels = self.target.channels
        template = channels.get(kind) or channels.get("open") or DEFAULT_CHANNEL
        filled = template.replace("{run}", self.run).replace("{test}", "explore")
        return filled.replace("{n}", str(at % len(kinds)))

    def pattern(self, at: int) -> str:
        """Return a pattern that matches the channel and its neighbours in this plan."""
        return self.channel(at).rpartition("/")[0] + "/**"

    def next_key(self, principal: str) -> str:
        """Return a dedupe key that this principal has not used; others use it too, and nobody may care."""
        self.keys[principal] += 1
        return f"{self.run}-{self.keys[principal]}"

    def next_connection(self) -> int:
        """Return a number that no connection of this performance has."""
        self.connections += 1
        return self.connections


def cast(target: Target, client: Client) -> Identity | None:
    """Choose who a client of a plan is: `first` and `second` are the first two identities without oddities.

    A name that the target file does not have falls back on the first; None without any identity.
    """
    plain: dict[str, Identity] = {}
    for identity in target.identities.values():
        odd = identity.expired or identity.expires_in_ms is not None or identity.name in ("small", "limited")
        if not odd and identity.principal not in plain:
            plain[identity.principal] = identity
    ordinary = list(plain.values()) or [i for i in target.identities.values() if not i.expired]
    if client["identity"] == "second" and len(ordinary) > 1:
        return ordinary[1]
    named = target.identities.get(client["identity"])
    return named or (ordinary[0] if ordinary else None)


def principal(identity: Identity | None, name: str) -> str:
    """Return who a client is to the target: without credentials it is nobody else."""
    shown = identity is not None and (identity.token is not None or identity.headers)
    return identity.principal if identity is not None and shown else f"{ANONYMOUS}{name}"
