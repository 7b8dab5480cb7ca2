"""Legal variants: servers that do unusual things which the specification allows. None may be blamed.

Each is the reference server with another configuration, another wire, or a patch that stays within the law.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

import trio
from holdfast_conformance import collect
from holdfast_conformance.bench import without
from holdfast_reference.backends import channel_log, memory
from holdfast_reference.backends.channel_log import ChannelLog, Retention
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol import connection as core
from holdfast_reference.protocol import intake, session
from holdfast_reference.protocol.codec import encode_error
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.errors import ExchangeError
from holdfast_reference.protocol.limits import Limits
from holdfast_reference.protocol.outgoing import Outgoing
from holdfast_reference.server.link import Link

from mutants.harness import Patch, judge, world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast_conformance.report import Report
    from holdfast_reference.config import Config
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.server.transport import MemoryTransport, Transport

__all__ = ["VARIANTS", "Variant", "run"]


WIDE: Final = 1 << 22
"""Bytes under way to a server whose wire is slow and not narrow."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A correct server: the reference with a patch and a wire.

    Args:
        floods: whether checks that flood take part; tens of megabytes would take too long here.
    """

    name: str
    title: str
    apply: Callable[[Patch], None] = lambda patch: None
    rewire: Callable[[MemoryTransport], Transport] | None = None
    floods: bool = True


class Slow:
    """A wire with a delay each way, in seconds, drawn between two bounds; order is kept, and bandwidth."""

    def __init__(self, inner: MemoryTransport, least: float, most: float) -> None:
        self._inner = inner
        self._random = random.Random(1)
        self._bounds = least, most
        self.peer = inner.peer
        inner._incoming._capacity = WIDE

    async def recv(self, take: Callable[[bytes], bool] | None = None) -> bytes | None:
        data = await self._inner.recv() or b""
        await trio.sleep(self._random.uniform(*self._bounds))
        # What has come meanwhile comes along, or the wire would be narrow, too; nothing that comes later.
        meanwhile = len(self._inner._incoming._data)
        while meanwhile > 0:
            more = await self._inner.recv() or b""
            meanwhile -= len(more) or meanwhile
            data += more
        return data

    def try_send(self, data: bytes) -> int:
        return self._inner.try_send(data)

    async def wait_writable(self) -> None:
        await self._inner.wait_writable()

    def send_eof(self) -> None:
        self._inner.send_eof()

    def close(self, *, abort: bool = False) -> None:
        self._inner.close(abort=abort)


class Crumbs(Slow):
    """A wire that takes and gives a few bytes at a time, cutting frames and their headers anywhere."""

    def __init__(self, inner: MemoryTransport, most: int) -> None:
        super().__init__(inner, 0, 0)
        self._most = most
        self._rest = b""

    async def recv(self, take: Callable[[bytes], bool] | None = None) -> bytes | None:
        if not self._rest:
            self._rest = await self._inner.recv() or b""
        size = self._random.randint(1, self._most)
        data, self._rest = self._rest[:size], self._rest[size:]
        await trio.lowlevel.checkpoint()
        return data

    def try_send(self, data: bytes) -> int:
        # Now and then little or nothing is taken, as by a socket that is full.
        return self._inner.try_send(data[: self._random.randint(0, self._most * 64)])

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        await self._inner.wait_writable()


def _tiny(patch: Patch) -> None:
    limits = Limits(
        max_frame=4096, max_inflight=2, max_subscriptions=3, queue=4, queue_bytes=8192, window=2,
        window_bytes=4096, ack_delay_ms=20, history_limit=2,
    )  # fmt: skip
    patch.config = lambda config: replace(config, limits=limits)


def _cramped(
    patch: Patch, lower: Callable[[Limits], Limits], *, events: int = 0, profiles: Sequence[str] = ()
) -> None:
    """Low limits for everybody.

    Args:
        lower: changes limits.
        events: the length of a log, 0 for the usual one.
        profiles: what is offered, by default everything.
    """

    def change(config: Config) -> Config:
        tokens = tuple(
            token if token.limits is None else replace(token, limits=lower(token.limits))
            for token in config.tokens
        )
        return replace(
            config,
            tokens=tokens,
            limits=lower(config.limits),
            retention=replace(config.retention, events=events or config.retention.events),
            profiles=frozenset(profiles or config.profiles),
        )

    patch.config = change


def _profiles(*names: str) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        patch.config = lambda config: replace(config, profiles=frozenset(names))

    return apply


def _rung(patch: Patch, *, script: bool, identities: bool) -> None:
    def lower(target):  # type: ignore[no-untyped-def]  # a Target to a Target
        if not script:
            target = replace(target, script_method=None, script_steps=frozenset())
        if not identities:
            target = replace(target, identities={}, channels={}, methods={})
        return target

    patch.target = lower


def _other_texts(patch: Patch) -> None:
    def encode(id: int, error: ExchangeError) -> bytes:
        message = "Да, 但是 \N{SNOWMAN}"
        return encode_error(id, ExchangeError(error.code, message, data=error.data, retry_ms=error.retry_ms))

    for module in (core, intake, session):
        patch.set(module, "encode_error", encode)


def _chatty(patch: Patch) -> None:
    """Every frame of the server has a member, and every pong a frame before it, that nobody knows."""
    note = b',"x.note":{"deep":[1,2,{"type":"error"}]}}'

    def peek(original: Callable[..., list[bytes]], self: Connection, size: int) -> list[bytes]:
        texts = original(self, size)
        roomy = self._max_out - len(note)
        return [text[:-1] + note if len(text) < roomy else text for text in texts]

    def urgent(original: Callable[..., None], self: Outgoing, text: bytes) -> None:
        if text.startswith(b'{"type":"pong"'):
            original(self, b'{"type":"x.tick","n":1}')
        original(self, text)

    patch.wrap(Connection, "peek", peek)
    patch.wrap(Outgoing, "urgent", urgent)


def _no_log(patch: Patch) -> None:
    patch.set(Retention, "keeps", lambda self, channel: False)


def _trims_at_once(patch: Patch) -> None:
    def place(original: Callable[..., None], self: MemoryBroker, event: Event) -> None:
        original(self, event)
        log = self._logs.get(event.channel)
        if log is not None:
            self._bytes -= log.trim()

    patch.wrap(MemoryBroker, "_place", place)


def _cursors_vary(patch: Patch) -> None:
    """No place is called the same twice, as when cursors are encrypted."""
    numbers = count()

    def vary(original: Callable[..., str], *args: object) -> str:
        return f"{original(*args)}.{next(numbers)}"

    def locate(original: Callable[..., int], self: ChannelLog, cursor: str) -> int:
        return original(self, cursor.rpartition(".")[0])

    for module in (channel_log, memory):
        patch.wrap(module, "cursor_of", vary)
    patch.wrap(ChannelLog, "locate", locate)


def _notices_late(patch: Patch) -> None:
    """The end of a stream without a close frame is noticed 150 ms later."""

    async def read(original: Callable[..., Awaitable[None]], self: Link, data: bytes) -> None:
        await original(self, data)
        if not self._peer_closed:
            await trio.sleep(0.15)

    patch.wrap(Link, "_read", read)


def _later(patch: Patch, name: str, hold: Callable[..., Callable[[], None]]) -> None:
    """What `hold` makes of a call of the broker is done 30 ms later, in its order."""
    waiting: deque[tuple[float, Callable[[], None]]] = deque()

    def held(original: Callable[..., None], self: MemoryBroker, *arguments: object) -> None:
        waiting.append((trio.current_time() + 0.03, hold(original, self, *arguments)))

    async def run(original: Callable[..., Awaitable[None]], self: MemoryBroker) -> None:
        while True:
            while waiting and waiting[0][0] <= trio.current_time():
                waiting.popleft()[1]()
            await trio.sleep(0.005)

    patch.wrap(MemoryBroker, name, held)
    patch.wrap(MemoryBroker, "run", run)


def _late_events(patch: Patch) -> None:
    """Events come long after the result of their publish; without a fence nobody can tell."""
    _profiles(*without("fence"))(patch)
    _later(patch, "_deliver", lambda original, self, event: partial(original, self, event))


def _late_results(patch: Patch) -> None:
    """The result of a publish comes long after its event."""

    def publish(
        original: Callable[..., None],
        self: MemoryBroker,
        event: Event,
        dedupe: object = None,
        answer: Callable[..., None] | None = None,
    ) -> Callable[[], None]:
        outcomes: list[object] = []
        original(self, event, dedupe, outcomes.append)
        return lambda: None if answer is None else answer(*outcomes)

    _later(patch, "publish", publish)


_slow = partial(Slow, least=0.2, most=0.2)
_jittery = partial(Slow, least=0, most=0.08)
_near = partial(Slow, least=0.01, most=0.02)

VARIANTS: Final = {
    variant.name: variant
    for variant in (
        Variant("legal/plain", "the reference server as it is"),
        Variant("legal/slow", "200 ms from arrival to reading", rewire=_slow, floods=False),
        Variant("legal/jitter", "0 to 80 ms, drawn for each read", rewire=_jittery),
        Variant(
            "legal/crumbs", "a few bytes at a time both ways", rewire=partial(Crumbs, most=7), floods=False
        ),
        Variant("legal/segments", "frames split and joined at random", rewire=partial(Crumbs, most=4096)),
        Variant("legal/chatty", "unknown members everywhere, and frames of unknown types", _chatty),
        Variant("legal/other-texts", "error messages in other languages", _other_texts),
        Variant("legal/tiny-limits", "the smallest numbers that are of any use", _tiny),
        Variant(
            "legal/one-at-a-time",
            "one frame without an ack, one request at a time, pages of one event",
            partial(_cramped, lower=lambda old: replace(old, window=1, max_inflight=1, history_limit=1)),
        ),
        Variant(
            "legal/queue-of-one",
            "a client that reads loses events, too, and there is no log",
            partial(_cramped, lower=lambda old: replace(old, queue=1, window=1), profiles=without("history")),
        ),
        Variant(
            "legal/forgets",
            "logs of five events, and neither sessions nor keys outlive a round trip",
            partial(_cramped, lower=lambda old: replace(old, resume_ms=1, dedupe_ms=1), events=5),
            rewire=_near,
            floods=False,
        ),
        Variant("legal/no-log", "history, and no channel that has a log", _no_log),
        Variant("legal/trims-at-once", "logs that hold nothing", _trims_at_once),
        Variant("legal/cursors-vary", "another cursor for a place each time", _cursors_vary),
        Variant("legal/notices-late", "lost connections are noticed late", _notices_late),
        Variant("legal/late-events", "results first, events long after", _late_events, floods=False),
        Variant("legal/late-results", "events first, results long after", _late_results, floods=False),
        Variant("legal/core-only", "no profile at all", _profiles()),
        Variant("legal/rpc-only", "requests, no channels", _profiles("rpc")),
        Variant("legal/pubsub-only", "channels without patterns, fence and requests", _profiles("pubsub")),
        Variant("legal/no-fence", "everything but fence", _profiles(*without("fence"))),
        Variant("legal/no-history", "everything but history", _profiles(*without("history"))),
        Variant("legal/no-resume", "everything but resume", _profiles(*without("resume"))),
        Variant("legal/no-acks", "everything but acks and resume", _profiles(*without("ack"))),
        Variant("legal/no-script", "a target of rung 1", partial(_rung, script=False, identities=True)),
        Variant(
            "legal/bare",
            "a target of rung 0 that wants credentials",
            partial(_rung, script=False, identities=False),
        ),
    )
}
"""Every legal variant, by name."""


def run(variant: Variant) -> Report:
    """Run every check against it."""
    with world(variant.apply) as (here, target):
        here.rewire = variant.rewire
        checks = [check for check in collect.everything() if variant.floods or not check.intrusive]
        return judge(checks, here.open, target)
