"""A core with the smallest application around it, for tests that speak in frames."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol import (
    Connection,
    ErrorCode,
    Event,
    ExchangeError,
    Grant,
    Limits,
    Payload,
    Rate,
    Session,
    Sessions,
    Settings,
)
from holdfast_reference.protocol import effects as did

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Action

Frame = dict[str, object]
ALL = ("rpc", "pubsub", "pattern", "fence")
EVERY = (*ALL, "ack", "resume", "history")


class Allow:
    """Permissions by the beginning of a name: everything but what starts with one of these."""

    def __init__(self, *denied: str) -> None:
        self._denied = denied

    def may(self, action: Action, name: str) -> bool:
        return not name.startswith(self._denied) if self._denied else True


EVERYTHING = Allow()


class Server:
    """What the peers of one server share: sessions, a broker, and who subscribed to what.

    Every method but `echo` hangs.
    """

    def __init__(self, settings: Settings | None = None, broker: MemoryBroker | None = None) -> None:
        self.now = 100.0
        self.sessions = Sessions(settings or Settings())
        self.broker = broker or MemoryBroker(clock=lambda: self.now)
        self.peers: dict[str, Peer] = {}
        self.subscribers: dict[str, dict[int, tuple[did.Subscribe, _Subscriber]]] = {}  # by origin

    def carry_out(self, session: Session, effect: did.Effect) -> None:
        """Do what the core asks for a session."""
        if isinstance(effect, did.Call):
            if effect.method == "echo":
                payload = None if effect.data is None else Payload(effect.data, effect.base64)
                self.apply(session, session.succeed(effect.id, payload))
        elif isinstance(effect, did.Publish):
            self.broker.publish(
                effect.event,
                effect.dedupe,
                lambda outcome: self.apply(session, session.published(effect.id, outcome)),
            )
        elif isinstance(effect, did.Subscribe):
            subscriber = _Subscriber(session, effect.id)
            self.subscribers.setdefault(session.origin, {})[effect.id] = (effect, subscriber)
            self.broker.subscribe(effect.name, effect.pattern, subscriber)
            log = None if effect.pattern else self.broker.log(effect.name)
            self.apply(session, session.opened(effect.id, log, effect.start))
        elif isinstance(effect, did.History):
            self.apply(session, session.listed(effect, self.broker.log(effect.channel)))
        elif isinstance(effect, did.Stop):
            self._drop(self.subscribers.get(session.origin, {}).pop(effect.id, None))
        elif isinstance(effect, did.Ended):
            for found in self.subscribers.pop(effect.origin, {}).values():
                self._drop(found)

    def apply(self, session: Session, wanted: Effects) -> None:
        for effect in wanted:
            self.carry_out(session, effect)

    def _drop(self, found: tuple[did.Subscribe, _Subscriber] | None) -> None:
        if found is not None:
            self.broker.unsubscribe(found[0].name, found[0].pattern, found[1])

    def publish(self, channel: str, data: object) -> None:
        """Publish as the server itself."""
        self.broker.publish(Event(channel, Payload(json.dumps(data).encode())))


class _Subscriber:
    def __init__(self, session: Session, id: int) -> None:
        self._session = session
        self._id = id

    def deliver(self, event: Event) -> None:
        self._session.deliver(self._id, event, lossy=True)


class Peer:
    """A client of a core, with an application that knows tokens and answers `echo`.

    `effects` collects what the core asked for, `closed` is its close code.
    """

    tokens: Mapping[str, Grant] = {
        "alice": Grant("alice", EVERYTHING),
        "narrow": Grant("alice", Allow("restricted/")),
        "brief": Grant("alice", EVERYTHING, expires_in_ms=400),
        "alice brief": Grant("alice", EVERYTHING, expires_in_ms=400),
        "limited": Grant("alice", EVERYTHING, limits=Limits(rate=Rate(2, 60_000))),
        "bob": Grant("bob", EVERYTHING),
        "anybody": Grant("anonymous:1", EVERYTHING, anonymous=True),
        "anybody else": Grant("anonymous:2", EVERYTHING, anonymous=True),
    }

    def __init__(
        self,
        settings: Settings | None = None,
        broker: MemoryBroker | None = None,
        conn: str = "c-1",
        server: Server | None = None,
    ) -> None:
        self.server = server or Server(settings, broker)
        self.core = Connection(self.server.sessions, conn, f"secret of {conn}", self.now)
        self.server.peers[conn] = self
        self.effects: list[did.Effect] = []
        self.closed: int | None = None
        self.slow_to_authenticate = False

    @property
    def now(self) -> float:
        return self.server.now

    @property
    def session(self) -> Session:
        return self.core.session

    def send(self, *frames: Frame | bytes) -> list[Frame]:
        """Send frames; everything that the server writes then."""
        for frame in frames:
            text = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
            self.apply(self.core.receive(text, self.now))
        return self.read()

    def hello(self, *profiles: str, token: str = "alice", **fields: object) -> list[Frame]:
        """Say hello with all profiles, or with these."""
        auth = {"scheme": "bearer", "token": token}
        return self.send({"type": "hello", "profiles": profiles or ALL, "auth": auth, **fields})

    def read(self, size: int = 2**40) -> list[Frame]:
        """Let about so many bytes be written."""
        texts = self.core.peek(size)
        if texts:
            self.core.written(len(texts), self.now)
        return [json.loads(text) for text in texts]

    def at(self, seconds: float) -> list[Frame]:
        """Let time pass until so many seconds after the last moment; what the server writes then."""
        self.server.now += seconds
        self.apply(self.core.tick(self.now))
        self.apply(self.server.sessions.tick(self.session, self.now))
        return self.read()

    def lose(self, code: int = 1006) -> None:
        """End the connection: with a close frame, or without one."""
        self.apply(self.core.closed(code, self.now))

    def apply(self, wanted: Effects) -> None:
        """Carry out what the core asks."""
        for effect in wanted:
            self.effects.append(effect)
            if isinstance(effect, did.Authenticate):
                self._authenticate(effect)
            elif isinstance(effect, did.Close):
                self.closed = effect.code
            elif isinstance(effect, did.Supersede):
                self.server.peers[effect.conn].apply([effect.close])
            else:
                self.server.carry_out(self.session, effect)

    def _authenticate(self, effect: did.Authenticate) -> None:
        if not self.slow_to_authenticate:
            self.authenticate(effect)

    def authenticate(self, effect: did.Authenticate) -> None:
        """Answer the core's question."""
        shown = effect.credentials
        grant = self.tokens.get(shown.token) if shown is not None and shown.scheme == "bearer" else None
        if grant is None:
            error = ExchangeError(ErrorCode.UNAUTHENTICATED, "unknown")
            self.apply(self.core.denied(effect.id, error))
        else:
            self.apply(self.core.granted(effect.id, grant, self.now))


def ready(settings: Settings | None = None, *profiles: str, broker: MemoryBroker | None = None) -> Peer:
    """A peer that has had its welcome."""
    peer = Peer(settings, broker)
    peer.hello(*profiles)
    return peer


def code(frames: list[Frame]) -> object:
    """The code of the only frame, an `error`."""
    (frame,) = frames
    assert frame["type"] == "error", frame
    error = frame["error"]
    assert isinstance(error, dict)
    return error["code"]
