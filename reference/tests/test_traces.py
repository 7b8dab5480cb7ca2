"""The conversations of the specification, replayed against a whole server in memory.

A trace shows one order where several are possible, so frames between two steps of the client are compared as
a set; members that a trace leaves out, such as the wording of an error, are not compared. Names of sessions
and cursors are the server's own: the first time that a trace shows one, the server's counts as it from then
on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import trio
from holdfast_reference.protocol import Timers
from tests.wire import Wire, masked, serving, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from holdfast_reference.config import Config
    from holdfast_reference.server.methods import Call
    from holdfast_reference.server.serve import Server
    from tests.wire import Frame, House
    from trio.testing import MockClock

TRACES = Path(__file__).parents[2] / "schemas/v1/traces"
#: Where the loss falls depends on buffers, as the trace itself says; `test_outgoing.py` shows it instead.
NOT_REPLAYED = {"overflow-gap"}
#: The client cancels before it can know whether the subscription was open.
MAY_COME = {"cancel-before-open": {"open"}}
#: Members whose values the server chooses.
OPAQUE = ("session", "cursor", "start")
#: Members that say what a frame means, where they stand.
TOLD = ("type", "id", "seq", "reason", "missed", "held", "resumed", "last_id", "recovered", "enc")

Step = dict[str, object]


def load(name: str) -> list[Step]:
    steps: list[Step] = json.loads((TRACES / f"{name}.json").read_text(encoding="utf-8"))["steps"]
    return steps


def configured(steps: Iterable[Step]) -> Callable[[Config], Config]:
    """The limits and the heartbeat that the trace's welcome shows."""
    welcomes = [frame for step in steps if (frame := step.get("frame")) and is_type(frame, "welcome")]

    def configure(config: Config) -> Config:
        if not welcomes:
            return config
        welcome = cast("Mapping[str, Mapping[str, int]]", welcomes[0])
        shown = welcome["limits"]
        limits = replace(config.limits, max_subscriptions=shown["max_subscriptions"])
        if "queue" in shown:
            limits = replace(limits, queue=shown["queue"])
        beat = welcome["heartbeat"]
        timers = Timers(heartbeat_interval_ms=beat["interval_ms"], heartbeat_timeout_ms=beat["timeout_ms"])
        return replace(config, limits=limits, timers=timers)

    return configure


def is_type(frame: object, kind: str) -> bool:
    return isinstance(frame, dict) and frame["type"] == kind


def essence(frame: Frame) -> str:
    """What counts of a frame, without what the server names as it likes."""
    shown = {name: frame[name] for name in TOLD if name in frame}
    if frame["type"] == "pong":
        shown["t"] = frame.get("t")
    shown["data"] = named(frame.get("data")) or None  # `{}` says no more than nothing
    shown["error"] = cast("Frame", frame.get("error", {})).get("code")
    shown["refused"] = frame.get("resume_error")
    shown["profiles"] = sorted(cast("list[str]", frame.get("profiles", [])))
    shown |= {name: name in frame for name in OPAQUE}
    return json.dumps(shown, sort_keys=True)


