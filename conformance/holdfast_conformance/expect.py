"""Expectations: what a peer should, or must not, receive.

An expectation is created by a peer, a session or an exchange, and does nothing until it is used: awaited
directly (a step of the set-up), or handed to `t.must`, `t.control` or `t.must_not`. One that is never used is
an error at the end of the check.

It matches frames that arrived before it was created too, as long as no other expectation took them: what a
frame means does not depend on when the check came to look at it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from .client import Peer

__all__ = [
    "AuthorError",
    "Emitted",
    "Expectation",
    "Failure",
    "Frame",
    "NotApplicable",
    "StalledError",
    "Unverified",
    "contains",
    "same_json",
]


class Failure(Exception):
    """The target did not do what was expected.

    Args:
        message: what was expected and what came, in one line.
        frame: the received frame that is at fault, if there is one.
        hint: what an implementer could do about it.
        requirement: the sentence that is broken; empty means the first one that the check covers.
    """

    def __init__(
        self, message: str, *, frame: Frame | None = None, hint: str = "", requirement: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.frame = frame
        self.hint = hint
        self.requirement = requirement


class AuthorError(Exception):
    """The check itself is wrong; the verdict is `error` and says nothing about the target."""


class StalledError(Exception):
    """Our own process stood still during a window that mattered; the check has to be run again."""


class Unverified(Exception):
    """The target does not offer what the check needs; the text says what, and how to offer it."""


class NotApplicable(Exception):
    """The check has seen that what it is about is optional and absent; the text says what."""


@dataclass(eq=False, slots=True)
class Frame:
    """One message received from the target.

    `body` is the decoded object, `{}` when the message was not a JSON object. `entry` is its place in the
    journal.
    """

    at: float
    text: str
    body: Mapping[str, object]
    entry: int
    taken: bool = False

    def __getitem__(self, name: str) -> object:
        try:
            return self.body[name]
        except KeyError:
            raise Failure(f"the frame has no {name!r}: {self.text[:200]}", frame=self) from None

    def get(self, name: str) -> object:
        """Return the member `name`, or None."""
        return self.body.get(name)

    @property
    def type(self) -> object:
        """The frame's type, None when it has none."""
        return self.body.get("type")

    def __str__(self) -> str:
        error = self.body.get("error")
        name = str(self.type)
        if name == "error" and isinstance(error, dict):
            name = f'error "{error.get("code")}"'
        return f"{name} on exchange {self.body['id']}" if "id" in self.body else name


@dataclass(eq=False, slots=True)
class Emitted:
    """An event that the check caused: where, with which payload, when, and which peers have seen it.

    `entry` is the length of the journal at that time: on a clock that stands still `at` cannot tell what
    came before it.
    """

    channel: str
    data: object
    at: float
    entry: int = 0
    seen_by: set[str] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Expectation:
    """A frame that should arrive, or must not.

    Args:
        peer: who should receive it.
        what: the expectation in words, continuing "expected ".
        match: whether a frame is the one.
        breaks: why a frame makes the match impossible, None when it does not; fails at once instead of
            waiting.
        resembles: whether a frame counts as unwanted in `t.must_not`; wider than `match`. Default: `match`.
        emitted: the event that it is about, if it is about one.
        since: how many of the peer's frames are known to be older than what it waits for.
    """

    peer: Peer
    what: str
    match: Callable[[Frame], bool]
    breaks: Callable[[Frame], str | None] | None = None
    resembles: Callable[[Frame], bool] | None = None
    emitted: Emitted | None = None
    since: int = 0
    used: bool = False
    created: float = field(default_factory=trio.current_time)

    def __post_init__(self) -> None:
        self.peer.expectations.append(self)

    def __await__(self) -> Generator[object, object, Frame]:
        return self.wait().__await__()

    async def wait(self) -> Frame:
        """Return the first matching frame, waiting for it as long as the run's patience allows.

        Raises:
            Failure: it did not come in time, cannot come any more, or something else came in its place.
            StalledError: it did not come, but this process was not running for part of the wait.
        """
        frame = await self.wait_or_close()
        if frame is None:
            raise Failure(
                f"expected {self.what}; {self.peer.name}'s connection was {self.peer.closure} instead"
            )
        return frame

    async def wait_or_close(self) -> Frame | None:
        """Like `wait`, and return None when the connection ended before a matching frame."""
        self.used = True
        peer, clock = self.peer, self.peer.clock
        begin = trio.current_time()
        index = self.since
        with trio.move_on_after(clock.patience):
            while True:
                while index < len(peer.frames):
                    frame = peer.frames[index]
                    index += 1
                    if frame.taken:
                        continue
                    if self.match(frame):
                        return self._take(frame)
                    if self.breaks is not None and (reason := self.breaks(frame)) is not None:
                        raise Failure(f"expected {self.what}; {reason}", frame=frame)
                if peer.closure is not None:
                    return None
                await peer.arrival()
        if clock.stalled(begin, trio.current_time()):
            raise StalledError
        clock.expired += 1
        raise Failure(
            f"expected {self.what}; nothing of the kind came within {trio.current_time() - begin:.1f} s"
        )

    def unwanted(self) -> Frame | None:
        """Return a frame that must not have come, if one did."""
        resembles = self.resembles or self.match
        since, first = (self.emitted.at, self.emitted.entry) if self.emitted is not None else (0.0, 0)
        for frame in self.peer.frames:
            if not frame.taken and frame.at >= since and frame.entry >= first and resembles(frame):
                return frame
        return None

    def _take(self, frame: Frame) -> Frame:
        frame.taken = True
        if self.emitted is not None:
            self.emitted.seen_by.add(self.peer.name)
        return frame


def same_json(a: object, b: object) -> bool:
    """Return whether two JSON values are equal.

    Unlike in Python, `true` is not 1; numbers are equal when they are the same binary64 [ENV-28].
    """
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        try:
            return float(a) == float(b)
        except OverflowError:
            return a == b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_json, a, b))
    return a == b


def contains(whole: object, part: object) -> bool:
    """Return whether every member of `part` is in `whole`, objects compared member by member."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and contains(whole[k], v) for k, v in part.items())
    return same_json(whole, part)
