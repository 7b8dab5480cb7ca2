"""Tables of fields, made from schemas, and one page per frame.

A page takes the schema of its frame, its registry row, its examples, the requirements and the traces. Nothing
is written by hand: a new frame gets its page from its data. Fields have stable anchors (`#field-error-code`).
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tools.layout import dumps
from tools.problem import Project, rows, strings
from tools.schemas import members
from tools.spec_index import chapters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tools.spec_index import Requirement

_POWERS = {2**31 - 1: "2^31 - 1", 2**53 - 1: "2^53 - 1"}
_EXCHANGE = {
    "starts": "starts an exchange",
    "names": "belongs to the exchange that its `id` names",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a frame, or of an object inside it.

    Attributes:
        path: the names from the frame down to the member, joined by dots; `[]` marks the items of an array.
        shape: type and bounds in words.
        required: whether it is always there when the object around it is.
        text: what it means.
    """

    path: str
    shape: str
    required: bool
    text: str

    @property
    def anchor(self) -> str:
        return "field-" + self.path.replace("[]", "").replace(".", "-")


class Shapes:
    """Schemas in words; references into the shared definitions are followed."""

    def __init__(self, definitions: Mapping[str, object]) -> None:
        self._definitions = definitions

    def resolve(self, schema: Mapping[str, object]) -> dict[str, object]:
        """Return the schema with the definition that it refers to merged in; its own words win."""
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return dict(schema)
        target = self._definitions[reference.rpartition("/")[2]]
        assert isinstance(target, dict)
        return {**self.resolve(target), **{key: value for key, value in schema.items() if key != "$ref"}}

    def fields(self, schema: Mapping[str, object], prefix: str = "") -> Iterator[Field]:
        """Yield the members of an object schema in their order, each followed by those inside it."""
        required = strings(schema.get("required"))
        for name, value in members(schema).items():
            inner = self.resolve(value)
            path = prefix + name
            default = f" Default: `{json.dumps(inner['default'])}`." if "default" in inner else ""
            sender = f" Only the {inner['x-from']} sends it." if "x-from" in inner else ""
            text = str(inner.get("description", "")) + sender + default
            yield Field(path, self.shape(inner), name in required, text)
            yield from self.fields(inner, path + ".")
            if isinstance(entry := inner.get("additionalProperties"), dict):
                yield from self.fields(self.resolve(entry), path + ".NAME.")
            items = inner.get("items")
            if isinstance(items, dict):
                yield from self.fields(self.resolve(items), path + "[].")

    def shape(self, schema: Mapping[str, object]) -> str:
        """Say the type of a value and its bounds in one short phrase."""
        if "const" in schema:
            return f"`{json.dumps(schema['const'])}`"
        if "enum" in schema:
            values = schema["enum"]
            assert isinstance(values, list)
            return " or ".join(f"`{json.dumps(value)}`" for value in values)
        kind = schema.get("type")
        if kind is None and "oneOf" in schema:
            return " or ".join(self.shape(self.resolve(choice)) for choice in rows(schema["oneOf"]))
        if isinstance(kind, list):
            return " or ".join(map(str, kind))
        match kind:
            case None:
                return "any JSON value"
            case "integer":
                return "integer" + _bounds(schema.get("minimum"), schema.get("maximum"), "")
            case "string":
                # maxLength counts characters and is only the coarse half of x-maxBytes.
                most = schema.get("x-maxBytes")
                if most is None and schema.get("minLength") == 1:
                    return "non-empty string"
                return "string" + _bounds(schema.get("minLength"), most, " bytes" if most else "")
            case "array":
                items = schema.get("items")
                inside = self.shape(self.resolve(items)) if isinstance(items, dict) else "any JSON value"
                return f"array of {inside}" + (", each once" if schema.get("uniqueItems") else "")
            case _:
                return str(kind)


def _bounds(low: object, high: object, unit: str) -> str:
    """Say a range in words, with a leading comma; nothing when it is open at both ends."""
    if low is None and high is None:
        return ""
    if high is None:
        return f", at least {_number(low)}{unit}"
    if low is None:
        return f", at most {_number(high)}{unit}"
    return f", {_number(low)} to {_number(high)}{unit}"


def _number(value: object) -> str:
    return _POWERS.get(value, str(value)) if isinstance(value, int) else str(value)


