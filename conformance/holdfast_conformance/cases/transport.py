"""The WebSocket below: `spec/01-transport.md`."""

from __future__ import annotations

import base64
import json
import zlib

from holdfast_conformance.case import Peer, Session, Test, check
from holdfast_conformance.expect import StalledError
from holdfast_conformance.frames import Opcode, close_payload, encode

SUBPROTOCOL = "holdfast.v1.json"

LARGEST_TRIAL = 1 << 25
"""Bytes of `max_frame` up to which a check fills one message; beyond that it would take too long."""


@check("trn/upgrade-without-subprotocol", covers="TRN-02")
async def upgrade_without_subprotocol(t: Test) -> None:
    """An upgrade request that offers no subprotocol is answered with HTTP status 400."""
    control, _ = await t.handshake(name="good")
    t.equal(control.status, 101, "the status when holdfast.v1.json is offered", requirement="TRN-03")
    response, _ = await t.handshake(name="bad", subprotocols=())
    t.equal(
        response.status, 400, "the HTTP status", hint="look at Sec-WebSocket-Protocol before you answer 101"
    )


@check("trn/upgrade-with-unknown-subprotocols", covers="TRN-02")
async def upgrade_with_unknown_subprotocols(t: Test) -> None:
    """An upgrade request whose subprotocols the server does not speak is answered with HTTP status 400."""
    control, _ = await t.handshake(name="good")
    t.equal(control.status, 101, "the status when holdfast.v1.json is offered", requirement="TRN-03")
    nonsense = f"x{t.random.getrandbits(32):08x}"
    for offered in (
        (nonsense,),
        (nonsense, f"{nonsense}.json"),
        (f"{SUBPROTOCOL}.{nonsense}",),
        ("holdfast",),
    ):
        response, _ = await t.handshake(name="bad", subprotocols=offered)
        what = f"the HTTP status for {', '.join(offered)}"
        t.equal(response.status, 400, what, hint="compare the whole name; a prefix is another protocol")


@check("trn/known-subprotocol-among-others", covers="TRN-03")
async def known_subprotocol_among_others(t: Test) -> None:
    """When several subprotocols are offered, the server accepts and names the one that it speaks."""
    one, two = (f"x{t.random.getrandbits(32):08x}" for _ in range(2))
    for offered in ((SUBPROTOCOL, one), (one, SUBPROTOCOL, two), (one, two, SUBPROTOCOL)):
        response, peer = await t.handshake(subprotocols=offered)
        t.equal(response.status, 101, f"the HTTP status for {', '.join(offered)}")
        assert peer is not None
        t.equal(peer.subprotocol, SUBPROTOCOL, f"the subprotocol named for {', '.join(offered)}")


@check("trn/subprotocols-in-two-headers", covers="TRN-03")
async def subprotocols_in_two_headers(t: Test) -> None:
    """Subprotocols offered in two header lines count like those in one."""
    endpoint = t.bench.endpoint
    unknown = f"x{t.random.getrandbits(32):08x}"
    for first, second in ((unknown, SUBPROTOCOL), (SUBPROTOCOL, unknown)):
        lines = [
            f"GET {endpoint.path} HTTP/1.1",
            f"Host: {endpoint.host}:{endpoint.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(t.random.randbytes(16)).decode()}",
            f"Sec-WebSocket-Protocol: {first}",
            f"Sec-WebSocket-Protocol: {second}",
            *(f"{name}: {value}" for name, value in endpoint.headers),
        ]
        response, _ = await t.handshake(raw="".join(f"{line}\r\n" for line in (*lines, "")).encode())
        hint = "join header lines of one name before you look"
        t.equal(response.status, 101, f"the HTTP status for {first} and then {second}", hint=hint)
        t.equal(response.header("sec-websocket-protocol"), SUBPROTOCOL, "the subprotocol named")


