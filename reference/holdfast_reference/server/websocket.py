"""The server's side of RFC 6455 after the handshake: bytes to messages, messages to bytes.

Sans-I/O. A `Reader` takes bytes as they come and gives messages one by one, so that its owner may stop
between two of them; what it knows is which close code a fault has. It bounds memory itself: a message above
`max_size` is refused at the header that makes it so, before its bytes are read.

The masks are removed by the C function of the `websockets` package; its frame classes are not used, because
one object per frame and a generator per read cost more time than all the rest of a request.

Spec: 01-transport [TRN-07] [TRN-08] [TRN-11] to [TRN-16] [TRN-20].
"""

from __future__ import annotations

from typing import Final, NamedTuple

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # C where it is built; not declared

__all__ = ["Closed", "Fault", "Pinged", "Reader", "close_frame", "pong_frame", "text_header"]

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN, _RESERVED, _MASK = 0x80, 0x70, 0x80
_MAX_CONTROL: Final = 125
#: Codes that a peer may put into a close frame, below 3000.
_WIRE_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
_NO_CODE: Final = frozenset({1004, 1005, 1006, 1015})


class Pinged(NamedTuple):
    """A WebSocket ping; `pong_frame(payload)` answers it."""

    payload: bytes


class Closed(NamedTuple):
    """The peer's close frame; `code` is None when it names none."""

    code: int | None


class Fault(NamedTuple):
    """The peer broke a rule that has this close code; nothing more is read."""

    code: int
    detail: str


class Reader:
    """Takes messages out of a stream of masked frames.

    `max_size` bounds one message in bytes and may be changed at any time.
    """

    __slots__ = ("_buffer", "_message", "_needed", "_opcode", "_position", "max_size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._needed = 0  # bytes that the buffer must hold before another look is worth it
        self._opcode = 0  # of the message whose fragments are being collected, 0 for none
        self._message = bytearray()  # its fragments so far

    def feed(self, data: bytes) -> None:
        """Take in bytes of the peer."""
        buffer = self._buffer
        if self._position == len(buffer):
            self._buffer = data
        elif isinstance(buffer, bytearray):
            del buffer[: self._position]
            buffer += data
        else:
            # A frame that comes in many pieces is gathered in place, in linear time.
            self._buffer = bytearray(buffer[self._position :])
            self._buffer += data
        self._position = 0

    def next(self) -> bytes | Pinged | Closed | Fault | None:
        """The next message, or None when more bytes are needed; pongs are passed over.

        A text message comes as its bytes, known to be UTF-8.
        """
        while True:
            buffer = self._buffer
            at = self._position
            have = len(buffer) - at
            if have < 2 or have < self._needed:
                return None
            first, second = buffer[at], buffer[at + 1]
            size = second & 0x7F
            start = at + 6
            if size > _MAX_CONTROL:
                wide = 2 if size == 126 else 8
                if have < 2 + wide:
                    return None
                start += wide
                size = int.from_bytes(buffer[at + 2 : at + 2 + wide], "big")
                if size < (126 if wide == 2 else 65_536):
                    return Fault(1002, "a length is not written in the shortest way")
            plain = first == _FIN | _TEXT and second & _MASK and not self._opcode and size <= self.max_size
            if not plain and (fault := self._check(first, second, size)) is not None:
                return fault
            stop = start + size
            if stop > len(buffer):
                self._needed = stop - at
                return None
            self._needed = 0
            payload = apply_mask(buffer[start:stop], buffer[start - 4 : start]) if size else b""
            if stop == len(buffer):
                self._buffer = b""
                self._position = 0
            else:
                self._position = stop
            if plain:
                return payload if payload.isascii() or _is_utf8(payload) else Fault(1007, "text is not UTF-8")
            message = self._control(first & 0xF, payload) if first & 0x8 else self._fragment(first, payload)
            if message is not None:
                return message

    def _check(self, first: int, second: int, size: int) -> Fault | None:
        opcode = first & 0xF
        if not second & _MASK:
            return Fault(1002, "a frame is not masked")
        if first & _RESERVED:
            return Fault(1002, "a reserved bit is set")
        if opcode & 0x8:
            if opcode > _PONG:
                return Fault(1002, "unknown opcode")
            if not first & _FIN or size > _MAX_CONTROL:
                return Fault(1002, "a control frame is fragmented or too long")
            return None
        if opcode > _BINARY:
            return Fault(1002, "unknown opcode")
        if (opcode == _CONTINUATION) != (self._opcode != 0):
            return Fault(1002, "a fragment is missing")
        if len(self._message) + size > self.max_size:
            return Fault(1009, "message too big")
        return None

    def _control(self, opcode: int, payload: bytes) -> Pinged | Closed | Fault | None:
        if opcode == _PING:
            return Pinged(payload)
        if opcode == _PONG:
            return None
        if not payload:
            return Closed(None)
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (code in _WIRE_CODES or 3000 <= code < 5000):
            return Fault(1002, "a close frame has no good code")
        if not _is_utf8(payload[2:]):
            return Fault(1007, "the reason of a close frame is not UTF-8")
        return Closed(code)

    def _fragment(self, first: int, payload: bytes) -> bytes | Fault | None:
        """Collect the parts of one message, or take a whole binary one."""
        if first & 0xF != _CONTINUATION:
            self._opcode = first & 0xF
        self._message += payload
        if not first & _FIN:
            return None
        message, opcode = bytes(self._message), self._opcode
        self._message, self._opcode = bytearray(), 0
        if opcode == _BINARY:
            return Fault(1003, "a binary message")
        return message if _is_utf8(message) else Fault(1007, "text is not UTF-8")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _header(opcode: int, size: int) -> bytes:
    if size < 126:
        return bytes((_FIN | opcode, size))
    if size < 65_536:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big")


_SHORT: Final = [_header(_TEXT, size) for size in range(1024)]


def text_header(size: int) -> bytes:
    """What stands before a text message of `size` bytes."""
    return _SHORT[size] if size < 1024 else _header(_TEXT, size)


def pong_frame(payload: bytes) -> bytes:
    return _header(_PONG, len(payload)) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; codes that must not stand in one are left out. Spec: [TRN-16]."""
    if code in _NO_CODE:
        return _header(_CLOSE, 0)
    payload = code.to_bytes(2, "big") + reason.encode()[: _MAX_CONTROL - 2]
    return _header(_CLOSE, len(payload)) + payload
