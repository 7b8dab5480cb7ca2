"""Whole conversations: every frame valid for its type and its side, every exchange with one terminal.

A step that carries `fault` is wrong on purpose and is exempt; everything else has to be as the protocol wants it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tools import schemas
from tools.problem import Problem, Project, rows, strings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_HINT = "mend the conversation, or say `fault` where the point is that it is wrong"


@dataclass(slots=True)
class _Connection:
    """What has happened on one connection of a conversation."""

    welcomed: bool = False
    closed_by: set[str] = field(default_factory=set)
    last_id: int = 0
    running: dict[int, str] = field(default_factory=dict)


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
        problems += shape or _judge(project, file, messages)
        for identity in strings(project.object(file).get("requirements")):
            if identity not in ids:
                line = project.line_of(file, identity)
                problems.append(Problem(project.name(file), line, f"{identity} does not exist", "see spec/"))
    return problems


def _judge(project: Project, file: Path, messages: Mapping[str, Mapping[str, object]]) -> list[Problem]:
    problems: list[Problem] = []
    trace = project.object(file)
    connections: dict[str, _Connection] = {}
    number = 0

    def wrong(text: str) -> None:
        problems.append(Problem(project.name(file), 0, f"step {number}: {text}", _HINT))

    for number, step in enumerate(rows(trace["steps"]), start=1):
        side = str(step["from"])
        connection = connections.setdefault(str(step.get("connection", "")), _Connection())
        if side in connection.closed_by:
            wrong("a step behind the close frame of its sender")
        if "close" in step:
            connection.closed_by.add(side)
        frame = step.get("frame")
        if not isinstance(frame, dict) or "fault" in step:
            # A refused frame consumes its id all the same.
            identity = frame.get("id") if isinstance(frame, dict) else None
            if isinstance(identity, int) and identity > connection.last_id:
                connection.last_id = identity
                connection.running[identity] = str(frame.get("type")) if isinstance(frame, dict) else ""
            continue
        for error in schemas.frame_errors(project, frame):
            wrong(f"{schemas.path_of(error) or 'frame'}: {error.message}")
        _frame(connection, side, frame, messages, wrong)
    for name, connection in connections.items():
        number = len(rows(trace["steps"]))
        if connection.running and not connection.closed_by:
            wrong(f"unfinished on connection {name or '(only)'}: {sorted(connection.running)}")
    used = {str(name) for step in rows(trace["steps"]) for name in _welcome_profiles(step)}
    if used != set(strings(trace["profiles"])):
        wrong(f"`profiles` differs from those of welcome, {sorted(used)}")
    return problems


def _frame(
    connection: _Connection,
    side: str,
    frame: Mapping[str, object],
    messages: Mapping[str, Mapping[str, object]],
    wrong: Callable[[str], None],
) -> None:
    """Follow one frame that should be right."""
    kind = str(frame["type"])
    row = messages.get(kind)
    if row is not None and side not in strings(row["from"]):
        wrong(f"a {side} does not send {kind}")
    if kind == "welcome":
        connection.welcomed = True
    elif kind != "hello" and not connection.welcomed:
        wrong(f"{kind} before welcome")
    identity = frame.get("id")
    if not isinstance(identity, int):
        return
    if side == "client" and (row is None or row["exchange"] == "starts"):
        if identity <= connection.last_id:
            wrong(f"id {identity} is not higher than {connection.last_id}")
        connection.last_id = identity
        connection.running[identity] = kind
    elif side == "server":
        if identity not in connection.running:
            wrong(f"{kind} for {identity}, which is not running")
        elif row is not None and row["terminal"]:
            del connection.running[identity]


def _welcome_profiles(step: Mapping[str, object]) -> list[str]:
    frame = step.get("frame")
    return (
        strings(frame.get("profiles")) if isinstance(frame, dict) and frame.get("type") == "welcome" else []
    )
