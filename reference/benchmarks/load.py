"""The load: connections on plain sockets, and frames that were built before the clock started.

To cost less than the servers it measures it builds and parses no frame while the clock runs. Ids and counters
have a fixed number of digits, so all answers to one connection are equally long: an answer is counted by its
length and recognised by its first bytes; the last one of every connection and run is compared whole.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: holdfast.v1.json\r\n\r\n"
)
READ_BYTES = 16384
PATIENCE_SECONDS = 30.0
FIRST_ID = 100_001
"""Ids have six digits: enough for every run, and holes below them are fine."""
MASK = os.urandom(4)


class WrongAnswer(Exception):
    """A server answered something else than it was asked for."""


def masked(message: dict[str, object]) -> bytes:
    """One masked text frame of at most 65,535 bytes."""
    payload = json.dumps(message, separators=(",", ":")).encode()
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    key = (MASK * (size // 4 + 1))[:size]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return b"\x81" + length + MASK + body


@dataclass
class Link:
    """One connection after hello and welcome.

    Attributes:
        size: length of each coming frame in bytes, header included.
        head: the bytes with which each of them starts.
        count: how many whole frames came.
        rest: what came of the next one.
    """

    sock: socket.socket
    size: int = 0
    head: bytes = b""
    count: int = 0
    rest: bytes = b""
    last: bytes = field(default=b"", repr=False)

    def expect(self, first: bytes, until: bytes) -> None:
        """Take the frame `first` as the pattern of all that follow: they are equal as far as `until`."""
        if until not in first:
            raise WrongAnswer(f"no {until!r} in {first!r}")
        self.size, self.count = len(first), 0
        self.head = first[: first.index(until) + len(until)]

    def read(self) -> int:
        """Take what has come; return the number of frames that it completes."""
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise WrongAnswer("the server closed the connection")
        if self.rest:
            data = self.rest + data
        done, left = divmod(len(data), self.size)
        if data.count(self.head) < done or not data.startswith(self.head[: len(data)]):
            raise WrongAnswer(f"not {done} frames that start with {self.head!r}: {data[:400]!r}")
        self.rest = data[-left:] if left else b""
        if done:
            self.last = data[(done - 1) * self.size : done * self.size]
            self.count += done
        return done

    def unbounded(self) -> None:
        """Let reads and writes wait for ever: with a timeout each of them would be two system calls."""
        self.sock.settimeout(None)

    def payload(self) -> dict[str, object]:
        """The last whole frame, parsed."""
        return parsed(self.last)

    def receive_frame(self) -> bytes:
        """Wait for one whole frame of at most 65,535 bytes and take it (not while the clock runs)."""
        data = self.rest
        while True:
            if len(data) >= 4:
                size = 2 + data[1] if data[1] < 126 else 4 + int.from_bytes(data[2:4], "big")
                if len(data) >= size:
                    self.rest = data[size:]
                    return data[:size]
            more = self.sock.recv(READ_BYTES)
            if not more:
                raise WrongAnswer(f"the server closed the connection after {data!r}")
            data += more


def parsed(frame: bytes) -> dict[str, object]:
    """The JSON object in an unmasked text frame."""
    value: dict[str, object] = json.loads(frame[2 if frame[1] < 126 else 4 :])
    return value


def connect(port: int, *profiles: str) -> Link:
    """Open a connection: upgrade, hello, welcome; `profiles` beside `rpc` and `pubsub`."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HANDSHAKE)
    response = b""
    while b"\r\n\r\n" not in response:
        more = sock.recv(READ_BYTES)
        if not more:
            raise WrongAnswer(f"the server refused the upgrade: {response!r}")
        response += more
    head, rest = response.split(b"\r\n\r\n", 1)
    if not head.startswith(b"HTTP/1.1 101"):
        raise WrongAnswer(f"the server refused the upgrade: {head!r}")
    link = Link(sock, rest=rest)
    hello: dict[str, object] = {
        "type": "hello",
        "profiles": ["rpc", "pubsub", *profiles],
        "auth": {"scheme": "bearer", "token": "tok-alice"},
    }
    sock.sendall(masked(hello))
    link.last = link.receive_frame()
    welcome = link.payload()
    agreed = welcome.get("profiles", [])
    if welcome["type"] != "welcome" or not isinstance(agreed, list) or not set(profiles).issubset(agreed):
        raise WrongAnswer(f"no welcome, or not for {profiles}: {welcome}")
    return link


