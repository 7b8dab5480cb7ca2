"""The server: embeds into any trio program, or is run by the command line.

server = Server(Config(port=0))

@server.method("sum")
def sum_(call: Call) -> object:
    return sum(call.data)

addresses = await nursery.start(server.serve)
server.publish("news", {"text": "up"})
await server.drain()
"""

from __future__ import annotations

import logging
import secrets
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import trio

from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.backends.tokens import TokenAuthenticator
from holdfast_reference.protocol.codec import encode_data
from holdfast_reference.protocol.events import Event
from holdfast_reference.protocol.greeting import Settings
from holdfast_reference.protocol.resume import Sessions
from holdfast_reference.server import log
from holdfast_reference.server.handshake import Policy, upgrade
from holdfast_reference.server.link import Link
from holdfast_reference.server.listener import accept_forever, bind
from holdfast_reference.server.methods import Method
from holdfast_reference.server.outbox import Flusher
from holdfast_reference.server.poller import Poller
from holdfast_reference.server.session import Session
from holdfast_reference.server.sweeper import Sweeper
from holdfast_reference.server.transport import SocketTransport, TlsTransport

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable

    from holdfast_reference.backends.base import Authenticator, Broker, Published
    from holdfast_reference.config import Config
    from holdfast_reference.protocol.effects import Ended, Supersede
    from holdfast_reference.protocol.errors import ExchangeError
    from holdfast_reference.server.methods import Call
    from holdfast_reference.server.transport import Transport

__all__ = ["Server"]

_Handler = TypeVar("_Handler", bound="Callable[[Call], object]")


