"""What is explored: small worlds, each wide enough for one family of mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exploration.client_side import Line
from exploration.world import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

_ASK = Line("request", "a")
_ASK_B = Line("request", "b")
_ASK_C = Line("request", "c")
_STOP = Line("cancel", "a")
_LISTEN = Line("subscribe", "s")
_LISTEN_T = Line("subscribe", "t")
_LEAVE = Line("cancel", "s")
_STREAM = Line("stream", "a")
_TELL = Line("publish", "p")
_RENEW = Line("auth", "u")
_PING = Line("ping", "1")
_HISTORY: Final = ("rpc", "pubsub", "ack", "resume", "history")
_LATE: Final = frozenset({"expired", "not_found"})

SCENARIOS: Final[Mapping[str, Bounds]] = {
    # A client that may give up a connection that lives, twice, and reads on there.
    "takeover": Bounds((_ASK, _ASK_B), cuts=1, dials=4, impatient=2),
    "slow to greet": Bounds((_ASK, _ASK_B), cuts=2, dials=4, impatient=1, slow=True),
    "cuts": Bounds((_ASK, _ASK_B, _ASK_C), cuts=2, dials=3, window=1),
    "cancel": Bounds((_ASK, _STOP, _LISTEN, _LEAVE), cuts=2, dials=3, events=1),
    "stream": Bounds((_STREAM, _STOP), cuts=2, dials=3, impatient=1, window=1),
    # It reads, and never acknowledges: nothing may grow for it, whatever is published.
    "no acks": Bounds((_ASK, _LISTEN, _LISTEN_T), cuts=1, dials=2, events=6, window=3, queue=2, acks=False),
    "no acks, log": Bounds(
        (_LISTEN, _LISTEN_T),
        cuts=1,
        dials=2,
        events=5,
        window=3,
        queue=2,
        profiles=_HISTORY,
        logged=True,
        acks=False,
    ),
    "leave": Bounds((_LISTEN, _LEAVE), cuts=1, dials=2, events=2),
    "expiry": Bounds((_ASK, _STOP, _ASK_B), cuts=2, dials=4, expiries=2, strangers=1, refusals=_LATE),
    "mismatch": Bounds(
        (_ASK, _ASK_B),
        cuts=1,
        dials=3,
        impatient=1,
        later=("ack", "resume", "rpc", "fence", "pubsub"),
        profiles=("ack", "resume", "rpc"),
        refusals=frozenset({"mismatch", "ended"}),
    ),
    "auth": Bounds((_RENEW, _ASK), cuts=2, dials=4, impatient=1, expiries=1, refusals=_LATE),
    "fence": Bounds(
        (_LISTEN, _PING),
        cuts=1,
        dials=3,
        impatient=1,
        events=3,
        window=1,
        queue=1,
        profiles=("pubsub", "ack", "resume", "fence"),
    ),
    "gap": Bounds((_ASK, _LISTEN), cuts=1, dials=2, events=4, window=1, queue=1),
    "two subscriptions": Bounds((_LISTEN, _LISTEN_T), cuts=1, dials=2, events=3, window=2, queue=2),
    "replay": Bounds(
        (_LISTEN, _TELL), cuts=2, dials=3, events=3, window=1, queue=1, profiles=_HISTORY, logged=True
    ),
    "trim": Bounds(
        (_LISTEN,), cuts=1, dials=2, events=4, trims=1, window=1, queue=1, profiles=_HISTORY, logged=True
    ),
    "lost place": Bounds(
        (_LISTEN,), cuts=1, dials=2, events=2, expiries=1, profiles=_HISTORY, logged=True, refusals=_LATE
    ),
    "recovery": Bounds(
        (_LISTEN, _TELL),
        cuts=2,
        dials=3,
        events=2,
        expiries=1,
        trims=1,
        profiles=_HISTORY,
        logged=True,
        refusals=_LATE,
    ),
}
