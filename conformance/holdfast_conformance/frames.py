"""RFC 6455 frames as bytes, written by hand so that a check can also write wrong ones.

Only the sending side: what the server sends is parsed by wsproto. Nothing here validates anything.
"""

from __future__ import annotations

import os
from enum import IntEnum

__all__ = ["Opcode", "close_payload", "encode"]


class Opcode(IntEnum):
    """The opcodes that RFC 6455 defines; `encode` takes any integer from 0 to 15."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def encode(
    opcode: int,
    payload: bytes,
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    declared_length: int | None = None,
) -> bytes:
    """Return one WebSocket frame.

    Args:
        opcode: 0 to 15.
        payload: the unmasked payload.
        fin: the FIN bit.
        rsv: the three reserved bits as a number from 0 to 7; 4 is RSV1.
        masked: whether the MASK bit is set and the payload masked, as a client must.
        declared_length: the length written into the header, when it should differ from the payload's.
    """
    length = len(payload) if declared_length is None else declared_length
    mask_bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | (rsv & 7) << 4 | (opcode & 15)])
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 1 << 16:
        head += bytes([mask_bit | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([mask_bit | 127]) + length.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + _xor(payload, key)


def close_payload(code: int | None, reason: str = "") -> bytes:
    """Return the payload of a close frame; `None` gives the empty one."""
    return b"" if code is None else code.to_bytes(2, "big") + reason.encode()


def _xor(payload: bytes, key: bytes) -> bytes:
    """Return `payload` with the 4-byte masking key applied, as one big integer: fast without C code."""
    size = len(payload)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")
