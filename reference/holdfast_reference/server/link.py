"""One connection: moves bytes between the transport and the core, and carries out what concerns the socket.

Its nursery holds the reader, looks at credentials and, after a short write, a writer; leaving the block is
the cleanup. What the application does runs elsewhere, for it belongs to the session (`session.py`).
Plain methods, publishes and deliveries happen inside whatever task causes them.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import trio

from holdfast_reference.protocol import effects
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.errors import CloseCode, ErrorCode, ExchangeError
from holdfast_reference.protocol.fates import NO_CODE, NO_FRAME
from holdfast_reference.protocol.states import Phase
from holdfast_reference.server import log
from holdfast_reference.server.session import APPLY
from holdfast_reference.server.websocket import (
    Closed,
    Fault,
    Pinged,
    Reader,
    close_frame,
    pong_frame,
    text_header,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from holdfast_reference.backends.base import Authenticator, Upgrade
    from holdfast_reference.protocol.greeting import Settings
    from holdfast_reference.protocol.resume import Sessions
    from holdfast_reference.server.outbox import Flusher
    from holdfast_reference.server.session import Session
    from holdfast_reference.server.sweeper import Sweeper
    from holdfast_reference.server.transport import Transport

__all__ = ["Link", "Owner"]

_BATCH: Final = 65_536  # bytes per send: enough to fill a socket, little enough to wait outside the queue
_MAX_PONGS: Final = 16  # WebSocket pongs that may wait before reading stops


class Owner(Protocol):
    """The server, as its connections see it."""

    settings: Settings
    core: Sessions
    authenticator: Authenticator
    flusher: Flusher
    sweeper: Sweeper

    def carry(self, link: Link) -> Session:
        """The session that this connection carries from now on."""
        ...

    def supersede(self, effect: effects.Supersede) -> None:
        """Close the older connection of a session."""

    def end(self, effect: effects.Ended) -> None:
        """Stop everything that a session does."""


class Link:
    """A connection after its upgrade.

    Args:
        owner: the server.
        transport: where its bytes come from and go to.
        upgrade: the request that it began with.
        conn: its name in logs.

    Attributes:
        core: the state machine.
        session: what it carries, once it had its welcome and until it has let go of it.
    """

    __slots__ = (
        "__weakref__",
        "_close_by",
        "_closing",
        "_controls",
        "_deaf",
        "_final",
        "_nursery",
        "_peer_closed",
        "_reader",
        "_resume",
        "_transport",
        "_unsent",
        "_upgrade",
        "aborted",
        "batches",
        "core",
        "dirty",
        "look_at",
        "owner",
        "replays",
        "session",
        "writing",
    )

    def __init__(self, owner: Owner, transport: Transport, upgrade: Upgrade, conn: str) -> None:
        self.owner = owner
        self.core = Connection(owner.core, conn, secrets.token_urlsafe(24), trio.current_time())
        self.session: Session | None = None
        self.dirty = False  # on the flusher's list, or about to be flushed anyway
        self.look_at = float("inf")
        self._transport = transport
        self._upgrade: Upgrade | None = upgrade
        self._reader = Reader(self.core.max_message)
        self._nursery: trio.Nursery | None = None
        self._resume: trio.Event | None = None  # the reader waits for this when it may not read
        self._controls: list[bytes] = []  # WebSocket frames to write before the next messages
        self._unsent = b""  # what the socket did not take; the writer's
        self.batches = 0  # how often everything that was peeked was sent
        self.writing = False  # the socket is full, and the writer waits for it
        self._final: bytes | None = None  # the close frame, until it is handed to the socket
        self._peer_closed = False
        self._deaf = False
        self.replays = False
        self.aborted = False  # it is to end without a close frame
        self._closing = False  # our close frame is on its way, or has left
        self._close_by = float("inf")  # when waiting for the end of the closing handshake ends

    async def run(self, data: bytes) -> None:
        """Serve the connection until it ends.

        Args:
            data: what arrived behind the upgrade request.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    self.owner.sweeper.watch(self)
                    await self._read(data)
                finally:
                    # From here on the nursery may close at any time, and who starts a task in a closed one
                    # (the flusher, another connection that publishes) would be the one that fails.
                    self._nursery = None
                    nursery.cancel_scope.cancel()
        finally:
            self.do(self.core.closed(NO_FRAME, trio.current_time()))

    # Reading.

    async def _read(self, data: bytes) -> None:
        more = self._receive(data)
        while True:
            while not more:
                if self._is_over():
                    return
                if not self._may_read():
                    self._resume = trio.Event()
                    await self._resume.wait()
                    self._resume = None
                more = self._take()
            try:
                arrived = await self._transport.recv(self._receive)
            except OSError:
                return
            if arrived == b"":
                return
            more = False if arrived is None else self._receive(arrived)

    def _receive(self, data: bytes) -> bool:
        """Take in bytes; whether more may come at once. The poller's task calls it too."""
        if not self._deaf:
            self._reader.feed(data)
        return self._take()

    def _may_read(self) -> bool:
        """A closing connection reads on: the peer's close frame is somewhere behind what it has sent."""
        if self._closing:
            return not self._peer_closed
        return self.core.may_read() and len(self._controls) < _MAX_PONGS

    def _is_over(self) -> bool:
        return self._peer_closed and self._final is None and not self._unsent

    def _take(self) -> bool:
        """Apply the messages that have arrived, then write what they caused, in one send.

        Returns:
            whether all were applied; if not, what is written has to make room first.
        """
        core, reader = self.core, self._reader
        flush_here = not self.dirty
        self.dirty = True
        now = trio.current_time()
        done = True
        while not self._deaf:
            done = self._may_read()
            if not done or (message := reader.next()) is None:
                break
            if type(message) is bytes:
                for effect in core.receive(message, now):
                    self._apply(effect)
            else:
                self._control(message)
        if flush_here:
            self.flush(now)
        return done

    def _control(self, message: bytes | Pinged | Closed | Fault) -> None:
        if isinstance(message, Pinged):
            if not self._closing:  # nothing follows our close frame
                self._controls.append(pong_frame(message.payload))
        elif isinstance(message, Fault):
            # Where the next frame begins is unknown now. What still comes is read away: closing on unread
            # bytes would be a reset, and a reset would take our close frame with it.
            self._deaf = True
            self.do(self.core.close(message.code, message.detail))
        elif isinstance(message, Closed):
            self._peer_closed = True
            self.do(self.core.closed(message.code or NO_CODE, trio.current_time()))

    # Carrying out.

    def do(self, wanted: effects.Effects) -> None:
        """Carry out what the core asks, and see to it that what it queued is written."""
        for effect in wanted:
            self._apply(effect)
        self.touch()

    def _apply(self, effect: effects.Effect) -> None:
        kind = type(effect)
        if kind in _APPLY:
            _APPLY[kind](self, effect)
        else:
            APPLY[kind](self.session, effect)

    def touch(self) -> None:
        if not self.dirty:
            self.dirty = True
            self.owner.flusher.add(self)

    def _authenticate(self, effect: effects.Authenticate) -> None:
        self._start(self._ask, effect)

    async def _ask(self, effect: effects.Authenticate) -> None:
        upgrade, self._upgrade = self._upgrade, None
        error = ExchangeError(ErrorCode.UNAVAILABLE, "nobody can tell now")
        grant = None
        with trio.move_on_after(self.owner.settings.timers.authenticate_ms / 1000):
            try:
                grant = await self.owner.authenticator.authenticate(effect.credentials, upgrade)
            except ExchangeError as denied:
                error = denied
        if grant is None:
            log.event(logging.INFO, "denied", conn=self.conn, peer=self._transport.peer, code=error.code)
            self.do(self.core.denied(effect.id, error))
        else:
            wanted = self.core.granted(effect.id, grant, trio.current_time())
            if effect.id == 0 and self.core.phase is not Phase.CLOSED:
                self.session = self.owner.carry(self)
            self.do(wanted)
        self._reader.max_size = self.core.max_message
        self.owner.sweeper.watch(self)

    def _supersede(self, effect: effects.Supersede) -> None:
        self.owner.supersede(effect)

    def _ended(self, effect: effects.Ended) -> None:
        self.owner.end(effect)

    def _close(self, effect: effects.Close) -> None:
        log.event(
            logging.DEBUG if effect.code in _QUIET else logging.INFO,
            "closed",
            conn=self.conn,
            peer=self._transport.peer,
            code=effect.code,
            detail=effect.detail,
        )
        if self.session is not None:
            self.session.lose(self)
            self.session = None
        self._final = close_frame(effect.code, effect.reason)
        self._closing = True
        self._close_by = trio.current_time() + self.owner.settings.timers.close_ms / 1000
        self.owner.sweeper.watch(self)
        self._wake_reader()

    def _start(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(function, *args)

    def _end(self) -> None:
        """Stop reading and writing; nothing happens when that has begun already."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    # Writing.

    def flush(self, now: float) -> None:
        """Write what waits, as far as the socket takes it; called by the flusher and after each read."""
        self.dirty = False
        if self.writing or self.aborted or self._nursery is None:
            return
        try:
            if not self._pump(now):
                self.writing = True
                self._nursery.start_soon(self._write)
        except OSError:
            self._end()
        self._written()

    async def _write(self) -> None:
        """The connection's own writer: lives from a short write until all is written."""
        try:
            while True:
                await self._transport.wait_writable()
                done = self._pump(trio.current_time())
                self._written()
                if done:
                    break
        except OSError:
            self._end()
        self.writing = False

    def _pump(self, now: float) -> bool:
        """Send until all is written or the socket is full; whether all is.

        Only what the socket takes leaves the queue, and the rest of a frame that it took a part of;
        everything else may still be overtaken, lost or discarded.
        """
        while True:
            if self._unsent:
                self._unsent = self._unsent[self._transport.try_send(self._unsent) :]
                if self._unsent:
                    return False
            texts = self.core.peek(_BATCH)
            if not texts and not self._controls:
                if self._final is None:
                    return True
                self._unsent, self._final = self._final, None
                continue
            frames = self._controls.copy()
            for text in texts:
                frames.append(text_header(len(text)))
                frames.append(text)
            data = b"".join(frames)
            sent = self._transport.try_send(data)
            if sent < len(data):
                self._keep_rest(texts, data, sent, now)
                return False
            self._controls.clear()
            self.batches += 1
            self.core.written(len(texts), now)
            if self._final is None:
                if not self.core.pending:
                    return True
                if self.core.replaying:
                    self.owner.flusher.add_replay(self)
                    return True

    def _keep_rest(self, texts: list[bytes], data: bytes, sent: int, now: float) -> None:
        """After a short write: what is whole and unsent stays queued, what was cut is finished first."""
        end = 0  # of the last frame that the socket took at least a part of
        while self._controls and end < sent:
            end += len(self._controls.pop(0))
        count = 0
        while end < sent:
            end += len(text_header(len(texts[count]))) + len(texts[count])
            count += 1
        self._unsent = data[sent:end]
        self.core.written(count, now)

    def _written(self) -> None:
        """Room was made: whoever waited for it may go on."""
        if self._deaf and self._final is None and not self._unsent:
            self._transport.send_eof()
        if self._resume is not None and (self._may_read() or self._is_over()):
            self._resume.set()
        if self.session is not None and self.session.streams:
            self.session.wake_streams()

    def _wake_reader(self) -> None:
        if self._resume is not None:
            self._resume.set()

    # Time; called by the sweeper.

    def deadline(self) -> float:
        return min(self._close_by, self.core.deadline())

    def tick(self, now: float) -> None:
        if now >= self._close_by:
            self._end()
            self._close_by = float("inf")
        else:
            self.do(self.core.tick(now))

    # What handlers and the server may do.

    @property
    def conn(self) -> str:
        return self.core.conn

    def close(self, code: int) -> None:
        self.do(self.core.close(code, "asked for", now=trio.current_time()))

    def crash(self) -> None:
        """After `run` has failed: say so, if the stream is still between two frames."""
        if not self._unsent:
            with suppress(OSError):
                self._transport.try_send(close_frame(CloseCode.INTERNAL, "internal"))

    def supersede(self, close: effects.Close) -> None:
        """A newer connection has the session."""
        self.do([close])

    def abort(self) -> None:
        self.aborted = True
        self._end()

    def expire(self) -> None:
        self.do(self.core.expire(trio.current_time()))

    def drain(self, deadline_ms: int) -> None:
        after_ms = secrets.randbelow(deadline_ms // 2 + 1)
        self.do(self.core.drain(after_ms, deadline_ms, trio.current_time()))
        self.owner.sweeper.watch(self)


_QUIET: Final = frozenset({1000, 1001, NO_CODE, NO_FRAME})
#: What becomes of the effects that are about the connection; the others are the session's.
_APPLY: Final[Mapping[type, Callable[..., None]]] = {
    effects.Authenticate: Link._authenticate,
    effects.Close: Link._close,
    effects.Supersede: Link._supersede,
    effects.Ended: Link._ended,
}
