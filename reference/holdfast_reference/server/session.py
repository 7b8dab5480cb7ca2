"""What a session does: handlers, subscriptions and publishes, whether a connection is there or not.

Handlers of async methods run in a nursery of the server's, so that they outlive the connection that asked.
What they answer waits in the core until some connection (`link.py`) writes it.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Protocol

import trio

from holdfast_reference.protocol import effects
from holdfast_reference.protocol.codec import encode_data
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.server import log
from holdfast_reference.server.methods import Call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from holdfast_reference.backends.base import Broker
    from holdfast_reference.protocol import session as core
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.logs import Published
    from holdfast_reference.protocol.messages import Payload
    from holdfast_reference.protocol.resume import Sessions
    from holdfast_reference.server.link import Link
    from holdfast_reference.server.methods import Method
    from holdfast_reference.server.outbox import Flusher
    from holdfast_reference.server.sweeper import Sweeper

__all__ = ["APPLY", "Owner", "Session"]


class Owner(Protocol):
    """The server, as its sessions see it."""

    core: Sessions
    broker: Broker
    methods: dict[str, Method]
    flusher: Flusher
    sweeper: Sweeper

    def start(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a handler, unless the server is ending."""

    def end(self, effect: effects.Ended) -> None:
        """Stop everything that a session does."""


class _Subscription:
    """The broker's handle on one subscription of one session."""

    __slots__ = ("_id", "_name", "_pattern", "_session")

    def __init__(self, session: Session, effect: effects.Subscribe) -> None:
        self._session = session
        self._id = effect.id
        self._name = effect.name
        self._pattern = effect.pattern
        session.owner.broker.subscribe(effect.name, effect.pattern, self)

    def deliver(self, event: Event) -> None:
        session = self._session
        link = session.link
        if link is None:
            session.core.deliver(self._id, event, lossy=True)
            return
        lossy = link.writing
        while not session.core.deliver(self._id, event, lossy=lossy):
            # [DEL-18]: what the socket takes makes room first.
            batches = link.batches
            link.flush(trio.current_time())
            lossy = link.writing or link.batches == batches
        if not link.dirty:
            link.dirty = True
            session.owner.flusher.add(link)

    def cancel(self) -> None:
        self._session.owner.broker.unsubscribe(self._name, self._pattern, self)


