"""A client that resumes: its session, its unfinished exchanges, and its connection while it has one.

Written from the specification's section on the client's side. What it calls, writes and receives goes into
the history; nothing is judged here.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, cast

import trio

from .. import schemas
from ..client import Peer, dumps
from ..dial import DialError
from .scene import principal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..expect import Frame
    from ..target import Identity
    from .history import Called, Said, What
    from .scene import Scene

__all__ = ["Gone", "Link", "Running"]

TRIES = 6
"""So often a client comes back before it gives up; a target that is away for longer ends the plan for it."""

MOST_PIECES = 64
"""Writes into which one frame is split; more of them only take longer."""

GOODBYE = 0.5
"""Seconds that the target has to answer a goodbye."""

BACKOFF = 0.02
"""Seconds before the second try; they double."""


class Gone(Exception):
    """The client cannot get in, or not any more."""


@dataclass(slots=True)
class Running:
    """An exchange that has no terminal yet."""

    frame: Called
    written: bool = False
    cancelling: bool = False
    opened: bool = False
    cursor: str | None = None
    began: float = field(default_factory=trio.current_time)


class Link:
    """One client.

    Args:
        scene: what it shares with others.
        name: of the client.
        identity: who it is to the target, None for nobody.
        window: what it asks for, 0 for whatever the target has.

    Attributes:
        life: which session this is, counted from 1; 0 before the first welcome.
        running: unfinished exchanges by id, in the order of their ids.
        places: the last cursor that was seen on each channel.
        offered: the profiles in force.
    """

    def __init__(self, scene: Scene, name: str, identity: Identity | None, window: int = 0) -> None:
        self.name = name
        self._window = window
        self.life = 0
        self.running: dict[int, Running] = {}
        self.places: dict[str, str] = {}
        self.offered: frozenset[str] = frozenset()
        self.since = math.inf  # when this connection was welcomed
        self.written = trio.lowlevel.ParkingLot()
        self.split = 0
        self.holding = False
        self.joining = False
        self._scene = scene
        self._identity = identity
        self._peer: Peer | None = None
        self._conn = 0
        self._session: str | None = None
        self._attempt = 0
        self._id = 0
        self._got = 0
        self._acked = 0
        self._outbox: deque[Called] = deque()
        self._work = trio.Event()
        self._writing = trio.Lock()
        self._changed = trio.lowlevel.ParkingLot()
        self._pongs: dict[str, bool] = {}
        self._silent = False  # nothing is written any more on this connection
        self._rate = 0.0
        self._dedupe_ms = 0
        self._why = ""  # it was not let in the last time

    # What clients of a plan can do

    @property
    def up(self) -> bool:
        """Whether there is a connection that was welcomed and has not ended."""
        return self._peer is not None and self._peer.closure is None

    def call(self, frame: Called) -> int:
        """Start an exchange: give the frame the next id, and leave it to the writer."""
        self._id += 1
        # data is written last, and the id before all else that is read by people
        rest = {name: value for name, value in frame.items() if name not in ("type", "id", "data")}
        whole = {"type": frame["type"], "id": self._id, **rest}
        if "data" in frame:
            whole["data"] = frame["data"]
        called = cast("Called", whole)
        self.running[self._id] = Running(called)
        self._scene.recorder.add("call", client=self.name, life=self.life, frame=called)
        self._put(called)
        return self._id

    def cancel(self, id: int) -> None:
        """Cancel an exchange that runs."""
        exchange = self.running[id]
        if not exchange.cancelling:
            exchange.cancelling = True
            self._put({"type": "cancel", "of": id})

    def put_ping(self, t: str) -> None:
        """Send a ping."""
        self._put({"type": "ping", "t": t})

    async def pong(self, t: str) -> bool | None:
        """Wait for the pong of a ping; return whether it is a proof, None when it is lost."""
        peer = self._peer
        with trio.move_on_after(self._scene.patience):
            while t not in self._pongs and self._peer is peer and self.up:
                await self._changed.park()
        return self._pongs.pop(t, None)

    async def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds; return whether it came to hold in time, and the connection lived."""
        with trio.move_on_after(seconds):
            while not done() and self.up:
                await self._changed.park()
        return done()

    @property
    def peer(self) -> Peer:
        """The connection, for doing something to it."""
        assert self._peer is not None
        return self._peer

    @property
    def principal(self) -> str:
        """Who this is to the target."""
        return principal(self._identity, self.name)

    @property
    def token(self) -> str | None:
        """The credentials, None when there are none to show."""
        return self._identity.token if self._identity is not None else None

    async def leave(self) -> None:
        """Close the connection and let go of it."""
        if self._peer is not None:
            await self._peer.leave()

    async def cut(self, how: str) -> None:
        """End the connection by `abort`, `close` or `half-close`, and wait until it is over."""
        self.fault(how)
        peer, self._silent = self.peer, True
        if how == "abort":
            await peer.abort()
        else:
            with trio.move_on_after(GOODBYE):
                async with self._writing:  # a frame is finished before the goodbye
                    await (peer.close(4500, "keep_session") if how == "close" else peer.half_close())
                await peer.wait_closed()
        await peer.leave()

    def fault(self, name: str) -> None:
        """Record that something is done to the connection."""
        self._record("fault", fault=name)

    def calm(self) -> None:
        """Record that all that was published must have arrived by now."""
        self._record("calm")

    def give_up(self, id: int, code: str) -> None:
        """Record that an exchange has no end, and forget it."""
        del self.running[id]
        self._returned(id, "maybe", code)

    def flush(self) -> None:
        """Let the writer look again: something no longer holds it back."""
        self._work.set()

    # Connections

    async def connect(self, *, fresh: bool = False, lost: int = 0, over: bool = False) -> None:
        """Connect, resume the session or open one, and go on where it was.

        Args:
            fresh: leave the old session alone.
            lost: so many connections are cut before their welcome is read.
            over: take the session over while the old connection lives.

        Raises:
            Gone: the target does not let us in.
        """
        for _ in range(lost):
            await self._dial(fresh, read=False)
        for tried in range(TRIES):
            try:
                if await self._dial(fresh, read=True, over=over):
                    return
            except DialError as error:
                self._why = str(error)  # the target may be full, or busy: it is asked again
            await trio.sleep(BACKOFF * 2**tried)
            over = over and self.up  # then nothing may be written on it while a hello is under way
        raise Gone(f"{self.name} does not get in: {self._why}")

    async def _dial(self, fresh: bool, *, read: bool, over: bool = False) -> bool:
        scene, identity = self._scene, self._identity
        headers = identity.headers if identity is not None else ()
        writing = self._writing if over else trio.Lock()  # only a living one can be written on
        stream = await scene.endpoint.stream(None)
        try:
            response, trailing = await scene.endpoint.handshake(stream, headers=headers)
            if response.status != 101:
                self._why = f"the answer to the handshake was {response.status}"
                await trio.aclose_forcefully(stream)
                return False
            await writing.acquire()
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            raise
        try:
            return await self._greet(
                Peer(
                    self.name,
                    stream,
                    response,
                    trailing=trailing,
                    clock=scene.clock,
                    journal=scene.journal,
                    watch=scene.ambient.watch("explore", scene.journal, scene.target.mask),
                    nursery=scene.nursery,
                ),
                fresh or "resume" not in self.offered or self._session is None,
                read=read,
            )
        finally:
            writing.release()

    async def _greet(self, peer: Peer, fresh: bool, *, read: bool) -> bool:
        """Say hello on a new connection and take its welcome, unless it gets lost."""
        scene, conn, old = self._scene, self._scene.next_connection(), self._peer
        scene.peers.append(peer)
        hello: dict[str, object] = {"type": "hello", "profiles": list(scene.profiles)}
        if self._identity is not None and self._identity.token is not None:
            hello["auth"] = {"scheme": self._identity.scheme, "token": self._identity.token}
        if self._window:
            hello["limits"] = {"window": self._window}
        numbers: dict[str, object] = {}
        if not fresh:
            self._attempt += 1
            numbers = {"seq": self._got, "attempt": self._attempt}
            hello["resume"] = {"session": self._session, **numbers}
        scene.recorder.add("hello", client=self.name, conn=conn, **({"resume": numbers} if numbers else {}))
        shown = self._got
        if old is None or old.closure is not None:
            self._peer = None
        await peer.send(hello)
        if not read:
            await trio.sleep(0.002)  # the welcome is lost on its way, or before it is made
            self._record("fault", conn, fault="lost-welcome")
            await peer.abort()
            self._record("end", conn, how="lost")
            return False
        with trio.move_on_after(scene.patience):
            while not peer.frames and peer.closure is None:
                await peer.arrival()
        welcome = peer.frames[0].body if peer.frames else {}
        if welcome.get("type") != "welcome" or schemas.fault(welcome) is not None:
            self._why = f"no good welcome, {peer.closure or 'and the connection is open'}"
            self._ended(peer, conn)
            await peer.leave()
            return False
        self._peer, self._conn = peer, conn
        self._welcomed(welcome, shown)
        scene.nursery.start_soon(self._listen, peer, conn)
        if old is not None and old.closure is None:
            scene.nursery.start_soon(_leave_later, old)
        self._work.set()
        return True

    def _welcomed(self, body: Mapping[str, object], shown: int) -> None:
        """Take a welcome, in one step: go on, or begin anew; `shown` is the seq of the hello."""
        said = cast("Said", body)
        self._record("frame", said=said)
        self._outbox.clear()
        self._pongs.clear()
        self.since, self._silent = trio.current_time(), False
        self.offered = frozenset(said.get("profiles", ()))
        limits = cast("dict[str, object]", said.get("limits", {}))
        rate = limits.get("rate")
        if isinstance(rate, dict):
            self._rate = float(rate["per_ms"]) / float(rate["count"]) / 1000
        dedupe = limits.get("dedupe_ms")
        self._dedupe_ms = dedupe if isinstance(dedupe, int) else 0
        if said.get("resumed"):
            self._acked = shown
            last_id = said.get("last_id", 0)
            for id, exchange in list(self.running.items()):
                if id > last_id and exchange.frame["type"] == "auth":
                    self.give_up(id, "hole")  # and its cancel, if there was one, would name an id never sent
                    continue
                if id > last_id:
                    self._outbox.append(exchange.frame)
                if exchange.cancelling:
                    self._outbox.append({"type": "cancel", "of": id})
            return
        lost, self.running = self.running, {}
        final = (said.get("resume_error") or {}).get("last_id")
        for id in lost:
            unsent = isinstance(final, int) and id > final
            self._returned(id, "failed" if unsent else "maybe", "not_accepted" if unsent else "session_lost")
        self.life += 1
        self._id = self._got = self._acked = self._attempt = 0
        session = body.get("session")
        self._session = session if isinstance(session, str) else None
        self._begin_again(lost)

    def _begin_again(self, lost: dict[int, Running]) -> None:
        """Subscribe again, from the last place where there is one, and try publishes with a key again."""
        for exchange in lost.values():
            frame = exchange.frame
            if frame["type"] == "subscribe" and exchange.opened and not exchange.cancelling:
                again: Called = {"type": "subscribe"}
                if "pattern" in frame:
                    again["pattern"] = frame["pattern"]
                else:
                    again["channel"] = frame["channel"]
                    if exchange.cursor is not None:
                        again["since"] = exchange.cursor
                self.call(again)
            elif "dedupe" in frame and trio.current_time() - exchange.began < self._dedupe_ms / 2000:
                self.call(frame)

    def _ended(self, peer: Peer, conn: int) -> None:
        closure = peer.closure
        code = {"code": str(closure.code)} if closure is not None and closure.code is not None else {}
        self._record("end", conn, how=str(closure or "given up"), **code)

    def _record(self, what: What, conn: int = 0, **members: object) -> None:
        self._scene.recorder.add(what, client=self.name, conn=conn or self._conn, **members)

    # Reading

    async def _listen(self, peer: Peer, conn: int) -> None:
        """Take what arrives on one connection until it ends."""
        taken = 1
        while True:
            while taken < len(peer.frames):
                self._received(peer, conn, peer.frames[taken])
                taken += 1
            if peer.closure is not None:
                break
            await peer.arrival()
        self._ended(peer, conn)
        self._changed.unpark_all()

    def _received(self, peer: Peer, conn: int, frame: Frame) -> None:
        if schemas.fault(frame.body) is not None:
            return  # the rules that watch each frame have seen it
        said = cast("Said", frame.body)
        self._record("frame", conn, said=said)
        type, id, seq = said["type"], said.get("id"), said.get("seq")
        if seq is not None:
            if seq <= self._got or peer is not self._peer or self._silent:
                return
            if seq > self._got + 1:
                self._scene.nursery.start_soon(self._start_over, peer)
                return
            self._got = seq
            self._work.set()
        if type == "pong":
            self._pongs[said.get("t", "")] = "held" not in said
        elif id is not None and id in self.running:
            self._heard(id, self.running[id], type, said)
        self._changed.unpark_all()

    async def _start_over(self, peer: Peer) -> None:
        """A frame is missing: close with 4501, and open another session."""
        self._silent, self._session = True, None
        self.fault("bad-server-frame")
        with trio.move_on_after(GOODBYE):
            await peer.close(4501, "bad_server_frame")
        await peer.leave()

    def _heard(self, id: int, exchange: Running, type: str, said: Said) -> None:
        cursor = said.get("cursor")
        if cursor is not None and "channel" in exchange.frame:
            self.places[exchange.frame["channel"]] = exchange.cursor = cursor
        if type == "open":
            exchange.opened = True
        elif type == "result":
            del self.running[id]
            self._returned(id, "ok")
        elif type == "error":
            del self.running[id]
            code = said["error"]["code"]
            self._returned(id, "failed" if code in _definite() else "maybe", code)

    def _returned(self, id: int, outcome: str, code: str = "") -> None:
        row = {"client": self.name, "life": self.life, "id": id, "outcome": outcome}
        self._scene.recorder.add("return", **row, **({"code": code} if code else {}))

    # Writing

    def _put(self, frame: Called) -> None:
        self._outbox.append(frame)
        self._work.set()

    async def write(self) -> None:
        """Write whatever waits, until cancelled: the one writer of this client."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            async with self._writing:
                while self.up and not self._silent and not self.joining and (frames := self._due()):
                    await self._write(self.peer, frames)

    def _due(self) -> list[Called]:
        frames = list(self._outbox) if not self._rate else list(self._outbox)[:1]
        if "ack" in self.offered and self._got > self._acked and not self.holding:
            self._acked = self._got
            frames.insert(0, {"type": "ack", "seq": self._got})
        return frames

    async def _write(self, peer: Peer, frames: list[Called]) -> None:
        for frame in frames:
            if frame["type"] != "ack":
                self._outbox.popleft()
            if "id" not in frame:
                self._record("sent", frame=frame)
            elif (exchange := self.running.get(frame["id"])) is not None:
                exchange.written = True
        if self.split:
            for text in map(dumps, frames):
                await peer.send_split(text, max(self.split, len(text) // MOST_PIECES, 1))
        else:
            await peer.pipeline(*(cast("dict[str, object]", frame) for frame in frames))
        if self._rate:
            await trio.sleep(self._rate * len(frames))


async def _leave_later(peer: Peer) -> None:
    """Read an old connection until the server has closed it, for a while."""
    with trio.move_on_after(1):
        await peer.wait_closed()
    with suppress(trio.BrokenResourceError):
        await peer.leave()


@cache
def _definite() -> frozenset[str]:
    """Return the error codes that say that nothing has happened."""
    rows = cast("dict[str, list[dict[str, object]]]", schemas.load("v1/protocol.json"))["error_codes"]
    return frozenset(str(row["code"]) for row in rows if row["definite"])
