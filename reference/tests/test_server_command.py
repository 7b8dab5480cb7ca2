"""The command: its flags, its exit codes, and its manners."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from holdfast_reference.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "holdfast_reference", "--port", "0"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its first line."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prot", "5"], 2, "unrecognized"),
        (["--port", "x"], 2, "invalid int"),
        (["--port", "70000"], 2, "--port 70000"),
        (["--config", "none.toml"], 2, "none.toml cannot be read"),
        (["--set", "limits.queue=none"], 2, "not an integer"),
        (["--tls-key", "key.pem"], 2, "key.pem has no certificate"),
        (["--tls-cert", "none.pem"], 2, "none.pem cannot be used"),
        (["--log", "none/log.db"], 1, "none/log.db cannot be opened"),
        (["--log", __file__], 1, "is no log of this server"),
        (["--host", "256.256.256.256", "--port", "0"], 1, "cannot listen"),
        (["--host", "a..b", "--port", "0"], 1, "cannot be the name of a host"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code
    error = capsys.readouterr().err
    assert message in error
    assert "hint: " in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as caught:
        main(["--port", str(taken.getsockname()[1])])
    assert caught.value.code == 1
    assert "in use" in capsys.readouterr().err


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in (
        "host",
        "port",
        "config",
        "set",
        "origin",
        "log",
        "tls-cert",
        "tls-key",
        "log-level",
        "conformance",
    ):
        assert f"--{flag}" in text
    assert "exit codes" in text


def test_a_log_in_use_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And it is free again when the other server has ended."""
    arguments = ["--log", str(tmp_path / "log.db")]
    with running(*arguments) as (process, _):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--port", "0"])
        assert caught.value.code == 1
        assert "in use by another server" in capsys.readouterr().err
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    with running(*arguments) as (_, url):
        assert url.startswith("ws://")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains(number: signal.Signals) -> None:
    """The URL is the first line; a server without clients ends at once, with 0."""
    with running("--conformance") as (process, url):
        assert url.startswith("ws://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert "event=draining" in process.stderr.read()


def test_a_second_signal_ends_it_at_once() -> None:
    """While a client that does not leave is still connected."""
    with running("--set", "timers.drain_ms=600000") as (process, url):
        host, port = url.removeprefix("ws://").rstrip("/").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET / HT")
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            while "draining" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[server]\npath = "/ws"\nport = 1\n')
    with running("--config", str(path)) as (_, url):
        assert url.endswith("/ws")
        assert ":1/" not in url
