"""Channels and patterns: when a name is legal, and what a pattern matches.

Spec: 02-envelope [ENV-25] [ENV-27], 05-subscriptions [SUB-19] to [SUB-23].
"""

from __future__ import annotations

from holdfast_reference.protocol.limits import MAX_NAME

__all__ = ["Pattern", "fits"]


def fits(name: str, size: int = MAX_NAME) -> bool:
    """Whether a name takes at most `size` bytes of UTF-8."""
    return len(name) <= size and (name.isascii() or len(name.encode()) <= size)


class Pattern:
    """A pattern over channel names, split into segments at `/`.

    Raises:
        ValueError: an empty segment, or `**` anywhere but at the end.
    """

    __slots__ = ("_head", "_rest", "text")

    def __init__(self, text: str) -> None:
        segments = text.split("/")
        if "" in segments:
            raise ValueError("a pattern has no empty segments")
        if "**" in segments[:-1]:
            raise ValueError("** stands only at the end of a pattern")
        self.text = text
        self._rest = segments[-1] == "**"
        self._head = segments[:-1] if self._rest else segments

    def matches(self, channel: str) -> bool:
        segments = channel.split("/")
        head = self._head
        if self._rest:
            # One or more segments; an empty one is matched by nothing.
            if len(segments) <= len(head) or "" in segments[len(head) :]:
                return False
        elif len(segments) != len(head):
            return False
        return all(
            wanted == segment or (wanted == "*" and segment != "")
            for wanted, segment in zip(head, segments, strict=False)
        )
