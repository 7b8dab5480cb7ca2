"""Targets on real sockets that are no Holdfast servers, and processes that do not serve: how each is told."""

from __future__ import annotations

import ssl
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from holdfast_conformance.runner import Options, run
from holdfast_conformance.target import Spawn, Target
from holdfast_conformance.verdict import RunVerdict, Verdict
from tests.fake import Fake
from tests.harness import define, only

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from holdfast_conformance.case import Test
    from holdfast_conformance.report import Report

HASTY = Options(seed=1, scale=0.05)
"""Waits of half a second at most, for targets that never answer."""


async def lives(t: Test) -> None:
    """A session can be opened."""
    await t.alive(await t.session())


async def judged(handler: Callable[[trio.SocketStream], Awaitable[None]], options: Options = HASTY) -> Report:
    """Judge a server on a free port that treats every connection like this."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with trio.fail_after(30):
            report = await run(f"ws://127.0.0.1:{port}/ws", checks=[define(lives)], options=options)
        nursery.cancel_scope.cancel()
    return report


async def refuses(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.aclose()


async def greets(stream: trio.SocketStream) -> None:
    await stream.send_all(b"220 mail.example ESMTP\r\n")
    await stream.receive_some(1000)


async def hangs(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def serves_pages(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>hi</html>")


async def lies(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: wrong\r\n\r\n"
    )
    await stream.receive_some(10)


async def floods(stream: trio.SocketStream) -> None:
    await Fake()._upgrade(stream)
    with suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"\x81\x0f" + b'{"type":"ping"}' + b"\x89\x00" * 2000)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (refuses, "closed the connection without an answer"),
        (greets, "does not speak HTTP/1.1"),
        (hangs, "did not answer the handshake within 0.5 s"),
        (serves_pages, "answered HTTP 200"),
        (lies, "wrong Sec-WebSocket-Accept"),
        (floods, "flood"),
    ],
)
async def test_what_is_no_holdfast_server_is_inconclusive(
    handler: Callable[[trio.SocketStream], Awaitable[None]], words: str
) -> None:
    """One line says what answered instead, and nothing is judged."""
    report = await judged(handler)
    assert words in report.problem
    assert "\n" not in report.problem
    assert (report.verdict, report.exit_code, report.checks) == (RunVerdict.INCONCLUSIVE, 3, [])


async def test_an_address_where_nobody_listens_is_inconclusive() -> None:
    """A refused connection and an unknown host are named with the address."""
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        report = await run(f"ws://127.0.0.1:{port}/", checks=[define(lives)], options=HASTY)
    assert f"cannot connect to 127.0.0.1:{port}: Connection refused" in report.problem
    report = await run("ws://no-such-host.invalid/", checks=[define(lives)], options=HASTY)
    assert "cannot resolve 'no-such-host.invalid'" in report.problem


async def test_a_good_server_on_a_socket_passes() -> None:
    """The same fake that is judged in memory is judged over TCP."""
    fake = Fake()
    report = await judged(fake.serve)
    assert only(report).verdict is Verdict.PASS


async def test_tls_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    """A certificate of an unknown authority is refused, one of the authority of the target file accepted."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    fake = Fake()

    async def handler(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):
            await fake.serve(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_ssl_over_tcp, handler, 0, context)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        verdicts = []
        for tls in ({}, {"ca": str(tmp_path / "ca.pem")}, {"insecure": True}):
            target = Target(source="t", url=f"wss://127.0.0.1:{port}/", tls=tls)
            with trio.fail_after(30):
                report = await run(target, checks=[define(lives)], options=Options(seed=1))
            verdicts.append(report.problem.partition(":")[0] or only(report).verdict)
        nursery.cancel_scope.cancel()
    assert verdicts == ["TLS with 127.0.0.1", Verdict.PASS, Verdict.PASS]


def spawned(code: str, ready: str = "url", **fields: object) -> Target:
    """Return a target that is a Python process running this code."""
    command = f"{sys.executable} -c {code!r}" + (" {port}" if ready == "tcp" else "")
    return Target(source="t", spawn=Spawn(command, ready, **{"timeout": 20.0, **fields}))  # type: ignore[arg-type]  # of Spawn


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            Target(source="t", spawn=Spawn("no-such-program-here", "url")),
            "cannot start 'no-such-program-here'",
        ),
        (
            spawned("import sys; sys.exit('boom goes it')"),
            "exited with code 1 before it was ready",
        ),
        (spawned("print('hello', flush=True); input()"), "not a URL: 'hello'"),
        (spawned("import time; time.sleep(60)", timeout=0.3), "was not ready within 0.3 s"),
        (spawned("import time; time.sleep(60)", "tcp", timeout=0.3), "was not ready within 0.3 s"),
    ],
    ids=["missing", "dies", "says-no-url", "hangs", "never-listens"],
)
async def test_a_process_that_does_not_become_ready(target: Target, words: str) -> None:
    """What happened to the process is said in one line; its last words are in it."""
    with trio.fail_after(30):
        report = await run(target, checks=[define(lives)], options=HASTY)
    assert words in report.problem
    assert report.hint
    assert report.exit_code == 3
    if "exited" in words:
        assert report.log == ["boom goes it"]


async def test_a_process_that_dies_later_is_explained() -> None:
    """How the process ended, and the tail of its log, are in the report."""
    code = (
        'import socket, sys; s = socket.create_server(("127.0.0.1", 0));'
        'print(f"ws://127.0.0.1:{s.getsockname()[1]}/", flush=True); s.accept()[0].recv(1000);'
        'print("fatal: out of cheese", file=sys.stderr, flush=True); sys.exit(7)'
    )
    with trio.fail_after(30):
        report = await run(spawned(code), checks=[define(lives)], options=HASTY)
    assert "exited with code 7" in report.problem
    assert report.log == ["fatal: out of cheese"]