@check("trn/unknown-extension-declined", covers="TRN-04")
async def unknown_extension_declined(t: Test) -> None:
    """An extension that nobody knows is declined, and the upgrade is accepted all the same."""
    offer = f"x-{t.random.getrandbits(32):08x}; level=9"
    response, _ = await t.handshake(headers={"Sec-WebSocket-Extensions": offer})
    t.equal(response.status, 101, "the HTTP status when an unknown extension is offered")
    t.equal(response.header("sec-websocket-extensions"), None, "Sec-WebSocket-Extensions of the answer")


@check("trn/compression-declined", covers="TRN-04")
async def compression_declined(t: Test) -> None:
    """The extension permessage-deflate is declined."""
    response, _ = await t.handshake(headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
    t.equal(response.status, 101, "the HTTP status when permessage-deflate is offered")
    hint = "turn compression off in the WebSocket library, unless the operator of this server asked for it"
    t.equal(
        response.header("sec-websocket-extensions"), None, "Sec-WebSocket-Extensions of the answer", hint=hint
    )


@check("trn/inflated-size-counts", covers=["TRN-05", "TRN-08"], needs=["session"])
async def inflated_size_counts(t: Test) -> None:
    """With permessage-deflate in use, a message is measured as it is after inflating."""
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_no_context_takeover"}
    for excess in (0, 1):
        _, peer = await t.handshake(name="too large" if excess else "exact", headers=offer)
        if peer is None or not peer.response.header("sec-websocket-extensions"):
            raise t.not_applicable("the server declined permessage-deflate")
        await peer.send(t.hello())
        welcome = await peer.receives("welcome")
        limits = welcome["limits"]
        assert isinstance(limits, dict)
        await peer.send_frame(Opcode.TEXT, deflated(filled(int(limits["max_frame"]) + excess)), rsv=4)
        if excess:
            await t.closes(peer, 1009, hint="bound the output of the inflater, not its input")
        else:
            await t.must(peer.receives("pong", t="filled"), requirement="TRN-08")


@check("trn/exact-size-in-many-fragments", covers="TRN-08", needs=["session"])
async def exact_size_in_many_fragments(t: Test) -> None:
    """A message of exactly `max_frame` bytes in many fragments, with a WebSocket ping inside, is accepted."""
    session = await t.session()
    whole = filled(limit_of_frames(t, session), "ψ")
    cuts = sorted(t.random.randrange(1, len(whole)) for _ in range(40))
    parts = [b"", *(whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)), b""]
    payload = t.random.randbytes(8)
    frames = [encode(Opcode.CONTINUATION, part, fin=False) for part in parts]
    frames[0] = encode(Opcode.TEXT, parts[0], fin=False)
    frames[-1] = encode(Opcode.CONTINUATION, parts[-1])
    frames.insert(len(frames) // 2, encode(Opcode.PING, payload))
    await session.pipeline(*frames)
    await t.must(
        session.receives("pong", t="filled"), hint="count the bytes of the whole message, headers aside"
    )
    await t.until(session, lambda: payload in session.pongs, "the WebSocket pong", requirement="TRN-14")


@check("trn/larger-in-small-fragments", covers="TRN-07", needs=["session"])
async def larger_in_small_fragments(t: Test) -> None:
    """A message above `max_frame` closes with 1009 when each of its fragments is small."""
    good = await t.session(name="exact")
    size = limit_of_frames(t, good)
    await good.send_fragments(filled(size), 32)
    await t.must(good.receives("pong", t="filled"), requirement="TRN-08")
    bad = await t.session(name="too large")
    await bad.send_fragments(filled(size + 1), 32)
    await t.closes(bad, 1009, hint="add up the fragments of a message")


@check("trn/larger-twice-as-large", covers="TRN-07", needs=["session"])
async def larger_twice_as_large(t: Test) -> None:
    """A message of twice `max_frame` closes with 1009, and the close frame gets through."""
    session = await t.session()
    await session.send_text(filled(2 * limit_of_frames(t, session)).decode())
    hint = (
        "read on, and throw away, until the client's close frame: unread bytes turn your goodbye into a reset"
    )
    await t.closes(session, 1009, hint=hint)


@check("trn/many-fragments", covers=["TRN-18", "TRN-08"], needs=["session"])
async def many_fragments(t: Test) -> None:
    """A message in 1024 fragments is accepted, and one in 4096 is accepted or closes with 1008."""
    session = await t.session()
    await session.send_fragments(filled(4000), 1024)
    await t.must(session.receives("pong", t="filled"), requirement="TRN-08")
    await session.send_fragments(filled(4000), 4096)
    answer = await session.receives("pong", t="filled").wait_or_close()
    if answer is None:
        await t.closes(session, 1008, requirement="TRN-08")
    t.note(f"a message in 4096 fragments is {'refused' if answer is None else 'accepted'}")


@check("trn/hello-of-65536-bytes-in-fragments", covers="TRN-09", needs=["session"])
async def hello_of_65536_bytes_in_fragments(t: Test) -> None:
    """A hello of 65536 bytes, most of them in characters of two bytes, in fragments, is welcomed."""
    peer = await t.connect()
    await peer.send_fragments(padded_hello(t, 65536), 7)
    await t.must(peer.receives("welcome"), hint="before welcome the limit is 65536 bytes, not your max_frame")


@check("trn/first-message-beyond-65536-bytes", covers=["TRN-10", "SES-06"], needs=["session"])
async def first_message_beyond_65536_bytes(t: Test) -> None:
    """A hello far beyond 65536 bytes is either welcomed or closes with 1009, and is never left unanswered."""
    peer = await t.connect()
    await peer.send_fragments(padded_hello(t, 200_000), 1)
    answer = await t.reply(
        peer, requirement="SES-06", hint="refuse a large first message aloud: close with 1009"
    )
    if answer is None:
        await t.closes(peer, 1009, requirement="SES-06")
    else:
        t.equal(answer.type, "welcome", "the type of the answer", frame=answer, requirement="SES-06")
    t.note(f"a hello of 200000 bytes is {'refused' if answer is None else 'welcomed'}")


@check("trn/invalid-utf8-in-hello", covers="TRN-11", needs=["session"])
async def invalid_utf8_in_hello(t: Test) -> None:
    """A first message that is not UTF-8 closes with 1007, also when fragments hide where it goes wrong."""
    good = await t.connect(name="good")
    hello = padded_hello(t, 1000)
    place = hello.index("ψ".encode()) + 1  # inside a character
    await good.pipeline(
        encode(Opcode.TEXT, hello[:place], fin=False), encode(Opcode.CONTINUATION, hello[place:])
    )
    await t.must(
        good.receives("welcome"), requirement="SES-06", hint="decode the whole message, not each fragment"
    )
    bad = await t.connect(name="bad")
    broken = encode(Opcode.CONTINUATION, b"(" + hello[place + 1 :])
    await bad.pipeline(encode(Opcode.TEXT, hello[:place], fin=False), broken)
    await t.closes(bad, 1007)


@check("trn/binary-hello", covers="TRN-12", needs=["session"])
async def binary_hello(t: Test) -> None:
    """A good hello in a binary message closes with 1003, in one piece or in fragments."""
    hello = padded_hello(t, 400)
    good = await t.connect(name="good")
    await good.send_text(hello.decode())
    await t.must(good.receives("welcome"), requirement="SES-06")
    bad = await t.connect(name="bad")
    await bad.send_bytes(hello)
    await t.closes(bad, 1003, hint="look at the opcode: text is 1, binary is 2")
    pieces = await t.connect(name="in pieces")
    await pieces.pipeline(encode(Opcode.BINARY, hello[:9], fin=False), encode(Opcode.CONTINUATION, hello[9:]))
    await t.closes(pieces, 1003, hint="the first fragment's opcode is that of the message")


@check("trn/empty-binary-message", covers="TRN-12", needs=["session"])
async def empty_binary_message(t: Test) -> None:
    """An empty binary message closes with 1003 like any other."""
    session = await t.session()
    await t.alive(session)
    await session.send_bytes(b"")
    await t.closes(session, 1003)


@check("trn/broken-frame-before-hello", covers="TRN-13")
async def broken_frame_before_hello(t: Test) -> None:
    """A WebSocket frame that breaks RFC 6455 closes with 1002 before hello, too."""
    for what, raw in {
        "an unmasked frame": encode(Opcode.PING, b"abc", masked=False),
        "a reserved bit": encode(Opcode.PING, b"abc", rsv=2),
        "an unknown opcode": encode(11, b"abc"),
        "a fragmented ping": encode(Opcode.PING, b"abc", fin=False),
        "a ping of 126 bytes": encode(Opcode.PING, b"a" * 126),
        "a stray continuation": encode(Opcode.CONTINUATION, b"{}"),
    }.items():
        peer = await t.connect(name=what)
        await pinged(t, peer, 4)
        await peer.send_raw_bytes(raw)
        await t.closes(peer, 1002)


@check("trn/broken-close-frame", covers="TRN-13", needs=["session"])
async def broken_close_frame(t: Test) -> None:
    """A close frame with a payload of one byte closes with 1002."""
    session = await t.session()
    await t.alive(session)
    await session.send_frame(Opcode.CLOSE, b"\x03")
    await t.closes(session, 1002, hint="a close frame has no payload, or a code of two bytes first")


@check("trn/length-with-the-highest-bit", covers=["TRN-13", "TRN-07"], needs=["session"])
async def length_with_the_highest_bit(t: Test) -> None:
    """A WebSocket frame that announces 2^63 bytes or more is refused at its header."""
    session = await t.session()
    await t.alive(session)
    await session.pipeline(encode(Opcode.TEXT, b"{", declared_length=1 << 63))
    await t.closes(
        session, 1002, 1009, hint="the highest bit of a 64-bit length is always 0; wait for no such frame"
    )


@check("trn/ping-answered-before-hello", covers="TRN-14")
async def ping_answered_before_hello(t: Test) -> None:
    """A WebSocket ping is answered with a pong of the same payload before hello."""
    peer = await t.connect()
    for size in (0, 1, 125):
        await pinged(t, peer, size)


@check("trn/ping-answered", covers="TRN-14", needs=["session"])
async def ping_answered(t: Test) -> None:
    """A WebSocket ping is answered with a pong of the same payload, whatever else goes on."""
    session = await t.session()
    for size in (0, 1, 125):
        await pinged(t, session, size)
    payload = t.random.randbytes(20)
    text = b'{"type":"ping","t":"after"}'
    await session.pipeline(
        encode(Opcode.TEXT, text[:9], fin=False),
        encode(Opcode.PING, payload),
        encode(Opcode.CONTINUATION, text[9:]),
    )
    await t.until(session, lambda: payload in session.pongs, "the pong for a ping between two fragments")
    await t.must(session.receives("pong", t="after"), requirement="SES-34")


@check("trn/unsolicited-websocket-pong", covers="TRN-13", needs=["session"])
async def unsolicited_websocket_pong(t: Test) -> None:
    """A WebSocket pong that nothing asked for is no fault; a fragmented one is."""
    session = await t.session()
    await session.send_frame(Opcode.PONG, t.random.randbytes(5))
    await t.alive(session, hint="RFC 6455 allows pongs at any time, as a heartbeat in one direction")
    await session.send_frame(Opcode.PONG, t.random.randbytes(5), fin=False)
    await t.closes(session, 1002)


@check("trn/message-in-any-segments", covers="TRN-20", needs=["session"])
async def message_in_any_segments(t: Test) -> None:
    """Messages that arrive in pieces, cut through headers and characters, are read like any others."""
    # Few pieces: each is a write of its own, and hello has to be complete within the target's hello timeout.
    peer = await t.connect()
    await peer.send_split(t.hello(), size=16)
    await t.must(peer.receives("welcome"), hint="keep what is incomplete until the rest has arrived")
    await peer.send_split({"type": "ping", "t": "ψ" * 5}, size=3)
    await t.must(peer.receives("pong", t="ψ" * 5))
    await peer.send_split({"type": "ping"}, size=1)
    await t.must(peer.receives("pong"))


@check("trn/many-messages-in-one-segment", covers="TRN-20", needs=["session"])
async def many_messages_in_one_segment(t: Test) -> None:
    """Many messages that arrive at once are all read, and a cut one among them is completed."""
    session = await t.session()
    session.answer_heartbeats = False  # an automatic pong would land in the middle of the cut frame
    marks = [f"{t.random.getrandbits(32):08x}" for _ in range(20)]
    pings = [encode(Opcode.TEXT, f'{{"type":"ping","t":"{mark}"}}'.encode()) for mark in marks]
    together = b"".join(pings)
    cut = len(together) - t.random.randrange(1, len(pings[-1]))
    await session.send_raw_bytes(together[:cut])
    for mark in marks[:-1]:
        await t.must(
            session.receives("pong", t=mark), hint="after one message look for the next in what you have read"
        )
    await session.send_raw_bytes(together[cut:])
    await t.must(session.receives("pong", t=marks[-1]))


@check("trn/one-message-for-each-frame", covers="TRN-06", needs=["rpc", "method:echo"])
async def one_message_for_each_frame(t: Test) -> None:
    """Answers that are ready at the same time, and large ones, come as one text message each."""
    alice = await t.session("alice")
    count = min(20, alice.limit("max_inflight"))
    calls = [alice.frame("request", method=t.method("echo"), data=t.payload()) for _ in range(count)]
    await alice.pipeline(*calls, *({"type": "ping", "t": f"mark {n}"} for n in range(5)))
    for call in calls:
        await t.must(
            alice.exchange(call).result(data=call["data"]), hint="never join frames into one message"
        )
    for n in range(5):
        await t.must(alice.receives("pong", t=f"mark {n}"))
    large = "x" * (min(alice.limit("max_frame"), 1 << 20) - 200)
    await t.must((await alice.start("request", method=t.method("echo"), data=large)).result(data=large))


@check("trn/close-answered-before-hello", covers="TRN-15")
async def close_answered_before_hello(t: Test) -> None:
    """The client's close frame is answered with a close frame before hello, whatever its code."""
    for code in (1000, 1001, 3000 + t.random.randrange(1000), None):
        peer = await t.connect(name=f"close {code}")
        await peer.close(code)
        await t.closes(peer)


@check("trn/close-answered", covers="TRN-15", needs=["session"])
async def close_answered(t: Test) -> None:
    """The client's close frame is answered with a close frame, and the TCP connection ends after it."""
    for code, reason in ((1000, ""), (1001, "ψ" * 61), (None, "")):
        session = await t.session(name=f"close {code}")
        await session.close(code, reason)
        await t.closes(session, hint="answer the close frame before you drop the connection")
        await t.ends(session)


@check("trn/close-answered-amid-work", covers="TRN-15", needs=["rpc", "pubsub", "script:hold"])
async def close_answered_amid_work(t: Test) -> None:
    """The client's close frame is answered at once while a request runs and a subscription is open."""
    alice = await t.session("alice")
    await alice.subscribe(t.channel())
    await alice.run(["hold", 60000])
    await t.alive(alice)
    await alice.close(1000)
    await t.closes(alice, hint="do not wait for running work; the session is over")


@check("trn/reserved-codes-not-returned", covers=["TRN-16", "TRN-15"])
async def reserved_codes_not_returned(t: Test) -> None:
    """A client's close frame with a code that may not be sent gets an answer with a code that may."""
    for code in (1005, 1006, 1015):
        peer = await t.connect(name=f"close {code}")
        await peer.close(code)
        await t.closes(peer, hint="never copy a code that must not be on the wire; answer with 1002")


@check("trn/silent-after-close", covers="TRN-17", needs=["session"])
async def silent_after_close(t: Test) -> None:
    """After its own close frame the server sends nothing, whatever arrived together with the cause."""
    session = await t.session()
    await t.alive(session)
    session.answer_close = False
    await session.pipeline("[]", *({"type": "ping", "t": f"late {n}"} for n in range(5)))
    await t.closes(session, 4001, requirement="ENV-06")
    await session.pipeline(*({"type": "ping", "t": f"later {n}"} for n in range(5)))
    await session.send_frame(Opcode.CLOSE, close_payload(4001))
    await t.ends(session, requirement="TRN-15")
    hint = "stop the writer with the close frame; drop what is still queued"
    t.equal(session.after_close.hex(), "", "what followed the close frame", hint=hint)


@check("trn/connection-kept-after-close", covers="TRN-19", needs=["session"], slow=True)
async def connection_kept_after_close(t: Test) -> None:
    """After its close frame the server keeps the TCP connection for a second, or until the client's."""
    session = await t.session()
    session.answer_close = False
    await session.send_text("[]")
    await t.closes(session, 4001, requirement="ENV-06")
    closed = t.now()
    await t.sit_out(0.8, "most of the second that the connection stays")
    if t.now() > closed + 0.95:
        raise StalledError
    hint = "a client that reads late, or still sends, gets a reset in place of the close frame"
    t.that(not session.finished.is_set(), "the TCP connection ended right behind the close frame", hint=hint)
    await session.send_frame(Opcode.CLOSE, close_payload(4001))
    await t.ends(session)


@check("trn/silent-after-answering-close", covers="TRN-17", needs=["rpc", "method:echo"])
async def silent_after_answering_close(t: Test) -> None:
    """Requests that stand right before the client's close frame are not answered after the server's."""
    alice = await t.session("alice")
    await alice.request(t.method("echo"), data=t.payload())
    calls = [alice.frame("request", method=t.method("echo"), data=t.payload()) for _ in range(10)]
    await alice.pipeline(*calls, encode(Opcode.CLOSE, close_payload(1000)))
    await t.closes(alice, requirement="TRN-15")
    await t.ends(alice, requirement="TRN-15")
    t.equal(alice.after_close.hex(), "", "what followed the close frame")


def filled(size: int, character: str = "x") -> bytes:
    """Return a ping with `t` = `filled` that has exactly `size` bytes."""
    room = size - len(b'{"type":"ping","t":"filled","pad":""}')
    width = len(character.encode())
    return (
        b'{"type":"ping","t":"filled","pad":"'
        + character.encode() * (room // width)
        + b"x" * (room % width)
        + b'"}'
    )


def limit_of_frames(t: Test, session: Session) -> int:
    """Return `max_frame`, if a message can reasonably be that large."""
    size = session.limit("max_frame")
    if size > LARGEST_TRIAL:
        raise t.unverified(f"a message of {size} bytes is too much; run the server with a max_frame of 1 MiB")
    return size


def padded_hello(t: Test, size: int) -> bytes:
    """Return a good hello of exactly `size` bytes, padded with two-byte characters in an unknown member."""
    head = json.dumps(t.hello(), separators=(",", ":"))[:-1] + ',"pad":"'
    room = size - len(head) - len('"}')
    return head.encode() + "ψ".encode() * (room // 2) + b"x" * (room % 2) + b'"}'


def deflated(text: bytes) -> bytes:
    """Return the payload of a message with permessage-deflate (RFC 7692) without context takeover."""
    deflate = zlib.compressobj(wbits=-15)
    return (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def pinged(t: Test, peer: Peer, size: int) -> None:
    """Send a WebSocket ping with `size` random bytes and assert that its pong comes."""
    payload = t.random.randbytes(size)
    await peer.send_frame(Opcode.PING, payload)
    what = f"a WebSocket pong with the {size} bytes of the ping"
    await t.until(peer, lambda: payload in peer.pongs, what, requirement="TRN-14")
