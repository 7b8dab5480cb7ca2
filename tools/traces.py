"""Whole conversations: every frame valid for its type and its side, every exchange with one terminal.

Sessions outlive connections: with profile `ack` their frames are numbered without a hole, inside the window,
and come again unchanged after a resume. A step that carries `fault` is wrong on purpose and is exempt;
everything else is as the protocol wants it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tools import schemas
from tools.problem import Problem, Project, rows, strings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CUT = "the connection is lost, without a close frame"
NEVER = "never arrives"
_KINDS = ("frame", "close", "text", "bytes", "cut", "does")
_HINT = "mend the conversation, or say `fault` where the point is that it is wrong"


def content(step: Mapping[str, object]) -> str:
    """Return which member says what happens in a step."""
    return next(kind for kind in _KINDS if kind in step)


@dataclass(slots=True)
class _Session:
    """What client and server share from `welcome` on.

    Attributes:
        last_id: the highest id that arrived.
        running: the exchanges without a terminal, each with the type of the frame that started it.
        window: how many frames may be unacknowledged; 0 without profile `ack`.
        sent: what was sent with a `seq`, in order.
        acked: the highest `seq` that was acknowledged.
        repeated: the highest `seq` sent on the present connection.
    """

    last_id: int = 0
    running: dict[int, str] = field(default_factory=dict)
    window: int = 0
    sent: list[Mapping[str, object]] = field(default_factory=list)
    acked: int = 0
    repeated: int = 0

    def start(self, identity: int, kind: str) -> None:
        """Note a fresh id of the client; one that is not fresh starts nothing."""
        if identity > self.last_id:
            self.last_id = identity
            self.running[identity] = kind

    def number(self, frame: Mapping[str, object]) -> Iterator[str]:
        """Note a frame of the server that has an id; yield what is wrong with its `seq`."""
        seq = frame.get("seq")
        if not self.window:
            if seq is not None:
                yield "`seq` without profile ack"
        elif seq != self.repeated + 1:
            yield f"seq {seq} does not follow {self.repeated}"
        else:
            self.repeated += 1
            if self.repeated <= len(self.sent):
                if frame != self.sent[self.repeated - 1]:
                    yield f"seq {seq} is not what it was"
            elif len(self.sent) - self.acked >= self.window:
                yield f"seq {seq} while {self.window} frames are unacknowledged"
            else:
                self.sent.append(frame)

    def acknowledge(self, seq: object) -> Iterator[str]:
        """Note an ack, or the `seq` of an accepted resume."""
        if not isinstance(seq, int) or seq > len(self.sent):
            yield f"an ack of {seq}, of {len(self.sent)} sent"
        else:
            self.acked = max(self.acked, seq)


@dataclass(slots=True)
class _Connection:
    """What has happened on one connection of a conversation."""

    welcomed: bool = False
    ended_by: set[str] = field(default_factory=set)
    resume: Mapping[str, object] = field(default_factory=dict)
    session: _Session = field(default_factory=_Session)


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
        problems += shape or list(_Judge(project, messages).judge(file))
        for identity in strings(project.object(file).get("requirements")):
            if identity not in ids:
                line = project.line_of(file, identity)
                problems.append(Problem(project.name(file), line, f"{identity} does not exist", "see spec/"))
    return problems


class _Judge:
    """Follows one conversation.

    Args:
        messages: the rows of the registry, by type.
    """

    def __init__(self, project: Project, messages: Mapping[str, Mapping[str, object]]) -> None:
        self._project = project
        self._messages = messages
        self._connections: dict[str, _Connection] = {}
        self._sessions: dict[object, _Session] = {}

    def judge(self, file: Path) -> Iterator[Problem]:
        """Yield what is wrong with a file whose shape is right."""
        place = self._project.name(file)
        trace = self._project.object(file)
        steps = rows(trace["steps"])
        for number, step in enumerate(steps, start=1):
            for text in self._step(step) if "does" not in step else ():
                yield Problem(place, 0, f"step {number}: {text}", _HINT)
        for name, connection in self._connections.items():
            running = connection.session.running
            if running and not connection.ended_by:
                text = f"unfinished on connection {name or '(only)'}: {sorted(running)}"
                yield Problem(place, 0, text, _HINT)
        used = {name for step in steps for name in _welcome_profiles(step)}
        if used != set(strings(trace["profiles"])):
            text = f"`profiles` differs from those of welcome, {sorted(used)}"
            yield Problem(place, self._project.line_of(file, '"profiles"'), text, "they are the same")

    def _step(self, step: Mapping[str, object]) -> Iterator[str]:
        """Follow one step and yield what is wrong with it."""
        connection = self._connections.setdefault(str(step.get("connection", "")), _Connection())
        side = str(step["from"])
        if side in connection.ended_by:
            yield "a step behind the end of the connection"
        if "close" in step:
            connection.ended_by.add(side)
        elif "cut" in step:
            connection.ended_by |= {"client", "server"}
        frame = step.get("frame")
        if not isinstance(frame, dict):
            return
        if "fault" in step:
            # A refused frame consumes its id all the same.
            if isinstance(frame.get("id"), int):
                connection.session.start(frame["id"], str(frame.get("type")))
            return
        for error in schemas.frame_errors(self._project, frame):
            yield f"{schemas.path_of(error) or 'frame'}: {error.message}"
        kind = str(frame["type"])
        row = self._messages.get(kind)
        if row is not None and side not in strings(row["from"]):
            yield f"a {side} does not send {kind}"
        if kind == "welcome":
            yield from self._welcome(connection, frame)
        elif kind == "hello":
            resume = frame.get("resume")
            connection.resume = resume if isinstance(resume, dict) else {}
        elif not connection.welcomed:
            yield f"{kind} before welcome"
        if side == "server":
            yield from self._from_server(connection.session, frame, row)
        elif "lost" not in step:
            yield from self._from_client(connection.session, frame, row)

    def _welcome(self, connection: _Connection, frame: Mapping[str, object]) -> Iterator[str]:
        """Attach a connection to the session of its welcome."""
        connection.welcomed = True
        name = frame.get("session")
        if not frame.get("resumed"):
            if name is not None and name in self._sessions:
                yield "a new session has the name of another"
            limits = frame["limits"]
            window = limits.get("window", 0) if isinstance(limits, dict) else 0
            connection.session = self._sessions[name] = _Session(window=window)
        elif name not in self._sessions or name != connection.resume.get("session"):
            yield "the session that goes on is not the one that was asked for"
        else:
            session = connection.session = self._sessions[name]
            if frame["last_id"] != session.last_id:
                yield f"last_id is {frame['last_id']}, the highest id that arrived is {session.last_id}"
            yield from session.acknowledge(connection.resume["seq"])
            session.repeated = session.acked

    def _from_server(
        self, session: _Session, frame: Mapping[str, object], row: Mapping[str, object] | None
    ) -> Iterator[str]:
        identity = frame.get("id")
        if not isinstance(identity, int):
            return
        again = session.repeated < len(session.sent)
        yield from session.number(frame)
        if again:
            return
        if identity not in session.running:
            yield f"{frame['type']} for {identity}, which is not running"
        elif row is not None and row["terminal"]:
            started = self._messages.get(session.running.pop(identity), {})
            if frame["type"] == "result" and "result" in started and "data" in frame:
                shape = schemas.validator(self._project, self._project.v1 / str(started["result"]))
                for error in shape.iter_errors(frame["data"]):
                    yield f"data of the result: {schemas.path_of(error) or 'all of it'}: {error.message}"

    def _from_client(
        self, session: _Session, frame: Mapping[str, object], row: Mapping[str, object] | None
    ) -> Iterator[str]:
        if frame["type"] == "ack" and session.window:
            yield from session.acknowledge(frame["seq"])
        identity = frame.get("id")
        if isinstance(identity, int) and (row is None or row["exchange"] == "starts"):
            if identity <= session.last_id:
                yield f"id {identity} is not higher than {session.last_id}"
            session.start(identity, str(frame["type"]))


def _welcome_profiles(step: Mapping[str, object]) -> list[str]:
    frame = step.get("frame")
    return (
        strings(frame.get("profiles")) if isinstance(frame, dict) and frame.get("type") == "welcome" else []
    )
