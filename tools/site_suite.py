"""The pages that show what the suite does: checks by requirement, wire vectors, and whole conversations.

Checks are found in the syntax trees of the case modules, so these pages need neither the suite nor a server.
"""

from __future__ import annotations

import ast
import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.problem import Project, rows, strings
from tools.site_frames import documented
from tools.traces import CUT, NEVER, content

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tools.spec_index import Requirement

_SUITE = "conformance/holdfast_conformance"
_SHOWN = 12  # so many tests of one requirement are listed; the reading order has a hundred


@dataclass(frozen=True, slots=True)
class Check:
    """What a case module says about one check before anything runs.

    Attributes:
        slug: its permanent name, `area/behaviour`.
        covers: ids of the requirements that it tests.
        needs: what the target has to offer for it.
        behaviour: the first paragraph of its docstring.
    """

    slug: str
    covers: tuple[str, ...]
    needs: tuple[str, ...]
    behaviour: str

    @property
    def area(self) -> str:
        return self.slug.partition("/")[0].upper()

    @property
    def anchor(self) -> str:
        return self.slug.replace("/", "-")


def pages(project: Project, requirements: Sequence[Requirement]) -> dict[str, str]:
    """Return the pages `suite/checks.md`, `suite/vectors.md` and `suite/traces.md`."""
    suite = project.root / _SUITE
    checks = [check for file in sorted(suite.glob("cases/*.py")) for check in checks_of(file)]
    rules = list(rules_of(suite / "rules.py"))
    vectors = [project.object(file) for file in sorted(project.v1.glob("vectors/*.json"))]
    traces = {file.stem: project.object(file) for file in sorted(project.v1.glob("traces/*.json"))}
    return {
        "suite/checks.md": _checks(checks, rules, vectors, requirements),
        "suite/vectors.md": _vectors(vectors),
        "suite/traces.md": _traces(traces, {type: f"../frames/{type}.html" for type in documented(project)}),
    }


