"""Mutants of spec/05-subscriptions.md; those of its patterns are in `patterns.py`."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import trio
from holdfast_reference.backends.fanout import Fanout
from holdfast_reference.protocol import effects, intake
from holdfast_reference.protocol.codec import encode_data, encode_error
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.events import Event, event_head
from holdfast_reference.protocol.outgoing import OPEN, REFUSAL
from holdfast_reference.protocol.session import Session as CoreSession
from holdfast_reference.protocol.states import Step
from holdfast_reference.server import session as server

from mutants.harness import Patch, mutant
from mutants.tools import NOTHING, on_deliver, on_effect, trusting, varied

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol import messages
    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Action
    from holdfast_reference.server.session import Session

    Target = tuple[str, bool, effects.Start]
    Apply = Callable[[Session, effects.Publish], None]


# Opening and its end


@mutant(
    "sub/never-open",
    violates="SUB-01",
    killed_by=[
        "subscriptions/subscribe",
        "subscriptions/pattern-good-star",
        "subscriptions/pattern-good-globstar",
        "subscriptions/pattern-good-star-and-globstar",
        "subscriptions/pattern-good-star-inside-segment",
        "subscriptions/pattern-good-three-stars",
        "subscriptions/pattern-good-globstar-inside-segment",
        "subscriptions/pattern-good-255-bytes",
        "subscriptions/pattern-good-line-feed",
    ],
    says='expected {"type":"open"',
)
def _(patch: Patch) -> None:
    """Subscriptions work, and `open` is never sent."""

    def opened(original: Callable[..., Effects], self: CoreSession, id: int) -> Effects:
        self.exchanges.running[id].step(Step.OPEN)
        return NOTHING

    patch.wrap(CoreSession, "opened", opened)


@mutant(
    "sub/empty-segments-refused",
    violates="SUB-01",
    killed_by="subscriptions/empty-segment-in-channel",
    says='got error "bad_request"',
)
def _(patch: Patch) -> None:
    """A channel with an empty segment is refused as if it were a pattern."""
    _refuse_channels(patch, "//")


@mutant(
    "sub/open-twice",
    violates="SUB-01",
    killed_by="sub/one-open",
    says="a second open",
    during=["subscriptions/two-subscriptions"],
)
def _(patch: Patch) -> None:
    """A second subscription to a channel is confirmed twice."""

    def opened(original: Callable[..., Effects], self: CoreSession, id: int, *rest: object) -> Effects:
        original(self, id, *rest)
        names = [exchange.name for exchange in self.exchanges.running.values()]
        if names.count(self.exchanges.running[id].name) > 1:
            self.outgoing.push(OPEN, id, b'{"type":"open","id":%d}' % id)
        return NOTHING

    patch.wrap(CoreSession, "opened", opened)


@mutant(
    "sub/open-behind-the-first-events",
    violates="SUB-02",
    killed_by="sub/nothing-before-open",
    says="before its open",
    during=["subscriptions/open-before-event"],
)
def _(patch: Patch) -> None:
    """An `open` is written a little after the subscription is registered."""
    _lazy_open(patch, even_after_an_event=True)


@mutant(
    "sub/first-event-replaces-open",
    violates="SUB-02",
    killed_by="subscriptions/open-before-event",
    says='expected {"type":"open"',
)
def _(patch: Patch) -> None:
    """An `open` that comes too late, for there was an event already, is left out."""
    _lazy_open(patch, even_after_an_event=False)


def _lazy_open(patch: Patch, *, even_after_an_event: bool) -> None:
    confirmed: set[tuple[CoreSession, int]] = set()

    def subscribe(original: Callable[..., None], session: Session, effect: effects.Subscribe) -> None:
        session.core.exchanges.running[effect.id].step(Step.OPEN)
        session._work[effect.id] = server._Subscription(session, effect)
        session.owner.start(confirm, session, effect.id)

    def deliver(self: CoreSession, id: int, event: Event) -> Event:
        if not even_after_an_event:
            confirmed.add((self, id))
        return event

    async def confirm(session: Session, id: int) -> None:
        await trio.sleep(0.001)
        if session.core.is_running(id) and (session.core, id) not in confirmed:
            session.core.outgoing.push(OPEN, id, b'{"type":"open","id":%d}' % id)
            session.touch()

    on_effect(patch, effects.Subscribe, subscribe)
    on_deliver(patch, deliver)


@mutant(
    "sub/last-event-before-open",
    violates="SUB-02",
    killed_by="sub/publish-after-open-is-seen",
    says="the first frame of a subscription",
)
def _(patch: Patch) -> None:
    """A new subscriber gets the newest event of the channel as a greeting, in front of its `open`."""
    newest: dict[str, Event] = {}

    def publish(original: Apply, session: Session, effect: effects.Publish) -> None:
        newest[effect.event.channel] = effect.event
        original(session, effect)

    def subscribe(original: Callable[..., None], session: Session, effect: effects.Subscribe) -> None:
        if effect.name in newest:
            session.core.outgoing.event(
                effect.id, event_head(effect.id), newest[effect.name].tail, 0, lossy=True
            )
        original(session, effect)

    on_effect(patch, effects.Publish, publish)
    on_effect(patch, effects.Subscribe, subscribe)


@mutant(
    "sub/anybody-subscribes",
    violates="SUB-03",
    killed_by=["sub/forbidden-subscribe", "subscriptions/forbidden-subscribe"],
    says='expected error "forbidden"',
)
def _(patch: Patch) -> None:
    """Nobody is asked for the right to subscribe."""
    _not_asked(patch, "subscribe")


@mutant(
    "sub/forbidden-is-not-found",
    violates="SUB-03",
    killed_by=["sub/forbidden-subscribe", "subscriptions/forbidden-subscribe"],
    says='got error "not_found"',
)
def _(patch: Patch) -> None:
    """A channel that the principal may not see is called unknown."""

    def authorize(original: Callable[..., None], self: Connection, action: Action, name: str) -> None:
        if action == "subscribe" and not self.session.may(action, name):
            raise ExchangeError(ErrorCode.NOT_FOUND, "no such channel")
        original(self, action, name)

    patch.wrap(Connection, "_authorize", authorize)


@mutant(
    "sub/refused-and-registered",
    violates="SUB-03",
    killed_by="sub/forbidden-subscribe",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A forbidden subscribe is answered with the right error, and registered all the same."""
    forbidden = _not_asked(patch, "subscribe")

    def subscribe(original: Callable[..., None], session: Session, effect: effects.Subscribe) -> None:
        if (session.core, effect.name) not in forbidden:
            original(session, effect)
            return
        session.core.exchanges.running[effect.id].step(Step.OPEN)
        session._work[effect.id] = server._Subscription(session, effect)
        text = encode_error(effect.id, ExchangeError(ErrorCode.FORBIDDEN, ""))
        session.core.outgoing.push(REFUSAL, effect.id, text)

    on_effect(patch, effects.Subscribe, subscribe)


