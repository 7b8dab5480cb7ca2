"""The checks around the checks: is the target there and sane, what does it offer, how fast is it, and a
canary.

None of this judges conformance, except the canary: a session that is connected for the whole run and must
receive nothing but heartbeats, whatever all the others do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .bench import PROFILES
from .case import Check, Failure, Frame, Session, Test
from .clock import Rtt
from .expect import StalledError, Unverified
from .trial import conduct

if TYPE_CHECKING:
    from .bench import Bench

__all__ = ["CANARY", "Unusable", "autopsy", "canary", "sanity", "survey"]

PINGS = 20
"""Round trips that the calibration measures."""

MAX_SEQ = 2**53 - 1
"""A number that no session reaches."""

UNHEARD = 4304
"""The close code for a client that shows no life."""

TOO_BUSY = "this process cannot keep up: the machine stalls, or the target floods it"


class Unusable(Exception):
    """The target cannot be judged: it is not there, or does not speak the protocol at all."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


async def _nothing(t: Test) -> None:
    raise AssertionError("probes are run by name")


_PROBE = Check("probe", "The target is sane.", (), (), _nothing)

CANARY = Check(
    "sec/canary-is-undisturbed",
    "A session that takes no part in anything receives nothing but heartbeats for the whole run.",
    ("SEC-10", "SEC-09"),
    ("session",),
    _nothing,
)


async def sanity(bench: Bench) -> Frame | None:
    """Open one session and ping; return its welcome, None when the target lets nobody in without credentials.

    Raises:
        Unusable: the target does not get that far.
    """
    try:
        async with conduct(bench, _PROBE) as test:
            return await _sanity(test)
    except (Failure, StalledError) as error:
        raise Unusable(bench.target.mask(str(error)) or TOO_BUSY, _hint(error)) from error


async def _sanity(test: Test) -> Frame | None:
    peer = await test.connect(name="sanity")
    await peer.send(test.hello())
    first = await peer.receives_any().wait_or_close()
    if first is None:
        closure = peer.closure
        if closure is not None and closure.code == 4101:
            if not test.bench.target.identities:
                return None
            who = next(iter(test.bench.target.identities))
            raise Failure(f"the target refused the credentials of {who!r} with 4101", hint="see [identities]")
        raise Failure(
            f"the target did not answer hello: the connection was {closure}", hint="expected `welcome`"
        )
    if first.type != "welcome":
        raise Failure(f"the target answered hello with {first.text[:100]!r}", hint="expected `welcome`")
    await peer.send({"type": "ping", "t": "sanity"})
    await peer.receives("pong", t="sanity")
    return first


def _hint(error: Exception) -> str:
    return error.hint if isinstance(error, Failure) else ""


async def survey(bench: Bench, welcome: Frame) -> None:
    """Find out what the target offers and how fast it is, and set the clocks by that."""
    offered = welcome.get("profiles")  # of whatever type: the check of the frame's schema judges that
    bench.offered = frozenset(name for name in PROFILES if isinstance(offered, list) and name in offered)
    limits = welcome.get("limits")
    bench.limits = limits if isinstance(limits, dict) else {}
    try:
        async with conduct(bench, _PROBE) as test:
            session = await test.session(name="survey")
            times = []
            for _ in range(PINGS):
                begin = trio.current_time()
                pong = await session.ping()
                times.append(pong.at - begin)
            times.sort()
            bench.clock.rtt = Rtt(times[len(times) // 2], times[-1])
            for profile in PROFILES:
                if profile not in bench.offered:
                    bench.refusals[profile] = await _doubt(test, session, profile)
    except (Failure, StalledError) as error:
        raise Unusable(bench.target.mask(str(error)) or TOO_BUSY, _hint(error)) from error


async def _doubt(test: Test, session: Session, profile: str) -> str:
    """Use a profile that is not offered; return why its absence is doubtful, "" when it was refused or
    ignored as specified.
    """
    refused: dict[str, tuple[str, dict[str, object]]] = {
        "rpc": ("request", {"method": "conf.probe"}),
        "pubsub": ("subscribe", {"channel": test.channel()}),
        "pattern": ("subscribe", {"pattern": f"{test.channel()}/*"}),
        "history": ("history", {"channel": test.channel()}),
    }
    try:
        match profile:
            case "ack":  # the frame is ignored, however wrong it is
                await session.send({"type": "ack", "seq": MAX_SEQ})
                await session.ping()
            case "resume":  # so is the member of hello
                seat = {"session": "conf.probe", "seq": 0, "attempt": 1}
                unseated = await test.session(hello={"resume": seat})
                if "resumed" in unseated.welcome.body:
                    return "its welcome has `resumed`"
            case "fence":  # it adds a promise, and no frame that could be refused
                pass
            case _:
                type, fields = refused[profile]
                await (await session.start(type, **fields)).error("unsupported")
    except Failure as failure:
        return failure.message
    return ""


async def canary(test: Test) -> Session:
    """Open the canary's session; it subscribes to a channel that nobody else uses."""
    session = await test.session(name="canary")
    if "pubsub" in session.profiles:
        await session.subscribe(test.channel())
    return session


async def autopsy(test: Test, session: Session) -> None:
    """Judge what the canary has seen.

    Raises:
        Failure: something reached it, or it was disconnected.
        Unverified: it was given up for dead while our own process stood still.
    """
    if session.closure is not None:
        if session.closure.code == UNHEARD and session.left_at is not None:
            beat = session.welcome.get("heartbeat")
            patience = beat.get("timeout_ms") if isinstance(beat, dict) else None
            begin = session.left_at - (patience if isinstance(patience, int) else 0) / 1000
            if test.bench.clock.stalled(begin, session.left_at):
                raise Unverified(
                    "this machine stalled, and so nobody answered the canary's heartbeat in time"
                )
        raise Failure(f"the canary's connection was {session.closure}", requirement="SEC-09")
    await session.ping()
    for frame in session.frames:
        if frame.type not in ("welcome", "open", "ping", "pong"):
            raise Failure(f"the canary received {frame}", frame=frame, requirement="SEC-10")
