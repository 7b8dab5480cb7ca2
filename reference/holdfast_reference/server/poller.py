"""Who may be read: one task that reads the sockets of all connections.

A task switch per read costs more than reading and answering a request. So plain sockets stand in an epoll
of our own, one task waits for it, and what has arrived is handed to each connection by a call. A
connection's own task sleeps meanwhile, and is woken only when its connection cannot go on by itself: it has
to wait until something is written, or its stream has ended or broken.

Where there is no epoll, connections read in their own tasks.
"""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["READ_SIZE", "Poller"]

READ_SIZE: Final = 65_536  #: bytes per read
_PER_TURN: Final = 256  # connections read before other tasks get a turn


class _Reading:
    """One connection that is being read for."""

    __slots__ = ("data", "error", "socket", "stopped", "take")

    def __init__(self, connected: socket.socket, take: Callable[[bytes], bool]) -> None:
        self.socket = connected
        self.take = take
        self.stopped = trio.Event()
        self.data: bytes | None = None
        self.error: Exception | None = None

    def read(self) -> bool:
        """Take what has arrived; whether to go on."""
        try:
            data = self.socket.recv(READ_SIZE)
            if data and self.take(data):
                return True
            self.data = None if data else b""
        except (BlockingIOError, InterruptedError):
            return True
        except Exception as error:  # whatever it is, it is this connection's own
            self.error = error
        self.stopped.set()
        return False


class Poller:
    """The epoll and the task that waits for it."""

    def __init__(self) -> None:
        self._readings: dict[int, _Reading] = {}
        self._epoll = select.epoll() if sys.platform == "linux" else None

    @property
    def works(self) -> bool:
        """Whether this system has what it takes, and `run` has not ended."""
        return self._epoll is not None and not self._epoll.closed

    async def read(self, connected: socket.socket, take: Callable[[bytes], bool]) -> bytes | None:
        """Read a socket until its connection cannot go on.

        Args:
            connected: non-blocking, and used by nobody else for reading.
            take: called with every piece that arrives, from another task; returns whether to go on. What it
                raises is raised here.

        Returns:
            None when `take` did not go on, b"" at the end of the stream.

        Raises:
            OSError: the stream is broken.
        """
        assert self._epoll is not None
        reading = _Reading(connected, take)
        descriptor = connected.fileno()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._readings[descriptor] = reading
        try:
            await reading.stopped.wait()
        finally:
            self._forget(descriptor)
        if reading.error is not None:
            raise reading.error
        return reading.data

    def _forget(self, descriptor: int) -> None:
        known = self._readings.pop(descriptor, None) is not None
        if known and self._epoll is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Read for everybody, for ever."""
        epoll, readings = self._epoll, self._readings
        if epoll is None:
            return
        try:
            while True:
                await trio.lowlevel.wait_readable(epoll)
                for descriptor, _ in epoll.poll(0, _PER_TURN):
                    # One that was read before in this turn may have ended another.
                    reading = readings.get(descriptor)
                    if reading is not None and not reading.read():
                        self._forget(descriptor)
        finally:
            epoll.close()