def _not_asked(patch: Patch, about: Action) -> set[tuple[CoreSession, str]]:
    """Let an action pass unasked; what should have been refused is gathered in the set that is returned."""
    passed: set[tuple[CoreSession, str]] = set()

    def authorize(original: Callable[..., None], self: Connection, action: Action, name: str) -> None:
        if action != about:
            original(self, action, name)
        elif not self.session.may(action, name):
            passed.add((self.session, name))

    patch.wrap(Connection, "_authorize", authorize)
    return passed


@mutant(
    "sub/channel-beats-pattern",
    violates="SUB-04",
    killed_by=["subscriptions/subscribe-both", "subscriptions/subscribe-both-same"],
    says='expected error "bad_request"',
)
def _(patch: Patch) -> None:
    """A subscribe with both `channel` and `pattern` subscribes to the channel."""
    _targets(patch, lambda message: isinstance(message.channel, str))


@mutant(
    "sub/nothing-is-something",
    violates="SUB-04",
    killed_by="subscriptions/subscribe-neither",
    says='expected error "bad_request"',
)
def _(patch: Patch) -> None:
    """A subscribe with neither `channel` nor `pattern` subscribes to the channel without a name."""
    _targets(patch, lambda message: not isinstance(message.pattern, str))


def _targets(patch: Patch, by_channel: Callable[[messages.Subscribe], bool]) -> None:
    def check(
        original: Callable[..., Target], message: messages.Subscribe, profiles: frozenset[str]
    ) -> Target:
        if not by_channel(message):
            return original(message, profiles)
        return (message.channel if isinstance(message.channel, str) else "", False, effects.NOWHERE)

    patch.wrap(intake, "check_subscribe", check)


