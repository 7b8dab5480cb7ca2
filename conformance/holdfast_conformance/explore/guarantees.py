"""What a target promises by its profiles, and the strongest promise that everything seen allows.

Guarantees are ladders: each level holds whatever the one below holds. A target fails when a level that it
promises does not hold. Where too little happened that could have gone wrong, the answer is `unknown`, and
never `pass`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .anomalies import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .anomalies import Anomaly

__all__ = ["GUARANTEES", "ORDERS", "Guarantee", "Standing", "standings"]

DELIVERY = ("none", "at-most-once", "at-least-once", "exactly-once")
ORDERS = ("none", "per-publisher", "per-channel", "total")
SOUND = ("unsound", "sound")


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One promise.

    Args:
        name: stable.
        title: what it is about.
        profile: with which it is made.
        levels: from nothing to the strongest.
        promised: the level that the specification demands.
        evidence: what has to have occurred how often before an answer is worth anything.
    """

    name: str
    title: str
    profile: str
    levels: tuple[str, ...]
    promised: str
    evidence: tuple[tuple[str, int], ...]


GUARANTEES = (
    Guarantee(
        "connection", "events on one connection", "pubsub", DELIVERY, "exactly-once",
        (("deliveries", 100), ("publishes", 50)),
    ),
    Guarantee(
        "session", "events and answers across cuts", "resume", DELIVERY, "exactly-once",
        (("resumes", 20), ("resent", 5), ("deliveries", 100)),
    ),
    Guarantee(
        "recovery", "events since a cursor", "history", DELIVERY, "exactly-once",
        (("recoveries", 10), ("deliveries", 100)),
    ),
    Guarantee(
        "publishing", "publishes with a key", "history", DELIVERY, "exactly-once",
        (("duplicates", 5),),
    ),
    Guarantee("order", "the order of events", "pubsub", ORDERS, "per-channel", (("deliveries", 100),)),
    Guarantee("replies", "one end for each exchange", "core", DELIVERY, "exactly-once", (("replies", 100),)),
    Guarantee("integrity", "what is said is true", "core", SOUND, "sound", (("calls", 100), ("faults", 20))),
)  # fmt: skip
"""Every guarantee, in the order in which reports show them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a target stands with one guarantee.

    Attributes:
        promised: the level that it promises; "" when its profiles do not make the promise.
        consistent: the strongest level that everything seen is consistent with.
        verdict: `pass`, `fail`, `unknown` or `n/a`.
        lacking: why it is unknown.
    """

    guarantee: Guarantee
    promised: str
    consistent: str
    verdict: str
    lacking: str = ""


def standings(
    found: Iterable[Anomaly], counts: Mapping[str, int], profiles: Iterable[str], order: str
) -> list[Standing]:
    """Return how a target stands with each guarantee after everything that was seen."""
    anomalies, offered = list(found), {"core", *profiles}
    result = []
    for guarantee in GUARANTEES:
        mine = [anomaly for anomaly in anomalies if anomaly.spoils == guarantee.name]
        if guarantee.levels is ORDERS:
            consistent = order
        elif guarantee.levels is SOUND:
            consistent = SOUND[not mine]
        else:
            loses = any(KINDS[anomaly.kind].loses for anomaly in mine)
            repeats = any(KINDS[anomaly.kind].repeats for anomaly in mine)
            consistent = DELIVERY[(not repeats) + 2 * (not loses)]
        lacking = ", ".join(
            f"{counts.get(name, 0)} of {least} {name}"
            for name, least in guarantee.evidence
            if counts.get(name, 0) < least
        )
        levels = guarantee.levels
        if guarantee.profile not in offered:
            result.append(Standing(guarantee, "", consistent, "n/a"))
        elif mine or levels.index(consistent) < levels.index(guarantee.promised):
            result.append(Standing(guarantee, guarantee.promised, consistent, "fail"))
        else:
            verdict = "unknown" if lacking else "pass"
            result.append(Standing(guarantee, guarantee.promised, consistent, verdict, lacking))
    return result
