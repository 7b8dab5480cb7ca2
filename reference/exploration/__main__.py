"""`python -m exploration`: explore the scenarios, or hunt the planted bugs; exits 1 if something is wrong."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from exploration.bugs import BUGS, hunt
from exploration.diagram import draw
from exploration.scenarios import SCENARIOS
from exploration.search import search
from exploration.world import World

if TYPE_CHECKING:
    from exploration.search import Outcome
    from exploration.world import Bounds


def explore(name: str, bounds: Bounds) -> bool:
    """Explore one scenario and print what came of it; whether everything held."""
    world = World(bounds)
    outcome = search(world, progress=lambda text: print(f"{name}: {text}", file=sys.stderr))
    print(
        f"{name:<18}{_figures(outcome)}"
        f"   {len(world.clients.states):>6} client states {len(world.servers.states):>6} server states"
    )
    if outcome.found is not None:
        print(f"\nVIOLATED {outcome.found.violation}\n\n{draw(outcome.found.steps, bounds.script)}\n")
    return outcome.found is None


def _figures(outcome: Outcome) -> str:
    return (
        f"{outcome.states:>8} states {outcome.transitions:>9} transitions"
        f"   depth {outcome.depth:>2} {outcome.seconds:>6.1f} s"
    )


def hunt_all() -> bool:
    """Hunt every planted bug and print the table; whether each was found by its invariant."""
    found = 0
    print(f"{'':>2}  {'bug':<62} {'steps':>5} {'states':>6}  invariant")
    for number, bug in enumerate(BUGS, 1):
        outcome = hunt(bug)
        if outcome.found is None:
            print(f"{number:>2}  {bug.says:<62} {'-':>5} {outcome.states:>6}  NOT FOUND")
            continue
        name = outcome.found.violation.name
        found += name.startswith(bug.breaks)
        print(f"{number:>2}  {bug.says:<62} {len(outcome.found.steps):>5} {outcome.states:>6}  {name}")
    print(f"{found} of {len(BUGS)} bugs found")
    return found == len(BUGS)


def show(number: int) -> None:
    """Print the shortest trace to a planted bug."""
    bug = BUGS[number - 1]
    outcome = hunt(bug)
    assert outcome.found is not None
    print(f"{bug.says}\n\nVIOLATED {outcome.found.violation}\n")
    print(draw(outcome.found.steps, SCENARIOS[bug.scenario].script))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m exploration", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"one of: {', '.join(SCENARIOS)}; all without any")
    parser.add_argument(
        "--bugs",
        nargs="?",
        type=int,
        const=0,
        metavar="N",
        help="hunt the planted bugs instead, or draw the shortest way to bug N",
    )
    options = parser.parse_args()
    if unknown := set(options.scenario) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(unknown)}")
    if options.bugs:
        show(options.bugs)
        return 0
    if options.bugs is not None:
        return 0 if hunt_all() else 1
    held = [explore(name, SCENARIOS[name]) for name in options.scenario or SCENARIOS]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