class Session:
    """A session after its welcome.

    Args:
        owner: the server.
        core: the state machine.

    Attributes:
        link: its connection, None while it is suspended.
        streams: those that wait for their chunk to be written.
    """

    __slots__ = ("__weakref__", "_work", "core", "link", "look_at", "owner", "streams")

    def __init__(self, owner: Owner, core: core.Session) -> None:
        self.owner = owner
        self.core = core
        self.link: Link | None = None
        self.look_at = float("inf")
        self._work: dict[int, trio.CancelScope | _Subscription] = {}
        self.streams: dict[int, trio.Event] = {}

    # Carrying out.

    def do(self, wanted: effects.Effects) -> None:
        """Carry out what the core asks, and see to it that what it queued is written."""
        for effect in wanted:
            APPLY[type(effect)](self, effect)
        self.touch()

    def touch(self) -> None:
        if self.link is not None:
            self.link.touch()

    def _call(self, effect: effects.Call) -> None:
        method = self.owner.methods.get(effect.method)
        if method is None:
            wanted = self.core.reject(effect.id, ExchangeError(ErrorCode.NOT_FOUND, "no such method"))
            if self.link is not None:
                self.link.do(wanted)
            return
        call = Call(self, effect)
        if method.inline:
            try:
                value = method.function(call)
                self.core.succeed(effect.id, None if value is None else encode_data(value))
            except Exception as error:
                self._broken_handler(effect, error)
        else:
            scope = self._work[effect.id] = trio.CancelScope()
            self.owner.start(self._run, method, call, effect, scope)
            self.owner.sweeper.watch(self)

    async def _run(self, method: Method, call: Call, effect: effects.Call, scope: trio.CancelScope) -> None:
        id = effect.id
        with scope:
            try:
                result = method.function(call)
                value: object = None
                if method.streams:
                    async with aclosing(_as_generator(result)) as values:
                        async for value in values:
                            if not await call.chunk(value):
                                break
                        value = None
                else:
                    value = await _as_awaitable(result)
                self.core.succeed(id, None if value is None else encode_data(value))
            except Exception as error:
                self._broken_handler(effect, error)
        self._work.pop(id, None)
        self.touch()

    def _broken_handler(self, effect: effects.Call, error: Exception) -> None:
        """A handler's own errors are answers; anything else is `internal`. Spec: [RPC-16] [ERR-04]."""
        if isinstance(error, ExchangeError):
            try:
                self.refuse(effect.id, error)
            except (TypeError, ValueError) as unfit:  # its message may have no JSON form either
                error = unfit
            else:
                return
        ref = secrets.token_hex(6)
        log.event(logging.ERROR, "handler failed", error, conn=self.conn, method=effect.method, ref=ref)
        self.refuse(effect.id, ExchangeError(ErrorCode.INTERNAL, "the method failed", ref=ref))

    def _publish(self, effect: effects.Publish) -> None:
        self.owner.broker.publish(
            effect.event, effect.dedupe, lambda outcome: self._published(effect.id, outcome)
        )

    def _published(self, id: int, outcome: Published | ExchangeError) -> None:
        self.core.published(id, outcome)
        self.touch()

    def _subscribe(self, effect: effects.Subscribe) -> None:
        self._work[effect.id] = _Subscription(self, effect)
        logged = not effect.pattern and "history" in self.core.profiles
        place = self.owner.broker.log(effect.name) if logged else None
        for stop in self.core.opened(effect.id, place, effect.start):
            APPLY[type(stop)](self, stop)

    def _history(self, effect: effects.History) -> None:
        self.core.listed(effect, self.owner.broker.log(effect.channel))

    def _stop(self, effect: effects.Stop) -> None:
        work = self._work.pop(effect.id, None)
        if work is not None:
            work.cancel()
        waiting = self.streams.pop(effect.id, None)
        if waiting is not None:
            waiting.set()

    def _ended(self, effect: effects.Ended) -> None:
        self.owner.end(effect)

    def end(self) -> None:
        """It is over: stop everything. Spec: [SES-45]."""
        for id in [*self._work]:
            self._stop(effects.Stop(id))

    # Connections come and go.

    def lose(self, link: Link) -> None:
        """A connection has let go of it."""
        if self.link is link:
            self.link = None
            self.owner.sweeper.watch(self)

    def wake_streams(self) -> None:
        """Something was written: streams whose chunk it was may go on."""
        for id in self.streams.keys() - self.core.waiting_chunks():
            self.streams.pop(id).set()

    # Time; called by the sweeper.

    def deadline(self) -> float:
        return self.core.deadline()

    def tick(self, now: float) -> None:
        self.do(self.owner.core.tick(self.core, now))

    # What handlers may do.

    @property
    def conn(self) -> str:
        return self.core.origin if self.link is None else self.link.conn

    @property
    def principal(self) -> str:
        assert self.core.grant is not None
        return self.core.grant.principal

    def answer(self, id: int, payload: Payload | None) -> None:
        self.core.succeed(id, payload)
        self.touch()

    def refuse(self, id: int, error: ExchangeError) -> None:
        # The effect would stop the handler, which is the one that asks.
        self.core.fail(id, error)
        self.touch()

    async def send_chunk(self, id: int, payload: Payload) -> bool:
        await trio.lowlevel.checkpoint()
        while self.core.chunk_waits(id):
            await self.streams.setdefault(id, trio.Event()).wait()
        self.core.chunk(id, payload)
        self.touch()
        return self.core.is_running(id)

    def close(self, code: int) -> None:
        if self.link is not None:
            self.link.close(code)

    def abort(self) -> None:
        if self.link is not None:
            self.link.abort()

    def expire(self) -> None:
        if self.link is not None:
            self.link.expire()

    def drain(self, deadline_ms: int) -> None:
        if self.link is not None:
            self.link.drain(deadline_ms)

    def forget(self) -> None:
        self.do(self.owner.core.forget(self.core))


def _as_generator(result: object) -> AsyncGenerator[object, None]:
    return result  # type: ignore[return-value]  # told apart by Method


def _as_awaitable(result: object) -> Awaitable[object]:
    return result  # type: ignore[return-value]  # told apart by Method


#: What becomes of the effects that are about a session.
APPLY: Final[Mapping[type, Callable[..., None]]] = {
    effects.Call: Session._call,
    effects.Publish: Session._publish,
    effects.Subscribe: Session._subscribe,
    effects.History: Session._history,
    effects.Stop: Session._stop,
    effects.Ended: Session._ended,
}
