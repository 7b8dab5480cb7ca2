"""Tools for mutants: change what the server reads, how it closes, or what it writes, frame by frame.

They hold on to what every frame passes: `Connection.receive` and `close`, and the ways into `Outgoing`; and
on what becomes of an event: the effects of `Session`, and `Connection.deliver`.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol.codec import encode_error
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.errors import ExchangeError
from holdfast_reference.protocol.outgoing import REFUSAL, Outgoing
from holdfast_reference.protocol.states import Input
from holdfast_reference.server import session

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from holdfast_reference.protocol.effects import Effect, Effects
    from holdfast_reference.protocol.events import Event

    from mutants.harness import Patch

    Row = dict[str, object]
    Read = Callable[[Row], Effects]

__all__ = [
    "NOTHING", "answer", "on_close", "on_deliver", "on_effect", "on_frame", "on_text", "on_write", "varied",
]  # fmt: skip


def on_text(patch: Patch, react: Callable[[Connection, bytes, Callable[[bytes], Effects]], Effects]) -> None:
    """Let `react(core, text, read)` stand between the server and each message; `read` is what it would do."""

    def receive(original: Callable[..., Effects], self: Connection, text: bytes, now: float) -> Effects:
        return react(self, text, lambda other: original(self, other, now))

    patch.wrap(Connection, "receive", receive)


def on_frame(patch: Patch, react: Callable[[Connection, Row, Read], Effects | None]) -> None:
    """Like `on_text` for each message that is an object; `react` returns None where the server is right."""

    def look(core: Connection, text: bytes, read: Callable[[bytes], Effects]) -> Effects:
        try:
            frame = json.loads(text)
        except (ValueError, RecursionError):
            return read(text)
        if not isinstance(frame, dict):
            return read(text)
        reaction = react(core, frame, lambda other: read(json.dumps(other).encode()))
        return read(text) if reaction is None else reaction

    on_text(patch, look)


def on_write(patch: Patch, change: Callable[[Row], Row | None]) -> None:
    """Let `change(frame)` replace each frame when it is queued; None leaves it as it is."""

    def queue(original: Callable[..., object], *args: object) -> object:
        at = next(i for i, arg in enumerate(args) if isinstance(arg, bytes))
        changed = change(cast("Row", json.loads(cast("bytes", args[at]))))
        text = args[at] if changed is None else json.dumps(changed).encode()
        return original(*args[:at], text, *args[at + 1 :])

    for name in ("urgent", "push", "event"):
        patch.wrap(Outgoing, name, queue)


def on_close(patch: Patch, change: Callable[[Connection, int], int | None]) -> None:
    """Let `change(core, code)` choose the code of each close; None keeps the connection open."""

    def close(
        original: Callable[..., Effects],
        self: Connection,
        code: int,
        detail: str = "",
        input: Input = Input.CLOSE,
    ) -> Effects:
        chosen = change(self, int(code))
        return NOTHING if chosen is None else original(self, chosen, detail, input)

    patch.wrap(Connection, "close", close)


def answer(core: Connection, frame: Row, code: str) -> Effects:
    """Refuse a frame with an error on its `id`, whether that is fresh or not."""
    id = cast("int", frame["id"])
    core._exchanges.last_id = max(core._exchanges.last_id, id)
    core._outgoing.push(REFUSAL, id, encode_error(id, ExchangeError(code, "")))
    return NOTHING


def on_deliver(patch: Patch, change: Callable[[Connection, int, Event], Event | None]) -> None:
    """Let `change(core, id, event)` replace what a subscription is given; None takes it away."""

    def deliver(
        original: Callable[..., bool], self: Connection, id: int, event: Event, *, lossy: bool
    ) -> bool:
        changed = change(self, id, event)
        return changed is None or original(self, id, changed, lossy=lossy)

    patch.wrap(Connection, "deliver", deliver)


def on_effect(patch: Patch, kind: type[Effect], apply: Callable[..., None]) -> None:
    """Let `apply(original, who, effect)` carry out the effects of one kind."""
    table = cast("MutableMapping[type, Callable[..., None]]", session._APPLY)
    original = table[kind]
    patch.item(table, kind, lambda who, effect: apply(original, who, effect))


def varied(event: Event, **members: object) -> Event:
    """A copy of an event with other attributes."""
    twin = copy.copy(event)
    for name, value in members.items():
        setattr(twin, name, value)
    return twin
