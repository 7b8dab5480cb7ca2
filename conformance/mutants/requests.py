"""Mutants of spec/04-requests.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.protocol.connection import Connection

from mutants.harness import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Callable


@mutant(
    "rpc/cancel-without-terminal",
    violates="RPC-06",
    killed_by="rpc/cancel-ends-request",
    says="nothing of the kind came",
)
def _(patch: Patch) -> None:
    """A cancelled exchange just stops."""

    def end(original: Callable[..., None], self: Connection, id: int, text: bytes) -> None:
        pass

    patch.wrap(Connection, "_end", end)
