"""Client, server, and the wires between them, with everything that can happen to them in any order.

A wire is a connection: what was written and not read yet, in both directions. It can be cut at any time.
Then nothing more can be written, but each end may go on reading what is there, and notices the end when it
likes: so any suffix is lost, in both directions, and the server may read old input before or after another
connection has taken its session over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from holdfast_reference.client.exchanges import Fate
from holdfast_reference.protocol.greeting import Settings
from holdfast_reference.protocol.limits import Limits

from exploration.client_side import ClientSide, Hello, Left, Line, Story, Wrote
from exploration.search import Component, Violation
from exploration.server_side import Closed, Said, ServerSide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exploration.search import Label, State


class Wire(NamedTuple):
    """One connection.

    Attributes:
        up: what the client wrote and the server has not read.
        down: what the server wrote and the client has not read.
        client: whether the client still looks at it.
        server: whether the server does.
        cut: whether nothing can be written any more.
        closed: whether the server has closed it; what stands in `up` then must not be acted on.
    """

    up: tuple[str, ...] = ()
    down: tuple[Said | Closed, ...] = ()
    client: bool = True
    server: bool = True
    cut: bool = False
    closed: bool = False


GONE = Wire(client=False, server=False, cut=True)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may happen, and how often.

    Attributes:
        script: what the application does, in this order, at any time.
        cuts: connections that are cut.
        dials: connections that the client opens.
        impatient: connections that the client opens though it has one that lives.
        events: that somebody else publishes.
        expiries: suspended sessions that end because their time is over.
        trims: times that the log forgets all its events.
        strangers: somebody else who knows the name of the session tries to resume it.
        profiles, window, queue: of the session.
        later: profiles that the client asks for when it connects again; None for the same.
        logged: whether the channel keeps a log.
        slow: whether the server takes its time to look at the credentials of a hello.
        refusals: codes with which a resume may be refused.
        acks: whether the client acknowledges what arrives; one that does not may wait for ever.
    """

    script: tuple[Line, ...]
    cuts: int = 1
    dials: int = 3
    impatient: int = 0
    events: int = 0
    expiries: int = 0
    trims: int = 0
    strangers: int = 0
    profiles: tuple[str, ...] = ("rpc", "pubsub", "ack", "resume")
    window: int = 2
    queue: int = 2
    logged: bool = False
    later: tuple[str, ...] | None = None
    slow: bool = False
    refusals: frozenset[str] = frozenset()
    acks: bool = True


#: Where the counters stand in a state, behind the client, the server and the number of wires.
CLIENT, SERVER, CUTS, IMPATIENT, EVENTS, EXPIRIES, TRIMS, STRANGERS, WIRES = range(9)


