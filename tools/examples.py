"""Example frames: valid ones pass, invalid ones fail for the reason that they state and for no other.

An invalid example is `{"why": ..., "error": {"keyword": ..., "path": ...}, "frame": ...}`. `path` leads to
the value at fault, parts joined by dots; for the keyword `required` it ends with the name of what is missing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tools import schemas
from tools.problem import Problem, Project, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jsonschema.exceptions import ValidationError

LEAST_INVALID = 2
_MISSING = re.compile(r"^'(?P<name>[^']+)' is a required property$")


def check(project: Project) -> list[Problem]:
    """Judge every file below `schemas/v1/examples`, and that no frame lacks examples."""
    problems: list[Problem] = []
    registry = project.object(project.v1 / "protocol.json")
    types = {str(row["type"]) for row in rows(registry["messages"]) if row["schema"]}
    root = project.v1 / "examples"
    stray = sorted(entry for entry in root.iterdir() if entry.name not in types)
    problems += [Problem(project.name(entry), 0, "no frame has this name", "rename it") for entry in stray]
    for kind in sorted(types):
        valid = sorted((root / kind / "valid").glob("*.json"))
        invalid = sorted((root / kind / "invalid").glob("*.json"))
        if not valid or len(invalid) < LEAST_INVALID:
            problems.append(
                Problem(
                    project.name(root / kind),
                    0,
                    f"{len(valid)} valid and {len(invalid)} invalid examples",
                    f"at least one valid and {LEAST_INVALID} invalid ones",
                )
            )
        for file in valid:
            problems += _valid(project, kind, file)
        for file in invalid:
            problems += _invalid(project, file)
        problems += _required(project, kind, invalid)
    return problems


def _valid(project: Project, kind: str, file: Path) -> Iterator[Problem]:
    frame = project.object(file)
    if frame.get("type") != kind:
        yield Problem(project.name(file), 1, f"the type is not {kind}", "move it or mend it")
    for error in schemas.frame_errors(project, frame):
        yield Problem(project.name(file), 1, f"not valid: {error.message}", "mend the example or the schema")


def _invalid(project: Project, file: Path) -> Iterator[Problem]:
    place = project.name(file)
    shape = schemas.meta_problems(project, file, "example")
    if shape:
        yield from shape
        return
    example = project.object(file)
    stated = example["error"]
    found = [_reason(error) for error in schemas.frame_errors(project, example["frame"])]
    if found != [stated]:
        yield Problem(
            place,
            project.line_of(file, '"error"'),
            f"stated: {stated}; found: {found or 'nothing wrong'}",
            "one fault per example, stated as the validator finds it",
        )


def _reason(error: ValidationError) -> dict[str, object]:
    """Say where an error stands and which keyword found it."""
    path = schemas.path_of(error)
    if missing := _MISSING.match(error.message):
        path = f"{path}.{missing['name']}" if path else missing["name"]
    return {"keyword": str(error.validator), "path": path}


def _required(project: Project, kind: str, invalid: list[Path]) -> Iterator[Problem]:
    """Every required member of a frame has an example that lacks it."""
    schema = project.object(project.v1 / "messages" / f"{kind}.schema.json")
    needed = schema.get("required")
    stated = [project.object(file).get("error") for file in invalid]
    for name in needed if isinstance(needed, list) else []:
        if {"keyword": "required", "path": name} not in stated:
            yield Problem(
                f"schemas/v1/examples/{kind}/invalid",
                0,
                f"no example lacks {name}",
                f"add missing-{name}.json",
            )
