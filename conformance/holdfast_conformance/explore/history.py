"""A history: everything that the clients of one plan did and saw, in order, as rows of plain data.

Written to a file it is one JSON object per line; `schemas/meta/history.schema.json` describes a row. The
order of the rows is the order of things: a call stands before its first byte is written, a frame after its
last byte was read. So where one row stands before another, what it proves happened before.
"""

from __future__ import annotations

import gc
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from .. import schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "ANONYMOUS", "FORMAT", "Called", "HistoryError", "Recorder", "Row", "Said", "What", "kept", "read",
    "validate", "write",
]  # fmt: skip

FORMAT = "holdfast-history/1"

ANONYMOUS = "anonymous "
"""What a principal begins with that lasts as long as its session [SES-16]; the name of the client follows."""

What = Literal["plan", "hello", "call", "sent", "frame", "return", "fault", "end", "calm"]


class Failing(TypedDict, total=False):
    """The `error` of an error frame, as far as it is judged."""

    code: str


class Said(TypedDict, total=False):
    """A frame of the server that satisfies its schema."""

    type: str
    id: int
    seq: int
    data: object
    removed: bool
    cursor: str
    channel: str
    recovered: bool
    reason: str
    missed: int
    error: Failing
    profiles: list[str]
    limits: dict[str, int]
    resumed: bool
    last_id: int
    resume_error: dict[str, object]
    auth: dict[str, object]
    t: str
    held: bool


class Called(TypedDict, total=False):
    """A frame of a client."""

    type: str
    id: int
    of: int
    seq: int
    channel: str
    pattern: str
    since: str
    last: int
    recover: str
    token: str
    data: object
    echo: bool
    dedupe: str
    method: str
    stream: bool
    after: str
    before: str
    limit: int
    t: str


class Resuming(TypedDict):
    """What a hello says about the session that it resumes."""

    seq: int
    attempt: int


class Row(TypedDict, total=False):
    """One line of a history; `what` says which members it has, `at` is in seconds since the beginning.

    `plan`: the first row: `format`, `identities` (client to principal). `hello`: `client` asks for a session
    on connection `conn` (no number is used twice), with `resume` when it has one. `call`: a frame that
    starts an exchange in the `life`th session of this client, counted from 1, whether or not it could be
    written yet. `sent`: any other frame that was written. `frame`: a frame of the server. `return`: what
    became of a call. `fault`: something was done to the connection. `end`: the connection ended, seen from
    here. `calm`: the client has been attached for so long after everything was published that all of it
    has surely arrived; used where there is no fence.
    """

    what: What
    at: float
    format: str
    identities: dict[str, str]
    client: str
    conn: int
    life: int
    resume: Resuming
    said: Said
    frame: Called
    id: int
    outcome: Literal["ok", "failed", "maybe"]
    code: str
    fault: str
    how: str


class HistoryError(Exception):
    """A file is not a history; the message names the line."""


class Recorder:
    """Collects rows with the time of a clock that never goes back."""

    def __init__(self, clock: Callable[[], float], identities: Mapping[str, str]) -> None:
        self._clock = clock
        self._began = clock()
        self.rows: list[Row] = []
        self.add("plan", format=FORMAT, identities=identities)

    def add(self, what: What, **members: object) -> None:
        """Append a row and stamp it; `members` are those of `Row`."""
        at = round(self._clock() - self._began, 6)
        self.rows.append(cast("Row", {"what": what, "at": at, **members}))


def write(path: Path, rows: Iterable[Row], mask: Callable[[str], str] = str) -> None:
    """Write a history as JSON Lines; `mask` hides secrets."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(mask(json.dumps(row, ensure_ascii=False, separators=(",", ":"))) + "\n")


@contextmanager
def kept() -> Iterator[None]:
    """Look for no garbage meanwhile: among the millions of rows and facts of a history there is none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read(path: Path) -> list[Row]:
    """Read a history, and check it before anybody judges it.

    Raises:
        HistoryError: a line is no JSON, breaks the schema, or stands where it cannot stand.
        OSError: the file cannot be read.
    """
    rows: list[Row] = []
    with kept(), path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise HistoryError(f"line {number}: {error}") from None
            if problem := schemas.meta_fault("history", row):
                raise HistoryError(f"line {number}: {problem}")
            rows.append(cast("Row", row))
    validate(rows)
    return rows


def validate(rows: Sequence[Row]) -> None:
    """Refuse a history that contradicts itself, which no server could have caused.

    Raises:
        HistoryError: the first row is no plan, time goes back, a connection or a call is made twice, or a row
            speaks of a connection that was never made.
    """
    if not rows or rows[0]["what"] != "plan":
        raise HistoryError("line 1: a history begins with its plan")
    if rows[0].get("format") != FORMAT:
        raise HistoryError(f"line 1: the format is {rows[0].get('format')!r}, not {FORMAT!r}")
    at = 0.0
    conns: dict[int, str] = {}
    calls: set[tuple[str, int, int]] = set()
    for number, row in enumerate(rows, 1):
        if row["at"] < at:
            raise HistoryError(f"line {number}: time goes back")
        at = row["at"]
        what = row["what"]
        if what == "hello":
            if row["conn"] in conns:
                raise HistoryError(f"line {number}: connection {row['conn']} was made before")
            conns[row["conn"]] = row["client"]
        elif what == "call":
            key = (row["client"], row["life"], row["frame"]["id"])
            if key in calls:
                raise HistoryError(f"line {number}: the exchange was called before")
            calls.add(key)
        elif what == "return":
            if (row["client"], row["life"], row["id"]) not in calls:
                raise HistoryError(f"line {number}: nothing was called that could return")
        elif what != "plan" and conns.get(row["conn"]) != row["client"]:
            raise HistoryError(f"line {number}: connection {row['conn']} of {row['client']} was never made")
