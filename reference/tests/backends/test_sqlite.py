"""The broker on SQLite keeps the contract, through a restart too, and says why it cannot."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import trio
from holdfast_reference.backends.base import BackendError, CursorError, Dedupe, Published
from holdfast_reference.backends.channel_log import Retention
from holdfast_reference.backends.sqlite import SqliteBroker
from holdfast_reference.backends.sqlite_file import Plan, SqliteFile, WriteFailed
from holdfast_reference.protocol import ExchangeError
from holdfast_reference.protocol.names import Pattern
from tests.backends.contract import (
    BrokerContract,
    Clock,
    Listener,
    event,
    last_row,
    listed,
    log_of,
    once,
    outcomes,
    publish,
    reason,
    replayed,
    tails,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from holdfast_reference.backends.channel_log import Row


class TestSqliteBroker(BrokerContract):
    """Every broker that a test makes opens the same file: the next one after a restart."""

    path: Path
    calendar: Clock

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = tmp_path / "log.db"
        self.calendar = Clock()
        # No test here loses power, and a busy disk would make them slow.
        monkeypatch.setattr("holdfast_reference.backends.sqlite_file._SYNCHRONOUS", "OFF")

    def make(self, retention: Retention, clock: Callable[[], float]) -> SqliteBroker:
        return SqliteBroker(self.path, retention, clock=clock, calendar=self.calendar)

    async def test_what_was_published_outlives_the_process(self) -> None:
        async with self.running() as broker:
            cursors = await publish(broker, "a", 1, 2, 3)
            await outcomes(broker, (event("a", 4, "c-1"), None))
            quiet = log_of(broker, "quiet")
            empty = quiet.cursor(quiet.end)
        async with self.running() as broker:
            log = log_of(broker, "a")
            assert [log.locate(cursor) for cursor in cursors] == [1, 2, 3]
            assert replayed(log, 1) == tails(2, 3, 4)
            assert last_row(broker, "a") == (tails(4)[0], "c-1")
            assert log_of(broker, "quiet").locate(empty) == 0
            await publish(broker, "a", 5)
            assert replayed(log, 4) == tails(5)

    async def test_trimming_wiping_and_eviction_outlive_the_process(self) -> None:
        retention = Retention(channels=3)
        async with self.running(retention) as broker:
            evicted, _ = await publish(broker, "evicted", 1, 2)
            early, late = await publish(broker, "trimmed", 1, 2)
            (wiped,) = await publish(broker, "wiped", 1)
            await broker.trim("trimmed")
            await broker.wipe("wiped")
            await publish(broker, "new", 1)
        async with self.running(retention) as broker:
            assert reason(log_of(broker, "evicted"), evicted) == "epoch"
            assert reason(log_of(broker, "trimmed"), early) == "expired"
            assert log_of(broker, "trimmed").locate(late) == log_of(broker, "trimmed").end
            assert reason(log_of(broker, "wiped"), wiped) == "epoch"
            assert listed(log_of(broker, "wiped")) == ([], False, False)

    async def test_keys_outlive_the_process_for_what_is_left_of_their_time(self) -> None:
        async with self.running() as broker:
            first = await once(broker, "a", 1, "k")
            assert isinstance(first, Published)
        self.calendar.now += 0.9
        clock = Clock()
        async with self.running(clock=clock) as broker:
            assert await once(broker, "a", 2, "k") == Published(first.cursor, duplicate=True)
            clock.now += 0.2
            again = await once(broker, "a", 3, "k")
            assert isinstance(again, Published)
            assert not again.duplicate
        self.calendar.now += 2
        async with self.running() as broker:
            again = await once(broker, "a", 4, "k")
            assert isinstance(again, Published)
            assert not again.duplicate

    def test_a_file_with_keys_is_opened_before_trio_runs(self) -> None:
        async def remember() -> None:
            async with self.running() as broker:
                await once(broker, "a", 1, "k")

        trio.run(remember)
        broker = SqliteBroker(self.path, calendar=self.calendar)
        assert len(broker._remembered) == 1
        broker.close()

    async def test_a_calendar_that_was_set_back_lengthens_no_key(self) -> None:
        async with self.running() as broker:
            await once(broker, "a", 1, "k")
        self.calendar.now -= 100_000
        clock = Clock()
        async with self.running(clock=clock) as broker:
            clock.now += 1.1
            again = await once(broker, "a", 2, "k")
            assert isinstance(again, Published)
            assert not again.duplicate

    async def test_a_smaller_retention_holds_after_a_restart(self) -> None:
        async with self.running() as broker:
            await publish(broker, "off/1", 1)
            await publish(broker, "a", 1)
            (cursor,) = await publish(broker, "b", 1)
        async with self.running(Retention(channels=1, unlogged=(Pattern("off/**"),))) as broker:
            assert broker.log("off/1") is None
            assert log_of(broker, "a").first == log_of(broker, "a").end
            assert log_of(broker, "b").locate(cursor) == 1
        async with self.running() as broker:
            assert listed(log_of(broker, "off/1"), limit=1)[0] == []

    async def test_publishes_of_one_turn_share_a_commit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        commit = SqliteFile.commit

        def counted(self: SqliteFile, plan: Plan, retention: Retention) -> None:
            sizes.append(len(plan.rows))
            commit(self, plan, retention)

        async with self.running() as broker:
            monkeypatch.setattr(SqliteFile, "commit", counted)
            await publish(broker, "a", *range(20))
            await outcomes(broker, *((event(channel, 1), None) for channel in "bcd"))
        assert sizes == [20, 3]

    async def test_nothing_is_seen_before_it_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While a commit runs there is neither a delivery, nor an answer, nor a row in the log."""
        commit, begun, allowed = SqliteFile.commit, trio.Event(), threading.Event()

        def slow(self: SqliteFile, plan: Plan, retention: Retention) -> None:
            trio.from_thread.run_sync(begun.set)
            assert allowed.wait(10)
            commit(self, plan, retention)

        async with self.running() as broker:
            listener = Listener()
            broker.subscribe("a", False, listener)
            monkeypatch.setattr(SqliteFile, "commit", slow)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, broker, "a", 1)
                await begun.wait()
                assert (listener.got, log_of(broker, "a").end) == ([], 0)
                allowed.set()
            assert [tail for _, tail in listener.got] == tails(1)

    async def test_the_log_ends_with_the_event_that_is_being_delivered(self) -> None:
        """Or who reads the log on the way would get some events twice."""

        class Reader:
            def __init__(self) -> None:
                self.ends: list[int] = []

            def deliver(self, event: object) -> None:
                self.ends.append(log_of(broker, "a").end)

        async with self.running() as broker:
            reader = Reader()
            broker.subscribe("a", False, reader)
            await publish(broker, "a", 1, 2, 3)
            assert reader.ends == [1, 2, 3]

    async def test_a_commit_that_fails_answers_each_and_changes_nothing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(self: SqliteFile, plan: Plan, retention: Retention) -> None:
            raise WriteFailed("disk full")

        async with self.running() as broker:
            listener, key = Listener(), Dedupe("ann", "k", 1000)
            broker.subscribe("a", False, listener)
            (cursor,) = await publish(broker, "a", 1)
            with monkeypatch.context() as patched:
                patched.setattr(SqliteFile, "commit", fail)
                refused = await outcomes(
                    broker, (event("a", 2), key), (event("a", 3), key), (event("b", 1), None)
                )
                for each in refused:
                    assert isinstance(each, ExchangeError)
                    assert (each.code, each.retry_ms) == ("unavailable", 1000)
                for change in (broker.trim, broker.wipe):
                    with pytest.raises(ExchangeError, match="unavailable"):
                        await change("a")
            assert "disk full" in caplog.text
            assert [tail for _, tail in listener.got] == tails(1)
            assert log_of(broker, "a").locate(cursor) == log_of(broker, "a").end == 1
            assert log_of(broker, "b").end == 0
            again = await once(broker, "a", 2, "k")
            assert isinstance(again, Published)
            assert not again.duplicate
            assert replayed(log_of(broker, "a"), 0) == tails(1, 2)

    async def test_a_failed_transaction_leaves_nothing_behind(self) -> None:
        file = SqliteFile(self.path)
        row = (1, 1, b"}", "")
        with pytest.raises(WriteFailed, match="UNIQUE"):
            file.commit(Plan(file.floor, 0.0, rows=[row, row]), Retention())
        file.commit(Plan(file.floor, 0.0, rows=[row]), Retention())
        assert [position for position, _ in file.rows(1, 0, 9)] == [1]
        file.close()

    async def test_what_is_forgotten_leaves_the_file(self) -> None:
        async with self.running(Retention(events=2, channels=2)) as broker:
            for channel in "abca":
                for value in range(5):
                    await publish(broker, channel, value)
            await broker.trim("a")
            await publish(broker, "a", 9)
        with sqlite3.connect(self.path) as file:
            rows = file.execute(
                "SELECT name, position FROM events JOIN channels ON id = channel ORDER BY 1, 2"
            )
            left = rows.fetchall()
            (orphans,) = file.execute(
                "SELECT count(*) FROM events WHERE channel NOT IN (SELECT id FROM channels)"
            ).fetchone()
        file.close()
        assert [name for name, _ in left].count("a") <= 3
        assert {name for name, _ in left} == {"a", "c"}
        assert orphans == 0

    async def test_a_replay_reads_ahead_within_bounds(self) -> None:
        async with self.running() as broker:
            assert isinstance(broker, SqliteBroker)
            await publish(broker, "a", *range(1000))
            queries: list[str] = []
            broker._file._reader.set_trace_callback(queries.append)
            assert replayed(log_of(broker, "a"), 0) == tails(*range(1000))
            assert 1000 / 64 <= len(queries) <= 1000 / 64 + 1
            assert broker._ahead_bytes <= 4 * 2**20

    async def test_what_was_read_ahead_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("holdfast_reference.backends.sqlite._CACHE_BYTES", 2000)
        monkeypatch.setattr("holdfast_reference.backends.sqlite._AHEAD_EVENTS", 4)
        async with self.running() as broker:
            assert isinstance(broker, SqliteBroker)
            await publish(broker, "a", *range(100))
            assert replayed(log_of(broker, "a"), 0) == tails(*range(100))
            assert broker._ahead_bytes <= 2000
            assert broker._ahead_bytes == sum(len(row.tail) + 160 for row in broker._ahead.values())

    async def test_what_cannot_be_read_stays_where_it_is(self, caplog: pytest.LogCaptureFixture) -> None:
        """A failure may pass: nothing is given up for it but that one read."""
        async with self.running() as broker:
            assert isinstance(broker, SqliteBroker)
            await publish(broker, "a", 1, 2, 3)
            log, rows = log_of(broker, "a"), broker._file.rows

            def fail(*args: object) -> Iterator[tuple[int, Row]]:
                raise sqlite3.OperationalError("disk I/O error")

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(broker._file, "rows", fail)
                with pytest.raises(CursorError, match="expired"):
                    log.after(1)
            assert broker._file.rows == rows
            await publish(broker, "a", 4)
            assert (log.first, replayed(log, 0)) == (0, tails(1, 2, 3, 4))
            assert "disk I/O error" in caplog.text

    async def test_what_is_gone_from_the_file_is_not_read(self, caplog: pytest.LogCaptureFixture) -> None:
        async with self.running() as broker:
            assert isinstance(broker, SqliteBroker)
            await publish(broker, "a", 1, 2, 3)
            broker._file._writer.execute("DELETE FROM events WHERE position = 2")
            log = log_of(broker, "a")
            with pytest.raises(CursorError, match="expired"):
                replayed(log, 0)
            assert replayed(log, 2) == tails(3)
            broker._file._writer.execute("DROP TABLE events")
            broker._ahead.clear()
            with pytest.raises(CursorError, match="expired"):
                log.after(2)
            await outcomes(broker, (event("a", 4), None))
            with pytest.raises(CursorError, match="expired"):
                log.page(before=None, after=2, limit=1, max_bytes=100)
            assert "no such table" in caplog.text


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "log.db")
    assert file._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert file._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    file.close()


