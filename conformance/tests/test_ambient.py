"""The ambient rules: each is broken by one conversation, and by none of the good ones."""

from __future__ import annotations

import json

import pytest
import trio
from holdfast_conformance import requirements
from holdfast_conformance.ambient import RULES, Ambient, Watch
from holdfast_conformance.expect import Frame
from holdfast_conformance.journal import Journal

HELLO = '{"type":"hello","profiles":["rpc","pubsub","pattern"],"auth":{"token":"tok-secret"}}'
LIMITS = {"max_frame": 8192, "max_inflight": 4, "max_subscriptions": 4, "queue": 9, "queue_bytes": 8192}
WELCOME: dict[str, object] = {
    "type": "welcome",
    "conn": "c-1",
    "profiles": ["rpc", "pubsub", "pattern"],
    "limits": LIMITS,
    "heartbeat": {"interval_ms": 1000, "timeout_ms": 500},
}
SUBSCRIBE = '{"type":"subscribe","id":1,"channel":"a"}'
OPEN = {"type": "open", "id": 1}
EVENT = {"type": "event", "id": 1, "data": 1}
GAP = {"type": "gap", "id": 1, "reason": "overflow"}
REQUEST = '{"type":"request","id":1,"method":"m"}'
RESULT = {"type": "result", "id": 1}
PATTERN = '{"type":"subscribe","id":1,"pattern":"a/*"}'


def error(code: str, **fields: object) -> dict[str, object]:
    """Return an error frame on exchange 1."""
    return {"type": "error", "id": 1, "error": {"code": code, "message": "m", **fields}}


def changed(**fields: object) -> dict[str, object]:
    """Return the welcome with other members."""
    return WELCOME | fields


ASKS_FENCE = HELLO.replace("pattern", "fence")
FENCED = changed(profiles=["rpc", "pubsub", "fence"])
ONLY_RPC = changed(profiles=["rpc"])
SMALL = '{"type":"hello","profiles":["rpc"],"limits":{"max_frame":4096}}'

ALL = '["rpc","pubsub","pattern","ack","resume","history"]'
ACKING = LIMITS | {"window": 3, "window_bytes": 300, "ack_delay_ms": 9}
NUMBERED_HELLO = '{"type":"hello","profiles":["rpc","pubsub","ack"]}'
NUMBERED = changed(profiles=["rpc", "pubsub", "ack"], limits=ACKING)
FULL_HELLO = f'{{"type":"hello","profiles":{ALL}}}'
FULL_LIMITS = ACKING | {"resume_ms": 9, "dedupe_ms": 9, "history_limit": 9}
FULL = changed(profiles=json.loads(ALL), limits=FULL_LIMITS, session="s-1", resumed=False)
AGAIN_HELLO = FULL_HELLO[:-1] + ',"resume":{"session":"s-1","seq":1,"attempt":1}}'
AGAIN = FULL | {"conn": "c-2", "resumed": True, "last_id": 1}
LOGGED = OPEN | {"cursor": "0", "seq": 1}


def event(seq: int, **fields: object) -> dict[str, object]:
    """Return a numbered event with the cursor of its number."""
    return EVENT | {"seq": seq, "cursor": str(seq), **fields}


