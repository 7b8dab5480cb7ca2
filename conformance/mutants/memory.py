"""The mutant of DEL-11, whose check looks at the memory of a process: so it gets one of its own."""

from __future__ import annotations

from holdfast_reference.protocol.outgoing import Outgoing

from mutants.harness import Patch, mutant


@mutant(
    "del/events-without-bound",
    violates="DEL-11",
    killed_by="del/memory-is-bounded",
    says="the memory grows with every event",
    process=True,
)
def _(patch: Patch) -> None:
    """Every event is kept until the client reads it."""
    patch.set(Outgoing, "_overflow", lambda self: None)
