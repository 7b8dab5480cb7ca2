"""What somebody would write down who watches the server, and what must hold of it at every moment.

None of it is known to the server. The names of the invariants are those of the specification (07-resume),
with the requirement that each rests on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdfast_reference.protocol.outgoing import CALL_END, CHUNK, EVENT, GAP, REPLAYED, SUBSCRIPTION_END
from holdfast_reference.protocol.states import Phase, SessionState

from exploration.search import Violation

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from holdfast_reference.protocol.connection import Connection
    from holdfast_reference.protocol.session import Session


class Everything(NamedTuple):
    """The permissions of everybody; `age` says which of two credentials are newer.

    The hello of connection n shows those of age 2n, and an auth that was started while it was the newest
    connection those of age 2n + 1.
    """

    age: int

    def may(self, action: str, name: str) -> bool:
        return True


class Witness:
    """What has happened so far, as far as it matters later.

    Attributes:
        begun: every session that ever was.
        ran: what was carried out, by name.
        begins: by session and id, where the events of a subscription begin.
        pinged: by `t`, how many events there were when a ping was read.
        asked: by connection, the session that its hello asked for, and the attempt.
        newest: by session, the highest attempt that was decided on.
        unacked: by session, number and text of each frame that has a `seq` and no ack.
    """

    def __init__(self) -> None:
        self.begun: frozenset[str] = frozenset()
        self.ran: frozenset[str] = frozenset()
        self.begins: dict[tuple[str, int], int] = {}
        self.pinged: dict[str, int] = {}
        self.asked: dict[int, tuple[str, int]] = {}
        self.newest: dict[str, int] = {}
        self.unacked: dict[str, tuple[tuple[int, str], ...]] = {}

    def runs(self, name: str) -> None:
        """Something is carried out that must not be carried out twice."""
        if name in self.ran:
            raise Violation("I3: nothing is started twice [RES-31] [RES-40]", name)
        self.ran |= {name}

    def decides(self, link: int) -> None:
        """The server decides on the hello of a connection."""
        if link in self.asked:
            origin, attempt = self.asked[link]
            self.newest[origin] = max(attempt, self.newest.get(origin, 0))

    def leaves(self, origin: str, seq: int, text: str) -> None:
        """A frame with a `seq` leaves: the next one, or one that left before and has not changed."""
        known = dict(self.unacked.get(origin, ()))
        if known.get(seq, text) != text:
            raise Violation("I2: a seq is the name of one frame [RES-29]", f"{known[seq]} became {text}")
        if seq not in known and known and seq != max(known) + 1:
            raise Violation("I2: seq counts without a hole [DEL-20]", text)
        known[seq] = text
        self.unacked[origin] = tuple(sorted(known.items()))

    def ended(self, origin: str) -> None:
        """A session is over."""
        self.unacked.pop(origin, None)
        self.newest.pop(origin, None)
        self.begins = {key: begins for key, begins in self.begins.items() if key[0] != origin}

    def check(self, sessions: Mapping[str, Session], links: Mapping[int, Connection]) -> None:
        """Look at the whole server.

        Raises:
            Violation: it must not be so.
        """
        for origin, session in sessions.items():
            self._check_session(origin, session)
        attached: set[str] = set()
        for link, connection in links.items():
            if connection.phase not in (Phase.NEW, Phase.CLOSED):
                self._check_link(link, connection, attached)

    def _check_session(self, origin: str, session: Session) -> None:
        outgoing, limits = session.outgoing, session.limits
        kept = tuple((seq, text) for seq, text in self.unacked.get(origin, ()) if seq > outgoing.acked)
        self.unacked[origin] = kept
        if [text for _, text in kept] != [text.decode() for text in outgoing.unacked]:
            raise Violation("I2: what is not acknowledged is kept [DEL-21]", origin)
        if outgoing.sent - outgoing.acked > limits.window:
            raise Violation("I4: no more than a window is not acknowledged [DEL-22]", origin)
        counts = outgoing.counts
        slots = len(session.exchanges.running) + counts[CALL_END] + counts[SUBSCRIPTION_END]
        one_each = (counts[GAP], counts[REPLAYED], counts[CHUNK])
        if counts[EVENT] > limits.queue or max(one_each) > slots:
            raise Violation("I4: the queue is bounded [DEL-04] [DEL-09] [DEL-11] [HIS-06]", f"{counts}")
        if (session.state is SessionState.ATTACHED) is (session.attached is None):
            raise Violation("I5: a session that is kept has a connection, or a time to end [RES-10]", origin)

    def _check_link(self, link: int, connection: Connection, attached: set[str]) -> None:
        session = connection.session
        if session.origin in attached:
            raise Violation("I5: one connection is attached at most [RES-30]", session.origin)
        attached.add(session.origin)
        origin, attempt = self.asked.get(link, ("", 0))
        if origin == session.origin and attempt < self.newest.get(origin, 0):
            raise Violation("I5: the newest attempt wins [RES-19]", f"attempt {attempt} has {origin}")
        assert session.grant is not None
        shown = session.grant.permissions
        assert isinstance(shown, Everything)
        if shown.age < 2 * link:
            detail = f"connection {link} goes by those of age {shown.age}"
            raise Violation("the newest credentials count [RES-34] [RES-42]", detail)

    def copy(self) -> Witness:
        twin = Witness.__new__(Witness)
        twin.begun, twin.ran, twin.begins = self.begun, self.ran, self.begins.copy()
        twin.pinged, twin.asked = self.pinged.copy(), self.asked.copy()
        twin.newest, twin.unacked = self.newest.copy(), self.unacked.copy()
        return twin

    def key(self) -> Hashable:
        counted = (self.begins, self.pinged, self.asked, self.newest, self.unacked)
        return (self.begun, self.ran, *(frozenset(each.items()) for each in counted))
