"""What stands behind each requirement: checks, vectors and mutants, found by reading and never by running.

The modules of the suite are read as syntax trees, so that the tools import nothing heavy. A check names its
requirements in `covers=`, an ambient rule as its second argument, a mutant in `violates=`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tools import vectors
from tools.problem import Problem, Project, rows, strings
from tools.site_suite import checks_of, rules_of
from tools.spec_index import ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tools.spec_index import Index, Requirement

_PACKAGE = "conformance/holdfast_conformance"
_MUTANTS = "conformance/mutants"
_TEXTS = (".py", ".md", ".js", ".toml")
# The tests of the tools hold sample sentences with ids of their own.
_SAMPLES = "tools/tests/"
_SKIPPED = frozenset(("node_modules", "build", "dist", "site", "__pycache__", "spec"))
# The bracket in a comment or in prose, and every id behind `Spec:`.
_CITED = re.compile(r"\[([A-Z]{3}-[0-9]{2,3})\]")
_KEYWORDS = ("covers", "violates")


@dataclass(frozen=True, slots=True)
class Citation:
    """One place that names a requirement."""

    file: str
    line: int
    id: str


@dataclass(slots=True)
class Evidence:
    """What the repository holds, by requirement id.

    Attributes:
        checks: slugs of checks, ambient rules and vectors that cover it, in the order of the files.
        allowed: slugs of vectors that accept another outcome because of it.
        mutants: places of the mutants that violate it.
        slugs: every slug there is; the names that `killed_by` of a mutant may use.
        killers: for each place of a mutant the slugs that it names in `killed_by`.
    """

    checks: dict[str, list[str]] = field(default_factory=dict)
    allowed: dict[str, list[str]] = field(default_factory=dict)
    mutants: dict[str, list[str]] = field(default_factory=dict)
    slugs: set[str] = field(default_factory=set)
    killers: dict[tuple[str, int], list[str]] = field(default_factory=dict)

    def add(self, slug: str, covers: Sequence[str]) -> None:
        self.slugs.add(slug)
        for identity in covers:
            self.checks.setdefault(identity, []).append(slug)


def gather(project: Project) -> Evidence:
    """Read the suite, the data files and the mutants of a checkout."""
    found = Evidence()
    package = project.root / _PACKAGE
    for file in sorted((package / "cases").glob("*.py")):
        for case in checks_of(file):
            found.add(case.slug, case.covers)
    rules = package / "rules.py"
    for rule in rules_of(rules) if rules.is_file() else ():
        found.add(rule.slug, rule.covers)
    for _, vector in vectors.load(project):
        found.add(str(vector["id"]), strings(vector["covers"]))
        for outcome in rows(vector["expect"]):
            for identity in strings(outcome.get("allowed_by")):
                found.allowed.setdefault(identity, []).append(str(vector["id"]))
    found.add("patterns", strings(project.object(project.v1 / "vectors" / vectors.PATTERNS)["covers"]))
    for file in _below(project.root / _MUTANTS):
        if file.suffix == ".py":
            for call in _calls(file):
                violates, killed_by = _words(call, "violates"), _words(call, "killed_by")
                for identity in violates:
                    found.mutants.setdefault(identity, []).append(f"{project.name(file)}:{call.lineno}")
                if violates and killed_by:
                    found.killers[(project.name(file), call.lineno)] = killed_by
    return found


def cited(project: Project) -> Iterator[Citation]:
    """Yield every mention of a requirement in code, prose and configuration."""
    for file in _below(project.root):
        place = project.name(file)
        if file.suffix not in _TEXTS or place.startswith(_SAMPLES):
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            named = {match[1] for match in _CITED.finditer(line)}
            named.update(ID.findall(line.partition("Spec:")[2]))
            for identity in sorted(named):
                yield Citation(place, number, identity)
        if file.suffix == ".py":
            for call in _calls(file):
                for keyword in _KEYWORDS:
                    for identity in _words(call, keyword):
                        yield Citation(place, call.lineno, identity)


def check_citations(project: Project, index: Index) -> list[Problem]:
    """Every id that is named anywhere exists; a made-up one, in a test, has an area that no chapter has."""
    areas = {identity[:3] for identity in index.ids}
    problems = []
    for citation in cited(project):
        if citation.id[:3] in areas and citation.id not in index.ids:
            state = "was removed" if citation.id in index.removed else "does not exist"
            problems.append(Problem(citation.file, citation.line, f"{citation.id} {state}", "see spec/"))
    return sorted(set(problems))


def check_coverage(index: Index, evidence: Evidence, reasons: Mapping[str, str]) -> list[Problem]:
    """Every requirement that binds a server has a check or a reason why none is possible, and never both."""
    problems = []
    for found in index.requirements:
        # A permission is exercised where a vector accepts what it permits.
        tested = found.id in evidence.checks or (found.level == "MAY" and found.id in evidence.allowed)
        if found.binds_server and not tested and not found.untestable:
            hint = "write a check or a vector, or say why not in untestable.toml"
            problems.append(_at(found, f"nothing tests {found.id}", hint))
        if found.untestable and tested:
            text = f"{found.id} is called untestable, yet {_first(evidence, found.id)} tests it"
            problems.append(_at(found, text, "drop one of the two"))
    lost = (f"{identity} does not exist" for identity in reasons if identity not in index.ids)
    return problems + [Problem("spec/untestable.toml", 0, text, "remove the line") for text in lost]


def check_mutants(index: Index, evidence: Evidence) -> list[Problem]:
    """Every testable MUST that binds a server is broken by a mutant, and each mutant names a real killer."""
    problems = []
    for found in index.requirements:
        must = found.level in ("MUST", "MUST NOT") and found.binds_server and not found.untestable
        if must and found.id not in evidence.mutants:
            problems.append(_at(found, f"no mutant violates {found.id}", f"add one below {_MUTANTS}"))
    for (file, line), slugs in evidence.killers.items():
        # The suite makes the names of the checks of the pattern table out of the patterns.
        unknown = (slug for slug in slugs if slug not in evidence.slugs and not slug.startswith("patterns/"))
        texts = [f"killed_by names {slug}, which is no check" for slug in unknown]
        problems += [Problem(file, line, text, "see `holdfast list`") for text in texts]
    return problems


def _first(evidence: Evidence, identity: str) -> str:
    return [*evidence.checks.get(identity, []), *evidence.allowed.get(identity, [])][0]


def _at(found: Requirement, text: str, hint: str) -> Problem:
    return Problem(found.file, found.line, text, hint)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that belong to the project."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir():
            if entry.name not in _SKIPPED and not entry.name.startswith("."):
                yield from _below(entry)
        else:
            yield entry


def _calls(file: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file.name)):
        if isinstance(node, ast.Call):
            yield node


def _words(call: ast.Call, name: str) -> list[str]:
    """Return the strings written down in a keyword argument: one, or a list or tuple of them."""
    for keyword in call.keywords:
        if keyword.arg == name:
            parts = keyword.value.elts if isinstance(keyword.value, ast.List | ast.Tuple) else [keyword.value]
            return [
                part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
    return []
