"""Hand-made histories, written as one short line per row.

    a hello seq=3            a new connection of client a; with seq it resumes
    a welcome                ... is welcomed into a new session; `resumed=true` keeps the old one
    a call subscribe 1 channel=x
    a got open id=1          a frame of the server; `t=b.1` stands for the data of event b.1
    a sent ack seq=3
    a return 1 ok
    a publish 2 x a.1        call, result and return in one
    a listen 1 x             call and open of a subscription in one
    a fence                  ping and pong
    a abort                  the connection is cut

With profile ack, frames with an id get the next seq by themselves unless they say one. `@2` after the client
names one of its connections, the newest otherwise. A line that begins with `!` belongs to the wrong history
alone, one with `=` to its legal twin alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from holdfast_conformance.explore.history import FORMAT, validate

if TYPE_CHECKING:
    from holdfast_conformance.explore.history import Row

__all__ = ["ALL", "history", "twins"]

ALL = ("rpc", "pubsub", "pattern", "fence", "ack", "resume", "history")
LIMITS = {"window": 8, "dedupe_ms": 1000}


def twins(text: str) -> tuple[str, str]:
    """Return the wrong history and the legal one of a text, which differ in one line at most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = "\n".join(line.removeprefix("!") for line in lines if not line.startswith("="))
    right = "\n".join(line.removeprefix("=") for line in lines if not line.startswith("!"))
    assert sum(line.startswith("!") for line in lines) <= 1 >= sum(line.startswith("=") for line in lines)
    return wrong, right


def history(text: str, profiles: tuple[str, ...] = ALL) -> list[Row]:
    """Return the rows of a history."""
    maker = _Maker(profiles)
    for line in text.strip().splitlines():
        maker.line(line.split())
    validate(maker.rows)
    return maker.rows


class _Maker:
    def __init__(self, profiles: tuple[str, ...]) -> None:
        self.rows: list[Row] = []
        self.profiles = profiles
        self.now = 0.0
        self.conns = 0
        self.newest: dict[str, int] = {}
        self.lives: dict[str, int] = {}
        self.seqs: dict[str, int] = {}
        self.pings = 0
        identities = {"a": "alice", "b": "bob", "c": "alice", "n": "anonymous n"}
        self.add(what="plan", format=FORMAT, identities=identities)

    def add(self, **row: object) -> None:
        self.now += 0.001
        self.rows.append(cast("Row", {"at": round(self.now, 6), **row}))

    def line(self, words: list[str]) -> None:
        client, *words = words
        conn = int(words.pop(0)[1:]) if words[0].startswith("@") else self.newest.get(client, 0)
        verb, *words = words
        plain = [word for word in words if "=" not in word]
        named: dict[str, object] = {
            name: _value(value) for name, _, value in (word.partition("=") for word in words if "=" in word)
        }
        if "t" in named and verb != "sent":
            named["data"] = {"t": named.pop("t")}
        here = {"client": client, "conn": conn}
        match verb:
            case "hello":
                self.conns += 1
                self.newest[client] = self.conns
                resume = {"resume": {"seq": named["seq"], "attempt": self.conns}} if named else {}
                self.add(what="hello", client=client, conn=self.conns, **resume)
            case "welcome":
                if not named.get("resumed"):
                    self.lives[client] = self.lives.get(client, 0) + 1
                    self.seqs[client] = 0
                welcome = {"type": "welcome", "profiles": list(self.profiles), "limits": LIMITS, **named}
                self.add(what="frame", **here, said=welcome)
            case "call":
                frame = {"type": plain[0], "id": int(plain[1]), **named}
                self.add(what="call", client=client, life=self.lives[client], frame=frame)
            case "sent":
                self.add(what="sent", **here, frame={"type": plain[0], **named})
            case "got":
                self.got(here, plain[0], named)
            case "return":
                outcome, code = plain[1], {"code": plain[2]} if plain[2:] else {}
                self.add(
                    what="return",
                    client=client,
                    life=self.lives[client],
                    id=int(plain[0]),
                    outcome=outcome,
                    **code,
                )
            case "wait":
                self.now += float(plain[0])
            case "calm":
                self.add(what="calm", **here)
            case "end":
                self.add(what="end", **here, how="closed", **({"code": plain[0]} if plain else {}))
            case "abort":
                self.add(what="fault", **here, fault="abort")
                self.add(what="end", **here, how="closed by us")
            case "publish":
                result = {name: named.pop(name) for name in ("cursor", "duplicate") if name in named}
                frame = {
                    "type": "publish",
                    "id": int(plain[0]),
                    "channel": plain[1],
                    "data": {"t": plain[2]},
                    **named,
                }
                self.add(what="call", client=client, life=self.lives[client], frame=frame)
                self.got(here, "result", {"id": int(plain[0]), "data": result})
                self.add(
                    what="return", client=client, life=self.lives[client], id=int(plain[0]), outcome="ok"
                )
            case "listen":
                opened: dict[str, object] = {
                    name: named.pop(name) for name in ("cursor", "recovered") if name in named
                }
                frame = {"type": "subscribe", "id": int(plain[0]), "channel": plain[1], **named}
                self.add(what="call", client=client, life=self.lives[client], frame=frame)
                self.got(here, "open", {"id": int(plain[0]), **opened})
            case "fence":
                self.pings += 1
                self.add(what="sent", **here, frame={"type": "ping", "t": str(self.pings)})
                self.got(here, "pong", {"t": str(self.pings), **named})
            case "join":
                self.line([client, "hello"])
                self.line([client, "welcome"])
            case _:
                raise AssertionError(verb)

    def got(self, here: dict[str, object], type: str, named: dict[str, object]) -> None:
        client = str(here["client"])
        if "id" in named and "ack" in self.profiles and "seq" not in named:
            self.seqs[client] += 1
            named = {"seq": self.seqs[client], **named}
        elif isinstance(seq := named.get("seq"), int):
            self.seqs[client] = seq
        self.add(what="frame", **here, said={"type": type, **named})


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