Conversation = list[str | dict[str, object]]
GOOD: list[Conversation] = [
    [
        HELLO,
        WELCOME,
        SUBSCRIBE,
        OPEN,
        EVENT | {"channel": "a"},
        GAP,
        EVENT,
        GAP,
        '{"type":"cancel","of":1}',
        RESULT,
    ],
    [
        HELLO,
        WELCOME,
        '{"type":"request","id":1,"method":"m","stream":true}',
        {"type": "chunk", "id": 1, "data": 1},
        RESULT,
    ],
    [HELLO, WELCOME, PATTERN, OPEN, EVENT | {"channel": "a/b"}],
    [HELLO, WELCOME, REQUEST, error("draining", retry_ms=0)],
    [HELLO, WELCOME, REQUEST, error("x.private")],
    [HELLO, WELCOME, '{"type":"ping","t":"x"}', {"type": "pong", "t": "x"}, {"type": "ping"}],
    [
        NUMBERED_HELLO,
        NUMBERED,
        SUBSCRIBE,
        OPEN | {"seq": 1},
        EVENT | {"seq": 2},
        EVENT | {"seq": 3},
        '{"type":"ack","seq":2}',
        EVENT | {"seq": 4},
        EVENT | {"seq": 5},
    ],
    [FULL_HELLO, FULL, SUBSCRIBE, LOGGED, event(2), GAP | {"seq": 3, "cursor": "9", "reason": "expired"}],
]
BAD: list[tuple[str, Conversation]] = [
    ("env/frames-match-schema", [HELLO, WELCOME, REQUEST, {"type": "result"}]),
    ("env/plain-integers", [HELLO, WELCOME, REQUEST, {"type": "result", "id": 1.0}]),
    ("ses/one-welcome", [HELLO, WELCOME, changed(conn="c-2")]),
    ("ses/nothing-before-welcome", [HELLO, {"type": "ping"}]),
    ("ses/only-asked-profiles", ['{"type":"hello","profiles":["rpc"]}', WELCOME]),
    ("ses/only-asked-profiles", [HELLO, changed(profiles=["rpc", "pattern"])]),
    ("ses/one-ping-per-interval", [HELLO, WELCOME, {"type": "ping"}, {"type": "ping"}]),
    ("ses/pong-echoes-t", [HELLO, WELCOME, '{"type":"ping","t":"x"}', {"type": "pong", "t": "y"}]),
    ("ses/pong-echoes-t", [HELLO, WELCOME, '{"type":"ping","t":"x"}', {"type": "pong"}]),
    ("rpc/nothing-after-terminal", [HELLO, WELCOME, REQUEST, RESULT, RESULT]),
    ("rpc/nothing-after-terminal", [HELLO, WELCOME, SUBSCRIBE, OPEN, error("forbidden"), EVENT]),
    ("rpc/only-known-ids", [HELLO, WELCOME, REQUEST, {"type": "result", "id": 2}]),
    ("rpc/chunks-only-when-asked", [HELLO, WELCOME, REQUEST, {"type": "chunk", "id": 1, "data": 1}]),
    ("sub/one-open", [HELLO, WELCOME, SUBSCRIBE, OPEN, OPEN]),
    ("sub/nothing-before-open", [HELLO, WELCOME, SUBSCRIBE, EVENT]),
    ("sub/nothing-before-open", [HELLO, WELCOME, SUBSCRIBE, GAP]),
    ("sub/event-names-its-channel", [HELLO, WELCOME, SUBSCRIBE, OPEN, EVENT | {"channel": "b"}]),
    ("sub/pattern-event-has-channel", [HELLO, WELCOME, PATTERN, OPEN, EVENT]),
    ("del/no-held", [ASKS_FENCE, FENCED, '{"type":"ping"}', {"type": "pong", "held": True}]),
    ("del/frames-are-numbered", [NUMBERED_HELLO, NUMBERED, REQUEST, RESULT]),
    ("del/frames-are-numbered", [NUMBERED_HELLO, NUMBERED, {"type": "ping", "seq": 1}]),
    ("del/numbers-have-no-holes", [NUMBERED_HELLO, NUMBERED, REQUEST, RESULT | {"seq": 2}]),
    ("del/window-is-kept",
     [NUMBERED_HELLO, NUMBERED, SUBSCRIBE, OPEN | {"seq": 1}, *(EVENT | {"seq": n} for n in (2, 3, 4))]),
    ("del/window-bytes-are-kept",
     [NUMBERED_HELLO, NUMBERED, SUBSCRIBE, OPEN | {"seq": 1}, EVENT | {"seq": 2, "data": "x" * 300},
      EVENT | {"seq": 3}]),
    ("del/no-overflow-with-a-log", [FULL_HELLO, FULL, SUBSCRIBE, LOGGED, GAP | {"seq": 2, "cursor": "3"}]),
    ("his/gaps-have-cursors", [FULL_HELLO, FULL, SUBSCRIBE, LOGGED, GAP | {"seq": 2}]),
    ("his/cursor-on-every-event", [FULL_HELLO, FULL, SUBSCRIBE, LOGGED, EVENT | {"seq": 2}]),
    ("his/recovered-only-when-asked", [FULL_HELLO, FULL, SUBSCRIBE, LOGGED | {"recovered": True}]),
    ("sub/one-order-of-cursors",
     [FULL_HELLO, FULL, SUBSCRIBE, LOGGED, SUBSCRIBE.replace("1", "2"), LOGGED | {"id": 2, "seq": 2},
      event(3, cursor="a"), '{"type":"ack","seq":3}', event(4, cursor="b"), event(5, id=2, cursor="b"),
      event(6, id=2, cursor="a")]),
    ("res/every-welcome-has-a-session", [FULL_HELLO, {k: v for k, v in FULL.items() if k != "resumed"}]),
    ("res/nothing-resumed-unasked", [FULL_HELLO, FULL | {"resumed": True, "last_id": 0}]),
    ("res/nothing-resumed-unasked", [FULL_HELLO, FULL | {"resume_error": {"code": "not_found"}}]),
    ("res/refused-is-said", [AGAIN_HELLO, FULL]),
    ("res/accepted-is-said", [AGAIN_HELLO, AGAIN | {"session": "s-2"}]),
    ("err/known-codes", [HELLO, WELCOME, REQUEST, error("nonsense")]),
    ("err/known-codes", [HELLO, WELCOME, REQUEST, error("session_lost")]),
    ("err/retry-when-retryable", [HELLO, WELCOME, REQUEST, error("rate_limited")]),
    ("lim/limits-present", [HELLO, changed(limits={k: v for k, v in LIMITS.items() if k != "queue"})]),
    ("lim/frames-fit", [HELLO, WELCOME, REQUEST, RESULT | {"data": "x" * 8192}]),
    ("lim/frames-fit", [SMALL, ONLY_RPC, REQUEST, RESULT | {"data": "x" * 4096}]),
    ("ver/only-negotiated", ['{"type":"hello","profiles":["rpc"]}', ONLY_RPC, SUBSCRIBE, OPEN]),
    ("ver/only-negotiated", [HELLO, WELCOME, REQUEST, RESULT | {"seq": 1}]),
    ("ver/only-negotiated", [HELLO, changed(session="s")]),
    ("sec/no-token-leaks", [HELLO, WELCOME, REQUEST, error("internal", data="tok-secret")]),
]  # fmt: skip


