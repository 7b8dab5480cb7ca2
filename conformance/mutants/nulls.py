"""Null targets: servers that understand nothing, and the checks that they may pass nevertheless.

A suite that such a server could please would prove little. Each null target is run past the gate (sanity
would stop the run at once, which is also asserted) with every check as if it had declared every profile.
`may_pass.toml` pins who passes what; a check that newly passes, or no longer does, fails the self-test.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
import trio.testing
from holdfast_conformance import collect, requirements
from holdfast_conformance.bench import PROFILES, Bench
from holdfast_conformance.dial import Endpoint
from holdfast_conformance.runner import run as run_suite
from holdfast_conformance.trial import run_check
from holdfast_conformance.verdict import RunVerdict, Verdict
from holdfast_reference.server.transport import memory_pair
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage

from mutants.harness import CAPACITY, world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from holdfast_conformance.target import Target
    from holdfast_reference.server.transport import MemoryTransport

__all__ = ["NULLS", "run"]

MAY_PASS: Final = Path(__file__).with_name("may_pass.toml")

Frame = dict[str, object]

LIMITS: Final[Frame] = {
    "max_frame": 65_536,
    "max_inflight": 8,
    "max_subscriptions": 8,
    "queue": 64,
    "queue_bytes": 65_536,
}

WELCOME: Final[Frame] = {
    "type": "welcome",
    "conn": "null",
    "profiles": list(PROFILES),
    "limits": LIMITS,
    "heartbeat": {"interval_ms": 1000, "timeout_ms": 500},
}


def _parse(text: str) -> Frame:
    try:
        frame = json.loads(text)
    except ValueError:
        return {}
    return frame if isinstance(frame, dict) else {}


def silent(text: str) -> Iterable[Frame | int]:
    """Reads everything and says nothing."""
    return ()


def echo(text: str) -> Iterable[Frame | int]:
    """Sends every frame back."""
    return [_parse(text)]


def always_ok(text: str) -> Iterable[Frame | int]:
    """Welcomes everybody and answers every id with a result."""
    frame = _parse(text)
    if frame.get("type") == "hello":
        return [WELCOME]
    if frame.get("type") == "ping":
        return [{**frame, "type": "pong"}]
    return [{"type": "result", "id": frame["id"], "data": frame.get("data")}] if "id" in frame else []


def always_error(text: str) -> Iterable[Frame | int]:
    """Welcomes everybody and answers every id with an error."""
    frame = _parse(text)
    if frame.get("type") == "hello":
        return [WELCOME]
    if frame.get("type") == "ping":
        return [{**frame, "type": "pong"}]
    error = {"code": "bad_request", "message": "no"}
    return [{"type": "error", "id": frame["id"], "error": error}] if "id" in frame else []


def close_on_anything(text: str) -> Iterable[Frame | int]:
    """Welcomes everybody and closes with 4000 at the next frame."""
    return [WELCOME] if _parse(text).get("type") == "hello" else [4000]


def close_at_once(text: str) -> Iterable[Frame | int]:
    """Closes with 4002 at the first frame, whatever it is."""
    return [4002]


def accept_anything(text: str) -> Iterable[Frame | int]:
    """Welcomes everybody, opens every subscription, answers pings, and never does anything."""
    frame = _parse(text)
    match frame.get("type"):
        case "hello":
            return [WELCOME]
        case "ping":
            return [{**frame, "type": "pong"}]
        case "subscribe":
            return [{"type": "open", "id": frame.get("id")}]
    return []


NULLS: Final[Mapping[str, Callable[[str], Iterable[Frame | int]]]] = {
    "null/silent": silent,
    "null/echo": echo,
    "null/always-ok": always_ok,
    "null/always-error": always_error,
    "null/close-on-anything": close_on_anything,
    "null/close-at-once": close_at_once,
    "null/accept-anything": accept_anything,
}


async def _serve(answer: Callable[[str], Iterable[Frame | int]], transport: MemoryTransport) -> None:
    """Speak WebSocket, correctly, and let `answer` say what."""
    connection = WSConnection(ConnectionType.SERVER)
    text = ""
    try:
        while data := await transport.recv():
            connection.receive_data(data)
            out = b""
            for event in connection.events():
                match event:
                    case Request():
                        out += connection.send(
                            AcceptConnection(subprotocol=next(iter(event.subprotocols), None))
                        )
                    case TextMessage():
                        text += event.data
                        if event.message_finished:
                            for reply in answer(text):
                                out += connection.send(
                                    CloseConnection(reply)
                                    if isinstance(reply, int)
                                    else TextMessage(json.dumps(reply))
                                )
                            text = ""
                    case CloseConnection() | Ping():
                        out += connection.send(event.response())
                    case BytesMessage():
                        pass
            while out:
                out = out[transport.try_send(out) :]
                await transport.wait_writable()
    except Exception:  # a null target knows no errors: whatever goes wrong ends the connection
        pass
    finally:
        transport.close()


async def _open(
    answer: Callable[[str], Iterable[Frame | int]], nursery: trio.Nursery
) -> Callable[[], Awaitable[trio.abc.Stream]]:
    async def connect() -> trio.abc.Stream:
        stream, transport = memory_pair(CAPACITY)
        nursery.start_soon(_serve, answer, transport)
        await trio.lowlevel.checkpoint()
        return stream

    return connect


def run(name: str) -> tuple[list[str], str]:
    """Return what is wrong, and a line about how many checks passed."""
    answer = NULLS[name]
    with world() as (_, target):
        passed, verdict = trio.run(
            partial(_judge, answer, target), clock=trio.testing.MockClock(autojump_threshold=0)
        )
    pinned = set(tomllib.loads(MAY_PASS.read_text(encoding="utf-8")).get(name.removeprefix("null/"), ()))
    faults = [f"{id} passes, and is not pinned" for id in sorted(passed - pinned)]
    faults += [f"{id} is pinned and does not pass any more" for id in sorted(pinned - passed)]
    if verdict in (RunVerdict.CONFORMANT, RunVerdict.PARTIAL):
        faults.append(f"a whole run says {verdict}")
    return faults, f"{len(passed)} of {len(collect.everything())} pass; a whole run is {verdict}"


async def _judge(
    answer: Callable[[str], Iterable[Frame | int]], target: Target
) -> tuple[set[str], RunVerdict]:
    passed = set()
    async with trio.open_nursery() as nursery:
        connect = await _open(answer, nursery)
        bench = Bench(
            target=target,
            endpoint=Endpoint("ws://in-memory/", target.headers, connect=connect),
            requirements=requirements.published(),
            offered=frozenset(PROFILES),
            limits=LIMITS,
        )
        for check in collect.everything():
            result = await run_check(replace(bench), check)
            if result.verdict is Verdict.PASS:
                passed.add(check.id)
        report = await run_suite(target, connect=connect)
        nursery.cancel_scope.cancel()
    return passed, report.verdict
