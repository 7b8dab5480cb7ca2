"""Mutants of spec/04-requests.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast_reference.protocol import intake, messages
from holdfast_reference.protocol.codec import encode_error, encode_result, tail
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.correlation import Exchanges, Pool
from holdfast_reference.protocol.effects import NOTHING, Call, Publish, Stop
from holdfast_reference.protocol.errors import CloseCode, ErrorCode, ExchangeError, ProtocolViolation
from holdfast_reference.protocol.outgoing import CHUNK, OPEN, REFUSAL, Outgoing
from holdfast_reference.protocol.session import Session as CoreSession
from holdfast_reference.server import session as server
from holdfast_reference.server.websocket import Reader

from mutants.harness import Patch, mutant
from mutants.tools import on_frame, on_write

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.messages import Payload
    from holdfast_reference.server.session import Session


def _reader(patch: Patch, message: type, around: Callable[..., Effects]) -> None:
    """Let `around(original, self, message, now)` stand for the reading of one kind of frame."""
    readers: dict[type, Callable[..., Effects]] = intake.READERS  # type: ignore[assignment]  # it is a dict
    original = readers[message]
    patch.item(readers, message, lambda self, frame, now: around(original, self, frame, now))


def _apply(patch: Patch, effect: type, around: Callable[..., None]) -> None:
    """Let `around(original, session, effect)` carry out one kind of effect."""
    table: dict[type, Callable[..., None]] = server.APPLY  # type: ignore[assignment]  # it is a dict
    original = table[effect]
    patch.item(table, effect, lambda session, wanted: around(original, session, wanted))


@mutant(
    "rpc/publish-unanswered",
    violates="RPC-01",
    killed_by="rpc/every-exchange-ends-once",
    says='expected "result"',
)
def _(patch: Patch) -> None:
    """Publishes take effect and are never answered."""
    _apply(patch, Publish, lambda original, session, effect: session.owner.broker.publish(effect.event))


@mutant(
    "rpc/two-terminals",
    violates="RPC-01",
    killed_by="rpc/every-exchange-ends-once",
    says="the number of terminals",
)
def _(patch: Patch) -> None:
    """Refusals are sent twice."""

    def push(original: Callable[..., None], self: Outgoing, kind: int, id: int, text: bytes) -> None:
        original(self, kind, id, text)
        if b'"error"' in text[:16]:
            original(self, kind, id, text)

    patch.wrap(Outgoing, "push", push)


@mutant(
    "rpc/chunk-behind-terminal",
    violates="RPC-02",
    killed_by="rpc/cancel-mid-stream",
    says="behind its terminal must not come",
)
def _(patch: Patch) -> None:
    """The handler of a cancelled stream works on, and its chunks are sent."""

    def cancel(original: Callable[..., Effects], self: Connection, message: Any, now: float) -> Effects:
        original(self, message, now)
        return NOTHING

    def chunk(original: Callable[..., Effects], self: CoreSession, id: int, payload: Payload) -> Effects:
        if self.is_running(id):
            return original(self, id, payload)
        self.outgoing.push(CHUNK, id, b'{"type":"chunk","id":%d%b' % (id, tail(payload)))
        return NOTHING

    _reader(patch, messages.Cancel, cancel)
    patch.wrap(CoreSession, "chunk", chunk)


@mutant(
    "rpc/event-behind-terminal",
    violates="RPC-02",
    killed_by="sub/cancel-stops-delivery",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A cancelled subscription gets the next event still."""
    ended: dict[int, Any] = {}

    def stop(original: Callable[..., None], session: Session, effect: Any) -> None:
        ended[effect.id] = session
        work = session._work.get(effect.id)
        if not hasattr(work, "deliver"):
            original(session, effect)

    def deliver(
        original: Callable[..., bool], self: CoreSession, id: int, event: Any, *, lossy: bool
    ) -> bool:
        if self.is_running(id):
            return original(self, id, event, lossy=lossy)
        return self.outgoing.event(id, b'{"type":"event","id":%d' % id, event.tail, 0, lossy)

    _apply(patch, Stop, stop)
    patch.wrap(CoreSession, "deliver", deliver)


@mutant(
    "rpc/foreign-id",
    violates="RPC-03",
    killed_by="rpc/only-known-ids",
    says="was never used",
    during=["sub/each-*"],
)
def _(patch: Patch) -> None:
    """Events carry an id that the client never used."""
    on_write(patch, lambda frame: frame | {"id": 2**52} if frame["type"] == "event" else None)


