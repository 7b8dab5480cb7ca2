"""The server on trio: sockets, HTTP, WebSocket, and the tasks that drive the core."""

from holdfast_reference.server.methods import Call
from holdfast_reference.server.serve import Server

__all__ = ["Call", "Server"]
