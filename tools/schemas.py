"""The frame schemas as validators: chosen by `type`, with the annotation `x-maxBytes` enforced.

Nothing is fetched: every schema of `schemas/` is registered under its own `$id`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.jsonschema import DRAFT202012, Schema

from tools.problem import Problem, Project, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")


def _max_bytes(
    _validator: object, limit: object, value: object, _schema: object
) -> Iterator[ValidationError]:
    """The keyword `x-maxBytes`: the string has a UTF-8 form of at most so many bytes."""
    if not isinstance(value, str) or not isinstance(limit, int):
        return
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        yield ValidationError("the string holds a lone surrogate, so it has no UTF-8 form")
        return
    # More characters than that is the business of `maxLength`, so that one fault is one error.
    if len(value) <= limit < size:
        yield ValidationError(f"{size} bytes of UTF-8 are more than {limit}")


class Validator(Protocol):
    """As much of a validator as is used here; the stubs of the library know only part of what it takes."""

    def iter_errors(self, instance: object) -> Iterable[ValidationError]: ...


_DIALECT = cast(
    "Callable[..., Validator]",
    extend(Draft202012Validator, {"x-maxBytes": _max_bytes}),  # type: ignore[no-untyped-call]  # by the stubs
)


@cache
def _registry(project: Project) -> Registry[Schema]:
    resources = []
    for file in files(project):
        schema = project.object(file)
        resources.append((str(schema["$id"]), DRAFT202012.create_resource(dict(schema))))
    return Registry[Schema]().with_resources(resources)


def files(project: Project) -> list[Path]:
    """Return every schema file: those of the frames and those of the data files."""
    return sorted((project.root / "schemas").rglob("*.schema.json"))


@cache
def validator(project: Project, file: Path) -> Validator:
    """Compile one schema file."""
    return _DIALECT(dict(project.object(file)), registry=_registry(project))


def frame_errors(project: Project, frame: object) -> list[ValidationError]:
    """Return what is wrong with a frame of version 1 under the schema that its type selects."""
    if not isinstance(frame, dict):
        return [ValidationError("a frame is an object")]
    kind = frame.get("type")
    file = project.v1 / "envelope.schema.json"
    if isinstance(kind, str) and _TYPE.fullmatch(kind):
        own = project.v1 / "messages" / f"{kind}.schema.json"
        file = own if own.is_file() else file
    return list(validator(project, file).iter_errors(frame))


def leaves(error: ValidationError) -> Iterator[ValidationError]:
    """Yield an error and everything that it was caused by."""
    yield error
    for cause in error.context or ():
        yield from leaves(cause)


def path_of(error: ValidationError) -> str:
    """Return where in the frame an error stands, parts joined by dots; empty for the frame itself."""
    return ".".join(str(part) for part in error.absolute_path)


def members(schema: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Return the members of an object schema, each with what a condition (`if`, `then`) says about it.

    What stands under `properties` has words; what only holds under a condition may have the bounds.
    """
    found: dict[str, dict[str, object]] = {}
    for part in (schema, *(rule.get("then") for rule in rows(schema.get("allOf")))):
        properties = part.get("properties") if isinstance(part, dict) else None
        for name, value in properties.items() if isinstance(properties, dict) else ():
            found[name] = _merged(value, found.get(name, {}))
    return found


def _merged(schema: object, known: dict[str, object]) -> dict[str, object]:
    """Add to what is known of a member what it does not say yet; what is required then is not always so."""
    more = schema if isinstance(schema, dict) else {}
    if not known:
        return more
    inner = members({"properties": known.get("properties"), "allOf": [{"then": more}]})
    merged = {**{key: value for key, value in more.items() if key != "required"}, **known}
    return {**merged, "properties": inner} if inner else merged


@cache
def reserved(project: Project) -> frozenset[str]:
    """Return the types whose names are known and whose schemas come with a later edition."""
    registry = project.object(project.v1 / "protocol.json")
    return frozenset(str(row["type"]) for row in rows(registry["messages"]) if row["schema"] is None)


def meta_problems(project: Project, file: Path, schema: str) -> list[Problem]:
    """Judge a data file by its meta-schema, `schemas/meta/<schema>.schema.json`."""
    place = project.name(file)
    try:
        value = project.json(file)
    except ValueError as error:
        return [Problem(place, 0, f"not JSON: {error}", "mend the file")]
    found = validator(project, project.meta / f"{schema}.schema.json").iter_errors(value)
    return [
        Problem(
            place, 0, f"{error.json_path}: {error.message[:200]}", f"see schemas/meta/{schema}.schema.json"
        )
        for error in found
    ]


def check(project: Project) -> list[Problem]:
    """The schemas themselves: valid, named after their place, every field described, every bound explicit."""
    problems: list[Problem] = []
    for file in files(project):
        place = project.name(file)
        schema = project.object(file)
        try:
            Draft202012Validator.check_schema(schema)
        except Exception as error:  # whatever the library makes of a broken schema is the finding
            problems.append(Problem(place, 0, f"not a schema: {error}", "mend it"))
            continue
        expected = "https://holdfast.example/" + place.removeprefix("schemas/")
        if schema["$id"] != expected:
            problems.append(
                Problem(place, project.line_of(file, '"$id"'), "the $id does not name the place", expected)
            )
        for where, part in _walk(schema, ""):
            problems += _judge(project, file, where, part)
    return problems


def _walk(part: object, where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield every object inside a schema with its path."""
    if isinstance(part, dict):
        yield where, part
        for name, value in part.items():
            yield from _walk(value, f"{where}/{name}")
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from _walk(value, f"{where}/{number}")


def _judge(project: Project, file: Path, where: str, part: Mapping[str, object]) -> Iterator[Problem]:
    """Judge one object of a schema."""
    place = project.name(file)
    published = file.is_relative_to(project.v1)
    if published and part.get("type") == "integer" and not {"minimum", "maximum"} <= part.keys():
        yield Problem(place, 0, f"{where}: an integer without bounds", "say minimum and maximum")
    pattern = part.get("pattern")
    if isinstance(pattern, str) and re.search(r"\\[dwsDWS]|\(\?", pattern):
        yield Problem(
            place,
            0,
            f"{where}: the pattern {pattern} differs between engines",
            "spell out the class, use no groups with ?",
        )
    properties = part.get("properties")
    if (
        published
        and isinstance(properties, dict)
        and not where.endswith(("/then", "/if"))
        and "/then/" not in where
    ):
        for name, field in properties.items():
            if isinstance(field, dict) and "description" not in field and "/if/" not in where:
                yield Problem(
                    place, project.line_of(file, f'"{name}"'), f"{name} has no description", "describe it"
                )
    if "x-maxBytes" in part and part.get("maxLength") != part["x-maxBytes"]:
        yield Problem(place, 0, f"{where}: x-maxBytes without an equal maxLength", "say both")
