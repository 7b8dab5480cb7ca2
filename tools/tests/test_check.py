"""Every check finds the fault that it is there for: one damage to real text or data, one named problem."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest

from tools.check import CHECKS, Checkout, main, write
from tools.layout import dumps

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.problem import Project

    Damage = Callable[[Project], None]

CHAPTER = "spec/05-subscriptions.md"


def says(project: Project, name: str) -> str:
    """Return everything that one check reports, as text."""
    return "\n".join(str(problem) for problem in sorted(CHECKS[name](Checkout(project))))


def append(file: str, text: str) -> Damage:
    def damage(project: Project) -> None:
        with (project.root / file).open("a", encoding="utf-8") as opened:
            opened.write(text)

    return damage


def swap(file: str, old: str, new: str) -> Damage:
    """Replace the first occurrence of `old`, which has to be there."""

    def damage(project: Project) -> None:
        path = project.root / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return damage


def edit(file: str, change: Callable[[dict[str, object]], None]) -> Damage:
    """Change a JSON file and keep its layout."""

    def damage(project: Project) -> None:
        path = project.root / file
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(dumps(value), encoding="utf-8")

    return damage


def put(file: str, text: str) -> Damage:
    def damage(project: Project) -> None:
        (project.root / file).write_text(text, encoding="utf-8")

    return damage


def remove(file: str) -> Damage:
    return lambda project: (project.root / file).unlink()


def rows(value: object) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", value)


def vector(name: str, **members: object) -> Damage:
    """Change members of one vector; the value None removes the member."""

    def change(value: dict[str, object]) -> None:
        for row in rows(value["vectors"]):
            if row["id"] == name:
                row.update(members)
                for key in [key for key, member in members.items() if member is None]:
                    del row[key]
                return
        raise AssertionError(name)

    return edit(f"schemas/v1/vectors/{name.partition('/')[0]}.json", change)


def trace(name: str, old: str, new: str) -> Damage:
    return swap(f"schemas/v1/traces/{name}.json", old, new)


def registry(table: str, index: int, **members: object) -> Damage:
    def change(value: dict[str, object]) -> None:
        rows(value[table])[index].update(members)

    return edit("schemas/v1/protocol.json", change)


@pytest.mark.parametrize(
    "name", ["layout", "sentences", "prose", "schemas", "registry", "examples", "traces", "vectors"]
)
def test_the_published_text_and_data_are_in_order(project: Project, name: str) -> None:
    """The undamaged checkout is the control of every other test here."""
    assert says(project, name) == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[SUB-01] A server MUST wait.\n", "SUB-01 names a second sentence"),
        ("[RPC-90] A server MUST wait.\n", "RPC-90 is not of this chapter"),
        ("[SUB-90] A server MUST wait and MUST NOT sleep.\n", "SUB-90 has 2 keywords"),
        ("[SUB-90] A server waits.\n", "SUB-90 has 0 keywords"),
        ("[SUB-90] It MUST wait.\n", "SUB-90 does not say who is bound"),
        ("[SUB-90] A server may wait and MUST sleep.\n", "SUB-90 does not say who is bound"),
        ("[SUB-90] A server MUST wait. It sleeps.\n", "SUB-90 is not one sentence"),
        ("A server MUST wait.\n", "MUST in a line without an id"),
        ("It is RECOMMENDED to wait.\n", "RECOMMENDED in a line without an id"),
        ("It waits. It sleeps.\n", "two sentences in one line"),
    ],
)
def test_a_sentence_that_breaks_the_form_is_found_where_it_stands(
    project: Project, line: str, problem: str
) -> None:
    """The place is the line, so that an editor can jump there."""
    append(CHAPTER, line)(project)
    number = len((project.root / CHAPTER).read_text(encoding="utf-8").splitlines())
    assert f"{CHAPTER}:{number}: {problem}" in says(project, "sentences")


@pytest.mark.parametrize(
    "line",
    [
        "[SUB-90] When it rains, that server MUST NOT wait.\n",
        "[SUB-90] An endpoint SHOULD wait for `a. B`.\n",
        "`MUST` in code demands nothing.\n",
        "```text\nA server MUST wait.\n```\n",
    ],
)
def test_a_sentence_in_the_right_form_is_accepted(project: Project, line: str) -> None:
    """Code is not prose, and `that server` is as good as `a server`."""
    append(CHAPTER, line)(project)
    assert says(project, "sentences") == ""


def test_the_id_of_a_removed_requirement_is_never_given_away(project: Project) -> None:
    """A tombstone keeps the id taken and is no requirement itself."""
    append(CHAPTER, "[SUB-90] Removed: said twice.\n")(project)
    index = Checkout(project).index
    assert "SUB-90" in index.removed
    assert "SUB-90" not in index.ids
    append(CHAPTER, "[SUB-90] A server MUST wait.\n")(project)
    assert "SUB-90 names a second sentence" in says(project, "sentences")


@pytest.mark.parametrize(
    ("damage", "name", "problem"),
    [
        (append(CHAPTER, "A server closes the connection with 4099.\n"), "prose", "no close code 4099"),
        (append(CHAPTER, "[SUB-90] A server MUST say `nonsense`.\n"), "prose", "`nonsense` names nothing"),
        (put("schemas/v1/defs.schema.json", '{"$id": 1}\n'), "layout", "not in the house layout"),
        (
            swap("schemas/v1/messages/ping.schema.json", "/v1/messages/ping", "/v1/messages/pang"),
            "schemas",
            "the $id does not name the place",
        ),
        (
            swap("schemas/v1/defs.schema.json", '"minimum": 4096,', ""),
            "schemas",
            "an integer without bounds",
        ),
        (
            swap("schemas/v1/defs.schema.json", "[a-z][a-z0-9_]*", "\\\\w+"),
            "schemas",
            "differs between engines",
        ),
        (
            swap("schemas/v1/messages/cancel.schema.json", '"description": "Always `cancel`.", ', ""),
            "schemas",
            "type has no description",
        ),
        (
            swap("schemas/v1/defs.schema.json", '"x-maxBytes": 255', '"x-maxBytes": 256'),
            "schemas",
            "x-maxBytes without an equal maxLength",
        ),
        (
            swap("schemas/v1/messages/ping.schema.json", '"type": "object"', '"type": "thing"'),
            "schemas",
            "not a schema",
        ),
        (registry("messages", 0, colour="red"), "registry", "colour"),
        (registry("messages", 0, type="welcome"), "registry", "welcome stands there 2 times"),
        (registry("messages", 0, profile="nonsense"), "registry", "unknown profile nonsense"),
        (registry("messages", 0, edition="reserved"), "registry", "the schema of hello is messages/hello"),
        (registry("messages", 0, exchange="starts"), "registry", "`exchange` of hello disagrees"),
        (registry("profiles", 3, needs=["nonsense"]), "registry", "pattern needs nonsense"),
        (registry("fields", 0, edition="reserved"), "registry", "subscribe.pattern is reserved, and in"),
        (registry("fields", 0, profile="pubsub"), "registry", "belongs to the profile of its frame anyway"),
        (registry("fields", 0, message="nonsense"), "registry", "of nonsense, which does not exist"),
        (registry("fields", 2, edition="reserved"), "registry", "fields: open.seq is reserved, and in"),
        (registry("messages", 17, result="results/x.json"), "registry", "results/x.json does not exist"),
        (registry("messages", 17, result="defs.schema.json"), "registry", "no row for results/history"),
        (
            swap("schemas/v1/protocol.json", '"value": "ahead"', '"value": "later"'),
            "registry",
            "open.reason differs",
        ),
        (registry("constants", 9, value=5), "registry", "max_attempt is 5"),
        (registry("error_codes", 0, on=["nonsense"]), "registry", "answers nonsense"),
        (registry("close_codes", 2, code=1002), "registry", "1002 stands there twice"),
        (registry("limits", 0, floor=1), "registry", "the floor of max_frame is 1"),
        (registry("limits", 1, required=False), "registry", "those always present differ"),
        (registry("limits", 3, edition="reserved"), "registry", "not both in the registry and in the schema"),
        (registry("constants", 2, value=5), "registry", "max_id is 5"),
        (
            registry("constants", 1, value="https://example.org/"),
            "registry",
            "does not begin with schema_base",
        ),
        (
            swap("schemas/v1/protocol.json", '"value": "too_large"', '"value": "too_big"'),
            "registry",
            "gap.reason differs",
        ),
        (
            swap("schemas/v1/protocol.json", '"event": "hello_again"', '"event": "silence"'),
            "registry",
            "2 transitions for silence in READY",
        ),
        (swap("schemas/v1/protocol.json", '"to": "DRAINING"', '"to": "AWAY"'), "registry", "unknown states"),
        (swap("schemas/v1/protocol.json", '"close": 4303', '"close": 4399'), "registry", "close code 4399"),
        (remove("schemas/v1/messages/gap.schema.json"), "registry", "gap is 1.0, and its schema is missing"),
        (put("schemas/v1/examples/ping/valid/x.json", '{"type": "ping", "t": 5}\n'), "examples", "not valid"),
        (
            put("schemas/v1/examples/ping/valid/x.json", '{"type": "pong"}\n'),
            "examples",
            "not valid: 'ping' was expected",
        ),
        (put("schemas/v1/examples/ping/invalid/x.json", "{}\n"), "examples", "'why' is a required property"),
        (
            swap("schemas/v1/examples/ping/invalid/t-number.json", '"keyword": "type"', '"keyword": "const"'),
            "examples",
            "stated: {'keyword': 'const'",
        ),
        (
            swap("schemas/v1/examples/ping/invalid/t-number.json", '"t": 5', '"t": "5"'),
            "examples",
            "found: nothing wrong",
        ),
        (remove("schemas/v1/examples/cancel/invalid/missing-of.json"), "examples", "no example lacks of"),
        (
            remove("schemas/v1/examples/results/history/invalid/missing-more.json"),
            "examples",
            "results/history/invalid: no example lacks more",
        ),
        (put("schemas/v1/examples/results/x.json", "{}\n"), "examples", "no frame has this name"),
        (
            swap("schemas/v1/traces/drain.json", '"after_ms": 1200', '"after_ms": -1'),
            "traces",
            "after_ms: -1 is less than the minimum",
        ),
        (swap("schemas/v1/traces/drain.json", '"SES-38"', '"SES-99"'), "traces", "SES-99 does not exist"),
        (
            swap("schemas/v1/traces/request-result.json", '"id": 2, "method"', '"id": 1, "method"'),
            "traces",
            "id 1 is not higher than 1",
        ),
        (
            swap(
                "schemas/v1/traces/request-result.json",
                '"type": "result", "id": 1',
                '"type": "result", "id": 7',
            ),
            "traces",
            "result for 7, which is not running",
        ),
        (
            swap("schemas/v1/traces/fence.json", '"profiles": ["pubsub", "fence"]', '"profiles": ["pubsub"]'),
            "traces",
            "differs from those of welcome",
        ),
        (trace("ack-window", '"window": 2,', '"window": 1,'), "traces", "seq 2 while 1 frames are"),
        (trace("ack-window", '"id": 1, "seq": 3', '"id": 1, "seq": 4'), "traces", "seq 4 does not follow 2"),
        (trace("ack-window", '"type": "ack", "seq": 5', '"type": "ack", "seq": 9'), "traces", "an ack of 9"),
        (
            trace("fence", '"type": "open", "id": 1', '"type": "open", "id": 1, "seq": 1'),
            "traces",
            "`seq` with",
        ),
        (trace("resume-clean", '"last_id": 1,', '"last_id": 2,'), "traces", "last_id is 2, the highest id"),
        (
            trace("resume-clean", '"seq": 3, "data": {"n": 2}', '"seq": 3, "data": {"n": 7}'),
            "traces",
            "seq 3 is not what it was",
        ),
        (
            trace("resume-clean", '"connection": "second",', '"connection": "first",'),
            "traces",
            "a step behind the end of the connection",
        ),
        (
            trace("resume-clean", '"session": "4kVbQm2hTzuWc0pXeJ9y5A", "seq"', '"session": "x", "seq"'),
            "traces",
            "the session that goes on is not the one",
        ),
        (
            trace("resume-refused", "Zr8NdLfG1sKqo7UaYiB3wE", "4kVbQm2hTzuWc0pXeJ9y5A"),
            "traces",
            "a new session has the name of another",
        ),
        (
            trace("history-pages", '"start": "e4:2",', ""),
            "traces",
            "data of the result: all of it: 'start' is a required property",
        ),
        (trace("recover-last", '"others", "does"', '"server", "does"'), "traces", "'others' was expected"),
        (vector("framing/json-array", covers=[]), "vectors", "framing/json-array cites no requirement"),
        (vector("framing/json-array", covers=["ENV-99"]), "vectors", "cites ENV-99"),
        (
            vector("framing/json-array", expect=[{"close": 4099}]),
            "vectors",
            "a code that a server never sends",
        ),
        (
            vector("framing/json-array", expect=[{"close": 4001}, {"close": 1009}]),
            "vectors",
            "an alternative cites no",
        ),
        (vector("framing/json-array", fault=None), "vectors", "'fault' is a dependency of 'like'"),
        (vector("framing/json-array", id="framing/json-string"), "vectors", "is taken or of another group"),
        (
            vector("framing/json-array", send=[{"text": "{nonsense}"}]),
            "vectors",
            "unknown placeholder {nonsense}",
        ),
        (
            vector("exchanges/method-missing", send=[{"frame": {"type": "request", "id": 1, "method": "x"}}]),
            "vectors",
            "expects bad_request, and the schema finds nothing wrong",
        ),
        (
            vector("framing/ping-bad-t-number", send=[{"text": '{"type":"ping","t":"5"}'}]),
            "vectors",
            "expects 4005, and the schema finds nothing wrong",
        ),
        (
            vector("subscriptions/subscribe", send=[{"frame": {"type": "subscribe", "id": 1}}]),
            "vectors",
            "the input is not valid",
        ),
        (
            append(CHAPTER, "<!-- table: nonsense -->\n<!-- end -->\n"),
            "derived",
            "no table is called nonsense",
        ),
        (append(CHAPTER, "<!-- trace: nonsense -->\n<!-- end -->\n"), "derived", "no conversation is called"),
        (
            append(CHAPTER, "<!-- example: x.json -->\n<!-- end -->\n"),
            "derived",
            "there is no example x.json",
        ),
        (append(CHAPTER, "<!-- table: limits -->\n"), "derived", "has no <!-- end -->"),
        (append(CHAPTER, "<!-- table: limits -->\n<!-- end -->\n"), "derived", "differs from the data"),
        (swap("spec/appendix-tables.md", "hello", "hallo"), "derived", "appendix-tables.md:"),
        (remove("spec/appendix-tables.md"), "derived", "is missing"),
        (swap("schemas/v1/requirements.json", "MUST", "MAY"), "derived", "requirements.json:"),
    ],
)
def test_one_damage_gives_one_named_problem(
    project: Project, damage: Damage, name: str, problem: str
) -> None:
    """Each row is one way in which text, data and tools can fall apart."""
    if name == "derived":
        write(Checkout(project))
        assert says(project, name) == ""
    damage(project)
    assert problem in says(project, name)


def test_writing_leaves_nothing_stale(project: Project) -> None:
    """`--write` brings every derived file up to date and leaves the rest alone."""
    remove("spec/appendix-tables.md")(project)
    changed = write(Checkout(project))
    assert "spec/appendix-tables.md" in changed
    assert says(project, "derived") == ""
    assert write(Checkout(project)) == []


def test_the_exit_code_says_whether_anything_is_wrong(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is printed with its check, its place and a hint."""
    assert main(["sentences", "vectors"], project) == 0
    append(CHAPTER, "A server MUST wait.\n")(project)
    assert main(["sentences"], project) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"sentences: {CHAPTER}:")
    assert "hint: " in printed


def test_a_check_that_does_not_exist_is_a_usage_error(project: Project) -> None:
    """A typing mistake must not look like a clean run."""
    with pytest.raises(SystemExit) as caught:
        main(["sentence"], project)
    assert caught.value.code == 2
