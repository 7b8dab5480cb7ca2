"""Mutants of spec/05-subscriptions.md, its section about patterns."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol.names import Pattern

from mutants.harness import Patch, mutant
from mutants.tools import on_deliver, varied

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.session import Session as CoreSession


def _repaired(patch: Patch, repair: Callable[[list[str]], list[str]]) -> None:
    """Let the segments of a pattern be repaired before they are looked at."""

    def init(original: Callable[..., None], self: Pattern, text: str) -> None:
        original(self, "/".join(repair(text.split("/"))) or "*")

    patch.wrap(Pattern, "__init__", init)


@mutant(
    "sub/empty-segments-dropped",
    violates="SUB-19",
    killed_by=[
        "subscriptions/pattern-slash",
        "subscriptions/pattern-slash-first",
        "subscriptions/pattern-slash-last",
        "subscriptions/pattern-slash-twice",
        "subscriptions/pattern-slash-behind-star",
        "subscriptions/pattern-globstar-then-slash",
    ],
    says='expected error "bad_request"',
)
def _(patch: Patch) -> None:
    """Slashes too many in a pattern are forgiven."""
    _repaired(patch, lambda segments: [segment for segment in segments if segment])


@mutant(
    "sub/globstar-anywhere",
    violates="SUB-19",
    killed_by=[
        "subscriptions/pattern-globstar-first",
        "subscriptions/pattern-globstar-inside",
        "subscriptions/pattern-globstar-twice",
    ],
    says='expected error "bad_request"',
)
def _(patch: Patch) -> None:
    """`**` anywhere but at the end is taken for `*`."""
    _repaired(patch, lambda segments: [s.replace("**", "*") for s in segments[:-1]] + segments[-1:])


@dataclass(frozen=True)
class _Rules:
    """What the segments of a pattern match: a star, the last `**`, and every other; all in plain segments."""

    star: Callable[[str], bool] = lambda segment: segment != ""
    rest: Callable[[list[str]], bool] = lambda segments: bool(segments) and "" not in segments
    fixed: Callable[[str, str], bool] = lambda wanted, segment: wanted == segment


def _rules(patch: Patch, **changes: Any) -> None:
    """Let patterns match by other rules."""
    rules = _Rules(**changes)

    def matches(self: Pattern, channel: str) -> bool:
        wanted, segments = self.text.split("/"), channel.split("/")
        if wanted[-1] == "**":
            wanted.pop()
            if not rules.rest(segments[len(wanted) :]):
                return False
            del segments[len(wanted) :]
        return len(wanted) == len(segments) and all(
            rules.star(b) if a == "*" else rules.fixed(a, b) for a, b in zip(wanted, segments, strict=True)
        )

    patch.set(Pattern, "matches", matches)


# One segment


@mutant(
    "sub/star-matches-the-empty-segment",
    violates="SUB-20",
    killed_by=["patterns/a-slash-star", "patterns/star-slash-b"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`*` matches an empty segment, too."""
    _rules(patch, star=lambda segment: True)


