"""A tiny server that makes no mistakes, played at random: nothing that it does is ever an anomaly."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_conformance.explore.judge import judge
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.histories import history

CLIENTS = "abc"


@dataclass
class Session:
    """What the model knows of one client: its session, its subscription and what is queued for it."""

    id: int = 0
    seq: int = 0
    sub: int = 0
    place: int = 0
    up: bool = False
    queue: list[str] = field(default_factory=list)
    unacked: list[tuple[int, str]] = field(default_factory=list)
    lost: int = 0


class Model:
    """One channel with a log, three clients, profiles ack, resume and history; `lines` is the history."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log: list[str] = []
        self.sessions = {name: Session() for name in CLIENTS}
        for name in CLIENTS:
            self.join(name)

    def join(self, name: str) -> None:
        """Begin a new session, and subscribe since the last place that the client saw."""
        old = self.sessions[name]
        since = old.place
        subscribed_before = old.sub > 0
        self.lines += [f"{name} hello", f"{name} welcome resumed=false"]
        session = self.sessions[name] = Session(id=1, sub=1, place=since, up=True)
        recovered = f" since=k{since}" if subscribed_before and since else ""
        place = since if recovered else len(self.log)
        session.place = place
        self.lines.append(f"{name} call subscribe 1 channel=x{recovered}")
        answer = " recovered=true" if recovered else ""
        session.queue.append(f"open id=1 cursor=k{place}{answer}")
        session.queue += [self.event(at) for at in range(place, len(self.log))]

    def event(self, at: int) -> str:
        """The event behind a place, as a frame."""
        return f"event id=1 t={self.log[at]} cursor=k{at + 1}"

    def publish(self, name: str) -> None:
        """Publish one event, which reaches the queues of all at once."""
        session = self.sessions[name]
        if not session.up:
            return
        session.id += 1
        token = f"{name}.{len(self.log)}"
        self.lines.append(f"{name} call publish {session.id} channel=x t={token}")
        self.log.append(token)
        for other in self.sessions.values():
            if other.sub:
                other.queue.append(self.event(len(self.log) - 1))
        session.queue.append(f'result id={session.id} data={{"cursor":"k{len(self.log)}"}}')

    def read(self, name: str) -> None:
        """Let the next frame leave, and arrive; the window has room for eight."""
        session = self.sessions[name]
        if not session.up or not session.queue or len(session.unacked) >= 8:
            return
        session.seq += 1
        frame = session.queue.pop(0)
        session.unacked.append((session.seq, frame))
        self.arrive(name, session.seq, frame)

    def arrive(self, name: str, seq: int, frame: str) -> None:
        """A frame has been read by the client."""
        self.lines.append(f"{name} got {frame} seq={seq}")
        session = self.sessions[name]
        if frame.startswith("event"):
            session.place = int(frame.rpartition("=k")[2])
        elif frame.startswith("result"):
            self.lines.append(f"{name} return {frame.split()[1].removeprefix('id=')} ok")

    def ack(self, name: str) -> None:
        """Acknowledge everything."""
        session = self.sessions[name]
        if session.up and session.unacked:
            self.lines.append(f"{name} sent ack seq={session.unacked[-1][0]}")
            session.unacked.clear()

    def cut(self, name: str) -> None:
        """Cut the connection; what left and was not read is lost on the way."""
        session = self.sessions[name]
        if not session.up:
            return
        if session.queue and len(session.unacked) < 8:  # one frame leaves and never arrives
            session.seq += 1
            session.unacked.append((session.seq, session.queue.pop(0)))
            session.lost = 1
        session.up = False
        self.lines.append(f"{name} abort")

    def resume(self, name: str) -> None:
        """Resume the session: what had left and is not acknowledged comes again."""
        session = self.sessions[name]
        if session.up:
            return
        got = session.seq - session.lost
        self.lines += [f"{name} hello seq={got}", f"{name} welcome resumed=true last_id={session.id}"]
        session.up = True
        for seq, frame in session.unacked:
            if seq > got:
                self.arrive(name, seq, frame)
        session.unacked = [(seq, frame) for seq, frame in session.unacked if seq > got]
        session.lost = 0

    def fresh(self, name: str) -> None:
        """Come back in a new session, and recover by the last cursor."""
        if not self.sessions[name].up:
            self.join(name)

    def end(self) -> str:
        """Let everything arrive, and prove it by a fence; return the history."""
        for name, session in self.sessions.items():
            self.resume(name)
            while session.queue:
                self.ack(name)
                self.read(name)
            self.lines.append(f"{name} fence")
        return "\n".join(self.lines)


ACTS = ("publish", "publish", "publish", "read", "read", "read", "read", "ack", "cut", "resume", "fresh")


@settings(deadline=None, max_examples=150, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from(CLIENTS)), max_size=80))
@example([("publish", "a"), ("read", "b"), ("read", "b"), ("cut", "b"), ("publish", "a"), ("fresh", "b")])
def test_a_server_without_faults_is_never_accused(acts: list[tuple[str, str]]) -> None:
    """Whatever happens in whatever order, the judge finds nothing, and one order for all."""
    model = Model()
    for act, name in acts:
        getattr(model, act)(name)
    judgement = judge(history(model.end()))
    assert [anomaly.message for anomaly in judgement.found] == []
    assert judgement.order in ("total", "per-channel")
    assert judgement.counts["deliveries"] >= judgement.counts["publishes"]


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from(CLIENTS)), max_size=60), st.data())
def test_a_delivery_that_is_taken_away_is_always_missed(
    acts: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Leave out one event that was published while a client surely listened, and it is missed."""
    model = Model()
    model.publish("a")
    for act, name in acts:
        getattr(model, act)(name)
    model.resume("b")
    while model.sessions["b"].queue:
        model.ack("b")
        model.read("b")
    model.publish("a" if model.sessions["a"].up else "b")
    before = len(model.lines)
    lines = model.end().splitlines()
    events = [at for at, line in enumerate(lines) if at >= before and line.startswith("b got event")]
    gone = data.draw(st.sampled_from(events))
    found = judge(history("\n".join(lines[:gone] + lines[gone + 1 :]))).found
    assert found
