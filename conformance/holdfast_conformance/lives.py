"""The life of a session across connections: what checks of profile `resume` do again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bench import PROFILES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .case import Test
    from .client import Peer
    from .session import Session

__all__ = ["ask", "is_refused", "pause", "resume_error", "secluded", "tight_session"]

TIGHT = 2048
"""The largest `queue` that a check overfills for a session."""


def secluded(t: Test) -> str | None:
    """Return an identity that few checks use, so that others do not push its sessions and tombstones out."""
    return "carol" if "carol" in t.bench.target.identities else None


async def tight_session(
    t: Test,
    *,
    profiles: Sequence[str] | None = None,
    hello: Mapping[str, object] | None = None,
    acks: bool = True,
    name: str = "tight",
) -> Session:
    """Open a session with small limits: of the identity `small`, where the target file has it.

    Raises:
        Unverified: without that identity the limits are too large to be reached.
    """
    identity = "small" if "small" in t.bench.target.identities else None
    session = await t.session(identity, name=name, profiles=profiles, hello=hello, acks=acks)
    if "pubsub" in session.profiles and session.limit("queue") > TIGHT:
        raise t.unverified("the queue is long; add an identity `small` with small limits to the target file")
    return session


async def pause(session: Session) -> None:
    """Suspend a session for sure: say 4500 and wait until the server has answered."""
    await session.close(4500)
    await session.wait_closed()


async def ask(
    t: Test,
    earlier: Session,
    *,
    attempt: int | None = None,
    seq: int | None = None,
    name: str = "asking",
    **hello: object,
) -> Peer:
    """Send a hello that resumes on a connection of its own, and leave the answer to the check.

    Args:
        earlier: the newest connection of the session; its `attempt` is raised.
        attempt, seq: default: what an honest client would say.
        hello: members that replace those of hello, such as `auth` or `profiles`.
    """
    attempt = earlier.attempt + 1 if attempt is None else attempt
    earlier.attempt = max(earlier.attempt, attempt)
    peer = await t.connect(name=name, identity=earlier.identity)
    resume = {
        "session": earlier.welcome["session"],
        "seq": earlier.receipts.got if seq is None else seq,
        "attempt": attempt,
    }
    profiles = [profile for profile in PROFILES if profile in earlier.profiles]
    members = {"profiles": profiles, "resume": resume} | hello
    await peer.send(t.hello(earlier.identity) | members)
    return peer


def resume_error(session: Session) -> Mapping[str, object]:
    """Return the `resume_error` of a welcome, empty when it has none."""
    error = session.welcome.get("resume_error")
    return error if isinstance(error, dict) else {}


def is_refused(
    t: Test,
    fresh: Session,
    earlier: Session,
    *codes: str,
    last_id: int | None = None,
    requirement: str = "",
    hint: str = "",
) -> None:
    """Assert that a resume was refused with one of these codes, and a fresh session opened.

    Args:
        fresh: the connection that asked to resume.
        earlier: the session that it named.
        last_id: the highest id that the server consumed in that session; not judged with `not_found`.
    """
    welcome = fresh.welcome
    wanted = " or ".join(codes)
    t.that(
        welcome.get("resumed") is not True,
        f"the session was resumed; expected it to be refused with {wanted}",
        frame=welcome,
        requirement=requirement,
        hint=hint,
    )
    code = resume_error(fresh).get("code")
    if code not in codes:
        t.kept_until_now(earlier, welcome)
    t.that(
        code in codes,
        f"the resume was refused with {code}; expected {wanted}",
        frame=welcome,
        requirement=requirement,
        hint=hint,
    )
    if code == "not_found":
        t.that(
            "last_id" not in resume_error(fresh),
            "`not_found` comes with a last_id",
            frame=welcome,
            requirement="RES-18",
            hint="a stranger must not learn anything about the session",
        )
    elif last_id is not None:
        t.equal(
            resume_error(fresh).get("last_id"),
            last_id,
            "the last_id of the refusal",
            frame=welcome,
            requirement=requirement,
            hint="the highest id that was consumed, before the session ended",
        )
    t.that(
        welcome.get("session") not in (None, earlier.welcome["session"]),
        "the refused connection did not get a session of its own",
        frame=welcome,
        requirement="RES-26",
    )
