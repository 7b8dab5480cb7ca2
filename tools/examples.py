"""Example frames: valid ones pass, invalid ones fail for the reason that they state and for no other.

An invalid example is `{"why": ..., "error": {"keyword": ..., "path": ...}, "frame": ...}`. `path` leads to
the value at fault, parts joined by dots; for the keyword `required` it ends with the name of what is missing.
Below `results` stand examples of the `data` of a `result`, by the type of the frame that it answers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tools import schemas
from tools.problem import Problem, Project, rows, strings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from jsonschema.exceptions import ValidationError

    from tools.schemas import Validator

LEAST_INVALID = 2
_MISSING = re.compile(r"^'(?P<name>[^']+)' is a required property$")


def check(project: Project) -> list[Problem]:
    """Judge every file below `schemas/v1/examples`, and that no frame lacks examples."""
    problems: list[Problem] = []
    registry = project.object(project.v1 / "protocol.json")
    kinds = {str(row["type"]): str(row["schema"]) for row in rows(registry["messages"]) if row["schema"]}
    kinds |= {
        f"results/{row['type']}": str(row["result"]) for row in rows(registry["messages"]) if "result" in row
    }
    root = project.v1 / "examples"
    found = {entry.relative_to(root).as_posix() for entry in (*root.glob("*"), *root.glob("results/*"))}
    stray = sorted(found - kinds.keys() - {"results"})
    problems += [
        Problem(project.name(root / name), 0, "no frame has this name", "rename it") for name in stray
    ]
    for kind, schema in sorted(kinds.items()):
        judge = schemas.validator(project, project.v1 / schema)
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
            problems += _valid(project, judge, file)
        for file in invalid:
            problems += _invalid(project, judge, file)
        problems += _required(project, project.object(project.v1 / schema), root / kind / "invalid")
    return problems


def _valid(project: Project, judge: Validator, file: Path) -> Iterator[Problem]:
    for error in judge.iter_errors(project.object(file)):
        yield Problem(project.name(file), 1, f"not valid: {error.message}", "mend the example or the schema")


def _invalid(project: Project, judge: Validator, file: Path) -> Iterator[Problem]:
    place = project.name(file)
    shape = schemas.meta_problems(project, file, "example")
    if shape:
        yield from shape
        return
    example = project.object(file)
    stated = example["error"]
    found = [_reason(error) for error in judge.iter_errors(example["frame"])]
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


def _required(project: Project, schema: Mapping[str, object], folder: Path) -> Iterator[Problem]:
    """Every required member has an example that lacks it."""
    stated = [project.object(file).get("error") for file in sorted(folder.glob("*.json"))]
    for name in strings(schema.get("required")):
        if {"keyword": "required", "path": name} not in stated:
            yield Problem(project.name(folder), 0, f"no example lacks {name}", f"add missing-{name}.json")
