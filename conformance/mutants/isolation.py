"""Mutants of spec/11-security.md, its section about isolation: what one connection does hurts another."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol import effects
from holdfast_reference.server import serve, session
from holdfast_reference.server.serve import Server
from holdfast_reference.server.session import Session

from mutants.harness import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping


@mutant(
    "sec/answers-follow-the-client",
    violates="SEC-10",
    killed_by="sec/late-answers-stay-away",
    says="got result on exchange 1",
)
def _(patch: Patch) -> None:
    """Answers are kept by principal and id, so they find the newest connection of the client."""

    newest: dict[tuple[str, int], Session] = {}

    def call(self: Session, effect: effects.Call) -> None:
        newest[self.principal, effect.id] = self
        Session._call(self, effect)

    def reply(original: Callable[..., None], self: Session, id: int, payload: object) -> None:
        original(newest.pop((self.principal, id), self), id, payload)

    patch.set(Session, "end", lambda self: None)
    patch.wrap(Session, "answer", reply)
    table = cast("MutableMapping[type, Callable[..., None]]", session.APPLY)
    patch.item(table, effects.Call, call)
    patch.item(table, effects.Stop, lambda self, effect: self._work.pop(effect.id, None))


@mutant(
    "sec/lost-subscribers-break-publishers",
    violates="SEC-09",
    killed_by="sec/cut-connections-disturb-nobody",
    says='expected "result"',
)
def _(patch: Patch) -> None:
    """A publish to a subscriber whose connection was cut fails with it."""

    def deliver(original: Callable[..., None], self: session._Subscription, event: object) -> None:
        if self._session.link is None:
            raise RuntimeError("this subscriber is gone")
        original(self, event)

    patch.wrap(session._Subscription, "deliver", deliver)
    patch.set(session._Subscription, "cancel", lambda self: None)


@mutant(
    "sec/broken-upgrades-break-all",
    violates="SEC-09",
    killed_by="sec/garbage-upgrade-disturbs-nobody",
    says="closed with 4300",
)
def _(patch: Patch) -> None:
    """A broken upgrade request costs every connection."""
    servers: list[Server] = []

    def policy(original: Callable[..., object], self: Server, secure: bool) -> object:
        servers[:] = [self]
        return original(self, secure)

    async def upgrade(original: Callable[..., object], *args: object) -> object:
        accepted = None
        try:
            accepted = await original(*args)  # type: ignore[misc]  # a coroutine function
        finally:
            for other in list(servers[0].links.values()) if accepted is None else ():
                other.close(4300)
        return accepted

    patch.wrap(Server, "_policy", policy)
    patch.wrap(serve, "upgrade", upgrade)
