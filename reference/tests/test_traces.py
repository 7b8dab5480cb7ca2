"""The conversations of the specification, replayed against a whole server in memory.

A trace shows one order where several are possible, so frames between two steps of the client are compared as
a set; members that a trace leaves out, such as the wording of an error, are not compared.
"""

from __future__ import annotations

import json
from dataclasses import replace
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
        limits = replace(config.limits, max_subscriptions=welcome["limits"]["max_subscriptions"])
        beat = welcome["heartbeat"]
        timers = Timers(heartbeat_interval_ms=beat["interval_ms"], heartbeat_timeout_ms=beat["timeout_ms"])
        return replace(config, limits=limits, timers=timers)

    return configure


def is_type(frame: object, kind: str) -> bool:
    return isinstance(frame, dict) and frame["type"] == kind


def essence(frame: Frame) -> str:
    """What counts of a frame."""
    error = cast("Frame", frame.get("error", {}))
    shown = {name: frame.get(name) for name in ("type", "id", "reason", "missed")}
    shown["code"] = error.get("code")
    shown["profiles"] = sorted(cast("list[str]", frame.get("profiles", [])))
    if frame["type"] in ("event", "chunk", "pong"):
        shown |= {"data": frame.get("data"), "t": frame.get("t")}
    elif frame["type"] == "result":
        shown["data"] = frame.get("data") or None  # `{}` says no more than nothing
    return json.dumps(shown, sort_keys=True)


async def answers(wire: Wire, expected: list[Step], allowed: set[str]) -> None:
    """Read what the server has to say between two steps of the client."""
    wanted = sorted(essence(cast("Frame", step["frame"])) for step in expected if "frame" in step)
    got: list[str] = []
    while len(got) < len(wanted):
        frame = await wire.receive()
        if frame["type"] not in allowed or essence(frame) in wanted:
            got.append(essence(frame))
    assert sorted(got) == wanted
    for step in expected:
        if "close" in step:
            code, others = await wire.rest()
            assert code == step["close"]
            assert {frame["type"] for frame in others} <= {"ping"}


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
        for session in house.server.sessions:
            session.drain(30_000)
    if name == "heartbeat" and is_type(frame, "event"):
        house.server.publish("ticker", 1)


@pytest.mark.parametrize("name", sorted({path.stem for path in TRACES.glob("*.json")} - NOT_REPLAYED))
async def test_trace(name: str, autojump_clock: MockClock) -> None:
    """The server says what the trace says."""
    steps = load(name)
    async with (
        serving(configured(steps), prepare=prepare) as house,
        serving(configured(steps), prepare=prepare) as other,
    ):
        wires: dict[object, Wire] = {}
        at = 0
        while at < len(steps):
            step = steps[at]
            connection = step.get("connection")
            if connection not in wires:
                wires[connection] = await (house if connection is None else other).connect()
            wire = wires[connection]
            if step["from"] == "client":
                at += 1
                if "frame" in step:
                    await wire.raw(text(cast("Frame", step["frame"])))
                else:
                    code = cast("int", step["close"])
                    await wire.raw(masked(code.to_bytes(2, "big"), 8))
                continue
            block: list[Step] = []
            while (
                at < len(steps)
                and steps[at]["from"] == "server"
                and steps[at].get("connection") == connection
            ):
                block.append(steps[at])
                at += 1
            await trio.testing.wait_all_tasks_blocked()
            for expected in block:
                operate(name, house, expected)
            await answers(wire, block, MAY_COME.get(name, set()))


def test_what_is_not_replayed_exists() -> None:
    assert {path.stem for path in TRACES.glob("*.json")} >= NOT_REPLAYED | set(MAY_COME)
