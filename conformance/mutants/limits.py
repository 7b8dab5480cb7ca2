"""Mutants of spec/09-limits-timers.md."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from holdfast_reference.protocol import connection as core
from holdfast_reference.protocol import greeting, intake, messages
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.correlation import Exchanges, Pool
from holdfast_reference.protocol.errors import CloseCode, ErrorCode, ExchangeError, ProtocolViolation
from holdfast_reference.protocol.limits import Bucket
from holdfast_reference.protocol.messages import UNSET

from mutants.harness import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.protocol.outgoing import Outgoing
    from holdfast_reference.protocol.session import Session


def _welcome(patch: Patch, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what welcome says, and nothing that the server does."""

    def encode(original: Callable[[dict[str, Any]], bytes], frame: dict[str, Any]) -> bytes:
        if frame["type"] == "welcome":
            change(frame["limits"])
        return original(frame)

    patch.wrap(greeting, "encode_frame", encode)


@mutant(
    "lim/queue-not-advertised",
    violates="LIM-01",
    killed_by="lim/limits-present",
    says="queue_bytes",
    during=["sub/each-*"],
)
def _(patch: Patch) -> None:
    """Welcome keeps quiet about `queue_bytes`."""
    _welcome(patch, lambda limits: limits.pop("queue_bytes", None))


@mutant(
    "lim/hidden-limit",
    violates="LIM-02",
    killed_by="lim/nothing-hidden",
    says='expected "result"',
)
def _(patch: Patch) -> None:
    """Arguments of more than 64 KiB are refused, which nobody was told."""

    def check(original: Callable[..., None], message: Any, profiles: frozenset[str]) -> None:
        original(message, profiles)
        if len(bytes(message.data or b"")) > 65_536:
            raise ExchangeError(ErrorCode.TOO_LARGE, "too large")

    patch.wrap(intake, "check_request", check)


@mutant(
    "lim/client-limit-binds-the-client",
    violates="LIM-02",
    killed_by="lim/client-lowers-only-what-it-gets",
    says="1009",
)
def _(patch: Patch) -> None:
    """The frame limit of hello counts in both directions."""
    right = Connection.max_message
    patch.set(Connection, "max_message", property(lambda self: min(right.__get__(self), self._max_out)))


@mutant(
    "lim/hidden-rate",
    violates="LIM-02",
    killed_by="lim/no-rate-no-limit",
    says="expected 500 pongs",
)
def _(patch: Patch) -> None:
    """A session may send 400 pings, which nobody was told."""
    counts: dict[int, int] = {}

    def ping(original: Callable[..., Effects], self: Connection, message: object, now: float) -> Effects:
        counts[id(self)] = counts.get(id(self), 0) + 1
        if counts[id(self)] > 400:
            raise ProtocolViolation(CloseCode.RATE_LIMITED, "hidden")
        return original(self, message, now)

    readers = intake.READERS
    original = readers[messages.Ping]
    patch.item(
        readers,  # type: ignore[arg-type]  # a Mapping by its type, a dict in truth
        messages.Ping,
        lambda self, message, now: ping(original, self, message, now),
    )


@mutant(
    "lim/slots-grow",
    violates="LIM-03",
    killed_by="lim/limits-stay",
    says='expected error "limit_exceeded"',
)
def _(patch: Patch) -> None:
    """Every refusal gives the session another slot for later."""

    def admit(original: Callable[..., None], self: Connection, pool: Pool, wait_ms: int | None) -> None:
        try:
            original(self, pool, wait_ms)
        except ExchangeError as error:
            if error.code == ErrorCode.LIMIT_EXCEEDED:
                self.session.exchanges._bounds[pool] += 1
            raise

    patch.wrap(Connection, "_admit", admit)


@mutant(
    "lim/small-max-frame",
    violates="LIM-04",
    killed_by="lim/max-frame-floor",
    says="max_frame",
    during=["sub/each-*"],
)
def _(patch: Patch) -> None:
    """Welcome advertises frames of 2048 bytes."""
    _welcome(patch, lambda limits: limits.update(max_frame=2048))


@mutant(
    "lim/small-queue",
    violates="LIM-19",
    killed_by="lim/queue-takes-a-frame",
    says="queue_bytes",
    during=["sub/each-*"],
)
def _(patch: Patch) -> None:
    """Welcome advertises a queue that the largest event does not fit into."""
    _welcome(patch, lambda limits: limits.update(queue_bytes=4095))


@mutant(
    "lim/client-limit-ignored",
    violates="LIM-05",
    killed_by="lim/frames-fit",
    says="bytes",
    during=["del/event-too-large", "del/result-too-large"],
)
def _(patch: Patch) -> None:
    """The frame limit of hello is forgotten."""

    def begin(original: Callable[..., Session], self: Connection, grant: Grant, now: float) -> Session:
        session = original(self, grant, now)
        session._max_out = session.limits.max_frame
        return session

    patch.wrap(Connection, "_begin", begin)


@mutant(
    "lim/client-raises-the-limit",
    violates="LIM-06",
    killed_by="lim/client-cannot-raise-max-frame",
    says="max_frame",
)
def _(patch: Patch) -> None:
    """A client that asks for larger frames is promised them."""

    def welcome(
        original: Callable[..., bytes], settings: object, conn: str, session: Session, *rest: object
    ) -> bytes:
        told, asked = session.copy(), wanted.get(conn, 0)
        told.limits = replace(told.limits, max_frame=max(asked, told.limits.max_frame))
        return original(settings, conn, told, *rest)

    wanted: dict[str, int] = {}

    def first(original: Callable[..., Effects], self: Connection, message: Any) -> Effects:
        limits = getattr(message, "limits", UNSET)
        if limits is not UNSET and limits.max_frame is not UNSET:
            wanted[self.conn] = limits.max_frame
        return original(self, message)

    patch.wrap(Connection, "_read_first", first)
    patch.wrap(core, "welcome", welcome)


