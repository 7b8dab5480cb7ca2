"""The script method, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from tests.wire import Closed, Wire, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A session subscribed to the channel `c` as exchange 1."""
    async with serving() as house:
        wire = await house.ready()
        await wire.send({"type": "subscribe", "id": 1, "channel": "c"})
        await wire.receive()
        yield wire


async def run(wire: Wire, *steps: list[object], stream: bool = False) -> None:
    frame: dict[str, object] = {"type": "request", "id": 2, "method": "conf.run", "data": steps}
    await wire.send({**frame, "stream": True} if stream else frame)


async def test_events(autojump_clock: MockClock, wire: Wire) -> None:
    await run(wire, ["emit", "c", {"a": 1}], ["burst", "c", 2, 3])
    frames = [await wire.receive() for _ in range(4)]
    assert [frame.get("data") for frame in frames] == [
        {"a": 1},
        {"n": 0, "pad": "xxx"},
        {"n": 1, "pad": "xxx"},
        None,
    ]
    assert frames[3] == {"type": "result", "id": 2}


async def test_a_stream_and_its_pace(autojump_clock: MockClock, wire: Wire) -> None:
    start = trio.current_time()
    await run(wire, ["stream", 3, 100], ["reply", {"data": None}], stream=True)
    frames = [await wire.receive() for _ in range(4)]
    assert [frame["data"] for frame in frames] == [{"n": 0}, {"n": 1}, {"n": 2}, None]
    assert trio.current_time() - start == pytest.approx(0.2)


async def test_steps_after_the_answer_run_too(autojump_clock: MockClock, wire: Wire) -> None:
    """[CNF-02] [CNF-04]: a stream that is refused included."""
    await run(wire, ["stream", 2], ["reply"], ["emit", "c", 1])
    error, event = await wire.receive(), await wire.receive()
    assert error["error"]["code"] == "bad_request"  # type: ignore[index]  # of a frame
    assert event["data"] == 1


async def test_an_error_and_what_belongs_to_it(autojump_clock: MockClock, wire: Wire) -> None:
    await run(
        wire, ["error", {"code": "rate_limited", "message": "m", "retry_ms": 5, "data": [1], "after_ms": 50}]
    )
    assert (await wire.receive())["error"] == {
        "code": "rate_limited",
        "message": "m",
        "retry_ms": 5,
        "data": [1],
    }


async def test_a_cancel_ends_a_script(autojump_clock: MockClock, wire: Wire) -> None:
    await run(wire, ["hold", 500], ["emit", "c", 1])
    await wire.send({"type": "cancel", "of": 2})
    assert (await wire.receive())["type"] == "error"
    await trio.sleep(0.8)
    await wire.send({"type": "ping", "t": "x"})
    assert await wire.receive() == {"type": "pong", "t": "x"}


@pytest.mark.parametrize(
    ("step", "code"),
    [(["close", 4300], 4300), (["close", 3001], 3001), (["expire"], 4100), (["drain", 100], 4200)],
)
async def test_ends(autojump_clock: MockClock, wire: Wire, step: list[object], code: int) -> None:
    await run(wire, ["reply"], step)
    closed, frames = await wire.rest()
    assert closed == code
    assert {"type": "result", "id": 2} in frames


async def test_an_abort_is_a_reset(autojump_clock: MockClock, wire: Wire) -> None:
    await run(wire, ["abort"])
    with pytest.raises(Closed) as caught:
        await wire.receive()
    assert caught.value.code == 1006


@pytest.mark.parametrize(
    "script",
    [
        None,
        {},
        [5],
        [[]],
        [["nope"]],
        [["forget", 1]],
        [["emit", "c"]],
        [["emit", "", 1]],
        [["emit", "x" * 256, 1]],
        [["emit", "c", 1, 2]],
        [["burst", "c", -1]],
        [["burst", "c", 100_001]],
        [["burst", "c", 1, 300_000]],
        [["burst", "c", True]],
        [["hold"]],
        [["hold", 60_001]],
        [["stream", 1.5]],
        [["reply", {"odd": 1}]],
        [["reply", 5]],
        [["error"]],
        [["error", {}]],
        [["error", {"code": "nope"}]],
        [["error", {"code": "app", "retry_ms": -1}]],
        [["close", 1005]],
        [["close", 999]],
        [["abort", 1]],
    ],
)
async def test_a_bad_script_runs_nothing(autojump_clock: MockClock, wire: Wire, script: object) -> None:
    """[CNF-01]."""
    if isinstance(script, list):
        script = [["emit", "c", "ran"], *script]
    await wire.send({"type": "request", "id": 2, "method": "conf.run", "data": script})
    error = await wire.receive()
    assert error["error"]["code"] == "bad_request"  # type: ignore[index]  # of a frame


async def test_the_other_methods(autojump_clock: MockClock, wire: Wire) -> None:
    for id, method in enumerate(("conf.echo", "conf.fail", "conf.forbidden", "conf.broken"), 2):
        await wire.send({"type": "request", "id": id, "method": method, "data": {"a": [1]}})
    frames = [await wire.receive() for _ in range(4)]
    assert frames[0]["data"] == {"a": [1]}
    assert [frame["error"]["code"] for frame in frames[1:]] == ["app", "forbidden", "internal"]  # type: ignore[index]  # of a frame