def pages(project: Project, requirements: Sequence[Requirement]) -> dict[str, str]:
    """Return `frames/index.md` and `frames/<type>.md` for every frame that has a schema."""
    registry = project.object(project.v1 / "protocol.json")
    messages = rows(registry.get("messages"))
    definitions = project.object(project.v1 / "defs.schema.json")["$defs"]
    assert isinstance(definitions, dict)
    shapes = Shapes(definitions)
    result = {"frames/index.md": _index(messages)}
    for message in messages:
        if message.get("edition") != "reserved":
            result[f"frames/{message['type']}.md"] = _page(project, message, shapes, registry, requirements)
    return result


def documented(project: Project) -> frozenset[str]:
    """Return the types that have a page."""
    return frozenset(file.name.partition(".")[0] for file in project.v1.glob("messages/*.schema.json"))


def _index(messages: Iterable[Mapping[str, object]]) -> str:
    """Return the list of all frames, by profile."""
    lines = [
        "# Frames",
        "",
        "Every frame is one JSON object in one WebSocket text message, and its `type` selects the schema.",
        "These pages are generated from the schemas, the registry and the examples;"
        " the [specification](../spec/README.md) says what the frames mean.",
        "",
    ]
    present = [message for message in messages if message.get("edition") != "reserved"]
    for profile in dict.fromkeys(str(message["profile"]) for message in present):
        lines += [f"## Profile {profile}", "", "| frame | sent by | what it does |", "|---|---|---|"]
        lines += [
            f"| [`{message['type']}`]({message['type']}.md) | {_senders(message)} | {message['summary']} |"
            for message in present
            if message["profile"] == profile
        ]
        lines.append("")
    lines += [
        "## Reserved",
        "",
        "These names belong to profiles that this edition does not define yet; nothing else may use them.",
        "",
        "| frame | sent by | profile |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{message['type']}` | {_senders(message)} | {message['profile']} |"
        for message in messages
        if message.get("edition") == "reserved"
    ]
    return "\n".join([*lines, ""])


def _senders(message: Mapping[str, object]) -> str:
    return " and ".join(strings(message.get("from")))


def _page(
    project: Project,
    message: Mapping[str, object],
    shapes: Shapes,
    registry: Mapping[str, object],
    requirements: Sequence[Requirement],
) -> str:
    """Return the page of one frame."""
    name = str(message["type"])
    schema = project.object(project.v1 / str(message["schema"]))
    special = [row for row in rows(registry.get("fields")) if row.get("message") in (name, "*")]
    profiles = {str(row["field"]): str(row["profile"]) for row in special if row.get("edition") != "reserved"}
    chapter = {area: file for file, area in chapters(project).items()}[str(message["area"])]
    facts = [
        f"sent by the {_senders(message)}",
        f"profile `{message['profile']}`",
        _EXCHANGE.get(str(message.get("exchange")), "outside of exchanges"),
    ]
    if message.get("terminal"):
        facts.append("ends it")
    lines = [
        f"# {name}",
        "",
        f"{message['summary']}",
        "",
        f"*{facts[0].capitalize()}, {', '.join(facts[1:])}; chapter [{message['area']}](../spec/{chapter}).*",
        "",
        str(schema.get("description", "")),
        "",
        "## Fields",
        "",
        *_table(shapes.fields(schema), profiles),
        *_rules(schema, shapes),
        *_reserved(special),
    ]
    if "result" in message:
        outcome = project.object(project.v1 / str(message["result"]))
        fields = (replace(field, path=f"data.{field.path}") for field in shapes.fields(outcome))
        lines += ["## Its result", "", str(outcome["description"]), "", *_table(fields, {})]
    lines += _examples(project, name)
    lines += _requirements(name, str(message["area"]), requirements)
    lines += _traces(project, name)
    lines += ["## Schema", "", f'??? note "{message["schema"]}"', ""]
    lines += _indented(["```json", dumps(schema).rstrip("\n"), "```"])
    return "\n".join([*lines, ""])


def table(schema: Mapping[str, object]) -> list[str]:
    """Return the table of every member that a self-contained schema describes."""
    definitions = schema.get("$defs")
    return _table(Shapes(definitions if isinstance(definitions, dict) else {}).fields(schema), {})


