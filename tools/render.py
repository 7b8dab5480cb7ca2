"""Text that is made from data: the two appendices of the specification and the marked places in its chapters.

A chapter marks a place with `<!-- table: close_codes -->`, `<!-- trace: drain -->`, `<!-- diagram: drain -->`
or `<!-- example: ping/valid/minimal.json -->`, closed by `<!-- end -->`; what stands between is written here
and never by hand.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tools import sequence
from tools.layout import dumps
from tools.problem import Problem, Project, rows, strings
from tools.site_frames import Shapes
from tools.spec_index import chapters
from tools.traces import CUT, NEVER, content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tools.evidence import Evidence
    from tools.spec_index import Index, Requirement

_FENCE = re.compile(
    r"^<!-- (?P<kind>table|trace|diagram|example): (?P<name>\S+) -->\n"
    r"(?P<body>(?:(?!<!-- ).*\n)*?)<!-- end -->$",
    re.MULTILINE,
)
_OPENING = re.compile(r"^<!-- (?:table|trace|diagram|example): ", re.MULTILINE)
_GENERATED = "<!-- Made by `python -m tools.check --write`; do not edit. -->"
REMEDY = "run `python -m tools.check --write`"
_SHOWN_CHECKS = 6
_CLIENT = {
    "stop": "stop",
    "reconnect_now": "reconnect now (jitter 0 to 2 s)",
    "reconnect_backoff": "reconnect with backoff",
    "reconnect_backoff_fresh": "reconnect with backoff, as a new session",
    "refresh_credentials": "get new credentials, reconnect",
    "none": "nothing",
}


class RenderError(Exception):
    """A marked place names data that does not exist."""


class Renderer:
    """Makes Markdown from the data files of one checkout."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._registry = project.object(project.v1 / "protocol.json")
        self._bodies: dict[str, Callable[[str], str]] = {
            "table": self.table,
            "trace": self._trace,
            "diagram": self._diagram,
            "example": self._example,
        }
        self._tables: dict[str, Callable[[], str]] = {
            "messages": self._messages,
            "fields": self._fields,
            "profiles": self._profiles,
            "error_codes": self._error_codes,
            "close_codes": self._close_codes,
            "limits": self._limits,
            "timers": self._timers,
            "constants": self._constants,
            "enums": self._enums,
        }

    def fill(self, text: str) -> str:
        """Return a chapter with every marked place filled.

        Raises:
            RenderError: a mark names nothing, or is not closed.
        """
        if len(_OPENING.findall(text)) != len(_FENCE.findall(text)):
            raise RenderError("a marked place has no <!-- end -->")

        def replace(match: re.Match[str]) -> str:
            kind, name = match["kind"], match["name"]
            body = self._bodies[kind](name)
            return f"<!-- {kind}: {name} -->\n{body}\n<!-- end -->"

        return _FENCE.sub(replace, text)

    def table(self, name: str) -> str:
        """Return the table called `name`: one of the registry, `machine:NAME` or `frame:TYPE`."""
        kind, _, rest = name.partition(":")
        if kind == "machine":
            return self._machine(rest)
        if kind == "frame":
            return self._frame(rest)
        if name not in self._tables:
            raise RenderError(f"no table is called {name}")
        return self._tables[name]()

    def tables_appendix(self) -> str:
        """Return `appendix-tables.md`: every table of the protocol in one place."""
        own = [row for row in rows(self._registry["messages"]) if row["schema"]]
        parts = ["# Appendix: tables", _GENERATED, "## Frames", self._messages(), "## Members of each frame"]
        parts.append(
            "Members that are not listed are ignored; `type` and the bounds of `id` are as in the envelope."
        )
        for row in own:
            parts += [f"### {row['type']}", f"{row['summary']}", self._frame(str(row["type"]))]
            if "result" in row:
                parts += ["In the `data` of its `result`:", self._members(str(row["result"]))]
        parts += [
            "## Members by profile",
            "Members that belong to another profile than their frame.",
            self._fields(),
        ]
        parts += ["## Profiles", self._profiles()]
        for machine in rows(self._registry["machines"]):
            parts += [f"## States: {machine['name']}", self._machine(str(machine["name"])), _matrix(machine)]
        parts += ["## Error codes", self._error_codes(), "## Close codes", self._close_codes()]
        parts += ["## Limits", self._limits(), "## Timers", self._timers()]
        parts += ["## Constants", self._constants(), "## Values", self._enums()]
        return "\n\n".join(parts) + "\n"

    def _messages(self) -> str:
        return _table(
            ("type", "sent by", "profile", "exchange", "terminal", "summary"),
            (
                (
                    _code(row["type"]),
                    _sides(row["from"]),
                    f"{row['profile']}{_later(row)}",
                    row["exchange"] or "",
                    "yes" if row["terminal"] else "",
                    row["summary"],
                )
                for row in rows(self._registry["messages"])
            ),
        )

    def _frame(self, kind: str) -> str:
        path = f"messages/{kind}.schema.json"
        if not (self._project.v1 / path).is_file():
            raise RenderError(f"no frame is called {kind}")
        return self._members(path)

    def _members(self, path: str) -> str:
        """Return the members that a schema below `v1` describes."""
        definitions = self._project.object(self._project.v1 / "defs.schema.json")["$defs"]
        assert isinstance(definitions, dict)
        shapes = Shapes(definitions)
        return _table(
            ("member", "type", "", "meaning"),
            (
                (_code(field.path), field.shape, "required" if field.required else "optional", field.text)
                for field in shapes.fields(self._project.object(self._project.v1 / path))
                if field.path not in ("type", "meta")
            ),
        )

    def _fields(self) -> str:
        return _table(
            ("frame", "member", "profile", "summary"),
            (
                (
                    "every frame with an `id`" if row["message"] == "*" else _code(row["message"]),
                    _code(row["field"]),
                    f"{row['profile']}{_later(row)}",
                    row["summary"],
                )
                for row in rows(self._registry["fields"])
            ),
        )

    def _profiles(self) -> str:
        return _table(
            ("profile", "needs", "what it adds"),
            (
                (
                    f"{_code(row['name'])}{_later(row)}",
                    ", ".join(map(_code, strings(row["needs"]))),
                    row["summary"],
                )
                for row in rows(self._registry["profiles"])
            ),
        )

    def _error_codes(self) -> str:
        return _table(
            ("code", "found at step", "answers", "retryable", "definite", "meaning"),
            (
                (
                    f"{_code(row['code'])}{_later(row)}",
                    {"8.0": "8, before all others", "8.9": "8, the work itself", "local": "never sent"}.get(
                        str(row["step"]), str(row["step"])
                    ),
                    "any" if row["on"] == ["*"] else ", ".join(map(_code, strings(row["on"]))),
                    "yes" if row["retryable"] else "",
                    "yes" if row["definite"] else "no",
                    row["summary"],
                )
                for row in rows(self._registry["error_codes"])
            ),
        )

    def _close_codes(self) -> str:
        return _table(
            ("code", "name", "sent by", "session, with `resume`", "client", "meaning"),
            (
                (
                    f"{_close_code(row)}{_later(row)}",
                    row.get("name", ""),
                    _sides(row["sender"]),
                    row["session"],
                    _CLIENT[str(row["client"])],
                    row["summary"],
                )
                for row in rows(self._registry["close_codes"])
            ),
        )

    def _limits(self) -> str:
        return _table(
            ("limit", "present", "unit", "at least", "meaning"),
            (
                (
                    f"{_code(row['key'])}{_later(row)}",
                    _presence(row),
                    row["unit"],
                    row["floor"],
                    row["summary"],
                )
                for row in rows(self._registry["limits"])
            ),
        )

    def _timers(self) -> str:
        return _table(
            ("timer", "run by", "default", "from", "to", "meaning"),
            (
                (
                    _code(row["name"]),
                    row["by"],
                    *(_quantity(row[key], row["unit"]) for key in ("default", "min", "max")),
                    row["summary"],
                )
                for row in rows(self._registry["timers"])
            ),
        )

    def _constants(self) -> str:
        return _table(
            ("constant", "value", "unit", "meaning"),
            (
                (_code(row["name"]), _code(row["value"]), row["unit"], row["summary"])
                for row in rows(self._registry["constants"])
            ),
        )

    def _enums(self) -> str:
        return _table(
            ("member", "value", "meaning"),
            (
                (_code(row["name"]), f"{_code(value['value'])}{_later(value)}", value["summary"])
                for row in rows(self._registry["enums"])
                for value in rows(row["values"])
            ),
        )

    def _machine(self, name: str) -> str:
        """Return a machine as states, transitions and a diagram."""
        for machine in rows(self._registry["machines"]):
            if machine["name"] == name:
                break
        else:
            raise RenderError(f"no machine is called {name}")
        meaning = {str(row["name"]): str(row["summary"]) for row in rows(machine["events"])}
        states = _table(
            ("state", "meaning"), ((row["name"], row["summary"]) for row in rows(machine["states"]))
        )
        transitions = _table(
            ("in", "when", "then", "effect"),
            (
                (
                    ", ".join(strings(row["from"])),
                    f"{row['event']}: {meaning[str(row['event'])]}",
                    row["to"],
                    f"close {row['close']}" if "close" in row else row["effect"],
                )
                for row in rows(machine["transitions"])
            ),
        )
        return f"{machine['summary']}\n\n{states}\n\n{transitions}\n\n{_states(machine)}"

    def _steps(self, name: str) -> Sequence[Mapping[str, object]]:
        file = self._project.v1 / "traces" / f"{name}.json"
        if not file.is_file():
            raise RenderError(f"no conversation is called {name}")
        return rows(self._project.object(file)["steps"])

    def _diagram(self, name: str) -> str:
        """Return a conversation as a sequence diagram."""
        return sequence.mermaid(self._steps(name))

    def _trace(self, name: str) -> str:
        """Return a conversation as text: C for the client, S for the server, O for others."""
        lines = []
        for step in self._steps(name):
            side = str(step["from"])[0].upper()
            where = f" ({step['connection']})" if "connection" in step else ""
            match content(step):
                case "frame" | "does" as kind:
                    what = json.dumps(step[kind], ensure_ascii=False, separators=(",", ":"))
                case "close":
                    what = f"close {step['close']}"
                case "cut":
                    what = CUT
                case kind:
                    what = str(step[kind])
            remarks = [NEVER] if "lost" in step else []
            remarks += [str(step[key]) for key in ("fault", "note") if key in step]
            lines += [f"{side}{where} {what}", *(f"    # {remark}" for remark in remarks)]
        return "\n".join(["```text", *lines, "```"])

    def _example(self, name: str) -> str:
        file = self._project.v1 / "examples" / name
        if not file.is_file():
            raise RenderError(f"there is no example {name}")
        value = self._project.object(file)
        frame = value["frame"] if "why" in value else value
        return f"```json\n{dumps(frame).rstrip()}\n```"