@mutant(
    "sub/star-crosses-slashes",
    violates="SUB-20",
    killed_by=["patterns/a-slash-star", "patterns/star"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`*` matches any text, slashes included, as in a file name pattern."""

    def matches(self: Pattern, channel: str) -> bool:
        parts = [".+" if segment in ("*", "**") else re.escape(segment) for segment in self.text.split("/")]
        return re.fullmatch("/".join(parts), channel, re.DOTALL) is not None

    patch.set(Pattern, "matches", matches)


@mutant(
    "sub/no-stars-but-the-last",
    violates="SUB-20",
    killed_by=[
        "patterns/star-slash-b",
        "patterns/a-slash-star-slash-star",
        "patterns/star-slash-star-slash-c",
        "patterns/star-slash-low-line-low-line-proto-low-line-low-line",
        "subscriptions/pattern-star-middle",
    ],
    says="expected",
)
def _(patch: Patch) -> None:
    """`*` is a wildcard at the end of a pattern only."""

    def matches(original: Callable[..., bool], self: Pattern, channel: str) -> bool:
        return original(self, channel) and all(
            segment != "*" or channel.split("/")[n] == "*"
            for n, segment in enumerate(self.text.split("/")[:-1])
        )

    patch.wrap(Pattern, "matches", matches)


@mutant(
    "sub/star-is-a-character",
    violates="SUB-20",
    killed_by=["subscriptions/pattern-star-event", "patterns/a-slash-star", "patterns/star"],
    says="expected",
)
def _(patch: Patch) -> None:
    """`*` in a pattern matches a star and nothing else."""
    _rules(patch, star=lambda segment: segment == "*")


@mutant(
    "sub/star-does-not-match-a-star",
    violates="SUB-20",
    killed_by=["subscriptions/pattern-star-matches-star", "patterns/star", "patterns/a-slash-star"],
    says="expected",
)
def _(patch: Patch) -> None:
    """`*` does not match a segment with a star in it."""
    _rules(patch, star=lambda segment: segment != "" and "*" not in segment)


@mutant(
    "sub/star-stops-at-line-feeds",
    violates="SUB-20",
    killed_by="patterns/a-slash-star",
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """`*` matches one segment of one line, as a dot does in a regular expression."""
    _rules(patch, star=lambda segment: re.fullmatch(".+", segment) is not None)


# The rest


@mutant(
    "sub/globstar-matches-nothing-at-all",
    violates="SUB-21",
    killed_by=["patterns/a-slash-globstar", "patterns/a-slash-star-slash-globstar"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`**` stands for any number of segments, none included."""
    _rules(patch, rest=lambda segments: "" not in segments)


@mutant(
    "sub/globstar-is-one-segment",
    violates="SUB-21",
    killed_by=[
        "patterns/globstar",
        "patterns/a-slash-globstar",
        "patterns/a-slash-star-slash-globstar",
        "subscriptions/pattern-globstar-deep",
    ],
    says="expected",
)
def _(patch: Patch) -> None:
    """`**` means the same as `*`."""
    _rules(patch, rest=lambda segments: len(segments) == 1 and segments != [""])


@mutant(
    "sub/globstar-is-two-segments-at-least",
    violates="SUB-21",
    killed_by=["patterns/a-slash-globstar", "subscriptions/pattern-globstar-event"],
    says="expected",
)
def _(patch: Patch) -> None:
    """`**` stands for one `*` and whatever is below it."""
    _rules(patch, rest=lambda segments: len(segments) > 1 and "" not in segments)


@mutant(
    "sub/globstar-matches-empty-segments",
    violates="SUB-21",
    killed_by=["patterns/globstar", "patterns/a-slash-globstar"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`**` matches whatever text follows."""
    _rules(patch, rest=lambda segments: len(segments) > 0)


# Every other segment


@mutant(
    "sub/segments-are-globs",
    violates="SUB-22",
    killed_by=[
        "patterns/a-star",
        "patterns/star-a",
        "patterns/a-slash-b-star-slash-c",
        "patterns/a-slash-globstar-b",
        "patterns/a-slash-question-mark",
        "patterns/a-slash-left-square-bracket-b-right-square-bracket",
    ],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Segments are matched like file names."""
    _rules(patch, fixed=lambda wanted, segment: wanted == segment or fnmatchcase(segment, wanted))


@mutant(
    "sub/segments-are-regular-expressions",
    violates="SUB-22",
    killed_by=["patterns/a-slash-full-stop-star", "patterns/a-star"],
    says="event",
)
def _(patch: Patch) -> None:
    """A pattern becomes a regular expression without escapes."""

    def fixed(wanted: str, segment: str) -> bool:
        try:
            return re.fullmatch(wanted, segment) is not None
        except re.error:
            return False

    _rules(patch, fixed=fixed)


@mutant(
    "sub/segments-of-another-broker",
    violates="SUB-22",
    killed_by=["patterns/a-slash-plus-sign", "patterns/a-slash-number-sign"],
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """`+` and `#` are wildcards, too."""

    def matches(original: Callable[..., bool], self: Pattern, channel: str) -> bool:
        other = Pattern("/".join({"+": "*", "#": "**"}.get(s, s) for s in self.text.split("/")))
        return original(self, channel) or original(other, channel)

    patch.wrap(Pattern, "matches", matches)


@mutant(
    "sub/segments-with-alternatives",
    violates="SUB-22",
    killed_by="patterns/a-slash-left-curly-bracket-b-comma-c-right-curly-bracket",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Braces enclose alternatives."""
    _rules(patch, fixed=lambda wanted, segment: wanted == segment or segment in wanted.strip("{}").split(","))


@mutant(
    "sub/segments-without-case",
    violates="SUB-22",
    killed_by="patterns/a-slash-b",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Upper and lower case are one in a pattern."""
    _rules(patch, fixed=lambda wanted, segment: wanted.lower() == segment.lower())


@mutant(
    "sub/segments-normalised",
    violates="SUB-22",
    killed_by="patterns/latin-small-letter-e-with-acute-slash-star",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Segments that look alike are equal."""

    def same(wanted: str, segment: str) -> bool:
        return unicodedata.normalize("NFC", wanted) == unicodedata.normalize("NFC", segment)

    _rules(patch, fixed=same)


@mutant(
    "sub/three-stars-are-two",
    violates="SUB-22",
    killed_by="patterns/a-slash-globstar-star",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Any number of stars from two on is a `**`."""
    _rules(patch, fixed=lambda wanted, segment: wanted == segment or wanted == "***")


@mutant(
    "sub/star-inside-a-segment-matches-nothing",
    violates="SUB-22",
    killed_by=["subscriptions/pattern-literal-star", "patterns/a-star", "patterns/a-slash-globstar-b"],
    says="expected",
)
def _(patch: Patch) -> None:
    """A segment with a star among other characters is accepted, and matches nothing."""
    _rules(patch, fixed=lambda wanted, segment: wanted == segment and "*" not in wanted)


@mutant(
    "sub/pattern-without-wildcards-matches-nothing",
    violates="SUB-22",
    killed_by=["subscriptions/pattern-literal", "patterns/a-slash-b"],
    says="expected",
)
def _(patch: Patch) -> None:
    """A pattern without a wildcard is accepted, and matches nothing."""

    def matches(original: Callable[..., bool], self: Pattern, channel: str) -> bool:
        return "*" in self.text and original(self, channel)

    patch.wrap(Pattern, "matches", matches)


# Events of patterns


@mutant(
    "sub/pattern-knows-old-channels",
    violates="SUB-05",
    killed_by="sub/pattern-sees-new-channels",
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """A channel that nobody has used before is matched with patterns from its second event on."""
    used: set[str] = set()

    def publish(original: Callable[..., None], self: MemoryBroker, event: Event, *rest: object) -> None:
        if event.channel in used or not self._patterns:
            original(self, event, *rest)
        used.add(event.channel)

    patch.wrap(MemoryBroker, "publish", publish)


@mutant(
    "sub/pattern-event-unnamed",
    violates="SUB-24",
    killed_by=["sub/pattern-event-has-channel", "sub/pattern-sees-new-channels"],
    says="channel",
)
def _(patch: Patch) -> None:
    """Events of a pattern subscription do not say where they come from."""
    on_deliver(patch, lambda self, id, event: varied(event, _named_tail=event.tail))


@mutant(
    "sub/pattern-sees-forbidden-channels",
    violates="SUB-25",
    killed_by="sub/pattern-hides-forbidden-channels",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """Whether the principal may see the channel of an event is not asked on patterns."""

    def deliver(self: CoreSession, id: int, event: Event) -> Event | None:
        exchange = self.exchanges.running.get(id)
        if exchange is None or not exchange.pattern or self.may("subscribe", event.channel):
            return event
        self.outgoing.event(id, exchange.head, event.named_tail, 0, lossy=True)
        return None

    on_deliver(patch, deliver)


@mutant(
    "sub/first-match-only",
    violates="SUB-26",
    killed_by=["sub/pattern-and-channel-overlap", "subscriptions/pattern-overlap"],
    says="expected",
)
def _(patch: Patch) -> None:
    """A session gets each event once, on the first of its subscriptions that match."""
    newest: dict[CoreSession, tuple[Event, int]] = {}

    def deliver(self: CoreSession, id: int, event: Event) -> Event | None:
        last, on = newest.get(self, (None, id))
        newest[self] = (event, on if last is event else id)
        return event if newest[self][1] == id else None

    on_deliver(patch, deliver)
