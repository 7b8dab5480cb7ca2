"""The client's side of a session, without input or output: what to send, and what each exchange may hear.

A session may outlive its connections. The state that makes it so is small: the last id used, the last `seq`
received, the name of the session, how often it was resumed, and the unfinished exchanges in the order of
their ids. Text comes in, effects go out, and what is to be written waits in `outbox` and `urgent`. The core
knows no socket and no clock.

Spec: 03-session, 06-delivery, 07-resume.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING

from holdfast_reference.client.effects import Arrived, Effect, Lost
from holdfast_reference.client.errors import BadServerFrame, RequestError
from holdfast_reference.client.exchanges import Exchange, Fate, Kind, State
from holdfast_reference.client.frames import (
    ABSENT,
    GoAway,
    Numbered,
    Ping,
    Pong,
    Unknown,
    Welcome,
    decode,
    encode,
    encode_again,
    encode_hello,
)
from holdfast_reference.client.reaction import Reaction, reaction
from holdfast_reference.client.received import Received

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from holdfast_reference.client.calls import Call

SUBPROTOCOL = "holdfast.v1.json"


class ClientCore:
    """One client, from its first `hello` on, over as many connections and sessions as it takes.

    Connections are told apart by `link`, the number of their `hello`. Times are seconds of one clock; for the
    sake of `dedupe` it should run through sleep.

    Attributes:
        link: the newest connection.
        reading: the connection whose frames count, 0 for none.
        welcome: what the server said last; None before it said anything.
        outbox: frames to write in this order, as fast as the rate allows.
    """

    def __init__(self) -> None:
        self.link = 0
        self.welcome: Welcome | None = None
        self.outbox: deque[str] = deque()
        self.session: str | None = None
        self.attempt = 0
        self.received = Received()
        self.exchanges: dict[int, Exchange] = {}
        self._n = 0
        self.reading = 0
        self._pongs: deque[str] = deque()
        self._last_t = 0

    @property
    def ready(self) -> bool:
        """Whether there is somebody to send to."""
        return self.reading == self.link > 0

    # Connections.

    def hello(self, profiles: Iterable[str], *, token: str | None, max_frame: int) -> str:
        """The first frame of a new connection; nothing more is written on an older one.

        Spec: [SES-01] [RES-13] [RES-14] [RES-15].

        Args:
            token: bearer token; None to go by what the upgrade request proves, or to stay anonymous.
            max_frame: bytes of the largest frame that the server may send.
        """
        self.link += 1
        self.outbox.clear()
        self._pongs.clear()
        resume = None
        if self.session is not None:
            self.attempt += 1
            resume = {"session": self.session, "seq": self.received.got, "attempt": self.attempt}
            self.received.told()
        return encode_hello(profiles, token, max_frame, resume)

    def closed(self, code: int | None, link: int | None = None) -> Reaction | None:
        """A connection has ended; what to do about it, None when a newer one has taken its place.

        Spec: [RES-44] [RES-45] [DEL-31].
        """
        if link is not None and link != self.link:
            return None
        self.reading = 0
        self.outbox.clear()
        self._pongs.clear()
        what = reaction(code)
        if what is Reaction.RECONNECT_BACKOFF_FRESH:
            self.session = None
        return what

    def receive(self, text: str, now: float, link: int | None = None) -> list[Effect]:
        """Apply one text frame of the server; return what follows from it.

        Frames of the connection before the newest count until the newest has its `welcome`.

        Raises:
            BadServerFrame: the server must not send this, or not now; the session is given up.
        """
        try:
            if not self.ready and link in (None, self.link):
                return self._greet(decode(text), now)
            if link not in (None, self.reading):
                return []
            return self._hear(decode(text), len(text.encode()), now)
        except BadServerFrame:
            self.session = None
            raise

    def _greet(self, welcome: object, now: float) -> list[Effect]:
        """Take up the session where it was left, or another one, in one step.

        Spec: [RES-39] [RES-40] [RES-41] [RES-42] [RES-43] [RES-46].
        """
        if not isinstance(welcome, Welcome):
            raise BadServerFrame("the first frame is not welcome")
        if welcome.resumed and (
            welcome.session is None or welcome.session != self.session or welcome.last_id is None
        ):
            raise BadServerFrame("resumed what was not asked for, or without last_id")
        effects: list[Effect] = [welcome]
        self.welcome = welcome
        unfinished, last_id = self.exchanges, welcome.last_id
        if not welcome.resumed:
            self.session, self.attempt, self._n, self.exchanges = welcome.session, 0, 0, {}
            self.received = Received.of(welcome.limits)
        for number, exchange in list(unfinished.items()):
            fate = Fate.of(number, last_id)
            if not welcome.resumed:
                again = self._start_again(exchange) if exchange.starts_again(fate, now) else None
                effects.append(Lost(number, fate, again))
            elif fate is Fate.NOT_ACCEPTED and exchange.kind is Kind.AUTH:
                # This connection has shown newer credentials than that frame carries.
                del unfinished[number]
                effects.append(Lost(number, fate))
        accepted = last_id if welcome.resumed and last_id is not None else 0
        waiting = {number: each for number, each in self.exchanges.items() if number > accepted}
        for number, exchange in waiting.items():
            if (size := len(exchange.text.encode())) > self._max_frame:
                del self.exchanges[number]
                error = RequestError("too_large", f"the frame has {size} bytes, too many for this server")
                effects.append(Arrived(number, error))
            else:
                self.outbox.append(exchange.text)
        for number, exchange in self.exchanges.items():
            if exchange.state is State.CANCELLING:
                self.outbox.append(self._cancel(number))
        self.reading = self.link
        return effects

    def _start_again(self, exchange: Exchange) -> int:
        """Give an exchange of a lost session its place in this one."""
        assert self.welcome is not None
        since = exchange.cursor if "history" in self.welcome.profiles else None
        number = self._n = self._n + 1
        text = encode_again(exchange.text, number, since)
        self.exchanges[number] = Exchange(exchange.kind, text, exchange.again_until, cursor=exchange.cursor)
        return number

    # What the server says.

    def _hear(self, incoming: object, size: int, now: float) -> list[Effect]:
        match incoming:
            case Ping(t):
                # [SES-35]: `t` goes back as it came, and not at all when it did not come.
                if self.ready:
                    pong: dict[str, object] = {"type": "pong"} if t is None else {"type": "pong", "t": t}
                    self._pongs.append(self._encode(pong))
            case GoAway() | Pong():
                return [incoming]
            case Unknown(seq):
                if seq is not None:
                    self.received.is_new(seq, size, now)
            case Numbered(seq, number, item):
                if self.received.is_new(seq, size, now):
                    exchange = self.exchanges.get(number)
                    if exchange is None:
                        raise BadServerFrame(f"a frame for {number}, which is no unfinished exchange")
                    exchange.arrive(item)
                    if exchange.state is State.DONE:
                        del self.exchanges[number]
                    return [Arrived(number, item)]
            case _:
                raise BadServerFrame("a second welcome")
        return []

    def urgent(self, now: float) -> str | None:
        """The next frame to write at once, past the outbox and free of the rate; None when there is none."""
        if self._pongs:
            return self._pongs.popleft()
        if not self.ready or now < self.received.due:
            return None
        self.received.told()
        return self._encode({"type": "ack", "seq": self.received.got})

    # What the application wants, with a connection or without one.

    def start(self, call: Call, now: float) -> int:
        """Start an exchange; return its id.

        Raises:
            RequestError: the server would not take it: `unsupported` or `too_large`.
            TypeError, ValueError: JSON cannot carry its data.
        """
        assert self.welcome is not None  # [SES-01]: nothing but hello is said before
        if missing := call.needs - self.welcome.profiles:  # [VER-11]
            raise RequestError("unsupported", f"{', '.join(missing)} was not negotiated")
        number = self._n + 1
        text = self._encode({"type": call.type, "id": number, **call.members}, call.data)
        self._n = number  # [ENV-04]; not before the frame exists, so that a bad value uses up nothing
        again_until = now + self.welcome.dedupe_ms / 2000 if call.repeatable else now
        self.exchanges[number] = Exchange(call.kind, text, again_until)
        if self.ready:
            self.outbox.append(text)
        return number

    def cancel(self, number: int) -> None:
        """Ask for the end of an exchange, unless it has ended or that was asked before."""
        exchange = self.exchanges.get(number)
        if exchange is not None and exchange.cancel() and self.ready:
            self.outbox.append(self._cancel(number))

    def ping(self) -> str:
        """Send a ping; return the `t` that its pong will carry. It is lost with its connection."""
        self._last_t += 1
        t = str(self._last_t)
        if self.ready:
            self.outbox.append(self._encode({"type": "ping", "t": t}))
        return t

    def end(self) -> list[int]:
        """Nobody will go on with this session: every unfinished exchange ends. Return their ids.

        Spec: 03-session [SES-46].
        """
        unfinished = list(self.exchanges)
        self.exchanges.clear()
        return unfinished

    def _cancel(self, number: int) -> str:
        return self._encode({"type": "cancel", "of": number})

    def _encode(self, frame: dict[str, object], data: object = ABSENT) -> str:
        return encode(frame, data, max_frame=self._max_frame)

    @property
    def _max_frame(self) -> int:
        assert self.welcome is not None  # [SES-01]: nothing but hello is said before
        return self.welcome.max_frame

    # The state as a value.

    def copy(self) -> ClientCore:
        twin = copy.copy(self)
        twin.outbox, twin._pongs = self.outbox.copy(), self._pongs.copy()
        twin.exchanges = {number: each.copy() for number, each in self.exchanges.items()}
        twin.received = self.received.copy()
        return twin

    def key(self) -> Hashable:
        return (
            (self._n, self.session, self.attempt, self.link, self.reading, self._last_t),
            tuple((number, each.key()) for number, each in self.exchanges.items()),
            (tuple(self.outbox), tuple(self._pongs), self.received.key()),
        )
