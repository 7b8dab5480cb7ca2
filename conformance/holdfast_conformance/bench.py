"""What all checks of one run share: the target, the clocks, the ledgers, and what the server was found to
offer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import registry
from .ambient import Ambient
from .clock import Clock

if TYPE_CHECKING:
    from .dial import Endpoint
    from .requirements import Requirements
    from .target import Target

__all__ = ["PROFILES", "Bench", "without"]

PROFILES = ("rpc", "pubsub", "pattern", "fence", "ack", "resume", "history")
"""The profiles that the suite can judge; what `hello` asks for unless a check says otherwise."""


def without(*profiles: str) -> tuple[str, ...]:
    """Return all of `PROFILES` but the named ones and those that need one of them."""
    needs = registry.published().needs
    left = [name for name in PROFILES if name not in profiles]
    while lacking := [name for name in left if not needs[name] <= {*left, "core"}]:
        left = [name for name in left if name not in lacking]
    return tuple(left)


@dataclass(slots=True)
class Bench:
    """The surroundings of every check of one run.

    Attributes:
        admits: whether the server lets us in with what the target file has.
        offered: the profiles that `welcome` listed when hello asked for all of `PROFILES`.
        limits: the `limits` of that welcome.
        refusals: for each profile that is not offered, why its absence is doubtful; "" when a probe confirmed
            it.
        intrusive: whether floods and stalls are allowed although the target is not on loopback.
        process: the process id of the target, when this run started it.
        runs: how often each check has been started.
    """

    target: Target
    endpoint: Endpoint
    requirements: Requirements
    clock: Clock = field(default_factory=Clock)
    ambient: Ambient = field(default_factory=Ambient)
    seed: int = 0
    admits: bool = True
    offered: frozenset[str] = frozenset()
    limits: dict[str, object] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    intrusive: bool = False
    process: int | None = None
    run_id: str = ""
    runs: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run_id = self.run_id or f"{random.SystemRandom().getrandbits(32):08x}"

    def random(self, check_id: str) -> random.Random:
        """Return the random numbers of one check: the same for the same seed, whatever the order of
        checks.
        """
        return random.Random(f"{self.seed}/{check_id}")
