"""What the end of a connection means for its session: the table of close codes, as far as it concerns that.

Spec: 08-errors, 07-resume [RES-05] [RES-06].
"""

from __future__ import annotations

from typing import Final

__all__ = ["NO_CODE", "NO_FRAME", "keeps"]

NO_CODE: Final = 1005  #: a close frame without a code
NO_FRAME: Final = 1006  #: the stream ended without a close frame

#: These end a session, whoever sent them first; every other end of a connection keeps it.
_ENDING: Final = frozenset(
    {
        *(1000, NO_CODE),
        *(1002, 1003, 1007, 1008, 1009, 1010),  # faults of the WebSocket layer, by RFC 6455
        *(code for code in range(4000, 4100) if code != 4008),
        *(4102, 4103, 4301, 4501),
    }
)


def keeps(code: int) -> bool:
    """Whether a session with profile `resume` outlives a connection that ends so."""
    return code not in _ENDING
