"""Checks made from data: every wire vector, and every pattern of the pattern table, becomes one check.

A vector says what to send and what may happen. Where it has an accepted twin, the twin goes first, on a
connection of its own, so that a refusal means the fault and nothing else.
"""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, cast

from . import registry, schemas
from .case import Check, Expectation, Failure, Frame, Peer, Session, Test
from .client import dumps
from .expect import contains
from .frames import Opcode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["checks"]

Row = dict[str, object]

TERMINAL = ("result", "error")


def checks() -> list[Check]:
    """Return the checks of all published vectors, in the order of the files."""
    made: list[Check] = []
    for path in schemas.vector_files():
        document = cast("Row", schemas.load(path))
        if "rows" in document:
            made += _pattern_checks(document)
        else:
            made += [_vector_check(row) for row in cast("list[Row]", document["vectors"])]
    return made


def _vector_check(row: Row) -> Check:
    flags = cast("list[str]", row.get("flags", []))
    return Check(
        id=str(row["id"]),
        title=str(row["title"]),
        covers=tuple(cast("list[str]", row["covers"])),
        needs=_needs(row),
        function=_vector_function(row, informational="informational" in flags),
        intrusive="intrusive" in flags,
        data_driven=True,
    )


def _needs(row: Row) -> tuple[str, ...]:
    text = json.dumps([row["send"], row.get("like")])
    needs = list(cast("list[str]", row.get("profiles", [])))
    if row["connection"] == "ready" or "{auth}" in text:
        needs.append("session")
    for placeholder, need in (
        ("{forbidden_channel}", "channel:forbidden"),
        ("{forbidden_method}", "method:forbidden"),
        ("{echo_method}", "method:echo"),
    ):
        if placeholder in text:
            needs.append(need)
    return tuple(needs)


def _vector_function(row: Row, *, informational: bool) -> Callable[[Test], Awaitable[None]]:
    async def run(t: Test) -> None:
        t.informational = informational
        if "like" in row:
            twin = cast("Row", row["like"])
            await _Play(t, row, "good").play(twin)
            t.control_passed = f"the same input without the fault was accepted: {row['fault']}"
        outcome = await t.judge(_Play(t, row, "bad" if "like" in row else "peer").play(row))
        if "allowed_by" in outcome:
            shown = {name: value for name, value in outcome.items() if name != "why"}
            t.note(f"not the best outcome, but allowed: {dumps(shown)}")

    return run