class Server:
    """A Holdfast server.

    Args:
        config: addresses, limits, timers, tokens and rules.
        authenticator: instead of the tokens of the configuration.
        broker: instead of one for this process alone.
    """

    def __init__(
        self,
        config: Config,
        *,
        authenticator: Authenticator | None = None,
        broker: Broker | None = None,
    ) -> None:
        self.config = config
        self.settings = Settings(
            config.limits,
            config.timers,
            config.profiles,
            ("holdfast-server", config.version),
            config.suspended,
            config.tombstones,
        )
        self.authenticator: Authenticator = authenticator or TokenAuthenticator(
            config.tokens, config.rules, anonymous=config.anonymous, cookie=config.cookie
        )
        self.broker: Broker = broker or MemoryBroker(config.retention)
        self.methods: dict[str, Method] = {}
        self.flusher = Flusher()
        self.sweeper = Sweeper()
        self.poller = Poller()
        self.core = Sessions(self.settings)
        self.links: dict[str, Link] = {}  # connections after their upgrade, by `conn`
        self.sessions: dict[str, Session] = {}  # by origin
        self._workers: trio.Nursery | None = None  # of handlers, while the server runs
        self._connections = 0  # those that still send their HTTP head included
        self._drain_by: float | None = None  # when a drain of the whole server ends
        self._empty = trio.Event()
        self._names = map(partial("{}-{:x}".format, secrets.token_hex(4)), count(1))
        self._stop = trio.CancelScope()

    def method(self, name: str) -> Callable[[_Handler], _Handler]:
        """Register a handler for `request` frames with this `method`; see `methods.py` for what it may be."""

        def register(function: _Handler) -> _Handler:
            self.methods[name] = Method(function)
            return function

        return register

    def publish(
        self,
        channel: str,
        data: object,
        done: Callable[[Published | ExchangeError], None] | None = None,
    ) -> None:
        """Publish an event as the server itself.

        Args:
            done: told the outcome, at once or later: where logs are in a file it may be `unavailable`,
                and nobody but `done` is told.
        """
        self.broker.publish(Event(channel, encode_data(data)), None, done)

    async def serve(
        self, *, task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve, once, until drained or cancelled; starts with the addresses that are bound.

        Raises:
            OSError: an address cannot be bound.
        """
        context = self.config.tls_context()
        listeners = await bind(self.config.host, self.config.port)
        try:
            # Before anything that a drain may cancel: whoever drains while we start waits for no error.
            task_status.started([listener.getsockname()[:2] for listener in listeners])
            with self._stop:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.run_background)
                    start = partial(self._accepted, nursery, context)
                    for listener in listeners:
                        nursery.start_soon(accept_forever, listener, start)
        finally:
            for listener in listeners:
                listener.close()

    async def run_background(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what all connections share: the flusher, the sweeper, the poller, the broker, and handlers."""
        async with trio.open_nursery() as nursery:
            for run in (self.flusher.run, self.sweeper.run, self.poller.run, self.broker.run):
                nursery.start_soon(run)
            self._workers = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._workers = None  # nobody starts a task in a nursery that is closing

    def start(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a handler, unless the server is ending."""
        if self._workers is not None:
            self._workers.start_soon(function, *args)

    def carry(self, link: Link) -> Session:
        """The session that a connection carries from now on."""
        core = link.core.session
        session = self.sessions.get(core.origin)
        if session is None:
            session = self.sessions[core.origin] = Session(self, core)
        session.link = link
        return session

    def supersede(self, effect: Supersede) -> None:
        """Close the older connection of a session."""
        self.links[effect.conn].supersede(effect.close)

    def end(self, effect: Ended) -> None:
        """Stop everything that a session does."""
        session = self.sessions.pop(effect.origin)
        session.end()

    def _accepted(
        self, nursery: trio.Nursery, context: ssl.SSLContext | None, connected: socket.socket
    ) -> None:
        try:
            transport = SocketTransport(connected, self.poller)
        except OSError:
            connected.close()  # it was gone before we looked
            return
        nursery.start_soon(self._serve_socket, transport, context)

    async def _serve_socket(self, transport: SocketTransport, context: ssl.SSLContext | None) -> None:
        if context is None:
            await self.serve_transport(transport)
            return
        try:
            secure = TlsTransport(transport, context)
            with trio.fail_after(self.settings.timers.head_ms / 1000):
                await secure.handshake()
        except (OSError, trio.TooSlowError) as error:
            log.event(logging.DEBUG, "no TLS", peer=transport.peer, reason=str(error))
        else:
            await self.serve_transport(secure, secure=True)
        finally:
            transport.close()

    async def serve_transport(self, transport: Transport, *, secure: bool = False) -> None:
        """Serve one connection, from its HTTP head to its end; needs `run_background`."""
        self._connections += 1
        link: Link | None = None
        try:
            with trio.move_on_after(self.settings.timers.head_ms / 1000):
                accepted = await upgrade(transport, self._policy(secure))
                if accepted is not None:
                    link = Link(self, transport, accepted[0], next(self._names))
            if link is not None and accepted is not None:
                self.links[link.conn] = link
                if self._drain_by is not None:
                    link.drain(max(0, round((self._drain_by - trio.current_time()) * 1000)))
                await link.run(accepted[1])
        except* OSError as group:
            log.event(logging.DEBUG, "connection broke", peer=transport.peer, reason=str(group.exceptions[0]))
        except* Exception as group:
            log.event(logging.ERROR, "connection failed", group, peer=transport.peer)
            if link is not None:
                link.crash()
        finally:
            transport.close(abort=link is not None and link.aborted)
            if link is not None:
                del self.links[link.conn]
            self._connections -= 1
            if not self._connections:
                self._empty.set()

    def _policy(self, secure: bool) -> Policy:
        config = self.config
        unavailable = None
        if self._drain_by is not None:
            unavailable = "this server is going away"
        elif self._connections > config.max_connections:
            unavailable = "too many connections"
        origins = config.origins if config.origins or self.authenticator.ambient else None
        return Policy(config.path, origins, secure, unavailable)

    async def drain(self, deadline_ms: int | None = None) -> None:
        """Send every client away, wait until all are gone or closed at the deadline, then end `serve`.

        Args:
            deadline_ms: when connections are closed with 4200; by default `timers.drain_ms`.
        """
        timers = self.settings.timers
        if deadline_ms is None:
            deadline_ms = timers.drain_ms
        log.event(logging.INFO, "draining", connections=len(self.links), deadline_ms=deadline_ms)
        self._drain_by = trio.current_time() + deadline_ms / 1000
        for link in list(self.links.values()):
            link.drain(deadline_ms)
        with trio.move_on_after((deadline_ms + timers.close_ms) / 1000):
            while self._connections:
                self._empty = trio.Event()
                await self._empty.wait()
        self._stop.cancel()
