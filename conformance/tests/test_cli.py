"""The command line: usage errors, exit codes, what is printed where, and the report file."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from holdfast_conformance import collect, schemas
from holdfast_conformance.cli import main

if TYPE_CHECKING:
    from pathlib import Path

SERVER = "import trio; from tests.fake import Fake, announce; trio.run(announce, Fake({faults}))"


def invoke(*words: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return the path of a target file that starts the fake server."""
    return write_target(tmp_path, "")


def write_target(folder: Path, faults: str) -> Path:
    """Write a target file for a fake server with these faults."""
    path = folder / "target.toml"
    command = json.dumps(f"{sys.executable} -c {SERVER.format(faults=faults)!r}")
    path.write_text(
        f'[target]\nspawn = {{ cmd = {command}, ready = "url", timeout = 30 }}\n'
        '[identities]\nalice = { token = "tok-very-secret" }\n'
        '[methods]\necho = { name = "conf.echo" }\n'
    )
    return path


def test_version() -> None:
    """The version is told without anything else being loaded."""
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.startswith("holdfast ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "http://127.0.0.1/"], "must begin with ws:// or wss://"),
        (["check", "no-such-file.toml"], "no such file"),
        (["check", "--only", "env/no-such-check"], "no check matches 'env/no-such-check'"),
        (["check", "--skip", "ZZZ-99"], "no check matches 'ZZZ-99'"),
        (["check", "--only", "rpc/result-carries-the-valve"], "did you mean rpc/result-carries-the-value"),
        (["check", "--lanes", "0"], "neither 'auto' nor a number"),
        (["check", "--time-scale", "0"], "not in the range"),
        (["check", "--time-scale", "nan"], "not a finite number"),
        (["check", "--max-wait", "inf"], "not a finite number"),
        (["check", ""], "the target is empty"),
        (["check", "--report", "pdf=x"], "unknown report format 'pdf'"),
        (["check", "--level", "maybe"], "'maybe' is not one of"),
        (["explain", "SUB-99999"], "no check matches 'SUB-99999'"),
        (["nonsense"], "No such command"),
    ],
)  # fmt: skip
def test_usage_errors_end_with_2(words: list[str], message: str) -> None:
    """A wrong call says what is wrong in a line or a box, never with a traceback."""
    result = invoke(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_a_run_writes_a_report_that_fits_its_schema(target: Path, tmp_path: Path) -> None:
    """The report is valid, holds no secret, and the verdict and the exit code stand on the screen."""
    path = tmp_path / "out.json"
    result = invoke(
        "check", str(target), "--only", "rpc/result-carries-the-value", "--report", f"json={path}"
    )
    assert result.exit_code == 0
    report = json.loads(path.read_text("utf-8"))
    assert schemas.meta_fault("report", report) is None
    assert report["verdict"] == "PARTIAL"
    assert "tok-very-secret" not in path.read_text("utf-8") + result.output
    assert "1 checks against ws://127.0.0.1:" in result.output
    assert f"wrote {path}   exit 0" in result.output


def test_a_failing_server_ends_with_1_and_shows_why(tmp_path: Path) -> None:
    """The first failure is shown whole: requirement, timeline with the mark, hint, and where to read more."""
    target = write_target(tmp_path, '"reuse"')
    path = tmp_path / "out.json"
    result = invoke(
        "check", str(target), "--only", "ENV-17", "--time-scale", "0.05", "--report", f"json={path}"
    )
    assert result.exit_code == 1
    for words in (
        "✗ ",
        "ENV-17  MUST",
        "spec      When `id` is not higher",
        "more      holdfast explain ENV-17",
    ):
        assert words in result.output
    assert schemas.meta_fault("report", json.loads(path.read_text("utf-8"))) is None


def test_quiet_prints_the_verdict_alone(target: Path) -> None:
    """With --quiet there are two lines."""
    result = invoke("check", str(target), "--only", "rpc/result-carries-the-value", "-q")
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == 2


def test_nothing_that_could_run_ends_with_2(target: Path) -> None:
    """When every selected check lacks a fixture the exit code says that nothing ran."""
    result = invoke("check", str(target), "--only", "cnf/*", "-q")
    assert result.exit_code == 2
    assert "none of the selected checks could run" in result.output


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('sh -c "unbalanced', "No closing quotation"),
        (" ", "the command is empty"),
        ("no-such-program-anywhere", "cannot start"),
        ("echo hello", "not a URL: 'hello'"),
        ("echo ws://h:999999/", "Port out of range"),
        ("sh -c 'echo last words >&2; exit 7'", "exited with code 7"),
    ],
)  # fmt: skip
def test_a_target_that_cannot_be_started_ends_with_3(tmp_path: Path, command: str, words: str) -> None:
    """What is wrong with the command stands in a line, with a hint."""
    path = tmp_path / "target.toml"
    path.write_text(f'[target]\nspawn = {{ cmd = {json.dumps(command)}, ready = "url", timeout = 30 }}\n')
    result = invoke("check", str(path))
    assert result.exit_code == 3
    assert words in result.output
    assert "hint  " in result.output


