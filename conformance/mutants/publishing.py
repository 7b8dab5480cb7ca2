"""Mutants of spec/05-subscriptions.md, its section about publishing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol import effects
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.events import Event

from mutants.harness import Patch, mutant
from mutants.tools import answer, on_deliver, on_effect, on_frame, varied

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Action
    from holdfast_reference.protocol.session import Session as CoreSession
    from holdfast_reference.server.session import Session

    Apply = Callable[[Session, effects.Publish], None]


@mutant(
    "sub/publish-to-nobody-fails",
    violates="SUB-11",
    killed_by="subscriptions/publish",
    says='got error "not_found"',
)
def _(patch: Patch) -> None:
    """A publish to a channel without subscribers is an error."""

    def publish(original: Apply, session: Session, effect: effects.Publish) -> None:
        broker = session.owner.broker
        assert isinstance(broker, MemoryBroker)
        if effect.event.channel in broker._channels:
            original(session, effect)
        else:
            session.core.fail(effect.id, ExchangeError(ErrorCode.NOT_FOUND, "no such channel"))

    on_effect(patch, effects.Publish, publish)


@mutant(
    "sub/published-and-answered-with-an-error",
    violates="SUB-11",
    killed_by=["subscriptions/publish", "sub/publish-in-order"],
    says='got error "unavailable"',
)
def _(patch: Patch) -> None:
    """Publishes take effect and are answered with an error."""

    def publish(original: Apply, session: Session, effect: effects.Publish) -> None:
        session.owner.broker.publish(effect.event)
        session.core.fail(effect.id, ExchangeError(ErrorCode.UNAVAILABLE, "", retry_ms=0))

    on_effect(patch, effects.Publish, publish)


@mutant(
    "sub/publishes-overtake",
    violates="SUB-12",
    killed_by=["sub/publish-in-order", "subscriptions/events-in-order"],
    says="event",
)
def _(patch: Patch) -> None:
    """Publishes go to two workers in turn, of which one is slow."""
    _workers(patch, lambda n, event: n % 2 == 0)


@mutant(
    "sub/large-publishes-overtaken",
    violates="SUB-12",
    killed_by="sub/publish-in-order",
    says="and no gap before it",
)
def _(patch: Patch) -> None:
    """Large publishes are worked on beside the others, and take effect later."""
    _workers(patch, lambda n, event: len(event.tail) > 8192)


def _workers(patch: Patch, is_slow: Callable[[int, Event], bool]) -> None:
    counted: dict[str, int] = {}  # by connection, so that what others publish changes nothing

    def publish(original: Apply, session: Session, effect: effects.Publish) -> None:
        conn = session.core.origin
        n = counted[conn] = counted.get(conn, -1) + 1
        if is_slow(n, effect.event):
            session.owner.start(slowly, original, session, effect)
        else:
            original(session, effect)

    async def slowly(original: Apply, session: Session, effect: effects.Publish) -> None:
        await trio.sleep(0.01)
        original(session, effect)
        session.touch()

    on_effect(patch, effects.Publish, publish)


@mutant(
    "sub/anybody-publishes",
    violates="SUB-13",
    killed_by=["sub/refused-publish-has-no-event", "subscriptions/forbidden-publish"],
    says='expected error "forbidden"',
)
def _(patch: Patch) -> None:
    """Nobody is asked for the right to publish."""
    _not_asked(patch)


@mutant(
    "sub/refused-and-published",
    violates="SUB-14",
    killed_by="sub/refused-publish-has-no-event",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A forbidden publish is answered with the right error, behind its event."""
    _not_asked(patch)

    def publish(original: Apply, session: Session, effect: effects.Publish) -> None:
        if session.core.may("publish", effect.event.channel):
            original(session, effect)
        else:
            session.owner.broker.publish(effect.event)
            session.core.fail(effect.id, ExchangeError(ErrorCode.FORBIDDEN, ""))

    on_effect(patch, effects.Publish, publish)