@dataclass(frozen=True)
class Sample:
    """One measured stretch.

    Attributes:
        messages: answers or deliveries counted.
        server_us: processor time of the server for each of them, in microseconds.
        load_us: the same for the load; the clock ran for `wall_us`.
    """

    messages: int
    server_us: float
    load_us: float
    wall_us: float


def measured(server_cpu: Callable[[], float], work: Callable[[], int]) -> Sample:
    """Run `work`, which returns how many messages it counted, and read all clocks around it."""
    load, wall, server = time.process_time(), time.perf_counter(), server_cpu()
    messages = work()
    server, wall, load = server_cpu() - server, time.perf_counter() - wall, time.process_time() - load
    return Sample(messages, *(round(spent * 1e6 / messages, 3) for spent in (server, load, wall)))


class Requests:
    """Request and response on many connections at a time."""

    def __init__(self, port: int, connections: int, total: int) -> None:
        """Connect, and build `total` requests; every connection sends all of them, under ids of its own."""
        frames = [masked(self.request(FIRST_ID + i)) for i in range(total)]
        self.step = len(frames[0])
        self.frames = memoryview(b"".join(frames))
        self.links = [connect(port) for _ in range(connections)]
        for link in self.links:
            link.sock.sendall(self.frames[: self.step])
            link.expect(link.receive_frame(), b'"id":')
            link.unbounded()
        self.sent = 1

    @staticmethod
    def request(number: int) -> dict[str, object]:
        data = {"text": "x" * 100, "n": number, "ok": True, "to": ["room/7", None]}
        return {"type": "request", "id": number, "method": "conf.echo", "data": data}

    def run(self, each: int, in_flight: int) -> int:
        """Have every connection send and get `each` more, `in_flight` at once; return how many came in all.

        A connection that has all its answers waits for the others. Sending the next request as soon as one
        answer is there would let the load's own speed decide how many a server finds in one read.
        """
        first, last = self.sent, self.sent + each
        if len(self.frames) < last * self.step or each % in_flight:
            raise ValueError("not enough frames were built, or not a multiple of those in flight")
        for link in self.links:
            link.count = 0
        for start in range(first, last, in_flight):
            batch = self.frames[start * self.step : (start + in_flight) * self.step]
            for link in self.links:
                link.sock.sendall(batch)
            for link in reversed(self.links):
                while link.count < start - first + in_flight:
                    link.read()
        self.sent = last
        self.verify(last - 1)
        return each * len(self.links)

    def verify(self, index: int) -> None:
        """The last answer of every connection is the one to its request `index`."""
        asked = self.request(FIRST_ID + index)
        for link in self.links:
            if link.payload() != {"type": "result", "id": asked["id"], "data": asked["data"]}:
                raise WrongAnswer(f"{link.payload()} is no answer to {asked}")


