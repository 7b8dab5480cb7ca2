"""Mutants of spec/05-subscriptions.md."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import trio
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.effects import NOTHING, Publish, Subscribe
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.events import Event
from holdfast_reference.protocol.names import Pattern
from holdfast_reference.protocol.outgoing import OPEN
from holdfast_reference.protocol.states import Stage, Step
from holdfast_reference.server import session as server

from mutants.harness import Patch, mutant
from mutants.tools import on_frame, on_write

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.server.session import Session

    Row = dict[str, Any]


def _apply(patch: Patch, effect: type, around: Callable[..., None]) -> None:
    """Let `around(original, session, effect)` carry out one kind of effect."""
    table: dict[type, Callable[..., None]] = server._APPLY  # type: ignore[assignment]  # it is a dict
    original = table[effect]
    patch.item(table, effect, lambda session, wanted: around(original, session, wanted))


def _authorize(patch: Patch, spared: str) -> None:
    """Ask nobody whether an action is allowed."""

    def authorize(original: Callable[..., None], self: Connection, action: str, name: str) -> None:
        if action != spared:
            original(self, action, name)

    patch.wrap(Connection, "_authorize", authorize)


@mutant("sub/never-open", violates="SUB-01", killed_by="subscriptions/subscribe", says='"open"')
def _(patch: Patch) -> None:
    """Subscriptions work, and `open` is never sent."""

    def opened(original: Callable[..., Effects], self: Connection, id: int) -> Effects:
        exchange = self._exchanges.running.get(id)
        if exchange is not None:
            exchange.step(Step.OPEN)
        return NOTHING

    patch.wrap(Connection, "opened", opened)


@mutant("sub/open-twice", violates="SUB-01", killed_by="sub/one-open", says="a second", during=["sub/each-*"])
def _(patch: Patch) -> None:
    """Every `open` is sent twice."""

    def opened(original: Callable[..., Effects], self: Connection, id: int) -> Effects:
        original(self, id)
        self._outgoing.push(OPEN, id, b'{"type":"open","id":%d}' % id)
        return NOTHING

    patch.wrap(Connection, "opened", opened)


async def _open_later(session: Session, id: int) -> None:
    for _ in range(20):
        await trio.lowlevel.checkpoint()
    session._do(session.core.opened(id))


@mutant(
    "sub/event-before-open",
    violates="SUB-02",
    killed_by=["sub/nothing-before-open", "subscriptions/open-before-event"],
    says="open",
)
def _(patch: Patch) -> None:
    """A subscription gets events at once, and its `open` a little later."""

    def subscribe(original: Callable[..., None], session: Session, effect: Any) -> None:
        session._work[effect.id] = server._Subscription(session, effect)
        session._start(_open_later, session, effect.id)

    def deliver(original: Callable[..., None], self: Connection, id: int, event: Event) -> None:
        exchange = self._exchanges.running.get(id)
        if exchange is None:
            return
        stage, exchange.stage = exchange.stage, Stage.OPEN
        original(self, id, event)
        exchange.stage = stage

    _apply(patch, Subscribe, subscribe)
    patch.wrap(Connection, "deliver", deliver)


@mutant(
    "sub/forbidden-subscribe-opens",
    violates="SUB-03",
    killed_by=["sub/forbidden-subscribe", "subscriptions/forbidden-subscribe"],
    says="forbidden",
)
def _(patch: Patch) -> None:
    """Whoever asks may subscribe to everything."""
    _authorize(patch, "subscribe")


@mutant(
    "sub/both-is-a-channel", violates="SUB-04", killed_by="subscriptions/subscribe-both", says="bad_request"
)
def _(patch: Patch) -> None:
    """Of `channel` and `pattern` the channel counts."""

    def look(core: Connection, frame: Row, read: Callable[[Row], Effects]) -> Any:
        if frame.get("type") == "subscribe" and {"channel", "pattern"} <= frame.keys():
            return read({name: value for name, value in frame.items() if name != "pattern"})
        return None

    on_frame(patch, look)


async def _subscribe_later(session: Session, effect: Subscribe) -> None:
    for _ in range(200):
        await trio.lowlevel.checkpoint()
    if session.core.is_running(effect.id):
        session._work[effect.id] = server._Subscription(session, effect)


@mutant(
    "sub/open-before-effect",
    violates="SUB-05",
    killed_by="sub/publish-after-open-is-seen",
    says="expected the event",
)
def _(patch: Patch) -> None:
    """`open` is sent before the subscription takes effect."""

    def subscribe(original: Callable[..., None], session: Session, effect: Subscribe) -> None:
        session.core.opened(effect.id)
        session._start(_subscribe_later, session, effect)

    _apply(patch, Subscribe, subscribe)


@mutant(
    "sub/pattern-knows-old-channels",
    violates="SUB-05",
    killed_by="sub/pattern-sees-new-channels",
    says="expected the event",
)
def _(patch: Patch) -> None:
    """A pattern subscription gets the events of channels that were used before it was opened."""
    used: set[str] = set()

    def publish(original: Callable[..., None], self: MemoryBroker, event: Event) -> None:
        if event.channel in used or not self._patterns:
            original(self, event)
        used.add(event.channel)

    patch.wrap(MemoryBroker, "publish", publish)


@mutant("sub/event-twice", violates="SUB-06", killed_by="sub/each-event-once", says="came again")
def _(patch: Patch) -> None:
    """Every hundredth event is delivered twice."""
    seen = [0]

    def publish(original: Callable[..., None], self: MemoryBroker, event: Event) -> None:
        original(self, event)
        seen[0] += 1
        if seen[0] % 100 == 0:
            original(self, event)

    patch.wrap(MemoryBroker, "publish", publish)


@mutant(
    "sub/one-per-channel",
    violates="SUB-07",
    killed_by=["sub/two-subscriptions-are-two", "subscriptions/two-subscriptions"],
    says="expected",
)
def _(patch: Patch) -> None:
    """Of two subscriptions of a session to one channel only the first gets events."""

    def publish(self: MemoryBroker, event: Event) -> None:
        sessions = set()
        for subscriber in self._channels.get(event.channel, ()):
            session = subscriber._session  # type: ignore[attr-defined]  # it is one of ours
            if session not in sessions:
                sessions.add(session)
                subscriber.deliver(event)

    patch.set(MemoryBroker, "publish", publish)


@mutant("sub/two-orders", violates="SUB-08", killed_by="sub/one-order-for-all", says="sees another order")
def _(patch: Patch) -> None:
    """The first subscriber of a channel gets each pair of events the other way round."""
    kept: dict[str, Event] = {}

    def publish(self: MemoryBroker, event: Event) -> None:
        for n, subscriber in enumerate(self._channels.get(event.channel, ())):
            if n:
                subscriber.deliver(event)
            elif event.channel in kept:
                subscriber.deliver(event)
                subscriber.deliver(kept.pop(event.channel))
            else:
                kept[event.channel] = event

    patch.set(MemoryBroker, "publish", publish)


@mutant(
    "sub/case-is-ignored",
    violates="SUB-09",
    killed_by="sub/similar-channels-are-others",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Channels that differ in case alone are one."""

    def publish(original: Callable[..., None], self: MemoryBroker, event: Event) -> None:
        for channel, subscribers in self._channels.items():
            if channel.lower() == event.channel.lower():
                for subscriber in subscribers:
                    subscriber.deliver(event)

    patch.wrap(MemoryBroker, "publish", publish)


