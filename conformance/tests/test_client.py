"""The raw peer: what it writes byte by byte, what it makes of what it reads, what it answers by itself."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from holdfast_conformance.ambient import Ambient
from holdfast_conformance.client import Peer, Response
from holdfast_conformance.clock import Clock
from holdfast_conformance.expect import AuthorError, Failure
from holdfast_conformance.frames import Opcode, encode
from holdfast_conformance.journal import Journal
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.frame_protocol import FrameDecoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENT = 5


class Server:
    """The other end: wsproto in the role of a server, over one end of a pair of memory streams."""

    def __init__(self, stream: trio.testing.MemoryReceiveStream | trio.abc.Stream) -> None:
        self.stream = stream
        self.parser = Connection(ConnectionType.SERVER)
        self.waiting: deque[Event] = deque()

    async def send(self, event: Event) -> None:
        """Send one event to the peer."""
        assert isinstance(self.stream, trio.abc.Stream)
        await self.stream.send_all(self.parser.send(event))

    async def next(self) -> Event:
        """Return the next event of the peer."""
        assert isinstance(self.stream, trio.abc.Stream)
        while not self.waiting:
            self.parser.receive_data(bytes(await self.stream.receive_some(65536)))
            self.waiting += self.parser.events()
        return self.waiting.popleft()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Peer, Server, Ambient]]:
    """Provide a peer, the server at its other end, and the ledger of its watch."""
    ours, theirs = trio.testing.memory_stream_pair()
    ambient, journal = Ambient(), Journal()
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENT):
            peer = Peer(
                "peer",
                ours,
                Response(101, ()),
                trailing=b"",
                clock=Clock(),
                journal=journal,
                watch=ambient.watch("env/made-up", journal, str),
                nursery=nursery,
            )
            yield peer, Server(theirs), ambient
        nursery.cancel_scope.cancel()


async def test_objects_are_sent_compact_and_validated() -> None:
    """An object goes out in the most compact spelling; one that breaks its schema is the author's mistake."""
    async with connected() as (peer, server, _):
        await peer.send({"type": "ping", "t": "ψ"})
        event = await server.next()
        assert isinstance(event, TextMessage)
        assert event.data == '{"type":"ping","t":"ψ"}'
        with pytest.raises(AuthorError, match="breaks its schema"):
            await peer.send({"type": "ping", "t": 5})
        await peer.send({"type": "ping", "t": 5}, malformed=True)
        assert isinstance(await server.next(), TextMessage)


async def test_a_pipeline_is_one_write() -> None:
    """Several messages go out in one piece."""
    async with connected() as (peer, server, _):
        await peer.pipeline({"type": "ping"}, '{"type":"pong"}', encode(Opcode.PING, b"x"))
        assert isinstance(server.stream, trio.abc.Stream)
        server.parser.receive_data(bytes(await server.stream.receive_some(65536)))
        assert [type(event) for event in server.parser.events()] == [TextMessage, TextMessage, Ping]


async def test_fragments_may_cut_characters() -> None:
    """A message in fragments arrives whole, whatever the cuts hit."""
    async with connected() as (peer, server, _):
        await peer.send_fragments('{"type":"ping","t":"ψψψ"}', 25)
        parts = []
        while True:
            event = await server.next()
            assert isinstance(event, TextMessage)
            parts.append(event.data)
            if event.message_finished:
                break
        assert "".join(parts) == '{"type":"ping","t":"ψψψ"}'


async def test_split_writes_are_not_torn_by_answers() -> None:
    """A pong that falls due while a frame goes out byte by byte comes behind it."""
    async with connected() as (peer, server, _), trio.open_nursery() as nursery:
        nursery.start_soon(peer.send_split, {"type": "ping", "t": "x" * 50})
        await server.send(Ping(b"now"))
        text, pong = "", None
        while pong is None or not text.endswith("}"):
            event = await server.next()
            if isinstance(event, TextMessage):
                text += event.data
            else:
                pong = event
        assert (type(pong), text) == (Pong, '{"type":"ping","t":"' + "x" * 50 + '"}')