class World:
    """The model of a scenario; see `search.Model`."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.clients: Component[ClientSide] = Component()
        self.servers: Component[ServerSide] = Component()
        self.wires: list[Wire] = []
        self._wire_numbers: dict[Wire, int] = {}

    def start(self) -> State:
        bounds = self.bounds
        limits = Limits(
            max_inflight=4, max_subscriptions=4, queue=bounds.queue, window=bounds.window, resume_ms=1000
        )
        client = self.clients.number(
            ClientSide(
                bounds.profiles, bounds.later or bounds.profiles, bounds.script, bounds.refusals, bounds.acks
            )
        )
        server = self.servers.number(
            ServerSide(Settings(limits=limits), bounds.profiles, bounds.logged, bounds.slow)
        )
        budget = (
            bounds.cuts,
            bounds.impatient,
            bounds.events,
            bounds.expiries,
            bounds.trims,
            bounds.strangers,
        )
        # The first connection is there; the story begins with its hello on the way.
        return self._client_step((client, server, *budget), ("dial",))

    # What can happen.

    def steps(self, state: State) -> Iterator[tuple[Label, Callable[[], State]]]:
        for label, follow, _ in self._steps(state):
            yield label, follow

    def _steps(self, state: State) -> Iterator[tuple[Label, Callable[[], State], bool]]:
        """Every step: its label, what it leads to, and whether it is bound to happen some time."""
        yield from self._client_steps(state)
        yield from self._server_steps(state)
        for link, number in enumerate(state[WIRES:], 1):
            if number:
                yield from self._wire_steps(state, link, self.wires[number])

    def _client_steps(self, state: State) -> Iterator[tuple[Label, Callable[[], State], bool]]:
        client = self.clients.states[state[CLIENT]]
        bounds, core = self.bounds, client.core
        if client.done < len(bounds.script) and core.welcome is not None:
            yield ("client", "do"), lambda: self._client_step(state, ("do",)), False
        if core.ready and core.received.due < float("inf"):
            yield ("client", "ack"), lambda: self._client_step(state, ("ack",)), True
        if core.link < bounds.dials:
            lives = self.wires[state[-1]].client
            if not lives:
                yield ("client", "dial"), lambda: self._client_step(state, ("dial",)), True
            elif state[IMPATIENT]:
                yield (
                    ("client", "dial again"),
                    lambda: self._client_step(_spend(state, IMPATIENT), ("dial",)),
                    False,
                )

    def _server_steps(self, state: State) -> Iterator[tuple[Label, Callable[[], State], bool]]:
        server = self.servers.states[state[SERVER]]
        for action, bound in server.options():
            if bound:
                yield ("server", *action), lambda action=action: self._server_step(state, action), True  # type: ignore[misc]  # mypy cannot type defaults of lambdas
            elif state[EXPIRIES]:
                yield (
                    ("server", *action),
                    lambda action=action: self._server_step(_spend(state, EXPIRIES), action),  # type: ignore[misc]  # the same
                    False,
                )
        if state[EVENTS]:
            yield ("server", "publish"), lambda: self._server_step(_spend(state, EVENTS), ("publish",)), False
        if state[TRIMS] and server.trimmed < server.events:
            yield ("server", "trim"), lambda: self._server_step(_spend(state, TRIMS), ("trim",)), False
        if state[STRANGERS]:
            for origin in sorted(server.witness.begun):
                yield (
                    ("server", "stranger", origin),
                    lambda origin=origin: self._server_step(_spend(state, STRANGERS), ("stranger", origin)),  # type: ignore[misc]  # the same
                    False,
                )

    def _wire_steps(
        self, state: State, link: int, wire: Wire
    ) -> Iterator[tuple[Label, Callable[[], State], bool]]:
        if wire.client:
            if wire.down:
                yield ("down", link, wire.down[0]), lambda: self._down(state, link, wire), True
            if wire.cut:
                yield ("client notices", link), lambda: self._client_eof(state, link, wire), True
        if wire.server:
            if wire.closed:
                if wire.up:
                    yield ("up late", link, wire.up[0]), lambda: self._late(state, link, wire), False
            else:
                if wire.up and self._may_read(state, link):
                    yield ("up", link, wire.up[0]), lambda: self._up(state, link, wire), True
                if wire.cut:
                    yield ("server notices", link), lambda: self._server_eof(state, link, wire), True
        if not wire.cut and not wire.closed and state[CUTS]:
            cut = wire._replace(cut=True)
            yield ("cut", link), lambda: self._with(_spend(state, CUTS), link, cut), False

    def _may_read(self, state: State, link: int) -> bool:
        connection = self.servers.states[state[SERVER]].links.get(link)
        return connection is None or connection.may_read()

    def _down(self, state: State, link: int, wire: Wire) -> State:
        said = wire.down[0]
        rest = wire._replace(down=wire.down[1:])
        if isinstance(said, Closed):
            rest = wire._replace(down=(), client=False, cut=True)
        return self._client_step(self._with(state, link, rest), ("read", said))

    def _up(self, state: State, link: int, wire: Wire) -> State:
        rest = wire._replace(up=wire.up[1:])
        return self._server_step(self._with(state, link, rest), ("read", link, wire.up[0]))

    def _late(self, state: State, link: int, wire: Wire) -> State:
        """The server comes to what an older connection had brought."""
        rest = wire._replace(up=(), server=False)
        return self._server_step(self._with(state, link, rest), ("read", link, wire.up[0]))

    def _client_eof(self, state: State, link: int, wire: Wire) -> State:
        rest = wire._replace(down=(), client=False)
        return self._client_step(self._with(state, link, rest), ("eof", link))

    def _server_eof(self, state: State, link: int, wire: Wire) -> State:
        rest = wire._replace(up=(), server=False)
        after = self._with(state, link, rest)
        if link not in self.servers.states[state[SERVER]].links:
            return after  # not even its hello was read
        return self._server_step(after, ("eof", link))

    # What follows.

    def _client_step(self, state: State, action: Label) -> State:
        client, out = self.clients.step(state[CLIENT], action)
        wires = list(state[WIRES:])
        for each in out:  # type: ignore[attr-defined]  # a tuple, by `ClientSide.apply`
            match each:
                case Hello(text):
                    wires.append(self._number(Wire(up=(text,))))
                case Wrote(link, text):
                    wire = self.wires[wires[link - 1]]
                    if not wire.cut and not wire.closed:
                        wires[link - 1] = self._number(wire._replace(up=(*wire.up, text)))
                case Left():
                    for at in range(len(wires) - 1):
                        older = self.wires[wires[at]]
                        wires[at] = self._number(older._replace(down=(), client=False, cut=True))
        return (client, *state[SERVER:WIRES], *wires)

    def _server_step(self, state: State, action: Label) -> State:
        server, out = self.servers.step(state[SERVER], action)
        wires = list(state[WIRES:])
        for each in out:  # type: ignore[attr-defined]  # a tuple, by `ServerSide.apply`
            wire = self.wires[wires[each.link - 1]]
            if isinstance(each, Closed):
                wire = wire._replace(closed=True)
            if wire.client and not wire.cut:
                wire = wire._replace(down=(*wire.down, each))
            wires[each.link - 1] = self._number(wire)
        return (state[CLIENT], server, *state[CUTS:WIRES], *wires)

    def _with(self, state: State, link: int, wire: Wire) -> State:
        at = WIRES + link - 1
        return (*state[:at], self._number(wire), *state[at + 1 :])

    def _number(self, wire: Wire) -> int:
        """The number of a wire; 0 is one that nobody looks at."""
        if not wire.client and (not wire.server or (wire.closed and not wire.up)):
            wire = GONE
        if not self.wires:
            self._wire_numbers[GONE] = 0
            self.wires.append(GONE)
        number = self._wire_numbers.setdefault(wire, len(self.wires))
        if number == len(self.wires):
            self.wires.append(wire)
        return number

    # What must hold when nothing is on its way.

    def check(self, state: State) -> None:
        """In a state that has only itself to wait for, everything that began has ended, or is up to date."""
        if not self.bounds.acks or any(bound for _, _, bound in self._steps(state)):
            return
        client = self.clients.states[state[CLIENT]]
        server = self.servers.states[state[SERVER]]
        if not client.core.ready:
            if client.core.link < self.bounds.dials:
                raise Violation("I6, I7: the client gets a session [RES-26] [RES-27]", "nobody answers it")
            return  # it may not connect again: here the model ends, not the protocol
        session = server.links[client.core.link].session
        for name, story in client.stories.items():
            self._check_story(name, client.verb_of(name), story, server)
        if session.outgoing.sent != session.outgoing.acked or any(session.outgoing.counts):
            raise Violation(
                "nobody is stuck: everything is sent and acknowledged [DEL-24] [DEL-28]", session.origin
            )
        if session.outgoing.acked != client.core.received.got:
            raise Violation("both sides agree on what has arrived [DEL-28]", session.origin)
        theirs, ours = sorted(session.exchanges.running), sorted(client.core.exchanges)
        if theirs != ours:
            raise Violation("both sides agree on what runs: EX-1, I3 [RPC-01]", f"{ours} and {theirs}")

    def _check_story(self, name: str, verb: str, story: Story, server: ServerSide) -> None:
        if verb == "subscribe" and not story.cancelled and not story.outcome:
            if story.place != server.events:
                detail = f"{name!r} stands at {story.place}, the channel at {server.events}"
                raise Violation("I1: nothing is lost in silence [DEL-01]", detail)
        elif not story.outcome:
            raise Violation("EX-1: everything ends [RPC-01]", f"{name!r} waits for ever")
        if verb in ("request", "stream"):
            ran = name in server.witness.ran
            if (story.outcome == "result" and not ran) or (
                story.outcome == "session_lost" and ran is (story.fate is Fate.NOT_ACCEPTED)
            ):
                raise Violation("last_id tells what ran [RES-31] [RES-43]", f"{name!r}: {story}, ran: {ran}")


def _spend(state: State, counter: int) -> State:
    return (*state[:counter], state[counter] - 1, *state[counter + 1 :])