def play(
    conversation: Conversation, ambient: Ambient | None = None, journal: Journal | None = None
) -> tuple[Ambient, Watch]:
    """Let a watch see a conversation: texts are ours, objects the server's."""
    ambient = ambient or Ambient()

    async def main() -> Watch:
        nonlocal journal
        journal = Journal() if journal is None else journal
        watch = ambient.watch("env/made-up", journal, str)
        for step in conversation:
            if isinstance(step, str):
                journal.add("peer", "→", step)
                watch.sent(step)
            else:
                text = json.dumps(step)
                watch.received(Frame(trio.current_time(), text, step, journal.add("peer", "←", text)))
        return watch

    return ambient, trio.run(main)


@pytest.mark.parametrize("conversation", GOOD)
def test_good_conversations_break_nothing(conversation: Conversation) -> None:
    """What a conformant server says is accepted by every rule."""
    assert play(conversation)[0].violations == {}


@pytest.mark.parametrize(
    ("rule", "conversation"), BAD, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(BAD)]
)
def test_each_rule_is_broken_by_its_conversation(rule: str, conversation: Conversation) -> None:
    """The rule notices, with a timeline that marks the frame."""
    found = play(conversation)[0].violations
    assert rule in found
    assert [line.marked for line in found[rule][0].timeline].count(True) == 1


