"""pytest fixtures that give a test a Holdfast server of its own, in a process of its own.

pytest imports this module in every run of every project that has the package installed, so it imports
pytest and nothing else until a test asks for a fixture. It knows the server only as a command: what it
prints first is its URL, SIGTERM ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

START_SECONDS = 20.0
STOP_SECONDS = 10.0

_PRINCIPALS = {
    "alice": "tok-alice",
    "alice-2": "tok-alice-2",
    "alice-narrow": "tok-alice-narrow",
    "bob": "tok-bob",
    "carol": "tok-carol",
    "brief": "tok-brief",
    "alice-brief": "tok-alice-brief",
    "expired": "tok-expired",
    "limited": "tok-limited",
    "small": "tok-small",
    "small-2": "tok-small-2",
}


class HoldfastServer:
    """A running server process.

    Attributes:
        url: where it listens, such as `ws://127.0.0.1:40123/`.
        tokens: bearer tokens by the name of their holder (`alice`, `bob`, `carol`, ...); empty when
            `holdfast_server_args` leaves out `--conformance`, which is what defines them.
    """

    def __init__(self, url: str, tokens: Mapping[str, str], log_file: Path) -> None:
        self.url = url
        self.tokens = tokens
        self._log_file = log_file
        self._reported = 0

    def log(self) -> str:
        """Everything the server has logged so far, one event a line."""
        return self._log_file.read_text(encoding="utf-8", errors="replace")

    def _news(self) -> str:
        """What was logged since the last test ended."""
        return self.log()[self._reported :]

    def _mark(self) -> None:
        self._reported = len(self.log())


_running = pytest.StashKey[list[HoldfastServer]]()


@pytest.fixture(scope="session")
def holdfast_server_args() -> Sequence[str]:
    """Command-line arguments of the server that the other fixtures start; override it to configure yours.

    The default is `--conformance` (tokens for everybody in `tokens`, the method `conf.echo`, every channel
    but `forbidden/**`) with a heartbeat so slow that a client of a few lines need not answer it.
    """
    return ("--conformance", "--set", "timers.heartbeat_interval_ms=60000", "--set", "timers.drain_ms=500")


@pytest.fixture
def holdfast_server(
    request: pytest.FixtureRequest,
    holdfast_server_args: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[HoldfastServer]:
    """A Holdfast server for this test alone: ready when the test starts, gone when it ends.

    Its log is part of the report of a test that fails. Starting it takes a few tenths of a second; tests
    that get by with channel names of their own share one with `holdfast_shared_server`.
    """
    with _serving(request.config, holdfast_server_args, tmp_path_factory.mktemp("holdfast")) as server:
        yield server


@pytest.fixture(scope="session")
def holdfast_shared_server(
    request: pytest.FixtureRequest,
    holdfast_server_args: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[HoldfastServer]:
    """One Holdfast server for the whole test run: hundreds of tests for the price of one start.

    Tests that each use channels of their own do not see each other. The report of a failing test holds what
    the server logged during that test.
    """
    with _serving(request.config, holdfast_server_args, tmp_path_factory.mktemp("holdfast")) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put what the servers logged during a test into its report when it fails."""
    report = yield
    for server in item.config.stash.get(_running, []):
        news = server._news()
        if report.failed and news:
            report.sections.append((f"Log of holdfast-server {server.url}", news))
        if report.when == "teardown":
            server._mark()
    return report


def _serving(
    config: pytest.Config, args: Sequence[str], folder: Path
) -> AbstractContextManager[HoldfastServer]:
    """Run the server; the context ends when its process has.

    Raises:
        RuntimeError: it did not come up within `START_SECONDS`, or did not end well; the text holds its log.
    """
    import subprocess
    import sys
    import threading
    from contextlib import contextmanager

    @contextmanager
    def serving() -> Iterator[HoldfastServer]:
        log_file = folder / "server.log"
        command = [sys.executable, "-m", "holdfast_reference", "--port", "0", *args]
        with (
            log_file.open("wb") as log,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            ) as process,
        ):
            assert process.stdout is not None
            # Killing the silent process turns the blocking read below into an end of file, on every platform.
            too_slow = threading.Timer(START_SECONDS, process.kill)
            too_slow.start()
            try:
                url = process.stdout.readline().decode().strip()
            finally:
                too_slow.cancel()
            server = HoldfastServer(url, dict(_PRINCIPALS) if "--conformance" in args else {}, log_file)
            if not url:
                process.kill()
                raise RuntimeError(f"holdfast-server did not start: {' '.join(command)}\n{server.log()}")
            running = config.stash.setdefault(_running, [])
            running.append(server)
            try:
                yield server
            finally:
                running.remove(server)
                process.terminate()
                try:
                    status = process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise RuntimeError(f"holdfast-server did not end on SIGTERM\n{server.log()}") from None
            if status != 0:
                raise RuntimeError(f"holdfast-server ended with status {status}\n{server.log()}")

    return serving()
