"""Sessions that outlive connections: what is kept, who gets it back, and what is told of the rest."""

from __future__ import annotations

import pytest
from holdfast_reference.protocol import ErrorCode, ExchangeError, Limits, Settings
from holdfast_reference.protocol.effects import Authenticate, Ended, Stop, Supersede
from holdfast_reference.protocol.states import SessionState
from tests.driving import EVERY, Frame, Peer, Server, code


def server(*, window: int = 256, resume_ms: int = 400) -> Server:
    return Server(Settings(limits=Limits(window=window, resume_ms=resume_ms), suspended=2, tombstones=2))


def arrive(server: Server, conn: str = "c-1", *profiles: str, token: str = "alice", **hello: object) -> Peer:
    """A connection that said hello."""
    peer = Peer(server=server, conn=conn)
    peer.hello(*(profiles or EVERY), token=token, **hello)
    return peer


def again(
    server: Server,
    conn: str,
    seq: int,
    attempt: int = 1,
    *profiles: str,
    of: str = "c-1",
    token: str = "alice",
    **hello: object,
) -> tuple[Peer, list[Frame]]:
    """A connection that resumes the session which began on `of`, and what it is sent at once."""
    peer = Peer(server=server, conn=conn)
    wanted = {"session": f"secret of {of}", "seq": seq, "attempt": attempt}
    return peer, peer.hello(*(profiles or EVERY), token=token, resume=wanted, **hello)


def subscribe(id: int, channel: str = "room", **fields: object) -> Frame:
    return {"type": "subscribe", "id": id, "channel": channel, **fields}


def request(id: int, method: str = "hang", **fields: object) -> Frame:
    return {"type": "request", "id": id, "method": method, **fields}


def refusal(welcome: Frame) -> object:
    assert welcome["resumed"] is False
    assert "last_id" not in welcome
    return welcome["resume_error"]


class TestWelcome:
    def test_a_session_that_can_be_resumed_has_a_name(self) -> None:
        """[RES-01] [RES-04]."""
        (welcome,) = Peer(server=server()).hello(*EVERY)
        assert (welcome["session"], welcome["resumed"]) == ("secret of c-1", False)
        assert "resume_error" not in welcome

    def test_without_the_profile_it_has_none(self) -> None:
        """[VER-07]: and what `resume` holds is ignored."""
        (welcome,) = Peer(server=server()).hello("ack", resume=5)
        assert welcome.keys().isdisjoint({"session", "resumed", "resume_error", "last_id"})

    @pytest.mark.parametrize(
        "resume",
        [5, {}, {"session": "s", "seq": 0}, {"session": "é" * 129, "seq": 0, "attempt": 1}],
    )
    def test_a_malformed_resume_closes(self, resume: object) -> None:
        """[ENV-22]: before the credentials are looked at."""
        peer = Peer(server=server())
        peer.slow_to_authenticate = True
        peer.hello(*EVERY, resume=resume)
        assert peer.closed == 4005

    def test_the_client_may_lower_the_window(self) -> None:
        """[LIM-17] [LIM-18] [RES-37]: once, for the life of the session."""
        shared = server()
        for conn, wish, window in (("c-1", 5, 5), ("c-2", 1000, 256)):
            (welcome,) = Peer(server=shared, conn=conn).hello(*EVERY, limits={"window": wish})
            assert welcome["limits"]["window"] == window  # type: ignore[index]  # a table
        _, (welcome,) = again(shared, "c-3", 0, limits={"window": 2})
        assert welcome["limits"]["window"] == 5  # type: ignore[index]  # a table

    @pytest.mark.parametrize("wish", [0, -1, 1.5, "1", None])
    def test_a_window_that_is_none_closes(self, wish: object) -> None:
        """[LIM-16]."""
        peer = Peer(server=server())
        peer.hello(*EVERY, limits={"window": wish})
        assert peer.closed == 4005


