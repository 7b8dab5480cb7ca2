"""A run from its first connection to its verdict, against a server that misbehaves on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from holdfast_conformance import probe
from holdfast_conformance.client import Closure
from holdfast_conformance.clock import Clock
from holdfast_conformance.runner import Options
from holdfast_conformance.target import Identity, Method, Target
from holdfast_conformance.verdict import RunVerdict, Verdict
from tests.fake import Fake
from tests.harness import define, judge, only

if TYPE_CHECKING:
    from holdfast_conformance.case import Session, Test


ECHO = Target(source="fake", methods={"echo": Method("conf.echo")})


async def echoes(t: Test) -> None:
    """A request is answered with its data."""
    session = await t.session()
    call = await session.start("request", method="conf.echo", data=7)
    await t.must(call.result(data=7), hint="answer with the data")


async def cancelled_is_silent(t: Test) -> None:
    """A cancelled subscription gets nothing."""
    alice = await t.session(name="alice")
    channel = t.channel()
    sub = await alice.subscribe(channel)
    await t.control(alice.gets(await t.emit(channel)))
    await alice.cancel(sub)
    await t.must_not(alice.gets(await t.emit(channel)))


async def reused_id_closes(t: Test) -> None:
    """An id that was used before closes the connection."""
    session = await t.session()
    await session.request("x", id=5)
    await session.start("request", method="x", id=5)
    await t.closes(session, 4003)


def test_a_good_server_passes() -> None:
    """A server that does what is asked passes, and the report says what was found out about it."""
    report = judge(Fake(), [define(echoes)])
    assert only(report).verdict is Verdict.PASS
    assert report.profiles == ["core", "fence", "pattern", "pubsub", "rpc"]
    assert report.server == {"name": "fake", "version": "1"}
    assert report.verdict is RunVerdict.PARTIAL  # a selection
    assert report.exit_code == 0


def test_a_broken_must_fails_with_everything_to_see_it() -> None:
    """A failure carries the requirement, the timeline with the frame at fault, the control and the hint."""
    report = judge(Fake("ghost"), [define(cancelled_is_silent, covers="RPC-11")])
    result = only(report)
    assert result.verdict is Verdict.FAIL
    assert (result.requirement, result.level, result.stage) == ("RPC-11", "MUST", "")
    marked = next(line for line in result.timeline if line.marked)
    assert marked.text.startswith('{"type": "event", "id": 1')
    assert "did arrive" in result.control
    assert [str(verdict) for verdict in result.reruns] == ["fail", "fail"]
    assert report.verdict is RunVerdict.NON_CONFORMANT
    assert report.exit_code == 1


def test_the_level_comes_from_the_specification() -> None:
    """The same failure is a failure, a warning or a note, by the level of the requirement alone."""
    for covers, verdict in (("ENV-17", Verdict.FAIL), ("TRN-04", Verdict.WARN), ("ENV-09", Verdict.NOTE)):
        report = judge(Fake("reuse"), [define(reused_id_closes, covers=covers)])
        assert only(report).verdict is verdict


def test_a_failed_set_up_is_told_apart() -> None:
    """What fails before the first assertion is a failure of the set-up."""

    async def needs_an_answer(t: Test) -> None:
        session = await t.session()
        await session.subscribe(pattern="a/*")  # the fake knows no patterns
        t.that(True, "never reached")

    report = judge(Fake(), [define(needs_an_answer)])
    result = only(report)
    assert (result.verdict, result.stage) == (Verdict.FAIL, "set-up")
    assert result.message == 'expected "open" on exchange 1; got error "bad_request" on exchange 1'


def test_absence_is_proved_by_a_fence_where_there_is_one() -> None:
    """With profile fence the proof is a pong; without it, and without a witness, a window of silence."""
    for offers, strength in ((("pubsub", "fence"), "fenced"), (("pubsub",), "quiet for 50 ms")):
        report = judge(Fake(offers=offers), [define(cancelled_is_silent)])
        result = only(report)
        assert (result.verdict, result.absences) == (Verdict.PASS, (strength,))


def test_absence_is_witnessed_by_another_session() -> None:
    """Without a fence, an event that another session has seen, and three round trips, are the proof."""

    async def witnessed(t: Test) -> None:
        alice, bob = await t.sessions("alice", "bob")
        channel = t.channel()
        sub = await alice.subscribe(channel)
        await bob.subscribe(channel)
        await t.control(alice.gets(await t.emit(channel)))
        await alice.cancel(sub)
        ghost = await t.emit(channel)
        await bob.gets(ghost)
        await t.must_not(alice.gets(ghost))

    fake = Fake(offers=("pubsub",))
    report = judge(fake, [define(witnessed)])
    result = only(report)
    assert (result.verdict, result.absences) == (Verdict.PASS, ("witnessed",))
    report = judge(Fake("ghost", offers=("pubsub",)), [define(witnessed)])
    assert only(report).verdict is Verdict.FAIL


def test_what_an_author_got_wrong_is_an_error() -> None:
    """A check that proves nothing gets the verdict `error`, whatever the server does."""

    async def no_control(t: Test) -> None:
        session = await t.session()
        await t.must_not(session.receives("event"))

    async def unused(t: Test) -> None:
        session = await t.session()
        session.receives("event")
        t.that(True, "fine")

    async def asserts_nothing(t: Test) -> None:
        await (await t.session()).ping()

    async def sends_garbage(t: Test) -> None:
        await (await t.session()).send({"type": "publish", "id": 1})

    async def crashes(t: Test) -> None:
        raise ZeroDivisionError("oops")

    async def hangs(t: Test) -> None:
        await trio.sleep_forever()

    for function, words in (
        (no_control, "must_not without a passed control"),
        (unused, "never looks whether it came"),
        (asserts_nothing, "asserts nothing"),
        (sends_garbage, "breaks its schema"),
        (crashes, "ZeroDivisionError: oops"),
        (hangs, "did not end"),
    ):
        report = judge(Fake(), [define(function)])
        verdict, message = only(report).verdict, only(report).message
        assert verdict is Verdict.ERROR
        assert words in message
        assert report.verdict is RunVerdict.INCONCLUSIVE
        assert report.exit_code == 3


def test_a_missing_fixture_is_unverified() -> None:
    """What the target file lacks makes a check unverified, and the reason says what to add."""

    async def asks_inside(t: Test) -> None:
        t.token("bob")

    target = Target(source="fake", identities={"alice": Identity("alice", None, headers=(("Cookie", "a"),))})
    for check, words in (
        (define(echoes, needs=("method:echo",)), "add `echo` to [methods]"),
        (define(echoes, needs=("identity:bob",)), "add an identity `bob`"),
        (define(echoes, needs=("script:emit",)), "step `emit`"),
        (define(echoes, needs=("limit:rate",)), "limit `rate`"),
        (define(echoes, needs=("spawned",)), "let the suite start the server"),
        (define(asks_inside), "add an identity `bob`"),
    ):
        report = judge(Fake(), [check], target=target)
        verdict, message = only(report).verdict, only(report).message
        assert verdict is Verdict.UNVERIFIED
        assert words in message


def test_nothing_but_unverified_checks_is_no_run() -> None:
    """When no check ran, the exit code says so."""
    report = judge(Fake(), [define(echoes, needs=("method:echo",))])
    assert report.exit_code == 2


def test_an_unknown_need_is_an_error() -> None:
    """A need that nobody knows is a mistake in the check."""
    report = judge(Fake(), [define(echoes, needs=("moon:full",))])
    assert only(report).verdict is Verdict.ERROR


def test_an_absent_profile_is_not_applicable_once_refused() -> None:
    """A profile that is not offered makes its checks n/a, if using it is refused as specified."""
    check = define(echoes, needs=("rpc",))
    report = judge(Fake(offers=("pubsub",)), [check])
    assert (only(report).verdict, only(report).message) == (
        Verdict.NA,
        "the server does not offer profile rpc",
    )
    report = judge(Fake("undeclared", offers=("pubsub",)), [check])
    verdict, message = only(report).verdict, only(report).message
    assert verdict is Verdict.UNVERIFIED
    assert 'expected error "unsupported"' in message


def test_a_flaky_failure_is_told_apart() -> None:
    """A check that fails and then passes alone is flaky: visible, and no failure."""
    report = judge(Fake("flaky"), [define(echoes)])
    result = only(report)
    assert result.verdict is Verdict.FLAKY
    assert [str(verdict) for verdict in result.reruns] == ["pass", "pass"]
    assert (report.verdict, report.exit_code) == (RunVerdict.PARTIAL, 0)


def test_a_silent_target_is_inconclusive() -> None:
    """A target that never answers hello cannot be judged."""
    report = judge(Fake("silent"), [define(echoes)])
    assert report.verdict is RunVerdict.INCONCLUSIVE
    assert (report.exit_code, report.checks) == (3, [])
    assert "nothing of the kind came within 10.0 s" in report.problem


def test_a_web_page_is_inconclusive() -> None:
    """A target that answers the upgrade with a page is named as such."""
    report = judge(Fake("html"), [define(echoes)])
    assert report.verdict is RunVerdict.INCONCLUSIVE
    assert "HTTP 200" in report.problem
    assert report.hint


def test_refused_credentials_are_inconclusive() -> None:
    """A target that refuses the credentials of the target file cannot be judged."""
    target = Target(
        source="fake", identities={"alice": Identity("alice", "tok-secret")}, secrets=("tok-secret",)
    )
    report = judge(Fake("refuse"), [define(echoes)], target=target)
    assert report.verdict is RunVerdict.INCONCLUSIVE
    assert "refused the credentials of 'alice'" in report.problem


def test_a_bare_url_judges_what_needs_no_credentials() -> None:
    """A target that wants credentials which nobody gave is still judged where none are needed."""

    async def binary_is_refused(t: Test) -> None:
        peer = await t.connect()
        await peer.send_text("not json")
        await t.closes(peer, 4101, 4001)

    checks = [define(binary_is_refused, id="env/bare"), define(echoes, needs=("session",))]
    report = judge(Fake("refuse"), checks)
    assert (
        only(report, "env/bare").verdict is Verdict.ERROR or only(report, "env/bare").verdict is Verdict.PASS
    )
    assert only(report).verdict is Verdict.UNVERIFIED
    assert not report.problem


def test_a_target_that_dies_is_inconclusive() -> None:
    """Once the target is gone nothing more is reported as failed."""
    checks = [define(echoes, id=f"env/made-up-{n}") for n in range(20)]
    report = judge(Fake("dies"), checks, options=Options(seed=1, lanes=1))
    assert report.verdict is RunVerdict.INCONCLUSIVE
    assert "lost during the run" in report.problem
    assert not [result for result in report.checks if result.verdict is Verdict.FAIL]
    assert report.exit_code == 3


def test_dead_waits_shrink() -> None:
    """After three waits that ran to their end, further ones are short: a broken target costs seconds."""

    async def waits(t: Test) -> None:
        session = await t.session()
        await t.must(session.receives("goaway"))

    checks = [define(waits, id=f"env/made-up-{n}") for n in range(30)]
    report = judge(Fake(), checks, options=Options(seed=1, lanes=1))
    assert report.counts[Verdict.FAIL] == 30
    assert report.seconds < 3 * 10 + 27 * 1.1 + 20.5


def test_fail_fast_ends_the_run() -> None:
    """The first failure ends the run, and stands."""
    checks = [define(reused_id_closes, id=f"env/made-up-{n}") for n in range(50)]
    report = judge(Fake("reuse"), checks, options=Options(seed=1, lanes=1, fail_fast=True))
    assert report.stopped == "fail-fast"
    assert len([r for r in report.checks if r.id.startswith("env/made-up")]) == 1
    assert report.exit_code == 1


def test_the_deadline_ends_the_run() -> None:
    """A run that reaches its deadline is inconclusive."""

    async def waits(t: Test) -> None:
        t.that(True, "fine")
        await t.sit_out(5, "a timer")

    report = judge(Fake(), [define(waits)], options=Options(seed=1, deadline=1.0))
    assert (report.stopped, report.verdict, report.exit_code) == ("deadline", RunVerdict.INCONCLUSIVE, 3)


def test_an_interrupted_run_still_reports() -> None:
    """Cancelling a run from outside leaves a report with what was found so far."""
    stop = trio.CancelScope()

    async def fine(t: Test) -> None:
        t.that(True, "fine")

    async def interrupts(t: Test) -> None:
        await t.sit_out(1, "the others")
        stop.cancel()
        await trio.sleep_forever()

    checks = [define(fine, id="env/first"), define(interrupts)]
    report = judge(Fake(), checks, stop=stop)
    assert only(report, "env/first").verdict is Verdict.PASS
    assert (report.stopped, report.exit_code) == ("interrupted", 130)


def test_a_timer_beyond_max_wait_is_unverified() -> None:
    """A declared timer that is too long is not waited for, and the reason names the option."""

    async def waits(t: Test) -> None:
        await t.sit_out(16, "the hello timeout")

    report = judge(Fake(), [define(waits)])
    assert (only(report).verdict, only(report).message) == (
        Verdict.UNVERIFIED,
        "the hello timeout takes 16 s; allow it with --max-wait 16",
    )


def test_waiting_checks_do_not_hold_lanes() -> None:
    """Ten checks that sit out a second overlap, even in one lane; slow ones overlap everything."""

    async def waits(t: Test) -> None:
        t.that(True, "fine")
        await t.sit_out(1, "a timer")

    parked = [define(waits, id=f"env/parked-{n}") for n in range(10)]
    slow = [define(waits, id=f"env/slow-{n}", slow=True) for n in range(10)]
    report = judge(Fake(), [*parked, *slow], options=Options(seed=1, lanes=1))
    assert report.counts[Verdict.FAIL] == 0
    assert report.seconds < 2


def test_the_connections_of_a_target_are_not_exceeded() -> None:
    """With a stated limit, lanes and slow checks together stay under it, however many there are."""
    most = 0

    async def counts(t: Test) -> None:
        nonlocal most
        for _ in range(3):
            t.that(True, f"{await t.session()}")
        await t.sit_out(1, "a timer")
        most = max(most, len(fake.seats))

    fake = Fake()
    target = Target(source="fake", limits={"max_connections": 30})
    slow = [define(counts, id=f"env/slow-{n}", slow=True) for n in range(40)]
    judge(fake, slow, target=target)
    assert 4 < most <= 30


def test_serial_checks_run_alone_at_the_end() -> None:
    """A serial check begins when every other one has ended, slow ones included."""
    log: list[str] = []

    async def slow(t: Test) -> None:
        await t.sit_out(1, "a timer")
        log.append("slow")
        t.that(True, "fine")

    async def serial(t: Test) -> None:
        log.append("serial")
        t.that(True, "fine")

    judge(Fake(), [define(serial, id="env/a", serial=True), define(slow, id="env/b", slow=True)])
    assert log == ["slow", "serial"]


def test_the_order_depends_on_the_seed_alone() -> None:
    """The same seed gives the same order and the same random values; another seed others."""
    runs: list[list[tuple[str, float]]] = []

    async def fine(t: Test) -> None:
        runs[-1].append((t.check.id, t.random.random()))
        t.that(True, "fine")

    checks = [define(fine, id=f"env/made-up-{n}") for n in range(8)]
    for seed in (1, 1, 2):
        runs.append([])
        judge(Fake(), checks, options=Options(seed=seed, lanes=1))
    assert runs[0] == runs[1]
    assert [id for id, _ in runs[0]] != [id for id, _ in runs[2]]
    assert dict(runs[0]) != dict(runs[2])


def test_the_canary_notices_crosstalk() -> None:
    """An event that reaches a session which takes no part is a failure of isolation."""

    async def emits(t: Test) -> None:
        await t.emit(t.channel())
        t.that(True, "fine")

    report = judge(Fake("crosstalk"), [define(emits)])
    result = only(report, "sec/canary-is-undisturbed")
    assert (result.verdict, result.requirement) == (Verdict.FAIL, "SEC-10")
    report = judge(Fake(), [define(emits)])
    assert only(report, "sec/canary-is-undisturbed").verdict is Verdict.PASS


def test_a_canary_that_a_stall_has_killed_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever did not run cannot answer heartbeats; the same close without a stall is a failure."""
    canary = probe.canary

    async def given_up(test: Test) -> Session:
        session = await canary(test)
        session._end(Closure("frame", 4304))
        return session

    monkeypatch.setattr(probe, "canary", given_up)
    result = only(judge(Fake(), [define(echoes)], target=ECHO), probe.CANARY.id)
    assert (result.verdict, result.requirement) == (Verdict.FAIL, "SEC-09")
    monkeypatch.setattr(Clock, "stalled", lambda *_: True)
    result = only(judge(Fake(), [define(echoes)], target=ECHO), probe.CANARY.id)
    assert result.verdict is Verdict.UNVERIFIED


