"""Mutants that only the ambient rules of sessions and cursors have to notice, whatever a check looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast_reference.protocol.outgoing import Outgoing
from holdfast_reference.protocol.session import Session

from mutants.harness import Patch, mutant
from mutants.tools import on_write

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.events import Event

    from mutants.tools import Row

CUT = ["res/clean-resume", "res/unacknowledged-again"]
REFUSED = ["res/unknown-session", "res/ended-session"]


def on_welcome(patch: Patch, change: Callable[[Row], Row | None]) -> None:
    """Let `change(welcome)` replace each welcome."""
    on_write(patch, lambda frame: change(frame) if frame["type"] == "welcome" else None)


@mutant(
    "ambient/welcome-says-nothing",
    violates="RES-01",
    killed_by="res/every-welcome-has-a-session",
    says="resumed None",
    during=["sub/*"],
)
def _(patch: Patch) -> None:
    """Welcome does not say whether the session was resumed."""
    on_welcome(patch, lambda frame: {k: v for k, v in frame.items() if k != "resumed"})


@mutant(
    "ambient/one-name-for-all",
    violates="RES-02",
    killed_by="res/names-are-unique",
    says="a name came again",
    during=["sub/*"],
)
def _(patch: Patch) -> None:
    """All sessions have the same name."""
    on_welcome(patch, lambda frame: frame | {"session": "s"})


@mutant(
    "ambient/resumed-unasked",
    violates="RES-04",
    killed_by="res/nothing-resumed-unasked",
    says="resumed True",
    during=["sub/*"],
)
def _(patch: Patch) -> None:
    """Every session is called resumed."""
    on_welcome(patch, lambda frame: frame | {"resumed": True, "last_id": 0})


@mutant(
    "ambient/refused-in-silence",
    violates="RES-26",
    killed_by="res/refused-is-said",
    says="resume_error is None",
    during=REFUSED,
)
def _(patch: Patch) -> None:
    """A refused resume is answered like a first hello."""
    on_welcome(patch, lambda frame: {k: v for k, v in frame.items() if k != "resume_error"})


@mutant(
    "ambient/last-id-of-the-future",
    violates="RES-27",
    killed_by="res/accepted-is-said",
    says="last_id",
    during=CUT,
)
def _(patch: Patch) -> None:
    """`last_id` is one that the client has never used."""

    def change(frame: Row) -> Row | None:
        return frame | {"last_id": cast("int", frame["last_id"]) + 1000} if frame.get("resumed") else None

    on_welcome(patch, change)


@mutant(
    "ambient/sent-again-otherwise",
    violates="RES-29",
    killed_by="res/sent-again-unchanged",
    says="before",
    during=["res/*"],
)
def _(patch: Patch) -> None:
    """What is sent again is made anew, and differs."""

    def attach(original: Callable[..., None], self: Outgoing) -> None:
        for n, text in enumerate(self.unacked):
            self.unacked[n] = text[:-1] + b',"again":true}'
        original(self)

    patch.wrap(Outgoing, "attach", attach)


@mutant(
    "ambient/limits-of-the-day",
    violates="RES-37",
    killed_by="res/limits-come-again",
    says="the limits were",
    during=CUT,
)
def _(patch: Patch) -> None:
    """A resumed session is told other limits."""

    def change(frame: Row) -> Row | None:
        limits = cast("Row", frame["limits"])
        return frame | {"limits": limits | {"max_inflight": 1}} if frame.get("resumed") else None

    on_welcome(patch, change)


@mutant(
    "ambient/events-without-cursors",
    violates="HIS-01",
    killed_by="his/cursor-on-every-event",
    says="without a cursor",
    during=["sub/*"],
)
def _(patch: Patch) -> None:
    """Only `open` carries a cursor."""
    on_write(
        patch,
        lambda frame: {k: v for k, v in frame.items() if k != "cursor"} if frame["type"] == "event" else None,
    )


@mutant(
    "ambient/recovered-unasked",
    violates="HIS-14",
    killed_by="his/recovered-only-when-asked",
    says="speaks of a recovery",
    during=["sub/*"],
)
def _(patch: Patch) -> None:
    """Every subscription is called recovered."""
    on_write(patch, lambda frame: frame | {"recovered": True} if frame["type"] == "open" else None)


@mutant(
    "ambient/gaps-without-cursors",
    violates="HIS-19",
    killed_by="his/gaps-have-cursors",
    says="without a cursor",
    during=["del/event-too-large", "his/*"],
)
def _(patch: Patch) -> None:
    """No gap carries a cursor."""
    on_write(
        patch,
        lambda frame: {k: v for k, v in frame.items() if k != "cursor"} if frame["type"] == "gap" else None,
    )


@mutant(
    "ambient/two-orders-of-cursors",
    violates="SUB-08",
    killed_by="sub/one-order-of-cursors",
    says="elsewhere",
    during=["sub/*"],
)
def _(patch: Patch) -> None:
    """Every other session gets pairs of events the other way round."""
    kept: dict[tuple[Session, int], Event] = {}
    odd: dict[Session, bool] = {}

    def deliver(original: Callable[..., bool], self: Session, id: int, event: Event, *, lossy: bool) -> bool:
        if not odd.setdefault(self, len(odd) % 2 == 1):
            return original(self, id, event, lossy=lossy)
        first = kept.pop((self, id), None)
        if first is None:
            kept[self, id] = event
            return True
        place = self.outgoing.places.get(id)
        original(self, id, event, lossy=lossy)
        if place is not None:
            place.position = 0
        return original(self, id, first, lossy=lossy)

    patch.wrap(Session, "deliver", deliver)
