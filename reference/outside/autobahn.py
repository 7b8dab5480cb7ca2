"""The Autobahn test suite against the server's own WebSocket code, see `echo.py`.

    python reference/outside/autobahn.py

Autobahn needs Python 2.7, which is looked up in the variable PYTHON27, on PATH and in pyenv; its packages
go into .cache/ once. Without all that the last line says `NOT RUN`, and the exit code is 0. It is 1 when a
case failed, and also when a case passed that is known to fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from holdfast_reference.server.handshake import SUBPROTOCOL
from outside.echo import EchoServer

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = HERE.parents[1] / ".cache" / "autobahn"
VIRTUALENV: Final = "virtualenv==16.7.12"  # the last without dependencies that runs under Python 2.7
INSTALL_SECONDS: Final = 300  # for each step
RUN_SECONDS: Final = 150

# There are no 8 and 11; 12 and 13 are compression, which the server never accepts; in 9, even is binary.
CASES: Final = [*(f"{group}.*" for group in range(1, 8)), "9.1.*", "9.3.*", "9.5.*", "9.7.*", "10.*"]
PASSED: Final = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})


class Known(NamedTuple):
    """Cases that cannot pass, and the close code that they have to end with instead."""

    cases: str
    close_code: int
    reason: str


KNOWN: Final = [Known("1.2.*", 1003, "binary messages are refused")]


class Result(NamedTuple):
    """What Autobahn says about one case: the behaviour, that at the close, and the code that we sent."""

    behavior: str
    closing: str
    close_code: int | None

    @property
    def passed(self) -> bool:
        return self.behavior in PASSED and self.closing in PASSED


class NotRun(Exception):
    """Autobahn cannot run on this machine; the text says why."""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _pythons() -> Iterator[str]:
    if chosen := os.environ.get("PYTHON27"):
        yield chosen
    yield "python2.7"
    for version in _output("pyenv", "versions", "--bare").split():
        if version.startswith("2.7."):
            yield str(Path(_output("pyenv", "prefix", version).strip(), "bin", "python2.7"))


def _python27() -> str:
    """The first command that is one; what stands on PATH may be a shim that only says it was not chosen."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for python in _pythons():
        if _output(python, "-c", ask).strip() == "2.7":
            return python
    raise NotRun("there is no Python 2.7 (PYTHON27=... names one)")


def _install_step(*command: str | Path) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotRun(f"installing it took more than {INSTALL_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.startswith("ERROR")] or [str(error)]
        raise NotRun(f"it cannot be installed: {said[0]}") from None


def install() -> Path:
    """Put Autobahn into an environment of its own, unless the same is there already.

    Returns:
        its command.

    Raises:
        NotRun: there is no Python 2.7, or the packages cannot be had.
    """
    requirements = HERE / "autobahn-python27.txt"
    environment, tools, done = CACHE / "environment", CACHE / "tools", CACHE / "installed.txt"
    wanted = requirements.read_text()
    if not done.is_file() or done.read_text() != wanted:
        python = _python27()
        shutil.rmtree(CACHE, ignore_errors=True)
        pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps")
        _install_step(sys.executable, *pip, "--target", tools, VIRTUALENV)
        _install_step(python, tools / "virtualenv.py", "-q", "--no-download", environment)
        _install_step(environment / "bin" / "python", *pip, "-r", requirements)
        done.write_text(wanted)
    return environment / "bin" / "wstest"


async def judge(wstest: Path) -> dict[str, Result]:
    """Let Autobahn judge a fresh echo server.

    Returns:
        the results by case, every case that was asked for among them.

    Raises:
        trio.TooSlowError: it took more than RUN_SECONDS.
    """
    report, specification = CACHE / "report", CACHE / "specification.json"
    shutil.rmtree(report, ignore_errors=True)
    with trio.fail_after(RUN_SECONDS):
        async with trio.open_nursery() as nursery:
            [(host, port)] = await nursery.start(EchoServer().serve)
            peer = {"agent": "holdfast", "url": f"ws://{host}:{port}/", "protocols": [SUBPROTOCOL]}
            wanted = {"outdir": str(report), "servers": [peer], "cases": CASES, "exclude-cases": []}
            specification.write_text(json.dumps(wanted))
            command = [str(wstest), "-m", "fuzzingclient", "-s", str(specification)]
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
            nursery.cancel_scope.cancel()
    announced = re.search(rb"will run (\d+) test cases", done.stdout)
    index = report / "index.json"
    results = json.loads(index.read_text())["holdfast"] if index.is_file() else {}
    if announced is None or len(results) != int(announced[1]):
        raise SystemExit(
            f"Autobahn stopped after {len(results)} cases\n{done.stderr.decode(errors='replace')}"
        )
    return {
        case: Result(found["behavior"], found["behaviorClose"], found["remoteCloseCode"])
        for case, found in results.items()
    }


def fault(case: str, result: Result) -> str | None:
    """What is wrong with a result; None for nothing."""
    for known in KNOWN:
        if fnmatch(case, known.cases):
            if result.passed:
                return "passed, but is known to fail"
            return None if result.close_code == known.close_code else f"not closed with {known.close_code}"
    return None if result.passed else "failed"


def show(results: dict[str, Result]) -> int:
    """Print the figures, and every case that is not simply OK.

    Returns:
        the exit code.
    """
    faults = 0
    for case, result in sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        wrong = fault(case, result)
        faults += wrong is not None
        if wrong or (result.behavior, result.closing) != ("OK", "OK"):
            line = f"{case:<8} {result.behavior:<14} close {result.closing} ({result.close_code})"
            print(f"{line}  WRONG: {wrong}" if wrong else line)
    for known in KNOWN:
        print(f"known: {known.cases} are closed with {known.close_code}, for {known.reason}")
    for what, counts in (
        ("behaviour", Counter(result.behavior for result in results.values())),
        ("closing", Counter(result.closing for result in results.values())),
    ):
        print(f"{what}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    print(f"{len(results)} cases, {faults} wrong")
    return 1 if faults else 0


def main() -> int:
    try:
        wstest = install()
    except NotRun as reason:
        print(f"NOT RUN: {reason}")
        return 0
    started = time.monotonic()
    results = trio.run(judge, wstest)
    print(f"took {time.monotonic() - started:.0f} s")
    return show(results)


if __name__ == "__main__":
    raise SystemExit(main())