def test_ambient_rules_judge_every_check() -> None:
    """A frame behind its terminal is found although no check looks for it, and the check is named."""
    report = judge(Fake("twice"), [define(echoes)])
    result = only(report, "rpc/nothing-after-terminal")
    assert (result.verdict, result.requirement) == (Verdict.FAIL, "RPC-02")
    assert "env/made-up" in result.message
    unexercised = only(report, "sub/one-open")
    assert unexercised.verdict is Verdict.PASS  # the canary subscribes
    assert "rpc/chunks-only-when-asked" not in [result.id for result in report.checks]  # nothing of the kind


def test_secrets_never_reach_the_report() -> None:
    """A token is masked by value wherever it turns up, also where the server repeats it."""
    target = Target(
        source="fake", identities={"alice": Identity("alice", "tok-secret")}, secrets=("tok-secret",)
    )
    report = judge(Fake("leak"), [define(echoes)], target=target)
    assert only(report).verdict is Verdict.FAIL
    assert only(report, "sec/no-token-leaks").verdict is Verdict.FAIL
    from holdfast_conformance import requirements

    text = str(report.document(requirements.published()))
    assert "tok-secret" not in text
    assert "•••" in text


@pytest.mark.parametrize(
    "welcome",
    [
        {"profiles": 7, "limits": "x", "server": [1]},
        {"profiles": [[], {}]},
        {"limits": {"rate": {}}},
        {"limits": {"rate": {"count": "many", "per_ms": 1}}},
        {"limits": {"rate": {"count": 0, "per_ms": 0}}},
    ],
)
def test_a_welcome_that_means_nothing_is_never_our_mistake(welcome: dict[str, object]) -> None:
    """Whatever a target writes into its welcome, the run ends with a verdict about the target."""
    report = judge(Fake(welcome=welcome), [define(echoes, needs=("rpc",))], target=ECHO)
    assert report.verdict in (RunVerdict.NON_CONFORMANT, RunVerdict.INCONCLUSIVE)
    assert "the suite itself failed" not in report.problem


