"""What a mutant is, and how any target is run in memory under a virtual clock.

A `World` is one reference server without sockets; `judge` runs checks against it (or any other `connect`)
through the suite's front door, so that sanity, calibration, the canary and the ambient rules take part.
"""

from __future__ import annotations

import logging
import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar, cast

import trio
import trio.testing
from holdfast_conformance import collect
from holdfast_conformance.runner import Options, run
from holdfast_conformance.target import Spawn, bundled
from holdfast_reference.config import Config
from holdfast_reference.conformance import configure, register
from holdfast_reference.server.serve import Server
from holdfast_reference.server.transport import MemoryTransport, memory_pair

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence

    from holdfast_conformance.case import Check
    from holdfast_conformance.report import Report
    from holdfast_conformance.target import Target
    from holdfast_reference.server.transport import Transport

    Connect = Callable[[], Awaitable[trio.abc.Stream]]

__all__ = [
    "MUTANTS",
    "Mutant",
    "Patch",
    "World",
    "covering",
    "judge",
    "judge_process",
    "mutant",
    "serve",
    "world",
]

CAPACITY = 262_144
"""Bytes that one direction of a connection in memory holds: the socket buffers of this world."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class Patch:
    """Changes to classes, modules and tables, which `undo` takes back; and to the configuration."""

    config: Callable[[Config], Config] = lambda config: config
    target: Callable[[Target], Target] = lambda target: target
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def set(self, owner: object, name: str, value: object) -> None:
        """Replace an attribute of a class, module or instance."""
        own = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name) if own is _ABSENT else setattr(owner, name, own))

    def wrap(self, owner: object, name: str, around: Callable[..., object]) -> None:
        """Replace a function by `around(original, *args, **kwargs)`."""
        original = getattr(owner, name)

        def replaced(*args: object, **kwargs: object) -> object:
            return around(original, *args, **kwargs)

        self.set(owner, name, replaced)

    def item(self, table: MutableMapping[K, V], key: K, value: V) -> None:
        """Replace or add an entry of a table."""
        old = table.get(key, cast("V", _ABSENT))
        table[key] = value

        def back() -> None:
            if old is _ABSENT:
                del table[key]
            else:
                table[key] = old

        self._undo.append(back)

    def undo(self) -> None:
        """Take every change back."""
        while self._undo:
            self._undo.pop()()


_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Mutant:
    """A server that breaks one requirement, and who must notice.

    Args:
        name: `area/slug`.
        violates: the requirement.
        killed_by: ids of checks, each of which must fail, cite the requirement and say `says`.
        says: a part of their message.
        during: patterns of checks to run besides, so that an ambient rule has something to watch.
        apply: makes the change.
        process: run it as a process of its own over real sockets; for what cannot be seen in memory.
    """

    name: str
    violates: str
    killed_by: tuple[str, ...]
    says: str
    during: tuple[str, ...]
    title: str
    apply: Callable[[Patch], None]
    process: bool = False


MUTANTS: dict[str, Mutant] = {}
"""Every mutant that has been defined, by name."""


def mutant(
    name: str,
    *,
    violates: str,
    killed_by: str | Sequence[str],
    says: str,
    during: Sequence[str] = (),
    process: bool = False,
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Define a mutant; the docstring says what the server does wrong.

    Raises:
        ValueError: the name is taken, or there is no docstring.
    """

    def define(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        title = (apply.__doc__ or "").strip()
        if name in MUTANTS or not title or not says:
            raise ValueError(f"mutant {name!r}: the name is taken, or it lacks a docstring or says=")
        checks = (killed_by,) if isinstance(killed_by, str) else tuple(killed_by)
        MUTANTS[name] = Mutant(name, violates, checks, says, tuple(during), title, apply, process)
        return apply

    return define


@dataclass(slots=True)
class World:
    """A reference server in memory.

    Args:
        config: of the server, conformance fixtures included.
        rewire: gives each connection's transport another, to delay, split or join what passes.
    """

    config: Config = field(default_factory=lambda: configure(Config()))
    rewire: Callable[[MemoryTransport], Transport] | None = None

    async def open(self, nursery: trio.Nursery) -> Connect:
        """Start the server and return how to connect to it."""
        server = Server(self.config)
        register(server)
        await nursery.start(server.run_background)

        async def connect() -> trio.abc.Stream:
            stream, transport = memory_pair(CAPACITY)
            nursery.start_soon(server.serve_transport, self.rewire(transport) if self.rewire else transport)
            await trio.lowlevel.checkpoint()
            return stream

        return connect


@contextmanager
def world(apply: Callable[[Patch], None] | None = None) -> Iterator[tuple[World, Target]]:
    """A world and its target file, patched for the time of the block."""
    patch = Patch()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # a mutant's complaints are of no interest
    try:
        if apply is not None:
            apply(patch)
        yield World(patch.config(configure(Config()))), patch.target(replace(bundled(), spawn=None))
    finally:
        patch.undo()
        logging.disable(level)


def judge(
    checks: Sequence[Check],
    open: Callable[[trio.Nursery], Awaitable[Connect]],
    target: Target,
    *,
    seed: int = 1,
) -> Report:
    """Run checks in memory on a virtual clock."""

    async def main() -> Report:
        async with trio.open_nursery() as nursery:
            connect = await open(nursery)
            report = await run(target, checks=checks, connect=connect, options=Options(seed=seed))
            nursery.cancel_scope.cancel()
        return report

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def judge_process(checks: Sequence[Check], name: str) -> Report:
    """Run checks against a mutant that is a process of its own."""
    command = shlex.join([sys.executable, "-m", "mutants", "--serve", name])
    target = replace(bundled(), spawn=Spawn(command, "url"))

    async def main() -> Report:
        return await run(target, checks=checks, options=Options(seed=1))

    return trio.run(main)


def serve(apply: Callable[[Patch], None]) -> None:
    """Be a mutant: serve on any free port until terminated; the first line printed is the URL."""

    async def main(config: Config) -> None:
        server = Server(replace(config, port=0))
        register(server)
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(server.serve)
            print("ws://{}:{}/".format(*addresses[0]), flush=True)

    with world(apply) as (here, _):
        trio.run(main, here.config)


def covering(requirement: str) -> list[Check]:
    """The checks that claim to cover a requirement."""
    return [check for check in collect.everything() if requirement in check.covers]
