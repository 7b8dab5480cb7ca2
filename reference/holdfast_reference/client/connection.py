"""The session on a live connection; the only file that knows trio-websocket.

One task reads and one writes. The reader waits for nobody, so that heartbeats are answered whatever the
application does. Only the writer sends, since a send that is cancelled half way would ruin the stream:
callers put frames into the outbox, and so can a caller that is being cancelled.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio
import trio_websocket

from holdfast_reference.client import calls
from holdfast_reference.client.core import SUBPROTOCOL, ClientCore
from holdfast_reference.client.effects import Arrived, Effect, Lost
from holdfast_reference.client.errors import (
    BadServerFrame,
    ConnectionClosed,
    ConnectionFailed,
    Lagged,
    RequestError,
    SessionLost,
)
from holdfast_reference.client.frames import ABSENT, GoAway, Opened, Pong, Result, Welcome
from holdfast_reference.client.inbox import Inbox, Stream, Subscription
from holdfast_reference.client.pace import Pace

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterable

    from holdfast_reference.client.calls import Call

PROFILES = ("rpc", "pubsub", "pattern", "fence")
OPEN_SECONDS = 10.0
WELCOME_SECONDS = 25.0
CLOSE_SECONDS = 2.0
MAX_FRAME = 1 << 20
"""Bytes of the largest frame that the server is asked to send."""
READ_BYTES = 65536
OUTBOX_FRAMES = 64
"""Frames that may wait to be sent before a caller with another has to wait."""
WAITING_PARTS = 1024
"""Events or chunks that may wait for whoever iterates over them."""
_CLOSE_NAMES = {1000: "normal", 1001: "going_away", 1013: "try_again_later", 4501: "bad_server_frame"}


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    profiles: Iterable[str] = PROFILES,
    max_frame: int = MAX_FRAME,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Session]:
    """Open a session; it ends with the block.

    Args:
        url: `ws://` or `wss://`; credentials do not belong into it.
        token: bearer token; None for a server that takes anonymous clients.
        profiles: what to ask for; `session.welcome.profiles` says what was granted.
        max_frame: bytes of the largest frame that the server may send, at least 4096.

    Raises:
        ConnectionFailed: nothing there, no WebSocket, upgrade refused, or no welcome within 25 seconds.
        ConnectionClosed: the server closed instead of a welcome, such as with 4101.

    Spec: 01-transport [TRN-01], 03-session [SES-01] [SES-37], 11-security [SEC-06].
    """
    host, resource, stream = await _reach(url, ssl_context)
    session = None
    try:
        async with stream, _background() as background:
            with trio.fail_after(OPEN_SECONDS):
                websocket = await trio_websocket.wrap_client_stream(
                    background,
                    stream,
                    host,
                    resource,
                    subprotocols=[SUBPROTOCOL],
                    max_message_size=max_frame,
                    receive_buffer_size=READ_BYTES,
                )
            if websocket.subprotocol != SUBPROTOCOL:
                raise ConnectionFailed(f"the server does not speak {SUBPROTOCOL}")
            session = Session(websocket)
            try:
                await session._start(profiles, token, max_frame)
                background.start_soon(session._read)
                background.start_soon(session._write)
                yield session
            finally:
                await session._leave()
    except (trio_websocket.HandshakeError, trio.TooSlowError) as error:
        if session is not None:
            raise  # it comes out of the block, and is none of ours
        status = error.status_code if isinstance(error, trio_websocket.ConnectionRejected) else None
        raise ConnectionFailed(f"no WebSocket at {url}: {status or 'no answer'}", status) from error


@dataclass(slots=True)
class Answer:
    """What a ping waits for; `held` is None when there will be no answer."""

    event: trio.Event = field(default_factory=trio.Event)
    held: bool | None = None


class Session:
    """What `connect` gives: exchanges with the server, as many at a time as you like.

    Every call may raise `ConnectionClosed` (`SessionLost` once the frame is on its way), `RequestError`
    with what the server answers, and `TypeError` or `ValueError` for data that JSON cannot carry. A call
    that is cancelled cancels its exchange. `bytes` are carried as bytes.

    Attributes:
        welcome: what the server said about the session.
        goaway: set once the server has asked to take new work elsewhere; `draining` is the event of it.
    """

    welcome: Welcome

    def __init__(self, websocket: trio_websocket.WebSocketConnection) -> None:
        self.goaway: GoAway | None = None
        self.draining = trio.Event()
        self._websocket = websocket
        self._core = ClientCore()
        self._inboxes: dict[int, Inbox] = {}
        self._pings: dict[str, Answer] = {}
        self._sending = False
        self._outbox_changed = trio.lowlevel.ParkingLot()
        self._ended: tuple[int | None, str] | None = None
        self._pace: Pace | None = None
        self._closing = trio.Lock()

    async def request(self, method: str, data: object = ABSENT, *, timeout_ms: int | None = None) -> object:
        """Call a method; return the data of its result, None when there is none.

        Args:
            timeout_ms: when the server is to give up, with `deadline_exceeded`.
        """
        return await self._call(calls.request(method, data, timeout_ms=timeout_ms))

    async def publish(
        self, channel: str, data: object, *, echo: bool = True, dedupe: str | None = None
    ) -> str | None:
        """Publish one event; it has entered the channel when this returns.

        Args:
            echo: whether this session's own subscriptions are to see it.
            dedupe: a name of your own for it (profile `history`): another publish with that name succeeds and
                does nothing. So it may be tried again in another session.

        Returns:
            the cursor just after it; None without profile `history`, or when the channel keeps no log.
        """
        answer = await self._call(calls.publish(channel, data, echo=echo, dedupe=dedupe))
        cursor = answer.get("cursor") if isinstance(answer, dict) else None
        return cursor if isinstance(cursor, str) else None

    async def authenticate(self, token: str) -> int | None:
        """Present new credentials of the same principal; return how many ms they last, None for ever."""
        answer = await self._call(calls.auth(token))
        expires = answer.get("expires_in_ms") if isinstance(answer, dict) else None
        return expires if isinstance(expires, int) else None

    @asynccontextmanager
    async def subscribe(
        self,
        channel: str | None = None,
        *,
        pattern: str | None = None,
        since: str | None = None,
        last: int | None = None,
        require: bool = False,
        waiting: int = WAITING_PARTS,
    ) -> AsyncIterator[Subscription]:
        """Subscribe to a channel or a pattern: live when the block begins, cancelled when it ends.

        Args:
            since: continue from this cursor (profile `history`); `subscription.opened` says whether that was
                possible. With `require` it is that or `unrecoverable`.
            last: begin with so many of the newest events of the channel's log (profile `history`).
            waiting: events that may wait to be taken; of more there is a `Gap`.
        """
        inbox = Inbox(waiting)
        call = calls.subscribe(channel, pattern=pattern, since=since, last=last, require=require)
        number = await self._begin(call, inbox)
        try:
            yield Subscription(await inbox.opening(), inbox)
        finally:
            self._abandon(number)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        data: object = ABSENT,
        *,
        timeout_ms: int | None = None,
        waiting: int = WAITING_PARTS,
    ) -> AsyncIterator[Stream]:
        """Call a method that streams its answer; it is cancelled when the block ends before it does.

        Args:
            waiting: chunks that may wait to be taken; with more the stream ends with `Lagged`.
        """
        inbox = Inbox(waiting)
        call = calls.request(method, data, timeout_ms=timeout_ms, stream=True)
        number = await self._begin(call, inbox)
        try:
            yield Stream(inbox)
        finally:
            self._abandon(number)

    async def ping(self) -> bool:
        """Wait for the answer to a ping.

        With profile `fence` and True every event that was published before the call, and concerns this
        session, has arrived when it returns; with False the server still holds some back.
        """
        await self._room()
        t = self._core.ping()
        self._pings[t] = answered = Answer()
        self._outbox_changed.unpark_all()
        try:
            await answered.event.wait()
        finally:
            self._pings.pop(t, None)
        if answered.held is None:
            assert self._ended is not None
            raise SessionLost(*self._ended)
        return not answered.held

    async def _call(self, call: Call) -> object:
        """Run one exchange that has an outcome and nothing else."""
        inbox = Inbox()
        number = await self._begin(call, inbox)
        try:
            data = await inbox.ending()
        finally:
            self._abandon(number)
        return None if data is ABSENT else data

    async def _begin(self, call: Call, inbox: Inbox) -> int:
        """Start an exchange. Nothing waits between its start and the entry: its answer may be next."""
        await self._room()
        number = self._core.start(call, trio.current_time())
        self._inboxes[number] = inbox
        self._outbox_changed.unpark_all()
        return number

    def _abandon(self, number: int) -> None:
        """Nobody waits for this exchange any more; cancel it unless it has ended.

        A cancel does not wait for room in the outbox: an exchange has one at most.
        """
        self._inboxes.pop(number, None)
        self._core.cancel(number)
        self._outbox_changed.unpark_all()

    async def _room(self) -> None:
        """Wait until the outbox takes another frame."""
        await trio.lowlevel.checkpoint()
        while self._ended is None and len(self._core.outbox) >= OUTBOX_FRAMES:
            await self._outbox_changed.park()
        if self._ended is not None:
            raise ConnectionClosed(*self._ended)

    async def _flush(self) -> None:
        """Wait until the writer has sent everything."""
        while self._ended is None and (self._core.outbox or self._sending):
            await self._outbox_changed.park()

    async def _write(self) -> None:
        """Send what waits, as fast as the server allows. Spec: 09-limits-timers [LIM-15]."""
        outbox = self._core.outbox
        while self._ended is None:
            now = trio.current_time()
            due = now if self._pace is None else self._pace.due(now)
            text = self._core.urgent(now)  # free of the rate, and a late one could cost the connection
            if text is None and outbox and due <= now:
                text = outbox.popleft()
                if self._pace is not None:
                    self._pace.take(now)
            if text is None:
                with trio.move_on_at(min(due if outbox else math.inf, self._core.received.due)):
                    await self._outbox_changed.park()
                continue
            self._sending = True
            try:
                await self._websocket.send_message(text)
            except trio_websocket.ConnectionClosed:
                return  # the reader learns of it too, and knows what is left to read
            self._sending = False
            self._outbox_changed.unpark_all()

    async def _start(self, profiles: Iterable[str], token: str | None, max_frame: int) -> None:
        """Say hello and wait for welcome."""
        hello = self._core.hello(profiles, token=token, max_frame=max_frame)
        with trio.move_on_after(WELCOME_SECONDS):
            try:
                await self._websocket.send_message(hello)
                welcome = self._apply(await self._websocket.get_message())[0]
            except trio_websocket.ConnectionClosed as closed:
                raise ConnectionClosed(*_code(closed)) from None
            except BadServerFrame as error:
                await self._close(4501)
                raise ConnectionClosed(4501, str(error)) from error
            assert isinstance(welcome, Welcome)  # the core takes nothing else first
            self.welcome = welcome
            self._pace = Pace.of(welcome.limits)
            return
        await self._close(1013)
        raise ConnectionFailed(f"no welcome within {WELCOME_SECONDS:.0f} s")

    async def _read(self) -> None:
        """Take every message as it comes, until the connection ends."""
        patience = (self.welcome.interval_ms + self.welcome.timeout_ms) / 1000
        try:
            while True:
                with trio.move_on_after(patience) as silence:
                    message = await self._websocket.get_message()
                if silence.cancelled_caught:
                    self._finish(None, f"nothing came for {patience:g} s")
                    await self._close(1001)
                    return
                for effect in self._apply(message):
                    self._deliver(effect)
                self._outbox_changed.unpark_all()  # a pong or an ack may be due
        except trio_websocket.ConnectionClosed as closed:
            self._finish(*_code(closed))
        except BadServerFrame as error:
            self._finish(4501, str(error))
            await self._close(4501)

    def _apply(self, message: str | bytes) -> list[Effect]:
        if isinstance(message, bytes):
            raise BadServerFrame("a binary message")
        return self._core.receive(message, trio.current_time())

    def _deliver(self, effect: Effect) -> None:
        """Give what has arrived to whom it concerns."""
        match effect:
            case Arrived(number, item):
                # Without an inbox it is on its way out: cancelled, and of no interest to anybody.
                inbox = self._inboxes.get(number)
                if inbox is None:
                    return
                match item:
                    case Opened():
                        inbox.open(item)
                    case Result() | RequestError():
                        inbox.end(item)
                    case part:
                        if not inbox.add(part):
                            inbox.end(Lagged("the chunks of a stream were taken too slowly"))
                            self._abandon(number)
            case Pong(t, held):
                # [SES-36]: a pong that nobody waits for is ignored.
                if t is not None and t in self._pings:
                    self._pings[t].held = held
                    self._pings[t].event.set()
            case GoAway():
                self.goaway = effect
                self.draining.set()
            case Welcome() | Lost():
                raise AssertionError("this session has one connection")

    def _finish(self, code: int | None, reason: str) -> None:
        """The session is over: tell everybody who waits, once. Spec: 03-session [SES-46]."""
        if self._ended is not None:
            return
        self._ended = code, reason
        for number in self._core.end():
            if number in self._inboxes:
                self._inboxes[number].end(SessionLost(code, reason))
        for answered in self._pings.values():
            answered.event.set()
        self._outbox_changed.unpark_all()

    async def _leave(self) -> None:
        """End the session from this side: send what was called, tell who still waits, say goodbye."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._flush()
        self._finish(1000, "")
        await self._close(1000)

    async def _close(self, code: int) -> None:
        """Say goodbye, but not for long; when it is being said already, wait for that."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            async with self._closing:
                await self._websocket.aclose(code, _CLOSE_NAMES[code])


@asynccontextmanager
async def _background() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks go on while a cancelled block says goodbye, and are cancelled after that."""

    async def shielded(task_status: trio.TaskStatus[trio.Nursery]) -> None:
        async with _unwrapped_nursery() as nursery:
            nursery.cancel_scope.shield = True
            task_status.started(nursery)
            await trio.sleep_forever()

    async with _unwrapped_nursery() as nursery:
        background: trio.Nursery = await nursery.start(shielded)
        try:
            yield background
        finally:
            background.cancel_scope.cancel()