@mutant(
    "sub/cancelled-in-name-only",
    violates="RPC-02",
    killed_by=["sub/cancel-stops-delivery", "sub/burst-of-subscriptions"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A cancel is answered, and events keep coming."""

    def stop(original: Callable[..., None], session: Session, effect: effects.Stop) -> None:
        if not isinstance(session._work.get(effect.id), server._Subscription):
            original(session, effect)

    def deliver(self: CoreSession, id: int, event: Event) -> Event | None:
        if self.is_running(id):
            return event
        self.outgoing.event(id, event_head(id), event.tail, 0, lossy=True)
        return None

    on_effect(patch, effects.Stop, stop)
    on_deliver(patch, deliver)


# Who gets an event


@mutant(
    "sub/registered-behind-open",
    violates="SUB-05",
    killed_by=["sub/publish-after-open-is-seen", "sub/pattern-sees-new-channels"],
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """`open` is sent first, and the subscription registered a little later."""

    def subscribe(original: Callable[..., None], session: Session, effect: effects.Subscribe) -> None:
        session.core.opened(effect.id)
        session.owner.start(register, session, effect)

    async def register(session: Session, effect: effects.Subscribe) -> None:
        await trio.sleep(0.01)
        if session.core.is_running(effect.id):
            session._work[effect.id] = server._Subscription(session, effect)

    on_effect(patch, effects.Subscribe, subscribe)


@mutant(
    "sub/every-fiftieth-event-again",
    violates="SUB-06",
    killed_by="sub/each-event-once",
    says="came again",
)
def _(patch: Patch) -> None:
    """Now and then an event is delivered twice, as by a broker that retries."""
    counted: list[Event] = []

    def publish(original: Callable[..., None], self: Fanout, event: Event) -> None:
        counted.append(event)
        original(self, event)
        if len(counted) % 50 == 0:
            original(self, event)

    patch.wrap(Fanout, "_deliver", publish)
    trusting(patch)


@mutant(
    "sub/one-subscription-per-channel",
    violates="SUB-07",
    killed_by=["sub/two-subscriptions-are-two", "subscriptions/two-subscriptions"],
    says="expected",
)
def _(patch: Patch) -> None:
    """A second subscription to a channel is confirmed, and the events all come on the first."""

    def deliver(self: CoreSession, id: int, event: Event) -> Event | None:
        running = self.exchanges.running
        same = [other for other, exchange in running.items() if exchange.name == running[id].name]
        return event if same[0] == id else None

    on_deliver(patch, deliver)


@mutant(
    "sub/cancel-takes-all-of-the-channel",
    violates="SUB-07",
    killed_by=["sub/two-subscriptions-are-two", "subscriptions/cancel-one-of-two"],
    says="expected",
)
def _(patch: Patch) -> None:
    """To cancel one subscription removes all those of the session to the same channel."""

    def stop(original: Callable[..., None], session: Session, effect: effects.Stop) -> None:
        gone = session._work.get(effect.id)
        original(session, effect)
        for id, other in list(session._work.items()):
            if (
                isinstance(gone, server._Subscription)
                and isinstance(other, server._Subscription)
                and gone._name == other._name
            ):
                session._work.pop(id).cancel()

    on_effect(patch, effects.Stop, stop)


@mutant(
    "sub/own-events-first",
    violates="SUB-08",
    killed_by="sub/one-order-for-all",
    says="sees another order than",
)
def _(patch: Patch) -> None:
    """A publisher gets its own events at once, and those of the others by way of a broker."""
    publisher: list[Session] = []
    backlog: list[tuple[server._Subscription, Event]] = []

    def publish(original: Apply, session: Session, effect: effects.Publish) -> None:
        publisher[:] = [session]
        original(session, effect)

    def deliver(original: Callable[..., None], self: server._Subscription, event: Event) -> None:
        if self._session in publisher:
            original(self, event)
            return
        backlog.append((self, event))
        if len(backlog) == 1:
            self._session.owner.start(drain, original)

    async def drain(original: Callable[..., None]) -> None:
        await trio.sleep(0.001)
        late, backlog[:] = backlog.copy(), []
        for subscription, event in late:
            original(subscription, event)

    on_effect(patch, effects.Publish, publish)
    patch.wrap(server._Subscription, "deliver", deliver)
    trusting(patch)


@mutant(
    "sub/pairs-swapped-for-one",
    violates="SUB-08",
    killed_by="sub/one-order-for-all",
    says="sees another order than",
)
def _(patch: Patch) -> None:
    """The first subscriber of a channel gets each pair of events the other way round."""
    kept: dict[str, Event] = {}

    def publish(self: Fanout, event: Event) -> None:
        for n, subscriber in enumerate(self._channels.get(event.channel, ())):
            if n:
                subscriber.deliver(event)
            elif event.channel in kept:
                subscriber.deliver(event)
                subscriber.deliver(kept.pop(event.channel))
            else:
                kept[event.channel] = event

    patch.set(Fanout, "_deliver", publish)
    trusting(patch)


@mutant(
    "sub/later-one-first",
    violates="SUB-29",
    killed_by="sub/answers-show-the-order",
    says="in their order",
)
def _(patch: Patch) -> None:
    """Each second event of a channel overtakes the one before it."""
    kept: dict[str, Event] = {}

    def publish(original: Callable[..., None], self: Fanout, event: Event) -> None:
        if event.channel not in kept:
            kept[event.channel] = event
            return
        original(self, event)
        original(self, kept.pop(event.channel))

    patch.wrap(Fanout, "_deliver", publish)
    trusting(patch)


@mutant(
    "sub/newest-event-again", violates="SUB-28", killed_by="sub/nothing-from-before", says="must not come"
)
def _(patch: Patch) -> None:
    """A new subscription begins with the newest event of its channel."""
    newest: dict[str, Event] = {}

    def publish(original: Callable[..., None], self: Fanout, event: Event) -> None:
        newest[event.channel] = event
        original(self, event)

    def opened(original: Callable[..., Effects], self: CoreSession, id: int, *rest: object) -> Effects:
        effects = original(self, id, *rest)
        exchange = self.exchanges.running.get(id)
        if exchange is not None and exchange.name in newest:
            self.deliver(id, newest[exchange.name], lossy=True)
        return effects

    patch.wrap(Fanout, "_deliver", publish)
    patch.wrap(CoreSession, "opened", opened)
    trusting(patch)


def _like(patch: Patch, normal: Callable[[str], str]) -> None:
    """Let the broker find channels by a form of their names."""

    def name(original: Callable[..., None], self: Fanout, name: str, *rest: object) -> None:
        original(self, normal(name), *rest)

    def publish(original: Callable[..., None], self: Fanout, event: Event) -> None:
        original(self, varied(event, channel=normal(event.channel)))

    patch.wrap(Fanout, "subscribe", name)
    patch.wrap(Fanout, "unsubscribe", name)
    patch.wrap(Fanout, "_deliver", publish)
    trusting(patch)


@mutant(
    "sub/channels-without-case",
    violates="SUB-09",
    killed_by="sub/similar-channels-are-others",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Channels whose names differ in case only are one."""
    _like(patch, str.casefold)


@mutant(
    "sub/channels-normalised",
    violates="SUB-09",
    killed_by="sub/similar-channels-are-others",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Channels whose names look alike are one."""
    _like(patch, lambda name: unicodedata.normalize("NFC", name))


@mutant(
    "sub/channels-end-at-nul",
    violates="SUB-09",
    killed_by="sub/similar-channels-are-others",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A name ends at its first NUL, as in C."""
    _like(patch, lambda name: name.partition("\0")[0])


@mutant(
    "sub/channels-trimmed",
    violates="SUB-09",
    killed_by="sub/similar-channels-are-others",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Slashes and spaces around a name are cut off."""
    _like(patch, lambda name: name.strip("/ "))


@mutant(
    "sub/channel-stands-for-what-is-below",
    violates="SUB-09",
    killed_by="sub/similar-channels-are-others",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A subscription to a channel gets the events of the channels below it, too."""

    def publish(original: Callable[..., None], self: Fanout, event: Event) -> None:
        original(self, event)
        above = event.channel
        while "/" in above:
            above = above.rpartition("/")[0]
            for subscriber in self._channels.get(above, ()):
                subscriber.deliver(event)

    patch.wrap(Fanout, "_deliver", publish)
    trusting(patch)


@mutant(
    "sub/everybody-hears-everything",
    violates="SEC-10",
    killed_by="sub/bystander-hears-nothing",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Every event reaches every subscription, whatever its channel."""

    def publish(original: Callable[..., None], self: Fanout, event: Event) -> None:
        for subscribers in self._channels.values():
            for subscriber in subscribers:
                subscriber.deliver(event)

    patch.wrap(Fanout, "_deliver", publish)


@mutant(
    "sub/event-names-another-channel",
    violates="SUB-10",
    killed_by="sub/event-names-its-channel",
    says="instead of",
    during=["sub/each-event-once"],
)
def _(patch: Patch) -> None:
    """An event names its channel without the last segment."""

    def deliver(self: CoreSession, id: int, event: Event) -> Event:
        name = encode_data(event.channel.rpartition("/")[0]).json
        return varied(event, tail=b',"channel":%b%b' % (name, event.tail))

    on_deliver(patch, deliver)


@mutant(
    "sub/star-in-a-channel-is-a-pattern",
    violates="SUB-23",
    killed_by="sub/star-in-a-channel-is-a-character",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A channel with a star in it is taken for a pattern."""

    def subscribe(original: Callable[..., None], session: Session, effect: effects.Subscribe) -> None:
        original(session, effect._replace(pattern=effect.pattern or "*" in effect.name))

    on_effect(patch, effects.Subscribe, subscribe)


@mutant(
    "sub/star-in-a-channel-refused",
    violates="SUB-23",
    killed_by="subscriptions/star-in-channel",
    says='got error "bad_request"',
)
def _(patch: Patch) -> None:
    """A channel with a star in it is refused."""
    _refuse_channels(patch, "*")


def _refuse_channels(patch: Patch, part: str) -> None:
    def check(
        original: Callable[..., Target], message: messages.Subscribe, profiles: frozenset[str]
    ) -> Target:
        if isinstance(message.channel, str) and part in message.channel:
            raise ExchangeError(ErrorCode.BAD_REQUEST, f"{part} in a channel")
        return original(message, profiles)

    patch.wrap(intake, "check_subscribe", check)
