"""The registry `schemas/v1/protocol.json`, held against its meta-schema, the frame schemas and itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tools import schemas
from tools.problem import Problem, Project, rows, strings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RESERVED = "reserved"


def check(project: Project) -> list[Problem]:
    """Judge the registry."""
    file = project.v1 / "protocol.json"
    problems = schemas.meta_problems(project, file, "protocol")
    if problems:
        return problems
    registry = project.object(file)
    texts = [*_names(registry), *_messages(project, registry), *_fields(project, registry)]
    texts += [*_machines(registry), *_limits(project, registry), *_constants(project, registry)]
    texts += _enums(project, registry)
    return [Problem(project.name(file), 0, text, "mend the registry or the schema") for text in texts]


def _names(registry: Mapping[str, object]) -> Iterator[str]:
    """Every row has a name of its own, and names of other tables exist."""
    keys = {
        "constants": "name",
        "profiles": "name",
        "messages": "type",
        "machines": "name",
        "error_codes": "code",
    }
    keys |= {"limits": "key", "timers": "name", "enums": "name"}
    for table, key in keys.items():
        for name, count in Counter(str(row[key]) for row in rows(registry[table])).items():
            if count > 1:
                yield f"{table}: {name} stands there {count} times"
    profiles = {str(row["name"]) for row in rows(registry["profiles"])}
    types = {str(row["type"]) for row in rows(registry["messages"])}
    for row in rows(registry["profiles"]):
        for need in strings(row["needs"]):
            if need not in profiles:
                yield f"profiles: {row['name']} needs {need}, which does not exist"
    for table in ("messages", "fields", "limits"):
        for row in rows(registry[table]):
            if row["profile"] not in profiles:
                yield f"{table}: unknown profile {row['profile']}"
    for row in rows(registry["error_codes"]):
        for kind in strings(row["on"]):
            if kind != "*" and kind not in types:
                yield f"error_codes: {row['code']} answers {kind}, which does not exist"
    seen: set[tuple[str, str]] = set()
    for row in rows(registry["close_codes"]):
        for side in strings(row["sender"]):
            code = str(row.get("range", row.get("code")))
            if (code, side) in seen:
                yield f"close_codes: {code} stands there twice for the {side}"
            seen.add((code, side))


def _messages(project: Project, registry: Mapping[str, object]) -> Iterator[str]:
    """Every type of this edition has its schema, and every schema its row."""
    found = {file.name.split(".")[0] for file in (project.v1 / "messages").glob("*.schema.json")}
    for row in rows(registry["messages"]):
        kind = row["type"]
        expected = None if row["edition"] == RESERVED else f"messages/{kind}.schema.json"
        if row["schema"] != expected:
            yield f"messages: the schema of {kind} is {row['schema']}, not {expected}"
        if (expected is None) == (kind in found):
            state = "exists" if kind in found else "is missing"
            yield f"messages: {kind} is {row['edition']}, and its schema {state}"
        if not (project.v1 / str(row.get("result", "."))).exists():
            yield f"messages: {row['result']} does not exist"
        if kind in found and _property(project, str(kind), "type").get("const") != kind:
            yield f"messages: the schema of {kind} has another type"
        has_id = kind in found and "id" in _properties(project, str(kind))
        if kind in found and has_id != (row["exchange"] is not None):
            yield f"messages: `exchange` of {kind} disagrees with its schema about `id`"
    for name in found - {row["type"] for row in rows(registry["messages"])}:
        yield f"messages: no row for the schema of {name}"
    described = {f"results/{file.name}" for file in (project.v1 / "results").glob("*.schema.json")}
    for path in described - {row.get("result") for row in rows(registry["messages"])}:
        yield f"messages: no row for {path}"


def _fields(project: Project, registry: Mapping[str, object]) -> Iterator[str]:
    """A member of this edition is in its schema, a reserved one is not."""
    types = {str(row["type"]): row for row in rows(registry["messages"])}
    for row in rows(registry["fields"]):
        kind, name = str(row["message"]), str(row["field"])
        if kind != "*" and kind not in types:
            yield f"fields: {name} of {kind}, which does not exist"
            continue
        # What stands for every type is a member of each frame of the server that names an exchange.
        every = [key for key, found in types.items() if found["exchange"] == "names"]
        for frame in every if kind == "*" else [kind]:
            if not types[frame]["schema"]:
                continue
            if types[frame]["profile"] == row["profile"]:
                yield f"fields: {frame}.{name} belongs to the profile of its frame anyway"
            known = _has(project, frame, name.split("."))
            if known == (row["edition"] == RESERVED):
                state = "in" if known else "not in"
                yield f"fields: {frame}.{name} is {row['edition']}, and {state} the schema"


def _machines(registry: Mapping[str, object]) -> Iterator[str]:
    """States and events are declared, used, and every pair of them has at most one transition."""
    closes = {row.get("code") for row in rows(registry["close_codes"])}
    for machine in rows(registry["machines"]):
        name = machine["name"]
        states = {str(row["name"]): row for row in rows(machine["states"])}
        events = {str(row["name"]) for row in rows(machine["events"])}
        pairs: Counter[tuple[str, str]] = Counter()
        reached = {state for state, row in states.items() if row.get("initial")}
        if len(reached) != 1:
            yield f"{name}: {len(reached)} initial states"
        for row in rows(machine["transitions"]):
            pairs.update((state, str(row["event"])) for state in strings(row["from"]))
            reached.add(str(row["to"]))
            if row.get("close", 1000) not in closes:
                yield f"{name}: unknown close code {row['close']}"
        for (state, event), count in pairs.items():
            if count > 1:
                yield f"{name}: {count} transitions for {event} in {state}"
            if states.get(state, {}).get("final"):
                yield f"{name}: a transition out of the final state {state}"
        if unknown := ({state for state, _ in pairs} | reached) - states.keys():
            yield f"{name}: unknown states {sorted(unknown)}"
        if lost := states.keys() - reached:
            yield f"{name}: states that are never reached {sorted(lost)}"
        if differ := {event for _, event in pairs} ^ events:
            yield f"{name}: events that are not both declared and used {sorted(differ)}"


def _limits(project: Project, registry: Mapping[str, object]) -> Iterator[str]:
    """Limits of this edition are exactly those of the schema of welcome, with the same floor."""
    own = {str(row["key"]): row for row in rows(registry["limits"]) if row["edition"] != RESERVED}
    limits = _property(project, "welcome", "limits")
    properties = limits.get("properties")
    listed = set(properties) if isinstance(properties, dict) else set()
    if differ := {key.split(".")[0] for key in own} ^ listed:
        yield f"limits: not both in the registry and in the schema of welcome: {sorted(differ)}"
    always = {key for key, row in own.items() if row["required"] and row["profile"] == "core"}
    if always != set(strings(limits.get("required"))):
        yield "limits: those always present differ from those that the schema of welcome requires"
    for key, row in own.items():
        part = limits
        for name in key.split("."):
            part = _member(project, part, name)
        if part.get("minimum") != row["floor"]:
            yield f"limits: the floor of {key} is {row['floor']}, its schema says {part.get('minimum')}"


def _constants(project: Project, registry: Mapping[str, object]) -> Iterator[str]:
    """Numbers that stand both in the registry and in the shared definitions are the same."""
    value = {str(row["name"]): row["value"] for row in rows(registry["constants"])}
    for name, part, keyword in (
        ("max_id", "id", "maximum"),
        ("max_name_bytes", "name", "x-maxBytes"),
        ("max_name_bytes", "pattern", "x-maxBytes"),
        ("max_type_bytes", "type", "x-maxBytes"),
        ("max_cursor_bytes", "cursor", "x-maxBytes"),
        ("max_session_bytes", "session", "x-maxBytes"),
        ("max_dedupe_bytes", "dedupe", "x-maxBytes"),
        ("max_attempt", "attempt", "maximum"),
        ("max_t_bytes", "t", "x-maxBytes"),
        ("max_timeout_ms", "timeout", "maximum"),
        ("min_max_frame", "frame_size", "minimum"),
    ):
        found = _definition(project, part).get(keyword)
        if value.get(name) != found:
            yield f"constants: {name} is {value.get(name)}, the definition of {part} says {found}"
    base = str(value.get("schema_base"))
    for file in schemas.files(project):
        if file.is_relative_to(project.v1) and not str(project.object(file)["$id"]).startswith(base):
            yield f"constants: the $id of {project.name(file)} does not begin with schema_base"


def _enums(project: Project, registry: Mapping[str, object]) -> Iterator[str]:
    """Closed lists of values are those of the schemas."""
    values = {
        str(row["name"]): [str(item["value"]) for item in rows(row["values"])]
        for row in rows(registry["enums"])
    }
    for name in ("gap.reason", "open.reason", "welcome.resume_error.code"):
        kind, *path = name.split(".")
        part = _schema(project, kind)
        for member in path:
            part = _member(project, part, member)
        if values.get(name) != part.get("enum"):
            yield f"enums: {name} differs from its schema"
    if values.get("enc") != [_definition(project, "enc").get("const")]:
        yield "enums: enc differs from its schema"


def _definition(project: Project, name: str) -> Mapping[str, object]:
    parts = project.object(project.v1 / "defs.schema.json")["$defs"]
    found = parts.get(name) if isinstance(parts, dict) else None
    return found if isinstance(found, dict) else {}


def _properties(project: Project, kind: str) -> Mapping[str, object]:
    return schemas.members(_schema(project, kind))


def _property(project: Project, kind: str, name: str) -> Mapping[str, object]:
    return _member(project, _schema(project, kind), name)


def _member(project: Project, schema: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return the schema of a member over the definition that it refers to; {} when there is none."""
    found = schemas.members(schema).get(name)
    if found is None:
        return {}
    reference = str(found.get("$ref", ""))
    return {**_definition(project, reference.rpartition("/")[2]), **found} if reference else found


def _has(project: Project, kind: str, path: list[str]) -> bool:
    part = _schema(project, kind)
    for name in path:
        part = _member(project, part, name)
    return bool(part)


def _schema(project: Project, kind: str) -> Mapping[str, object]:
    """Return the schema of a type; {} when it has none, which `_messages` reports."""
    file = project.v1 / "messages" / f"{kind}.schema.json"
    return project.object(file) if file.is_file() else {}
