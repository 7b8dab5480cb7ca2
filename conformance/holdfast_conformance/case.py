"""What the author of a check works with: the decorator `@check` and the object `t`. The guide is
`cases/README.md`.

A check is an async function that gets one `Test`. It may assert only through `t`, so that each assertion
carries a requirement, a transcript and a hint. `Test` owns every connection that the check opens and closes
them all.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from .bench import without
from .client import Closure, Peer, Response, dumps
from .expect import (
    AuthorError,
    Emitted,
    Expectation,
    Failure,
    Frame,
    NotApplicable,
    StalledError,
    Unverified,
    same_json,
)
from .fixture import Fixture
from .session import Exchange, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from .bench import Bench

__all__ = [
    "CHECKS", "AuthorError", "Check", "Closure", "Emitted", "Exchange", "Expectation", "Failure", "Frame",
    "NotApplicable", "Peer", "Response", "Session", "Test", "Unverified", "check", "without",
]  # fmt: skip

T = TypeVar("T")

QUIET_WINDOWS = 10
"""So many windows of silence are tried until one passes during which this process was awake."""

STARTS_EXCHANGE = ("request", "subscribe", "publish", "history", "auth")


class Lane(Protocol):
    """The place of a check among the parallel ones; given up while the check only waits."""

    async def acquire(self) -> None: ...
    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Check:
    """One check: an id `area/slug`, the requirements that it covers (the first is the default), and its
    function.

    Args:
        needs: what the target must offer, see `needs.py`.
        slow: sits out declared timers of the target; runs in the slow lane, beside everything else.
        intrusive: floods or stalls; runs off loopback only with `--intrusive`.
        serial: needs the target for itself; runs alone at the end.
        data_driven: made from a published vector.
    """

    id: str
    title: str
    covers: tuple[str, ...]
    needs: tuple[str, ...]
    function: Callable[[Test], Awaitable[None]]
    slow: bool = False
    intrusive: bool = False
    serial: bool = False
    data_driven: bool = False

    @property
    def area(self) -> str:
        """The first part of the id."""
        return self.id.split("/")[0]


CHECKS: dict[str, Check] = {}
"""Every check that has been defined, by id."""


def check(
    id: str,
    *,
    covers: str | Sequence[str],
    needs: Sequence[str] = (),
    slow: bool = False,
    intrusive: bool = False,
    serial: bool = False,
) -> Callable[[Callable[[Test], Awaitable[None]]], Callable[[Test], Awaitable[None]]]:
    """Define a check; the first line of the docstring is its title.

    Raises:
        ValueError: the id is taken, or the docstring or the covered requirements are missing.
    """

    def define(function: Callable[[Test], Awaitable[None]]) -> Callable[[Test], Awaitable[None]]:
        title = (function.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
        ids = (covers,) if isinstance(covers, str) else tuple(covers)
        if id in CHECKS or not title or not ids:
            raise ValueError(f"check {id!r}: the id is taken, or it lacks a docstring or covers=")
        CHECKS[id] = Check(id, title, ids, tuple(needs), function, slow, intrusive, serial)
        return function

    return define


class Test(Fixture):
    """One run of one check, called `t` in the check.

    Attributes:
        informational: whatever happens is recorded, and nothing is judged.
        assertions: how many assertions have been made.
        control_passed: what the last passed control was, in words.
        absences: the strength of each proof of an absence.
        notes: what the check recorded.
    """

    __test__ = False  # not a pytest class

    def __init__(self, bench: Bench, check: Check, nursery: trio.Nursery, lane: Lane | None = None) -> None:
        super().__init__(bench, check, nursery)
        self.informational = False
        self.assertions = 0
        self.control_passed = ""
        self.absences: list[str] = []
        self.notes: list[str] = []
        self._lane = lane

    # Assertions

    async def must(self, expectation: Expectation, *, hint: str = "", requirement: str = "") -> Frame:
        """Assert that what is expected arrives; return the frame."""
        self.assertions += 1
        with self._blame(hint, requirement):
            return await expectation

    async def judge(self, outcome: Awaitable[T]) -> T:
        """Count an awaited judgement of the suite itself as an assertion and return its value."""
        self.assertions += 1
        return await outcome

    async def control(self, expectation: Expectation) -> Frame:
        """Prove that the path is live: the positive twin of a later `must_not`. Return the frame."""
        frame = await expectation
        stimulus = expectation.emitted.at if expectation.emitted is not None else expectation.created
        self.bench.clock.reacted(frame.at - stimulus)
        self.control_passed = (
            f"{expectation.what} did arrive, {(frame.at - stimulus) * 1000:.1f} ms after its cause"
        )
        return frame

    async def must_not(self, expectation: Expectation, *, hint: str = "", requirement: str = "") -> None:
        """Assert that something does not arrive. Needs a `control` that passed before it.

        The proof is the strongest that the session allows: *fenced* (a pong without `held` came after it,
        profile fence), *witnessed* (another session saw the event, then three round trips here), or *quiet*
        (a calibrated window of silence).
        """
        expectation.used = True
        if not self.control_passed:
            raise AuthorError("must_not without a passed control: silence on a dead path proves nothing")
        self.assertions += 1
        strength = await self._let_it_come(expectation)
        with self._blame(hint, requirement):
            if (frame := expectation.unwanted()) is not None:
                raise Failure(f"{expectation.what} must not come, and came", frame=frame)
            if expectation.peer.closure is not None and expectation.peer.closure.how != "frame":
                raise Failure(f"{expectation.peer.name}'s connection was {expectation.peer.closure}")
        self.absences.append(strength)

    async def closes(
        self, peer: Peer, *codes: int, within: float = 0.0, hint: str = "", requirement: str = ""
    ) -> Closure:
        """Assert that the target closes the connection with one of these codes, the best one first.

        Args:
            within: seconds of a declared timer that may pass before the usual patience begins.
        """
        self.assertions += 1
        expected = " or ".join(map(str, codes)) or "any code"
        begin = trio.current_time()
        with trio.move_on_after(within + self.bench.clock.patience):
            await peer.wait_closed()
        with self._blame(hint, requirement):
            if peer.closure is None:
                if self.bench.clock.stalled(begin, trio.current_time()):
                    raise StalledError
                self.bench.clock.expired += 1
                raise Failure(f"expected {peer.name} to be closed with {expected}; it is still open")
            if peer.closure.how != "frame" or (codes and peer.closure.code not in codes):
                raise Failure(f"expected {peer.name} to be closed with {expected}; it was {peer.closure}")
        if codes and peer.closure.code != codes[0]:
            self.note(f"closed with {peer.closure.code}, which is allowed; {codes[0]} is best")
        return peer.closure

    async def until(
        self, peer: Peer, condition: Callable[[], bool], what: str, *, hint: str = "", requirement: str = ""
    ) -> None:
        """Assert that a condition on what a peer has received becomes true; `what` names what it waits
        for.
        """
        self.assertions += 1
        begin = trio.current_time()
        with trio.move_on_after(self.bench.clock.patience):
            while not condition() and not peer.finished.is_set():
                await peer.arrival()
        if condition():
            return
        with self._blame(hint, requirement):
            if not peer.finished.is_set():
                if self.bench.clock.stalled(begin, trio.current_time()):
                    raise StalledError
                self.bench.clock.expired += 1
            raise Failure(f"expected {what} at {peer.name}; it did not come")

    async def reply(self, peer: Peer, *, hint: str = "", requirement: str = "") -> Frame | None:
        """Assert that the target reacts: return its next message, or None when it hung up instead."""
        self.assertions += 1
        with self._blame(hint, requirement):
            return await peer.receives_any().wait_or_close()

    async def ends(self, peer: Peer, *, hint: str = "", requirement: str = "") -> None:
        """Assert that the target ends the TCP stream, which comes after the close frames."""
        over = peer.finished.is_set
        await self.until(peer, over, "the end of the TCP connection", hint=hint, requirement=requirement)

    async def alive(self, session: Session, *, hint: str = "", requirement: str = "") -> None:
        """Assert that the session still works: a ping is answered."""
        self.assertions += 1
        with self._blame(hint, requirement):
            await session.ping()

    async def rejects(
        self,
        bad: Mapping[str, object],
        *,
        like: Mapping[str, object],
        code: str | Sequence[str] = (),
        close: int | Sequence[int] = (),
        identity: str | None = None,
        profiles: Sequence[str] | None = None,
        new: bool = False,
        hint: str = "",
        requirement: str = "",
    ) -> None:
        """Assert that `bad` is refused, after proving that its twin `like`, without the fault, is accepted.

        Each goes to a fresh session; an `id` is added to types that start an exchange and have none.

        Args:
            code: the error code expected on the exchange, or several, the best first; the session must live
                on.
            close: or the close code expected.
            new: send on a connection without hello; then `like` is a hello, or must leave the connection
                open.
        """
        if bool(code) == bool(close):
            raise AuthorError("rejects needs code= or close=, not both")
        self.assertions += 1
        difference = _difference(like, bad)
        await self._accepts(like, identity, profiles, new)
        self.control_passed = f"the same frame without the fault was accepted; the fault: {difference}"
        peer: Peer = (
            await self.connect(name="bad")
            if new
            else await self.session(identity, profiles=profiles, name="bad")
        )
        frame = _with_id(bad)
        await peer.send(frame, malformed=True)
        self.assertions -= 1
        if close:
            codes = (close,) if isinstance(close, int) else close
            await self.closes(peer, *codes, hint=hint, requirement=requirement)
        else:
            assert isinstance(peer, Session)
            wanted = (code,) if isinstance(code, str) else code
            await self.must(Exchange(peer, frame).error(*wanted), hint=hint, requirement=requirement)
            await self.alive(peer, hint=hint, requirement=requirement)

    def that(
        self,
        condition: bool,
        message: str,
        *,
        frame: Frame | None = None,
        hint: str = "",
        requirement: str = "",
    ) -> None:
        """Assert a condition; `message` says what is wrong when it is false."""
        self.assertions += 1
        with self._blame(hint, requirement):
            if not condition:
                raise Failure(message, frame=frame)

    def equal(
        self, actual: object, expected: object, what: str, *, frame: Frame | None = None, hint: str = "",
        requirement: str = "",
    ) -> None:  # fmt: skip
        """Assert that two values are the same JSON (`true` is not 1); `what` names the value."""
        message = f"expected {what} to be {dumps(expected)}; it is {dumps(actual)}"
        self.that(same_json(actual, expected), message, frame=frame, hint=hint, requirement=requirement)

    def note(self, text: str) -> None:
        """Record behaviour that is worth showing and is not judged."""
        self.notes.append(text)

    def unverified(self, reason: str) -> Unverified:
        """Return what to raise when only the running check can see that the target offers too little."""
        return Unverified(reason)

    def not_applicable(self, reason: str) -> NotApplicable:
        """Return what to raise when the check has seen that something optional is absent, as it may be."""
        return NotApplicable(reason)

    # Time

    def now(self) -> float:
        """Return the time in seconds, comparable with `Frame.at`."""
        return trio.current_time()

    async def sit_out(self, seconds: float, what: str) -> None:
        """Wait for a declared timer of the target; the lane is free for others meanwhile.

        Raises:
            Unverified: it takes longer than `--max-wait`.
        """
        if seconds > self.bench.clock.max_wait:
            raise Unverified(f"{what} takes {seconds:g} s; allow it with --max-wait {seconds:g}")
        self.journal.add("·", "·", f"waits {seconds:g} s: {what}")
        async with self._parked():
            await trio.sleep(seconds)

    async def quiet(self, what: str) -> None:
        """Let one calibrated window of silence pass: long compared with how fast this target reacts."""
        window = self.bench.clock.quiet_window
        self.journal.add("·", "·", f"watches for {window * 1000:.0f} ms: {what}")
        async with self._parked():
            for _ in range(QUIET_WINDOWS):
                begin = trio.current_time()
                await trio.sleep(window)
                if not self.bench.clock.stalled(begin, trio.current_time()):
                    return
        raise StalledError

    # The end

    def settle(self) -> None:
        """Check the check itself, after it has run: every expectation was used, and something was
        asserted.
        """
        unused = [e.what for peer in self.peers for e in peer.expectations if not e.used]
        if unused:
            raise AuthorError(f"the check expects {unused[0]} and never looks whether it came")
        if not self.assertions:
            raise AuthorError("the check asserts nothing")

    # Inside

    @asynccontextmanager
    async def _parked(self) -> AsyncIterator[None]:
        if self._lane is None:
            yield
            return
        self._lane.release()
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await self._lane.acquire()

    async def _let_it_come(self, expectation: Expectation) -> str:
        """Give the unwanted frame every chance to arrive; return how strong the proof will be."""
        peer, emitted = expectation.peer, expectation.emitted
        if peer.closure is not None or expectation.unwanted() is not None:
            return "closed"
        if isinstance(peer, Session) and "type" in getattr(peer, "welcome", Frame(0, "", {}, 0)).body:
            try:
                if emitted is not None and "fence" in peer.profiles and await peer.fence():
                    return "fenced"
                if emitted is not None and emitted.seen_by - {peer.name}:
                    for _ in range(3):
                        await peer.ping()
                    return "witnessed"
            except Failure:
                if peer.closure is None:
                    raise
                return "closed"
        window = self.bench.clock.quiet_window
        await self.quiet(f"nothing like {expectation.what}")
        return f"quiet for {window * 1000:.0f} ms"

    async def _accepts(
        self, good: Mapping[str, object], identity: str | None, profiles: Sequence[str] | None, new: bool
    ) -> None:
        if new:
            peer = await self.connect(name="good")
            await peer.send(good)
            if good.get("type") == "hello":
                await peer.receives("welcome")
            return
        session = await self.session(identity, profiles=profiles, name="good")
        frame = _with_id(good)
        await session.send(frame)
        if "id" in frame:
            expected = session.receives("open", id=frame["id"]) if frame["type"] == "subscribe" else None
            exchange = Exchange(session, frame)
            expectation = exchange.result() if expected is None else expected
            expectation.breaks = exchange._ended
            await expectation
        await session.ping()

    @contextmanager
    def _blame(self, hint: str, requirement: str) -> Iterator[None]:
        """Give a failure inside the block the hint and the requirement of the assertion."""
        try:
            yield
        except Failure as failure:
            failure.hint = failure.hint or hint
            failure.requirement = failure.requirement or requirement
            raise


def _with_id(frame: Mapping[str, object]) -> Mapping[str, object]:
    if frame.get("type") in STARTS_EXCHANGE and "id" not in frame:
        return {"type": frame["type"], "id": 1} | dict(frame)
    return frame


def _difference(good: Mapping[str, object], bad: Mapping[str, object]) -> str:
    """Describe, in one line, how two frames differ at the top level."""
    parts = []
    for name in dict.fromkeys([*good, *bad]):
        if name not in bad:
            parts.append(f"without {name!r}")
        elif name not in good:
            parts.append(f"with {name!r}: {dumps(bad[name])}")
        elif good[name] != bad[name] or type(good[name]) is not type(bad[name]):
            parts.append(f"{name!r} is {dumps(bad[name])} instead of {dumps(good[name])}")
    return ", ".join(parts) or "none"
