"""The server of the model: the real core, and an owner without sockets that does what the core asks.

The owner writes whatever the core gives at once: what waits in a socket is what the wire of the model holds.
Handlers, and looks at credentials, end when the model says so. Time stands still, but for what it lets pass.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from holdfast_reference.protocol.codec import encode_data
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.correlation import Pool
from holdfast_reference.protocol.effects import (
    Authenticate,
    Call,
    Close,
    Ended,
    Publish,
    Stop,
    Subscribe,
    Supersede,
)
from holdfast_reference.protocol.fates import NO_FRAME
from holdfast_reference.protocol.grants import Credentials, Grant
from holdfast_reference.protocol.logs import Published
from holdfast_reference.protocol.resume import Sessions
from holdfast_reference.protocol.states import Phase
from holdfast_reference.protocol.timers import NEVER

from exploration.channel import LOG, event
from exploration.search import Violation
from exploration.witness import Everything, Witness

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from holdfast_reference.protocol.effects import Effect
    from holdfast_reference.protocol.greeting import Settings
    from holdfast_reference.protocol.session import Session

    from exploration.search import Label

NOW = 0.0
CHUNKS = 2
"""What every stream has, numbered from 1; then it ends."""
WRITE_BYTES = 1 << 20


class Said(NamedTuple):
    """A frame that the server wrote on connection `link`.

    `truth` is what only the model knows: with an `open`, where the events of the subscription begin; with a
    `pong`, how many events there were when its ping was read; -1 with everything else.
    """

    link: int
    text: str
    truth: int = -1


class Closed(NamedTuple):
    """The server closed connection `link`."""

    link: int
    code: int


Out = tuple[Said | Closed, ...]


class ServerSide:
    """The server core and what its owner keeps, as one state.

    Args:
        settings: of the core.
        profiles: that clients ask for.
        logged: whether the channel keeps a log.
        slow: whether it takes its time to look at the credentials of a hello.

    Attributes:
        links: connections, by number.
        sessions: those that have not ended, by the connection on which they began.
        calls: session and id of what runs.
        events: how many there were; `trimmed` of them are not in the log any more.
        witness: see there.
    """

    def __init__(self, settings: Settings, profiles: tuple[str, ...], logged: bool, slow: bool) -> None:
        self._profiles = profiles
        self._log = LOG if logged else None
        self._slow = slow
        self._known = Sessions(settings)
        self.links: dict[int, Connection] = {}
        self.sessions: dict[str, Session] = {}
        self.calls: frozenset[tuple[str, int]] = frozenset()
        self.events = self.trimmed = 0
        self.witness = Witness()
        self._subscriptions: frozenset[tuple[str, int]] = frozenset()
        self._greeting: dict[int, str] = {}  # the token of each hello that is being looked at
        self._tokens: dict[tuple[str, int], str] = {}  # that of each auth
        self._streams: dict[tuple[str, int], int] = {}  # chunks that each stream has had
        self._out: list[Said | Closed] = []

    def apply(self, action: Label) -> Out:
        """Carry out one action; return what it made the server write.

        Raises:
            Violation: an invariant does not hold afterwards.
        """
        LOG.first, LOG.end = self.trimmed, self.events
        self._out = []
        match action:
            case "read", int(link), str(text):
                self._read(link, text)
            case "eof", int(link):
                connection = self.links.pop(link)
                self._carry_out(connection, connection.closed(NO_FRAME, NOW))
                self.witness.asked.pop(link, None)
                self._greeting.pop(link, None)
            case "greet", int(link):
                self._greet(link)
            case "finish", str(origin), int(id):
                self._finish(origin, id)
            case "chunk", str(origin), int(id):
                self._streams[origin, id] = number = self._streams[origin, id] + 1
                self._serve(self.sessions[origin], self.sessions[origin].chunk(id, encode_data(number)))
            case ("publish",):
                self._publish()
            case ("trim",):
                self.trimmed = LOG.first = self.events
            case "expire", str(origin):
                session = self.sessions[origin]
                self._serve(session, self._known.tick(session, session.ends_at))
            case "stranger", str(origin):
                self._stranger(origin)
            case _:
                raise AssertionError(action)
        self._write()
        self.witness.check(self.sessions, self.links)
        return tuple(self._out)

    def options(self) -> list[tuple[Label, bool]]:
        """What can happen to it by itself, and whether it is bound to happen."""
        options: list[tuple[Label, bool]] = []
        for origin, id in sorted(self.calls):
            if self._streams.get((origin, id), CHUNKS) == CHUNKS:
                options.append((("finish", origin, id), True))
            elif not self.sessions[origin].chunk_waits(id):
                options.append((("chunk", origin, id), True))
        options += [(("greet", link), True) for link in sorted(self._greeting)]
        options += [
            (("expire", origin), False)
            for origin, session in self.sessions.items()
            if session.ends_at < NEVER
        ]
        return options

    # What happens to it.

    def _read(self, link: int, text: str) -> None:
        frame = json.loads(text)
        connection = self.links.get(link)
        if connection is None:
            name = f"c{link}"
            connection = self.links[link] = Connection(self._known, name, f"secret-{name}", NOW)
            if "resume" in frame:
                resume = frame["resume"]
                self.witness.asked[link] = (resume["session"].removeprefix("secret-"), resume["attempt"])
        if frame["type"] == "ping":
            self.witness.pinged[frame["t"]] = self.events
        late = connection.phase is Phase.CLOSED
        before = self._core_key() if late else None
        self._carry_out(connection, connection.receive(text.encode(), NOW))
        if late and before != self._core_key():
            raise Violation("nothing is acted on after a takeover [RES-31]", text)

    def _greet(self, link: int) -> None:
        """The look at the credentials of a hello is done."""
        self.witness.decides(link)
        connection = self.links[link]
        self._carry_out(connection, connection.granted(0, _grant(self._greeting.pop(link)), NOW))

    def _finish(self, origin: str, id: int) -> None:
        """A handler is done, or the look at the credentials of an auth."""
        self.calls -= {(origin, id)}
        session = self.sessions[origin]
        if session.is_running(id) and session.exchanges.running[id].pool is Pool.AUTH:
            assert session.attached is not None
            connection = session.attached
            self._carry_out(connection, connection.granted(id, _grant(self._tokens[origin, id]), NOW))
        else:
            self._serve(session, session.succeed(id, None))

    def _publish(self) -> None:
        self.events = LOG.end = self.events + 1
        for origin, id in sorted(self._subscriptions):
            session = self.sessions[origin]
            lossy = session.attached is None
            while not session.deliver(id, event(self.events), lossy=lossy):
                self._write()

    def _stranger(self, origin: str) -> None:
        """Somebody else, who has learned the secret name of a session, tries to resume it, and goes."""
        before = self._core_key()
        connection = Connection(self._known, "stranger", "secret-of-stranger", NOW)
        resume = {"session": f"secret-{origin}", "seq": 0, "attempt": 9}
        hello = {"type": "hello", "profiles": self._profiles, "resume": resume}
        connection.receive(json.dumps(hello).encode(), NOW)
        connection.granted(0, Grant("stranger", Everything(0)), NOW)
        welcome = connection.peek(WRITE_BYTES)[0].decode()
        if json.loads(welcome).get("resume_error") != {"code": "not_found"}:
            raise Violation("a stranger learns nothing [RES-18]", welcome)
        self._known.forget(connection.session)
        connection.closed(NO_FRAME, NOW)
        if before != self._core_key():
            raise Violation("a stranger changes nothing [RES-18]", welcome)

    # What the core asks for.

    def _carry_out(self, connection: Connection, effects: Iterable[Effect]) -> None:
        """Do what a connection asks for; what concerns its session is for `_serve`."""
        for effect in effects:
            match effect:
                case Authenticate(0, Credentials(token=token)):
                    link = int(connection.conn[1:])
                    self._greeting[link] = token
                    if not self._slow:
                        self._greet(link)
                case Close(code=code):
                    self._write()
                    self._out.append(Closed(int(connection.conn[1:]), code))
                case Supersede(conn, close):
                    self._out.append(Closed(int(conn[1:]), close.code))
                case _:
                    self._serve(connection.session, [effect])
        origin = connection.session.origin
        if connection.phase is Phase.READY and origin not in self.witness.begun:
            self.witness.begun |= {origin}
            self.sessions[origin] = connection.session

    def _serve(self, session: Session, effects: Iterable[Effect]) -> None:
        """Do what a session asks for."""
        origin = session.origin
        for effect in effects:
            match effect:
                case Call(id=id, method=method, stream=stream):
                    self.witness.runs(method)
                    self.calls |= {(origin, id)}
                    if stream:
                        self._streams[origin, id] = 0
                case Authenticate(id, Credentials(token=token)):
                    self.calls |= {(origin, id)}
                    self._tokens[origin, id] = token
                case Publish(id=id, dedupe=dedupe):
                    again = dedupe is not None and dedupe.key in self.witness.ran
                    if not again:
                        self.witness.runs("publish" if dedupe is None else dedupe.key)
                        self._publish()
                    cursor = None if self._log is None else self._log.cursor(self.events)
                    self._serve(session, session.published(id, Published(cursor, again)))
                case Subscribe(id=id, start=start):
                    self._subscriptions |= {(origin, id)}
                    self.witness.begins[origin, id] = self.events
                    self._serve(session, session.opened(id, self._log, start))
                case Stop(id):
                    self.calls -= {(origin, id)}
                    self._subscriptions -= {(origin, id)}
                case Ended(ended):
                    del self.sessions[ended]
                    self.witness.ended(ended)
                    self.calls = frozenset(call for call in self.calls if call[0] != ended)
                    self._subscriptions = frozenset(each for each in self._subscriptions if each[0] != ended)
                case _:
                    raise AssertionError(effect)

    def _write(self) -> None:
        """Write what may leave, on every connection."""
        for link, connection in self.links.items():
            while connection.pending and (texts := connection.peek(WRITE_BYTES)):
                connection.written(len(texts), NOW)
                for text in texts:
                    self._out.append(self._said(link, connection.session.origin, text.decode()))

    def _said(self, link: int, origin: str, text: str) -> Said:
        frame = json.loads(text)
        if "seq" in frame:
            self.witness.leaves(origin, frame["seq"], text)
        match frame["type"]:
            case "open":
                return Said(link, text, self.witness.begins[origin, frame["id"]])
            case "pong":
                return Said(link, text, self.witness.pinged[frame["t"]])
            case _:
                return Said(link, text)

    # The state as a value.

    def copy(self) -> ServerSide:
        twin = ServerSide.__new__(ServerSide)
        twin.__dict__.update(self.__dict__)
        twins: dict[Session, Session] = {}
        twin._known = self._known.copy(twins)
        twin.links = {link: each.copy(twin._known, twins) for link, each in self.links.items()}
        twin.sessions = {origin: twins[each] for origin, each in self.sessions.items()}
        twin.witness = self.witness.copy()
        twin._greeting = self._greeting.copy()
        twin._tokens = self._tokens.copy()
        twin._streams = self._streams.copy()
        return twin

    def _core_key(self) -> Hashable:
        """What the sessions are like, whoever is connected."""
        return (self._known.key(), self.witness.ran)

    def key(self) -> Hashable:
        return (
            self._known.key(),
            frozenset((link, each.key()) for link, each in self.links.items()),
            (self.calls, self._subscriptions, self.events, self.trimmed),
            tuple(frozenset(each.items()) for each in (self._greeting, self._tokens, self._streams)),
            self.witness.key(),
        )


def _grant(token: str) -> Grant:
    return Grant("client", Everything(int(token)))
