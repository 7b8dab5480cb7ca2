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

from .quick import Unknown, quick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from referencing._core import Resolver  # public in use, and exported nowhere else
    from referencing.jsonschema import Schema, SchemaRegistry

__all__ = ["compiled", "fault", "load", "meta_fault", "registry", "root", "types", "vector_files"]

ANNOTATIONS = ("$comment", "$schema", "default", "description", "examples", "title")
"""Keywords that no validation looks at."""


class Fault(Protocol):
    """As much of a jsonschema error as is used."""

    message: str
    json_path: str
    instance: object
    context: Iterable[Fault]


class Validator(Protocol):
    """As much of a jsonschema validator as is used."""

    def iter_errors(self, instance: object) -> Iterable[Fault]: ...


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
    return None if _good(name)(frame) else _first(_validator(name), frame)


def meta_fault(name: str, document: object, secret: tuple[str, ...] = ()) -> str | None:
    """Return what is wrong with a document by `meta/<name>.schema.json`, or None.

    Args:
        secret: JSON paths; whatever lies under them is not quoted. Tables and lists, which may hold some of
            it, are not quoted either then.
    """
    return _first(_validator(f"meta/{name}.schema.json"), document, secret)


def _first(validator: Validator, instance: object, secret: tuple[str, ...] = ()) -> str | None:
    error = next(iter(validator.iter_errors(instance)), None)
    if error is None:
        return None
    message = error.message
    if secret and (isinstance(error.instance, dict | list) or error.json_path.startswith(secret)):
        message = message.replace(repr(error.instance), "this")
    message = message if len(message) < 300 else message[:300] + "…"
    return f"{error.json_path}: {message}"


@cache
def registry() -> SchemaRegistry:
    """Return every published schema by its id; nothing is ever fetched."""
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
def _validator(path: str) -> Validator:
    return compiled(cast("dict[str, object]", load(path)))


@cache
def _good(path: str) -> Callable[[object], bool]:
    """Return a function that says of most good frames that they are."""
    try:
        return quick(_resolved(cast("dict[str, object]", load(path)))[0])
    except Unknown:
        return lambda frame: False


def compiled(schema: dict[str, object]) -> Validator:
    """Return a validator of a schema that may refer to the published ones."""
    from jsonschema import Draft202012Validator

    inlined, known = _resolved(schema)
    return cast("Validator", Draft202012Validator(inlined, registry=known))


def _resolved(schema: dict[str, object]) -> tuple[Schema, SchemaRegistry]:
    """Return a schema with every `$ref` replaced, and the registry that knows it."""
    from referencing.jsonschema import DRAFT202012

    known = registry().with_resource(str(schema["$id"]), DRAFT202012.create_resource(schema))
    return _inlined(schema, known.resolver(base_uri=str(schema["$id"])), ()), known


def _inlined(schema: Schema, resolver: Resolver[Schema], inside: tuple[int, ...]) -> Schema:
    """Return a schema with every `$ref` replaced by what it names, which halves the time of a validation.

    A reference that leads back into itself stays as it is.
    """
    if isinstance(schema, bool):
        return schema
    rest: dict[str, object] = {}
    for name, member in schema.items():
        if isinstance(member, dict) and name in ("properties", "dependentSchemas", "patternProperties"):
            rest[name] = {key: _inlined(value, resolver, inside) for key, value in member.items()}
        elif isinstance(member, dict) and name not in ("const", "default"):
            rest[name] = _inlined(member, resolver, inside)
        elif isinstance(member, list) and name in ("allOf", "anyOf", "oneOf", "prefixItems"):
            rest[name] = [_inlined(item, resolver, inside) for item in member]
        elif name not in ANNOTATIONS:
            rest[name] = member
    reference = rest.pop("$ref", None)
    if not isinstance(reference, str):
        return rest
    found = resolver.lookup(reference)
    if id(found.contents) in inside:
        return schema
    target = _inlined(found.contents, found.resolver, (*inside, id(found.contents)))
    every = rest.pop("allOf", [])
    return {**rest, "allOf": [*cast("list[Schema]", every), target]} if rest or every else target
