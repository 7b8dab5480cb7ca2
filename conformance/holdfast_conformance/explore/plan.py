"""A plan: what several clients do and suffer, as one value that can be drawn, stored, shrunk and replayed.

`schemas/meta/plan.schema.json` describes the file. Each client performs its steps one after the other, all
clients at the same time. A step that the target cannot be asked for (no such profile, no such identity) is
left out when the plan is performed, so one plan serves every target.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from .. import schemas

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["FORMAT", "Client", "Finding", "Plan", "PlanError", "Step", "read", "size", "without", "write"]

FORMAT = "holdfast-plan/1"


class Step(TypedDict, total=False):
    """One step of a client; `do` says which other members mean anything.

    `subscribe`: to `channel` (with `pattern`: to all beside it too); with `since` from the client's last
    place there, with `require` or not at all; with `last` from the newest so many. `publish`: `count` events
    to `channel`, each with `pad` further bytes; `echo` false leaves the own session out; `key` makes one that
    can be tried again. `again`: try the last one with a key again. `request`: an echo, with `pad` bytes.
    `cancel`: the exchange that is the `nth` youngest of those running. `history`: one page of `channel`,
    `back` from or `after` the client's last place, or the newest. `auth`: show the credentials again. `ping`.
    `think`: do nothing for `ms`. `wait`: for all answers.

    Faults: `abort` (a reset), `close` (4500), `half-close` (FIN), each followed by `ms` of absence and a
    return that resumes the session, or begins a `fresh` one; `lost` returns are cut again before their
    welcome is read. `takeover`: return while the old connection still lives. `stall`: read nothing for `ms`.
    `throttle`: read `pad` bytes each 2 ms for `ms`. `hold`: acknowledge nothing for `ms`. `split`: write
    what follows in pieces of `pad` bytes, for `ms`. `join`: write nothing for `ms`, then all at once.
    """

    do: Literal[
        "subscribe", "publish", "again", "request", "cancel", "history", "auth", "ping", "think", "wait",
        "abort", "close", "half-close", "takeover", "stall", "throttle", "hold", "split", "join",
    ]  # fmt: skip
    channel: int
    pattern: bool
    since: bool
    require: bool
    last: int
    count: int
    pad: int
    echo: bool
    key: bool
    nth: int
    way: Literal["newest", "after", "back"]
    ms: int
    fresh: bool
    lost: int


class _Client(TypedDict):
    name: str
    identity: str
    steps: list[Step]


class Client(_Client, total=False):
    """One client: whom it is (`first` and `second` of the target file, or one by name), what it does, and
    the `window` that it asks for.
    """

    window: int


class Finding(TypedDict):
    """What a stored plan showed, so that a replay can tell whether it shows it again."""

    kind: str
    requirement: str
    message: str


class Plan(TypedDict, total=False):
    """A whole plan. `channels` are kinds of the target file (`open`, `unlogged`); steps name their place."""

    format: str
    channels: list[str]
    clients: list[Client]
    target: str
    finding: Finding


class PlanError(Exception):
    """A file is not a plan."""


def read(path: Path) -> Plan:
    """Read a plan.

    Raises:
        PlanError: it is not there, no JSON, or breaks the schema.
    """
    try:
        plan = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise PlanError(f"{path}: not JSON: {error}") from None
    if problem := schemas.meta_fault("plan", plan):
        raise PlanError(f"{path}: {problem}")
    return cast("Plan", plan)


def write(path: Path, plan: Plan, mask: Callable[[str], str] = str) -> None:
    """Write a plan; `mask` hides secrets."""
    path.write_text(mask(json.dumps(plan, indent=1, ensure_ascii=False)) + "\n", "utf-8")


def size(plan: Plan) -> int:
    """Return how many steps it has."""
    return sum(len(client["steps"]) for client in plan["clients"])


def without(plan: Plan, steps: set[tuple[int, int]]) -> Plan:
    """Return the plan without some steps, named by client and place, and without clients that do nothing."""
    clients: list[Client] = [
        {**client, "steps": [step for at, step in enumerate(client["steps"]) if (number, at) not in steps]}
        for number, client in enumerate(plan["clients"])
    ]
    return {**plan, "clients": [client for client in clients if client["steps"]]}