class _Play:
    """Plays one list of steps on one fresh connection and finds out which outcome occurs."""

    def __init__(self, test: Test, row: Row, name: str) -> None:
        self.test = test
        self.row = row
        self.name = name
        self.values: dict[str, str] = {}

    async def play(self, part: Row) -> Row:
        """Send the steps of the vector or of its twin and return the outcome.

        Raises:
            Failure: none of the outcomes occurred.
        """
        peer = await self._open()
        before = len(peer.frames)
        outcomes = cast("list[Row]", part["expect"])
        for step in cast("list[Row]", part["send"]):
            await self._send(peer, step)
        try:
            return await _Judge(self, peer, before, outcomes).outcome()
        except Failure:
            if self._crowded(peer, part):
                raise self.test.unverified(
                    "the vector needs more exchanges at once than welcome allows"
                ) from None
            raise

    def _crowded(self, peer: Peer, part: Row) -> bool:
        """Whether the server refused an exchange because welcome allows fewer at once than are sent."""
        if not isinstance(peer, Session):
            return False
        frames = [step["frame"] for step in cast("list[Row]", part["send"]) if "frame" in step]
        types = [frame.get("type") for frame in frames if isinstance(frame, dict) and "id" in frame]
        subscriptions = types.count("subscribe")
        others = len(types) - subscriptions
        many = others > peer.limit("max_inflight") or subscriptions > peer.limit("max_subscriptions")
        refusal = {"type": "error", "error": {"code": "limit_exceeded"}}
        return many and any(contains(frame.body, refusal) for frame in peer.frames)

    async def _open(self) -> Peer:
        if self.row["connection"] == "new":
            return await self.test.connect(name=self.name)
        profiles = cast("list[str]", self.row.get("profiles", []))
        return await self.test.session(profiles=profiles, name=self.name)

    async def _send(self, peer: Peer, step: Row) -> None:
        if "await" in step:
            await self.partial(peer, self.fill(step["await"]))
            return
        if "hex" in step:
            payload = bytes.fromhex(str(step["hex"]))
            opcode = _opcode(step)
            fin, rsv = step.get("fin", True) is True, cast("int", step.get("rsv", 0))
            await peer.send_frame(opcode, payload, fin=fin, rsv=rsv, masked=step.get("masked", True) is True)
            return
        text = str(self.fill(step["text"])) if "text" in step else dumps(self.fill(step["frame"]))
        text = self._pad(peer, _nest(text, step), step)
        if "fragments" in step:
            await peer.send_fragments(text, cast("int", step["fragments"]))
        elif _opcode(step) is not Opcode.TEXT:
            await peer.send_frame(_opcode(step), text.encode())
        else:
            await peer.send_text(text)

    def partial(self, peer: Peer, wanted: object) -> Expectation:
        """Expect a frame that contains `wanted`."""
        id = wanted.get("id") if isinstance(wanted, dict) else None

        def ended(frame: Frame) -> str | None:
            return f"got {frame}" if frame.type in TERMINAL and frame.get("id") == id is not None else None

        return Expectation(peer, dumps(wanted), lambda frame: contains(frame.body, wanted), ended)

    def fill(self, value: object) -> object:
        """Replace the placeholders in every string of a value."""
        if isinstance(value, dict):
            filled = {name: self.fill(member) for name, member in value.items() if member != "{auth}"}
            if value.get("auth") == "{auth}" and (auth := self.test.hello().get("auth")) is not None:
                # In its place, because the order of members is part of the vector.
                return {name: auth if name == "auth" else filled[name] for name in value}
            return filled
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if not isinstance(value, str) or "{" not in value:
            return value
        for placeholder in _PLACEHOLDERS:
            if placeholder in value:
                value = value.replace(placeholder, self._value(placeholder))
        return value

    def _value(self, placeholder: str) -> str:
        if placeholder not in self.values:
            self.values[placeholder] = _PLACEHOLDERS[placeholder](self.test)
        return self.values[placeholder]

    def _pad(self, peer: Peer, text: str, step: Row) -> str:
        pad = step.get("pad")
        if not isinstance(pad, dict):
            return text
        to, filler = pad["to"], str(pad.get("with", "x"))
        if isinstance(to, dict):
            if not isinstance(peer, Session):
                raise self.test.unverified("the vector goes by a limit of welcome")
            to = peer.limit(str(to["limit"])) + to["plus"]
        room = cast("int", to) - len(text.replace("{pad}", "", 1).encode())
        times, rest = divmod(room, len(filler.encode()))
        return text.replace("{pad}", filler * times + "x" * rest, 1)


