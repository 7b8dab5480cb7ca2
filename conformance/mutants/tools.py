"""Tools for mutants: change what the server reads, how it closes, or what it writes, frame by frame.

They hold on to what every frame passes: `Connection.receive` and `close`, and the ways into `Outgoing`; and
on what becomes of an event: the effects of the server, and `deliver` of the core's session.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol.codec import encode_error
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.errors import ExchangeError
from holdfast_reference.protocol.outgoing import REFUSAL, Outgoing, split
from holdfast_reference.protocol.replay import Place
from holdfast_reference.protocol.session import Session
from holdfast_reference.protocol.states import Input
from holdfast_reference.server import link, session

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from holdfast_reference.protocol.effects import Effect, Effects
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.outgoing import Item

    from mutants.harness import Patch

    Row = dict[str, object]
    Read = Callable[[Row], Effects]

__all__ = [
    "NOTHING", "answer", "on_close", "on_deliver", "on_effect", "on_frame", "on_text", "on_write",
    "trusting", "varied",
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

    def changed(text: bytes) -> bytes:
        frame = change(cast("Row", json.loads(text)))
        return text if frame is None else json.dumps(frame).encode()

    def urgent(original: Callable[..., None], self: Outgoing, text: bytes) -> None:
        original(self, changed(text))

    def push(original: Callable[..., None], self: Outgoing, kind: int, id: int, text: bytes) -> None:
        original(self, kind, id, changed(text))

    def event(
        original: Callable[..., bool], self: Outgoing, id: int, head: bytes, tail: bytes, *rest: object
    ) -> bool:
        return original(self, id, *split(changed(head + tail)), *rest)

    def read(original: Callable[..., Item | None], self: Place, position: int) -> Item | None:
        item = original(self, position)
        return item and (*item[:2], *split(changed(item[2] + item[3])), item[4])

    patch.wrap(Outgoing, "urgent", urgent)
    patch.wrap(Outgoing, "push", push)
    patch.wrap(Outgoing, "event", event)
    patch.wrap(Place, "read", read)


def on_close(patch: Patch, change: Callable[[Connection, int], int | None]) -> None:
    """Let `change(core, code)` choose the code of each close; None keeps the connection open."""

    def close(
        original: Callable[..., Effects],
        self: Connection,
        code: int,
        detail: str = "",
        input: Input = Input.CLOSE,
        **how: object,
    ) -> Effects:
        chosen = change(self, int(code))
        return NOTHING if chosen is None else original(self, chosen, detail, input, **how)

    patch.wrap(Connection, "close", close)


def answer(core: Connection, frame: Row, code: str) -> Effects:
    """Refuse a frame with an error on its `id`, whether that is fresh or not."""
    id = cast("int", frame["id"])
    core.session.exchanges.last_id = max(core.session.exchanges.last_id, id)
    core.session.outgoing.push(REFUSAL, id, encode_error(id, ExchangeError(code, "")))
    return NOTHING


def on_deliver(patch: Patch, change: Callable[[Session, int, Event], Event | None]) -> None:
    """Let `change(core, id, event)` replace what a subscription is given; None takes it away."""

    def deliver(original: Callable[..., bool], self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        changed = change(self, id, event)
        return changed is None or original(self, id, changed, lossy=lossy)

    patch.wrap(Session, "deliver", deliver)


def trusting(patch: Patch) -> None:
    """Let sessions take whatever the broker brings them, wherever it stands in the log."""

    def deliver(original: Callable[..., bool], self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        place = self.outgoing.places.get(id)
        if place is not None:
            place.position = -1
        return original(self, id, event, lossy=lossy)

    patch.wrap(Session, "deliver", deliver)


def on_effect(patch: Patch, kind: type[Effect], apply: Callable[..., None]) -> None:
    """Let `apply(original, who, effect)` carry out the effects of one kind."""
    tables = session.APPLY if kind in session.APPLY else link._APPLY
    table = cast("MutableMapping[type, Callable[..., None]]", tables)
    original = table[kind]
    patch.item(table, kind, lambda who, effect: apply(original, who, effect))


def varied(event: Event, **members: object) -> Event:
    """A copy of an event with other attributes."""
    twin = copy.copy(event)
    for name, value in members.items():
        setattr(twin, name, value)
    return twin
