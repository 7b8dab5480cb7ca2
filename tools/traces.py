"""Whole conversations: every frame valid for its type and its side, every exchange with one terminal.

A step that carries `fault` is wrong on purpose and is exempt; everything else is as the protocol wants it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tools import schemas
from tools.problem import Problem, Project, rows, strings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_HINT = "mend the conversation, or say `fault` where the point is that it is wrong"


@dataclass(slots=True)
class _Connection:
    """What has happened on one connection of a conversation."""

    welcomed: bool = False
    closed_by: set[str] = field(default_factory=set)
    last_id: int = 0
    running: set[int] = field(default_factory=set)

    def start(self, identity: int) -> None:
        """Note a fresh id of the client; one that is not fresh starts nothing."""
        if identity > self.last_id:
            self.last_id = identity
            self.running.add(identity)


def check(project: Project, ids: frozenset[str]) -> list[Problem]:
    """Judge every file of `schemas/v1/traces`.

    Args:
        ids: the requirements of the specification.
    """
    registry = project.object(project.v1 / "protocol.json")
    messages = {str(row["type"]): row for row in rows(registry["messages"])}
    problems: list[Problem] = []
    for file in sorted((project.v1 / "traces").glob("*.json")):
        shape = schemas.meta_problems(project, file, "trace")
        problems += shape or list(_judge(project, file, messages))
        for identity in strings(project.object(file).get("requirements")):
            if identity not in ids:
                line = project.line_of(file, identity)
                problems.append(Problem(project.name(file), line, f"{identity} does not exist", "see spec/"))
    return problems


def _judge(project: Project, file: Path, messages: Mapping[str, Mapping[str, object]]) -> Iterator[Problem]:
    trace = project.object(file)
    steps = rows(trace["steps"])
    connections: dict[str, _Connection] = {}
    for number, step in enumerate(steps, start=1):
        connection = connections.setdefault(str(step.get("connection", "")), _Connection())
        for text in _step(project, connection, step, messages):
            yield Problem(project.name(file), 0, f"step {number}: {text}", _HINT)
    for name, connection in connections.items():
        if connection.running and not connection.closed_by:
            text = f"unfinished on connection {name or '(only)'}: {sorted(connection.running)}"
            yield Problem(project.name(file), 0, text, _HINT)
    used = {name for step in steps for name in _welcome_profiles(step)}
    if used != set(strings(trace["profiles"])):
        text = f"`profiles` differs from those of welcome, {sorted(used)}"
        yield Problem(project.name(file), project.line_of(file, '"profiles"'), text, "they are the same")


def _step(
    project: Project,
    connection: _Connection,
    step: Mapping[str, object],
    messages: Mapping[str, Mapping[str, object]],
) -> Iterator[str]:
    """Follow one step and yield what is wrong with it."""
    side = str(step["from"])
    if side in connection.closed_by:
        yield "a step behind the close frame of its sender"
    if "close" in step:
        connection.closed_by.add(side)
    frame = step.get("frame")
    if not isinstance(frame, dict):
        return
    if "fault" in step:
        # A refused frame consumes its id all the same.
        if isinstance(frame.get("id"), int):
            connection.start(frame["id"])
        return
    for error in schemas.frame_errors(project, frame):
        yield f"{schemas.path_of(error) or 'frame'}: {error.message}"
    yield from _frame(connection, side, frame, messages)


def _frame(
    connection: _Connection,
    side: str,
    frame: Mapping[str, object],
    messages: Mapping[str, Mapping[str, object]],
) -> Iterator[str]:
    """Follow one frame that should be right."""
    kind = str(frame["type"])
    row = messages.get(kind)
    if row is not None and side not in strings(row["from"]):
        yield f"a {side} does not send {kind}"
    if kind == "welcome":
        connection.welcomed = True
    elif kind != "hello" and not connection.welcomed:
        yield f"{kind} before welcome"
    identity = frame.get("id")
    if not isinstance(identity, int):
        return
    if side == "client" and (row is None or row["exchange"] == "starts"):
        if identity <= connection.last_id:
            yield f"id {identity} is not higher than {connection.last_id}"
        connection.start(identity)
    elif side == "server":
        if identity not in connection.running:
            yield f"{kind} for {identity}, which is not running"
        elif row is not None and row["terminal"]:
            connection.running.discard(identity)


def _welcome_profiles(step: Mapping[str, object]) -> list[str]:
    frame = step.get("frame")
    return (
        strings(frame.get("profiles")) if isinstance(frame, dict) and frame.get("type") == "welcome" else []
    )
