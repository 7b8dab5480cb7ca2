"""A peer past its handshake and hello: exchanges, and the few things that every check does with them.

The verbs (`request`, `subscribe`, `publish`, `cancel`, `auth`, `ping`, `fence`) wait for the regular answer
and fail the check when it does not come. To look at any other answer, `start` an exchange and state what you
expect of it.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from .client import Peer, dumps
from .expect import AuthorError, Emitted, Expectation, Failure, Frame, contains, same_json
from .receipts import Receipts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Exchange", "Session"]

TERMINAL = ("result", "error")


class Exchange:
    """One exchange of a session: its `id`, the `type` and the frame that started it.

    Every method but `frames` returns an expectation about this exchange alone. A terminal frame of
    another kind than the expected one fails the expectation at once. When its session is resumed the
    exchange goes over to the new connection.
    """

    def __init__(self, session: Session, sent: Mapping[str, object]) -> None:
        self.session = session
        self.sent = sent
        self.id = sent["id"]
        self.type = sent["type"]
        self._since = session.begun.get(self.id, 0)
        session.exchanges.append(self)

    def __repr__(self) -> str:
        return f"exchange {self.id} ({self.type})"

    @property
    def frames(self) -> list[Frame]:
        """Every frame of this exchange received so far."""
        return [frame for frame in self.session.frames if frame.get("id") == self.id]

    def receives_first(self) -> Expectation:
        """Expect the first frame of this exchange that nothing took yet, whatever it is."""
        return Expectation(
            self.session, f"a frame of exchange {self.id}", lambda frame: frame.get("id") == self.id
        )

    def receives(self, type: str, **fields: object) -> Expectation:
        """Expect a frame of this exchange, of this type, whose members contain `fields`."""
        wanted = {"type": type, "id": self.id, **fields}
        shown = f'"{type}" on exchange {self.id}' + (f" with {dumps(fields)}" if fields else "")
        id = self.id

        def match(frame: Frame) -> bool:  # most frames are of other exchanges
            return frame.body.get("id") == id and frame.type == type and contains(frame.body, wanted)

        return Expectation(self.session, shown, match, self._ended, since=self._since)

    def result(self, **fields: object) -> Expectation:
        """Expect the exchange to end with `result`, its members containing `fields` (usually `data=`)."""
        return self.receives("result", **fields)

    def error(self, *codes: str) -> Expectation:
        """Expect the exchange to end with `error` and one of these codes; none given means any code."""
        shown = f"error {' or '.join(map(dumps, codes))}" if codes else "an error"

        def match(frame: Frame) -> bool:
            error = frame.get("error")
            return (
                frame.type == "error"
                and frame.get("id") == self.id
                and isinstance(error, dict)
                and (not codes or error.get("code") in codes)
            )

        what = f"{shown} on exchange {self.id}"
        return Expectation(self.session, what, match, self._ended, since=self._since)

    def terminal(self) -> Expectation:
        """Expect the exchange to end, one way or the other."""
        return Expectation(self.session, f"the terminal frame of exchange {self.id}", self._is_terminal)

    def opened(self) -> Expectation:
        """Expect `open`."""
        return self.receives("open")

    def chunk(self, **fields: object) -> Expectation:
        """Expect a `chunk` whose members contain `fields`."""
        return self.receives("chunk", **fields)

    def gap(self, **fields: object) -> Expectation:
        """Expect a `gap` whose members contain `fields`."""
        return self.receives("gap", **fields)

    def gets(self, emitted: Emitted) -> Expectation:
        """Expect this subscription to get the event; unwanted is any event of it since then."""
        expectation = _gets(self.session, emitted, only=self.id)
        expectation.breaks = self._ended
        return expectation

    def anything(self) -> Expectation:
        """Expect, for `t.must_not`, any frame of this exchange; behind its terminal, if it has ended."""

        def match(frame: Frame) -> bool:
            terminal = next((f for f in self.session.frames if self._is_terminal(f)), None)
            return frame.get("id") == self.id and (terminal is None or frame.entry > terminal.entry)

        return Expectation(self.session, f"a frame of exchange {self.id}", match)

    def _is_terminal(self, frame: Frame) -> bool:
        return frame.type in TERMINAL and frame.get("id") == self.id

    def _ended(self, frame: Frame) -> str | None:
        return f"got {frame}" if self._is_terminal(frame) else None


class Session(Peer):
    """A connection on which `welcome` has arrived.

    With profile `ack` it acknowledges like an honest client: at the latest after half of the window or
    `ack_delay_ms`. After an accepted resume it goes on where the earlier connection was cut: `frames` begins
    with what that one received for exchanges, and what comes again is in `resent` and nowhere else.

    Attributes:
        welcome: the welcome frame.
        identity: the name of the identity in the target file, None when it has none.
        paced: whether sending waits, where welcome advertises `rate`, so that the limit is kept.
        acks: whether it acknowledges by itself.
        exchanges: all exchanges of the session, oldest first.
        receipts: which numbered frames arrived and were acknowledged.
        resent: frames that had arrived on an earlier connection and came again.
        attempt: how often a resume of the session was tried.
    """

    welcome: Frame
    identity: str | None = None
    script_method: str | None = None
    paced = True
    acks = True
    attempt = 0
    _last_id = 0
    _tokens = 0.0
    _filled_at = 0.0
    _rate: tuple[int, float] | None = None
    _earlier: Session | None = None
    _inherited: Sequence[Frame] = ()
    _profiles: frozenset[str] = frozenset()
    _greeted = False
    _resumed_elsewhere = False
    _delayed = False
    _impatient: trio.Event | None = None

    def continues(self, earlier: Session, seq: int) -> None:
        """Go on where `earlier` stopped, if the welcome says that its session is resumed from `seq`."""
        earlier.acks = earlier.answer_heartbeats = False  # nothing more is written on an older connection
        self._earlier = earlier
        self._inherited = [frame for frame in earlier.frames if "id" in frame.body]
        self.receipts = replace(earlier.receipts, acked=max(earlier.receipts.acked, seq))

    def ready(self, welcome: Frame) -> None:
        """Take note of the welcome."""
        limits = welcome.get("limits")
        rate = limits.get("rate") if isinstance(limits, dict) else None
        if isinstance(rate, dict):
            count, per_ms = rate.get("count"), rate.get("per_ms")
            if not (isinstance(count, int) and isinstance(per_ms, int) and count > 0 and per_ms > 0):
                raise Failure(f"welcome advertises a rate that means nothing: {dumps(rate)}", frame=welcome)
            self._rate = (count, per_ms / 1000)
            self._tokens, self._filled_at = float(count), trio.current_time()

    def _greet(self, welcome: Frame) -> None:
        """Take note of the welcome before anything behind it in the same segment."""
        self._greeted = True
        self.welcome = welcome
        listed = welcome.get("profiles")
        self._profiles = frozenset(map(str, listed)) if isinstance(listed, list) else frozenset()
        earlier, self._earlier = self._earlier, None
        if earlier is not None and welcome.get("resumed") is True:
            earlier._resumed_elsewhere = True
            self.frames += self._inherited
            self.exchanges, self.subscribed = earlier.exchanges, earlier.subscribed
            self.attempt, self._last_id = earlier.attempt, earlier._last_id
            for exchange in self.exchanges:
                exchange.session, exchange._since = self, 0
        else:
            self.receipts = Receipts()
        limits = welcome.get("limits")
        self.receipts.agree(limits if isinstance(limits, dict) else {})

    def _is_news(self, frame: Frame) -> bool:
        if frame.type == "welcome" and not self._greeted:
            self._greet(frame)
        seq = frame.get("seq")
        if not isinstance(seq, int) or "id" not in frame.body or "ack" not in self.profiles:
            return True
        news = self.receipts.arrived(seq, len(frame.text.encode()))
        if not news:
            self.resent.append(frame)
        if self.acks and not self._delayed:
            self._delayed = True
            self._nursery.start_soon(self._acknowledge)
        elif self._impatient is not None and self.receipts.due:
            self._impatient.set()
        return news

    async def _acknowledge(self) -> None:
        """Acknowledge what has arrived, now if it is due, otherwise when the client must not wait longer."""
        if not self.receipts.due:
            self._impatient = trio.Event()
            with trio.move_on_after(self.receipts.delay):
                await self._impatient.wait()
        self._delayed = False
        if self.acks and self.closure is None and self.receipts.owed:
            await self.ack()

    async def ack(self, seq: int | None = None) -> None:
        """Acknowledge every frame up to a number; by default the highest that arrived."""
        seq = self.receipts.got if seq is None else seq
        self.receipts.acknowledged(seq)
        await self.send({"type": "ack", "seq": seq}, malformed=seq < 1)

    async def cut(self) -> None:
        """Lose the network: the connection ends without a goodbye, the session may live on."""
        await self.abort()

    async def _keep_rate(self, frames: int) -> None:
        """Spend tokens of our image of the server's bucket; more than it holds is sent when it is full."""
        if self._rate is None or not frames:
            return
        count, per = self._rate
        while True:
            now = trio.current_time()
            self._tokens = min(float(count), self._tokens + (now - self._filled_at) * count / per)
            self._filled_at = now
            missing = min(frames, count) - self._tokens
            if not self.paced or missing <= 0:
                break
            await trio.sleep(missing * per / count)
        self._tokens -= frames

    @property
    def may_be_suspended(self) -> bool:
        """Whether the session may live on without its connection."""
        gone = self.closure is not None and self.closure.code != 1000
        return gone and "resume" in self.profiles and not self._resumed_elsewhere

    @property
    def profiles(self) -> frozenset[str]:
        """The profiles in force, `core` aside."""
        return self._profiles

    @cached_property
    def subscribed(self) -> dict[object, str]:
        """The channel of each exchange that subscribes to one, by id."""
        return {}

    @cached_property
    def exchanges(self) -> list[Exchange]:
        """All exchanges of the session, oldest first."""
        return []

    @cached_property
    def begun(self) -> dict[object, int]:
        """How many frames had been received when an id was given to a new frame."""
        return {}

    @cached_property
    def resent(self) -> list[Frame]:
        """Frames that came again on this connection."""
        return []

    @cached_property
    def receipts(self) -> Receipts:
        """Which numbered frames arrived and were acknowledged."""
        return Receipts()

    def limit(self, name: str) -> int:
        """Return a numeric limit that `welcome` advertises."""
        limits = self.welcome.get("limits")
        value = limits.get(name) if isinstance(limits, dict) else None
        if not isinstance(value, int):
            raise Failure(f"welcome does not advertise the limit {name!r}", frame=self.welcome)
        return value

    def next_id(self) -> int:
        """Return a fresh exchange id, one higher than the highest that this session handed out or sent."""
        self._last_id += 1
        return self._last_id

    # Exchanges

    async def start(self, type: str, **fields: object) -> Exchange:
        """Send a frame that starts an exchange and return without waiting for an answer.

        Give `id` to choose it yourself, `malformed=True` when the frame breaks its schema on purpose.
        """
        malformed = bool(fields.pop("malformed", False))
        frame = self.frame(type, **fields)
        await self.send(frame, malformed=malformed)
        return Exchange(self, frame)

    def frame(self, type: str, **fields: object) -> dict[str, object]:
        """Build a frame that starts an exchange, with the next id unless one is given; for `pipeline`."""
        number = fields.pop("id", None)
        if number is None:
            number = self.next_id()
            self.begun[number] = len(self.frames)
        elif isinstance(number, int):
            self._last_id = max(self._last_id, number)
        if type == "subscribe" and isinstance(channel := fields.get("channel"), str):
            self.subscribed[number] = channel
        data = {"data": fields.pop("data")} if "data" in fields else {}  # data is written last
        return {"type": type, "id": number, **fields, **data}

    def exchange(self, sent: Mapping[str, object]) -> Exchange:
        """Return the exchange that a frame of `frame` starts, once it has been sent."""
        return Exchange(self, sent)

    async def request(self, method: str, **fields: object) -> Frame:
        """Call a method and return its `result` frame. Fields: `data`, `timeout_ms`, `stream`, ..."""
        return await (await self.start("request", method=method, **fields)).result()

    async def subscribe(
        self, channel: str | None = None, *, pattern: str | None = None, **fields: object
    ) -> Exchange:
        """Subscribe to a channel or a pattern and return the exchange once it is open."""
        target = {"channel": channel} if pattern is None else {"pattern": pattern}
        exchange = await self.start("subscribe", **target, **fields)
        await exchange.opened()
        return exchange

    async def publish(self, channel: str, data: object, **fields: object) -> Frame:
        """Publish and return the `result` frame."""
        return await (await self.start("publish", channel=channel, data=data, **fields)).result()

    async def cancel(self, exchange: Exchange) -> Frame:
        """Cancel an exchange and return its terminal frame."""
        await self.send({"type": "cancel", "of": exchange.id})
        return await exchange.terminal()

    async def auth(self, token: str, **fields: object) -> Frame:
        """Present new credentials and return the `result` frame."""
        return await (await self.start("auth", token=token, **fields)).result()

    async def run(self, *steps: Sequence[object]) -> Exchange:
        """Start the conformance script with these steps, each an array with its name first."""
        if self.script_method is None:
            raise AuthorError('a check that calls run() must have "script:<step>" in its needs')
        return await self.start("request", method=self.script_method, data=[list(step) for step in steps])

    # Liveness

    async def ping(self, t: str | None = None) -> Frame:
        """Send a Holdfast ping and return its pong, recognised by `t`."""
        since = 0 if t is not None else len(self.frames)
        t = secrets.token_hex(6) if t is None else t
        await self.send({"type": "ping", "t": t})
        pong = self.receives("pong", t=t)
        pong.since = since
        return await pong

    async def fence(self) -> bool:
        """Ping, and return whether the pong proves that everything before it was delivered (no `held`)."""
        return "held" not in (await self.ping()).body

    # Events

    def gets(self, emitted: Emitted) -> Expectation:
        """Expect an event with this very payload. Unwanted, for `t.must_not`, is anything that resembles it:
        the same channel or the same payload, on any exchange."""
        return _gets(self, emitted, only=None)


def _gets(session: Session, emitted: Emitted, only: object) -> Expectation:
    def match(frame: Frame) -> bool:
        return (
            frame.type == "event"
            and (only is None or frame.get("id") == only)
            and same_json(frame.get("data"), emitted.data)
            and frame.body.get("channel", emitted.channel) == emitted.channel
        )

    def resembles(frame: Frame) -> bool:
        if frame.type != "event":
            return False
        if only is not None:
            return frame.get("id") == only
        return same_json(frame.get("data"), emitted.data) or emitted.channel in (
            frame.get("channel"),
            session.subscribed.get(frame.get("id")),
        )

    where = f"on exchange {only}" if only is not None else f"at {session.name}"
    return Expectation(
        session, f"the event {dumps(emitted.data)} {where}", match, resembles=resembles, emitted=emitted
    )