class _Judge:
    """Waits until it is decided which of the outcomes of a vector occurs."""

    def __init__(self, play: _Play, peer: Peer, before: int, outcomes: list[Row]) -> None:
        self.play = play
        self.peer = peer
        self.before = before
        self.outcomes = outcomes
        self.ids = {outcome["id"] for outcome in outcomes if "id" in outcome}
        for outcome in outcomes:
            parts = cast("list[Row]", outcome.get("frames", []))
            # A result proves nothing about events: whether the own event or the result comes first is open.
            self.ids |= {part["id"] for part in parts if "id" in part}
        self.token = ""
        self.occurred: Row | None = None

    async def outcome(self) -> Row:
        """Return the outcome; raise `Failure` when what happens is none of them."""
        if any("ignored" in outcome for outcome in self.outcomes):
            self.token = await self._ping()
        frame = await Expectation(self.peer, self._words(), self._decides).wait_or_close()
        if frame is None:
            closure = self.peer.closure
            for outcome in self.outcomes:
                if closure is not None and closure.how == "frame" and outcome.get("close") == closure.code:
                    return outcome
            raise Failure(f"expected {self._words()}; the connection was {closure}")
        if self.occurred is None:
            raise Failure(f"expected {self._words()}; got {frame}", frame=frame)
        if not self.token:  # the connection lives, unless a pong has shown that already
            await self.peer.receives("pong", t=await self._ping())
        return self.occurred

    async def _ping(self) -> str:
        token = f"{self.play.test.random.getrandbits(48):012x}"
        await self.peer.send({"type": "ping", "t": token})
        return token

    def _new(self) -> list[Frame]:
        """What came since, but for heartbeats and frames of types that nobody knows, which answer nothing."""
        known = registry.published().senders
        return [f for f in self.peer.frames[self.before :] if f.type != "ping" and f.type in known]

    def _decides(self, frame: Frame) -> bool:
        """Whether an outcome has occurred, or none of them can occur any more."""
        self.occurred = next(filter(self._occurs, self.outcomes), None)
        if self.occurred is not None:
            return True
        if self.token and contains(frame.body, {"type": "pong", "t": self.token}):
            return True
        ended = {frame.get("id") for frame in self._new() if frame.type in TERMINAL}
        return bool(self.ids) and self.ids <= ended

    def _occurs(self, outcome: Row) -> bool:
        new = self._new()
        if "error" in outcome:
            wanted = {"type": "error", "id": outcome["id"], "error": {"code": outcome["error"]}}
            return any(contains(frame.body, wanted) for frame in new)
        if "frames" in outcome:
            return self._in_order(new, cast("list[Row]", outcome["frames"]))
        if "ignored" in outcome:
            # What an `await` of the vector has taken was no answer to the input.
            left = [frame for frame in new if not frame.taken]
            return bool(left) and contains(left[0].body, {"type": "pong", "t": self.token})
        return False

    def _in_order(self, new: list[Frame], wanted: list[Row]) -> bool:
        """Whether each wanted frame came, those of one `id` in their order."""
        left = list(new)
        position: dict[object, int] = {}
        for part in wanted:
            filled = self.play.fill(part)
            start = position.get(part.get("id"), -1)
            found = next((i for i, f in enumerate(left) if i > start and contains(f.body, filled)), None)
            if found is None:
                return False
            if "id" in part:
                position[part["id"]] = found
        return True

    def _words(self) -> str:
        words = []
        for outcome in self.outcomes:
            if "close" in outcome:
                words.append(f"close {outcome['close']}")
            elif "error" in outcome:
                words.append(f"error {dumps(outcome['error'])} on exchange {outcome['id']}")
            elif "frames" in outcome:
                words.append(" and ".join(dumps(part) for part in cast("list[Row]", outcome["frames"])))
            else:
                words.append("nothing but the pong of the ping behind it")
        return " or ".join(words)


def _same_principal(t: Test) -> str:
    first = next(iter(t.bench.target.identities.values()), None)
    for identity in t.bench.target.identities.values():
        if (
            first is not None
            and identity is not first
            and identity.principal == first.principal
            and identity.token
        ):
            if identity.name.endswith("narrow"):
                continue
            return identity.token
    raise t.unverified(
        "add a second identity with the `principal` of the first to [identities] in the target file"
    )


def _other_principal(t: Test) -> str:
    first = next(iter(t.bench.target.identities.values()), None)
    for identity in t.bench.target.identities.values():
        if (
            first is not None
            and identity.principal != first.principal
            and identity.token
            and not identity.expired
        ):
            return identity.token
    raise t.unverified("add an identity of another principal to [identities] in the target file")