def named(value: object) -> object:
    """A value of the protocol's own in which every cursor looks alike."""
    if isinstance(value, list):
        return [named(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: "*" if name in OPAQUE else named(item) for name, item in value.items()}


@dataclass
class Replay:
    """One conversation on its way.

    Attributes:
        house: the server.
        other: the server that another connection finds after a drain.
        wires: the connections by name.
        names: what a name or a cursor of the trace is called by the server.
    """

    name: str
    house: House
    other: House
    wires: dict[object, Wire] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    async def wire(self, connection: object) -> Wire:
        if connection not in self.wires:
            moved = self.name == "drain" and connection is not None
            self.wires[connection] = await (self.other if moved else self.house).connect()
        return self.wires[connection]

    async def act(self, step: Step) -> None:
        """Do what the client does in a step."""
        wire = await self.wire(step.get("connection"))
        if "lost" in step:
            return
        if "cut" in step:
            await wire.stream.aclose()
        elif "frame" in step:
            await wire.raw(text(cast("Frame", self.ours(step["frame"]))))
        else:
            code = cast("int", step["close"])
            await wire.raw(masked(code.to_bytes(2, "big"), 8))

    async def answers(self, connection: object, expected: list[Step]) -> None:
        """Read what the server has to say between two steps of the client."""
        wire = await self.wire(connection)
        allowed = MAY_COME.get(self.name, set())
        frames = [cast("Frame", step["frame"]) for step in expected if "frame" in step]
        wanted = sorted(frames, key=essence)
        got: list[Frame] = []
        while len(got) < len(wanted):
            frame = await wire.receive()
            if frame["type"] not in allowed or essence(frame) in map(essence, wanted):
                got.append(frame)
        got.sort(key=essence)
        assert [essence(frame) for frame in got] == [essence(frame) for frame in wanted]
        for theirs, shown in zip(got, wanted, strict=True):
            self.learn(shown, theirs)
        for step in expected:
            if "close" in step:
                code, others = await wire.rest()
                assert code == step["close"]
                assert {frame["type"] for frame in others} <= {"ping"}

    def learn(self, shown: object, theirs: object) -> None:
        """Pair the names of a trace with those of the server; a name that is known stays what it was."""
        if isinstance(shown, dict) and isinstance(theirs, dict):
            for name in shown.keys() & theirs.keys():
                if name in OPAQUE:
                    assert self.names.setdefault(shown[name], theirs[name]) == theirs[name], shown
                else:
                    self.learn(shown[name], theirs[name])
        elif isinstance(shown, list) and isinstance(theirs, list):
            for one, another in zip(shown, theirs, strict=True):
                self.learn(one, another)

    def ours(self, value: object) -> object:
        """A value of a trace with the server's names in it."""
        if isinstance(value, dict):
            return {name: self.ours(item) for name, item in value.items()}
        return self.names.get(value, value) if isinstance(value, str) else value

    async def others(self, does: list[object]) -> None:
        """Do at the server what a trace says of others."""
        if does == ["forget"]:  # it is about the session of the trace, not of others
            for session in self.house.server.sessions.values():
                session.forget()
            return
        wire = await self.house.ready("tok-bob", "rpc")
        await wire.send({"type": "request", "id": 1, "method": "conf.run", "data": [does]})
        assert (await wire.receive())["type"] == "result"
        await wire.close()


def prepare(server: Server) -> None:
    """What the traces mean by their methods."""

    @server.method("report.build")
    async def report(call: Call) -> object:
        await trio.sleep(10)
        return {"pages": 12}


def operate(name: str, house: House, step: Step) -> None:
    """What somebody other than the client does before this step of the server."""
    frame = step.get("frame")
    if name == "drain" and is_type(frame, "goaway"):
        for link in house.server.links.values():
            link.drain(30_000)


@pytest.mark.parametrize("name", sorted({path.stem for path in TRACES.glob("*.json")} - NOT_REPLAYED))
async def test_trace(name: str, autojump_clock: MockClock) -> None:
    """The server says what the trace says."""
    steps = load(name)
    async with (
        serving(configured(steps), prepare=prepare) as house,
        serving(configured(steps), prepare=prepare) as other,
    ):
        replay = Replay(name, house, other)
        while steps:
            block = [steps.pop(0)]
            side, connection = block[0]["from"], block[0].get("connection")
            if side == "client":
                await replay.act(block[0])
                continue
            await trio.testing.wait_all_tasks_blocked()
            if side == "others":
                await replay.others(cast("list[object]", block[0]["does"]))
                continue
            while steps and (steps[0]["from"], steps[0].get("connection")) == (side, connection):
                block.append(steps.pop(0))
            for expected in block:
                operate(name, house, expected)
            await replay.answers(connection, block)


def test_what_is_not_replayed_exists() -> None:
    assert {path.stem for path in TRACES.glob("*.json")} >= NOT_REPLAYED | set(MAY_COME)
