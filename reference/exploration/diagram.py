"""A trace as a sequence diagram in text.

A frame stands where it arrives; what was lost with a cut is not drawn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from exploration.server_side import Closed, Said

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exploration.client_side import Line
    from exploration.search import Label

WIDTH = 64
_MARGIN = 24
_SHOWN = (
    *("t", "held", "id", "of", "seq", "resumed", "last_id", "method", "channel"),
    *("since", "cursor", "recovered", "reason", "missed", "data"),
)


_AT_SERVER = {
    "finish": "exchange {1} of session {0} is done",
    "chunk": "exchange {1} of session {0} has another chunk",
    "greet": "the credentials of c{0} are good",
    "expire": "session {0} was suspended for too long",
    "stranger": "a stranger asks for session {0}",
    "publish": "an event is published",
    "trim": "the log forgets its events",
}


def draw(steps: Sequence[Label], script: Sequence[Line]) -> str:
    """The steps of a model, one line each: the application, the client, the wire, the server."""
    lines = [f"{'application':<{_MARGIN}}client{' ' * (WIDTH - 5)}server"]
    todo = iter(script)
    for number, step in enumerate(steps, 1):
        left, wire, right = "", "", ""
        match step:
            case "client", "do":
                line = next(todo)
                left = f'{line.verb} "{line.name}"'
            case "client", str(what):
                left = {"ack": "(time to ack)", "dial": "(connects)", "dial again": "(gives up, connects)"}[
                    what
                ]
            case "up", int(link), str(text):
                wire = _arrow(f" c{link}: {describe(text)} ", "-", head=">")
            case "up late", int(link), str(text):
                wire = _arrow(f" c{link}, read late: {describe(text)} ", "-", head=">")
            case "down", int(link), Said(text=text):
                wire = _arrow(f" c{link}: {describe(text)} ", "-", tail="<")
            case "down", int(link), Closed(code=code):
                wire = _arrow(f" c{link}: close {code} ", "-", tail="<")
            case "cut", int(link):
                wire = _arrow(f" c{link} is cut ", "~")
            case "client notices", int(link):
                left = f"(c{link} is gone)"
            case "server notices", int(link):
                right = f"c{link} is gone"
            case "server", str(what), *about:
                right = _AT_SERVER[what].format(*about)
        lines.append(f"{number:3} {left:<{_MARGIN - 4}}|{wire or ' ' * WIDTH}| {right}".rstrip())
    return "\n".join(lines)


def _arrow(text: str, line: str, *, head: str = "", tail: str = "") -> str:
    room = WIDTH - len(head) - len(tail) - 3
    return f"{tail}{line * 3}{text[:room]:{line}<{room}}{head}"


def describe(text: str) -> str:
    """A frame in few words."""
    frame = json.loads(text)
    words = [frame["type"]]
    if frame["type"] == "hello":
        resume = frame.get("resume")
        words.append(
            "new session"
            if resume is None
            else "resume {session}, seq {seq}, attempt {attempt}".format(**resume)
        )
    elif "resume_error" in frame:
        words.append("refused: " + _members(frame["resume_error"].items()))
    elif "error" in frame:
        words.append(frame["error"]["code"])
    words.append(_members((name, frame[name]) for name in _SHOWN if name in frame))
    return " ".join(word for word in words if word)


def _members(members: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in members)
