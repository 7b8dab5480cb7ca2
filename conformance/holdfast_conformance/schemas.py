"""The published data files: where they are, and validators chosen by message type.

Loaded from the package when it is installed, from the checkout otherwise. Each validator is compiled when its
type first occurs. Frames are validated by `type` first, never through one big `oneOf`, so that an error names
a field.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from referencing.jsonschema import SchemaRegistry

__all__ = ["fault", "load", "meta_fault", "root", "vector_files"]

BASE = "https://holdfast.example/"


class _Error(Protocol):
    message: str
    json_path: str
    context: Iterable[_Error]


class _Validator(Protocol):
    def iter_errors(self, instance: object) -> Iterable[_Error]: ...


@cache
def root() -> Path:
    """Return the directory that holds `v1/` and `meta/`."""
    here = Path(__file__).parent
    for candidate in (here / "_schemas", here.parent.parent / "schemas"):
        if (candidate / "v1").is_dir():
            return candidate
    raise FileNotFoundError("the installation lacks the published schemas")


@cache
def load(path: str) -> object:
    """Return a data file, such as `v1/protocol.json`."""
    return json.loads((root() / path).read_text("utf-8"))


def vector_files() -> list[str]:
    """Return the paths of the files of wire vectors, for `load`."""
    return sorted(f"v1/vectors/{file.name}" for file in (root() / "v1" / "vectors").glob("*.json"))


@cache
def types() -> frozenset[str]:
    """Return the message types that have a schema."""
    return frozenset(file.name.split(".")[0] for file in (root() / "v1" / "messages").glob("*.schema.json"))


def fault(frame: Mapping[str, object]) -> str | None:
    """Return what is wrong with a frame, as `$.path: message`, or None when its schema allows it.

    A type without a schema, and a frame without a usable type, are judged by the envelope alone.
    """
    type = frame.get("type")
    name = f"v1/messages/{type}.schema.json" if type in types() else "v1/envelope.schema.json"
    return _first(_validator(name), frame)


def meta_fault(name: str, document: object) -> str | None:
    """Return what is wrong with a document by `meta/<name>.schema.json`, or None."""
    return _first(_validator(f"meta/{name}.schema.json"), document)


def _first(validator: _Validator, instance: object) -> str | None:
    error = next(iter(validator.iter_errors(instance)), None)
    if error is None:
        return None
    message = error.message if len(error.message) < 300 else error.message[:300] + "…"
    return f"{error.json_path}: {message}"


@cache
def _registry() -> SchemaRegistry:
    from referencing import Registry, Resource

    documents = [load(str(file.relative_to(root()))) for file in sorted(root().glob("v1/**/*.schema.json"))]
    documents += [load(str(file.relative_to(root()))) for file in sorted(root().glob("meta/*.schema.json"))]
    resources = [
        (cast("dict[str, str]", d)["$id"], Resource.from_contents(cast("dict[str, object]", d)))
        for d in documents
    ]
    registry: SchemaRegistry = Registry().with_resources(resources).crawl()
    return registry


@cache
def _validator(path: str) -> _Validator:
    from jsonschema import Draft202012Validator

    schema = cast("dict[str, object]", load(path))
    return cast("_Validator", Draft202012Validator(schema, registry=_registry()))