class TestOpening:
    """One readable line, and the file is left as it was."""

    def refusal(self, path: Path) -> BackendError:
        with pytest.raises(BackendError) as refused:
            SqliteBroker(path)
        assert "\n" not in refused.value.message
        assert str(path) in refused.value.message
        assert refused.value.hint
        return refused.value

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        assert "cannot be opened" in self.refusal(tmp_path / "none" / "log.db").message

    def test_a_directory_instead_of_a_file(self, tmp_path: Path) -> None:
        assert "cannot be opened" in self.refusal(tmp_path).message

    def test_a_file_of_another_kind(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a database, only notes\n" * 100)
        assert "is no log of this server" in self.refusal(path).message
        assert path.read_text() == "not a database, only notes\n" * 100
        assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_database_of_somebody_else(self, tmp_path: Path) -> None:
        path = tmp_path / "other.db"
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE mine (x)")
        other.close()
        before = path.read_bytes()
        assert "is no log of this server" in self.refusal(path).message
        assert path.read_bytes() == before

    def test_a_file_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: SqliteFile, plan: Plan, retention: Retention) -> None:
            raise WriteFailed("disk full")

        monkeypatch.setattr(SqliteFile, "commit", fail)
        assert "cannot be written: disk full" in self.refusal(tmp_path / "log.db").message
        monkeypatch.undo()
        SqliteBroker(tmp_path / "log.db").close()

    def test_a_file_of_a_later_format(self, tmp_path: Path) -> None:
        path = tmp_path / "log.db"
        SqliteFile(path).close()
        with sqlite3.connect(path) as later:
            later.execute("PRAGMA user_version = 2")
        later.close()
        assert "is of format 2" in self.refusal(path).message

    def test_a_file_in_use(self, tmp_path: Path) -> None:
        """By another process; and by this one."""
        path = tmp_path / "log.db"
        program = (
            "import sys, pathlib\n"
            "from holdfast_reference.backends.sqlite_file import SqliteFile\n"
            "file = SqliteFile(pathlib.Path(sys.argv[1]))\n"
            "print('open', flush=True)\n"
            "sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"open\n"
            assert "is in use by another server" in self.refusal(path).message
            other.kill()
        file = SqliteFile(path)
        assert "is in use by another server" in self.refusal(path).message
        file.close()
        SqliteFile(path).close()