def _table(fields: Iterable[Field], profiles: Mapping[str, str]) -> list[str]:
    """Return a table of fields; `profiles` names those that belong to a profile of their own."""
    lines = ['<div class="hf-fields" markdown>', "", "| field | type | | meaning |", "|---|---|---|---|"]
    for field in fields:
        badge = f' <span class="hf-profile">{profiles[field.path]}</span>' if field.path in profiles else ""
        lines.append(
            f"| [`{field.path}`](#{field.anchor}){{ #{field.anchor} }}{badge} | {field.shape} "
            f"| {'required' if field.required else 'optional'} | {field.text} |"
        )
    return [*lines, "", "</div>", ""]


def _rules(schema: Mapping[str, object], shapes: Shapes) -> list[str]:
    """Say what the schema demands of several members together, as far as it has words of its own."""
    lines = []
    choices = [strings(choice.get("required")) for choice in rows(schema.get("oneOf"))]
    if choices and all(choices):
        names = " and ".join("`" + "` with `".join(choice) + "`" for choice in choices)
        lines.append(f"Exactly one of {names} is present.")
    for part in rows(schema.get("allOf")):
        words = shapes.resolve(part).get("description")
        if "$ref" in part and words:
            lines.append(str(words))
    return [*lines, "A member that is not listed is ignored.", ""]


def _reserved(special: Iterable[Mapping[str, object]]) -> list[str]:
    """List the members of this frame that belong to profiles of later editions."""
    kept = [row for row in special if row.get("edition") == "reserved" and row.get("message") != "*"]
    if not kept:
        return []
    lines = ["### Reserved members", "", "| member | profile | meaning |", "|---|---|---|"]
    lines += [f"| `{row['field']}` | {row['profile']} | {row['summary']} |" for row in kept]
    return [*lines, ""]


def _examples(project: Project, name: str) -> list[str]:
    """Show the examples of a frame: the valid ones, then each invalid one with its single fault."""
    folder = project.v1 / "examples" / name
    lines: list[str] = []
    valid = sorted(folder.glob("valid/*.json"))
    if valid:
        lines += ["## Valid examples", ""]
    for file in valid:
        title = file.stem.replace("-", " ")
        lines += [f'```json title="{title}"', dumps(_short(project.json(file))).rstrip("\n"), "```", ""]
    invalid = sorted(folder.glob("invalid/*.json"))
    if invalid:
        lines += ["## Invalid examples", ""]
    for file in invalid:
        example = project.object(file)
        error = example.get("error")
        fault = error if isinstance(error, dict) else {}
        place = f" at `{fault['path']}`" if fault.get("path") else ""
        frame = json.dumps(_short(example["frame"]), ensure_ascii=False)
        lines += [
            f"{str(example['why']).rstrip('.')} (`{fault.get('keyword')}`{place})<br>",
            f'<code class="hf-line">{html.escape(frame, quote=False)}</code>',
            "",
        ]
    return lines


def _short(value: object) -> object:
    """Return an example with its very long strings cut, since those are there for their length only."""
    match value:
        case str() if len(value) > 80:
            return f"{value[:16]}… {len(value)} characters"
        case list():
            return [_short(item) for item in value]
        case dict():
            return {key: _short(item) for key, item in value.items()}
        case _:
            return value


def _indented(lines: Iterable[str]) -> list[str]:
    return ["    " + line for block in lines for line in block.split("\n")]


def _requirements(name: str, area: str, requirements: Iterable[Requirement]) -> list[str]:
    """List the requirements that speak of a frame: as code anywhere, or as a word in its own chapter."""
    code = re.compile(rf"`{name}[`.]")
    word = re.compile(rf"\b{name}(s|es)?\b")
    about = [
        requirement
        for requirement in requirements
        if code.search(requirement.text)
        or (requirement.area == area and word.search(re.sub(r"`[^`]*`", "", requirement.text)))
    ]
    if not about:
        return []
    return ["## Requirements", "", *(f"- {found.id}: {found.text}" for found in about), ""]


def _traces(project: Project, name: str) -> list[str]:
    """Link the conversations in which a frame occurs."""
    lines = []
    for file in sorted(project.v1.glob("traces/*.json")):
        trace = project.object(file)
        frames = [step["frame"] for step in rows(trace.get("steps")) if "frame" in step]
        if any(isinstance(frame, dict) and frame.get("type") == name for frame in frames):
            lines.append(f"- [{trace['title']}](../suite/traces.md#{file.stem})")
    return ["## Conversations", "", *lines, ""] if lines else []
