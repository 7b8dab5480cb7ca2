"""A quick yes: the keywords that the published schemas use, compiled to functions.

`jsonschema` judges, and its words are what reports quote; but it takes most of a run to say yes a hundred
thousand times. So a frame that passes here is good, and only one that does not is shown to `jsonschema`. A
test holds the two against each other. A schema with any other keyword has no quick yes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from .expect import same_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Yes = Callable[[object], bool]
    Table = dict[str, object]

__all__ = ["Unknown", "quick"]


class Unknown(Exception):
    """A keyword that has no quick form."""


def quick(schema: object) -> Yes:
    """Return a function that says whether a value satisfies a schema, in which every `$ref` is resolved.

    Raises:
        Unknown: the schema uses a keyword that is not supported here.
    """
    if isinstance(schema, bool):
        return lambda value: schema
    table = cast("Table", schema)
    tests = [KEYWORDS[name](table) for name in table if name in KEYWORDS]
    if unknown := [name for name in table if name not in KEYWORDS | SILENT and not name.startswith("x-")]:
        raise Unknown(unknown[0])
    return tests[0] if len(tests) == 1 else _all(tests)


def _all(tests: Sequence[Yes]) -> Yes:
    def holds(value: object) -> bool:
        for test in tests:  # noqa: SIM110  # all() would make a generator for each of a million values
            if not test(value):
                return False
        return True

    return holds


def _is_integer(value: object) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


TYPES: dict[str, Yes] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _type(schema: Table) -> Yes:
    named = schema["type"]
    if isinstance(named, str):
        return TYPES[named]
    wanted = [TYPES[name] for name in cast("list[str]", named)]
    return lambda value: any(test(value) for test in wanted)


def _required(schema: Table) -> Yes:
    names = frozenset(cast("list[str]", schema["required"]))
    return lambda value: not isinstance(value, dict) or names <= value.keys()


def _properties(schema: Table) -> Yes:
    tests = {name: quick(member) for name, member in cast("Table", schema["properties"]).items()}

    def holds(value: object) -> bool:
        if isinstance(value, dict):
            for name, member in value.items():
                if name in tests and not tests[name](member):
                    return False
        return True

    return holds


def _items(schema: Table) -> Yes:
    test = quick(schema["items"])
    return lambda value: not isinstance(value, list) or all(map(test, value))


def _contains(schema: Table) -> Yes:
    test = quick(schema["contains"])
    return lambda value: not isinstance(value, list) or any(map(test, value))


def _unique(schema: Table) -> Yes:
    def holds(value: object) -> bool:
        if not isinstance(value, list) or not schema["uniqueItems"]:
            return True
        return not any(same_json(a, b) for n, a in enumerate(value) for b in value[:n])

    return holds


def _const(schema: Table) -> Yes:
    wanted = schema["const"]
    if isinstance(wanted, str):
        return lambda value: value == wanted
    return lambda value: same_json(value, wanted)


def _enum(schema: Table) -> Yes:
    wanted = cast("list[object]", schema["enum"])
    return lambda value: any(same_json(value, one) for one in wanted)


def _every(schema: Table) -> Yes:
    return _all([quick(part) for part in cast("list[object]", schema["allOf"])])


def _any(schema: Table) -> Yes:
    tests = [quick(part) for part in cast("list[object]", schema["anyOf"])]
    return lambda value: any(test(value) for test in tests)


def _one(schema: Table) -> Yes:
    tests = [quick(part) for part in cast("list[object]", schema["oneOf"])]
    return lambda value: sum(test(value) for test in tests) == 1


def _not(schema: Table) -> Yes:
    test = quick(schema["not"])
    return lambda value: not test(value)


def _if(schema: Table) -> Yes:
    test, then, otherwise = (quick(schema.get(name, True)) for name in ("if", "then", "else"))
    return lambda value: (then if test(value) else otherwise)(value)


def _dependent(schema: Table) -> Yes:
    needs = cast("dict[str, list[str]]", schema["dependentRequired"])

    def holds(value: object) -> bool:
        if not isinstance(value, dict):
            return True
        return all(other in value for name, others in needs.items() if name in value for other in others)

    return holds


def _pattern(schema: Table) -> Yes:
    search = re.compile(str(schema["pattern"])).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _size(name: str, kind: type[str] | type[list[object]], sign: int) -> Callable[[Table], Yes]:
    def keyword(schema: Table) -> Yes:
        bound = cast("int", schema[name])
        return lambda value: not isinstance(value, kind) or sign * (len(value) - bound) >= 0

    return keyword


def _bound(name: str, sign: int) -> Callable[[Table], Yes]:
    def keyword(schema: Table) -> Yes:
        bound = cast("float", schema[name])
        number = TYPES["number"]
        return lambda value: not number(value) or sign * cast("float", value) >= sign * bound

    return keyword


KEYWORDS: dict[str, Callable[[Table], Yes]] = {
    "type": _type,
    "required": _required,
    "properties": _properties,
    "items": _items,
    "contains": _contains,
    "uniqueItems": _unique,
    "const": _const,
    "enum": _enum,
    "allOf": _every,
    "anyOf": _any,
    "oneOf": _one,
    "not": _not,
    "if": _if,
    "dependentRequired": _dependent,
    "pattern": _pattern,
    "minLength": _size("minLength", str, 1),
    "maxLength": _size("maxLength", str, -1),
    "minItems": _size("minItems", list, 1),
    "maxItems": _size("maxItems", list, -1),
    "minimum": _bound("minimum", 1),
    "maximum": _bound("maximum", -1),
}

SILENT = dict.fromkeys(
    ("$comment", "$defs", "$id", "$schema", "contentEncoding", "default", "description", "else", "examples",
     "then", "title")
)  # fmt: skip
"""Keywords that test nothing by themselves."""