def _pool(patch: Patch, pool: Pool, change: int) -> None:
    def is_free(original: Callable[..., bool], self: Exchanges, wanted: Pool, outgoing: Outgoing) -> bool:
        if wanted is not pool:
            return original(self, wanted, outgoing)
        return self._held[pool] + outgoing.counts[pool] < self._bounds[pool] + change

    patch.wrap(Exchanges, "is_free", is_free)


@mutant("lim/one-inflight-more", violates="LIM-07", killed_by="lim/inflight-slots", says="limit_exceeded")
def _(patch: Patch) -> None:
    """One exchange more than advertised may run."""
    _pool(patch, Pool.CALLS, 1)


@mutant(
    "lim/one-subscription-more", violates="LIM-08", killed_by="lim/subscription-slots", says="limit_exceeded"
)
def _(patch: Patch) -> None:
    """One subscription more than advertised may run."""
    _pool(patch, Pool.SUBSCRIPTIONS, 1)


@mutant(
    "lim/one-inflight-less",
    violates="LIM-02",
    killed_by="lim/inflight-slots",
    says="ended at once",
)
def _(patch: Patch) -> None:
    """One exchange less than advertised may run."""
    _pool(patch, Pool.CALLS, -1)


@mutant(
    "lim/one-subscription-less",
    violates="LIM-02",
    killed_by="lim/subscription-slots",
    says='expected "open"',
)
def _(patch: Patch) -> None:
    """One subscription less than advertised may run."""
    _pool(patch, Pool.SUBSCRIPTIONS, -1)


@mutant(
    "lim/slot-leaks",
    violates="LIM-09",
    killed_by="lim/slots-come-back",
    says="refused although",
)
def _(patch: Patch) -> None:
    """The slot of an exchange that ended is not given back."""

    def finish(original: Callable[..., Any], self: Exchanges, id: int) -> Any:
        exchange = original(self, id)
        if exchange is not None and exchange.pool is Pool.CALLS:
            self._held[Pool.CALLS] += 1
        return exchange

    patch.wrap(Exchanges, "finish", finish)


@mutant("lim/no-rate", violates="LIM-10", killed_by="lim/rate-exceeded", says="within the rate")
def _(patch: Patch) -> None:
    """The rate is advertised and not enforced."""
    patch.set(Bucket, "take", lambda self, now: None)


@mutant(
    "lim/no-brim",
    violates="LIM-10",
    killed_by="lim/rate-bucket-has-a-brim",
    says="at once were within a rate",
)
def _(patch: Patch) -> None:
    """Tokens that are not used pile up without bound."""

    def take(self: Bucket, now: float) -> int | None:
        self.level += (now - self.at) * 1000 * self.rate.count / self.rate.per_ms
        self.at = now
        if self.level >= 1:
            self.level -= 1
            return None
        return int((1 - self.level) * self.rate.per_ms / self.rate.count) + 1

    patch.set(Bucket, "take", take)


@mutant("lim/over-rate-ignored", violates="LIM-11", killed_by="lim/rate-closes-without-id", says="4302")
def _(patch: Patch) -> None:
    """Frames without id beyond the rate are dropped in silence."""
    patch.wrap(Connection, "_charge_or_close", lambda original, self, now: self._charge(now))


@mutant(
    "lim/pong-costs",
    violates="LIM-12",
    killed_by="lim/rate-spares-signs-of-life",
    says="pongs at limited",
)
def _(patch: Patch) -> None:
    """Pongs cost a token too."""
    readers = intake.READERS
    original = readers[messages.Pong]

    def pong(self: Connection, message: Any, now: float) -> Effects:
        self._charge_or_close(now)
        return original(self, message, now)

    patch.item(readers, messages.Pong, pong)  # type: ignore[arg-type]  # as above


@mutant("lim/auth-costs", violates="LIM-12", killed_by="lim/rate-spares-auth", says="rate_limited")
def _(patch: Patch) -> None:
    """Fresh credentials cost a token, and are refused without one."""
    readers = intake.READERS
    original = readers[messages.Auth]

    def auth(self: Connection, message: Any, now: float) -> Effects:
        self.session.exchanges.consume(message.id)
        self.session.exchanges.last_id -= 1
        wait_ms = self._charge(now)
        if wait_ms is not None:
            self.session.exchanges.last_id += 1
            raise ExchangeError(ErrorCode.RATE_LIMITED, "over the rate", retry_ms=wait_ms)
        return original(self, message, now)

    patch.item(readers, messages.Auth, auth)  # type: ignore[arg-type]  # as above


@mutant("lim/empty-bucket-at-start", violates="LIM-13", killed_by="lim/rate-full-bucket", says="rate_limited")
def _(patch: Patch) -> None:
    """The bucket of a new session is half full."""

    def init(original: Callable[..., None], self: Bucket, rate: Any, level: float, at: float) -> None:
        original(self, rate, level / 2, at)

    patch.wrap(Bucket, "__init__", init)


@mutant("lim/retry-too-early", violates="LIM-14", killed_by="lim/rate-refills", says="rate_limited")
def _(patch: Patch) -> None:
    """`retry_ms` is a third of the time that the next token takes."""

    def take(original: Callable[..., int | None], self: Bucket, now: float) -> int | None:
        wait_ms = original(self, now)
        return None if wait_ms is None else max(1, wait_ms // 3)

    patch.wrap(Bucket, "take", take)