async def test_a_send_ends_when_the_stream_has_taken_it() -> None:
    """While an answer of the peer is stuck, a later send is stuck as well, and both go out in their order."""
    async with connected() as (peer, server, _):
        assert isinstance(server.stream, trio.StapledStream)
        gate, sent = trio.Event(), trio.Event()

        assert isinstance(peer._stream, trio.StapledStream)
        sender = peer._stream.send_stream
        assert isinstance(sender, trio.testing.MemorySendStream)
        deliver = sender.send_all_hook
        assert deliver is not None

        async def deliver_late() -> None:
            await gate.wait()
            await deliver()

        sender.send_all_hook = deliver_late

        async def send() -> None:
            await peer.send({"type": "ping"})
            sent.set()

        async with trio.open_nursery() as nursery:
            await server.send(Ping(b"stuck"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert not sent.is_set()
            gate.set()
            await sent.wait()
        assert [type(await server.next()) for _ in range(2)] == [Pong, TextMessage]


@pytest.mark.parametrize(
    ("fields", "first"),
    [({"fin": False}, 0x01), ({"rsv": 4}, 0xC1), ({"rsv": 1}, 0x91), ({"masked": False}, 0x81)],
)
async def test_any_header_can_be_written(fields: dict[str, int], first: int) -> None:
    """Bits that a good client never sets are set when asked for."""
    async with connected() as (peer, server, _):
        await peer.send_frame(Opcode.TEXT, b"{}", **fields)  # type: ignore[arg-type]  # bools and an int
        assert isinstance(server.stream, trio.abc.Stream)
        data = await server.stream.receive_some(100)
        assert data[0] == first
        assert bool(data[1] & 0x80) is fields.get("masked", True)


def test_encode_writes_every_length_form() -> None:
    """Payloads of every length come back from an independent parser; a declared length may lie."""
    for size in (0, 125, 126, 65535, 65536):
        decoder = FrameDecoder(client=False)
        decoder.receive_bytes(encode(Opcode.BINARY, b"x" * size))
        frame = decoder.process_buffer()
        assert frame is not None
        assert frame.payload == b"x" * size
    lie = encode(Opcode.TEXT, b"ab", declared_length=1 << 40, masked=False)
    assert lie[1:10] == b"\x7f" + (1 << 40).to_bytes(8, "big")


async def test_pings_and_heartbeats_are_answered_unless_told_otherwise() -> None:
    """WebSocket pings and Holdfast pings get their pongs; each can be turned off."""
    async with connected() as (peer, server, _):
        await server.send(Ping(b"a"))
        assert isinstance(await server.next(), Pong)
        await server.send(Message('{"type":"ping","t":"b"}'))
        event = await server.next()
        assert isinstance(event, TextMessage)
        assert event.data == '{"type":"pong","t":"b"}'
        peer.answer_pings = peer.answer_heartbeats = False
        await server.send(Ping(b"c"))
        await server.send(Message('{"type":"ping","t":"d"}'))
        await peer.receives("ping", t="d")
        await peer.send({"type": "ping"})
        assert isinstance(await server.next(), TextMessage)  # ours, and nothing before it
        assert not server.waiting


async def test_expectations_match_what_came_before_them_and_take_it_once() -> None:
    """A frame that arrived early still counts, and counts once."""
    async with connected() as (peer, server, _):
        await server.send(Message('{"type":"pong","t":"x"}'))
        await server.send(Message('{"type":"pong","t":"x"}'))
        first = await peer.receives("pong", t="x")
        second = await peer.receives("pong", t="x")
        assert first is not second
        assert peer.find("pong") == [first, second]


async def test_the_end_of_the_connection_fails_expectations_at_once() -> None:
    """Nothing is waited for on a connection that has ended, and how it ended is said."""
    async with connected() as (peer, server, _):
        await server.send(CloseConnection(code=4003, reason="bad_id"))
        with pytest.raises(Failure, match=r"was closed with 4003 \(bad_id\) instead"):
            await peer.receives("pong")
        assert isinstance(await server.next(), CloseConnection)  # answered
        assert (peer.closure.code, peer.closure.how) == (4003, "frame")  # type: ignore[union-attr]  # it is there


async def test_what_follows_a_close_frame_is_kept_and_judged() -> None:
    """Bytes behind the close frame, in the same segment or a later one, break TRN-17."""
    close, message = b"\x88\x02\x03\xe8", b"\x81\x02{}"
    for data in ([close + message], [close, message]):
        async with connected() as (peer, server, ambient):
            assert isinstance(server.stream, trio.abc.Stream)
            for piece in data:
                await server.stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            assert peer.after_close
            assert "trn/nothing-after-close" in ambient.violations


async def test_control_frames_behind_a_close_frame_are_no_messages() -> None:
    """A pong that was under way when the server closed is no message, in however many pieces."""
    pong = b"\x8a\x7e\x00\x80" + b"x" * 128
    async with connected() as (peer, server, ambient):
        assert isinstance(server.stream, trio.abc.Stream)
        for piece in (b"\x88\x02\x03\xe8" + pong[:3], pong[3:50], pong[50:] + b"\x89\x00"):
            await server.stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        assert not peer.after_close
        assert ambient.violations == {}


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ('{"type":"pong","type":"pong"}', True),
        ('{"type":"pong","meta":{"a.b":[{"c":1,"c":2}]}}', True),
        ('{"type":"pong","data":{"a":1,"a":2}}', False),
        ('{"type":"pong","meta":{"a.b":1}}', False),
    ],
)
async def test_names_that_occur_twice(text: str, broken: bool) -> None:
    """A name that stands twice is the server's fault in the envelope, and not inside `data`."""
    async with connected() as (peer, server, ambient):
        await server.send(Message(text))
        await peer.receives("pong")
        assert ("env/no-duplicate-names" in ambient.violations) is broken


@pytest.mark.parametrize("garbage", [b"\x81\x85hello", b"\x83\x00", b"\x81\x02\xff\xff", b"HTTP/1.1 400"])
async def test_garbage_ends_the_connection_as_such(garbage: bytes) -> None:
    """Bytes that are no WebSocket frame for a client are named, not raised."""
    async with connected() as (peer, server, ambient):
        assert isinstance(server.stream, trio.abc.Stream)
        await server.stream.send_all(garbage)
        closure = await peer.wait_closed()
        assert closure.how == "garbage"
        assert "trn/every-message-is-text" in ambient.violations


async def test_no_bytes_are_taken_while_reading_is_paused() -> None:
    """A paused peer leaves everything to the stream and catches up afterwards."""
    async with connected() as (peer, server, _):
        await trio.testing.wait_all_tasks_blocked()
        peer.pause_reading()
        await server.send(Message('{"type":"pong"}'))
        await trio.testing.wait_all_tasks_blocked()
        assert peer.frames == []
        peer.resume_reading()
        await peer.receives("pong")


async def test_an_aborted_connection_ends_for_both() -> None:
    """Abort cuts the stream; the peer knows that it did so itself."""
    async with connected() as (peer, server, _):
        await peer.abort()
        assert str(peer.closure) == "closed by the suite"
        assert isinstance(server.stream, trio.abc.Stream)
        with pytest.raises(trio.BrokenResourceError):
            await server.stream.send_all(b"x")