def _expired(t: Test) -> str:
    for identity in t.bench.target.identities.values():
        if identity.expired and identity.token:
            return identity.token
    raise t.unverified("add an identity with `expired = true` to [identities] in the target file")


_PLACEHOLDERS: dict[str, Callable[[Test], str]] = {
    "{channel}": lambda t: t.channel(),
    "{channel_2}": lambda t: t.channel(),
    "{forbidden_channel}": lambda t: t.channel("forbidden"),
    "{forbidden_method}": lambda t: t.method("forbidden"),
    "{echo_method}": lambda t: t.method("echo"),
    "{token}": lambda t: t.token(),
    "{token_same}": _same_principal,
    "{token_other}": _other_principal,
    "{token_expired}": _expired,
}


def _opcode(step: Row) -> int:
    opcode = step.get("opcode", "text")
    return opcode if isinstance(opcode, int) else Opcode[str(opcode).upper()]


def _nest(text: str, step: Row) -> str:
    nest = step.get("nest")
    if not isinstance(nest, dict):
        return text
    times = nest["times"]
    return text.replace("{nest}", nest["open"] * times + nest["inner"] + nest["close"] * times, 1)


# The pattern table

WORDS = {"/": "slash", "*": "star", "\N{STAR OPERATOR}": "globstar", " ": "space"}
"""How some characters of a pattern are called in the id of its check."""


def _pattern_checks(document: Row) -> list[Check]:
    rows: dict[str, list[Row]] = {}
    for row in cast("list[Row]", document["rows"]):
        rows.setdefault(str(row["pattern"]), []).append(row)
    covers = tuple(cast("list[str]", document["covers"]))
    return [
        Check(
            id=f"patterns/{_slug(pattern)}",
            title=f"The pattern `{pattern}` matches what it should, and nothing else.",
            covers=covers,
            needs=("pattern", "pubsub"),
            function=_pattern_function(pattern, its_rows),
            data_driven=True,
        )
        for pattern, its_rows in rows.items()
    ]


def _slug(pattern: str) -> str:
    """Spell a pattern in words: `a/*` is `a-slash-star`."""
    words = [""]
    for character in pattern.replace("**", "\N{STAR OPERATOR}"):
        if character in WORDS:
            words += [WORDS[character], ""]
        elif character.isascii() and (character.islower() or character.isdigit()):
            words[-1] += character
        else:
            words += [unicodedata.name(character).lower().replace(" ", "-"), ""]
    return "-".join(filter(None, words))


def _pattern_function(pattern: str, rows: list[Row]) -> Callable[[Test], Awaitable[None]]:
    async def run(t: Test) -> None:
        alice = await t.session()
        prefix = t.channel()
        sub = await alice.subscribe(pattern=f"{prefix}/{pattern}")
        witness = await t.session(name="witness")
        await witness.subscribe(prefix)
        await t.control(witness.gets(await t.emit(prefix)))
        for row in rows:
            event = await t.emit(f"{prefix}/{row['channel']}")
            if row["matches"]:
                await t.must(
                    sub.gets(event),
                    hint=f"`{pattern}` matches `{row['channel']}`: {row['why']}",
                    requirement=_decides(pattern, str(row["channel"])),
                )
            else:
                await t.must_not(
                    sub.gets(event),
                    hint=f"`{pattern}` does not match `{row['channel']}`: {row['why']}",
                    requirement=_decides(pattern, str(row["channel"])),
                )

    return run


def _decides(pattern: str, channel: str) -> str:
    """Return the sentence that decides whether a pattern matches a channel: that of the first segment without
    a wildcard that differs, else that of the last wildcard.
    """
    wanted = pattern.split("/")
    rest = wanted[-1] == "**"
    fixed = zip(wanted[:-1] if rest else wanted, channel.split("/"), strict=False)
    if any(a not in ("*", b) for a, b in fixed):
        return "SUB-22"
    if rest:
        return "SUB-21"
    return "SUB-20" if "*" in wanted else "SUB-22"