@asynccontextmanager
async def _unwrapped_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that raises the exception of its block, or of its task, not a group around that one."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from group.exceptions[0].__cause__


async def _reach(
    url: str, ssl_context: ssl.SSLContext | None
) -> tuple[str, str, trio.SocketStream | trio.SSLStream[trio.SocketStream]]:
    """Open the stream below the WebSocket; return it behind the host and the resource to ask for.

    Raises:
        ConnectionFailed: nobody is there, or it is not who the certificate should name.
        ValueError: this is no WebSocket URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or parts.hostname is None:
        raise ValueError(f"{url!r} is not a ws:// or wss:// URL")
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with trio.fail_after(OPEN_SECONDS):
            if not secure:
                return parts.netloc, resource, await trio.open_tcp_stream(parts.hostname, port)
            stream = await trio.open_ssl_over_tcp_stream(
                parts.hostname, port, ssl_context=ssl_context, https_compatible=True
            )
            await stream.do_handshake()
            return parts.netloc, resource, stream
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        raise ConnectionFailed(f"nobody to talk to at {url}") from error


def _code(closed: trio_websocket.ConnectionClosed) -> tuple[int | None, str]:
    """Code and reason of the peer's close frame; a frame without a code is 1000, and no frame None."""
    if closed.reason is None or closed.reason.code == 1006:
        return None, ""
    return (1000 if closed.reason.code == 1005 else closed.reason.code), closed.reason.reason or ""
