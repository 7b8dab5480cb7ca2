"""Planted bugs: what shows that the model is wide enough to find them.

A bug is a line of the real client or server that says something else, for as long as its block lasts. It
names the scenario that is to find it, and a part of the invariant by which.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast_reference.client.core import ClientCore
from holdfast_reference.client.exchanges import Exchange
from holdfast_reference.client.received import Received
from holdfast_reference.protocol import resume
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.outgoing import Outgoing
from holdfast_reference.protocol.replay import Place
from holdfast_reference.protocol.resume import Sessions
from holdfast_reference.protocol.session import Session

from exploration.scenarios import SCENARIOS
from exploration.search import Outcome, search
from exploration.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Bug(NamedTuple):
    """A mistake that somebody could make.

    Attributes:
        says: what is wrong.
        scenario: which finds it.
        breaks: the beginning of the name of the invariant by which it is found.
        function: in which it is.
        pieces: of the source of the function, and what stands there instead.
    """

    says: str
    scenario: str
    breaks: str
    function: Callable[..., object]
    pieces: Mapping[str, str]


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Have the bug while the block lasts."""
    function = bug.function
    assert isinstance(function, FunctionType)
    sound = function.__code__
    function.__code__ = _changed(function, bug.pieces)
    try:
        yield
    finally:
        function.__code__ = sound