def test_nothing_that_the_target_started_outlives_the_run(tmp_path: Path) -> None:
    """A shell does not pass SIGTERM on to its children, so the whole group gets it."""
    path, child = tmp_path / "target.toml", tmp_path / "child"
    command = f"sh -c 'sleep 300 & echo $! > {child}; echo hello; wait'"
    path.write_text(f'[target]\nspawn = {{ cmd = {json.dumps(command)}, ready = "url", timeout = 30 }}\n')
    assert invoke("check", str(path)).exit_code == 3
    try:
        process = os.pidfd_open(int(child.read_text()))
    except ProcessLookupError:
        return  # gone already
    ended, _, _ = select.select([process], [], [], 10)
    os.close(process)
    assert ended


def test_a_missing_certificate_file_ends_with_2(tmp_path: Path) -> None:
    """A fault of the file that shows only when the run begins is a usage error like the others."""
    path = tmp_path / "target.toml"
    path.write_text('[target]\nurl = "wss://127.0.0.1:1/"\n[tls]\nca = "none.pem"\n')
    result = invoke("check", str(path))
    assert result.exit_code == 2
    assert "[tls]" in result.output


def test_an_interrupt_before_the_run_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the checks are being loaded is no verdict."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "everything", interrupted)
    assert invoke("check", "ws://127.0.0.1:1/").exit_code == 130


def test_an_unreachable_target_ends_with_3_and_a_report(tmp_path: Path) -> None:
    """The report is written on an inconclusive run, too."""
    path = tmp_path / "out.json"
    result = invoke("check", "ws://127.0.0.1:1/", "--report", f"json={path}")
    assert result.exit_code == 3
    assert "cannot connect to 127.0.0.1:1" in result.output
    report = json.loads(path.read_text("utf-8"))
    assert schemas.meta_fault("report", report) is None
    assert report["run"]["problem"].startswith("cannot connect")


def test_an_unwritable_report_does_not_hide_the_verdict(tmp_path: Path) -> None:
    """The verdict is printed although the file cannot be written."""
    result = invoke("check", "ws://127.0.0.1:1/", "--report", f"json={tmp_path}/no/such/folder.json")
    assert result.exit_code == 3
    assert "cannot write" in result.output
    assert "INCONCLUSIVE" in result.output


def test_output_without_a_terminal_has_no_colour(target: Path) -> None:
    """No escape sequence reaches a file or a pipe."""
    assert "\x1b" not in invoke("check", str(target), "--only", "rpc/result-carries-the-value").output


def test_list_and_explain() -> None:
    """Every check is listed with its level; requirements, checks and ambient rules are explained."""
    lines = invoke("list").output.splitlines()
    assert len(lines) > 400
    assert any(line.startswith("MUST       RPC-13") for line in lines)
    assert all("ENV-17" in line for line in invoke("list", "--covers", "ENV-17").output.splitlines())
    assert "a server MUST" in invoke("explain", "rpc-02").output
    assert "rpc/nothing-after-terminal" in invoke("explain", "RPC-02").output
    assert (
        "holdfast check TARGET --only rpc/result-carries-the-value"
        in invoke("explain", "rpc/result-carries-the-value").output
    )
    assert "every frame" in invoke("explain", "rpc/nothing-after-terminal").output


def test_an_interrupt_writes_the_report_and_ends_with_130(target: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a run ends it in order."""
    path = tmp_path / "out.json"
    command = [
        sys.executable,
        "-m",
        "holdfast_conformance",
        "check",
        str(target),
        "--only",
        "env",
        "--report",
        f"json={path}",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "checks against" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped: interrupted" in output
    assert json.loads(path.read_text("utf-8"))["run"]["stopped"] == "interrupted"


def test_starting_is_quick() -> None:
    """`--version` loads neither the event loop nor the validator."""
    began = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, holdfast_conformance.cli; print({'trio', 'jsonschema', 'rich'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "trio" not in done.stdout
    assert "jsonschema" not in done.stdout
    assert time.perf_counter() - began < 20
