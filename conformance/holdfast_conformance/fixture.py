"""What a check gets: connections of every kind, names, credentials and events, by the target file of the run.

Everything is made for one check and closed with it. Nothing here asserts: what the target refuses to give is
a failure of the set-up, what its file does not offer makes the check unverified.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import trio

from .bench import PROFILES
from .client import Peer, dumps
from .dial import SUBPROTOCOL, DialError
from .expect import AuthorError, Emitted, Failure, StalledError, Unverified
from .journal import Journal
from .launch import resident
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .bench import Bench
    from .case import Check
    from .client import Response
    from .expect import Frame
    from .target import Identity

__all__ = ["Fixture"]

P = TypeVar("P", bound=Peer)

HTTP_HINTS = {
    400: f"does it speak the subprotocol {SUBPROTOCOL}?",
    401: "it wants credentials in the upgrade request: see [headers] of the target file",
    403: "it refuses us before hello: see [headers] of the target file",
    404: "is the path of the URL right?",
    426: "it wants another version of WebSocket",
    503: "it is draining, or full",
}
"""What to look at when an upgrade is refused."""


GOODBYE = 1.0
"""Seconds in which a target may end the sessions that a check left suspended."""


class Fixture:
    """The part of `t` that provides things.

    Attributes:
        check: the check.
        bench: what the run knows about the target.
        random: random numbers that depend on the run's seed and the check alone.
        nursery: lives as long as the check; for what should go on beside it.
        journal: the timeline.
        peers: every connection of the check.
    """

    def __init__(self, bench: Bench, check: Check, nursery: trio.Nursery) -> None:
        self.check = check
        self.bench = bench
        self.random = bench.random(check.id)
        self.nursery = nursery
        self.journal = Journal()
        self.peers: list[Peer] = []
        self._emitter: Session | None = None
        self._run = bench.runs[check.id] = bench.runs.get(check.id, 0) + 1
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
            raise Failure(str(error), hint=error.hint) from error
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
        acks: bool = True,
    ) -> Session:
        """Open a connection, say hello and wait for welcome.

        Args:
            identity: from the target file; None means the first one. A target without any identity is used
                anonymously, whatever name is given.
            profiles: what hello asks for; None means all that the suite knows, `()` means core alone.
            name: how the timeline calls it; default: the identity, numbered when there are several of it.
            hello: further members of hello, such as `{"limits": {"max_frame": 4096}}`.
            receive_buffer: as in `connect`.
            acks: whether it acknowledges by itself, where the server offers profile `ack`.
        """
        if not self.bench.admits:
            raise Unverified(
                "the server wants credentials: add an identity to [identities] in the target file"
            )
        session = await self._unwelcomed(identity, name, receive_buffer)
        session.acks = acks
        await session.send(self.hello(identity, profiles=profiles, **(hello or {})))
        session.ready(await session.receives("welcome"))
        return session

    async def resume(
        self,
        earlier: Session,
        *,
        expect: Literal["resumed", "refused", "either"] = "resumed",
        identity: str | None = None,
        profiles: Sequence[str] | None = None,
        name: str | None = None,
        session: str | None = None,
        seq: int | None = None,
        attempt: int | None = None,
        resend: bool = False,
        hello: Mapping[str, object] | None = None,
        receive_buffer: int | None = None,
        acks: bool = True,
    ) -> Session:
        """Resume a session on a new connection, as an honest client does unless told otherwise.

        Nothing is done to the earlier connection but that it falls silent: no acks, no heartbeats. When the
        server accepts, the exchanges go over to the new connection; see `Session`.

        Args:
            expect: what the server must do; `refused` means that it opened a fresh session instead.
            identity: default: that of the session.
            profiles: default: those in force.
            name: how the timeline calls it; default: that of the earlier connection with a `'`.
            session: the name to present; default: the true one.
            seq: the number to resume from; default: the highest that arrived.
            attempt: default: one higher than the last time.
            resend: send again what the server has not seen: each frame with an id above `last_id`.
            hello: further members of hello.
            receive_buffer, acks: as in `session`.
        """
        who = earlier.identity if identity is None else identity
        resumed = await self._unwelcomed(who, name or f"{earlier.name}'", receive_buffer)
        resumed.acks = acks
        # Only now, because the earlier connection may have received and acknowledged more meanwhile.
        seq = earlier.receipts.got if seq is None else seq
        earlier.attempt = earlier.attempt + 1 if attempt is None else max(earlier.attempt, attempt)
        resumed.continues(earlier, seq)
        members = {
            "session": earlier.welcome["session"] if session is None else session,
            "seq": seq,
            "attempt": earlier.attempt if attempt is None else attempt,
        }
        asked = [p for p in PROFILES if p in earlier.profiles] if profiles is None else profiles
        await resumed.send(self.hello(who, profiles=asked, resume=members, **(hello or {})))
        welcome = await resumed.receives("welcome")
        resumed.ready(welcome)
        outcome = "resumed" if welcome.get("resumed") is True else "refused"
        if expect not in (outcome, "either"):
            if expect == "resumed":
                self.kept_until_now(earlier, welcome)
            why = dumps(welcome.get("resume_error")) if outcome == "refused" else "`resumed` is true"
            raise Failure(f"expected the session to be {expect}; it was {outcome}: {why}", frame=welcome)
        last_id = welcome.get("last_id")
        if resend and outcome == "resumed" and isinstance(last_id, int):
            await resumed.pipeline(*(e.sent for e in resumed.exchanges if cast("int", e.id) > last_id))
        return resumed

    def kept_until_now(self, earlier: Session, welcome: Frame) -> None:
        """Look at the answer to a resume that should not have found the session gone.

        Raises:
            Unverified: it was refused as gone, and may have been suspended for all of `resume_ms`.
        """
        error = welcome.get("resume_error")
        code = error.get("code") if isinstance(error, dict) else None
        if code not in ("not_found", "expired") or earlier.left_at is None:
            return
        kept = earlier.limit("resume_ms") / 1000
        # The server may have noticed the end earlier than we did.
        if welcome.at - earlier.left_at + self.bench.clock.rtt.p99 >= kept:
            raise Unverified(
                f"resume_ms is {kept:g} s; the session was suspended for so long before it resumed"
            )

    async def _unwelcomed(
        self, identity: str | None, name: str | None, receive_buffer: int | None
    ) -> Session:
        """Open a connection on which hello will be sent."""
        who = self._identity(identity)
        shown = self._unused_name(name or identity or (who.name if who else "anonymous"))
        session = await self._open(Session, shown, who.headers if who else (), receive_buffer)
        session.identity = who.name if who else None
        session.script_method = self.bench.target.script_method
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
        """Return a channel of a kind of the target file: `open` and `restricted` are fresh each time.

        Also when the check runs again: a log outlives the run of a check.
        """
        template = self.bench.target.channels.get(kind)
        if template is None and kind == "open":
            template = "conf/{run}/{test}/{n}"
        if template is None:
            raise Unverified(f"add a channel `{kind}` to [channels] in the target file")
        self._names += 1
        slug = self.check.id.replace("/", "-") + (f"-{self._run}" if self._run > 1 else "")
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

    async def leave(self) -> None:
        """Close every connection that the check left open, and end what it left suspended."""
        suspended = [peer for peer in self.peers if isinstance(peer, Session) and peer.may_be_suspended]
        for peer in self.peers:
            await peer.leave()
        with trio.move_on_after(GOODBYE):
            async with trio.open_nursery() as nursery:
                for session in suspended:
                    nursery.start_soon(self._end, session)

    # Inside

    async def _end(self, session: Session) -> None:
        """Resume a session and close it for good, so that it does not count against its principal."""
        with suppress(Failure, StalledError):
            await (await self.resume(session, expect="either")).leave()

    async def _emit_by_command(self, template: str, event: Emitted) -> None:
        words = [
            word.replace("{channel}", event.channel).replace("{json}", json.dumps(event.data))
            for word in shlex.split(template)
        ]
        with trio.move_on_after(self.bench.clock.patience) as waiting:
            done = await trio.run_process(words, check=False, capture_stdout=True, stderr=subprocess.STDOUT)
        if waiting.cancelled_caught:
            raise AuthorError(f"the emit command {words[0]!r} did not end")
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
            bench.clock.expired += isinstance(error.__cause__, trio.TooSlowError)
            raise Failure(str(error), hint=error.hint) from error
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
