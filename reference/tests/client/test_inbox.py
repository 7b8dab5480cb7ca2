"""What waits for a slow consumer is bounded, and what is lost is told."""

from __future__ import annotations

import pytest
import trio
from holdfast_reference.client.errors import RequestError
from holdfast_reference.client.frames import Chunk, Event, Gap, Result
from holdfast_reference.client.inbox import Inbox


async def drained(inbox: Inbox) -> list[object]:
    """Everything up to the result."""
    parts: list[object] = []
    with trio.fail_after(5):
        while not isinstance(part := await inbox.next(), Result):
            parts.append(part)
    return parts


async def test_events_without_room_become_one_gap_in_their_place() -> None:
    """The gap counts them, and later events stand behind it."""
    inbox = Inbox(2)
    for number in range(5):
        assert inbox.add(Event(number))
    assert [await inbox.next(), await inbox.next()] == [Event(0), Event(1)]
    inbox.add(Event(5))
    inbox.end(Result())
    assert await drained(inbox) == [Gap("overflow", 3), Event(5)]


@pytest.mark.parametrize(("missed", "total"), [(10, 12), (None, None)])
async def test_a_gap_of_the_server_is_not_lost_either(missed: int | None, total: int | None) -> None:
    """Without room it joins the gap that is there; a number that nobody knows makes the sum unknown."""
    inbox = Inbox(1)
    inbox.add(Event(0))
    inbox.add(Event(1))
    inbox.add(Gap("overflow", missed))
    inbox.add(Event(2))
    inbox.end(Result())
    assert await drained(inbox) == [Event(0), Gap("overflow", total)]


async def test_without_any_capacity_there_is_still_a_gap() -> None:
    """The least that a subscriber can be told."""
    inbox = Inbox(0)
    inbox.add(Event(0))
    inbox.end(Result())
    assert await drained(inbox) == [Gap("overflow", 1)]


async def test_a_chunk_without_room_is_refused() -> None:
    """A stream with a hole is of no use, so nothing stands for it."""
    inbox = Inbox(1)
    assert inbox.add(Chunk(0))
    assert not inbox.add(Chunk(1))


async def test_what_waits_comes_before_the_outcome_and_the_first_outcome_counts() -> None:
    """An error is raised behind the last part, as often as one asks."""
    inbox = Inbox(5)
    inbox.add(Event(0))
    inbox.end(RequestError("forbidden", "no"))
    inbox.end(Result())
    assert await inbox.next() == Event(0)
    for _ in range(2):
        with pytest.raises(RequestError, match="forbidden"):
            await inbox.next()
    with pytest.raises(RequestError, match="forbidden"):
        await inbox.opening()