def _changed(function: FunctionType, pieces: Mapping[str, str]) -> CodeType:
    """The code of a function with its source changed."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in pieces.items():
        if source.count(old) != 1:
            raise ValueError(f"{function.__qualname__} does not have {old!r} once")
        source = source.replace(old, new)
    scope: dict[str, FunctionType] = {}
    exec(compile(source, function.__module__, "exec", __future__.annotations.compiler_flag), scope)
    return scope[function.__name__].__code__


def hunt(bug: Bug) -> Outcome:
    """Search its scenario with the bug in place."""
    with planted(bug):
        return search(World(SCENARIOS[bug.scenario]))


#: Rows of what is wrong, scenario, invariant, function, pieces.
BUGS: Final[tuple[Bug, ...]] = (
    Bug(
        "client: 4008 on an older connection is obeyed",
        "takeover",
        "I5",
        ClientCore.closed,
        {"link is not None and link != self.link": "False"},
    ),
    Bug(
        "client: acks on the older connection after the hello",
        "takeover",
        "I7",
        ClientCore.urgent,
        {"not self.ready or ": ""},
    ),
    Bug(
        "client: what came before is not dropped",
        "takeover",
        "what arrives",
        Received.is_new,
        {"seq <= self.got:\n        return False": "seq <= self.got:\n        return True"},
    ),
    Bug(
        "client: every unfinished frame is sent again",
        "cuts",
        "an honest client",
        ClientCore._greet,
        {"accepted = last_id if welcome.resumed and last_id is not None else 0": "accepted = 0"},
    ),
    Bug(
        "client: cancels are not sent again",
        "leave",
        "EX-1",
        ClientCore._greet,
        {"if exchange.state is State.CANCELLING": "if False"},
    ),
    Bug(
        "client: attempts are not counted",
        "cuts",
        "I5",
        ClientCore.hello,
        {"self.attempt += 1": "self.attempt = 1"},
    ),
    Bug(
        "client: acknowledges one too many",
        "cuts",
        "an honest client",
        ClientCore.urgent,
        {'"seq": self.received.got': '"seq": self.received.got + 1'},
    ),
    Bug(
        "client: hello says that nothing has arrived",
        "cuts",
        "I7",
        ClientCore.hello,
        {'"seq": self.received.got': '"seq": 0'},
    ),
    Bug(
        "client: sends to the next session what was accepted",
        "expiry",
        "I3",
        Exchange.starts_again,
        {"now < self.again_until": "True"},
    ),
    Bug(
        "client: subscribes anew without its place",
        "lost place",
        "I1",
        ClientCore._start_again,
        {'exchange.cursor if "history" in self.welcome.profiles else None': "None"},
    ),
    Bug(
        "client: events do not move its place",
        "lost place",
        "I1",
        Exchange.arrive,
        {"self.cursor = cursor or self.cursor": "pass"},
    ),
    Bug(
        "client: sends an auth again",
        "auth",
        "the newest credentials",
        ClientCore._greet,
        {"fate is Fate.NOT_ACCEPTED and exchange.kind is Kind.AUTH": "False"},
    ),
    Bug(
        "server: a stale hello is accepted",
        "takeover",
        "I5",
        resume._check_attempt,
        {"attempt <= highest": "False"},
    ),
    Bug(
        "server: attempts are not stored",
        "takeover",
        "I5",
        Sessions.resume,
        {"session.attempt = wanted.attempt": "pass"},
    ),
    Bug(
        "server: a mismatch leaves the session and its connection alone",
        "mismatch",
        "I3",
        Sessions.resume,
        {
            "self._detach(session)": "self._detach(session) if profiles == session.profiles else []",
            "effects += self.end(session, SessionInput.MISMATCH, now)": "pass",
        },
    ),
    Bug(
        "server: a mismatch keeps the session without a connection",
        "mismatch",
        "I5",
        Sessions.resume,
        {"effects += self.end(session, SessionInput.MISMATCH, now)": "pass"},
    ),
    Bug(
        "server: acts on old input after a takeover",
        "takeover",
        "nothing is acted on",
        Connection.receive,
        {"self.phase is _CLOSED": "False"},
    ),
    Bug(
        "server: a resumed session still times out",
        "expiry",
        "nothing breaks",
        Sessions.resume,
        {"session.ends_at = NEVER": "pass"},
    ),
    Bug(
        "server: an auth outlives its connection",
        "auth",
        "the newest cred",
        Session.detach,
        {"exchange.pool is Pool.AUTH": "False"},
    ),
    Bug(
        "server: gaps go past the window",
        "gap",
        "I4",
        Outgoing._peek_singly,
        {"if sequenced and (seq": "if kind != GAP and sequenced and (seq"},
    ),
    Bug(
        "server: every overflow has a gap of its own",
        "no acks",
        "I4",
        Outgoing._give_up,
        {"if victim not in missed:": "if True:"},
    ),
    Bug(
        "server: a stream does not wait for its last chunk",
        "stream",
        "I4",
        Session.chunk_waits,
        {"self.outgoing.holds(CHUNK, id)": "False"},
    ),
    Bug(
        "server: a gap stands at the head of the queue",
        "gap",
        "what arrives",
        Outgoing._give_up,
        {'(GAP, victim, b"", b"", 0))': '(GAP, victim, b"", b"", 0)); self._queue.rotate(1)'},
    ),
    Bug(
        "server: a gap counts one event too few",
        "gap",
        "I1",
        Outgoing._give_up,
        {"missed[victim] = 0": "missed[victim] = -1"},
    ),
    Bug(
        "server: frames are forgotten when they are sent",
        "cuts",
        "I2",
        Outgoing.written,
        {"self.unacked.append(text)": "pass"},
    ),
    Bug(
        "server: each connection counts from what was acknowledged",
        "cuts",
        "I2",
        Outgoing.attach,
        {"self._again = len(self.unacked)": "self._again = len(self.unacked)\n    self.sent = self.acked"},
    ),
    Bug(
        "server: takes one more for acknowledged than hello says",
        "cuts",
        "EX-1",
        Sessions.resume,
        {"outgoing.ack(wanted.seq)": "outgoing.ack(min(wanted.seq + 1, outgoing.sent))"},
    ),
    Bug(
        "server: a resume opens the window anew",
        "cuts",
        "I4",
        Outgoing._peek_singly,
        {"self.acked + limits.window": "self.acked + limits.window + self._again"},
    ),
    Bug(
        "server: what is not acknowledged is not sent again",
        "cuts",
        "EX-1",
        Outgoing.attach,
        {"len(self.unacked)": "0"},
    ),
    Bug(
        "server: what ends while suspended is not told",
        "cuts",
        "EX-1",
        Session.succeed,
        {"if exchange is not None": "if exchange is not None and self.attached is not None"},
    ),
    Bug(
        "server: events while suspended are dropped",
        "leave",
        "I1",
        Session.deliver,
        {"if exchange is None": "if exchange is None or self.attached is None"},
    ),
    Bug(
        "server: replay misses one at the switch to live",
        "replay",
        "I1",
        Outgoing._replay,
        {"place.position = place.log.end": "place.position = place.log.end + 1"},
    ),
    Bug(
        "server: replay begins one too early",
        "replay",
        "I1",
        Outgoing._give_up,
        {"place.read(position - 1)": "place.read(max(0, position - 2))"},
    ),
    Bug(
        "server: replay begins one too late",
        "replay",
        "I1",
        Outgoing._give_up,
        {"place.read(position - 1)": "place.read(position)"},
    ),
    Bug(
        "server: a subscription that replays hears live events, too",
        "replay",
        "I1",
        Outgoing._replay,
        {"place.replaying = item is not None": "place.replaying = False"},
    ),
    Bug(
        "server: a trimmed log is skipped in silence",
        "trim",
        "I1",
        Place.read,
        {"return REPLAYED, id, gap_head(id), tail, position": "return self.read(position)"},
    ),
    Bug(
        "server: a fence that the window does not stop",
        "fence",
        "a pong",
        Outgoing.fence,
        {"self._urgent.append(_held(text))": "self._urgent.append(text)"},
    ),
    Bug(
        "server: a stranger hears of a tombstone",
        "expiry",
        "a stranger",
        Sessions._recall,
        {" or not _is_same(tombstone.owner, grant)": ""},
    ),
    Bug(
        "server: a stranger may resume",
        "expiry",
        "a stranger",
        Sessions.resume,
        {"not _is_same(_owner(session.grant), grant)": "False"},
    ),
)
