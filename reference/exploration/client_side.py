"""The client of the model: the real core, and an application that does what its script says and remembers
what it was told.

Each line of the script has a name, under which the application knows it, whatever ids it gets in whichever
sessions. A request calls the method of its name, so that the server side can tell what ran.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from holdfast_reference.client import calls
from holdfast_reference.client.core import ClientCore
from holdfast_reference.client.effects import Arrived, Lost
from holdfast_reference.client.errors import BadServerFrame, RequestError
from holdfast_reference.client.frames import Chunk, Event, Gap, Opened, Pong, Result, Welcome

from exploration.channel import CHANNEL, place
from exploration.search import Violation
from exploration.server_side import CHUNKS, NOW, Closed, Said

if TYPE_CHECKING:
    from collections.abc import Hashable

    from holdfast_reference.client.effects import Effect
    from holdfast_reference.client.exchanges import Fate

    from exploration.search import Label

MAX_FRAME = 4096


class Line(NamedTuple):
    """What the application does, and what it calls that; of a cancel, what it cancels."""

    verb: Literal["request", "stream", "subscribe", "publish", "auth", "ping", "cancel"]
    name: str


class Hello(NamedTuple):
    """The client opened the next connection and said this."""

    text: str


class Wrote(NamedTuple):
    """The client wrote this on the connection that it takes for that of its session."""

    link: int
    text: str


class Left(NamedTuple):
    """The client has no more use for connections older than its newest."""


@dataclass(frozen=True, slots=True)
class Story:
    """What the application knows of one line.

    Attributes:
        outcome: how it ended, "" before that.
        place: number of the last event that it has or knows to be lost, or of the last chunk; -1 before.
        fate: what it was told when its session was lost.
    """

    outcome: str = ""
    place: int = -1
    fate: Fate | None = None
    cancelled: bool = False


class ClientSide:
    """The client core and its application, as one state.

    Args:
        profiles: what it asks for in its first session; `later` is what it asks for after that.
        script: what the application does, in this order.
        refusals: codes with which a resume may be refused.
        acks: whether it acknowledges anything, as it must.
    """

    def __init__(
        self,
        profiles: tuple[str, ...],
        later: tuple[str, ...],
        script: tuple[Line, ...],
        refusals: frozenset[str],
        acks: bool,
    ) -> None:
        self.core = ClientCore()
        self.profiles = profiles
        self.later = later
        self.script = script
        self.refusals = refusals
        self.acks = acks
        self.done = 0
        """Lines of the script that were carried out."""
        self.stories: dict[str, Story] = {}
        self.names: dict[int, str] = {}  # of the unfinished exchanges, by id
        self._out: list[Hello | Wrote | Left] = []

    def apply(self, action: Label) -> tuple[Hello | Wrote | Left, ...]:
        """Carry out one action; return what it made the client write.

        Raises:
            Violation: an invariant does not hold.
        """
        self._out = []
        match action:
            case "read", Said(link, text, truth):
                self._read(link, text, truth)
            case "read", Closed(link, code):
                self._closed(link, code)
            case "eof", int(link):
                self.core.closed(None, link)
            case ("dial",):
                profiles = self.profiles if self.core.welcome is None else self.later
                token = str(2 * self.core.link + 2)
                self._out.append(Hello(self.core.hello(profiles, token=token, max_frame=MAX_FRAME)))
            case ("ack",):
                self._write(self.core.received.due)
            case ("do",):
                self._do(self.script[self.done])
                self.done += 1
            case _:
                raise AssertionError(action)
        self._write(NOW)
        return tuple(self._out)

    def _write(self, now: float) -> None:
        while (text := self.core.urgent(now)) is not None:
            if self.acks:
                self._out.append(Wrote(self.core.reading, text))
        while self.core.outbox:
            self._out.append(Wrote(self.core.reading, self.core.outbox.popleft()))

    def _do(self, line: Line) -> None:
        match line.verb:
            case "cancel":
                self.stories[line.name] = replace(self.stories[line.name], cancelled=True)
                for id, name in self.names.items():
                    if name == line.name:
                        self.core.cancel(id)
                return
            case "ping":
                self.core.ping()
                return
            case "request":
                call = calls.request(line.name)
            case "stream":
                call = calls.request(line.name, stream=True)
            case "auth":
                call = calls.auth(str(2 * self.core.link + 1))
            case "subscribe":
                call = calls.subscribe(CHANNEL)
            case "publish":
                dedupe = line.name if "history" in self.profiles else None
                call = calls.publish(CHANNEL, line.name, dedupe=dedupe)
        self.stories[line.name] = Story()
        self.names[self.core.start(call, NOW)] = line.name

    # What it is told.

    def _read(self, link: int, text: str, truth: int) -> None:
        got = self.core.received.got
        try:
            effects = self.core.receive(text, NOW, link)
        except BadServerFrame as error:
            raise Violation(
                "what arrives may arrive: EX-1, EX-2, I2 [RPC-01] [DEL-30]", f"{error}: {text}"
            ) from error
        numbered = "seq" in json.loads(text)
        if numbered and effects and self.core.received.got != got + 1:
            raise Violation("I2: each seq is handled once [DEL-30]", text)
        for effect in effects:
            self._hear(effect, truth)
        if effects and isinstance(effects[0], Welcome):
            self._out.append(Left())

    def _hear(self, effect: Effect, truth: int) -> None:
        match effect:
            case Arrived(id, item):
                name = self.names[id]
                story = self.stories[name]
                match item:
                    case Opened():
                        story = replace(story, place=self._opened(story, item, truth))
                    case Event(data=number):
                        if number != story.place + 1:
                            detail = f"event {number} after {story.place} for {name!r}"
                            raise Violation("I1: no event is lost, doubled or out of order [DEL-01]", detail)
                        story = replace(story, place=story.place + 1)
                    case Chunk(data=number):
                        if number != max(story.place, 0) + 1:
                            detail = f"chunk {number} after {story.place} for {name!r}"
                            raise Violation("no chunk is lost, doubled or out of order [RPC-19]", detail)
                        story = replace(story, place=max(story.place, 0) + 1)
                    case Gap():
                        story = replace(story, place=self._gap(story, item))
                    case Result() | RequestError():
                        story = replace(story, outcome=self._outcome(name, item))
                        del self.names[id]
                self.stories[name] = story
            case Lost():
                self._lost(effect)
            case Pong(held=False) if "fence" in self.profiles:
                for name, story in self.stories.items():
                    if 0 <= story.place < truth and not story.outcome:
                        detail = f"{name!r} stands at {story.place}, {truth} were published before the ping"
                        raise Violation("a pong that is not held is a proof [DEL-15]", detail)
            case Welcome(refused=refused):
                if refused is not None and refused not in self.refusals:
                    raise Violation("I7: a resume can be repeated [RES-16]", f"refused: {refused}")

    def _opened(self, story: Story, opened: Opened, truth: int) -> int:
        begins = truth if opened.cursor is None else place(opened.cursor)
        if story.place >= 0 and opened.cursor is not None and opened.reason is None and begins != story.place:
            detail = f"{story.place} became {begins}"
            raise Violation("I1: a lost session is no lost place [HIS-05] [RES-43]", detail)
        if opened.recovered is None and begins != truth:
            raise Violation("I1: open.cursor is where its events begin [HIS-02]", f"{begins}, not {truth}")
        return begins

    def _gap(self, story: Story, gap: Gap) -> int:
        if gap.cursor is not None:
            ends = place(gap.cursor)
            if gap.reason == "overflow":
                raise Violation("I1: with a log overflow is no loss [DEL-35]", f"gap up to {ends}")
        else:
            assert gap.missed is not None
            ends = story.place + gap.missed
        if ends <= story.place:
            raise Violation("I1: a gap stands for events that are missing [DEL-05]", f"{ends}")
        return ends

    def _outcome(self, name: str, item: Result | RequestError) -> str:
        story = self.stories[name]
        if story.outcome:
            raise Violation("I3: one outcome [RPC-01]", f"{name!r} had {story.outcome}")
        if isinstance(item, Result):
            if self.verb_of(name) == "stream" and story.place < CHUNKS:
                raise Violation(
                    "no chunk is lost, doubled or out of order [RPC-19]", f"{name!r}: {story.place}"
                )
            return "result"
        overtaken = self.verb_of(name) == "auth"  # by the hello of a newer connection [RES-47]
        if item.code != "cancelled" or not (story.cancelled or overtaken):
            raise Violation("nobody refuses an honest client", f"{name!r} ended with {item}")
        return item.code

    def verb_of(self, name: str) -> str:
        """What a name began as."""
        return next(line.verb for line in self.script if line.name == name and line.verb != "cancel")

    def _lost(self, lost: Lost) -> None:
        name = self.names.pop(lost.id)
        story = replace(self.stories[name], fate=lost.fate)
        if lost.again is None:
            story = replace(story, outcome="session_lost")
        else:
            self.names = {**self.names, lost.again: name}
        self.stories[name] = story

    def _closed(self, link: int, code: int) -> None:
        if self.core.closed(code, link) is None:
            return
        if code == 4008:
            name = "I5: only another client can supersede this one [RES-19] [RES-45]"
        else:
            name = "an honest client is not closed [ERR-09]"
        raise Violation(name, f"close {code} on connection {link}")

    # The state as a value.

    def copy(self) -> ClientSide:
        twin = ClientSide.__new__(ClientSide)
        twin.__dict__.update(self.__dict__)
        twin.core = self.core.copy()
        twin.stories = self.stories.copy()
        twin.names = self.names.copy()
        return twin

    def key(self) -> Hashable:
        return (
            self.core.key(),
            self.done,
            tuple(sorted(self.stories.items(), key=lambda item: item[0])),
            tuple(sorted(self.names.items())),
        )
