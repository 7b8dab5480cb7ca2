"""Sequence diagrams of whole conversations: as Mermaid text in the specification, as SVG on the site.

Client and server are two lines; a frame is an arrow between them, on a connection of its own colour. Only the
members that a reader follows through a conversation are shown; the text of the conversation has the rest.
"""

from __future__ import annotations

import html
import json
import re
import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Members worth following, in the order in which they are shown; `resume.seq` is a member of a member.
_SHOWN: Final = (
    "id",
    "of",
    "seq",
    "resume.seq",
    "resume.attempt",
    "resumed",
    "last_id",
    "resume_error.code",
    "resume_error.last_id",
    "error.code",
    "channel",
    "since",
    "last",
    "recover",
    "cursor",
    "recovered",
    "reason",
    "missed",
    "before",
    "after",
    "held",
    "dedupe",
)
_ARROWS: Final = {
    ("client", False): "->>",
    ("server", False): "-->>",
    ("client", True): "-x",
    ("server", True): "--x",
}
_LINE: Final = re.compile(
    r" *(?P<start>Client|Server)(?P<arrow>--?(?:>>|x))(?P<end>Client|Server): (?P<label>.+)"
    r"| *Note over Client,Server: (?P<note>.+)"
)
_WIDTH, _LEFT, _RIGHT, _ROW, _HEAD = 720, 60, 660, 30, 40  # pixels


def mermaid(steps: Iterable[Mapping[str, object]]) -> str:
    """Return a conversation as a Mermaid sequence diagram.

    Args:
        steps: those of a trace.
    """
    lines = ["```mermaid", "sequenceDiagram", "    participant Client", "    participant Server"]
    for step in steps:
        sender = str(step["from"])
        if "does" in step:
            lines.append(f"    Note over Client,Server: {_plain(json.dumps(step['does']))}")
            continue
        ends = ("Client", "Server") if sender == "client" else ("Server", "Client")
        arrow = _ARROWS[sender, "lost" in step]
        lines.append(f"    {ends[0]}{arrow}{ends[1]}: {_label(step)}")
        if "note" in step:
            lines.append(f"    Note over Client,Server: {_plain(str(step['note']))}")
    return "\n".join([*lines, "```"])


def _label(step: Mapping[str, object]) -> str:
    where = f"({step['connection']}) " if "connection" in step else ""
    if "frame" not in step:
        kind = next(key for key in ("close", "cut", "text", "bytes") if key in step)
        return where + ("the connection is cut" if kind == "cut" else f"{kind} {_plain(str(step[kind]))}")
    frame = step["frame"]
    assert isinstance(frame, dict)
    shown = [
        f"{path.rpartition('.')[2]} {_plain(_short(found))}"
        for path in _SHOWN
        if (found := _at(frame, path)) is not None
    ]
    return where + ", ".join([" ".join([str(frame["type"]), *shown[:1]]), *shown[1:]])


def _at(frame: Mapping[str, object], path: str) -> object:
    value: object = frame
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(text: str) -> str:
    """Take away what Mermaid would read as its own: the end of a statement and the begin of a comment."""
    return text.replace(";", ",").replace("#", "no.").replace("\n", " ").replace("`", "")


def drawing(source: str) -> str:
    """Return the SVG of a diagram that `mermaid` made, so that a page needs no script to draw it.

    Args:
        source: the lines of the diagram, without its fence.
    """
    parts: list[str] = []
    y = _HEAD
    for match in filter(None, map(_LINE.fullmatch, source.splitlines())):
        if match["note"] is not None:
            for line in textwrap.wrap(match["note"], 90):
                parts.append(_text("hf-aside", _WIDTH // 2, y + 4, line))
                y += _ROW // 2 + 2
            y += 6
        else:
            parts += _arrow(match["start"] == "Client", match["arrow"].endswith("x"), match["label"], y)
            y += _ROW
    lives = "".join(f'<path class="hf-life" d="M{x} {_HEAD - 14}V{y}"/>' for x in (_LEFT, _RIGHT))
    heads = "".join(_text("hf-between", x, 18, name) for x, name in ((_LEFT, "Client"), (_RIGHT, "Server")))
    return (
        f'<div class="hf-states"><svg role="img" aria-label="Sequence diagram" width="{_WIDTH}" '
        f'viewBox="0 0 {_WIDTH} {y + 10}">{lives}{heads}{"".join(parts)}</svg></div>'
    )


def _arrow(forth: bool, lost: bool, label: str, y: int) -> Iterator[str]:
    start, end = (_LEFT, _RIGHT) if forth else (_RIGHT, _LEFT)
    if lost:
        end = (start + end) // 2
    step = 8 if end > start else -8
    head = (
        f"M{end - step // 2} {y + 6}l{step} 8m0 -8l{-step} 8"
        if lost
        else f"M{end - step} {y + 6}L{end} {y + 10}L{end - step} {y + 14}"
    )
    yield f'<path class="hf-arrow" d="M{start} {y + 10}H{end}{head}"/>'
    yield _text("hf-label", _WIDTH // 2, y + 4, label)


def _text(kind: str, x: int, y: int, text: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="middle">{html.escape(text)}</text>'