@mutant(
    "sub/everybody-hears-everything",
    violates="SUB-09",
    killed_by=["sub/similar-channels-are-others"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Every event goes to every subscriber."""

    def publish(original: Callable[..., None], self: MemoryBroker, event: Event) -> None:
        for subscribers in self._channels.values():
            for subscriber in subscribers:
                subscriber.deliver(event)

    patch.wrap(MemoryBroker, "publish", publish)


@mutant(
    "sub/wrong-channel-on-event",
    violates="SUB-10",
    killed_by="sub/event-names-its-channel",
    says="instead of",
    during=["sub/each-*"],
)
def _(patch: Patch) -> None:
    """Events on a channel carry the first segment of its name."""
    on_write(patch, lambda frame: frame | {"channel": "conf"} if frame["type"] == "event" else None)


@mutant(
    "sub/publish-answered-with-error",
    violates="SUB-11",
    killed_by=["subscriptions/publish", "sub/publish-in-order"],
    says="unavailable",
)
def _(patch: Patch) -> None:
    """Publishes take effect and are answered with an error."""

    def publish(original: Callable[..., None], session: Session, effect: Publish) -> None:
        session.owner.broker.publish(effect.event)
        session.core.fail(effect.id, ExchangeError(ErrorCode.UNAVAILABLE, "", retry_ms=0))

    _apply(patch, Publish, publish)


async def _publish_later(original: Callable[..., None], session: Session, effect: Publish) -> None:
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    original(session, effect)
    session._touch()


@mutant(
    "sub/large-publishes-are-overtaken",
    violates="SUB-12",
    killed_by="sub/publish-in-order",
    says="no gap before it",
)
def _(patch: Patch) -> None:
    """Large publishes are worked on beside the others."""

    def publish(original: Callable[..., None], session: Session, effect: Publish) -> None:
        if len(effect.event.tail) > 4000:
            session._start(_publish_later, original, session, effect)
        else:
            original(session, effect)

    _apply(patch, Publish, publish)


@mutant(
    "sub/forbidden-publish-accepted",
    violates="SUB-13",
    killed_by=["sub/refused-publish-has-no-event", "subscriptions/forbidden-publish"],
    says="forbidden",
)
def _(patch: Patch) -> None:
    """Whoever asks may publish to everything."""
    _authorize(patch, "publish")


@mutant(
    "sub/refused-publish-delivered",
    violates="SUB-14",
    killed_by="sub/refused-publish-has-no-event",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A forbidden publish is answered with an error, when its event is on its way already."""
    _authorize(patch, "publish")

    def publish(original: Callable[..., None], session: Session, effect: Publish) -> None:
        session.owner.broker.publish(effect.event)
        if session.core._may("publish", effect.event.channel):
            session.core.succeed(effect.id, server._EMPTY)
        else:
            session.core.fail(effect.id, ExchangeError(ErrorCode.FORBIDDEN, "not allowed"))

    _apply(patch, Publish, publish)


@mutant(
    "sub/echo-always",
    violates="SUB-15",
    killed_by=["sub/echo-false-skips-own-session", "sub/echo-false-on-patterns"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`echo:false` is ignored."""

    def init(
        original: Callable[..., None], self: Event, channel: str, payload: Any, exclude: str = ""
    ) -> None:
        original(self, channel, payload)

    patch.wrap(Event, "__init__", init)


@mutant(
    "sub/echo-false-skips-principal",
    violates="SUB-16",
    killed_by=["sub/echo-false-skips-own-session", "sub/echo-false-same-principal"],
    says="expected the event",
)
def _(patch: Patch) -> None:
    """`echo:false` leaves out every session of the publisher's principal."""
    publishers: dict[str, str] = {}

    def publish(original: Callable[..., None], session: Session, effect: Publish) -> None:
        publishers[session.conn] = session.principal
        original(session, effect)

    def deliver(original: Callable[..., None], self: Connection, id: int, event: Event) -> None:
        grant = self.grant
        if grant is None or publishers.get(event.exclude) != grant.principal:
            original(self, id, event)

    _apply(patch, Publish, publish)
    patch.wrap(Connection, "deliver", deliver)


@mutant(
    "sub/never-echo",
    violates="SUB-17",
    killed_by=["sub/echo-false-skips-own-session", "subscriptions/own-event"],
    says="expected",
)
def _(patch: Patch) -> None:
    """A session never gets its own events."""

    def publish(original: Callable[..., None], session: Session, effect: Publish) -> None:
        effect.event.exclude = session.conn
        original(session, effect)

    _apply(patch, Publish, publish)


@mutant(
    "sub/too-large-for-its-event",
    violates="SUB-18",
    killed_by="sub/publish-too-large-for-its-event",
    says='expected error "too_large"',
)
def _(patch: Patch) -> None:
    """A publish is accepted when it fits itself, whatever its event takes."""
    patch.set(Event, "largest", 0)


def _check_pattern(patch: Patch, accepts: Callable[[str], bool]) -> None:
    """Let some bad patterns pass for a pattern that matches nothing."""

    def look(core: Connection, frame: Row, read: Callable[[Row], Effects]) -> Any:
        pattern = frame.get("pattern")
        if frame.get("type") == "subscribe" and isinstance(pattern, str) and accepts(pattern):
            return read(frame | {"pattern": "no/such/channel"})
        return None

    on_frame(patch, look)


@mutant(
    "sub/empty-segment", violates="SUB-19", killed_by="subscriptions/pattern-slash-twice", says="bad_request"
)
def _(patch: Patch) -> None:
    """A pattern may have empty segments."""
    _check_pattern(patch, lambda pattern: "//" in pattern)


@mutant(
    "sub/globstar-inside",
    violates="SUB-19",
    killed_by="subscriptions/pattern-globstar-inside",
    says="bad_request",
)
def _(patch: Patch) -> None:
    """A pattern may have `**` anywhere."""
    _check_pattern(patch, lambda pattern: "/**/" in pattern)


def _matches(patch: Patch, verdict: Callable[[list[str], list[str], bool], bool]) -> None:
    """Change what patterns match: `verdict(pattern, channel, right)`, both in segments."""

    def matches(original: Callable[..., bool], self: Pattern, channel: str) -> bool:
        return verdict(self.text.split("/"), channel.split("/"), original(self, channel))

    patch.wrap(Pattern, "matches", matches)


def _alike(pattern: list[str], channel: list[str], star: Callable[[str], bool]) -> bool:
    return len(pattern) == len(channel) and all(
        star(name) if wanted == "*" else wanted == name for wanted, name in zip(pattern, channel, strict=True)
    )


@mutant(
    "sub/star-matches-nothing",
    violates="SUB-20",
    killed_by="patterns/a-slash-star",
    says="event",
)
def _(patch: Patch) -> None:
    """`*` matches an empty segment, too."""
    _matches(patch, lambda pattern, channel, right: right or _alike(pattern, channel, lambda name: True))


@mutant("sub/star-crosses-slash", violates="SUB-20", killed_by="patterns/a-slash-star", says="event")
def _(patch: Patch) -> None:
    """`*` matches any text, slashes included."""
    _matches(
        patch,
        lambda pattern, channel, right: (
            right
            or (
                pattern[-1] == "*"
                and len(channel) >= len(pattern)
                and channel[: len(pattern) - 1] == pattern[:-1]
            )
        ),
    )


@mutant(
    "sub/globstar-matches-nothing",
    violates="SUB-21",
    killed_by="patterns/a-slash-globstar",
    says="event",
)
def _(patch: Patch) -> None:
    """`**` matches no segment at all, too."""
    _matches(
        patch, lambda pattern, channel, right: right or (pattern[-1] == "**" and pattern[:-1] == channel)
    )


@mutant("sub/globstar-is-one", violates="SUB-21", killed_by="patterns/a-slash-globstar", says="event")
def _(patch: Patch) -> None:
    """`**` matches one segment only."""
    _matches(patch, lambda pattern, channel, right: right and len(channel) == len(pattern))


@mutant("sub/glob", violates="SUB-22", killed_by="patterns/a-star", says="event")
def _(patch: Patch) -> None:
    """Segments are matched like file names."""
    _matches(
        patch,
        lambda pattern, channel, right: (
            right
            or (
                len(pattern) == len(channel)
                and all(
                    fnmatchcase(name, wanted) and name for wanted, name in zip(pattern, channel, strict=True)
                )
            )
        ),
    )


@mutant(
    "sub/channel-is-a-pattern",
    violates="SUB-23",
    killed_by="sub/star-in-a-channel-is-a-character",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A `channel` with a star is taken for a pattern."""

    def publish(original: Callable[..., None], self: MemoryBroker, event: Event) -> None:
        for channel, subscribers in self._channels.items():
            if channel == event.channel or ("*" in channel and fnmatchcase(event.channel, channel)):
                for subscriber in subscribers:
                    subscriber.deliver(event)

    patch.wrap(MemoryBroker, "publish", publish)


@mutant(
    "sub/pattern-event-unnamed",
    violates="SUB-24",
    killed_by="sub/pattern-event-has-channel",
    during=["sub/pattern-*"],
    says="channel",
)
def _(patch: Patch) -> None:
    """Events of a pattern subscription do not say where they come from."""
    patch.set(Event, "named_tail", property(lambda self: self.tail))


@mutant(
    "sub/pattern-sees-forbidden",
    violates="SUB-25",
    killed_by="sub/pattern-hides-forbidden-channels",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A pattern subscription is asked for its rights once, when it is opened."""

    def deliver(original: Callable[..., None], self: Connection, id: int, event: Event) -> None:
        may = Connection._may
        Connection._may = lambda self, action, name: True  # type: ignore[method-assign]
        try:
            original(self, id, event)
        finally:
            Connection._may = may  # type: ignore[method-assign]

    patch.wrap(Connection, "deliver", deliver)


@mutant(
    "sub/first-match-only",
    violates="SUB-26",
    killed_by=["sub/pattern-and-channel-overlap", "subscriptions/pattern-overlap"],
    says="expected",
)
def _(patch: Patch) -> None:
    """An event goes to the first pattern that matches, and to no other."""

    def by_pattern(original: Callable[..., Any], self: MemoryBroker, channel: str) -> Any:
        return original(self, channel)[:1]

    patch.wrap(MemoryBroker, "_subscribers_by_pattern", by_pattern)
