"""The judge: each kind of wrong is seen in a history made by hand, and not in its twin, which is legal."""

from __future__ import annotations

import pytest
from holdfast_conformance import requirements
from holdfast_conformance.explore.anomalies import KINDS
from holdfast_conformance.explore.judge import judge
from tests.histories import ALL, history, twins

PLAIN = ("rpc", "pubsub", "pattern", "fence")
"""What is negotiated where neither sequences nor cursors matter."""

OPEN = """
    a join
    b join
    a listen 1 x
"""

CASES = {
    "never arrives": ("lost", "SUB-05", PLAIN, OPEN + """
        b publish 1 x b.1
        =a got event id=1 t=b.1
        a fence
    """),
    "never arrives, seen by patience": ("lost", "SUB-05", ("pubsub",), OPEN + """
        b publish 1 x b.1
        =a got event id=1 t=b.1
        a calm
    """),
    "a gap excuses one event and there were two": ("lost", "SUB-05", PLAIN, OPEN + """
        b publish 1 x b.1
        b publish 2 x b.2
        !a got gap id=1 reason=overflow missed=1
        =a got gap id=1 reason=overflow missed=2
        a fence
    """),
    "left out between two": ("skip", "DEL-01", PLAIN, OPEN + """
        b publish 1 x b.1
        b publish 2 x b.2
        b publish 3 x b.3
        a got event id=1 t=b.1
        =a got event id=1 t=b.2
        a got event id=1 t=b.3
        a fence
    """),
    "a gap that stands elsewhere": ("skip", "DEL-01", PLAIN, OPEN + """
        b publish 1 x b.1
        b publish 2 x b.2
        b publish 3 x b.3
        b publish 4 x b.4
        a got event id=1 t=b.1
        =a got gap id=1 reason=overflow missed=1
        a got event id=1 t=b.3
        !a got gap id=1 reason=overflow missed=1
        a got event id=1 t=b.4
        a fence
    """),
    "left out, known from another subscriber alone": ("skip", "DEL-01", PLAIN, """
        a join
        b join
        c join
        c listen 1 x
        a call subscribe 1 channel=x
        b call publish 1 channel=x t=b.1
        b call publish 2 channel=x t=b.2
        b call publish 3 channel=x t=b.3
        a got open id=1
        a got event id=1 t=b.1
        c got event id=1 t=b.1
        c got event id=1 t=b.2
        =a got event id=1 t=b.2
        a got event id=1 t=b.3
        c got event id=1 t=b.3
    """),
    "missing behind a resume": ("resume-lie", "RES-38", ALL, OPEN + """
        b publish 1 x b.1
        a got event id=1 t=b.1
        a abort
        b publish 2 x b.2
        a hello seq=2
        a welcome resumed=true last_id=1
        b publish 3 x b.3
        !a got event id=1 t=b.3
        =a got gap id=1 reason=expired
        a fence
    """),
    "frames are missing behind a resume": ("resume-lie", "RES-29", ALL, OPEN + """
        a abort
        a hello seq=1
        a welcome resumed=true last_id=1
        a call request 2 method=echo
        !a got result id=2 seq=3
        =a got result id=2 seq=2
        a return 2 ok
    """),
    "resumed without asking": ("resume-lie", "RES-04", ALL, """
        a join
        a abort
        a hello
        !a welcome resumed=true
        =a welcome resumed=false
    """),
    "missing behind a recovery": ("recovery-lie", "HIS-05", ALL, """
        a join
        b join
        a listen 1 x cursor=k0
        b publish 1 x b.1 cursor=k1
        a got event id=1 t=b.1 cursor=k1
        a abort
        b publish 2 x b.2
        b publish 3 x b.3
        a join
        a listen 1 x since=k1 cursor=k1 recovered=true
        =a got event id=1 t=b.2 cursor=k2
        a got event id=1 t=b.3 cursor=k3
        a fence
    """),
    "a recovery begins too early": ("cursor-lie", "HIS-05", ALL, """
        a join
        b join
        b publish 1 x b.1 cursor=k1
        b publish 2 x b.2 cursor=k2
        b publish 3 x b.3 cursor=k3
        !a listen 1 x since=k2 cursor=k2 recovered=true
        =a listen 1 x since=k1 cursor=k1 recovered=true
        a got event id=1 t=b.2 cursor=k2
        a got event id=1 t=b.3 cursor=k3
        a fence
    """),
    "begins before its own cursor": ("cursor-lie", "HIS-02", ALL, """
        a join
        b join
        b publish 1 x b.1 cursor=k1
        a call subscribe 1 channel=x last=1
        !a got open id=1 cursor=k1
        =a got open id=1 cursor=k0
        a got event id=1 t=b.1 cursor=k1
    """),
    "one cursor for two places": ("cursor-lie", "HIS-21", ALL, """
        b join
        b publish 1 x b.1 cursor=k1
        !b publish 2 x b.2 cursor=k1
        =b publish 2 x b.2 cursor=k2
    """),
    "a page with a hole": ("cursor-lie", "HIS-21", ALL, """
        a join
        b join
        a listen 1 x cursor=k0
        b publish 1 x b.1 cursor=k1
        b publish 2 x b.2 cursor=k2
        b publish 3 x b.3 cursor=k3
        a got event id=1 t=b.1 cursor=k1
        a got event id=1 t=b.2 cursor=k2
        a got event id=1 t=b.3 cursor=k3
        a call history 2 channel=x
        !a got result id=2 data={"more":false,"events":[{"data":{"t":"b.1"}},{"data":{"t":"b.3"}}]}
        =a got result id=2 data={"more":false,"events":[{"data":{"t":"b.2"}},{"data":{"t":"b.3"}}]}
    """),
    "a page that begins with its own cursor": ("cursor-lie", "HIS-22", ALL, """
        b join
        b publish 1 x b.1 cursor=k1
        b publish 2 x b.2 cursor=k2
        !b call history 3 channel=x after=k2
        =b call history 3 channel=x after=k1
        b got result id=3 data={"more":false,"events":[{"data":{"t":"b.2"}}]}
    """),
    "a page that ends before its own cursor": ("cursor-lie", "HIS-23", ALL, """
        b join
        b publish 1 x b.1 cursor=k1
        b publish 2 x b.2 cursor=k2
        !b call history 3 channel=x before=k2
        =b call history 3 channel=x before=k1
        b got result id=3 data={"more":false,"events":[{"data":{"t":"b.1"}}]}
    """),
    "the newest page is old": ("cursor-lie", "HIS-24", ALL, """
        b join
        b publish 1 x b.1
        =b call history 3 channel=x
        b publish 2 x b.2
        !b call history 3 channel=x
        b got result id=3 data={"more":false,"events":[{"data":{"t":"b.1"}}]}
    """),
    "delivered twice": ("duplicate", "SUB-06", ALL, OPEN + """
        b publish 1 x b.1
        a got event id=1 t=b.1
        !a got event id=1 t=b.1
        a fence
    """),
    "against the order of their results": ("reorder", "SUB-29", PLAIN, OPEN + """
        c join
        b publish 1 x b.1
        =a got event id=1 t=b.1
        c publish 1 x c.1
        a got event id=1 t=c.1
        !a got event id=1 t=b.1
    """),
    "against the order of one publisher": ("reorder", "SUB-12", PLAIN, OPEN + """
        b call publish 1 channel=x t=b.1
        b call publish 2 channel=x t=b.2
        =a got event id=1 t=b.1
        a got event id=1 t=b.2
        !a got event id=1 t=b.1
    """),
    "two subscribers see two orders": ("reorder", "SUB-08", PLAIN, OPEN + """
        c join
        c listen 1 x
        a call publish 2 channel=x t=a.1
        b call publish 2 channel=x t=b.1
        a got event id=1 t=a.1
        a got event id=1 t=b.1
        =c got event id=1 t=a.1
        c got event id=1 t=b.1
        !c got event id=1 t=a.1
    """),
    "nobody published it": ("phantom", "DEL-01", PLAIN, OPEN + """
        b publish 1 x b.1
        !a got event id=1 t=b.9
        =a got event id=1 t=b.1
    """),
    "refused and delivered": ("phantom", "SUB-14", PLAIN, OPEN + """
        b call publish 1 channel=x t=b.1
        b got error id=1
        !b return 1 failed forbidden
        =b return 1 maybe internal
        a got event id=1 t=b.1
    """),
    "not accepted and delivered": ("phantom", "RES-31", ALL, OPEN + """
        b call publish 1 channel=x t=b.1
        b abort
        !b return 1 failed not_accepted
        =b return 1 maybe session_lost
        a got event id=1 t=b.1
    """),
    "changed on the way": ("corrupted", "ENV-28", PLAIN, OPEN + """
        b call publish 1 channel=x data={"t":"b.1","n":1}
        !a got event id=1 data={"t":"b.1","n":2}
        =a got event id=1 data={"t":"b.1","n":1}
    """),
    "an answer changed on the way": ("corrupted", "RPC-13", PLAIN, """
        a join
        a call request 1 method=echo data=[1]
        !a got result id=1 data=[2]
        =a got result id=1 data=[1]
    """),
    "of another channel": ("cross-talk", "SUB-09", PLAIN, OPEN + """
        !b call publish 1 channel=y t=b.1
        =b call publish 1 channel=x t=b.1
        a got event id=1 t=b.1
    """),
    "echoed against its wish": ("cross-talk", "SUB-15", PLAIN, OPEN + """
        !a call publish 2 channel=x t=a.1 echo=false
        =a call publish 2 channel=x t=a.1 echo=true
        a got event id=1 t=a.1
    """),
    "the answer to somebody else": ("cross-talk", "RPC-13", PLAIN, """
        a join
        a call request 1 method=echo t=a.1
        a call request 2 method=echo t=a.2
        !a got result id=1 t=a.2
        =a got result id=1 t=a.1
    """),
    "older than the subscription": ("ghost", "SUB-28", PLAIN, """
        a join
        b join
        =a call subscribe 1 channel=x
        b publish 1 x b.1
        !a call subscribe 1 channel=x
        a got open id=1
        a got event id=1 t=b.1
    """),
    "before open": ("ghost", "SUB-02", PLAIN, """
        a join
        b join
        a call subscribe 1 channel=x
        b call publish 1 channel=x t=b.1
        =a got open id=1
        a got event id=1 t=b.1
        !a got open id=1
    """),
    "after the end": ("ghost", "RPC-02", PLAIN, OPEN + """
        a sent cancel of=1
        b call publish 1 channel=x t=b.1
        !a got result id=1
        a got event id=1 t=b.1
        =a got result id=1
    """),
    "two ends": ("double-reply", "RPC-02", PLAIN, """
        a join
        a call request 1 method=echo
        a got result id=1
        !a got error id=1
    """),
    "two opens": ("double-reply", "SUB-01", PLAIN, OPEN + """
        !a got open id=1
    """),
    "an answer to nothing": ("orphan-reply", "RPC-03", PLAIN, """
        a join
        a call request 1 method=echo
        !a got result id=2
        =a got result id=1
    """),
    "no answer": ("lost-reply", "RPC-01", PLAIN, """
        a join
        a call request 1 method=echo
        !a return 1 maybe timeout
        =a return 1 maybe session_lost
    """),
    "beyond the window": ("ack-regression", "DEL-22", ALL, OPEN + """
        b call publish 1 channel=x t=b.1
        a got event id=1 t=b.1
        =a sent ack seq=1
        a got gap id=1 reason=expired
        a got gap id=1 reason=expired
        a got gap id=1 reason=expired
        a got gap id=1 reason=expired
        a got gap id=1 reason=expired
        a got gap id=1 reason=expired
        a got gap id=1 reason=expired
    """),
    "acknowledged and sent again": ("ack-regression", "RES-28", ALL, OPEN + """
        a abort
        !a hello seq=1
        =a hello seq=0
        a welcome resumed=true last_id=1
        a got open id=1 seq=1
    """),
    "last_id goes back": ("ack-regression", "RES-31", ALL, OPEN + """
        a abort
        a hello seq=1
        !a welcome resumed=true last_id=0
        =a welcome resumed=true last_id=1
    """),
    "last_id runs ahead": ("ack-regression", "RES-27", ALL, OPEN + """
        a abort
        a hello seq=1
        !a welcome resumed=true last_id=2
        =a welcome resumed=true last_id=1
    """),
    "a number is left out": ("seq-hole", "DEL-21", ALL, OPEN + """
        a call request 2 method=echo
        !a got result id=2 seq=3
        =a got result id=2 seq=2
    """),
    "a number comes twice": ("seq-hole", "DEL-21", ALL, OPEN + """
        !a got open id=1 seq=1
    """),
    "sent again, and different": ("seq-changed", "RES-29", ALL, OPEN + """
        a call request 2 method=echo
        a got result id=2 seq=2 data=1
        a abort
        a hello seq=1
        a welcome resumed=true last_id=2
        !a got result id=2 seq=2 data=2
        =a got result id=2 seq=2 data=1
    """),
    "a gap where there is a log": ("false-gap", "DEL-35", ALL, """
        a join
        a listen 1 x cursor=k0
        !a got gap id=1 reason=overflow cursor=k1
        =a got gap id=1 reason=expired cursor=k1
    """),
    "a gap over more than there was": ("false-gap", "DEL-05", PLAIN, OPEN + """
        b publish 1 x b.1
        b publish 2 x b.2
        !a got gap id=1 reason=overflow missed=3
        =a got gap id=1 reason=overflow missed=2
        a fence
    """),
    "tried again and delivered twice": ("dedupe-broken", "HIS-37", ALL, OPEN + """
        b publish 1 x b.1 dedupe=k
        b publish 2 x b.1 dedupe=k duplicate=true
        a got event id=1 t=b.1
        !a got event id=1 t=b.1
        a fence
    """),
    "tried again and not called a duplicate": ("dedupe-broken", "HIS-36", ALL, """
        b join
        b publish 1 x b.1 dedupe=k
        !b publish 2 x b.1 dedupe=k
        =b publish 2 x b.1 dedupe=k duplicate=true
    """),
    "tried again much later": ("dedupe-broken", "HIS-36", ALL, """
        b join
        b publish 1 x b.1 dedupe=k
        =b wait 1.5
        b publish 2 x b.1 dedupe=k
    """),
    "a duplicate of nothing": ("dedupe-broken", "HIS-41", ALL, """
        a join
        b join
        a publish 1 x a.1 dedupe=k
        !b publish 1 x b.1 dedupe=k duplicate=true
        =b publish 1 x b.1 dedupe=k
    """),
    "a pong that proves too much": ("fence-lie", "DEL-15", PLAIN, OPEN + """
        b publish 1 x b.1
        !a fence
        =a fence held=true
        a got event id=1 t=b.1
        a fence
    """),
    "served after its identity expired": ("auth-bypass", "SES-18", PLAIN, """
        a hello
        a welcome auth={"expires_in_ms":100}
        !a wait 1
        a call request 1 method=echo
        a got result id=1
    """),
    "blamed and honest": ("wrongly-closed", "ERR-12", PLAIN, """
        a join
        !a end 4003
        =a end 4300
    """),
    "blamed after a resume": ("wrongly-closed", "ERR-12", ALL, """
        a join
        a abort
        a hello seq=0
        a welcome resumed=true last_id=0
        !a end 4003
        =a end 1012
    """),
    "superseded by nobody": ("wrongly-closed", "RES-19", ALL, """
        a join
        =a hello seq=0
        a @1 end 4008
        !a hello seq=0
    """),
    "refused and honest": ("wrongly-closed", "RES-16", ALL, """
        a join
        a abort
        a hello seq=0
        !a welcome resumed=false resume_error={"code":"mismatch","last_id":0}
        =a welcome resumed=false resume_error={"code":"expired","last_id":0}
    """),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_kind_is_found_and_its_twin_is_not(name: str) -> None:
    """The wrong history shows this one kind and sentence, the legal one shows nothing at all."""
    kind, sentence, profiles, text = CASES[name]
    wrong, right = twins(text)
    found = judge(history(wrong, profiles)).found
    assert {(anomaly.kind, anomaly.requirement) for anomaly in found} == {(kind, sentence)}
    assert [anomaly.message for anomaly in judge(history(right, profiles)).found] == []


LEGAL = {
    "recovered from a place of which nothing is known": """
        a join
        b join
        b publish 1 x b.1 cursor=k1
        a call subscribe 1 channel=x since=k0
        a got open id=1 cursor=k0 recovered=true
        a got event id=1 t=b.1 cursor=k1
        a fence
    """,
    "two publishers whose order nobody proves": """
        a join
        b join
        c join
        a listen 1 x cursor=k0
        c listen 1 x cursor=k0
        b call publish 1 channel=x t=b.1
        c call publish 2 channel=x t=c.1 echo=false
        c got result id=2 data={"cursor":"k1"}
        c call subscribe 3 channel=x
        c got open id=3 cursor=k1
        c got event id=3 t=b.1 cursor=k2
        a got event id=1 t=c.1 cursor=k1
        a got event id=1 t=b.1 cursor=k2
    """,
    "tried again when its key was forgotten": """
        a join
        b join
        a listen 1 x
        b publish 1 x b.1 dedupe=k
        a got event id=1 t=b.1
        b wait 0.6
        b publish 2 x b.1 dedupe=k duplicate=true
        b wait 0.6
        a fence
        b publish 3 x b.1 dedupe=k
        a got event id=1 t=b.1
        a call subscribe 2 channel=x
        a got open id=2
        a got event id=2 t=b.1
        a fence
    """,
    "tried again by nobody in another session": """
        n join
        b join
        b listen 1 x
        n publish 1 x n.1 dedupe=k
        b got event id=1 t=n.1
        n abort
        n join
        n publish 1 x n.1 dedupe=k
        b got event id=1 t=n.1
        b fence
    """,
    "cancelled between a ping and its pong": """
        a join
        b join
        a listen 1 x
        b publish 1 x b.1
        a sent ping t=p
        a sent cancel of=1
        a got result id=1
        a got pong t=p
    """,
    "two gaps, and one event that only the first can stand for": """
        a join
        b join
        c join
        a listen 1 x
        c call publish 1 channel=x t=c.1
        b publish 1 x b.1
        b publish 2 x b.2
        b publish 3 x b.3
        b publish 4 x b.4
        a got event id=1 t=b.1
        a got gap id=1 reason=expired missed=1
        a got event id=1 t=b.3
        a got gap id=1 reason=expired missed=1
        a got event id=1 t=b.4
        c got result id=1
        c return 1 ok
        a fence
    """,
    "lost with its session, and nothing recovers": """
        a join
        b join
        a listen 1 x
        a abort
        b publish 1 x b.1
        a join
        a listen 1 x
        a fence
    """,
    "a fence before the publish has its result": """
        a join
        b join
        a listen 1 x
        b call publish 1 channel=x t=b.1
        a fence
        b got result id=1
        b return 1 ok
        a got event id=1 t=b.1
    """,
    "cancelled while events were under way": """
        a join
        b join
        a listen 1 x
        b call publish 1 channel=x t=b.1
        a sent cancel of=1
        a got event id=1 t=b.1
        a got result id=1
        b publish 2 x b.2
        a fence
    """,
    "the old connection is read on after a takeover": """
        a join
        b join
        a listen 1 x cursor=k0
        b call publish 1 channel=x t=b.1
        a hello seq=1
        a @1 got event id=1 t=b.1 seq=2
        a welcome resumed=true last_id=1
        a got event id=1 t=b.1 seq=2
        a @1 end 4008
        a fence
    """,
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_only_odd_is_not_accused(name: str) -> None:
    """Histories that look wrong and are not."""
    assert [anomaly.message for anomaly in judge(history(LEGAL[name])).found] == []


def test_every_kind_has_its_case() -> None:
    """No kind is without a history that shows it, but the one that other rules feed."""
    assert {kind for kind, *_ in CASES.values()} == set(KINDS) - {"broken-rule"}


def test_kinds_cite_what_exists() -> None:
    """Kinds name published sentences, and every sentence that a case shows is among those of its kind."""
    published = requirements.published()
    for kind in KINDS.values():
        assert all(id in published for id in kind.requirements), kind
    for name, (kind_name, sentence, *_) in CASES.items():
        assert sentence in KINDS[kind_name].requirements, name
