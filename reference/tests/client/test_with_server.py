"""The client and the reference server, which share no frame code, understand each other."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from holdfast_reference.backends.tokens import Rule, Token
from holdfast_reference.client import Event, RequestError, Session, SessionLost, connect, connection
from holdfast_reference.config import Config
from holdfast_reference.server.serve import Server
from holdfast_reference.server.transport import memory_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from holdfast_reference.server.methods import Call

    Sessions = Callable[..., AbstractAsyncContextManager[list[Session]]]

CONFIG = Config(
    tokens=(Token("tok-a", "alice"), Token("tok-short", "alice", expires_in_ms=5000)),
    rules=(
        Rule(False, frozenset({"subscribe"}), ("secret",)),
        Rule(True, frozenset({"call", "publish", "subscribe"})),
    ),
    anonymous=False,
)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Open sessions at one server, all in memory: `async with sessions("tok-a", ...) as (a, ...)`."""
    server = Server(CONFIG)

    @server.method("twice")
    def twice(call: Call) -> object:
        return [call.data, call.data]

    @server.method("count")
    async def count(call: Call) -> AsyncIterator[object]:
        for number in range(100):
            yield number

    @server.method("forever")
    async def forever(call: Call) -> None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def sessions(
        *tokens: str, profiles: tuple[str, ...] = connection.PROFILES
    ) -> AsyncIterator[list[Session]]:
        async def reach(url: str, ssl_context: object) -> tuple[str, str, trio.abc.Stream]:
            near, far = memory_pair(65536)
            nursery.start_soon(server.serve_transport, far)
            return "server.example", "/", near

        monkeypatch.setattr(connection, "_reach", reach)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run_background)
            async with connect("ws://a/", token=tokens[0], profiles=profiles) as first:
                if len(tokens) == 1:
                    yield [first]
                else:
                    async with connect("ws://a/", token=tokens[1], profiles=profiles) as second:
                        yield [first, second]
            nursery.cancel_scope.cancel()

    return sessions


async def test_requests_and_streams(sessions: Sessions, autojump_clock: trio.testing.MockClock) -> None:
    """JSON and bytes there and back, a hundred chunks in their order, and an error with its code."""
    async with sessions("tok-a") as (session,):
        assert session.welcome.principal == "alice"
        assert await session.request("twice", {"é": [1.5, None]}) == [{"é": [1.5, None]}] * 2
        async with session.stream("count") as chunks:
            assert [chunk async for chunk in chunks] == list(range(100))
        with pytest.raises(RequestError, match="not_found"):
            await session.request("nothing")
        with pytest.raises(RequestError, match="deadline_exceeded"):
            await session.request("forever", timeout_ms=10)


async def test_a_fence_proves_that_the_events_are_there(
    sessions: Sessions, autojump_clock: trio.testing.MockClock
) -> None:
    """After `ping` nothing that was published before is still on its way. [DEL-15]"""
    async with sessions("tok-a", "tok-a") as (alice, other):
        async with alice.subscribe(pattern="c/*") as events:
            for number in range(50):
                await other.publish("c/1", number)
            await alice.publish("c/2", b"\x00")
            await alice.publish("c/3", "unheard", echo=False)
            await alice.ping()
        # The subscription is over, so that only what had arrived by then can still be taken.
        with trio.fail_after(1):
            got = [await anext(events) for _ in range(51)]
        assert got == [*(Event(number, "c/1") for number in range(50)), Event(b"\x00", "c/2")]


async def test_acks_keep_the_window_open(sessions: Sessions, autojump_clock: trio.testing.MockClock) -> None:
    """More frames than the window holds, in their order, and no time passes over them. [DEL-22] [DEL-28]"""
    async with sessions("tok-a", "tok-a", profiles=("pubsub", "ack", "resume")) as (alice, other):
        count = 3 * _limit(alice, "window")
        start = trio.current_time()
        async with alice.subscribe("c", waiting=count) as events, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def publish() -> None:
                for number in range(count):
                    await other.publish("c", number)

            assert [await anext(events) for _ in range(count)] == [Event(number) for number in range(count)]
        assert trio.current_time() - start < 1


async def test_a_place_outlives_the_session(
    sessions: Sessions, autojump_clock: trio.testing.MockClock
) -> None:
    """What was published while nobody listened comes after `since`, once, and then what is live. [HIS-05]"""
    async with sessions("tok-a", "tok-a", profiles=("pubsub", "history")) as (alice, other):
        async with alice.subscribe("c") as events:
            place = events.opened.cursor
        assert place is not None
        cursors = [await other.publish("c", number) for number in range(5)]
        async with alice.subscribe("c", since=place, require=True) as events:
            assert (events.opened.cursor, events.opened.recovered) == (place, True)
            cursors.append(await other.publish("c", 5))
            got = [await anext(events) for _ in range(6)]
        assert got == [Event(number, cursor=cursor) for number, cursor in enumerate(cursors)]


def _limit(session: Session, name: str) -> int:
    value = session.welcome.limits[name]
    assert isinstance(value, int)
    return value


async def test_a_refused_subscription(sessions: Sessions, autojump_clock: trio.testing.MockClock) -> None:
    """[SUB-03]"""
    async with sessions("tok-a") as (session,):
        with pytest.raises(RequestError, match="forbidden"):
            await session.subscribe("secret").__aenter__()


async def test_an_idle_session_lives_on(sessions: Sessions, autojump_clock: trio.testing.MockClock) -> None:
    """Each side answers the heartbeat of the other, so neither gives up."""
    async with sessions("tok-a") as (session,):
        await trio.sleep(3600)
        assert await session.request("twice", 1) == [1, 1]


async def test_new_credentials_in_time(sessions: Sessions, autojump_clock: trio.testing.MockClock) -> None:
    """They outlive the old ones; without them the session ends with 4100. [SES-18] [SES-20]"""
    async with sessions("tok-short", "tok-short") as (renewed, forgotten):
        assert renewed.welcome.expires_in_ms == 5000
        assert await renewed.authenticate("tok-a") is None
        with pytest.raises(SessionLost) as caught:
            await forgotten.request("forever")
        assert caught.value.code == 4100
        assert await renewed.request("twice", 1) == [1, 1]
