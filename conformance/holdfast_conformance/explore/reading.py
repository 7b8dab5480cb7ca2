"""The first reading of a history, row by row: it collects the facts, and what one row alone proves wrong."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from .anomalies import KINDS, Anomaly
from .facts import NEVER, Connection, Exchange, Facts, Gap, Life, Place, Publish, Subscription
from .history import ANONYMOUS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .history import Row, Said

__all__ = ["EXPIRY_SLACK", "Reading", "unique"]

EXPIRY_SLACK = 0.5
"""Seconds by which a timer of the target may be late on a busy machine."""

CLIENT_AT_FAULT = frozenset(range(4000, 4100)) - {4008}
"""Close codes that blame the client, which is honest here."""


def unique(data: object) -> str | None:
    """Return the token that makes the data of an event of ours unlike all others, None when it has none."""
    if type(data) is dict and type(token := data.get("t")) is str:
        return token
    return None


class Reading:
    """Reads rows once, in order; afterwards `facts` and `found` are complete as far as single rows go."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.facts = Facts()
        self.found: list[Anomaly] = []
        self._rows = rows
        self._principals = rows[0]["identities"]
        self._conns: dict[int, Connection] = {}
        self._lives: dict[str, list[Life]] = {}
        self._counts: Counter[str] = Counter()
        self._keys: dict[tuple[str, str, str], list[Exchange]] = {}

    def read(self) -> None:
        """Read everything."""
        turns: dict[str, Callable[[int, Row], None]] = {
            "hello": self._hello,
            "call": self._call,
            "sent": self._sent,
            "frame": self._frame,
            "return": self._return,
            "fault": self._fault,
            "end": self._end,
            "calm": self._calm,
            "plan": lambda i, row: None,
        }
        for i, row in enumerate(self._rows):  # most of the time goes into fetching rows from memory
            turns[row["what"]](i, row)
        facts = self.facts
        exchanges = [exchange for life in facts.lives for exchange in life.exchanges.values()]
        self._counts["calls"] = len(exchanges)
        self._counts["publishes"] = len(facts.publishes)
        self._counts["deliveries"] = sum(len(subscription.items) for subscription in facts.subscriptions)
        self._counts["deliveries"] -= self._counts["gaps"]
        self._counts["replies"] = sum(exchange.ended < NEVER for exchange in exchanges)
        facts.counts = dict(self._counts)

    def accuse(self, kind: str, requirement: str, message: str, *rows: int, spoils: str = "") -> None:
        """Record a finding."""
        spoils = spoils or KINDS[kind].spoils[0]
        self.found.append(Anomaly(kind, requirement, message, tuple(rows), spoils))

    # What clients do

    def _hello(self, i: int, row: Row) -> None:
        resume = row.get("resume")
        lives = self._lives.get(row["client"])
        previous = lives[-1] if lives else None
        conn = Connection(row["conn"], row["client"], resume["seq"] if resume else None, previous)
        self._conns[conn.number] = conn
        if resume is not None and previous is not None:
            previous.newest_conn = conn.number
            if resume["seq"] > previous.acked:
                self._acknowledged(previous, resume["seq"])

    def _call(self, i: int, row: Row) -> None:
        frame = row["frame"]
        life = self._lives[row["client"]][row["life"] - 1]
        id = frame["id"]
        exchange = Exchange(life, id, frame, i)
        life.exchanges[id] = exchange
        if id > life.highest:
            life.highest = id
        type = frame["type"]
        if type == "publish":
            self._publish(i, frame["channel"], exchange)
        elif type == "subscribe":
            channel, since = frame.get("channel"), frame.get("since")
            exchange.subscription = Subscription(exchange, channel, frame.get("pattern"))
            if since is not None and channel is not None:
                exchange.subscription.start = self.facts.place(channel, since)
            self.facts.subscriptions.append(exchange.subscription)

    def _publish(self, i: int, channel: str, exchange: Exchange) -> None:
        frame, data = exchange.sent, exchange.sent.get("data")
        token = unique(data) or ""
        facts = self.facts
        publish = facts.publishes.get(token)
        if publish is None:
            publish = Publish(token, exchange.life, channel, data, i, [exchange])
            if len(frame) > 4:  # more than every publish has
                publish.echo, publish.dedupe = frame.get("echo", True), frame.get("dedupe", "")
            facts.publishes[token] = publish
            facts.channels[channel].append(publish)
        else:
            self._counts["repeats"] += 1
            publish.exchanges.append(exchange)
        exchange.publish = publish
        if publish.dedupe:
            key = (exchange.life.principal, channel, publish.dedupe)
            self._keys.setdefault(key, []).append(exchange)

    def _sent(self, i: int, row: Row) -> None:
        frame, conn = row["frame"], self._conns[row["conn"]]
        type, life = frame["type"], conn.life
        if type == "ping":
            conn.pings[frame.get("t", "")] = i
        elif life is None:
            return
        elif type == "ack":
            if frame["seq"] > life.acked:
                self._acknowledged(life, frame["seq"])
        elif type == "cancel":
            exchange = life.exchanges.get(frame["of"])
            if exchange is not None and exchange.cancelled == NEVER:
                exchange.cancelled = i
                self._counts["cancels"] += 1

    def _acknowledged(self, life: Life, seq: int) -> None:
        life.acked = seq
        if life.window:
            life.most = seq + life.window

    def _return(self, i: int, row: Row) -> None:
        exchange = self._lives[row["client"]][row["life"] - 1].exchanges[row["id"]]
        exchange.outcome, exchange.code = row["outcome"], row.get("code", "")
        publish = exchange.publish
        if publish is not None:
            if exchange.outcome == "ok":
                publish.outcome = "ok"
                if i < publish.done:
                    publish.done = i
            elif all(other.outcome == "failed" for other in publish.exchanges):
                publish.outcome = "failed"
            elif publish.outcome == "failed":
                publish.outcome = "maybe"
        if exchange.code == "timeout":
            self.accuse(
                "lost-reply",
                "RPC-01",
                f"{exchange.sent['type']} {exchange.id} of {exchange.life.name} never ended",
                exchange.call,
                i,
            )

    def _fault(self, i: int, row: Row) -> None:
        self._counts["faults"] += 1
        self._counts[f"fault:{row['fault']}"] += 1

    def _calm(self, i: int, row: Row) -> None:
        life = self._conns[row["conn"]].life
        if life is not None:
            life.proofs.append((i, i))

    # What the server does

    def _end(self, i: int, row: Row) -> None:
        conn = self._conns[row["conn"]]
        code = int(row["code"]) if row.get("code") else 0
        if code in CLIENT_AT_FAULT:
            self.accuse("wrongly-closed", "ERR-12", f"{conn.client} was honest and was closed with {code}", i)
        life = conn.life or (conn.previous if conn.resume_seq is not None else None)
        if code == 4008 and life is not None and life.newest_conn == conn.number:
            self.accuse(
                "wrongly-closed", "RES-19", f"the newest connection of {life.name} was closed with 4008", i
            )

    def _frame(self, i: int, row: Row) -> None:
        said, conn = row["said"], self._conns[row["conn"]]
        type, id, life = said["type"], said.get("id"), conn.life
        if type == "welcome":
            self._welcome(i, row["at"], said, conn)
            return
        if life is None or life.broken:
            return
        if id is None:
            if type == "pong" and "held" not in said:
                sent = conn.pings.pop(said.get("t", ""), None)
                if sent is not None and "fence" in self.facts.profiles:
                    life.proofs.append((sent, i))
                    conn.fence, conn.fence_row = sent, i
                    self._counts["fences"] += 1
            return
        seq = said.get("seq")
        if seq is not None:
            if seq == conn.next and life.got < seq <= life.most:
                conn.next = seq + 1
                conn.first = False
                life.got = seq
                life.frames[seq] = said
            elif not self._odd_sequence(i, seq, said, conn, life):
                return
        exchange = life.exchanges.get(id)
        if exchange is None:
            self.accuse("orphan-reply", "RPC-03", f"{type} names {id}, which {life.name} has not started", i)
            return
        if exchange.ended < i:
            kind = ("ghost", "integrity") if type in ("event", "gap") else ("double-reply", "replies")
            self.accuse(
                kind[0], "RPC-02", f"{type} for exchange {id} of {life.name} after its end", exchange.ended, i
            )
            return
        if id > life.consumed:
            life.consumed = id
        if type == "event":
            self._event(i, said, conn, exchange)
        elif type == "open":
            self._open(i, said, exchange)
        elif type == "gap":
            self._gap(i, said, exchange)
        elif type == "result" or type == "error":
            exchange.ended = i
            if type == "result":
                self._result(i, row, said, exchange)

    def _welcome(self, i: int, at: float, said: Said, conn: Connection) -> None:
        lives = self._lives.setdefault(conn.client, [])
        self.facts.profiles |= set(said["profiles"])
        life = lives[-1] if lives else None
        expires = (said.get("auth") or {}).get("expires_in_ms")
        if said.get("resumed"):
            if life is None or conn.resume_seq is None:
                self.accuse(
                    "resume-lie", "RES-04", f"{conn.client} did not resume and is told that it has", i
                )
            else:
                self._resumed(i, said, conn, life)
        else:
            refused = said.get("resume_error")
            if refused is not None and life is not None:
                self._refused(i, refused, life)
            limits = said.get("limits", {})
            number = len(lives) + 1
            principal = self._principals.get(conn.client, conn.client)
            if principal.startswith(ANONYMOUS):
                principal += f" {number}"
            life = Life(conn.client, number, principal, i)
            life.window, life.dedupe_ms = limits.get("window", 0), limits.get("dedupe_ms", 0)
            self._acknowledged(life, 0)
            conn.next = 1
            conn.first = False
            lives.append(life)
            self.facts.lives.append(life)
            self._counts["sessions"] += 1
        if life is not None:
            conn.life = life
            life.newest_conn = conn.number
            life.expires = at + expires / 1000 if isinstance(expires, int) else float("inf")

    def _resumed(self, i: int, said: Said, conn: Connection, life: Life) -> None:
        seq = conn.resume_seq or 0
        conn.resumed, conn.next = True, seq + 1
        life.resumes += 1
        self._counts["resumes"] += 1
        last_id = said.get("last_id", 0)
        least = max(life.last_id, life.consumed)
        if last_id < least:
            self.accuse(
                "ack-regression",
                "RES-31",
                f"last_id of {life.name} is {last_id}, and {least} was consumed before",
                i,
            )
        if last_id > life.highest:
            self.accuse(
                "ack-regression", "RES-27", f"last_id of {life.name} is {last_id}, which was never sent", i
            )
        life.last_id = max(life.last_id, last_id)

    def _refused(self, i: int, refused: dict[str, object], life: Life) -> None:
        self._counts["refusals"] += 1
        self._counts[f"refused:{refused.get('code')}"] += 1
        if refused.get("code") == "mismatch":
            self.accuse(
                "wrongly-closed", "RES-16", f"the honest resume of {life.name} was refused with mismatch", i,
            )  # fmt: skip

    def _odd_sequence(self, i: int, seq: int, said: Said, conn: Connection, life: Life) -> bool:
        """Judge a number that is not simply the next; return whether the frame is new to its session."""
        if seq != conn.next:
            life.broken = seq > conn.next
            if life.broken:
                if conn.first and conn.resumed:
                    message = f"resumed at {conn.resume_seq}, {life.name} goes on with {seq}"
                    self.accuse("resume-lie", "RES-29", message, i)
                else:
                    self.accuse("seq-hole", "DEL-21", f"{seq} follows {conn.next - 1} at {life.name}", i)
            elif conn.first and conn.resumed:
                message = f"{life.name} resumed at {conn.resume_seq} and gets {seq} again"
                self.accuse("ack-regression", "RES-28", message, i)
            else:
                self.accuse("seq-hole", "DEL-21", f"{seq} follows {conn.next - 1} at {life.name}", i)
        conn.first = False
        conn.next = seq + 1
        if seq <= life.got:
            before = life.frames.get(seq)
            if before is not None and before != said:
                self.accuse(
                    "seq-changed", "RES-29", f"frame {seq} of {life.name} differs when it is sent again", i
                )
            self._counts["resent"] += 1
            return False
        if seq > life.most:
            message = f"{life.name} had acknowledged {life.acked} of a window of {life.window} and got {seq}"
            self.accuse("ack-regression", "DEL-22", message, i)
        life.got = seq
        life.frames[seq] = said
        return True

    def _open(self, i: int, said: Said, exchange: Exchange) -> None:
        subscription = exchange.subscription
        if subscription is None or subscription.opened < NEVER:
            self.accuse(
                "double-reply", "SUB-01", f"open for {exchange.id} of {exchange.life.name} out of place", i
            )
            return
        subscription.opened = i
        subscription.recovered = said.get("recovered")
        cursor = said.get("cursor")
        if cursor is not None and "history" in self.facts.profiles:
            subscription.has_log, subscription.cursor = True, cursor
            self._counts["logged"] += 1
            if subscription.channel is not None and not subscription.recovered:
                low = 0 if subscription.unsure else exchange.call
                self._name_place(subscription.channel, cursor, Place(None, low, i))
        if subscription.recovered:
            self._counts["recoveries"] += 1
        else:
            subscription.start = None

    def _name_event(self, channel: str, cursor: str, event: Publish, i: int) -> None:
        """Remember the place just after an event, of which something is known; accuse if it is an event."""
        known = self.facts.cursors[channel][cursor]
        if isinstance(known, Publish):
            message = f"one cursor stands for {known.token} and for {event.token}"
            self.accuse("cursor-lie", "HIS-21", message, i)
        self.facts.cursors[channel][cursor] = event

    def _name_place(self, channel: str, cursor: str, place: Place) -> None:
        """Remember a place of which only the moment is known, unless more is known of it."""
        self.facts.cursors[channel].setdefault(cursor, place)

    def _gap(self, i: int, said: Said, exchange: Exchange) -> None:
        subscription = exchange.subscription
        if subscription is None or subscription.opened == NEVER:
            self.accuse(
                "ghost", "SUB-02", f"gap for {exchange.id} of {exchange.life.name} without an open", i
            )
            return
        reason, cursor = said.get("reason", ""), said.get("cursor")
        subscription.items.append(Gap(said.get("missed")))
        subscription.rows.append(i)
        subscription.gaps += 1
        self._counts["gaps"] += 1
        if subscription.has_log and reason == "overflow":
            self.accuse(
                "false-gap", "DEL-35", f"{subscription.name} has a log and lost events to overflow", i
            )
        if cursor is not None and subscription.channel is not None and subscription.has_log:
            self._name_place(subscription.channel, cursor, Place(None, 0, i))

    def _event(self, i: int, said: Said, conn: Connection, exchange: Exchange) -> None:
        subscription = exchange.subscription
        if subscription is None or subscription.opened == NEVER:
            self.accuse(
                "ghost", "SUB-02", f"event for {exchange.id} of {exchange.life.name} without an open", i
            )
            return
        data = said.get("data")
        event = self.facts.publishes.get(unique(data) or "")
        if event is None:
            self.accuse("phantom", "DEL-01", f"{subscription.name} got an event that nobody published", i)
            return
        channel = event.channel
        # What a pattern matches is for the checks; here its events need only name the right channel.
        named = subscription.channel or said.get("channel")
        if channel != named:
            self.accuse(
                "cross-talk",
                "SUB-09",
                f"{event.token} of another channel reached {subscription.name}",
                event.call,
                i,
            )
            return
        if data != event.data:
            self.accuse("corrupted", "ENV-28", f"{event.token} is not what was published", event.call, i)
        if not event.echo and event.life is exchange.life:
            self.accuse("cross-talk", "SUB-15", f"{event.token} has echo:false and came back", event.call, i)
        if event.done <= conn.fence and subscription.opened < conn.fence and len(event.exchanges) == 1:
            message = f"{event.token} came after the pong that proves it had been written"
            self.accuse("fence-lie", "DEL-15", message, conn.fence, conn.fence_row, i)
        cursor = said.get("cursor")
        if (
            cursor is not None
            and subscription.has_log
            and self.facts.cursors[channel].setdefault(cursor, event) is not event
        ):
            self._name_event(channel, cursor, event, i)
        if event.seen > i:
            event.seen = i
            if event.done > i:
                event.done = i
        subscription.items.append(event)
        subscription.rows.append(i)

    def _result(self, i: int, row: Row, said: Said, exchange: Exchange) -> None:
        life, sent, data = exchange.life, exchange.sent, said.get("data")
        if life.expires < float("inf") and row["at"] > life.expires:
            late = self._rows[exchange.call]["at"] - life.expires
            if late > EXPIRY_SLACK:
                message = f"{life.name} was served {late:.1f} s after its identity expired"
                self.accuse("auth-bypass", "SES-18", message, i)
        kind = sent["type"]
        if kind == "publish":
            if isinstance(data, dict):
                self._published(i, data, exchange)
        elif kind == "auth":
            expires = data.get("expires_in_ms") if isinstance(data, dict) else None
            life.expires = row["at"] + expires / 1000 if isinstance(expires, int) else float("inf")
        elif kind == "history" and isinstance(data, dict):
            self.facts.pages.append((exchange, cast("dict[str, object]", data), i))
            self._counts["pages"] += 1
        elif kind == "request" and "data" in sent and data != sent["data"]:
            name = f"request {exchange.id} of {life.name}"
            if (other := unique(data)) is not None:
                self.accuse("cross-talk", "RPC-13", f"{name} got the answer to {other}", i)
            else:
                self.accuse("corrupted", "RPC-13", f"{name} was not echoed", i)

    def _published(self, i: int, data: dict[str, object], exchange: Exchange) -> None:
        publish, cursor = exchange.publish, data.get("cursor")
        assert publish is not None
        if (
            type(cursor) is str
            and "history" in self.facts.profiles
            and self.facts.cursors[publish.channel].setdefault(cursor, publish) is not publish
        ):
            self._name_event(publish.channel, cursor, publish, i)
        if publish.dedupe:
            self._dedupe(i, data.get("duplicate") is True, exchange, publish)
        elif data.get("duplicate"):
            self.accuse("dedupe-broken", "HIS-36", f"{publish.token} has no key and is called a duplicate", i)

    def _dedupe(self, i: int, duplicate: bool, exchange: Exchange, publish: Publish) -> None:
        """Judge whether a publish with a key is rightly called a duplicate."""
        same = self._keys[exchange.life.principal, publish.channel, publish.dedupe]
        others = [other for other in same if other is not exchange]
        if duplicate:
            self._counts["duplicates"] += 1
            if not others:
                message = f"{publish.token} is the first of its key and principal, and is called a duplicate"
                self.accuse("dedupe-broken", "HIS-41", message, exchange.call, i)
            return
        now = self._rows[i]["at"]
        began = self._rows[same[0].call]["at"]  # a duplicate does not make the key live longer
        for other in others:
            if (
                other.outcome == "ok"
                and other.ended < exchange.call
                and now - began < exchange.life.dedupe_ms / 1000
            ):
                message = (
                    f"{publish.token} came again {now - began:.3f} s later, and is not called a duplicate"
                )
                self.accuse("dedupe-broken", "HIS-36", message, other.call, i)
                return
