"""The one layout of JSON files in this repository, so that a diff shows only what changed.

A value stands on one line where it fits into `WIDTH` columns, otherwise one member per line, indented by two
spaces.
"""

from __future__ import annotations

import json

WIDTH = 110


def dumps(value: object) -> str:
    """Spell a JSON value in the house layout, with a final newline."""
    return _spell(value, 0, 0) + "\n"


def _spell(value: object, indent: int, lead: int) -> str:
    """Spell `value` at `indent` columns; `lead` columns of its first line are taken by a key before it."""
    flat = json.dumps(value, ensure_ascii=False)
    # One column is kept for the comma that may follow; the outermost value is always opened up.
    if not isinstance(value, dict | list) or not value or (indent and indent + lead + len(flat) < WIDTH):
        return flat
    inner = indent + 2
    if isinstance(value, dict):
        keys = [json.dumps(key, ensure_ascii=False) + ": " for key in value]
        rows = [key + _spell(item, inner, len(key)) for key, item in zip(keys, value.values(), strict=True)]
    else:
        rows = [_spell(item, inner, 0) for item in value]
    pad = " " * inner
    first, last = "{}" if isinstance(value, dict) else "[]"
    return first + "\n" + ",\n".join(pad + row for row in rows) + "\n" + " " * indent + last
