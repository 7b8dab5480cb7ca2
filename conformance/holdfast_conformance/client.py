"""The raw peer: one WebSocket connection to the target that sends any bytes and helps nobody.

The handshake is h11's, what the server sends is parsed by wsproto, what we send is written by `frames`. A
peer works on any `trio.abc.Stream`. It keeps everything it received, in order, with the time; it answers
WebSocket pings, the close handshake and Holdfast heartbeats, each of which can be turned off. It knows JSON
and the type of a frame, and nothing else of the protocol: judging belongs to the checks and to `ambient`.
"""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from wsproto import frame_protocol
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from .expect import AuthorError, Expectation, Frame, contains
from .frames import Opcode, close_payload, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsproto.extensions import Extension

    from .ambient import Watch
    from .clock import Clock
    from .journal import Journal

__all__ = ["Closure", "Peer", "Response", "dumps"]

# wsproto takes codes for garbage that were registered after RFC 6455, such as 1014. Which codes a server may
# send is for the ambient rules to judge.
frame_protocol.MAX_PROTOCOL_CLOSE_REASON = frame_protocol.MIN_CLOSE_REASON - 1

FREE = ("ack", "pong", "auth")
"""Types that no rate limit counts [LIM-12]."""

FLOOD_BYTES, FLOOD_FRAMES = 256 << 20, 400_000
"""What one connection may bring before we stop reading a target that does not stop writing."""