def test_a_mistake_of_the_suite_itself_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither a traceback nor the exit code of a target that failed."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(probe, "survey", broken)
    report = judge(Fake(), [define(echoes)], target=ECHO)
    assert (report.verdict, report.exit_code) == (RunVerdict.INCONCLUSIVE, 3)
    assert report.problem.startswith("the suite itself failed: ZeroDivisionError: made up")


def test_a_broken_canary_is_an_error_and_not_the_end_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other verdicts stay, and the run is inconclusive."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(probe, "autopsy", broken)
    report = judge(Fake(), [define(echoes)], target=ECHO)
    assert only(report).verdict is Verdict.PASS
    assert only(report, probe.CANARY.id).verdict is Verdict.ERROR
    assert report.exit_code == 3


def test_a_target_that_freezes_ends_the_run_soon() -> None:
    """It still accepts connections; what it left unanswered is no failure of a hundred checks."""
    fake = Fake()

    async def freezes(t: Test) -> None:
        await t.session()
        fake.faults.add("silent")
        await t.session()

    checks = [define(freezes, f"env/made-up-{number}") for number in range(100)]
    report = judge(fake, checks)
    assert (report.stopped, report.verdict) == ("target", RunVerdict.INCONCLUSIVE)
    assert "the target was lost during the run" in report.problem
    assert report.seconds < 120
