"""Drawing plans with Hypothesis: whole plans as values, the same ones for the same seed.

Hypothesis never runs them. It is good at values that are odd together, and nothing but values is wanted here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from .plan import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .plan import Client, Plan, Step

__all__ = ["draw", "plans"]

BATCH = 10
"""Plans that are drawn at once."""

CHANNELS = (["open"], ["open", "open"], ["open", "unlogged"])
NAMES = "abcd"

Drawn = st.SearchStrategy[dict[str, object]]
"""A strategy whose values are steps; what stands in them is checked by the schema of plans."""

_channel = st.integers(0, 1)
_short = st.sampled_from((0, 1, 3, 10))
_long = st.sampled_from((5, 20, 60))
_pad = st.sampled_from((0, 0, 0, 20, 300, 5000))

_talk: Drawn = st.one_of(
    st.fixed_dictionaries(
        {"do": st.just("publish"), "channel": _channel, "count": st.sampled_from((1, 1, 2, 5, 12))},
        optional={"pad": _pad, "echo": st.just(False)},
    ),
    st.fixed_dictionaries(
        {"do": st.just("publish"), "channel": _channel, "count": st.just(1), "key": st.just(True)}
    ),
    st.just({"do": "again"}),
    st.fixed_dictionaries({"do": st.just("request"), "pad": _pad}),
    st.fixed_dictionaries({"do": st.just("think"), "ms": _short}),
    st.just({"do": "wait"}),
)
_listen: Drawn = st.one_of(
    st.fixed_dictionaries({"do": st.just("subscribe"), "channel": _channel}),
    st.fixed_dictionaries({"do": st.just("subscribe"), "channel": _channel, "since": st.just(True)}),
    st.fixed_dictionaries(
        {"do": st.just("subscribe"), "channel": _channel, "since": st.just(True), "require": st.just(True)}
    ),
    st.fixed_dictionaries({"do": st.just("subscribe"), "channel": _channel, "last": st.sampled_from((1, 3))}),
    st.fixed_dictionaries({"do": st.just("subscribe"), "channel": st.just(0), "pattern": st.just(True)}),
    st.fixed_dictionaries({"do": st.just("cancel"), "nth": st.integers(0, 3)}),
    st.fixed_dictionaries(
        {"do": st.just("history"), "channel": _channel, "way": st.sampled_from(("newest", "after", "back"))}
    ),
    st.just({"do": "ping"}),
    st.just({"do": "auth"}),
)
_cut: Drawn = st.one_of(
    st.fixed_dictionaries(
        {"do": st.sampled_from(("abort", "abort", "close", "half-close")), "ms": _short},
        optional={"lost": st.sampled_from((1, 2)), "fresh": st.just(True)},
    ),
    st.fixed_dictionaries({"do": st.just("abort"), "ms": _long}),
    st.just({"do": "takeover"}),
)
_wire: Drawn = st.one_of(
    st.fixed_dictionaries({"do": st.just("stall"), "ms": _long}),
    st.fixed_dictionaries({"do": st.just("throttle"), "ms": _long, "pad": st.sampled_from((64, 1000))}),
    st.fixed_dictionaries({"do": st.just("hold"), "ms": _long}),
    st.fixed_dictionaries({"do": st.just("hold"), "ms": _long}),
    st.fixed_dictionaries({"do": st.just("split"), "ms": _short, "pad": st.sampled_from((1, 7))}),
    st.fixed_dictionaries({"do": st.just("join"), "ms": _short}),
)
_first: Drawn = st.fixed_dictionaries({"do": st.just("subscribe"), "channel": _channel})
_step = st.one_of(_talk, _talk, _talk, _listen, _cut, _wire)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan: two to four clients, most of which begin by subscribing."""
    clients: list[Client] = []
    for name in NAMES[: draw(st.integers(2, 4))]:
        identity = draw(st.sampled_from(("first", "second", "first", "second", "small", "brief")))
        steps = draw(st.lists(_first, min_size=0, max_size=2)) + draw(
            st.lists(_step, min_size=3, max_size=24)
        )
        if identity == "brief" and draw(st.booleans()):  # to be there when the identity expires
            steps += [{"do": "think", "ms": 1200}, {"do": "request", "pad": 0}]
        client: Client = {"name": name, "identity": identity, "steps": cast("list[Step]", steps)}
        window = draw(st.sampled_from((0, 0, 1, 2, 6)))
        if window:
            client["window"] = window
        clients.append(client)
    return {"format": FORMAT, "channels": list(draw(st.sampled_from(CHANNELS))), "clients": clients}


def draw(number: int) -> Iterator[Plan]:
    """Draw plans without end, the same for the same number and version of Hypothesis."""
    batch = 0
    while True:
        yield from _batch(f"{number}/{batch}")
        batch += 1


def _batch(name: str) -> list[Plan]:
    drawn: list[Plan] = []

    @seed(name)
    @settings(
        max_examples=BATCH,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(plans())
    def collect(plan: Plan) -> None:
        drawn.append(plan)

    collect()
    return drawn
