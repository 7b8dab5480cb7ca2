"""The validators: published examples are judged as their files say, and inlining changes no verdict."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest
from holdfast_conformance import schemas
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = schemas.root() / "v1" / "examples"


def examples(kind: str) -> list[Path]:
    """Return the files of the valid or the invalid examples."""
    return sorted(EXAMPLES.glob(f"*/{kind}/*.json"))


def as_written(frame: dict[str, object]) -> bool:
    """Return what the schema of the frame's type says, without any preparation of ours."""
    type = frame.get("type")
    path = f"v1/messages/{type}.schema.json" if type in schemas.types() else "v1/envelope.schema.json"
    schema = cast("dict[str, object]", schemas.load(path))
    return Draft202012Validator(schema, registry=schemas.registry()).is_valid(frame)


@pytest.mark.parametrize("path", examples("valid"), ids=lambda path: path.stem)
def test_valid_examples_are_valid(path: Path) -> None:
    """A published example of a frame has no fault."""
    frame = json.loads(path.read_text("utf-8"))
    assert schemas.fault(frame) is None
    assert as_written(frame)


@pytest.mark.parametrize("path", examples("invalid"), ids=lambda path: path.stem)
def test_invalid_examples_are_judged_like_the_written_schema(path: Path) -> None:
    """A counter-example is refused, with a path, whenever the schema as it is written refuses it."""
    frame = json.loads(path.read_text("utf-8"))["frame"]
    fault = schemas.fault(frame)
    assert (fault is None) is as_written(frame)
    assert fault is None or fault.startswith("$")


def test_unknown_types_are_judged_by_the_envelope() -> None:
    """A private type is fine when its envelope is; a frame without a type never is."""
    assert schemas.fault({"type": "x.private", "id": 1, "more": []}) is None
    assert schemas.fault({"type": "x.private", "meta": 5}) is not None
    assert schemas.fault({"id": 1}) is not None


def test_a_schema_that_refers_to_itself_is_inlined_to_an_end() -> None:
    """Inlining stops at a reference into what it is inlining, and the result still judges."""
    schema: dict[str, object] = {
        "$id": "https://holdfast.example/test.schema.json",
        "$defs": {"tree": {"type": "object", "additionalProperties": {"$ref": "#/$defs/tree"}}},
        "$ref": "#/$defs/tree",
    }
    validator = schemas.compiled(schema)
    assert not list(validator.iter_errors({"a": {"b": {"c": {}}}}))
    assert list(validator.iter_errors({"a": {"b": {"c": 5}}}))
