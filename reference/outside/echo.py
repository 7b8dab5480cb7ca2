"""The server with a core that echoes: what an outside judge of WebSocket servers can talk to.

Everything else is the real one: listener, HTTP head, frame reader and writer, backpressure, closing.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from holdfast_reference.config import Config
from holdfast_reference.protocol import Timers
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.states import Phase
from holdfast_reference.server.handshake import Policy, upgrade
from holdfast_reference.server.link import Link, Owner
from holdfast_reference.server.serve import Server
from holdfast_reference.server.websocket import Reader

if TYPE_CHECKING:
    from holdfast_reference.backends.base import Upgrade
    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.server.transport import Transport

__all__ = ["MAX_MESSAGE", "EchoServer"]

MAX_MESSAGE: Final = 16 * 2**20  # bytes
MAX_WAITING: Final = 64  # echoes that may wait before reading stops
UNHURRIED: Final = Timers(hello_ms=3_600_000)  # nobody says hello here


class _Echo(Connection):
    """A core that answers every message with itself."""

    __slots__ = ("_texts",)

    def __init__(self, owner: Owner, conn: str, now: float) -> None:
        super().__init__(owner.core, conn, "", now)
        self._texts: deque[bytes] = deque()

    @property
    def max_message(self) -> int:
        return MAX_MESSAGE

    @property
    def pending(self) -> bool:
        return bool(self._texts)

    def may_read(self) -> bool:
        return self.phase is not Phase.CLOSED and len(self._texts) < MAX_WAITING

    def receive(self, text: bytes, now: float) -> Effects:
        if self.phase is not Phase.CLOSED:
            self._texts.append(text)
        return NOTHING

    def peek(self, size: int) -> list[bytes]:
        return list(self._texts)

    def written(self, count: int, now: float) -> None:
        for _ in range(count):
            self._texts.popleft()


class _EchoLink(Link):
    """A connection around the echo instead of the protocol."""

    __slots__ = ()

    def __init__(self, owner: Owner, transport: Transport, upgrade: Upgrade, conn: str) -> None:
        super().__init__(owner, transport, upgrade, conn)
        self.core = _Echo(owner, conn, trio.current_time())
        self._reader = Reader(self.core.max_message)


class EchoServer(Server):
    """Listens on a free port of 127.0.0.1; a broken connection is told on standard error."""

    def __init__(self) -> None:
        super().__init__(Config(port=0, timers=UNHURRIED))

    async def serve_transport(self, transport: Transport, *, secure: bool = False) -> None:
        try:
            accepted = await upgrade(transport, Policy("/", None, secure, None))
            if accepted is not None:
                await _EchoLink(self, transport, accepted[0], "echo").run(accepted[1])
        except* OSError as group:
            print(f"a connection broke: {group.exceptions[0]}", file=sys.stderr)
        finally:
            transport.close()
