"""The prose of the specification against the registry: a code that a sentence names exists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tools import schemas
from tools.problem import Problem, Project, rows
from tools.spec_index import chapters, prose

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOSE = re.compile(r"\b(?:close|closes|closed|with|code|codes) ([0-9]{4})\b")
_WORD = re.compile(r"`([a-z][a-z0-9_]*)`")
_REQUIREMENT = re.compile(r"^\[[A-Z]{3}-[0-9]{2,3}\] ")
# Names that are no business of the registry: RFC 6455, URLs, values of members, names of JavaScript.
_OUTSIDE = frozenset(("bearer", "constructor", "false", "null", "true", "wss"))


def check(project: Project) -> list[Problem]:
    """Judge every chapter: close codes everywhere, and in requirements every word that is written as code."""
    return list(_judge(project))


def _judge(project: Project) -> Iterator[Problem]:
    registry = project.object(project.v1 / "protocol.json")
    # RFC 6455 keeps 1005, 1006 and 1015 for implementations; no close frame carries them.
    closes = {row.get("code") for row in rows(registry["close_codes"])} | {1005, 1006, 1015}
    known = _names(project)
    for name in chapters(project):
        file = project.spec / name
        place = project.name(file)
        for number, line in prose(file):
            for code in _CLOSE.findall(line):
                if int(code) not in closes:
                    yield Problem(place, number, f"no close code {code}", "see protocol.json")
            for word in _WORD.findall(line) if _REQUIREMENT.match(line) else ():
                if word not in known:
                    hint = "a code, type, member, limit or profile"
                    yield Problem(place, number, f"`{word}` names nothing", hint)


def _names(project: Project) -> set[str]:
    """Return every word that a requirement may write as code: all names of the registry and the schemas."""
    registry = project.object(project.v1 / "protocol.json")
    names = {str(row["code"]) for row in rows(registry["error_codes"])}
    names |= {str(row["name"]) for row in rows(registry["close_codes"]) if "name" in row}
    names |= {str(row["type"]) for row in rows(registry["messages"])}
    names |= {str(row["name"]) for row in rows(registry["profiles"])}
    names |= {part for row in rows(registry["limits"]) for part in str(row["key"]).split(".")}
    names |= {part for row in rows(registry["fields"]) for part in str(row["field"]).split(".")}
    names |= {str(value["value"]) for row in rows(registry["enums"]) for value in rows(row["values"])}
    for file in schemas.files(project):
        if file.is_relative_to(project.v1):
            names |= set(_members(project.object(file)))
    return names | _OUTSIDE


def _members(schema: object) -> Iterator[str]:
    """Yield the names of the members that a schema describes, at any depth."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        yield from map(str, properties) if isinstance(properties, dict) else ()
        for part in schema.values():
            yield from _members(part)
