"""What stands behind a requirement is found by reading the suite, never by running it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools import evidence
from tools.evidence import Evidence
from tools.spec_index import Index, Requirement

if TYPE_CHECKING:
    from tools.problem import Project

CASE = '''
from nowhere import check

@check("qqq/waits", covers=["QQQ-01", "QQQ-02"], needs=["pubsub"])
async def waits(t):
    """A server waits."""

@check("qqq/sleeps", covers="QQQ-03")
async def sleeps(t):
    """A server sleeps."""
'''
MUTANT = """
from nowhere import mutant

@mutant(violates="QQQ-01", killed_by=["qqq/waits"])
def never_waits(server): ...

@mutant(violates=("QQQ-02", "QQQ-03"), killed_by="qqq/gone")
def never_sleeps(server): ...
"""


def requirement(
    identity: str, level: str = "MUST", subject: str = "server", why: str | None = None
) -> Requirement:
    return Requirement(identity, level, subject, "A server MUST wait.", "spec/x.md", 7, why)


def index(*requirements: Requirement) -> Index:
    return Index(requirements, frozenset({"QQQ-09"}), ())


def with_suite(project: Project) -> Evidence:
    (project.root / "conformance/holdfast_conformance/cases/qqq.py").write_text(CASE)
    (project.root / "conformance/holdfast_conformance/rules.py").write_text(
        'Rule("qqq/always", "QQQ-04", "A server always waits.")'
    )
    (project.root / "conformance/mutants/qqq.py").write_text(MUTANT)
    return evidence.gather(project)


def test_checks_ambient_rules_and_vectors_are_gathered(project: Project) -> None:
    """The three kinds of evidence stand side by side."""
    found = with_suite(project)
    assert found.checks["QQQ-02"] == ["qqq/waits"]
    assert found.checks["QQQ-03"] == ["qqq/sleeps"]
    assert found.checks["QQQ-04"] == ["qqq/always"]
    assert "framing/json-array" in found.checks["ENV-06"]
    assert "patterns" in found.checks["SUB-20"]
    assert "size-first-65537" in " ".join(found.allowed["TRN-10"])


def test_mutants_are_gathered_with_their_killers(project: Project) -> None:
    """A killer that does not exist is reported where the mutant stands."""
    found = with_suite(project)
    assert found.mutants == {
        "QQQ-01": ["conformance/mutants/qqq.py:4"],
        "QQQ-02": ["conformance/mutants/qqq.py:7"],
        "QQQ-03": ["conformance/mutants/qqq.py:7"],
    }
    problems = evidence.check_mutants(index(requirement("QQQ-01"), requirement("QQQ-04")), found)
    assert [(problem.file, problem.line, problem.text) for problem in problems] == [
        ("spec/x.md", 7, "no mutant violates QQQ-04"),
        ("conformance/mutants/qqq.py", 7, "killed_by names qqq/gone, which is no check"),
    ]


def test_only_a_testable_must_of_a_server_needs_a_mutant() -> None:
    """What binds clients, what is permitted and what no check can see has none."""
    for found in (
        requirement("QQQ-01", subject="client"),
        requirement("QQQ-01", level="SHOULD"),
        requirement("QQQ-01", level="MAY"),
        requirement("QQQ-01", why="it cannot be seen"),
    ):
        assert evidence.check_mutants(index(found), Evidence()) == []
    assert evidence.check_mutants(index(requirement("QQQ-01", "MUST NOT", "endpoint")), Evidence())


def test_a_requirement_of_a_server_has_a_check_or_a_reason() -> None:
    """The hint says both ways out."""
    problem = evidence.check_coverage(index(requirement("QQQ-01")), Evidence(), {})[0]
    assert str(problem).startswith("spec/x.md:7: nothing tests QQQ-01")
    assert "untestable.toml" in problem.hint
    assert evidence.check_coverage(index(requirement("QQQ-01", why="unseen")), Evidence(), {}) == []
    assert evidence.check_coverage(index(requirement("QQQ-01", subject="client")), Evidence(), {}) == []


def test_a_reason_for_a_tested_requirement_is_refused() -> None:
    """A reason that has become untrue hides nothing."""
    found = Evidence(checks={"QQQ-01": ["qqq/waits"]})
    problem = evidence.check_coverage(index(requirement("QQQ-01", why="unseen")), found, {})[0]
    assert problem.text == "QQQ-01 is called untestable, yet qqq/waits tests it"


def test_a_reason_for_a_requirement_that_does_not_exist_is_refused() -> None:
    """Such a line is left over from a removed sentence or mistyped."""
    problem = evidence.check_coverage(index(), Evidence(), {"QQQ-05": "unseen"})[0]
    assert problem.file == "spec/untestable.toml"


def test_a_permission_is_exercised_where_a_vector_accepts_it() -> None:
    """An obligation is not: accepting another outcome proves nothing about it."""
    found = Evidence(allowed={"QQQ-01": ["group/name"]})
    assert evidence.check_coverage(index(requirement("QQQ-01", "MAY")), found, {}) == []
    assert evidence.check_coverage(index(requirement("QQQ-01", "SHOULD")), found, {})


def test_every_cited_id_exists(project: Project) -> None:
    """Brackets in code and prose and the two keywords cite; an area that no chapter has is no id of ours."""
    with_suite(project)
    (project.root / "docs").mkdir()
    (project.root / "docs" / "x.md").write_text("See [QQQ-08].\n\nAnd [QQQ-09], [RFC-21], QQQ-07.\n")
    (project.root / "docs" / "x.py").write_text('"""Waits.\n\nSpec: [QQQ-01], QQQ-06.\n"""\n')
    problems = evidence.check_citations(project, index(*(requirement(f"QQQ-0{n}") for n in (1, 2))))
    assert [(problem.file, problem.line, problem.text) for problem in problems] == [
        ("conformance/holdfast_conformance/cases/qqq.py", 8, "QQQ-03 does not exist"),
        ("conformance/mutants/qqq.py", 7, "QQQ-03 does not exist"),
        ("docs/x.md", 1, "QQQ-08 does not exist"),
        ("docs/x.md", 3, "QQQ-09 was removed"),
        ("docs/x.py", 3, "QQQ-06 does not exist"),
    ]
