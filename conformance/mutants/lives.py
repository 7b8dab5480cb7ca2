"""Tools for mutants of resume and history: what a welcome says, what a log and its pages say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol import resume
from holdfast_reference.protocol.messages import Payload
from holdfast_reference.protocol.outgoing import Outgoing
from holdfast_reference.protocol.resume import Refusal, Sessions
from holdfast_reference.protocol.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.connection import Connection
    from holdfast_reference.protocol.effects import Effects, History
    from holdfast_reference.protocol.grants import Grant
    from holdfast_reference.protocol.logs import Log
    from holdfast_reference.protocol.messages import Resume

    from mutants.harness import Patch

    Row = dict[str, object]
    Decision = tuple[Session | Refusal, Effects]
    Decide = Callable[[Resume], Decision]

__all__ = [
    "Decide", "Decision", "Row", "attaches", "on_bounds", "on_decision", "on_page", "on_publish_result",
    "on_welcome", "wanted_by",
]  # fmt: skip


def on_welcome(patch: Patch, change: Callable[[Row], Row | None]) -> None:
    """Let `change(welcome)` replace each welcome; None leaves it as it is."""

    def urgent(original: Callable[..., None], self: Outgoing, text: bytes) -> None:
        if text.startswith(b'{"type":"welcome"'):
            changed = change(json.loads(text))
            text = text if changed is None else json.dumps(changed).encode()
        original(self, text)

    patch.wrap(Outgoing, "urgent", urgent)


def on_decision(patch: Patch, react: Callable[[Sessions, Session | None, Resume, Decide], Decision]) -> None:
    """Let `react(sessions, session, wanted, decide)` decide on each resume.

    `session` is the living one of that name, whoever it belongs to; `decide` is what the server would do.
    """

    def decide(
        original: Callable[..., Decision],
        self: Sessions,
        wanted: Resume,
        grant: Grant,
        profiles: frozenset[str],
        now: float,
    ) -> Decision:
        session = self._sessions.get(resume._digest(wanted.session))
        return react(self, session, wanted, lambda other: original(self, other, grant, profiles, now))

    patch.wrap(Sessions, "resume", decide)


def on_result(patch: Patch, cause: str, change: Callable[[Row], Row]) -> None:
    """Let `change(data)` replace the data of each result that the method `cause` of a session gives."""
    inside: list[bool] = []

    def answering(original: Callable[..., object], self: Session, *args: object) -> object:
        inside.append(True)
        try:
            return original(self, *args)
        finally:
            inside.pop()

    def succeed(original: Callable[..., Effects], self: Session, id: int, payload: Payload | None) -> Effects:
        if inside and payload is not None:
            data = change(cast("Row", json.loads(bytes(payload.json))))
            payload = Payload(json.dumps(data).encode())
        return original(self, id, payload)

    patch.wrap(Session, cause, answering)
    patch.wrap(Session, "succeed", succeed)


def on_page(patch: Patch, change: Callable[[Row], Row]) -> None:
    """Let `change(data)` replace what each `history` is answered with."""
    on_result(patch, "listed", change)


def on_publish_result(patch: Patch, change: Callable[[Row], Row]) -> None:
    """Let `change(data)` replace what each publish is answered with."""
    on_result(patch, "published", change)


def on_bounds(patch: Patch, change: Callable[[History, Log | None], History]) -> None:
    """Let `change(effect, log)` replace which page is looked for."""

    def listed(original: Callable[..., Effects], self: Session, effect: History, log: Log | None) -> Effects:
        return original(self, change(effect, log), log)

    patch.wrap(Session, "listed", listed)


def attaches(patch: Patch, before: Callable[[Outgoing], None]) -> None:
    """Call `before(queue)` whenever a session gets a connection, the first one included."""

    def attach(original: Callable[..., None], self: Outgoing) -> None:
        before(self)
        original(self)

    patch.wrap(Outgoing, "attach", attach)


def wanted_by(core: Connection) -> Session | None:
    """The living session that the hello of a connection names."""
    if core._resume is None:
        return None
    return core._sessions._sessions.get(resume._digest(core._resume.session))