@dataclass(frozen=True, slots=True)
class Response:
    """The target's answer to a handshake; `headers` have lower-case names."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the value of the first header of that name (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Closure:
    """How a connection ended, seen from our end.

    `code` is that of the target's close frame: 1005 when the frame had none, None when no close frame came.
    `how` is `frame`, `eof`, `reset`, `garbage` (not WebSocket) or `local` (we let go).
    """

    how: str
    code: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        match self.how:
            case "frame":
                return f"closed with {self.code}" + (f" ({self.reason})" if self.reason else "")
            case "eof":
                return "ended without a close frame"
            case "reset":
                return "reset"
            case "garbage":
                return f"unreadable ({self.reason})"
        return "closed by the suite"


class Twice(dict[str, object]):
    """An object in which a name stood twice; the last one counts."""


class Peer:
    """One open WebSocket connection, owned by the check.

    Attributes:
        name: how the timeline calls it.
        frames: every message received so far, oldest first.
        closure: how the connection ended, None while it lives.
        left_at: when its end began: we said goodbye, or it was over. None while nothing of the kind happened.
        pongs: payloads of the WebSocket pongs received.
        finished: set once the stream itself is over, which may be later than `closure`.
        after_close: messages that followed the target's close frame, in bytes.
        answer_pings, answer_close, answer_heartbeats: set to False to leave the target without an answer.
    """

    def __init__(
        self,
        name: str,
        stream: trio.abc.Stream,
        response: Response,
        *,
        trailing: bytes,
        clock: Clock,
        journal: Journal,
        watch: Watch,
        nursery: trio.Nursery,
    ) -> None:
        self.name = name
        self.response = response
        self.clock = clock
        self.frames: list[Frame] = []
        self.closure: Closure | None = None
        self.left_at: float | None = None
        self.finished = trio.Event()
        self.pongs: list[bytes] = []
        self.after_close = bytearray()
        self.expectations: list[Expectation] = []
        self.answer_pings = True
        self.answer_close = True
        self.answer_heartbeats = True
        self.last_received = trio.current_time()
        self._journal = journal
        self._watch = watch
        self._nursery = nursery
        self._stream = stream
        self._extensions = _extensions(response)
        self._parser = Connection(ConnectionType.CLIENT, self._extensions, trailing)
        self._arrivals = trio.lowlevel.ParkingLot()
        self._received_bytes = 0
        self._following = bytearray()
        self._twice = False
        self._decode = json.JSONDecoder(object_pairs_hook=self._members, parse_constant=_no_constant).decode
        self._text_parts: list[str] = []
        self._pending: list[bytes] = []
        self._writing = False
        self._torn = False
        self._queued = self._taken = 0
        self._written = trio.lowlevel.ParkingLot()
        self._reading = trio.Event()
        self._reading.set()
        self._read_scope: trio.CancelScope | None = None
        self._chunk, self._pace = 65536, 0.0
        nursery.start_soon(self._read)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the target selected."""
        return self.response.header("sec-websocket-protocol")

    # Expecting

    def receives(self, type: str, **fields: object) -> Expectation:
        """Expect a frame of this type whose members contain `fields` (objects are compared member by
        member).
        """
        shown = f'"{type}"' + (f" with {dumps(fields)}" if fields else "")
        return Expectation(
            self, f"{shown} at {self.name}", lambda frame: frame.type == type and contains(frame.body, fields)
        )

    def receives_any(self) -> Expectation:
        """Expect any message but the target's own heartbeat `ping`; with `t.must_not`: expect silence."""
        return Expectation(self, f"a message at {self.name}", lambda frame: frame.type != "ping")

    def find(self, type: str) -> list[Frame]:
        """Return every frame of this type received so far, whether an expectation took it or not."""
        return [frame for frame in self.frames if frame.type == type]

    # Sending

    async def send(self, frame: Mapping[str, object], *, malformed: bool = False) -> None:
        """Send one object as a text message.

        Args:
            frame: the object; must satisfy the schema of its type.
            malformed: the frame is meant to break its schema, so it is not validated.
        """
        await self.pipeline(frame, malformed=malformed)

    async def send_text(self, text: str) -> None:
        """Send one text message exactly as given; lone surrogates are not possible, write them as escapes."""
        await self._keep_rate(1)
        await self._write(self._text(text))

    async def send_bytes(self, payload: bytes) -> None:
        """Send one binary message."""
        await self.send_frame(Opcode.BINARY, payload)

    async def send_frame(
        self,
        opcode: int,
        payload: bytes,
        *,
        fin: bool = True,
        rsv: int = 0,
        masked: bool = True,
        declared_length: int | None = None,
    ) -> None:
        """Send one WebSocket frame with any header; see `frames.encode`."""
        raw = encode(opcode, payload, fin=fin, rsv=rsv, masked=masked, declared_length=declared_length)
        await self._keep_rate(1 if opcode < 8 and fin else 0)
        self._note_sent(opcode, payload, fin)
        await self._write(raw)

    async def send_fragments(self, text: str | bytes, pieces: int) -> None:
        """Send one text message as `pieces` WebSocket frames of nearly equal size; characters may be cut in
        two.
        """
        payload = text.encode() if isinstance(text, str) else text
        self._journal.add(self.name, "→", payload.decode("utf-8", "replace") + f"  (in {pieces} fragments)")
        self._watch.sent(payload.decode("utf-8", "replace"))
        await self._keep_rate(1)
        cuts = [len(payload) * i // pieces for i in range(pieces + 1)]
        await self._write(
            b"".join(
                encode(
                    Opcode.CONTINUATION if i else Opcode.TEXT,
                    payload[cuts[i] : cuts[i + 1]],
                    fin=i == pieces - 1,
                )
                for i in range(pieces)
            )
        )

    async def send_raw_bytes(self, data: bytes) -> None:
        """Write bytes to the connection as they are, without any framing."""
        self._journal.add(self.name, "→", data)
        self._watch.sent_raw()
        await self._write(data)

    async def pipeline(self, *frames: Mapping[str, object] | str | bytes, malformed: bool = False) -> None:
        """Send several frames in one write, so that they share TCP segments where they fit.

        Args:
            frames: objects (validated unless `malformed`), text messages, or ready bytes of `frames.encode`.
        """
        await self._keep_rate(sum(not isinstance(f, dict) or f.get("type") not in FREE for f in frames))
        out = bytearray()
        for frame in frames:
            if isinstance(frame, bytes):
                self._journal.add(self.name, "→", frame)
                self._watch.sent_raw()
                out += frame
            elif isinstance(frame, str):
                out += self._text(frame)
            else:
                if not malformed and (fault := self._watch.fault_of_ours(frame)):
                    raise AuthorError(
                        f"the check sends a {frame.get('type')!r} frame that breaks its schema: {fault}"
                    )
                out += self._text(dumps(frame))
        await self._write(bytes(out))

    async def send_split(self, frame: Mapping[str, object] | str, size: int = 1) -> None:
        """Send one text message in separate writes of `size` bytes each, cutting through the WebSocket header
        too.
        """
        await self._keep_rate(1)
        text = frame if isinstance(frame, str) else dumps(frame)
        await self._write(self._text(text), size)

    # The connection itself

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a close frame; the target's answer ends up in `closure`."""
        self._leaves()
        await self.send_frame(Opcode.CLOSE, close_payload(code, reason))

    async def half_close(self) -> None:
        """Close our sending direction (FIN) and keep reading."""
        self._leaves()
        self._journal.add(self.name, "·", "half-closed")
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            raise AuthorError("half_close needs a stream without TLS")
        while self._writing:
            await self._written.park()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the target may be gone already
            await self._stream.send_eof()

    async def abort(self) -> None:
        """Cut the connection without any goodbye: a reset on TCP."""
        self._journal.add(self.name, "·", "aborted")
        stream = self._stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        if isinstance(stream, trio.SocketStream) and stream.socket.fileno() >= 0:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end(Closure("local"))
        await trio.aclose_forcefully(stream)

    async def leave(self) -> None:
        """Say goodbye without waiting for an answer and let go of the connection; what every check ends
        with.
        """
        if self.closure is None and not self._writing and not self._torn:
            with trio.move_on_after(0.2):
                await self._write(encode(Opcode.CLOSE, close_payload(1000)))
        self._end(Closure("local"))
        await trio.aclose_forcefully(self._stream)

    def pause_reading(self) -> None:
        """Stop taking bytes from the socket, so that the target's writes back up."""
        self._journal.add(self.name, "·", "stops reading")
        self._watch.not_reading()
        self._reading = trio.Event()
        if self._read_scope is not None:
            self._read_scope.cancel()

    def resume_reading(self) -> None:
        """Take bytes again after `pause_reading`."""
        self._journal.add(self.name, "·", "reads again")
        self._reading.set()

    def throttle(self, chunk: int, every: float) -> None:
        """Read at most `chunk` bytes every `every` seconds; `throttle(65536, 0)` is full speed."""
        self._chunk, self._pace = chunk, every
        self._watch.not_reading()

    async def arrival(self) -> None:
        """Wait until something new was received or the connection ended."""
        await self._arrivals.park()

    async def wait_closed(self) -> Closure:
        """Wait, without a limit, until the connection has ended, and say how."""
        while self.closure is None:
            await self.arrival()
        return self.closure

    # Inside

    async def _keep_rate(self, frames: int) -> None:
        """Wait until so many frames may be sent; a peer that knows of no limit does not wait."""

    def _is_news(self, frame: Frame) -> bool:
        """Take note of a frame; False when it was received before and must not be handled again."""
        return True

    def _text(self, text: str) -> bytes:
        self._journal.add(self.name, "→", text)
        self._watch.sent(text)
        return encode(Opcode.TEXT, text.encode())

    def _note_sent(self, opcode: int, payload: bytes, fin: bool) -> None:
        if opcode == Opcode.TEXT and fin:
            text = payload.decode("utf-8", "replace")
            self._journal.add(self.name, "→", text)
            self._watch.sent(text)
        elif opcode == Opcode.CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) > 1 else None
            self._watch.sent_close(code)
            self._journal.add(self.name, "→", f"close {code if code is not None else '(no code)'}")
        else:
            known = opcode in Opcode._value2member_map_
            if opcode not in (Opcode.PING, Opcode.PONG, Opcode.BINARY):
                self._watch.sent_raw()
            name = Opcode(opcode).name.lower() if known else f"opcode {opcode}"
            self._journal.add(
                self.name, "→", f"{name} {payload[:40].hex(' ')} ({len(payload)} bytes, fin={fin})"
            )

    async def _write(self, data: bytes, size: int | None = None) -> None:
        """Write bytes and return when the stream has taken them.

        When another task is writing it takes them along, so that frames never interleave. A target that is
        gone is not an error here: the reader finds out how it left.

        Args:
            size: bytes of each write; None means as many as possible.
        """
        if self._torn and not self._writing:
            return
        self._pending += [data] if size is None else [data[i : i + size] for i in range(0, len(data), size)]
        self._queued += len(data)
        if self._writing:
            upto = self._queued
            while self._writing and self._taken < upto:
                await self._written.park()
            return
        self._writing = True
        self._torn = True  # until the write went through: after half a frame nothing sensible can follow
        try:
            while self._pending:
                chunk = b"".join(self._pending) if size is None else self._pending[0]
                del self._pending[: None if size is None else 1]
                await self._stream.send_all(chunk)
                self._taken += len(chunk)
                self._written.unpark_all()
            self._torn = False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._pending.clear()
        finally:
            self._writing = False
            self._written.unpark_all()

    async def _read(self) -> None:
        self._parse()
        over = False
        while not over:
            await self._reading.wait()
            data = None
            try:
                with trio.CancelScope() as self._read_scope:
                    data = await self._stream.receive_some(self._chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                over = True
                self._end(Closure("reset" if isinstance(error, trio.BrokenResourceError) else "local"))
            if data == b"":
                over = True
                self._end(Closure("eof"))
            elif data:
                self._digest(bytes(data))
                over = self.closure is not None and self.closure.how == "garbage"
            if self._pace:
                await trio.sleep(self._pace)
        self.finished.set()
        self._arrivals.unpark_all()

    def _digest(self, data: bytes) -> None:
        self.last_received = trio.current_time()
        self._received_bytes += len(data)
        if self._received_bytes > FLOOD_BYTES or len(self.frames) > FLOOD_FRAMES:
            self._end(Closure("garbage", reason=f"a flood of {self._received_bytes >> 20} MiB"))
        elif self._parser.state is ConnectionState.OPEN:
            self._parser.receive_data(data)
            self._parse()
            if self.closure is not None and self.closure.how == "frame":
                # The parser keeps quiet about what stands behind the close frame in this segment.
                code = None if self.closure.code == 1005 else self.closure.code
                close = encode(Opcode.CLOSE, close_payload(code, self.closure.reason), masked=False)
                self._follow_close(data.partition(close)[2])
        else:
            self._follow_close(data)

    def _follow_close(self, data: bytes) -> None:
        """Keep what follows the close frame, but for control frames, which are no messages [TRN-17]."""
        self._following += data
        while len(self._following) > 1:
            opcode, size = self._following[0] & 15, self._following[1] & 127
            extended = {126: 2, 127: 8}.get(size, 0)
            if extended:
                size = int.from_bytes(self._following[2 : 2 + extended], "big")
            if opcode < Opcode.CLOSE:
                message = bytes(self._following)
                self.after_close += message
                self._watch.after_close(self._journal.add(self.name, "←", message))
                self._following.clear()
            elif len(self._following) < 2 + extended + size:
                return
            del self._following[: 2 + extended + size]

    def _parse(self) -> None:
        for event in self._parser.events():
            if (
                self.closure is not None and self.closure.how == "frame"
            ):  # in one segment with the close frame
                self.after_close += repr(event).encode()
                self._watch.after_close(self._journal.add(self.name, "←", repr(event)))
                continue
            match event:
                case TextMessage():
                    self._text_parts.append(event.data)
                    if event.message_finished:
                        text = "".join(self._text_parts)
                        self._text_parts.clear()
                        self._received(text)
                case BytesMessage():
                    self._watch.received_binary(self._journal.add(self.name, "←", bytes(event.data)))
                case Ping():
                    if self.answer_pings:
                        self._nursery.start_soon(self._write, encode(Opcode.PONG, bytes(event.payload)))
                case Pong():
                    self.pongs.append(bytes(event.payload))
                case CloseConnection():
                    self._close_received(event)
        self._arrivals.unpark_all()

    def _received(self, text: str) -> None:
        entry = self._journal.add(self.name, "←", text)
        try:
            value = self._decode(text)
        except (ValueError, RecursionError) as error:
            self._watch.received_garbage(entry, f"not JSON: {error}")
            value = None
        body = value if isinstance(value, dict) else {}
        if self._twice:
            self._twice = False
            self._watch.received_twice(entry, body)
        frame = Frame(trio.current_time(), text, body, entry)
        self._watch.received(frame)
        if self._is_news(frame):
            self.frames.append(frame)
        if frame.type == "ping" and self.answer_heartbeats:
            pong = {"type": "pong"} | ({"t": body["t"]} if "t" in body else {})
            self._nursery.start_soon(self.send, pong)

    def _members(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) != len(pairs):
            self._twice = True
            return Twice(value)
        return value

    def _close_received(self, event: CloseConnection) -> None:
        if (
            self._parser.state is ConnectionState.OPEN
        ):  # wsproto reports its own parse failures as a close, too
            entry = self._journal.add(self.name, "·", f"unreadable: {event.reason}")
            self._watch.received_garbage(entry, f"not a WebSocket frame: {event.reason}")
            self._end(Closure("garbage", reason=event.reason or ""))
            return
        entry = self._journal.add(self.name, "←", f"close {event.code} {event.reason or ''}".rstrip())
        self._watch.received_close(entry, int(event.code), event.reason or "")
        self._end(Closure("frame", int(event.code), event.reason or ""))
        if self.answer_close:
            code = None if event.code == 1005 else int(event.code)
            self._nursery.start_soon(self._write, encode(Opcode.CLOSE, close_payload(code)))

    def _leaves(self) -> None:
        if self.left_at is None:
            self.left_at = trio.current_time()

    def _end(self, closure: Closure) -> None:
        self._leaves()
        if self.closure is None:
            self.closure = closure
            if closure.how in ("eof", "reset"):
                self._journal.add(self.name, "·", str(closure))
            self._arrivals.unpark_all()


def dumps(value: object) -> str:
    """Spell a JSON value in the most compact way, non-ASCII characters as they are."""
    return _encode(value)


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _extensions(response: Response) -> list[Extension]:
    """Return the parser's extensions for what the target accepted; only a check can have offered one."""
    accepted = response.header("sec-websocket-extensions")
    if accepted is None or not accepted.startswith("permessage-deflate"):
        return []
    deflate = PerMessageDeflate()
    deflate.finalize(accepted)
    return [deflate]