def test_a_conn_is_used_once_in_a_run() -> None:
    """Two connections with the same conn break SES-11, wherever in the run they are."""
    ambient, _ = play([HELLO, WELCOME])
    assert "ses/conn-is-unique" in play([HELLO, WELCOME], ambient)[0].violations


FIRST_TWO: Conversation = [FULL_HELLO, FULL, SUBSCRIBE, LOGGED, event(2)]
"""A session of which the first two frames arrived, the first of them acknowledged by the resume."""


async def a_journal() -> Journal:
    """Return the journal of one check."""
    return Journal()


@pytest.mark.parametrize(
    ("rule", "conversation"),
    [
        ("", [AGAIN, event(2), event(3), event(4)]),
        ("", [AGAIN, event(2), RESULT | {"seq": 3}]),
        ("res/sent-again-unchanged", [AGAIN, event(2, data=2)]),
        ("res/sent-again-unchanged", [AGAIN, event(3)]),
        ("res/accepted-is-said", [AGAIN | {"last_id": 0}]),
        ("res/accepted-is-said", [AGAIN | {"last_id": 2}]),
        ("res/limits-come-again", [AGAIN | {"limits": FULL_LIMITS | {"window": 2}}]),
        ("res/names-are-unique", [FULL | {"conn": "c-2", "resume_error": {"code": "not_found"}}]),
        ("rpc/nothing-after-terminal", [AGAIN, event(2), RESULT | {"seq": 3}, event(4)]),
        ("del/window-is-kept", [AGAIN, event(2), event(3), event(4), event(5)]),
    ],
)
def test_a_session_is_followed_across_connections(rule: str, conversation: Conversation) -> None:
    """What came again counts once and must be the same; numbers, exchanges and limits go on."""
    journal = trio.run(a_journal)
    ambient, _ = play(FIRST_TWO, journal=journal)
    assert ambient.violations == {}
    play([AGAIN_HELLO, *conversation], ambient, journal)
    assert set(ambient.violations) == ({rule} if rule else set())


def test_a_listed_twice_profile_and_core_are_noticed() -> None:
    """The profiles of welcome are a set without core."""
    for profiles in (["rpc", "rpc"], ["core"]):
        found = play([HELLO.replace('"rpc"', '"rpc","core"'), changed(profiles=profiles)])[0].violations
        assert found.keys() & {"ses/profiles-listed-once", "env/frames-match-schema"}


@pytest.mark.parametrize(
    ("code", "reason", "rules"),
    [
        (4003, "bad_id", set()),
        (1009, "", set()),
        (1005, "", set()),
        (4003, "whatever", {"err/close-reason"}),
        (4501, "bad_server_frame", {"err/close-codes"}),
        (4500, "", {"err/close-codes"}),
        (1006, "", {"trn/no-reserved-close-codes", "err/close-codes"}),
        (4101, "tok-secret", {"err/close-reason", "sec/no-token-leaks"}),
    ],
)
def test_close_frames_are_judged(code: int, reason: str, rules: set[str]) -> None:
    """The code must be one that servers send; the reason is its name and holds no token."""
    ambient, watch = play([HELLO, WELCOME])
    watch.received_close(0, code, reason)
    assert ambient.violations.keys() == rules


def test_occasions_are_counted() -> None:
    """A rule that nothing exercised has no occasions, whatever else happened."""
    ambient, _ = play(GOOD[0])
    assert ambient.occasions["sub/one-open"] == 1
    assert ambient.occasions["rpc/chunks-only-when-asked"] == 0


def test_every_rule_has_a_published_requirement() -> None:
    """The rules cite sentences that exist and bind a server."""
    known = requirements.published()
    for rule in RULES.values():
        found = known.get(rule.requirement)
        assert found is not None
        assert found.subject in ("server", "endpoint")
        assert rule.id.split("/")[0] == rule.requirement.split("-")[0].lower()