class TestCut:
    def test_nothing_is_lost_and_nothing_changes(self) -> None:
        """[RES-27] [RES-28] [RES-29] [RES-38]: what was sent comes again unchanged, then what is new."""
        shared = server()
        peer = arrive(shared)
        first = peer.send(subscribe(1), request(2, "echo", data=5))
        shared.publish("room", 1)
        first += peer.read()
        peer.lose()
        shared.publish("room", 2)

        _, (welcome, *frames) = again(shared, "c-2", 1)

        assert (welcome["resumed"], welcome["session"], welcome["last_id"]) == (True, "secret of c-1", 2)
        assert frames[:-1] == first[1:]
        assert [frame["seq"] for frame in frames] == [2, 3, 4]
        assert frames[-1]["data"] == 2

    def test_work_goes_on_and_its_end_waits(self) -> None:
        """[RES-07] [RES-08]."""
        shared = server()
        peer = arrive(shared)
        peer.send(request(1), request(2, timeout_ms=100))
        peer.lose()
        session = peer.session
        assert session.deadline() == shared.now + 0.1
        shared.now += 0.1
        assert shared.sessions.tick(session, shared.now) == [Stop(2)]
        session.succeed(1, None)
        assert session.outgoing.sent == 0
        _, frames = again(shared, "c-2", 0)
        assert [(frame["type"], frame["id"]) for frame in frames[1:]] == [("error", 2), ("result", 1)]

    def test_a_resume_can_be_repeated(self) -> None:
        """I7: the welcome was lost."""
        shared = server()
        arrive(shared).send(subscribe(1))
        second, frames = again(shared, "c-2", 0, 1)
        second.lose()
        _, same = again(shared, "c-3", 0, 2)
        assert same[1:] == frames[1:]

    def test_it_is_over_in_time(self) -> None:
        """[RES-10] [RES-20]: and remembered as long again [RES-12]."""
        shared = server()
        peer = arrive(shared)
        peer.send(request(1))
        peer.lose()
        shared.now += 0.4
        assert shared.sessions.tick(peer.session, shared.now) == [Ended("c-1")]
        _, (welcome,) = again(shared, "c-2", 0)
        assert refusal(welcome) == {"code": "expired", "last_id": 1}
        shared.now += 0.4
        _, (welcome,) = again(shared, "c-3", 0, 2)
        assert refusal(welcome) == {"code": "not_found"}

    def test_a_resume_that_comes_before_the_sweeper_is_late_all_the_same(self) -> None:
        shared = server()
        arrive(shared).lose()
        shared.now += 0.4
        peer, (welcome,) = again(shared, "c-2", 0)
        assert refusal(welcome) == {"code": "expired", "last_id": 0}
        assert Ended("c-1") in peer.effects

    def test_a_stale_resume_that_comes_before_the_sweeper_hides_no_end(self) -> None:
        """It is closed, and the session still ends: for its owner too, whose handlers would run for ever."""
        shared = server()
        peer = arrive(shared)
        peer.lose()
        shared.now += 0.3
        again(shared, "c-2", 0, 3)[0].lose()
        shared.now += 0.4
        stale, _ = again(shared, "c-3", 0, 2)
        assert stale.closed == 4008
        assert shared.sessions.tick(peer.session, shared.now) == [Ended("c-1")]

    def test_resume_ms_begins_anew(self) -> None:
        shared = server()
        arrive(shared).lose()
        shared.now += 0.3
        peer, _ = again(shared, "c-2", 0)
        assert peer.session.deadline() > shared.now + 1
        peer.lose()
        assert peer.session.deadline() == pytest.approx(shared.now + 0.4)

    def test_an_auth_ends_with_its_connection(self) -> None:
        """[RES-47]: what the authenticator says later has no effect."""
        shared = server()
        peer = arrive(shared)
        peer.slow_to_authenticate = True
        peer.send({"type": "auth", "id": 1, "token": "narrow"})
        asked = peer.effects[-1]
        assert isinstance(asked, Authenticate)
        second, (_, error) = again(shared, "c-2", 0)
        assert (error["id"], code([error])) == (1, "cancelled")
        peer.authenticate(asked)
        assert second.session.grant is not None
        assert second.session.grant.permissions.may("subscribe", "restricted/x")

    def test_the_rate_goes_on_where_it_was(self) -> None:
        shared = server()
        peer = arrive(shared, token="limited")
        assert code(peer.send(*(request(n, "echo") for n in (1, 2, 3)))[2:]) == "rate_limited"
        peer.lose()
        second, _ = again(shared, "c-2", 3, token="limited")
        assert code(second.send(request(4, "echo"))) == "rate_limited"


class TestFates:
    @pytest.mark.parametrize("how", [1001, 1006, 1011, 3000, 4500, 4510])
    def test_kept(self, how: int) -> None:
        """[RES-05]."""
        peer = arrive(server())
        peer.lose(how)
        assert peer.session.state is SessionState.SUSPENDED

    @pytest.mark.parametrize("how", [1000, 1005, 1002, 1009, 4501])
    def test_ended(self, how: int) -> None:
        """[RES-06] [RES-21]."""
        shared = server()
        peer = arrive(shared)
        peer.send(request(1))
        peer.lose(how)
        assert peer.effects[-2] == Ended("c-1")
        _, (welcome,) = again(shared, "c-2", 0)
        assert refusal(welcome) == {"code": "ended", "last_id": 1}

    @pytest.mark.parametrize(("how", "kept"), [(4200, True), (4302, True), (4003, False), (4301, False)])
    def test_closed_by_the_server(self, how: int, kept: bool) -> None:
        peer = arrive(server())
        peer.apply(peer.core.close(how))
        assert (peer.session.state is SessionState.SUSPENDED) is kept

    def test_without_the_profile_every_end_is_the_end(self) -> None:
        peer = arrive(server(), "c-1", "ack", "rpc")
        peer.lose()
        assert peer.session.state is SessionState.ENDED

    def test_what_may_leave_leaves_before_the_server_closes(self) -> None:
        """And counts as sent: it comes again with its number."""
        shared = server(window=2)
        peer = arrive(shared)
        for n in range(3):
            peer.apply(peer.core.receive(b'{"type":"request","id":%d,"method":"echo"}' % (n + 1), shared.now))
        peer.apply(peer.core.close(4200, now=shared.now))
        assert [frame["seq"] for frame in peer.read()] == [1, 2]
        _, frames = again(shared, "c-2", 0)
        assert [frame["seq"] for frame in frames[1:]] == [1, 2]


