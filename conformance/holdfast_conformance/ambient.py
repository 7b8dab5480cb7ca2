"""Ambient checks: what must hold for every frame of every check, whatever that check is about.

One `Watch` follows one connection in both directions; all of a run report to one `Ambient`. Each rule is tied
to its requirement and counts its occasions, because a rule that nothing exercised has not been passed. A
broken rule is reported as a failure of the rule, with the timeline of the check in which it was seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from . import registry, schemas
from .client import Twice
from .expect import same_json
from .rules import RULES
from .strand import Row, Strand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .expect import Frame
    from .journal import Journal
    from .verdict import Line

__all__ = ["RULES", "Ambient", "Watch"]

TERMINAL = ("result", "error")

NEVER_SENT = (1005, 1006, 1015)

COMPARED = 4
"""With the cursors of so many subscriptions to its channel each event is compared."""

Orders = dict[object, list[dict[object, int]]]
"""By channel, for each subscription that has a log the place of each cursor in what it got."""


@dataclass(slots=True)
class Violation:
    """One time that a rule was broken: how, in which check, and what led to it."""

    message: str
    check: str
    timeline: tuple[Line, ...]


@dataclass(slots=True)
class Ambient:
    """The ledger of a run: for each rule its occasions and its first violations.

    Attributes:
        conns: every conn that a welcome named.
        names: the name of every session.
        strands: the sessions of the checks that still run, by their names.
        orders: for the checks that still run the cursors that each subscription saw, by channel.
    """

    occasions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    violations: dict[str, list[Violation]] = field(default_factory=dict)
    conns: set[object] = field(default_factory=set)
    names: set[object] = field(default_factory=set)
    strands: WeakValueDictionary[object, Strand] = field(default_factory=WeakValueDictionary)
    orders: WeakKeyDictionary[Journal, Orders] = field(default_factory=WeakKeyDictionary)

    def watch(self, check: str, journal: Journal, mask: Callable[[str], str]) -> Watch:
        """Return a watch for one new connection of a check."""
        return Watch(self, check, journal, mask)


class Watch:
    """Follows one connection; every method is told of one thing that passed, in order."""

    def __init__(self, ambient: Ambient, check: str, journal: Journal, mask: Callable[[str], str]) -> None:
        self._ambient = ambient
        self._check = check
        self._journal = journal
        self._mask = mask
        self._tables = registry.published()
        self._strand = Strand()
        self._hello: Mapping[str, object] = {}
        self._welcome: Mapping[str, object] | None = None
        self._profiles: frozenset[str] = frozenset()
        self._pings: list[object] = []
        self._last_ping = float("-inf")
        self._interval = 0.0
        self._tokens: set[str] = set()
        self._entry = 0
        self._our_close: int | None = None
        self._blind = False
        self._late = False
        self._next = 1
        self._after_resume = False

    # What we send

    def not_reading(self) -> None:
        """We let bytes lie unread: from now on the times of frames say nothing about when they were sent."""
        self._late = True

    def sent_raw(self) -> None:
        """Bytes went out that nobody read: from now on it is not known what the target has been told."""
        self._blind = True

    def sent_close(self, code: int | None) -> None:
        """Remember our close frame: the server's may repeat its code."""
        self._our_close = code

    def fault_of_ours(self, frame: Mapping[str, object]) -> str | None:
        """Return why a frame that a check means to be good is not, or None."""
        return schemas.fault(frame)

    def sent(self, text: str) -> None:
        """Remember a text message of ours, however odd."""
        try:
            frame = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(frame, dict):
            return
        match frame.get("type"):
            case "hello":
                self._hello = frame
                auth = frame.get("auth")
                self._token(auth.get("token") if isinstance(auth, dict) else None)
            case "ping":
                self._pings.append(frame.get("t"))
            case "auth":
                self._token(frame.get("token"))
            case "ack" if isinstance(seq := frame.get("seq"), int):
                self._strand.acknowledge(seq)
        id = frame.get("id")
        if isinstance(id, float) and id.is_integer():
            id = int(id)
        if isinstance(id, int) and frame.get("type") not in ("hello", "ping", "pong", "cancel", "ack"):
            self._strand.exchanges.setdefault(id, Row(frame))

    def _token(self, token: object) -> None:
        if isinstance(token, str) and len(token) >= 4:
            self._tokens.add(token)

    # What we receive

    def received_binary(self, entry: int) -> None:
        """Judge a binary message."""
        self._entry = entry
        self._judge("trn/every-message-is-text", False, "a binary message came")

    def received_garbage(self, entry: int, problem: str) -> None:
        """Judge bytes that are no message, or a message that is no JSON."""
        self._entry = entry
        self._judge("trn/every-message-is-text", False, problem)

    def received_twice(self, entry: int, body: Mapping[str, object]) -> None:
        """Judge a message in which some object has two members of one name.

        What is inside `data` was not written by the server, which carries it unchanged [ENV-28].
        """
        self._entry = entry
        envelope = {name: member for name, member in body.items() if name != "data"}
        mine = isinstance(body, Twice) or _holds_twice(envelope)
        self._judge("env/no-duplicate-names", not mine, "a name occurs twice in one object")

    def received_close(self, entry: int, code: int, reason: str) -> None:
        """Judge a close frame; 1005 stands for one without a code."""
        self._entry = entry
        # 1005 is what the parser says for an empty close frame, so it cannot be told from a written one here.
        self._judge(
            "trn/no-reserved-close-codes", code not in NEVER_SENT[1:], f"the close frame carries {code}"
        )
        names = self._tables.server_closes
        answer = code in (1005, self._our_close)
        known = answer or code in names or any(a <= code <= b for a, b in self._tables.server_ranges)
        self._judge("err/close-codes", known, f"{code} is not a code for servers")
        if code in names and 4000 <= code <= 4999 and not answer:
            self._judge(
                "err/close-reason",
                reason == names[code],
                f"{code} has the reason {reason!r}, not {names[code]!r}",
            )
        self._leaks(reason)
        self._judge("trn/nothing-after-close", True, "")

    def after_close(self, entry: int) -> None:
        """Judge anything that follows the server's close frame."""
        self._entry = entry
        self._judge("trn/nothing-after-close", False, "bytes follow the close frame")

    def received(self, frame: Frame) -> None:
        """Judge one text message that is JSON."""
        self._entry = frame.entry
        body = frame.body
        self._judge("trn/every-message-is-text", True, "")
        problem = schemas.fault(body) if body else "not a JSON object"
        self._judge("env/frames-match-schema", problem is None, f"{problem}")
        self._judge("env/no-duplicate-names", True, "")
        if "id" in body:
            self._judge("env/plain-integers", not isinstance(body["id"], float), f"the id is {body['id']!r}")
        self._leaks(frame.text)
        if self._welcome is None:
            self._judge("ses/nothing-before-welcome", frame.type == "welcome", f"the first frame is {frame}")
        if problem is not None and frame.type != "welcome":
            return
        size = len(frame.text) if frame.text.isascii() else len(frame.text.encode())
        if limit := self._strand.frame_limit:
            self._judge("lim/frames-fit", size <= limit, f"{size} bytes, {limit} allowed")
        self._negotiated(body)
        if not self._numbered(frame, size):
            return
        match body["type"]:
            case "welcome":
                self._on_welcome(body)
            case "pong":
                self._on_pong(body)
            case "ping":
                self._on_ping(frame)
            case "result" | "error" | "chunk" | "open" | "event" | "gap":
                self._on_exchange(frame)

    def _on_welcome(self, body: Mapping[str, object]) -> None:
        self._judge("ses/one-welcome", self._welcome is None, "a second welcome")
        self._welcome = body
        listed = _strings(body.get("profiles"))
        self._profiles = frozenset(listed)
        asked = set(_strings(self._hello.get("profiles")))
        unmet = [
            p
            for p in listed
            if p not in asked or not self._tables.needs.get(p, frozenset()) <= self._profiles
        ]
        if not self._blind:
            self._judge(
                "ses/only-asked-profiles", not unmet, f"{unmet} were not asked for, or lack what they need"
            )
        twice = len(listed) != len(self._profiles) or "core" in listed
        self._judge("ses/profiles-listed-once", not twice, f"profiles are {listed}")
        conn = body.get("conn")
        self._judge(
            "ses/conn-is-unique",
            conn not in self._ambient.conns,
            f"another connection has conn {conn!r}, too",
        )
        self._ambient.conns.add(conn)
        limits = body.get("limits")
        limits = limits if isinstance(limits, dict) else {}
        in_force = {"core", *self._profiles}
        missing = [
            k
            for k, (profile, always) in self._tables.limits.items()
            if always and profile in in_force and k not in limits
        ]
        self._judge("lim/limits-present", not missing, f"welcome lacks {missing}")
        self._on_session(body, limits)
        max_frame = limits.get("max_frame")
        if isinstance(max_frame, int):
            self._judge("lim/max-frame-floor", max_frame >= 4096, f"max_frame is {max_frame}")
            if isinstance(room := limits.get("queue_bytes"), int):
                self._judge("lim/queue-takes-a-frame", room >= max_frame, f"queue_bytes is {room}")
            ours = self._hello.get("limits")
            lowered = ours.get("max_frame") if isinstance(ours, dict) else None
            lowest = min(max_frame, lowered) if isinstance(lowered, int) else max_frame
            self._strand.frame_limit = self._strand.frame_limit or lowest
        heartbeat = body.get("heartbeat")
        interval = heartbeat.get("interval_ms") if isinstance(heartbeat, dict) else None
        self._interval = interval / 1000 if isinstance(interval, (int, float)) else 0.0

    def _on_session(self, welcome: Mapping[str, object], limits: Mapping[str, object]) -> None:
        """Judge what a welcome says of its session, and go on with the strand of a resumed one."""
        if "resume" in self._profiles:
            name, resumed = welcome.get("session"), welcome.get("resumed")
            error = welcome.get("resume_error")
            told = isinstance(name, str) and isinstance(resumed, bool)
            self._judge("res/every-welcome-has-a-session", told, f"session is {name!r}, resumed {resumed!r}")
            asked = self._hello.get("resume")
            if not isinstance(asked, dict):
                fresh = resumed is not True and error is None
                self._judge("res/nothing-resumed-unasked", fresh, f"resumed {resumed!r}, error {error!r}")
            elif resumed is True:
                self._resume(asked, welcome)
            else:
                why = error.get("code") if isinstance(error, dict) else None
                self._judge("res/refused-is-said", why is not None, f"resume_error is {error!r}")
            if resumed is not True:
                self._judge("res/names-are-unique", name not in self._ambient.names, "a name came again")
                self._ambient.names.add(name)
                self._ambient.strands[name] = self._strand
        self._strand.agree(limits)

    def _resume(self, asked: Mapping[str, object], welcome: Mapping[str, object]) -> None:
        name, seq, last_id = welcome.get("session"), asked.get("seq"), welcome.get("last_id")
        self._judge("res/accepted-is-said", name == asked.get("session"), "the session has another name")
        strand = self._ambient.strands.get(name)
        if strand is None or not isinstance(seq, int):
            return
        used, least = strand.used, strand.answered
        if not self._blind:
            plausible = isinstance(last_id, int) and least <= last_id <= used
            self._judge("res/accepted-is-said", plausible, f"last_id is {last_id!r}, not {least} to {used}")
        same = strand.limits == welcome.get("limits")
        self._judge("res/limits-come-again", same, f"the limits were {strand.limits}")
        strand.acknowledge(seq)
        self._strand, self._next, self._after_resume = strand, seq + 1, True

    def _numbered(self, frame: Frame, size: int) -> bool:
        """Judge the number of a frame; False when it came before, and was judged before."""
        if "ack" not in self._profiles:
            return True
        seq, strand = frame.get("seq"), self._strand
        right = ("seq" in frame.body) == ("id" in frame.body)
        self._judge(
            "del/frames-are-numbered", right, f"{frame} {'with' if 'seq' in frame.body else 'without'} seq"
        )
        if not isinstance(seq, int) or "id" not in frame.body:
            return True
        rule = "res/sent-again-unchanged" if self._after_resume else "del/numbers-have-no-holes"
        self._judge(rule, seq == self._next, f"seq {seq} came where {self._next} was due")
        self._next, self._after_resume = seq + 1, False
        if seq <= strand.highest:
            if (first := strand.sent.get(seq)) is not None:
                same = same_json(first.body, frame.body)
                self._judge("res/sent-again-unchanged", same, f"seq {seq} was {first.text[:100]} before")
            return False
        if not self._blind:
            unacked = f"{strand.acked} is acknowledged, {strand.bytes} bytes are not"
            self._judge("del/window-is-kept", strand.window_open(seq), f"seq {seq} came, and {unacked}")
            self._judge("del/window-bytes-are-kept", strand.room, f"seq {seq} came, and {unacked}")
        strand.receive(seq, frame, size)
        return True

    def _on_pong(self, body: Mapping[str, object]) -> None:
        t = body.get("t")
        asked = t in self._pings
        if not self._blind:
            self._judge("ses/pong-echoes-t", asked, f"no unanswered ping has t {t!r}")
        if asked:
            self._pings.remove(t)
        if not self._profiles & {"ack", "history"}:
            self._judge("del/no-held", "held" not in body, "the pong carries held")

    def _on_ping(self, frame: Frame) -> None:
        # Half an interval, because the network may delay one ping and not the next.
        early = frame.at - self._last_ping < self._interval / 2
        if not self._late:
            self._judge("ses/one-ping-per-interval", not early, "two pings within half an interval")
        self._last_ping = frame.at

    def _on_exchange(self, frame: Frame) -> None:
        id, type = frame.get("id"), frame.type
        seen = self._strand.exchanges.get(id)
        if not self._blind:
            self._judge("rpc/only-known-ids", seen is not None, f"the id {id} was never used")
        if seen is None:
            return
        self._judge("rpc/nothing-after-terminal", not seen.ended, f"{frame}, which had ended")
        seen.answered = True
        match type:
            case "result" | "error":
                seen.ended = True
                if type == "error":
                    self._on_error(frame)
            case "chunk":
                asked = seen.sent.get("stream") is True
                self._judge("rpc/chunks-only-when-asked", asked, "a chunk on a request without stream:true")
            case "open":
                self._judge("sub/one-open", not seen.opened, f"a second {frame}")
                seen.opened = True
                self._on_open(frame, seen)
            case "event" | "gap":
                self._judge("sub/nothing-before-open", seen.opened, f"{frame} before its open")
                self._on_delivery(frame, seen)

    def _on_open(self, frame: Frame, seen: Row) -> None:
        if "history" not in self._profiles:
            return
        if "since" not in seen.sent:
            plain = "recovered" not in frame.body and "reason" not in frame.body
            self._judge("his/recovered-only-when-asked", plain, f"{frame} speaks of a recovery")
        if "cursor" in frame.body:
            seen.logged = True
            orders = self._ambient.orders.setdefault(self._journal, {})
            seen.places = {frame["cursor"]: 0}
            orders.setdefault(seen.sent.get("channel"), []).append(seen.places)

    def _on_delivery(self, frame: Frame, seen: Row) -> None:
        if seen.logged:
            self._on_logged(frame, seen)
        if frame.type == "gap":
            return
        channel = frame.get("channel")
        if "pattern" in seen.sent:
            self._judge("sub/pattern-event-has-channel", channel is not None, f"{frame} names no channel")
        elif channel is not None:
            subscribed = seen.sent.get("channel")
            self._judge(
                "sub/event-names-its-channel", channel == subscribed, f"{channel!r} instead of {subscribed!r}"
            )

    def _on_logged(self, frame: Frame, seen: Row) -> None:
        """Judge an event or a gap of a subscription that has a log."""
        cursor = frame.get("cursor")
        if frame.type == "gap":
            overflow = frame.get("reason") == "overflow"
            self._judge("del/no-overflow-with-a-log", not overflow, f"{frame} with the reason overflow")
            self._judge("his/gaps-have-cursors", cursor is not None, f"{frame} without a cursor")
            return
        self._judge("del/no-overflow-with-a-log", True, "")
        self._judge("his/cursor-on-every-event", cursor is not None, f"{frame} without a cursor")
        previous = next(reversed(seen.places))
        seen.places[cursor] = len(seen.places)
        for other in self._ambient.orders[self._journal][seen.sent.get("channel")][:COMPARED]:
            if other is not seen.places and previous in other and cursor in other:
                same = other[previous] < other[cursor]
                self._judge("sub/one-order-of-cursors", same, f"{cursor!r} before {previous!r} elsewhere")

    def _on_error(self, frame: Frame) -> None:
        error = frame.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if not isinstance(error, dict) or not isinstance(code, str):
            return
        self._judge(
            "err/known-codes", code in self._tables.retry or "." in code, f"{code!r} is not in the table"
        )
        if self._tables.retry.get(code):
            self._judge("err/retry-when-retryable", "retry_ms" in error, f"{code!r} without retry_ms")

    def _negotiated(self, body: Mapping[str, object]) -> None:
        type = str(body["type"])
        in_force = self._profiles | {"core"}
        if type == "welcome":
            in_force = in_force | set(_strings(body.get("profiles")))
        profile = self._tables.profile_of.get(type, "core")
        foreign = [] if profile in in_force else [type]
        for name in body:
            owner = self._tables.fields.get((type, name)) or self._tables.fields.get(("*", name))
            if owner is not None and owner not in in_force and name != "cursor":
                foreign.append(name)
        self._judge("ver/only-negotiated", not foreign, f"{foreign} belong to profiles that are not in force")

    def _leaks(self, text: str) -> None:
        if self._tokens:
            leaked = any(token in text for token in self._tokens)
            self._judge("sec/no-token-leaks", not leaked, "the text holds a token of the client")

    def _judge(self, rule: str, holds: bool, problem: str) -> None:
        self._ambient.occasions[rule] += 1
        if holds:
            return
        found = self._ambient.violations.setdefault(rule, [])
        if len(found) < 5:
            lines = self._journal.lines(self._mask, self._entry)
            found.append(Violation(self._mask(problem), self._check, lines))


def _holds_twice(value: object) -> bool:
    if isinstance(value, dict):
        return isinstance(value, Twice) or any(map(_holds_twice, value.values()))
    return isinstance(value, list) and any(map(_holds_twice, value))


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
