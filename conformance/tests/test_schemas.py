"""The validators: published examples are judged as their files say, and inlining changes no verdict."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, cast

import pytest
from holdfast_conformance import schemas
from holdfast_conformance.quick import Unknown, quick
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


ODD: tuple[object, ...] = (
    None, True, False, 0, 1, -1, 1.0, 1.5, 2**53, 2**53 - 1, "", "x", "x" * 300, "a.b", "\u00e9" * 200,
    [], [1, 1], ["rpc", "ack"], {}, {"code": "app"}, {"code": "not_found", "last_id": 1}, {"max_frame": 1},
)  # fmt: skip
"""Values that some member of some frame does not allow."""


def varied(random: Random, frame: dict[str, object]) -> dict[str, object]:
    """Return a frame with one or two members changed, added, exchanged or gone, at the top or inside."""
    twin = json.loads(json.dumps(frame))
    for _ in range(random.randint(1, 2)):
        inner = [twin, *(member for member in twin.values() if isinstance(member, dict))]
        place = random.choice(inner)
        name = random.choice([*place, "id", "seq", "data", "cursor", "since", "resumed", "reason", "last"])
        if random.random() < 0.3:
            place.pop(name, None)
        else:
            place[name] = random.choice(ODD)
    return cast("dict[str, object]", twin)


def test_the_quick_yes_is_what_jsonschema_says() -> None:
    """For every type there is a quick yes, and it says of good and of odd frames what `jsonschema` says."""
    random = Random(7)
    frames = [json.loads(path.read_text("utf-8")) for path in examples("valid")]
    judged = {True: 0, False: 0}
    for frame in frames * 8:
        twin = varied(random, frame)
        type = str(twin.get("type"))
        if type not in schemas.types():
            continue
        path = f"v1/messages/{type}.schema.json"
        good = schemas._good(path)(twin)
        assert good is (schemas._first(schemas._validator(path), twin) is None), twin
        judged[good] += 1
    assert min(judged.values()) > 200


def test_a_keyword_without_a_quick_form_is_left_to_jsonschema() -> None:
    """The compiler refuses what it does not know instead of ignoring it."""
    with pytest.raises(Unknown, match="multipleOf"):
        quick({"type": "integer", "multipleOf": 2})


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
