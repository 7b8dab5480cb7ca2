"""A core with the smallest application around it, for tests that speak in frames."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol import Connection, ErrorCode, Event, ExchangeError, Grant, Payload, Settings
from holdfast_reference.protocol import effects as did

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Action

Frame = dict[str, object]
ALL = ("rpc", "pubsub", "pattern", "fence")


class Allow:
    """Permissions by the beginning of a name: everything but what starts with one of these."""

    def __init__(self, *denied: str) -> None:
        self._denied = denied

    def may(self, action: Action, name: str) -> bool:
        return not name.startswith(self._denied) if self._denied else True


EVERYTHING = Allow()


class _Subscriber:
    def __init__(self, peer: Peer, id: int) -> None:
        self._peer = peer
        self._id = id

    def deliver(self, event: Event) -> None:
        self._peer.core.deliver(self._id, event, lossy=True)


class Peer:
    """A client of a core, with an application that knows tokens and answers `echo`.

    Every other method hangs; `effects` collects what the core asked for, `closed` is its close code.
    """

    tokens: Mapping[str, Grant] = {
        "alice": Grant("alice", EVERYTHING),
        "narrow": Grant("alice", Allow("restricted/")),
        "brief": Grant("alice", EVERYTHING, expires_in_ms=400),
        "bob": Grant("bob", EVERYTHING),
    }

    def __init__(
        self, settings: Settings | None = None, broker: MemoryBroker | None = None, conn: str = "c-1"
    ) -> None:
        self.now = 100.0
        self.core = Connection(settings or Settings(), conn, self.now)
        self.effects: list[did.Effect] = []
        self.closed: int | None = None
        self.slow_to_authenticate = False
        self._broker = broker or MemoryBroker()
        self._subscribers: dict[int, tuple[did.Subscribe, _Subscriber]] = {}

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
        self.now += seconds
        self.apply(self.core.tick(self.now))
        return self.read()

    def apply(self, wanted: Effects) -> None:
        """Carry out what the core asks."""
        for effect in wanted:
            self.effects.append(effect)
            _CARRY_OUT[type(effect)](self, effect)

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

    def _call(self, effect: did.Call) -> None:
        if effect.method == "echo":
            payload = None if effect.data is None else Payload(effect.data, effect.base64)
            self.apply(self.core.succeed(effect.id, payload))

    def _publish(self, effect: did.Publish) -> None:
        self._broker.publish(effect.event)
        self.apply(self.core.succeed(effect.id, None))

    def _subscribe(self, effect: did.Subscribe) -> None:
        subscriber = _Subscriber(self, effect.id)
        self._subscribers[effect.id] = (effect, subscriber)
        self._broker.subscribe(effect.name, effect.pattern, subscriber)
        self.apply(self.core.opened(effect.id))

    def _stop(self, effect: did.Stop) -> None:
        found = self._subscribers.pop(effect.id, None)
        if found is not None:
            self._broker.unsubscribe(found[0].name, found[0].pattern, found[1])

    def _close(self, effect: did.Close) -> None:
        self.closed = effect.code


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


_CARRY_OUT: Mapping[type, Callable[..., None]] = {
    did.Authenticate: Peer._authenticate,
    did.Call: Peer._call,
    did.Publish: Peer._publish,
    did.Subscribe: Peer._subscribe,
    did.Stop: Peer._stop,
    did.Close: Peer._close,
}