class Deliveries:
    """One channel: what is published is delivered to every subscriber."""

    #: What the subscribers negotiate beside `rpc` and `pubsub`.
    profiles: tuple[str, ...] = ()
    #: As far as this all frames of a subscriber are equal.
    until = b'"data":'

    def __init__(self, port: int, subscribers: int, total: int) -> None:
        """Connect and subscribe, and build `total` publishes."""
        self.frames = [masked(self.publish(i)) for i in range(total)]
        self.sent = 0
        self.publisher = connect(port)
        self.links = [connect(port, *self.profiles) for _ in range(subscribers)]
        for number, link in enumerate(self.links, FIRST_ID):
            link.sock.sendall(masked({"type": "subscribe", "id": number, "channel": "bench/1"}))
            opened = parsed(link.receive_frame())
            if (opened["type"], opened["id"]) != ("open", number):
                raise WrongAnswer(f"not subscribed: {opened}")
        self.begin()
        for link in (self.publisher, *self.links):
            link.unbounded()

    def begin(self) -> None:
        """Publish once; what comes is the pattern of all that follows."""
        self.publisher.sock.sendall(self.frames[self.sent])
        for link in self.links:
            link.expect(link.receive_frame(), self.until)
        self.publisher.expect(self.publisher.receive_frame(), b'"id":')
        self.sent += 1

    @staticmethod
    def publish(index: int) -> dict[str, object]:
        data = {"text": "x" * 100, "n": FIRST_ID + index, "ok": True, "to": ["room/7", None]}
        return {"type": "publish", "id": FIRST_ID + index, "channel": "bench/1", "data": data}

    def run(self, publishes: int, in_flight: int) -> int:
        """Publish, with `in_flight` not yet delivered to everybody; return the number of deliveries."""
        for link in (self.publisher, *self.links):
            link.count = 0
        first, last = self.sent, self.sent + publishes
        complete, on_the_way = 0, min(in_flight, publishes)
        self.send(first, first + on_the_way)
        while complete < publishes:
            # The subscriber that is served last is read first: waiting for it once is cheaper, for the server
            # too, than to be woken for every single event.
            for link in reversed(self.links):
                while link.count <= complete:
                    link.read()
            complete = min(link.count for link in self.links)
            self.delivered(complete)
            more = min(complete + in_flight, publishes)
            self.send(first + on_the_way, first + more)
            on_the_way = more
        while self.publisher.count < publishes:
            self.publisher.read()
        self.sent = last
        self.verify(last - 1)
        return publishes * len(self.links)

    def send(self, start: int, stop: int) -> None:
        if stop > start:
            self.publisher.sock.sendall(b"".join(self.frames[start:stop]))

    def delivered(self, complete: int) -> None:
        """So many publishes of this run are delivered to everybody."""

    def verify(self, index: int) -> None:
        """Every subscriber's last event is publish `index`, under its own id."""
        data = self.publish(index)["data"]
        for number, link in enumerate(self.links, FIRST_ID):
            extra = ("channel", "cursor", "seq")
            event = {key: value for key, value in link.payload().items() if key not in extra}
            if event != {"type": "event", "id": number, "data": data}:
                raise WrongAnswer(f"{event} is not publish {index}")


class AckedDeliveries(Deliveries):
    """The same with `ack` and `resume`: every frame has a number, and subscribers acknowledge them.

    They do so every 64 frames: at the pace of these runs at least as often as `window` and `ack_delay_ms` ask
    for. Numbers have four digits from the first run on, as all frames must be equally long.
    """

    profiles = ("ack", "resume")
    until = b'"seq":'
    every = 64
    first, last = 1000, 9999

    def __init__(self, port: int, subscribers: int, total: int) -> None:
        self.acked = 0
        self.run_from = 0  # number of the last frame before this run
        super().__init__(port, subscribers, self.first - 2 + total)

    def begin(self) -> None:
        """Publish until numbers have four digits."""
        for number in range(2, self.first):  # `open` was 1
            self.publisher.sock.sendall(self.frames[self.sent])
            for link in self.links:
                link.receive_frame()
            self.publisher.receive_frame()
            self.sent += 1
            self.run_from = number
            self.delivered(0)
        super().begin()
        self.run_from += 1

    def run(self, publishes: int, in_flight: int) -> int:
        if self.run_from + publishes > self.last:
            raise ValueError("numbers would become longer")
        deliveries = super().run(publishes, in_flight)
        self.run_from += publishes
        return deliveries

    def delivered(self, complete: int) -> None:
        number = self.run_from + complete
        if number - self.acked >= self.every:
            self.acked = number
            ack = masked({"type": "ack", "seq": number})
            for link in self.links:
                link.sock.sendall(ack)