def checks_of(file: Path) -> Iterator[Check]:
    """Yield the checks of one case module in the order of its text."""
    for node in ast.parse(file.read_text(encoding="utf-8"), file.name).body:
        if not isinstance(node, ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            if not (isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "check"):
                continue
            options = {keyword.arg: keyword.value for keyword in decorator.keywords}
            behaviour = (ast.get_docstring(node) or "").partition("\n\n")[0]
            yield Check(
                _literals(decorator.args[0])[0],
                tuple(_literals(options.get("covers"))),
                tuple(_literals(options.get("needs"))),
                " ".join(behaviour.split()),
            )


def rules_of(file: Path) -> Iterator[Check]:
    """Yield the rules that hold for every frame of every check, `Rule(id, requirement, title)`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file.name)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Rule":
            slug, requirement, title = (ast.literal_eval(argument) for argument in node.args)
            yield Check(slug, (requirement,), (), title)


def _literals(node: ast.expr | None) -> list[str]:
    """Return the strings written down in an argument: one, or a list of them."""
    return strings(ast.literal_eval(node)) if node is not None else []


def _checks(
    checks: Sequence[Check],
    rules: Sequence[Check],
    vectors: Iterable[Mapping[str, object]],
    requirements: Sequence[Requirement],
) -> str:
    """Return the page that lists, for each requirement, what tests it."""
    tests: dict[str, list[str]] = {requirement.id: [] for requirement in requirements}
    for check in (*checks, *rules):
        for identity in check.covers:
            tests.setdefault(identity, []).append(f"[`{check.slug}`](#{check.anchor})")
    for group in vectors:
        for identity in strings(group.get("covers")):
            tests.setdefault(identity, []).append(f"[{group['title']}](vectors.md#patterns)")
        for vector in rows(group.get("vectors")):
            for identity in strings(vector.get("covers")):
                tests.setdefault(identity, []).append(f"[`{vector['id']}`](vectors.md#{_anchor(vector)})")
    lines = [
        "# Checks",
        "",
        "What tests each requirement that binds a server; then every check with the behaviour it asserts.",
        "A name leads to the check or to the [wire vector](vectors.md);"
        " `holdfast explain ID` prints the same on the command line.",
        "",
        "## By requirement",
        "",
        "| requirement | level | tested by |",
        "|---|---|---|",
    ]
    for requirement in requirements:
        if requirement.subject == "client":
            continue
        found = tests[requirement.id]
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        tested = ", ".join(found[:_SHOWN] + more) or f"*not tested{_because(requirement)}*"
        lines.append(f"| {requirement.id} | {requirement.level} | {tested} |")
    for area in dict.fromkeys(requirement.area for requirement in requirements):
        lines += ["", f"## {area}", ""]
        lines += [line for check in checks if check.area == area for line in _entry(check)]
    lines += ["", "## On every frame", "", "These rules watch every connection of every other check.", ""]
    lines += [line for rule in rules for line in _entry(rule)]
    return "\n".join(lines)


def _entry(check: Check) -> list[str]:
    needs = f" Needs {', '.join(f'`{need}`' for need in check.needs)}." if check.needs else ""
    return [
        f"`{check.slug}` ({', '.join(check.covers)})<br>",
        f"{check.behaviour}{needs}",
        f"{{: #{check.anchor} .hf-check }}",
        "",
    ]


def _because(requirement: Requirement) -> str:
    return f": {requirement.untestable}" if requirement.untestable else ""


def _anchor(vector: Mapping[str, object]) -> str:
    return str(vector["id"]).replace("/", "-")


def _vectors(groups: Iterable[Mapping[str, object]]) -> str:
    """Return the page of all wire vectors."""
    lines = [
        "# Wire vectors",
        "",
        "Single inputs with a known verdict: what a client sends, what the server must do about it.",
        "They are data in `schemas/v1/vectors`, usable without the suite; their format has a"
        " [schema](../schemas/meta/vectors.schema.json).",
        "Where an input has one fault, its twin without the fault is sent first, and has to be accepted.",
        "",
    ]
    for group in groups:
        anchor = " { #patterns }" if "rows" in group else ""
        lines += [f"## {group['title']}{anchor}", "", str(group.get("description", "")), ""]
        if "rows" in group:
            lines += _patterns(group)
        for vector in rows(group.get("vectors")):
            facts = [f"`{vector['id']}`", ", ".join(strings(vector.get("covers")))]
            if fault := vector.get("fault"):
                facts.append(f"fault: {fault}")
            # Paragraphs and not headings: hundreds of headings would drown the table of contents.
            lines += [f"**{vector['title']}**<br>", " · ".join(fact for fact in facts if fact)]
            lines += [f"{{: #{_anchor(vector)} .hf-vector }}", ""]
            steps = [f"C → {_step(step)}" for step in rows(vector["send"])]
            outcomes = [f"S ← {_outcome(outcome)}" for outcome in rows(vector["expect"])]
            lines += ["```text", f"on a {vector['connection']} connection", *steps]
            lines += [outcomes[0], *(f"or  {outcome[4:]}" for outcome in outcomes[1:]), "```", ""]
    return "\n".join(lines)


def _patterns(group: Mapping[str, object]) -> list[str]:
    """Return the table of patterns, which is its own format: pairs of names with a verdict."""
    lines = [f"Covers {', '.join(strings(group['covers']))}.", ""]
    lines += ["| pattern | channel | matches | why |", "|---|---|---|---|"]
    lines += [
        f"| `{row['pattern']}` | `{row['channel']}` | {'yes' if row['matches'] else 'no'} | {row['why']} |"
        for row in rows(group["rows"])
    ]
    return [*lines, ""]


def _step(step: Mapping[str, object]) -> str:
    """Say in one line what a step of a vector writes."""
    if "await" in step:
        return f"(waits for {_compact(step['await'])})"
    content = step.get("text", step.get("hex"))
    line = _compact(step["frame"]) if "frame" in step else json.dumps(content, ensure_ascii=False)[1:-1]
    if "hex" in step:
        line = f"bytes {line}"
    how = ", ".join(
        f"{key} {_compact(value)}" for key, value in step.items() if key not in ("frame", "text", "hex")
    )
    return (line or "(empty)") + (f"   ({how})" if how else "")


def _outcome(outcome: Mapping[str, object]) -> str:
    """Say in one line what a server may do."""
    allowed = strings(outcome.get("allowed_by"))
    tail = f"   allowed by {', '.join(allowed)}" if allowed else ""
    if "close" in outcome:
        return f"close {outcome['close']}{tail}"
    if "error" in outcome:
        return f"error {outcome['error']} on {outcome['id']}{tail}"
    if "frames" in outcome:
        return "  ".join(_compact(frame) for frame in rows(outcome["frames"])) + tail
    return f"nothing; a ping is still answered{tail}"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _traces(traces: Mapping[str, Mapping[str, object]], links: Mapping[str, str]) -> str:
    """Return the page of whole conversations."""
    lines = [
        "# Conversations",
        "",
        "Whole conversations, as data in `schemas/v1/traces`.",
        "The client's frames stand on the left, the server's on the right;"
        " between them what others do at the server.",
        "",
    ]
    for name, trace in traces.items():
        lines += [f"## {trace['title']} {{ #{name} }}", ""]
        if "description" in trace:
            lines += [str(trace["description"]), ""]
        if covered := strings(trace.get("requirements")):
            lines += [f"Shows {', '.join(covered)}.", ""]
        lines += [*conversation(rows(trace.get("steps")), links), ""]
    return "\n".join(lines)


def conversation(steps: Iterable[Mapping[str, object]], links: Mapping[str, str]) -> list[str]:
    """Draw a conversation: one row per step, on the side of its sender, in HTML that wraps when narrow.

    Args:
        steps: those of a trace.
        links: the address of the page of each type that has one.
    """
    lines = ['<ol class="hf-conversation">']
    for step in steps:
        sender = str(step["from"])
        speaker = f"{step['connection']} connection, {sender}" if "connection" in step else sender
        kind = content(step)
        value = CUT if kind == "cut" else step[kind]
        name = str(value.get("type")) if isinstance(value, dict) else kind
        what = f'<a href="{links[name]}">{name}</a>' if name in links else html.escape(name)
        body = value if kind in ("text", "cut") else json.dumps(value, ensure_ascii=False)
        remarks = [NEVER] if "lost" in step else []
        remarks += [str(step[key]) for key in ("fault", "note") if key in step]
        lines.append(
            f'<li class="hf-from-{sender}"><span class="hf-speaker">{html.escape(speaker)}: {what}</span>'
            f"<code>{html.escape(str(body), quote=False)}</code>"
            + "".join(f'<span class="hf-note">{html.escape(remark)}</span>' for remark in remarks)
            + "</li>"
        )
    return [*lines, "</ol>"]
