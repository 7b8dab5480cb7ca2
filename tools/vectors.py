"""Wire vectors: well-formed, tied to requirements, and in agreement with the frame schemas.

The agreement is a second reading of the same rule: what a vector expects to be a `bad_request` must be
invalid under the schema of its type, and an accepted input must be valid.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tools import schemas
from tools.problem import Problem, Project, rows, strings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PATTERNS = "patterns.json"
PLACEHOLDERS = {
    "{channel}": "conf/a",
    "{channel_2}": "conf/b",
    "{forbidden_channel}": "forbidden/secrets",
    "{forbidden_method}": "conf.forbidden",
    "{echo_method}": "conf.echo",
    "{token}": "t1",
    "{token_same}": "t2",
    "{token_other}": "t3",
    "{token_expired}": "t4",
    "{auth}": "",
    "{pad}": "xxxx",
    "{nest}": "[]",
}
_PLACEHOLDER = re.compile(r"\{[a-z_0-9]+\}")
# Where a broken frame without an id, or a type or an id that is none, costs the connection.
_SCHEMA_FAULTS = frozenset(("ENV-05", "ENV-11", "ENV-13", "ENV-15", "ENV-22", "ENV-34", "LIM-16", "SES-12"))
_BAD_SCHEMA = 4005


def load(project: Project) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield every vector with its file; the pattern table is not among them."""
    for file in sorted((project.v1 / "vectors").glob("*.json")):
        if file.name != PATTERNS:
            for vector in rows(project.object(file)["vectors"]):
                yield file, vector


def check(project: Project, ids: frozenset[str]) -> list[Problem]:
    """Judge every file of `schemas/v1/vectors`.

    Args:
        ids: the requirements of the specification.
    """
    table = project.v1 / "vectors" / PATTERNS
    problems = schemas.meta_problems(project, table, "patterns")
    for file in sorted(table.parent.glob("*.json")):
        if file != table:
            problems += schemas.meta_problems(project, file, "vectors")
    if problems:
        return problems
    problems += _known(project, table, "the table", strings(project.object(table)["covers"]), ids)
    registry = project.object(project.v1 / "protocol.json")
    codes = {str(row["code"]) for row in rows(registry["error_codes"])}
    closes = {row.get("code") for row in rows(registry["close_codes"]) if "server" in strings(row["sender"])}
    seen: set[str] = set()
    for file, vector in load(project):
        name = str(vector["id"])
        place, line = project.name(file), project.line_of(file, f'"{name}"')
        if name in seen or not name.startswith(file.stem + "/"):
            problems.append(
                Problem(place, line, f"{name} is taken or of another group", f"use {file.stem}/...")
            )
        seen.add(name)
        problems += _known(project, file, name, strings(vector["covers"]), ids)
        outcomes = rows(vector["expect"])
        for outcome in outcomes[1:]:
            problems += _known(
                project, file, f"{name}, an alternative", strings(outcome.get("allowed_by")), ids
            )
        for outcome in outcomes:
            if outcome.get("error", "internal") not in codes or outcome.get("close", 1009) not in closes:
                problems.append(
                    Problem(place, line, f"{name}: a code that a server never sends", "see the registry")
                )
        for text in _unknown_placeholders(vector):
            problems.append(
                Problem(place, line, f"{name}: unknown placeholder {text}", "see the meta-schema")
            )
        problems += (
            Problem(place, line, f"{name}: {text}", "one of the two is wrong")
            for text in _agree(project, vector)
        )
    return problems


def _known(
    project: Project, file: Path, name: str, cited: list[str], ids: frozenset[str]
) -> Iterator[Problem]:
    line = project.line_of(file, f'"{name}"')
    if not cited:
        yield Problem(
            project.name(file), line, f"{name} cites no requirement", "say which sentence it comes from"
        )
    for identity in cited:
        if identity not in ids:
            yield Problem(
                project.name(file), line, f"{name} cites {identity}, which does not exist", "see spec/"
            )


def _unknown_placeholders(vector: Mapping[str, object]) -> list[str]:
    text = json.dumps([vector["send"], vector.get("like")], ensure_ascii=False)
    # Channel names and JSON text may hold braces of their own; a placeholder is one word between them.
    return sorted({found for found in _PLACEHOLDER.findall(text) if found not in PLACEHOLDERS})


def _agree(project: Project, vector: Mapping[str, object]) -> Iterator[str]:
    """Yield where the verdict of a vector and the verdict of the schemas differ."""
    if "informational" in strings(vector.get("flags")):
        return
    frames = messages(vector["send"])
    best = rows(vector["expect"])[0]
    if best.get("error") == "bad_request" and len(rows(vector["expect"])) == 1:
        named = [frame for frame in frames if frame.get("id") == best["id"]]
        if named and not schemas.frame_errors(project, named[-1]):
            yield "expects bad_request, and the schema finds nothing wrong"
    elif best.get("close") == _BAD_SCHEMA and set(strings(vector["covers"])) <= _SCHEMA_FAULTS:
        reserved = frames and str(frames[-1].get("type")) in schemas.reserved(project)
        if frames and not reserved and not schemas.frame_errors(project, frames[-1]):
            yield "expects 4005, and the schema finds nothing wrong"
    elif "frames" in best or best.get("error") in (
        "forbidden",
        "not_found",
        "unauthenticated",
        "principal_mismatch",
    ):
        yield from _valid(project, frames, "the input")
    like = vector.get("like")
    if isinstance(like, dict):
        yield from _valid(project, messages(like["send"]), "the accepted twin")


def _valid(project: Project, frames: list[dict[str, object]], what: str) -> Iterator[str]:
    """The last frame decides; a type without a schema of its own is nobody's business here."""
    if frames and (project.v1 / "messages" / f"{frames[-1].get('type')}.schema.json").is_file():
        for error in schemas.frame_errors(project, frames[-1]):
            yield f"{what} is not valid: {schemas.path_of(error)}: {error.message}"


def messages(send: object) -> list[dict[str, object]]:
    """Return the frames among the steps of a vector, with placeholders replaced; other input is left out."""
    found: list[dict[str, object]] = []
    for step in rows(send):
        if step.get("opcode", "text") != "text":
            continue
        frame = step.get("frame")
        text = json.dumps(frame) if isinstance(frame, dict) else step.get("text")
        if not isinstance(text, str):
            continue
        text = text.replace('"{auth}"', '{"scheme": "bearer", "token": "t1"}')
        for placeholder, value in PLACEHOLDERS.items():
            text = text.replace(placeholder, value)
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