def requirements_appendix(project: Project, index: Index, evidence: Evidence) -> str:
    """Return `appendix-requirements.md`: every requirement with what tests it or why nothing does."""
    counted = [found for found in index.requirements if found.binds_server]
    tested = [found for found in counted if found.id in evidence.checks or found.id in evidence.allowed]
    parts = ["# Appendix: requirements", _GENERATED]
    parts.append(
        f"{len(index.requirements)} requirements, {len(counted)} of which bind a server; "
        f"{len(tested)} of these are tested by the conformance suite."
    )
    parts.append(
        "Names with a slash are checks and [wire vectors](../schemas/v1/vectors) of the suite.\n"
        "What binds only clients is outside its reach in this edition."
    )
    for name, area in chapters(project).items():
        own = [found for found in index.requirements if found.area == area]
        if own:
            parts += [
                f"## {area}: [{name}]({name})",
                _table(
                    ("id", "level", "who", "requirement", "tested by"),
                    (
                        (found.id, found.level, found.subject, found.text, _tested(found, evidence))
                        for found in own
                    ),
                ),
            ]
    return "\n\n".join(parts) + "\n"


def _tested(found: Requirement, evidence: Evidence) -> str:
    slugs = evidence.checks.get(found.id) or evidence.allowed.get(found.id, [])
    if slugs:
        more = f" and {len(slugs) - _SHOWN_CHECKS} more" if len(slugs) > _SHOWN_CHECKS else ""
        return ", ".join(map(_code, slugs[:_SHOWN_CHECKS])) + more
    return f"*not testable: {found.untestable}*" if found.untestable else ""


