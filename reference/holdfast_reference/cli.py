"""`holdfast-server`: flags, exit codes and signals around `Server`.

Exit codes: 0 after a drain, 1 when the server cannot run (a port in use, say), 2 for a wrong flag or
configuration. Errors are one line and a hint on stderr.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import trio

from holdfast_reference.backends.base import BackendError
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.backends.sqlite import SqliteBroker
from holdfast_reference.config import Config, ConfigError, apply_override, load
from holdfast_reference.server import log
from holdfast_reference.server.serve import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_reference.backends.base import Broker

__all__ = ["main"]

_DESCRIPTION = """\
Serve the Holdfast protocol over WebSocket.

The first line on standard output is the URL; the log goes to standard error, one line per event.
Without --config everybody may connect, and may do everything: fine on a laptop, nowhere else.
SIGINT or SIGTERM drains: clients are sent away, and the server ends when they are gone or the deadline
(timers.drain_ms) has come. A second signal ends it at once.
"""
_EPILOG = """\
exit codes: 0 drained, 1 cannot run, 2 wrong flag or configuration
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(2, message, f"see {self.prog} --help")


def _fail(code: int, message: str, hint: str) -> NoReturn:
    print(f"holdfast-server: {message} (hint: {hint})", file=sys.stderr)
    raise SystemExit(code)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="holdfast-server",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", help="address or name to listen on (default: 127.0.0.1)")
    add("--port", type=int, help="port to listen on, 0 for any free one (default: 8765)")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file with tokens, rules, origins, limits, timers and logs",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="one limit or timer, as limits.queue=64",
    )
    add(
        "--origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a browser origin to let in (repeatable)",
    )
    add("--log", metavar="FILE", help="file that keeps the events of channels; without it they are in memory")
    add("--tls-cert", metavar="FILE", help="certificate chain in PEM; turns TLS on")
    add("--tls-key", metavar="FILE", help="its key in PEM, if not in the same file")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info", help="(default: info)")
    add(
        "--conformance",
        action="store_true",
        help="serve the test script, tokens and short timers of the suite",
    )
    return parser


def _configure(arguments: argparse.Namespace) -> Config:
    config = Config() if arguments.config is None else load(arguments.config)
    if arguments.conformance:
        from holdfast_reference import conformance

        config = conformance.configure(config)
    for override in arguments.set:
        config = apply_override(config, override)
    if arguments.port is not None and not 0 <= arguments.port <= 65_535:
        raise ConfigError(f"--port {arguments.port}", "it must be from 0 to 65535")
    given = {
        "host": arguments.host,
        "port": arguments.port,
        "log": arguments.log,
        "tls_cert": arguments.tls_cert,
        "tls_key": arguments.tls_key,
        "origins": frozenset(arguments.origin) or None,
    }
    return replace(config, **{name: value for name, value in given.items() if value is not None})


async def _run(server: Server) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drain_on_signal, server, nursery.cancel_scope)
        serving = await nursery.start(_serve, server, nursery.cancel_scope)
        scheme = "ws" if server.config.tls_cert is None else "wss"
        host, port = serving[0]
        print(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{server.config.path}", flush=True)
        log.event(logging.INFO, "listening", addresses=",".join(f"{host}:{port}" for host, port in serving))


async def _serve(
    server: Server,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[list[tuple[str, int]]],
) -> None:
    await server.serve(task_status=task_status)
    everything.cancel()


async def _drain_on_signal(server: Server, everything: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            await anext(signals)
            everything.cancel()


def _raise_file_limit() -> None:
    """Ask for as many file descriptors as the operator allows; each connection takes one."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _broker(config: Config) -> Broker:
    if config.log is None:
        return MemoryBroker(config.retention)
    try:
        return SqliteBroker(Path(config.log), config.retention)
    except BackendError as error:
        _fail(1, error.message, error.hint)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the server until it is drained."""
    arguments = _parser().parse_args(argv)
    try:
        config = _configure(arguments)
        config.tls_context()
    except ConfigError as error:
        _fail(2, error.message, error.hint)
    log.configure(arguments.log_level)
    _raise_file_limit()
    broker = _broker(config)
    server = Server(config, broker=broker)
    if arguments.conformance:
        from holdfast_reference import conformance

        conformance.register(server)
    try:
        trio.run(_run, server)
    except* KeyboardInterrupt:
        pass  # interrupted before there was anything to drain
    except* OSError as group:
        reason = group.exceptions[0]
        _fail(1, f"cannot listen on {config.host}:{config.port}: {reason}", "choose another --host or --port")
    finally:
        broker.close()
