"""What the author of a check works with: the decorator `@check` and the object `t`. The guide is
`cases/README.md`.

A check is an async function that gets one `Test`. It may assert only through `t`, so that each assertion
carries a requirement, a transcript and a hint. `Test` owns every connection that the check opens and closes
them all.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from .bench import PROFILES, Bench
from .client import Closure, Peer, Response, dumps
from .dial import SUBPROTOCOL, DialError
from .expect import AuthorError, Emitted, Expectation, Failure, Frame, StalledError
from .journal import Journal
from .launch import resident
from .session import Exchange, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from .target import Identity

__all__ = [
    "CHECKS", "AuthorError", "Check", "Closure", "Emitted", "Exchange", "Expectation", "Failure", "Frame",
    "NotApplicable", "Peer", "Response", "Session", "Test", "Unverified", "check",
]  # fmt: skip

P = TypeVar("P", bound=Peer)
T = TypeVar("T")

QUIET_WINDOWS = 10
"""So many windows of silence are tried until one passes during which this process was awake."""

HTTP_HINTS = {
    400: f"does it speak the subprotocol {SUBPROTOCOL}?",
    401: "it wants credentials in the upgrade request: see [headers] of the target file",
    403: "it refuses us before hello: see [headers] of the target file",
    404: "is the path of the URL right?",
    426: "it wants another version of WebSocket",
    503: "it is draining, or full",
}
"""What to look at when an upgrade is refused."""

STARTS_EXCHANGE = ("request", "subscribe", "publish", "auth")


class Unverified(Exception):
    """The target does not offer what the check needs; the text says what, and how to offer it."""


class NotApplicable(Exception):
    """The check has seen that what it is about is optional and absent; the text says what."""


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


class Test:
    """One run of one check, called `t` in the check.

    Attributes:
        check: the check.
        bench: what the run knows about the target.
        random: random numbers that depend on the run's seed and the check alone.
        nursery: lives as long as the check; for what should go on beside it.
        informational: whatever happens is recorded, and nothing is judged.
    """

    __test__ = False  # not a pytest class

    def __init__(self, bench: Bench, check: Check, nursery: trio.Nursery, lane: Lane | None = None) -> None:
        self.bench = bench
        self.check = check
        self.random = bench.random(check.id)
        self.journal = Journal()
        self.peers: list[Peer] = []
        self.assertions = 0
        self.informational = False
        self.control_passed = ""
        self.absences: list[str] = []
        self.notes: list[str] = []
        self.nursery = nursery
        self._lane = lane
        self._emitter: Session | None = None
        self._names = 0
        self._payloads = 0

    # Connections

    async def handshake(
        self,
        *,
        name: str = "peer",
        subprotocols: Sequence[str] = (SUBPROTOCOL,),
        headers: Mapping[str, str] | None = None,
        omit: Sequence[str] = (),
        method: str = "GET",
        path: str | None = None,
        version: str = "1.1",
        raw: bytes | None = None,
    ) -> tuple[Response, Peer | None]:
        """Send an upgrade request of any shape; return the answer, and the peer when it was 101.

        Args:
            subprotocols: values of Sec-WebSocket-Protocol; `()` leaves the header out.
            headers: further headers, replacing those of the same name.
            omit: lower-case names of headers to leave out.
            raw: send these bytes in place of a request.
        """
        return await self._dial(
            Peer, name, None, subprotocols=subprotocols, headers=tuple((headers or {}).items()), omit=omit,
            method=method, path=path, version=version, raw=raw,
        )  # fmt: skip

    async def connect(
        self, *, name: str = "peer", identity: str | None = None, receive_buffer: int | None = None
    ) -> Peer:
        """Open a WebSocket on which nothing has been sent.

        Args:
            name: how the timeline calls it.
            identity: whose handshake headers to send; for identities that travel in headers.
            receive_buffer: bytes of our kernel buffer; small when the check wants the target's writes to back
                up.
        """
        who = self._identity(identity)
        return await self._open(Peer, name, who.headers if who else (), receive_buffer)

    async def poke(self, data: bytes) -> None:
        """Open a stream to the target, write bytes that are no handshake, and close it; judge nothing."""
        try:
            stream = await self.bench.endpoint.stream()
        except DialError as error:
            raise Failure(str(error)) from error
        self.journal.add("poke", "→", data)
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(data)

    async def session(
        self,
        identity: str | None = None,
        *,
        profiles: Sequence[str] | None = None,
        name: str | None = None,
        hello: Mapping[str, object] | None = None,
        receive_buffer: int | None = None,
    ) -> Session:
        """Open a connection, say hello and wait for welcome.

        Args:
            identity: from the target file; None means the first one. A target without any identity is used
                anonymously, whatever name is given.
            profiles: what hello asks for; None means all that the suite knows, `()` means core alone.
            name: how the timeline calls it; default: the identity, numbered when there are several of it.
            hello: further members of hello, such as `{"limits": {"max_frame": 4096}}`.
            receive_buffer: as in `connect`.
        """
        if not self.bench.admits:
            raise Unverified(
                "the server wants credentials: add an identity to [identities] in the target file"
            )
        who = self._identity(identity)
        shown = name or self._unused_name(identity or (who.name if who else "anonymous"))
        session = await self._open(Session, shown, who.headers if who else (), receive_buffer)
        session.identity = who.name if who else None
        session.script_method = self.bench.target.script_method
        await session.send(self.hello(identity, profiles=profiles, **(hello or {})))
        session.ready(await session.receives("welcome"))
        return session

    async def sessions(self, *identities: str, profiles: Sequence[str] | None = None) -> tuple[Session, ...]:
        """Open several sessions at once, in the order given."""
        opened: dict[int, Session] = {}

        async def open_one(index: int, identity: str, name: str) -> None:
            opened[index] = await self.session(identity, profiles=profiles, name=name)

        async with trio.open_nursery() as nursery:
            for index, identity in enumerate(identities):
                nth = identities[:index].count(identity)
                nursery.start_soon(open_one, index, identity, f"{identity}{nth + 1}" if nth else identity)
        return tuple(opened[index] for index in range(len(identities)))

    def hello(
        self, identity: str | None = None, *, profiles: Sequence[str] | None = None, **fields: object
    ) -> dict[str, object]:
        """Return a hello frame with the credentials of an identity; `fields` replace or add members."""
        who = self._identity(identity)
        frame: dict[str, object] = {
            "type": "hello",
            "profiles": list(PROFILES if profiles is None else profiles),
        }
        if who is not None and who.token is not None:
            frame["auth"] = {"scheme": who.scheme, "token": who.token}
        return frame | fields

    # Names

    def channel(self, kind: str = "open") -> str:
        """Return a channel of a kind of the target file: `open` and `restricted` are fresh each time."""
        template = self.bench.target.channels.get(kind)
        if template is None and kind == "open":
            template = "conf/{run}/{test}/{n}"
        if template is None:
            raise Unverified(f"add a channel `{kind}` to [channels] in the target file")
        self._names += 1
        slug = self.check.id.replace("/", "-")
        return (
            template.replace("{run}", self.bench.run_id)
            .replace("{test}", slug)
            .replace("{n}", str(self._names))
        )

    def method(self, name: str) -> str:
        """Return the name of a method of the target file: `echo`, `fail`, `broken` or `forbidden`."""
        method = self.bench.target.methods.get(name)
        if method is None:
            raise Unverified(f"add `{name}` to [methods] in the target file")
        return method.name

    def token(self, identity: str | None = None) -> str:
        """Return the token of an identity, of the first one by default."""
        who = self._identity(identity, must_exist=True)
        if who is None or who.token is None:
            raise Unverified(
                f"add an identity `{identity or 'alice'}` with a token to [identities] in the target file"
            )
        return who.token

    def payload(self) -> object:
        """Return data that no other event of this run carries."""
        self._payloads += 1
        return {"n": self._payloads, "tag": f"{self.random.getrandbits(48):012x}"}

    def resident_bytes(self) -> int:
        """Return the memory that the target's processes hold, in bytes; needs `spawned`."""
        size = None if self.bench.process is None else resident(self.bench.process)
        if size is None:
            raise Unverified(
                "the memory of a target can be read on Linux alone, and when the suite started it"
            )
        return size

    # Stimuli

    async def emit(
        self, channel: str, data: object = None, *, by: Session | None = None, **fields: object
    ) -> Emitted:
        """Cause one event, wait until the target says that it took effect, and return it.

        Args:
            data: the payload; a unique one by default.
            by: the session that publishes; default: a session of its own, by the route of the target file.
            fields: further members of the publish, such as `echo=False`.
        """
        event = Emitted(
            channel, self.payload() if data is None else data, trio.current_time(), len(self.journal)
        )
        route = "publish" if by is not None else self.bench.target.events[0]
        kind, _, name = route.partition(":")
        if kind == "cmd":
            await self._emit_by_command(name, event)
            return event
        if by is None:
            if self._emitter is None:
                self._emitter = await self.session(name="emitter")
            by = self._emitter
        event.at, event.entry = trio.current_time(), len(self.journal)
        if kind == "method":
            as_script = name == self.bench.target.script_method
            await by.request(
                name,
                data=[["emit", channel, event.data]]
                if as_script
                else {"channel": channel, "data": event.data},
            )
        else:
            await by.publish(channel, event.data, **fields)
        return event

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
        from .expect import same_json

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

    async def leave(self) -> None:
        """Close every connection that the check left open."""
        for peer in self.peers:
            await peer.leave()

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

    async def _emit_by_command(self, template: str, event: Emitted) -> None:
        words = [
            word.replace("{channel}", event.channel).replace("{json}", json.dumps(event.data))
            for word in shlex.split(template)
        ]
        with trio.fail_after(self.bench.clock.patience):
            done = await trio.run_process(words, check=False, capture_stdout=True, stderr=subprocess.STDOUT)
        if done.returncode:
            raise AuthorError(f"the emit command {words[0]!r} failed with exit code {done.returncode}")

    async def _open(
        self, kind: type[P], name: str, headers: Sequence[tuple[str, str]], receive_buffer: int | None
    ) -> P:
        response, peer = await self._dial(kind, name, receive_buffer, headers=headers)
        if peer is None:
            message = f"expected the upgrade to be accepted; the target answered HTTP {response.status}"
            raise Failure(message, hint=HTTP_HINTS.get(response.status, "is this the WebSocket address?"))
        return peer

    async def _dial(
        self, kind: type[P], name: str, receive_buffer: int | None, **request: Any
    ) -> tuple[Response, P | None]:
        bench = self.bench
        try:
            stream = await bench.endpoint.stream(receive_buffer)
            try:
                response, trailing = await bench.endpoint.handshake(stream, **request)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        except DialError as error:
            raise Failure(str(error)) from error
        if response.status != 101:
            self.journal.add(name, "←", f"HTTP {response.status}")
            await trio.aclose_forcefully(stream)
            return response, None
        self.journal.add(name, "·", "connected")
        peer = kind(
            name,
            stream,
            response,
            trailing=trailing,
            clock=bench.clock,
            journal=self.journal,
            watch=bench.ambient.watch(self.check.id, self.journal, bench.target.mask),
            nursery=self.nursery,
        )
        self.peers.append(peer)
        return response, peer

    def _identity(self, name: str | None, *, must_exist: bool = False) -> Identity | None:
        identities = self.bench.target.identities
        if name is not None and name in identities:
            return identities[name]
        if not identities and not must_exist:
            return None
        if name is None and identities:
            return next(iter(identities.values()))
        raise Unverified(f"add an identity `{name or 'alice'}` to [identities] in the target file")

    def _unused_name(self, wanted: str) -> str:
        taken = {peer.name for peer in self.peers}
        return next(
            n for i in range(1, len(taken) + 2) if (n := wanted if i == 1 else f"{wanted}{i}") not in taken
        )

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
