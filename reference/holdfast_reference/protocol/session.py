"""What outlives a connection: the exchanges of a session, what waits to be written, and who it belongs to.

The application answers here, whether a connection is there or not; what it causes waits in `outgoing`.
Like the connection it is a state machine without I/O: commands return effects, `copy` gives an independent
twin, `key` a value that is equal for equal states. Which sessions there are, and how one finds its next
connection, is in `resume.py`; reading frames is in `connection.py`.

Spec: 03-session, 04-requests, 05-subscriptions, 06-delivery, 07-resume, 12-history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from holdfast_reference.protocol.codec import (
    channel_of,
    encode_data,
    encode_error,
    encode_result,
    shorten_error,
    tail,
)
from holdfast_reference.protocol.correlation import Exchanges, Pool
from holdfast_reference.protocol.effects import NOTHING, NOWHERE, Stop
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.events import event_head
from holdfast_reference.protocol.limits import SEQ_ROOM
from holdfast_reference.protocol.logs import CursorError, CursorReason
from holdfast_reference.protocol.messages import Payload
from holdfast_reference.protocol.outgoing import CHUNK, OPEN, Outgoing
from holdfast_reference.protocol.replay import Place, gap_head, too_large
from holdfast_reference.protocol.states import SESSION, SessionInput, SessionState, Stage, Step
from holdfast_reference.protocol.timers import NEVER

if TYPE_CHECKING:
    from collections.abc import Hashable

    from holdfast_reference.protocol.connection import Connection
    from holdfast_reference.protocol.effects import Effect, Effects, History, Start
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.grants import Action, Grant
    from holdfast_reference.protocol.limits import Bucket, Limits
    from holdfast_reference.protocol.logs import Log, Published

__all__ = ["Session"]

_OPEN: Final = Stage.OPEN
_PAGE_ROOM: Final = 192  # bytes of a page that are not its events, at most
_NO_LOG: Final = Payload(b'{"events":[],"more":false,"trimmed":true}')


class Session:
    """One session.

    Args:
        origin: `conn` of the connection that it began on. Names the session in effects and for `echo:false`,
            and opens nothing.
        limits: see `Limits`; those of a session never change.
        profiles: those in force.
        max_out: bytes of the largest frame that its client takes.

    Attributes:
        secret: digest of the name that resumes it, b"" when nothing can.
        attached: the connection that it has.
        attempt: the highest `attempt` of a resume so far.
        ends_at: when it ends if it is still suspended then.
        publishing: ids of publishes that have not taken effect, oldest first.
    """

    __slots__ = (
        "_max_out",
        "attached",
        "attempt",
        "bucket",
        "ends_at",
        "exchanges",
        "grant",
        "limits",
        "origin",
        "outgoing",
        "profiles",
        "publishing",
        "secret",
        "state",
    )

    def __init__(self, origin: str, limits: Limits, profiles: frozenset[str], max_out: int) -> None:
        sequenced = "ack" in profiles
        self.origin = origin
        self.limits = limits
        self.profiles = profiles
        self.state = SessionState.ATTACHED
        self.secret = b""
        self.attached: Connection | None = None
        self.attempt = 0
        self.ends_at = NEVER
        self.grant: Grant | None = None
        self.exchanges = Exchanges(limits)
        self.outgoing = Outgoing(limits, sequenced)
        self.publishing: dict[int, None] = {}
        self.bucket: Bucket | None = None
        self._max_out = max_out - SEQ_ROOM if sequenced else max_out

    # What the owner asks.

    def is_running(self, id: int) -> bool:
        return id in self.exchanges.running

    def chunk_waits(self, id: int) -> bool:
        """Whether a chunk of this request is queued; the stream waits while it is. Spec: [DEL-09]."""
        return self.is_running(id) and self.outgoing.holds(CHUNK, id)

    def waiting_chunks(self) -> set[int]:
        """The requests of which a chunk is queued."""
        return self.outgoing.owners(CHUNK)

    def may(self, action: Action, name: str) -> bool:
        assert self.grant is not None
        return self.grant.permissions.may(action, name)

    def step(self, input: SessionInput) -> None:
        """Move on; a step that the table lacks is a fault of this server, not of the peer."""
        self.state = SESSION[self.state][input]

    # What the application answers.

    def succeed(self, id: int, payload: Payload | None) -> Effects:
        """An exchange ends well; nothing happens when it has ended already. Spec: [DEL-07]."""
        text = encode_result(id, payload)
        if len(text) > self._max_out:
            return self.fail(id, ExchangeError(ErrorCode.TOO_LARGE, "the result does not fit into max_frame"))
        exchange = self.exchanges.finish(id)
        if exchange is not None:
            self.outgoing.push(exchange.pool, id, text)
        return NOTHING

    def fail(self, id: int, error: ExchangeError) -> Effects:
        """An exchange ends with an error; nothing happens when it has ended already.

        Raises:
            TypeError: `error.data` has no JSON form.
        """
        text = encode_error(id, error)
        if len(text) > self._max_out:
            text = shorten_error(id, error, self._max_out)
        return [Stop(id)] if self.finish(id, text) else NOTHING

    def reject(self, id: int, error: ExchangeError) -> Effects:
        """An exchange cannot even start: its terminal is a refusal, which holds no slot. Spec: [DEL-14].

        The effects are the connection's, which may be flooded now.
        """
        if self.exchanges.finish(id) is not None:
            self.outgoing.refuse(id, encode_error(id, error))
        return NOTHING if self.attached is None else self.attached.end_flood()

    def finish(self, id: int, text: bytes) -> bool:
        """End an exchange with this terminal instead of all that is queued for it; whether it was running."""
        exchange = self.exchanges.finish(id)
        if exchange is None:
            return False
        self.outgoing.discard(id)
        self.outgoing.push(exchange.pool, id, text)
        return True

    def chunk(self, id: int, payload: Payload) -> Effects:
        """A method produced a part of its answer. Spec: [RPC-19] [RPC-20] [RPC-21] [DEL-08]."""
        exchange = self.exchanges.running.get(id)
        if exchange is None:
            return NOTHING
        if not exchange.stream:
            return self.fail(id, ExchangeError(ErrorCode.BAD_REQUEST, "the method streams: send stream:true"))
        text = b'{"type":"chunk","id":%d%b' % (id, tail(payload))
        if len(text) > self._max_out:
            return self.fail(id, ExchangeError(ErrorCode.TOO_LARGE, "a chunk does not fit into max_frame"))
        exchange.step(Step.PART)
        self.outgoing.push(CHUNK, id, text)
        return NOTHING

    def opened(self, id: int, log: Log | None = None, start: Start = NOWHERE) -> Effects:
        """A subscription has its place among the events.

        Args:
            id: of the exchange.
            log: of the channel, if it has one; None for a pattern.
            start: as the `Subscribe` said.

        Spec: [SUB-01] [HIS-02] [HIS-05] [HIS-07] [HIS-12] [HIS-13] [HIS-15].
        """
        exchange = self.exchanges.running.get(id)
        if exchange is None:
            return NOTHING
        reason = CursorReason.UNKNOWN
        recovered = False
        position = 0
        if log is not None and "history" in self.profiles:
            position = log.end if start.last is None else max(log.first, log.end - start.last)
            if start.since is not None:
                try:
                    position = log.locate(start.since)
                    recovered = True
                except CursorError as error:
                    reason = error.reason
        else:
            log = None
        if start.require and not recovered:
            return self.fail(id, ExchangeError(ErrorCode.UNRECOVERABLE, f"cannot recover: {reason.value}"))
        members = b"" if log is None else b',"cursor":"%b"' % log.cursor(position).encode()
        if recovered:
            members += b',"recovered":true'
        elif start.since is not None:
            members += b',"recovered":false,"reason":"%b"' % reason.value.encode()
        exchange.step(Step.OPEN)
        self.outgoing.push(OPEN, id, b'{"type":"open","id":%d%b}' % (id, members))
        if log is not None:
            exchange.logged = True
            self.outgoing.follow(id, Place(id, log, self.origin, self._max_out, position))
        return NOTHING

    def published(self, id: int, outcome: Published | ExchangeError) -> Effects:
        """A publish has taken effect, or has failed. Spec: [HIS-35] [HIS-36]."""
        self.publishing.pop(id, None)
        self.outgoing.took_effect(next(iter(self.publishing), NEVER))
        if isinstance(outcome, ExchangeError):
            return self.fail(id, outcome)
        data: dict[str, object] = {}
        if "history" in self.profiles and outcome.cursor is not None:
            data["cursor"] = outcome.cursor
        if outcome.duplicate:
            data["duplicate"] = True
        return self.succeed(id, encode_data(data) if data else _EMPTY)

    def listed(self, effect: History, log: Log | None) -> Effects:
        """The log that a `history` asks for is there, or there is none. Spec: [HIS-20] to [HIS-32]."""
        id, (before, after, limit) = effect.id, effect.query
        if log is None:
            if before is None and after is None:
                return self.succeed(id, _NO_LOG)
            return self.fail(id, ExchangeError(ErrorCode.BAD_CURSOR, "this channel has no log"))
        most = self.limits.history_limit
        try:
            page = log.page(
                before=None if before is None else log.locate(before),
                after=None if after is None else log.locate(after),
                limit=most if limit is None else min(limit, most),
                max_bytes=self._max_out - _PAGE_ROOM,
            )
        except CursorError as error:
            expired = error.reason is CursorReason.EXPIRED
            code = ErrorCode.UNRECOVERABLE if expired else ErrorCode.BAD_CURSOR
            return self.fail(id, ExchangeError(code, f"no such place: {error.reason.value}"))
        more = b"true" if page.more else b"false"
        start = b"" if page.start is None else b',"start":"%b"' % page.start.encode()
        trimmed = b',"trimmed":true' if page.trimmed else b""
        text = b'{"events":[%b],"more":%b%b%b}' % (b",".join(page.items), more, start, trimmed)
        return self.succeed(id, Payload(text))

    def deliver(self, id: int, event: Event, *, lossy: bool) -> bool:
        """An event for a subscription. Spec: [SUB-02] [SUB-15] [SUB-24] [SUB-25] [DEL-06] [DEL-18].

        Args:
            lossy: whether events may be given up for it, because the socket takes nothing at the moment.
        Returns:
            False if there is no room for it and nothing may be given up: write, and deliver it again.
        """
        exchange = self.exchanges.running.get(id)
        if exchange is None or exchange.stage is not _OPEN or event.exclude == self.origin:
            return True
        if exchange.logged:
            return self._deliver_from_log(id, event, lossy)
        head = exchange.head
        if not exchange.pattern:
            rest = event.tail
        elif self.may("subscribe", event.channel):
            rest = event.named_tail
        else:
            return True
        if len(head) + len(rest) > self._max_out:
            head, rest = gap_head(id), too_large("")
        return self.outgoing.event(id, head, rest, 0, lossy)

    def _deliver_from_log(self, id: int, event: Event, lossy: bool) -> bool:
        place, position = self.outgoing.places[id], event.position or 0
        if place.replaying or position <= place.position:
            return True  # it is read from the log later, or was already
        head, rest = event_head(id), event.cursor_tail
        if len(head) + len(rest) > self._max_out:
            head, rest = gap_head(id), too_large(event.cursor)
        if not self.outgoing.event(id, head, rest, position, lossy):
            return False
        if not place.replaying:  # or it is, for its events have been given up
            place.position = position
        return True

    def fence(self, pong: bytes) -> None:
        """A ping wants to know that every event of now has been written. Spec: [DEL-15]."""
        self.outgoing.fence(pong, next(reversed(self.publishing), 0))

    # Identity, time and the end.

    def reauthorize(self, grant: Grant) -> Effects:
        """Go by a new grant: end exactly what it no longer allows.

        Spec: [SES-28] [SES-29] [SUB-25] [RES-34] [RES-35].
        """
        self.grant = grant
        may = grant.permissions.may
        effects: list[Effect] = []
        for id, exchange in list(self.exchanges.running.items()):
            if exchange.pattern:
                self.outgoing.forget_events(id, lambda text: not may("subscribe", channel_of(text)))
            elif exchange.pool is Pool.SUBSCRIPTIONS and not may("subscribe", exchange.name):
                effects += self.fail(id, ExchangeError(ErrorCode.FORBIDDEN, "no longer allowed"))
        return effects

    def deadline(self) -> float:
        """When `Sessions.tick` has something to do for it, unless a call comes before."""
        return (
            min(self.ends_at, *self.exchanges.deadlines.values())
            if self.exchanges.deadlines
            else self.ends_at
        )

    def time_out(self, now: float) -> Effects:
        """End the requests whose `timeout_ms` has passed. Spec: [RPC-17] [RES-08]."""
        effects: list[Effect] = []
        for id in [id for id, due in self.exchanges.deadlines.items() if now >= due]:
            effects += self.fail(id, ExchangeError(ErrorCode.DEADLINE_EXCEEDED, "timeout_ms has passed"))
        return effects

    def detach(self) -> Effects:
        """The connection is gone. An `auth` ends with it: the next `hello` is newer. Spec: [RES-47]."""
        self.attached = None
        self.outgoing.detach()
        effects: list[Effect] = []
        for id, exchange in list(self.exchanges.running.items()):
            if exchange.pool is Pool.AUTH:
                effects += self.fail(id, ExchangeError(ErrorCode.CANCELLED, "the connection is gone"))
        return effects

    def end(self, input: SessionInput) -> None:
        """It is over, and with it all that was running. Spec: [SES-45]."""
        self.step(input)
        self.ends_at = NEVER
        for exchange in self.exchanges.running.values():
            exchange.step(Step.SESSION_END)
        self.exchanges.running.clear()
        self.exchanges.deadlines.clear()
        self.outgoing.stop_replays()

    # The state as a value.

    def copy(self) -> Self:
        """An independent twin, attached to nothing."""
        twin = type(self).__new__(type(self))
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.attached = None
        twin.exchanges = self.exchanges.copy()
        twin.outgoing = self.outgoing.copy()
        twin.publishing = self.publishing.copy()
        twin.bucket = None if self.bucket is None else self.bucket.copy()
        return twin

    def key(self) -> Hashable:
        bucket = self.bucket
        return (
            self.origin,
            self.state,
            self.profiles,
            self.grant,
            self.attempt,
            self.ends_at,
            self._max_out,
            tuple(self.publishing),
            None if bucket is None else (bucket.level, bucket.at),
            self.exchanges.key(),
            self.outgoing.key(),
        )


_EMPTY: Final = Payload(b"{}")
