"""The file that logs are kept in: SQLite, one transaction at a time.

Everything that may wait for the disk is in `commit`, which runs in a worker thread on a connection of its
own; reads are short, come from another connection, and never wait for the writer (WAL).

A row that was trimmed is deleted one transaction later, when every reader knows that it is gone: what a
head says is held can be read at any moment.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast_reference.backends.base import BackendError
from holdfast_reference.backends.channel_log import Head, Row, new_epoch, row_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from holdfast_reference.backends.channel_log import Retention
    from holdfast_reference.backends.dedupe import Key

__all__ = ["KeptHead", "KeptKey", "Plan", "SqliteFile", "WriteFailed"]

_APPLICATION: Final = 0x48_46_4C_31  # what tells our files from all others
_VERSION: Final = 1
_SYNCHRONOUS: Final = "FULL"  # a commit returns when the disk has it
_SCHEMA: Final = (
    """CREATE TABLE server (
        epoch TEXT NOT NULL, origin INTEGER NOT NULL, floor INTEGER NOT NULL, turn INTEGER NOT NULL)""",
    """CREATE TABLE channels (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL, origin INTEGER NOT NULL,
        first INTEGER NOT NULL, end INTEGER NOT NULL, bytes INTEGER NOT NULL, turn INTEGER NOT NULL)""",
    """CREATE TABLE events (
        channel INTEGER NOT NULL, position INTEGER NOT NULL, tail BLOB NOT NULL, exclude TEXT NOT NULL,
        PRIMARY KEY (channel, position)) WITHOUT ROWID""",
    """CREATE TABLE keys (
        principal TEXT NOT NULL, channel TEXT NOT NULL, key TEXT NOT NULL, cursor TEXT NOT NULL,
        until REAL NOT NULL, remember_ms REAL NOT NULL,
        PRIMARY KEY (principal, channel, key)) WITHOUT ROWID""",
    "CREATE INDEX keys_until ON keys (until)",
)


class WriteFailed(Exception):
    """A transaction was not committed; nothing of it is in the file."""


@dataclass(slots=True)
class KeptHead(Head):
    """A log that the file knows, under a number that is never used again."""

    id: int = 0


class KeptKey(NamedTuple):
    """A dedupe key, remembered `until` a time of the calendar, for `remember_ms` in all."""

    key: Key
    cursor: str
    until: float
    remember_ms: float


@dataclass(slots=True)
class Plan:
    """One transaction.

    Attributes:
        forget: numbers of logs that are gone.
        rows: number of the log, position, tail and `exclude` of each new event.
        heads: by channel, each log as it will stand, and the `first` that readers know already. Retention
            is applied to them by `commit`.
        keys: to be remembered.
        floor: where logs stand of which nothing is kept.
        now: time of the calendar, in seconds.
    """

    floor: Head
    now: float
    forget: list[int] = field(default_factory=list)
    rows: list[tuple[int, int, bytes, str]] = field(default_factory=list)
    heads: dict[str, tuple[KeptHead, int]] = field(default_factory=dict)
    keys: list[KeptKey] = field(default_factory=list)


class SqliteFile:
    """An open file, which no other process has open.

    Args:
        path: created when it is not there.

    Raises:
        BackendError: it cannot be opened, is something else, or is in use.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as undo, _explained(path):
            self._writer = undo.enter_context(closing(_connect(path)))
            fresh = _is_fresh(self._writer, path)
            self._lock = undo.enter_context(closing(_locked(path)))
            if fresh:
                _create(self._writer)
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute(f"PRAGMA synchronous = {_SYNCHRONOUS}")
            self._reader = undo.enter_context(closing(_connect(path)))
            epoch, origin, place, self._turn = self._reader.execute("SELECT * FROM server").fetchone()
            self.floor = Head(epoch, origin, place, place)
            undo.pop_all()

    def kept_heads(self) -> Iterator[tuple[str, KeptHead]]:
        """All logs with their channels, the idlest first."""
        query = "SELECT name, epoch, origin, first, end, bytes, id FROM channels ORDER BY turn, id"
        for name, *values in self._reader.execute(query):
            yield name, KeptHead(*values)

    def kept_keys(self) -> Iterator[KeptKey]:
        """All dedupe keys, those included whose time is over."""
        query = "SELECT principal, channel, key, cursor, until, remember_ms FROM keys"
        for principal, channel, key, cursor, until, remember_ms in self._reader.execute(query):
            yield KeptKey((principal, channel, key), cursor, until, remember_ms)

    def commit(self, plan: Plan, retention: Retention) -> None:
        """Write all of a plan; its heads then say what is held.

        Raises:
            WriteFailed: nothing was written.
        """
        self._turn += 1
        run, many = self._writer.execute, self._writer.executemany
        try:
            with _transaction(self._writer):
                for id in plan.forget:
                    run("DELETE FROM events WHERE channel = ?", (id,))
                    run("DELETE FROM channels WHERE id = ?", (id,))
                many("INSERT INTO events VALUES (?, ?, ?, ?)", plan.rows)
                for channel, (head, known) in plan.heads.items():
                    run("DELETE FROM events WHERE channel = ? AND position <= ?", (head.id, known))
                    self._trim(head, retention)
                    row = (head.id, channel, head.epoch, head.origin, head.first, head.end, head.bytes)
                    run("INSERT OR REPLACE INTO channels VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, self._turn))
                run("DELETE FROM keys WHERE until < ?", (plan.now,))
                many(
                    "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)",
                    [(*kept.key, kept.cursor, kept.until, kept.remember_ms) for kept in plan.keys],
                )
                floor = (plan.floor.epoch, plan.floor.origin, plan.floor.end)
                run("UPDATE server SET epoch = ?, origin = ?, floor = ?, turn = ?", (*floor, self._turn))
        except sqlite3.Error as error:
            raise WriteFailed(str(error)) from error

    def _trim(self, head: KeptHead, retention: Retention) -> None:
        """Move `first` over the oldest events, as far as retention wants."""

        def is_over() -> bool:
            return head.end - head.first > retention.events or head.bytes > retention.bytes

        if is_over():
            query = "SELECT position, length(tail) FROM events WHERE channel = ? AND position > ?"
            with closing(self._writer.execute(f"{query} ORDER BY position", (head.id, head.first))) as oldest:
                while is_over():
                    head.first, size = oldest.fetchone()
                    head.bytes -= row_bytes(size)

    def rows(self, id: int, lowest: int, highest: int, backward: bool = False) -> Iterator[tuple[int, Row]]:
        """Events of a log with their positions, read while they are asked for.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        order = "DESC" if backward else "ASC"
        query = "SELECT position, tail, exclude FROM events WHERE channel = ? AND position BETWEEN ? AND ?"
        with closing(
            self._reader.execute(f"{query} ORDER BY position {order}", (id, lowest, highest))
        ) as found:
            for position, tail, exclude in found:
                yield position, Row(tail, exclude)

    def close(self) -> None:
        for connection in (self._reader, self._writer, self._lock):
            connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions, which may be handed from thread to thread."""
    return sqlite3.connect(path.absolute(), timeout=0, isolation_level=None, check_same_thread=False)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say in one line why a file cannot be used."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise BackendError(
            f"{path} cannot be opened: {error}", "give a file in a directory that exists and may be written"
        ) from None
    except sqlite3.DatabaseError:
        raise _foreign(path) from None


def _foreign(path: Path) -> BackendError:
    return BackendError(f"{path} is no log of this server", "give another path; the file is left as it is")


def _is_fresh(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether there is nothing in a file yet; refuses one that others have written."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == 0 and version == 0 and tables == 0:
        return True
    if application != _APPLICATION:
        raise _foreign(path)
    if version != _VERSION:
        raise BackendError(f"{path} is of format {version}, known is {_VERSION}", "give another path")
    return False


def _locked(path: Path) -> sqlite3.Connection:
    """Hold a lock that ends with this process, however it ends: that of a second, empty database."""
    lock = _connect(path.with_name(f"{path.name}.lock"))
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" not in str(error):
            raise
        raise BackendError(f"{path} is in use by another server", "stop it, or give another path") from None
    return lock


def _create(connection: sqlite3.Connection) -> None:
    with _transaction(connection):
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO server VALUES (?, 0, 0, 0)", (new_epoch(),))
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