class TestTakeover:
    def test_the_older_connection_is_closed_and_deaf(self) -> None:
        """[RES-30] [RES-31] [RES-32] [RES-33]."""
        shared = server()
        older = arrive(shared)
        older.send(subscribe(1))
        newer, frames = again(shared, "c-2", 1)
        assert (older.closed, frames[0]["resumed"]) == (4008, True)
        assert isinstance(newer.effects[1], Supersede)
        assert older.send(request(9, "echo")) == []
        shared.publish("room", 1)
        assert older.read() == []
        assert [frame["type"] for frame in newer.read()] == ["event"]
        assert newer.session.exchanges.last_id == 1

    def test_the_newest_attempt_wins(self) -> None:
        """[RES-19]: whatever the order of arrival; the healthy connection does not notice."""
        shared = server()
        arrive(shared).lose()
        healthy, _ = again(shared, "c-2", 0, 5)
        for attempt in (5, 4, 1):
            stale, frames = again(shared, f"c-9{attempt}", 0, attempt)
            assert (stale.closed, frames) == (4008, [])
        assert healthy.closed is None
        assert healthy.send(request(1, "echo")) == [{"type": "result", "id": 1, "seq": 1}]

    @pytest.mark.parametrize(("seq", "profiles"), [(2, EVERY), (4, EVERY), (3, ("ack", "resume"))])
    def test_numbers_or_profiles_that_do_not_agree_end_the_session(
        self, seq: int, profiles: tuple[str, ...]
    ) -> None:
        """[RES-22] [RES-23] [RES-24]: and attempts are spent all the same."""
        shared = server()
        older = arrive(shared)
        older.send(*(request(n, "echo") for n in (1, 2, 3)))
        older.send({"type": "ack", "seq": 3})
        peer, (welcome,) = again(shared, "c-2", seq, 7, *profiles)
        assert refusal(welcome) == {"code": "mismatch", "last_id": 3}
        assert welcome["session"] == "secret of c-2"
        assert older.closed == 4008
        assert Ended("c-1") in peer.effects
        stale, _ = again(shared, "c-3", 3, 7)
        assert stale.closed == 4008
        _, (welcome,) = again(shared, "c-4", 3, 8)
        assert refusal(welcome) == {"code": "ended", "last_id": 3}
        assert peer.send(request(1, "echo"))[0]["id"] == 1

    def test_bad_credentials_touch_nothing(self) -> None:
        """[RES-17]."""
        shared = server()
        older = arrive(shared)
        stranger, frames = again(shared, "c-2", 0, token="nobody")
        assert (stranger.closed, frames, older.closed) == (4101, [], None)
        _, (welcome,) = again(shared, "c-3", 0)
        assert welcome["resumed"] is True


