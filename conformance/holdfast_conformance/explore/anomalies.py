"""The kinds of wrong that a history can show, each with the sentence that it breaks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KINDS", "Anomaly", "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of anomalies.

    Args:
        name: stable, for machines.
        title: one sentence.
        spoils: the guarantees against which it can speak, see `guarantees`; a finding names one of them.
        requirements: the sentences that it can break; a finding names one of them.
        loses: something that was promised did not arrive, and nothing says so.
        repeats: something took effect more than once.
    """

    name: str
    title: str
    spoils: tuple[str, ...]
    requirements: tuple[str, ...]
    loses: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding in one history.

    Args:
        kind: the name of its class.
        requirement: the sentence that is broken.
        message: what happened, in words.
        rows: the numbers of the rows that prove it, counted from 0.
        spoils: the guarantee that it speaks against.
    """

    kind: str
    requirement: str
    message: str
    rows: tuple[int, ...]
    spoils: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "lost",
            "An event that was published while a subscription was surely open never reached it, and no gap "
            "says so.",
            ("connection", "session", "recovery"),
            ("SUB-05", "SUB-16", "SUB-17", "RES-38", "HIS-05"),
            loses=True,
        ),
        Kind(
            "skip",
            "Later events of a channel were delivered on the same connection, one in between was not, and no "
            "gap stands there.",
            ("connection",),
            ("DEL-01",),
            loses=True,
        ),
        Kind(
            "resume-lie",
            "A session claims to have been resumed, and something between the two connections is missing.",
            ("session",),
            ("RES-04", "RES-27", "RES-29", "RES-38"),
            loses=True,
        ),
        Kind(
            "recovery-lie",
            "A subscription claims to have recovered from a cursor, and an event behind it is missing.",
            ("recovery",),
            ("HIS-05",),
            loses=True,
        ),
        Kind(
            "duplicate",
            "One publish was delivered twice to one subscription.",
            ("connection",),
            ("SUB-06",),
            repeats=True,
        ),
        Kind(
            "reorder",
            "Events of one channel came in an order that contradicts how they were published, or what others "
            "saw.",
            ("order",),
            ("SUB-08", "SUB-12", "SUB-29", "HIS-21"),
        ),
        Kind(
            "phantom",
            "An event was delivered that nobody published, or whose publish was refused.",
            ("integrity",),
            ("DEL-01", "SUB-14", "RES-31"),
        ),
        Kind(
            "corrupted",
            "Data did not arrive as it was sent.",
            ("integrity",),
            ("ENV-28", "RPC-13"),
        ),
        Kind(
            "cross-talk",
            "An event or an answer reached somebody for whom it was not meant.",
            ("integrity",),
            ("SUB-09", "SUB-15", "RPC-13"),
        ),
        Kind(
            "ghost",
            "An event was delivered to a subscription that was surely not open when it was "
            "published, or had ended.",
            ("integrity",),
            ("RPC-02", "SUB-02", "SUB-28", "DEL-01"),
        ),
        Kind(
            "double-reply",
            "An exchange ended twice, or something other than an event followed its end.",
            ("replies",),
            ("RPC-02", "SUB-01"),
            repeats=True,
        ),
        Kind(
            "orphan-reply",
            "A frame names an exchange that nobody had started.",
            ("replies",),
            ("RPC-03",),
            repeats=True,
        ),
        Kind(
            "lost-reply",
            "An exchange never ended, although its session was attached and had time.",
            ("replies",),
            ("RPC-01",),
            loses=True,
        ),
        Kind(
            "ack-regression",
            "The server went beyond what was acknowledged, or behind what it had confirmed.",
            ("integrity",),
            ("DEL-22", "RES-27", "RES-28", "RES-31"),
        ),
        Kind(
            "seq-hole",
            "The numbers of the frames on one connection do not follow each other.",
            ("session",),
            ("DEL-21", "RES-29"),
            loses=True,
        ),
        Kind(
            "seq-changed",
            "A frame that was sent again differs from what it was the first time.",
            ("session",),
            ("RES-29",),
            loses=True,
            repeats=True,
        ),
        Kind(
            "false-gap",
            "A gap speaks of a loss that did not happen, or that must not happen here.",
            ("integrity",),
            ("DEL-05", "DEL-35"),
        ),
        Kind(
            "cursor-lie",
            "Two places share a cursor, or what was asked for from a cursor began elsewhere.",
            ("recovery",),
            ("HIS-02", "HIS-05", "HIS-21", "HIS-22", "HIS-23", "HIS-24"),
            loses=True,
            repeats=True,
        ),
        Kind(
            "dedupe-broken",
            "A repeated publish took effect twice, was not called a duplicate, or a first one was.",
            ("publishing",),
            ("HIS-36", "HIS-37", "HIS-41"),
            repeats=True,
        ),
        Kind(
            "fence-lie",
            "A pong came without held before an event that it was to follow.",
            ("integrity",),
            ("DEL-15",),
        ),
        Kind(
            "auth-bypass",
            "Something was done for a client whose identity had expired.",
            ("integrity",),
            ("SES-18",),
        ),
        Kind(
            "wrongly-closed",
            "The server closed or refused an honest client as if it had broken the protocol.",
            ("integrity",),
            ("ERR-12", "RES-16", "RES-19"),
        ),
        Kind(
            "broken-rule",
            "A rule that every frame has to keep was broken; `holdfast explain` knows it.",
            ("integrity",),
            (),
        ),
    )
}
"""Every class, by name."""