def _not_asked(patch: Patch) -> None:
    def authorize(original: Callable[..., None], self: Connection, action: Action, name: str) -> None:
        if action != "publish":
            original(self, action, name)

    patch.wrap(Connection, "_authorize", authorize)


@mutant(
    "sub/echo-false-ignored",
    violates="SUB-15",
    killed_by=["sub/echo-false-skips-own-session", "sub/echo-false-on-patterns"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`echo:false` has no effect."""
    on_deliver(patch, lambda self, id, event: varied(event, exclude=""))


@mutant(
    "sub/echo-false-ignored-on-patterns",
    violates="SUB-15",
    killed_by="sub/echo-false-on-patterns",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`echo:false` has no effect on subscriptions to a pattern."""

    def deliver(self: CoreSession, id: int, event: Event) -> Event:
        exchange = self.exchanges.running.get(id)
        return varied(event, exclude="") if exchange is not None and exchange.pattern else event

    on_deliver(patch, deliver)


@mutant(
    "sub/echo-false-skips-one-subscription",
    violates="SUB-15",
    killed_by="sub/echo-false-skips-own-session",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`echo:false` leaves out the first subscription of the session, and not the others."""

    def deliver(self: CoreSession, id: int, event: Event) -> Event:
        return event if id == min(self.exchanges.running, default=id) else varied(event, exclude="")

    on_deliver(patch, deliver)


@mutant(
    "sub/echo-false-skips-the-principal",
    violates="SUB-16",
    killed_by=["sub/echo-false-same-principal", "sub/echo-false-skips-own-session"],
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """`echo:false` leaves out all sessions of the publisher's principal."""
    principals: dict[str, str] = {}

    def publish(original: Apply, session: Session, effect: effects.Publish) -> None:
        principals[session.conn] = session.principal
        original(session, effect)

    def deliver(self: CoreSession, id: int, event: Event) -> Event | None:
        own = self.grant is not None and self.grant.principal == principals.get(event.exclude)
        return None if own else event

    on_effect(patch, effects.Publish, publish)
    on_deliver(patch, deliver)


@mutant(
    "sub/no-echo-ever",
    violates="SUB-17",
    killed_by=["subscriptions/own-event", "sub/echo-false-skips-own-session"],
    says="expected",
)
def _(patch: Patch) -> None:
    """A session never gets the events of its own publishes."""
    _publish_as(patch, lambda session, event: varied(event, exclude=session.conn))


@mutant(
    "sub/echo-false-sticks",
    violates="SUB-17",
    killed_by="sub/echo-false-skips-own-session",
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """`echo:false` holds for all later publishes of the session."""
    quiet: set[str] = set()

    def change(session: Session, event: Event) -> Event:
        if event.exclude:
            quiet.add(session.conn)
        return varied(event, exclude=session.conn) if session.conn in quiet else event

    _publish_as(patch, change)


def _publish_as(patch: Patch, change: Callable[[Session, Event], Event]) -> None:
    def publish(original: Apply, session: Session, effect: effects.Publish) -> None:
        original(session, effects.Publish(effect.id, change(session, effect.event)))

    on_effect(patch, effects.Publish, publish)


@mutant(
    "sub/event-without-its-head-fits",
    violates="SUB-18",
    killed_by="sub/publish-too-large-for-its-event",
    says='expected error "too_large"',
)
def _(patch: Patch) -> None:
    """A publish is accepted when its data alone would fit into `max_frame`."""
    patch.set(Event, "largest", property(lambda self: len(self.tail)))


@mutant(
    "sub/size-before-permission",
    violates="ENV-05",
    killed_by="reading-order/forbidden-too-large",
    says='got error "too_large"',
)
def _(patch: Patch) -> None:
    """A publish whose event would not fit is refused before anybody is asked whether it is allowed."""

    def look(core: Connection, frame: dict[str, object], read: object) -> Effects | None:
        size = len(json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode())
        if frame.get("type") != "publish" or size + 16 <= core.max_message:
            return None
        return answer(core, frame, ErrorCode.TOO_LARGE)

    on_frame(patch, look)
