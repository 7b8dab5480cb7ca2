"""Sessions that acknowledge like an honest client, and go on when they are resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from holdfast_conformance.bench import PROFILES, without
from holdfast_conformance.receipts import Receipts
from holdfast_conformance.verdict import Verdict
from tests.fake import WINDOW, Fake
from tests.harness import define, judge, only

if TYPE_CHECKING:
    from holdfast_conformance.case import Test

OFFERS = ("rpc", "pubsub", "ack", "resume")


def test_without_leaves_out_what_needs_the_rest() -> None:
    """A profile goes with those that need it, directly or not."""
    assert without() == PROFILES
    assert set(PROFILES) - set(without("ack")) == {"ack", "resume"}
    assert set(PROFILES) - set(without("pubsub")) == {"pubsub", "pattern", "fence", "history"}


def test_receipts_count_frames_and_bytes() -> None:
    """An ack is due after half of the window, in frames or in bytes; what came again is no news."""
    receipts = Receipts()
    receipts.agree({"window": 5, "window_bytes": 100, "ack_delay_ms": 250})
    assert receipts.delay == 0.25
    assert receipts.arrived(1, 10)
    assert receipts.owed
    assert not receipts.due
    assert receipts.arrived(2, 10)
    assert receipts.due
    receipts.acknowledged(2)
    assert not receipts.owed
    assert not receipts.arrived(2, 10)
    assert receipts.arrived(3, 50)
    assert receipts.due


@pytest.mark.parametrize(
    ("frames", "acks", "expected"),
    [(3, True, [3]), (4, True, [4]), (11, True, [4, 8, 11]), (11, False, [])],
)
def test_a_session_acknowledges_in_time(frames: int, acks: bool, expected: list[int]) -> None:
    """At once after half of the window, for the rest when the delay is over; or not at all."""
    fake = Fake(offers=OFFERS)

    async def asks(t: Test) -> None:
        alice = await t.session(acks=acks)
        for n in range(frames):
            await alice.request("echo", data=n)
        begin = t.now()
        await t.sit_out(WINDOW["ack_delay_ms"] / 1000 + 0.1, "the delay of acks")
        t.that(t.now() - begin < 1, "acks do not wait longer than they have to")

    report = judge(fake, [define(asks)])
    assert only(report).verdict is Verdict.PASS
    assert [seat.acks for seat in fake.all if seat.last_id == frames] == [expected]


async def _cut_between(t: Test) -> None:
    alice, bob = await t.session(name="alice", acks=False), await t.session(name="bob")
    sub = await alice.subscribe(channel := t.channel())
    first = await t.emit(channel, by=bob)
    await t.must(alice.gets(first))
    await alice.cut()
    missed = await t.emit(channel, by=bob)
    again = await t.resume(alice)
    await t.must(sub.gets(missed))
    t.equal([frame.get("seq") for frame in sub.frames], [1, 2, 3], "the numbers of one row")
    t.that(sub.session is again and not again.resent, "the exchange goes over")
    call = await again.start("request", method="echo", data=1)
    await t.must(call.result(data=1))


def test_a_resumed_session_is_one_row() -> None:
    """Exchanges, ids and frames go on over a cut."""
    result = only(judge(Fake(offers=OFFERS), [define(_cut_between)]))
    assert result.verdict is Verdict.PASS, result.message


def test_what_comes_again_is_kept_apart() -> None:
    """A frame that had arrived is in `resent` and satisfies no expectation twice."""

    async def asks_for_more(t: Test) -> None:
        alice = await t.session(acks=False)
        await alice.request("echo", data=1)
        again = await t.resume(alice, seq=0)
        await again.request("echo", data=2)
        t.equal([frame.get("seq") for frame in again.resent], [1], "what came again")
        t.equal([frame.get("seq") for frame in again.frames if "id" in frame.body], [1, 2], "the row")

    result = only(judge(Fake(offers=OFFERS), [define(asks_for_more)]))
    assert result.verdict is Verdict.PASS, result.message


def test_a_refused_resume_is_a_fresh_session() -> None:
    """Nothing goes over, and the outcome that was not expected fails the check."""

    async def asks_wrongly(t: Test) -> None:
        alice = await t.session()
        await alice.request("echo", data=1)
        await alice.cut()
        fresh = await t.resume(alice, session="other", expect="refused")
        t.that(not fresh.exchanges and fresh.receipts.got == 0 and fresh.attempt == 0, "it begins anew")
        call = await fresh.start("request", method="echo", data=1)
        t.equal(call.id, 1, "its first id")
        await t.must(call.result())
        t.equal((await t.resume(alice)).attempt, 2, "the attempts of the session")
        await t.resume(fresh, session="nobody")

    result = only(judge(Fake(offers=OFFERS), [define(asks_wrongly)]))
    assert result.verdict is Verdict.FAIL
    assert "expected the session to be resumed; it was refused" in result.message


def test_what_a_check_leaves_suspended_is_ended() -> None:
    """After a cut that nothing resumed the suite comes back once, to say goodbye."""

    async def vanishes(t: Test) -> None:
        alice = await t.session()
        await t.alive(alice)
        await alice.cut()

    fake = Fake(offers=OFFERS)
    assert only(judge(fake, [define(vanishes)])).verdict is Verdict.PASS
    assert any(seat.resumed for seat in fake.all)
