"""Mutants of spec/03-session.md, but for identity and heartbeat."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import trio
from holdfast_reference.protocol import connection, effects
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.correlation import Pool
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.states import Phase
from holdfast_reference.protocol.timers import NEVER, Clock
from holdfast_reference.server import session as server
from holdfast_reference.server.link import Link
from holdfast_reference.server.session import Session
from holdfast_reference.server.websocket import Pinged

from mutants.harness import Patch, mutant
from mutants.tools import on_close, on_frame, on_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from holdfast_reference.config import Config
    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Grant

    Row = dict[str, object]
    Read = Callable[[Row], Effects]


# Hello


@mutant("ses/requests-before-hello", violates="SES-02", killed_by="framing/first-ping", says="close 4002")
def _(patch: Patch) -> None:
    """What comes before hello is ignored."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        return NOTHING if core.phase is Phase.NEW and frame.get("type") == "ping" else None

    on_frame(patch, look)


@mutant(
    "ses/second-hello-ignored",
    violates="SES-03",
    killed_by=["framing/hello-twice", "ses/second-hello-while-draining"],
    says="4002",
)
def _(patch: Patch) -> None:
    """A second hello is ignored."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        return NOTHING if core.phase is not Phase.NEW and frame.get("type") == "hello" else None

    on_frame(patch, look)


@mutant(
    "ses/no-hello-timeout",
    violates="SES-04",
    killed_by=["ses/hello-never-sent", "ses/hello-half-sent"],
    says="closed with 4303; it is still open",
)
def _(patch: Patch) -> None:
    """A connection may stay without hello for ever."""

    def start(original: Callable[..., None], self: Clock, *args: object) -> None:
        original(self, *args)
        self.hello_by = NEVER

    patch.wrap(Clock, "__init__", start)


@mutant(
    "ses/hello-timeout-put-off",
    violates="SES-04",
    killed_by="ses/control-frames-are-no-hello",
    says="later than the hello timeout",
)
def _(patch: Patch) -> None:
    """Each WebSocket ping starts the hello timeout anew."""

    def control(original: Callable[..., None], self: Link, message: object) -> None:
        if isinstance(message, Pinged) and self.core.phase is Phase.NEW:
            self.core._clock.hello_by = trio.current_time() + 1
        original(self, message)

    patch.wrap(Link, "_control", control)


@mutant(
    "ses/hello-timeout-too-short",
    violates="SES-05",
    killed_by="ses/hello-just-in-time",
    says="closed with 4303",
)
def _(patch: Patch) -> None:
    """A client has 0.7 seconds for its hello."""
    set_timers(patch, hello_ms=700)


@mutant("ses/hello-picky", violates="SES-06", killed_by="negotiation/hello-full", says='"welcome"')
def _(patch: Patch) -> None:
    """A hello that names its program is refused."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        return core.close(4005) if frame.get("type") == "hello" and "client" in frame else None

    on_frame(patch, look)


@mutant("ses/welcome-twice", violates="SES-06", killed_by="ses/one-welcome", says="welcome")
def _(patch: Patch) -> None:
    """A hello that asks for no profile gets two welcomes."""

    def greet(original: Callable[..., Effects], self: Connection, grant: Grant, now: float) -> Effects:
        effects = original(self, grant, now)
        if not self.profiles and self._outgoing._urgent:
            self._outgoing.urgent(self._outgoing._urgent[0])
        return effects

    patch.wrap(Connection, "_welcome", greet)


@mutant(
    "ses/frame-before-welcome",
    violates="SES-07",
    killed_by="ses/hello-never-sent",
    says="a frame came before welcome",
)
def _(patch: Patch) -> None:
    """A client that is late with its hello is pinged."""

    def change(core: Connection, code: int) -> int:
        if core.phase is Phase.NEW and code == 4303:
            core._outgoing.urgent(b'{"type":"ping"}')
        return code

    on_close(patch, change)


