"""Starting a target as a process of its own, and stopping it cleanly.

The process's standard error (and standard output, after the line that announces the URL) is read all the
time, so that it never blocks, and its newest lines are kept for the report of a run that went wrong.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from .target import TargetError, checked_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from .target import Spawn

__all__ = ["LaunchError", "Launched", "launch", "resident"]

REFERENCE = "holdfast-server"

GRACE = 3.0
"""Seconds that a target has to stop after SIGTERM before it is killed."""


LONGEST_LINE = 65536
"""Bytes without a line's end after which what the target prints is surely no URL."""


class LaunchError(Exception):
    """The target cannot be started or does not become ready; `hint` says what to do, `log` what it said."""

    def __init__(self, message: str, hint: str, log: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.log = tuple(log)


class Launched:
    """A running target: its URL, its process, and the newest lines of its log."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.url = ""
        self.log: deque[str] = deque(maxlen=20)

    @property
    def died(self) -> str:
        """How the process ended, "" while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    async def keep_log(self, stream: trio.abc.ReceiveStream, rest: bytes = b"") -> None:
        """Read a stream of the process until it ends, keeping the newest lines."""
        pending = rest
        async for data in stream:
            *lines, pending = (pending + data).split(b"\n")
            self.log.extend(line.decode("utf-8", "replace")[:500] for line in lines)
            pending = pending[-4096:]


@asynccontextmanager
async def launch(spawn: Spawn, environment: os._Environ[str]) -> AsyncIterator[Launched]:
    """Start the target, wait until it is ready, and stop it at the end.

    Raises:
        LaunchError: it cannot be started, dies, or is not ready in time.
    """
    port = _free_port() if "{port}" in spawn.cmd else 0
    words = [word.replace("{port}", str(port)) for word in _words(spawn.cmd)]
    try:
        process = await trio.lowlevel.open_process(
            _resolve(words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, **dict(spawn.env)},
            cwd=spawn.folder,
            start_new_session=True,  # our Ctrl-C is not the target's
        )
    except OSError as error:
        raise LaunchError(f"cannot start {words[0]!r}: {error.strerror}", "see [target] spawn.cmd") from error
    assert process.stdout is not None
    assert process.stderr is not None
    problem: Exception | None = None
    launched = Launched(process)
    async with process.stdout, process.stderr, trio.open_nursery() as nursery:
        nursery.start_soon(launched.keep_log, process.stderr)
        try:
            rest = await _ready(launched, spawn, port, words[0])
            nursery.start_soon(launched.keep_log, process.stdout, rest)
            yield launched
        except Exception as error:  # whatever it is comes out as it is, once the process has been stopped
            problem = error
        finally:
            await _stop(process)
            nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem


async def _ready(launched: Launched, spawn: Spawn, port: int, name: str) -> bytes:
    """Wait until the target is ready, set its URL, and return what it printed behind it."""
    assert launched.process.stdout is not None
    with trio.move_on_after(spawn.timeout):
        rest = b""
        if spawn.ready == "url":
            rest = await _read_url(launched, launched.process.stdout)
        else:
            await _accepting(launched, port)
            launched.url = spawn.url.replace("{port}", str(port))
        try:
            checked_url(launched.url, name)
        except TargetError as error:
            raise LaunchError(str(error), error.hint, launched.log) from None
        return rest
    hint = "it must print its URL first" if spawn.ready == "url" else f"it must listen on port {port}"
    raise LaunchError(f"{name!r} was not ready within {spawn.timeout:g} s", hint, launched.log)


def resident(group: int) -> int | None:
    """Return the resident bytes of a started target: of its process and whatever it started in its group.

    None where the system does not say (it does on Linux).
    """
    total = None
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # gone meanwhile
        if fields[2] == str(group):
            total = (total or 0) + int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


def _words(command: str) -> list[str]:
    """Split a command line as a shell would."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise LaunchError(f"cannot read the command {command!r}: {error}", "see [target] spawn.cmd") from None
    if not words:
        raise LaunchError("the command is empty", "see [target] spawn.cmd")
    return words


def _resolve(words: list[str]) -> list[str]:
    """Return the command with its program found; the reference server may live beside our own interpreter."""
    beside = Path(sys.executable).parent / words[0]
    if words[0] == REFERENCE and not beside.exists() and shutil.which(REFERENCE) is None:
        return [sys.executable, "-m", "holdfast_reference", *words[1:]]
    if words[0] == REFERENCE and beside.exists():
        return [str(beside), *words[1:]]
    return words


async def _read_url(launched: Launched, stdout: trio.abc.ReceiveStream) -> bytes:
    """Read the first line into `url`; return what came behind it."""
    head = b""
    while b"\n" not in head and len(head) < LONGEST_LINE:
        data = await stdout.receive_some(4096)
        if not data:
            await _explain_death(launched)
        head += data
    line, _, rest = head.partition(b"\n")
    launched.url = line.decode("utf-8", "replace").strip()
    if not launched.url.startswith(("ws://", "wss://")):
        raise LaunchError(
            f"the first line of the target is not a URL: {launched.url[:100]!r}", 'or use ready = "tcp"'
        )
    return rest


async def _accepting(launched: Launched, port: int) -> None:
    """Wait until something accepts connections on the port."""
    while True:
        if launched.died:
            await _explain_death(launched)
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.sleep(0.02)
            continue
        await stream.aclose()
        return


async def _explain_death(launched: Launched) -> None:
    with trio.move_on_after(1):
        await launched.process.wait()
    await trio.sleep(0.05)  # the last words are still in the pipe
    how = launched.died or "closed its output"
    raise LaunchError(f"the target {how} before it was ready", "see its last words below", launched.log)


async def _stop(process: trio.Process) -> None:
    with trio.CancelScope(shield=True):
        _signal(process, signal.SIGTERM)
        with trio.move_on_after(GRACE):
            await process.wait()
        _signal(process, signal.SIGKILL)  # whatever is left of it
        await process.wait()


def _signal(process: trio.Process, number: signal.Signals) -> None:
    """Send a signal to the target and to whatever it started: a shell does not pass it on."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