def generated(project: Project, index: Index, evidence: Evidence) -> dict[str, str]:
    """Return the files below `spec/` that hold generated text, with the text that they should have.

    Raises:
        RenderError: a marked place names data that does not exist.
    """
    renderer = Renderer(project)
    wanted = {}
    for file in sorted(project.spec.glob("*.md")):
        text = file.read_text(encoding="utf-8")
        try:
            wanted[project.name(file)] = renderer.fill(text)
        except RenderError as error:
            raise RenderError(f"{project.name(file)}: {error}") from error
    wanted["spec/appendix-tables.md"] = renderer.tables_appendix()
    wanted["spec/appendix-requirements.md"] = requirements_appendix(project, index, evidence)
    return wanted


def stale(project: Project, wanted: Mapping[str, str]) -> list[Problem]:
    """Return the generated files that are not as they should be."""
    problems = []
    for name, text in wanted.items():
        file = project.root / name
        if not file.is_file():
            problems.append(Problem(name, 0, "is missing", REMEDY))
            continue
        found = file.read_text(encoding="utf-8").splitlines()
        for number, (left, right) in enumerate(_pairs(found, text.splitlines()), start=1):
            if left != right:
                problems.append(Problem(name, number, "differs from the data", REMEDY))
                break
    return problems


def _pairs(left: Sequence[str], right: Sequence[str]) -> Iterable[tuple[str | None, str | None]]:
    for number in range(max(len(left), len(right))):
        yield (
            left[number] if number < len(left) else None,
            right[number] if number < len(right) else None,
        )


