"""The example programs run."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from examples.chat import room
from examples.follow import follow
from examples.keep_following import keep_following
from holdfast_reference.client import connect
from holdfast_reference.config import Config

pytest_plugins = ["pytester"]

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(("name", "tests"), [("test_ten_lines", 1), ("test_lost_connection", 2)])
def test_example_tests(pytester: pytest.Pytester, name: str, tests: int) -> None:
    """They pass as the tests of any project would: with the fixture, in a pytest run of their own."""
    pytester.makepyfile(**{name: (EXAMPLES / f"{name}.py").read_text()})
    pytester.runpytest_inprocess().assert_outcomes(passed=tests)


async def test_the_chat_room_is_followed_from_its_first_line() -> None:
    """Two people, one of whom comes late and misses nothing."""
    shown: list[str] = []
    said = trio.Semaphore(0)

    def show(line: str) -> None:
        shown.append(line)
        said.release()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address, *_) = await nursery.start(room(Config(port=0, anonymous=True)).serve)
            url = f"ws://{address[0]}:{address[1]}/"
            async with connect(url) as session, trio.open_nursery() as followers:
                assert await session.request("say", "first") == 1
                followers.start_soon(follow, url, "second", show)
                for _ in range(2):
                    await said.acquire()
                assert await session.request("say", "third") == 3
                await said.acquire()
                followers.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    assert shown == ["1: first", "2: second", "3: third"]


async def test_what_is_said_while_a_follower_is_away_is_shown() -> None:
    """Its connection breaks, and a line is said before it is back."""
    show, shown = trio.open_memory_channel[str](10)
    server = room(Config(port=0, anonymous=True))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address, *_) = await nursery.start(server.serve)
            nursery.start_soon(keep_following, f"ws://{address[0]}:{address[1]}/", show.send_nowait, 0.0)
            assert await shown.receive() == "(following)"
            server.publish("room", {"line": 1, "text": "here"})
            assert await shown.receive() == "1: here"
            for link in list(server.links.values()):
                link.abort()
            server.publish("room", {"line": 2, "text": "away"})
            assert [await shown.receive(), await shown.receive()] == ["(following)", "2: away"]
            nursery.cancel_scope.cancel()
