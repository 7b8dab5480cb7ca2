"""The fixtures `holdfast_server` and `holdfast_shared_server`, used as a project would use them."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from holdfast_reference import pytest_fixture

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]

CONNECT = """
import pathlib
import socket
from urllib.parse import urlsplit

def connect(server):
    parts = urlsplit(server.url)
    socket.create_connection((parts.hostname, parts.port), timeout=5).close()
"""


def listens(url: str) -> bool:
    """Whether somebody takes connections there."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_server_is_ready_in_the_test_and_gone_after_it(pytester: pytest.Pytester) -> None:
    """Ready means that a connection succeeds, gone that the next one is refused."""
    pytester.makepyfile(
        CONNECT
        + """
def test_it(holdfast_server):
    connect(holdfast_server)
    assert holdfast_server.tokens["alice"]
    pathlib.Path("url").write_text(holdfast_server.url)
"""
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert not listens((pytester.path / "url").read_text())


def test_each_test_has_a_server_of_its_own_unless_it_shares(pytester: pytest.Pytester) -> None:
    """Two of one kind, one of the other, and the shared one outlives its first user."""
    pytester.makepyfile(
        CONNECT
        + """
import pytest

own, shared = set(), set()

@pytest.mark.parametrize("turn", [1, 2])
def test_it(turn, holdfast_server, holdfast_shared_server):
    connect(holdfast_server)
    connect(holdfast_shared_server)
    own.add(holdfast_server.url)
    shared.add(holdfast_shared_server.url)

def test_both():
    assert (len(own), len(shared)) == (2, 1)
"""
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3)


def test_the_log_is_in_the_report_of_a_test_that_fails(pytester: pytest.Pytester) -> None:
    """And only what was logged during that test, and only there."""
    pytester.makepyfile(
        """
import pytest
import trio
from holdfast_reference.client import ConnectionClosed, connect

async def log_something(url):
    with pytest.raises(ConnectionClosed):
        async with connect(url, token="wrong"):
            pass

def test_good(holdfast_shared_server):
    trio.run(log_something, holdfast_shared_server.url)

def test_bad(holdfast_shared_server):
    trio.run(log_something, holdfast_shared_server.url)
    assert holdfast_shared_server.log().count("event=denied") == 2
    assert False

def test_own(holdfast_server):
    trio.run(log_something, holdfast_server.url)
    assert False
"""
    )
    result = pytester.runpytest_inprocess("-p", "no:logging")
    result.assert_outcomes(passed=1, failed=2)
    lines = [line for line in result.outlines if "Log of holdfast-server" in line or line.startswith("time=")]
    kinds = ["log" if "Log of" in line else line.split("event=")[1].split()[0] for line in lines]
    assert kinds == ["log", "denied", "closed", "log", "listening", "denied", "closed"]


def test_the_arguments_can_be_overridden(pytester: pytest.Pytester) -> None:
    """Without `--conformance` nobody knows the tokens."""
    pytester.makepyfile(
        """
import pytest

@pytest.fixture(scope="session")
def holdfast_server_args():
    return ()

def test_it(holdfast_server):
    assert holdfast_server.url.startswith("ws://")
    assert not holdfast_server.tokens
"""
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_a_server_that_does_not_start_is_an_error_with_its_log(pytester: pytest.Pytester) -> None:
    """The command and what it complained about."""
    pytester.makepyfile(
        """
import pytest

@pytest.fixture(scope="session")
def holdfast_server_args():
    return ("--no-such-option",)

def test_it(holdfast_server):
    pass
"""
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*did not start*", "*no-such-option*"])


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("trap '' TERM; echo ws://127.0.0.1:1/; echo boom >&2; exit 3", "ended with status 3*boom"),
        ("echo ws://127.0.0.1:1/; trap '' TERM; while :; do read line; done", "did not end on SIGTERM"),
        ("exec cat < fifo", "did not start"),
    ],
    ids=["dies", "lingers", "hangs"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the pretended servers are shell scripts")
def test_a_server_that_misbehaves_is_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, script: str, complaint: str
) -> None:
    """It dies under the test, does not end with it, or never says that it is ready."""
    fake = pytester.path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    subprocess.run(["mkfifo", "fifo"], check=True, cwd=pytester.path)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(pytest_fixture, "START_SECONDS", 0.3)
    monkeypatch.setattr(pytest_fixture, "STOP_SECONDS", 0.3)
    pytester.makepyfile("def test_it(holdfast_server): pass")
    result = pytester.runpytest_inprocess()
    assert result.parseoutcomes().get("errors") == 1
    result.stdout.fnmatch_lines([f"*{part}*" for part in complaint.split("*")])


def test_loading_the_plugin_loads_nothing_heavy(tmp_path: Path) -> None:
    """Every pytest run of every project with the package installed pays for it."""
    program = (
        "import sys, pytest; before = set(sys.modules);"
        "import holdfast_reference.pytest_fixture;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.stdout.split() == ["holdfast_reference", "holdfast_reference.pytest_fixture"]
