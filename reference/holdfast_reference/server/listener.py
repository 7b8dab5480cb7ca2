"""Listening sockets: bind, accept, and survive running out of file descriptors."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Final

import trio

from holdfast_reference.server import log

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["accept_forever", "bind"]

_BACKLOG: Final = 4096
_PER_TURN: Final = 64  # connections accepted before others get a turn
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: What `accept` says of the connection that it would have returned (accept(2)), not of the listener.
_OF_THE_CLIENT: Final = frozenset(
    {
        errno.EPERM,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host; port 0 is any free port, the same for all.

    Raises:
        OSError: an address cannot be bound, or the host is unknown.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        raise OSError(f"{host!r} cannot be the name of a host") from None
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port or listeners[0].getsockname()[1], *address[2:]))
            listener.listen(_BACKLOG)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def accept_forever(listener: socket.socket, start: Callable[[socket.socket], None]) -> None:
    """Give every connection that comes in to `start`; ends only by cancellation."""
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            for _ in range(_PER_TURN):
                start(listener.accept()[0])
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            pass
        except OSError as error:
            if error.errno in _OF_THE_CLIENT:
                continue
            if error.errno not in _EXHAUSTED:
                raise
            log.event(logging.ERROR, "cannot accept", reason=error.strerror)
            await trio.sleep(0.1)
