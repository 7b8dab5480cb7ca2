"""State diagrams as SVG, from the text that describes them, so that a page needs no script to draw.

The states stand side by side, each with a line downwards; every pair of states has one arrow that carries all
events leading from the one to the other, in the order of the text.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ARROW = re.compile(r" *(?P<start>\w+|\[\*\]) --> (?P<end>\w+|\[\*\])(?:: (?P<label>.+))?")
_OUTSIDE = "[*]"
_LETTER, _LINE, _MARGIN, _HEAD = 7, 16, 20, 30  # pixels


def drawing(source: str) -> str:
    """Return the SVG of a `stateDiagram-v2`.

    Args:
        source: lines such as `NEW --> READY: hello`; `[*]` stands for the outside.
    """
    arrows: dict[tuple[str, str], list[str]] = {}
    for match in map(_ARROW.fullmatch, source.splitlines()):
        if match:
            arrows.setdefault((match["start"], match["end"]), []).append(match["label"] or "")
    first = {end for start, end in arrows if start == _OUTSIDE}
    last = {start for start, end in arrows if end == _OUTSIDE}
    states = [state for pair in arrows for state in pair if state != _OUTSIDE]
    states = sorted(dict.fromkeys(states), key=lambda state: (state in last, states.index(state)))
    inner = {pair: labels for pair, labels in arrows.items() if _OUTSIDE not in pair}
    longest = max(len(label) for labels in inner.values() for label in labels)
    step = longest * _LETTER + 2 * _MARGIN
    at = {state: _MARGIN + step // 2 + step * column for column, state in enumerate(states)}
    body = list(_rows(inner, at))
    height = _HEAD + sum(rise for rise, _ in body) + _MARGIN
    parts = [f'<path class="hf-life" d="M{x} {_HEAD}V{height}"/>' for x in at.values()]
    parts += [_head(state, at[state], state in first, state in last) for state in states]
    top = _HEAD
    for rise, part in body:
        parts.append(f'<g transform="translate(0 {top})">{part}</g>')
        top += rise
    width = step * len(states) + 2 * _MARGIN
    return (
        f'<div class="hf-states"><svg role="img" aria-label="States: {", ".join(states)}" width="{width}" '
        f'viewBox="0 0 {width} {height}">{"".join(parts)}</svg></div>'
    )


def _head(state: str, x: int, first: bool, last: bool) -> str:
    """Return the box of a state: filled where it all begins, with a double rim where it ends."""
    half = len(state) * _LETTER // 2 + 12
    kind = "hf-first" if first else "hf-last" if last else "hf-between"
    return (
        f'<rect class="{kind}" x="{x - half}" y="4" width="{2 * half}" height="24" rx="6"/>'
        f'<text class="{kind}" x="{x}" y="21" text-anchor="middle">{html.escape(state)}</text>'
    )


def _rows(arrows: dict[tuple[str, str], list[str]], at: dict[str, int]) -> Iterator[tuple[int, str]]:
    """Yield height and content of the row of each arrow."""
    for (start, end), labels in arrows.items():
        here, there = at[start], at[end]
        rise = _LINE * len(labels) + 20
        line = rise - 6
        if start == end:
            path = f"M{here} {line - 12}h18v12H{here + 7}"
            yield rise, _labels(labels, here + 26, "start") + _arrow(path, here + 1, line, -1)
        else:
            way = 1 if there > here else -1
            path = f"M{here} {line}H{there - 7 * way}"
            yield rise, _labels(labels, (here + there) // 2, "middle") + _arrow(path, there - way, line, way)


def _arrow(path: str, x: int, y: int, way: int) -> str:
    """Return a line and its head, whose tip is at x, y; `way` is 1 to the right, -1 to the left."""
    back = x - 8 * way
    return f'<path class="hf-arrow" d="{path}"/><path class="hf-tip" d="M{x} {y}L{back} {y - 4}V{y + 4}Z"/>'


def _labels(labels: Sequence[str], x: int, anchor: str) -> str:
    return "".join(
        f'<text class="hf-label" x="{x}" y="{_LINE * row + 15}" text-anchor="{anchor}">'
        f"{html.escape(label)}</text>"
        for row, label in enumerate(labels)
    )