def _table(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; bars inside cells are escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in body]
    return "\n".join(lines)


def _code(value: object) -> str:
    return f"`{value}`"


def _sides(value: object) -> str:
    return " or ".join(strings(value))


def _later(row: Mapping[str, object]) -> str:
    """Mark a row whose name is known and whose meaning comes with a later edition."""
    return " (reserved)" if row.get("edition") == "reserved" else ""


def _close_code(row: Mapping[str, object]) -> str:
    span = row.get("range")
    if isinstance(span, list):
        return f"other {span[0]} to {span[1]}"
    return "none" if row["code"] is None else str(row["code"])


def _presence(row: Mapping[str, object]) -> str:
    when = "always" if row["profile"] == "core" else f"with {_code(row['profile'])}"
    return when if row["required"] else "optional"


def _quantity(value: object, unit: object) -> str:
    return "" if value is None else f"{value} {unit}"


def _matrix(machine: Mapping[str, object]) -> str:
    """Return the next state for each event in each state; an empty cell cannot occur or is a violation."""
    states = [str(row["name"]) for row in rows(machine["states"]) if not row.get("final")]
    following = {
        (state, row["event"]): row["to"]
        for row in rows(machine["transitions"])
        for state in strings(row["from"])
    }
    return _table(
        ("event", *states),
        (
            (row["name"], *(following.get((state, row["name"]), "") for state in states))
            for row in rows(machine["events"])
        ),
    )


def _states(machine: Mapping[str, object]) -> str:
    """Return the machine as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2"]
    states = rows(machine["states"])
    lines += [f"    [*] --> {row['name']}" for row in states if row.get("initial")]
    for row in rows(machine["transitions"]):
        label = f"{row['event']} / {row['close']}" if "close" in row else str(row["event"])
        lines += [f"    {state} --> {row['to']}: {label}" for state in strings(row["from"])]
    lines += [f"    {row['name']} --> [*]" for row in states if row.get("final")]
    return "\n".join([*lines, "```"])