class TestWhose:
    def test_another_s_session_looks_like_none(self) -> None:
        """[RES-18]: living or dead, and its attempts are not spent."""
        shared = server()
        alive, dead = arrive(shared), arrive(shared, "c-2")
        dead.lose(1000)
        for of in ("c-1", "c-2", "c-77"):
            _, (welcome,) = again(shared, f"by bob {of}", 0, 9, of=of, token="bob")
            assert refusal(welcome) == {"code": "not_found"}
        assert alive.closed is None
        _, (welcome,) = again(shared, "c-3", 0, 1)
        assert welcome["resumed"] is True

    def test_without_credentials_the_name_is_all_there_is(self) -> None:
        """And the session stays whose it was."""
        shared = server()
        arrive(shared, token="anybody").lose()
        _, (welcome,) = again(shared, "c-2", 0, token="alice")
        assert refusal(welcome) == {"code": "not_found"}
        peer, (welcome,) = again(shared, "c-3", 0, token="anybody else")
        assert welcome["resumed"] is True
        assert peer.session.grant is not None
        assert peer.session.grant.principal == "anonymous:1"

    def test_permissions_are_those_of_the_new_hello(self) -> None:
        """[RES-34] [RES-35]: queued events go, numbered ones come again."""
        shared = server()
        peer = arrive(shared)
        peer.send(subscribe(1, "restricted/a"), subscribe(2))
        shared.publish("restricted/a", 1)
        peer.read()
        peer.lose()
        shared.publish("restricted/a", 2)
        second, frames = again(shared, "c-2", 2, token="narrow")
        assert [frame.get("data") or code([frame]) for frame in frames[1:]] == [1, "forbidden"]
        assert code(second.send(subscribe(3, "restricted/b"))) == "forbidden"

    def test_the_expiry_is_that_of_the_new_hello(self) -> None:
        """[RES-34] [RES-36]."""
        shared = server(resume_ms=5000)
        peer = arrive(shared, token="alice brief")
        peer.at(0.5)
        assert peer.closed == 4100
        second, (welcome,) = again(shared, "c-2", 0)
        assert welcome["auth"] == {"principal": "alice"}
        second.at(10)
        assert second.closed is None

    def test_forgotten_sessions_are_not_found(self) -> None:
        """Attached ones go on until their connection ends, suspended ones end at once."""
        shared = server()
        peer, other = arrive(shared), arrive(shared, "c-2")
        other.lose()
        assert shared.sessions.forget(peer.session) == ()
        assert shared.sessions.forget(other.session) == [Ended("c-2")]
        assert peer.send(request(1, "echo"))[0]["type"] == "result"
        peer.lose()
        assert peer.session.state is SessionState.ENDED
        for of in ("c-1", "c-2"):
            _, (welcome,) = again(shared, f"after {of}", 0, of=of)
            assert refusal(welcome) == {"code": "not_found"}


class TestBounds:
    def test_the_longest_suspended_ends_first(self) -> None:
        """[RES-11]: of one principal; it is told as an expiry [RES-20]."""
        shared = server()
        arrive(shared, "bob", token="bob").lose()
        peers = [arrive(shared, f"c-{n}") for n in range(3)]
        for peer in peers:
            peer.lose()
        assert [effect for effect in peers[2].effects if isinstance(effect, Ended)] == [Ended("c-0")]
        _, (welcome,) = again(shared, "new", 0, of="c-0")
        assert refusal(welcome) == {"code": "expired", "last_id": 0}
        _, (welcome,) = again(shared, "bob again", 0, of="bob", token="bob")
        assert welcome["resumed"] is True

    def test_the_oldest_tombstone_goes_first(self) -> None:
        shared = server()
        for n in range(3):
            arrive(shared, f"c-{n}").lose(1000)
        told = []
        for n in range(3):
            _, (welcome,) = again(shared, f"new {n}", 0, of=f"c-{n}")
            told.append(refusal(welcome))
        ended = {"code": "ended", "last_id": 0}
        assert told == [{"code": "not_found"}, ended, ended]

    def test_everybody_without_credentials_is_one_principal_here(self) -> None:
        shared = server()
        for n in range(3):
            arrive(shared, f"c-{n}", token="anybody" if n else "anybody else").lose()
        _, (welcome,) = again(shared, "new", 0, of="c-0", token="anybody")
        assert refusal(welcome) == {"code": "expired", "last_id": 0}

    def test_nothing_stays_of_sessions_that_came_and_went(self) -> None:
        shared = server()
        for n in range(200):
            peer = arrive(shared, f"c-{n}", token=("alice", "bob", "anybody")[n % 3])
            peer.lose(1006 if n % 2 else 1000)
        shared.now += 1
        for peer in shared.peers.values():
            if peer.session.state is SessionState.SUSPENDED:
                shared.sessions.tick(peer.session, shared.now)
        shared.now += 1
        arrive(shared, "last").lose(1000)
        sessions = shared.sessions
        assert (len(sessions._sessions), len(sessions._suspended)) == (0, 0)
        assert (len(sessions._tombstones), len(sessions._graves)) == (1, 1)


def test_a_copy_of_everything_goes_its_own_way() -> None:
    """Sessions and connections that are copied together stay together."""
    shared = server()
    peer, other = arrive(shared), arrive(shared, "c-2")
    peer.send(subscribe(1))
    other.lose()
    before = shared.sessions.key(), peer.core.key()
    twins: dict[object, object] = {}
    sessions = shared.sessions.copy(twins)  # type: ignore[arg-type]  # of sessions
    core = peer.core.copy(sessions, twins)  # type: ignore[arg-type]  # as above
    assert (sessions.key(), core.key()) == before
    assert core.session.attached is core
    assert core.session is not peer.session

    core.closed(1006, shared.now)
    assert core.session.state is SessionState.SUSPENDED
    assert (shared.sessions.key(), peer.core.key()) == before
    core.session.fail(1, ExchangeError(ErrorCode.INTERNAL, ""))
    assert peer.session.is_running(1)