@mutant(
    "rpc/one-at-a-time",
    violates="RPC-04",
    killed_by="rpc/slow-request-blocks-nothing",
    says='expected "result"',
)
def _(patch: Patch) -> None:
    """Nothing is read while a method runs."""

    def may_read(original: Callable[..., bool], self: Connection) -> bool:
        return original(self) and self.session.exchanges.is_idle(Pool.CALLS)

    patch.wrap(Connection, "may_read", may_read)


@mutant(
    "rpc/frames-swapped",
    violates="RPC-05",
    killed_by="rpc/frames-apply-in-order",
    says="closed with 4003",
)
def _(patch: Patch) -> None:
    """Of two messages that arrived together the second is applied first."""
    kept: dict[int, Any] = {}

    def following(original: Callable[..., Any], self: Reader) -> Any:
        if id(self) in kept:
            return kept.pop(id(self))
        first = original(self)
        if type(first) is not bytes or (second := original(self)) is None:
            return first
        kept[id(self)] = first
        return second

    patch.wrap(Reader, "next", following)


@mutant(
    "rpc/cancel-without-terminal",
    violates="RPC-06",
    killed_by="rpc/cancel-ends-request",
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """A cancelled exchange just stops."""

    def end(original: Callable[..., None], self: CoreSession, id: int, text: bytes) -> None:
        pass

    patch.wrap(CoreSession, "finish", end)


def _cancel(patch: Patch, instead: Callable[[int], bytes], pool: Pool) -> None:
    """Let a cancel of an exchange of this pool end it with another frame."""

    def cancel(original: Callable[..., Effects], self: Connection, message: Any, now: float) -> Effects:
        exchange = self.session.exchanges.running.get(message.of)
        if exchange is None or exchange.pool is not pool:
            return original(self, message, now)
        self.session.finish(message.of, instead(message.of))
        return [Stop(message.of)]

    _reader(patch, messages.Cancel, cancel)


@mutant(
    "rpc/subscription-cancelled-with-error",
    violates="RPC-07",
    killed_by=["rpc/cancel-races-open", "subscriptions/cancel"],
    says="cancelled",
)
def _(patch: Patch) -> None:
    """A cancelled subscription ends with an error."""
    error = ExchangeError(ErrorCode.CANCELLED, "")
    _cancel(patch, lambda id: encode_error(id, error), Pool.SUBSCRIPTIONS)


@mutant(
    "rpc/cancelled-with-result",
    violates="RPC-08",
    killed_by=["rpc/cancel-ends-request", "rpc/cancel-races-completion"],
    says="result",
)
def _(patch: Patch) -> None:
    """A cancelled request ends with a result that the method never gave."""
    _cancel(patch, lambda id: encode_result(id, None), Pool.CALLS)

    def next_turn(original: Callable[..., None], session: Session, effect: Any) -> None:
        session.owner.start(_later, original, session, effect)

    _apply(patch, Call, next_turn)


async def _later(original: Callable[..., None], session: Session, effect: Any) -> None:
    if session.core.is_running(effect.id):
        original(session, effect)
        session.touch()


@mutant("rpc/late-cancel-closes", violates="RPC-09", killed_by="exchanges/cancel-finished", says="4003")
def _(patch: Patch) -> None:
    """A cancel of an exchange that has ended closes the connection."""

    def cancel(original: Callable[..., Effects], self: Connection, message: Any, now: float) -> Effects:
        if message.of not in self.session.exchanges.running:
            raise ProtocolViolation(CloseCode.BAD_ID, "it has ended")
        return original(self, message, now)

    _reader(patch, messages.Cancel, cancel)


@mutant("rpc/cancel-answered-again", violates="RPC-10", killed_by="rpc/cancel-repeated", says="must not come")
def _(patch: Patch) -> None:
    """Each cancel of a subscription is answered, a repeated one too."""
    subscriptions: set[tuple[int, int]] = set()

    def cancel(original: Callable[..., Effects], self: Connection, message: Any, now: float) -> Effects:
        key = (id(self), message.of)
        if key in subscriptions:
            self._outgoing.push(Pool.SUBSCRIPTIONS, message.of, encode_result(message.of, None))
            return NOTHING
        exchange = self.session.exchanges.running.get(message.of)
        if exchange is not None and exchange.pool is Pool.SUBSCRIPTIONS:
            subscriptions.add(key)
        return original(self, message, now)

    _reader(patch, messages.Cancel, cancel)


@mutant(
    "rpc/nothing-discarded",
    violates="RPC-11",
    killed_by="rpc/cancel-discards-queued-frames",
    says="queued events came",
)
def _(patch: Patch) -> None:
    """The events that are queued for a cancelled subscription are sent."""
    patch.set(Outgoing, "discard", lambda self, id: None)


@mutant(
    "rpc/cancelled-work-goes-on",
    violates="RPC-12",
    killed_by="rpc/cancel-stops-the-work",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A cancel ends the exchange, and the method works on."""
    _apply(patch, Stop, lambda original, session, effect: None)


@mutant(
    "rpc/cancelled-slot-stays",
    violates="RPC-12",
    killed_by="rpc/cancel-stops-the-work",
    says='got error "limit_exceeded"',
)
def _(patch: Patch) -> None:
    """A cancelled request keeps its slot."""

    def cancel(original: Callable[..., Effects], self: Connection, message: Any, now: float) -> Effects:
        effects = original(self, message, now)
        if effects:
            self.session.exchanges._held[Pool.CALLS] += 1
        return effects

    _reader(patch, messages.Cancel, cancel)


@mutant(
    "rpc/result-without-value",
    violates="RPC-13",
    killed_by=["rpc/result-carries-the-value", "exchanges/echo-object"],
    says="result",
)
def _(patch: Patch) -> None:
    """Results carry no data."""

    def bare(frame: dict[str, object]) -> dict[str, object] | None:
        return {"type": "result", "id": frame["id"]} if frame["type"] == "result" else None

    on_write(patch, bare)


def _code(patch: Patch, code: str, instead: str) -> None:
    """Let errors with a code have another."""

    def change(frame: dict[str, Any]) -> dict[str, Any] | None:
        if frame["type"] != "error" or frame["error"]["code"] != code:
            return None
        return frame | {"error": frame["error"] | {"code": instead}}

    on_write(patch, change)


@mutant(
    "rpc/unknown-method-is-bad-request",
    violates="RPC-14",
    killed_by=["exchanges/method-unknown", "err/unknown-method-is-found-out"],
    says="bad_request",
)
def _(patch: Patch) -> None:
    """An unknown method is a bad request."""
    _code(patch, "not_found", "bad_request")


@mutant(
    "rpc/forbidden-method-runs", violates="RPC-15", killed_by="exchanges/method-forbidden", says="forbidden"
)
def _(patch: Patch) -> None:
    """Whoever asks may call every method."""

    def authorize(original: Callable[..., None], self: Connection, action: str, name: str) -> None:
        if action != "call":
            original(self, action, name)

    patch.wrap(Connection, "_authorize", authorize)


@mutant(
    "rpc/application-failure-is-internal",
    violates="RPC-16",
    killed_by="rpc/failure-of-the-application",
    says="'internal'",
)
def _(patch: Patch) -> None:
    """What the application foresees is called an internal error."""
    _code(patch, "app", "internal")


@mutant(
    "rpc/no-deadline",
    violates="RPC-17",
    killed_by=["rpc/deadline-ends-request", "rpc/deadline-ends-stream"],
    says='expected error "deadline_exceeded"',
)
def _(patch: Patch) -> None:
    """`timeout_ms` is forgotten."""
    _deadline(patch, lambda seconds: None)


@mutant(
    "rpc/deadline-early", violates="RPC-17", killed_by="rpc/deadline-ends-request", says="the deadline came"
)
def _(patch: Patch) -> None:
    """`timeout_ms` is cut in half."""
    _deadline(patch, lambda seconds: seconds / 2)


def _deadline(patch: Patch, change: Callable[[float], float | None]) -> None:
    """Change how long a request may run."""

    def request(original: Callable[..., Effects], self: Connection, message: Any, now: float) -> Effects:
        effects = original(self, message, now)
        due = self.session.exchanges.deadlines.pop(message.id, None)
        if due is not None and (seconds := change(due - now)) is not None:
            self.session.exchanges.deadlines[message.id] = now + seconds
        return effects

    _reader(patch, messages.Request, request)


@mutant(
    "rpc/chunks-prolong",
    violates="RPC-17",
    killed_by="rpc/deadline-ends-stream",
    says='expected error "deadline_exceeded"',
)
def _(patch: Patch) -> None:
    """The time of a request begins anew with each chunk."""

    def chunk(original: Callable[..., Effects], self: CoreSession, id: int, payload: Payload) -> Effects:
        if id in self.exchanges.deadlines:
            self.exchanges.deadlines[id] += 0.005
        return original(self, id, payload)

    patch.wrap(CoreSession, "chunk", chunk)


@mutant(
    "rpc/deadline-behind-result",
    violates="RPC-01",
    killed_by="rpc/deadline-races-completion",
    says="the frames of exchange",
)
def _(patch: Patch) -> None:
    """The timer of a request goes off although the request has ended."""

    def finish(original: Callable[..., Any], self: Exchanges, id: int) -> Any:
        due = self.deadlines.get(id)
        exchange = original(self, id)
        if due is not None:
            self.deadlines[id] = due
        return exchange

    def fail(original: Callable[..., Effects], self: CoreSession, id: int, error: ExchangeError) -> Effects:
        if error.code == ErrorCode.DEADLINE_EXCEEDED:
            del self.exchanges.deadlines[id]
            if not self.is_running(id):
                self.outgoing.push(REFUSAL, id, encode_error(id, error))
        return original(self, id, error)

    patch.wrap(Exchanges, "finish", finish)
    patch.wrap(CoreSession, "fail", fail)


@mutant("rpc/no-time-at-all", violates="RPC-18", killed_by="exchanges/timeout-zero", says="bad_request")
def _(patch: Patch) -> None:
    """A `timeout_ms` of 0 means none."""

    def look(core: Connection, frame: dict[str, object], read: Callable[[dict[str, object]], Effects]) -> Any:
        if frame.get("timeout_ms") == 0:
            return read({name: value for name, value in frame.items() if name != "timeout_ms"})
        return None

    on_frame(patch, look)


@mutant(
    "rpc/chunks-swapped", violates="RPC-19", killed_by="rpc/stream-in-order", says="the chunks of a stream"
)
def _(patch: Patch) -> None:
    """Of two chunks the second is sent first."""
    kept: dict[tuple[int, int], Payload] = {}

    def chunk(original: Callable[..., Effects], self: CoreSession, id_: int, payload: Payload) -> Effects:
        first = kept.pop((id(self), id_), None)
        if first is None:
            kept[id(self), id_] = payload
            return NOTHING
        original(self, id_, payload)
        return original(self, id_, first)

    patch.wrap(CoreSession, "chunk", chunk)


@mutant(
    "rpc/chunk-without-consent",
    violates="RPC-20",
    killed_by=["rpc/stream-needs-consent", "rpc/chunks-only-when-asked"],
    says="without",
)
def _(patch: Patch) -> None:
    """The first chunk is sent before the server looks for `stream:true`."""

    def chunk(original: Callable[..., Effects], self: CoreSession, id: int, payload: Payload) -> Effects:
        exchange = self.exchanges.running.get(id)
        if exchange is not None and not exchange.stream:
            self.outgoing.push(OPEN, id, b'{"type":"chunk","id":%d%b' % (id, tail(payload)))
        return original(self, id, payload)

    patch.wrap(CoreSession, "chunk", chunk)


@mutant(
    "rpc/stream-swallowed",
    violates="RPC-21",
    killed_by="rpc/stream-needs-consent",
    says='expected error "bad_request"',
)
def _(patch: Patch) -> None:
    """Without `stream:true` the chunks are thrown away and the request ends well."""

    def chunk(original: Callable[..., Effects], self: CoreSession, id: int, payload: Payload) -> Effects:
        exchange = self.exchanges.running.get(id)
        return NOTHING if exchange is None or not exchange.stream else original(self, id, payload)

    patch.wrap(CoreSession, "chunk", chunk)


@mutant(
    "rpc/stream-refused",
    violates="RPC-22",
    killed_by="exchanges/stream-not-streaming",
    says="bad_request",
)
def _(patch: Patch) -> None:
    """`stream:true` on a method that does not stream is a bad request."""

    def call(original: Callable[..., None], session: Session, effect: Any) -> None:
        if effect.stream and effect.method != "conf.run":
            session.core.fail(effect.id, ExchangeError(ErrorCode.BAD_REQUEST, "this does not stream"))
        else:
            original(session, effect)

    _apply(patch, Call, call)