@mutant(
    "ses/frames-behind-hello-dropped",
    violates="SES-08",
    killed_by="ses/frames-behind-hello",
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """What arrives together with hello is thrown away."""
    unready(patch, NOTHING)


@mutant(
    "ses/fault-behind-hello-first",
    violates="SES-08",
    killed_by=["ses/fault-behind-hello", "ses/frames-behind-hello"],
    says="closed with 4002",
)
def _(patch: Patch) -> None:
    """What arrives together with hello is read before welcome is there."""
    unready(patch, None)


@mutant(
    "ses/needs-forgotten",
    violates="SES-09",
    killed_by=[
        "ses/profiles-exactly",
        "negotiation/profiles-pattern-alone",
        "negotiation/profiles-fence-alone",
    ],
    says="profiles",
)
def _(patch: Patch) -> None:
    """Profiles are listed without what they need."""
    patch.set(connection, "negotiate", lambda wanted, offered: offered.intersection(wanted))


@mutant(
    "ses/everything-listed",
    violates="SES-09",
    killed_by=["ses/profiles-exactly", "negotiation/profiles-none"],
    says="profiles",
)
def _(patch: Patch) -> None:
    """Welcome lists everything that the server offers."""
    patch.set(connection, "negotiate", lambda wanted, offered: offered)


@mutant(
    "ses/profiles-repeated",
    violates="SES-10",
    killed_by=["negotiation/profiles-twice", "ses/profiles-listed-once"],
    says="profiles",
)
def _(patch: Patch) -> None:
    """A profile that was asked for twice is listed twice."""

    def negotiate(original: Callable[..., frozenset[str]], wanted: list[str], offered: object) -> Repeated:
        agreed = Repeated(original(wanted, offered))
        agreed.wanted = wanted
        return agreed

    patch.wrap(connection, "negotiate", negotiate)


@mutant("ses/core-listed", violates="SES-10", killed_by="negotiation/profiles-core", says="profiles")
def _(patch: Patch) -> None:
    """Welcome lists `core` too."""

    def change(frame: Row) -> Row | None:
        if frame["type"] != "welcome":
            return None
        return frame | {"profiles": [*cast("list[str]", frame["profiles"]), "core"]}

    on_write(patch, change)


@mutant("ses/conn-repeated", violates="SES-11", killed_by="ses/conn-never-repeats", says="was given before")
def _(patch: Patch) -> None:
    """`conn` has few values."""

    def change(frame: Row) -> Row | None:
        return frame | {"conn": f"c{len(str(frame['conn']))}"} if frame["type"] == "welcome" else None

    on_write(patch, change)


@mutant("ses/tiny-frames", violates="SES-12", killed_by="negotiation/hello-max-frame-4095", says="close 4005")
def _(patch: Patch) -> None:
    """A `max_frame` of 4095 is taken for 4096."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        if frame.get("type") == "hello" and frame.get("limits") == {"max_frame": 4095}:
            return read(frame | {"limits": {"max_frame": 4096}})
        return None

    on_frame(patch, look)


@mutant(
    "ses/resume-looked-at",
    violates="SES-13",
    killed_by=["negotiation/resume-ignored-string", "negotiation/resume-ignored-null"],
    says='"welcome"',
)
def _(patch: Patch) -> None:
    """A `resume` that is no object is a fault."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        odd = frame.get("type") == "hello" and not isinstance(frame.get("resume", {}), dict)
        return core.close(4005) if odd else None

    on_frame(patch, look)


# Drain


@mutant("ses/after-beyond-deadline", violates="SES-38", killed_by="ses/goaway", says="is above deadline_ms")
def _(patch: Patch) -> None:
    """The client may come later than it is thrown out."""

    def change(frame: Row) -> Row | None:
        if frame["type"] != "goaway":
            return None
        return frame | {"after_ms": cast("int", frame["deadline_ms"]) + 1}

    on_write(patch, change)


@mutant("ses/goaway-missing", violates="SES-38", killed_by="ses/goaway", says='expected "goaway"')
def _(patch: Patch) -> None:
    """A drain is not announced when its deadline is near."""

    def drain(
        original: Callable[..., Effects], self: Connection, after: int, deadline: int, now: float
    ) -> Effects:
        done = original(self, after, deadline, now)
        if deadline < 10:
            self._outgoing._urgent.clear()
        return done

    patch.wrap(Connection, "drain", drain)


@mutant(
    "ses/after-fixed", violates="SES-39", killed_by="ses/goaway-spreads-clients", says="the same after_ms"
)
def _(patch: Patch) -> None:
    """Every client is to move at the same moment."""
    on_write(patch, lambda frame: frame | {"after_ms": 0} if frame["type"] == "goaway" else None)


@mutant(
    "ses/draining-serves",
    violates="SES-40",
    killed_by=["ses/draining-refuses"],
    says='expected error "draining"',
)
def _(patch: Patch) -> None:
    """A draining connection serves new publishes."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        if core.phase is not Phase.DRAINING or frame.get("type") != "publish":
            return None
        core.phase = Phase.READY
        done = read(frame)
        core.phase = Phase.DRAINING
        return done

    on_frame(patch, look)


@mutant(
    "ses/drain-cancels",
    violates="SES-41",
    killed_by="ses/draining-lets-work-finish",
    says='got error "unavailable"',
)
def _(patch: Patch) -> None:
    """A drain ends the subscriptions at once."""

    def go(original: Callable[..., None], self: Connection, now: float) -> None:
        original(self, now)
        for id, exchange in list(self.session.exchanges.running.items()):
            if exchange.pool is Pool.SUBSCRIPTIONS:
                self.session.fail(id, ExchangeError(ErrorCode.UNAVAILABLE, "going", retry_ms=0))

    patch.wrap(Connection, "_go_away", go)


@mutant(
    "ses/drain-ends-early",
    violates="SES-41",
    killed_by="ses/drain-deadline",
    says="after the drain began",
)
def _(patch: Patch) -> None:
    """The deadline of a drain comes in half the time."""

    def go(original: Callable[..., None], self: Connection, now: float) -> None:
        original(self, now)
        self._clock.drained_at = now + (self._clock.drained_at - now) / 4

    patch.wrap(Connection, "_go_away", go)


@mutant(
    "ses/deadline-with-1001",
    violates="SES-42",
    killed_by="ses/drain-deadline",
    says="it was closed with 1001",
)
def _(patch: Patch) -> None:
    """The deadline of a drain closes with 1001."""
    on_close(patch, lambda core, code: 1001 if code == 4200 else code)


@mutant("ses/deadline-forgotten", violates="SES-42", killed_by="ses/drain-deadline", says="it is still open")
def _(patch: Patch) -> None:
    """A drain has no end while work is running."""

    def change(core: Connection, code: int) -> int | None:
        if code != 4200:
            return code
        core._clock.drained_at = NEVER
        return None

    on_close(patch, change)


# The end


@mutant(
    "ses/work-outlives-session",
    violates="SES-45",
    killed_by="ses/end-cancels-work",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Requests go on after the end of their session."""

    patch.set(Session, "end", lambda self: None)
    table = cast("MutableMapping[type, Callable[..., None]]", server.APPLY)
    patch.item(table, effects.Stop, lambda self, effect: self._work.pop(effect.id, None))


# Tools


class Repeated(frozenset[str]):
    """Names that come as often as they were wanted."""

    wanted: list[str]

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self.wanted if name in self])


def set_timers(patch: Patch, **timers: int) -> None:
    """Change timers of the server, and not what the target file says of them."""

    def changed(config: Config) -> Config:
        return replace(config, timers=replace(config.timers, **timers))

    patch.config = changed


def unready(patch: Patch, instead: Effects | None) -> None:
    """Read on before welcome; what is read is answered by `instead`, None for what the server would do."""

    def may_read(original: Callable[..., bool], self: Connection) -> bool:
        greeting, self._greeting = self._greeting, False
        may = original(self)
        self._greeting = greeting
        return may

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        return instead if core._greeting else None

    patch.wrap(Connection, "may_read", may_read)
    on_frame(patch, look)
