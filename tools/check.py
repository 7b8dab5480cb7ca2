"""Everything that keeps text, data and code in step: `python -m tools.check`.

Each check has a name and returns problems, each with its place and a hint; any problem makes the exit code 1.
With `--write` the derived files are made anew first.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tools import evidence, examples, prose, registry, render, schemas, spec_index, traces, vectors
from tools.layout import dumps
from tools.problem import Problem, Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Checkout:
    """A project with what several checks need, each read once."""

    project: Project

    @cached_property
    def index(self) -> spec_index.Index:
        return spec_index.build(self.project)

    @cached_property
    def evidence(self) -> evidence.Evidence:
        return evidence.gather(self.project)

    @cached_property
    def derived(self) -> Mapping[str, str]:
        """Every derived file, by its path from the root, with the text that it should have."""
        texts = render.generated(self.project, self.index, self.evidence)
        texts["schemas/v1/requirements.json"] = spec_index.requirements_json(self.index)
        return texts


def _derived(checkout: Checkout) -> list[Problem]:
    project = checkout.project
    try:
        stale = render.stale(project, checkout.derived)
    except render.RenderError as error:
        return [Problem("spec", 0, str(error), "mend the mark, or add the data")]
    return stale or schemas.meta_problems(project, project.v1 / "requirements.json", "requirements")


def _layout(checkout: Checkout) -> list[Problem]:
    """JSON files have the one layout."""
    problems = []
    for file in _json_files(checkout.project):
        if file.read_text(encoding="utf-8") != dumps(checkout.project.json(file)):
            name = checkout.project.name(file)
            problems.append(Problem(name, 0, "not in the house layout", render.REMEDY))
    return problems


def _json_files(project: Project) -> Iterator[Path]:
    yield from sorted((project.root / "schemas").rglob("*.json"))


CHECKS: Mapping[str, Callable[[Checkout], list[Problem]]] = {
    "layout": _layout,
    "sentences": lambda checkout: list(checkout.index.problems),
    "prose": lambda checkout: prose.check(checkout.project),
    "schemas": lambda checkout: schemas.check(checkout.project),
    "registry": lambda checkout: registry.check(checkout.project),
    "examples": lambda checkout: examples.check(checkout.project),
    "traces": lambda checkout: traces.check(checkout.project, checkout.index.ids),
    "vectors": lambda checkout: vectors.check(checkout.project, checkout.index.ids),
    "citations": lambda checkout: evidence.check_citations(checkout.project, checkout.index),
    "coverage": lambda checkout: evidence.check_coverage(
        checkout.index, checkout.evidence, spec_index.untestable(checkout.project)
    ),
    "mutants": lambda checkout: evidence.check_mutants(checkout.index, checkout.evidence),
    "derived": _derived,
}


def write(checkout: Checkout) -> list[str]:
    """Bring every derived file and the layout of the data up to date; return what changed."""
    wanted = dict(checkout.derived)
    for file in _json_files(checkout.project):
        name = checkout.project.name(file)
        wanted.setdefault(name, dumps(checkout.project.json(file)))
    changed = []
    for name, text in wanted.items():
        file = checkout.project.root / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed


def main(arguments: Sequence[str] | None = None, project: Project | None = None) -> int:
    """Run the checks; return 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.check", description=__doc__)
    parser.add_argument("--write", action="store_true", help="regenerate derived files before checking")
    parser.add_argument("names", nargs="*", metavar="check", help=f"only these: {', '.join(CHECKS)}")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in CHECKS]:
        parser.error(f"no check is called {', '.join(unknown)}")
    project = project or Project()
    if options.write:
        for name in write(Checkout(project)):
            print(f"wrote {name}")
    checkout = Checkout(project)
    count = 0
    for name in options.names or CHECKS:
        for problem in sorted(CHECKS[name](checkout)):
            count += 1
            print(f"{name}: {problem}")
    print(f"{count} problems" if count else "nothing is wrong", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
