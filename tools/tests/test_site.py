"""The documentation tree: anchors, links, and the pages made from data."""

from __future__ import annotations

import json
import re
import textwrap
from typing import TYPE_CHECKING

import pytest

from tools import site, site_states, spec_index
from tools.problem import Project
from tools.site_frames import Shapes
from tools.site_suite import checks_of, conversation, rules_of
from tools.spec_index import Requirement

if TYPE_CHECKING:
    from pathlib import Path

ECHO = Requirement("SUB-15", "MUST NOT", "server", "A server MUST NOT echo.", "spec/05-subscriptions.md", 9)
ANCHORS = site.Anchors({"SUB-15": "spec/05-subscriptions.md"}, frozenset({"SUB-99"}))


def test_a_requirement_line_gets_its_anchor_its_permalink_and_its_badges() -> None:
    """Without the anchor no report could cite a sentence by address."""
    marked = site.mark_requirements("[SUB-15] A server MUST NOT echo.", {"SUB-15": ECHO})
    assert "{: #SUB-15 .hf-requirement }" in marked
    assert '[SUB-15](#SUB-15 "Permanent link to SUB-15")' in marked
    assert 'hf-must">MUST NOT</span>' in marked
    assert ">server</span>" in marked
    assert "A server **MUST NOT** echo." in marked


def test_a_requirement_shown_in_a_code_block_is_left_alone() -> None:
    """An example of the notation is no requirement."""
    block = "```text\n[SUB-15] A server MUST NOT echo.\n```"
    assert site.mark_requirements(block, {"SUB-15": ECHO}) == block


def test_a_mentioned_id_leads_to_its_anchor_from_any_depth() -> None:
    """The link is relative to the page that mentions the id."""
    link = "[SUB-15](../spec/05-subscriptions.md#SUB-15)"
    assert ANCHORS.link("see SUB-15.", "frames/publish.md") == f"see {link}."
    assert ANCHORS.link("see SUB-15", "index.md") == "see [SUB-15](spec/05-subscriptions.md#SUB-15)"


@pytest.mark.parametrize(
    "text",
    [
        "`SUB-15`",
        "[what SUB-15 says](x.md)",
        '<a title="SUB-15">',
        "## About SUB-15",
        "```text\nSUB-15\n```",
        "RFC-21",
        "SUB-99",
    ],
)
def test_what_is_no_mention_is_left_alone(text: str) -> None:
    """Code, links, tags, headings, foreign names and removed requirements stay as they are."""
    assert ANCHORS.link(text, "index.md") == text


def test_an_id_that_the_specification_does_not_have_fails_the_build() -> None:
    """A stale mention is found when the page is built, not by its reader."""
    with pytest.raises(site.SiteError, match=r"index\.md mentions SUB-16"):
        ANCHORS.link("see SUB-16", "index.md")


@pytest.mark.parametrize(
    ("source", "link", "moved"),
    [
        ("spec/README.md", "../schemas/v1/messages", "../frames/index.md"),
        ("spec/README.md", "../schemas/v1/protocol.json", "../schemas/v1/protocol.json"),
        ("spec/05-subscriptions.md", "08-errors.md#errors", "08-errors.md#errors"),
        ("docs/index.md", "../spec/README.md", "spec/README.md"),
        ("docs/quick-start/index.md", "../../schemas/v1/messages/gap.schema.json", "../frames/gap.md"),
        ("docs/how-to/port.md", "../suite/checks.md", "../suite/checks.md"),
        ("docs/decisions/0001-x.md", "../../spec/02-envelope.md", "../spec/02-envelope.md"),
        ("CONTRIBUTING.md", "spec/README.md", "../spec/README.md"),
        ("CONTRIBUTING.md", "docs/index.md", "../index.md"),
    ],
)
def test_links_that_are_right_in_the_repository_are_right_in_the_site(
    source: str, link: str, moved: str
) -> None:
    """A file reads well in both places."""
    assert site.move_links(f"[x]({link})", source) == f"[x]({moved})"


def test_a_link_out_of_the_site_fails_the_build() -> None:
    """What the site does not have cannot be linked by path."""
    with pytest.raises(site.SiteError, match=r"docs/index\.md links to reference/tests"):
        site.move_links("[x](../reference/tests)", "docs/index.md")


def test_addresses_and_anchors_of_the_same_page_are_not_moved() -> None:
    """Only paths are."""
    text = "[a](https://example.com/x) [b](#here)"
    assert site.move_links(text, "docs/index.md") == text


def test_a_page_takes_code_and_tables_from_where_they_are_kept(tmp_path: Path) -> None:
    """So that an example on a page is one that runs, and a table is that of the schema."""
    (tmp_path / "x.py").write_text("print('hi')\n\n")
    (tmp_path / "y.json").write_text('{"properties": {"a": {"type": "boolean"}}}')
    filled = site.fill("<!-- include: x.py -->\n<!-- fields: y.json -->\n<!-- end -->", Project(tmp_path))
    assert filled.startswith("```py\nprint('hi')\n```\n")
    assert "| [`a`](#field-a){ #field-a } | boolean | optional |  |" in filled
    assert filled.endswith("<!-- end -->")


def test_the_generated_navigation_is_replaced_and_the_rest_kept() -> None:
    """Index first, chapters by name, appendices last; headings give the titles."""
    old = "nav:\n  - Home: index.md\n  # generated: spec\n  - stale\n  # end\n  - Last: x.md\n"
    pages = {
        "spec/appendix-a.md": "# The appendix",
        "spec/01-x.md": "# `X` and more",
        "spec/README.md": "# All",
        "index.md": "# Home",
    }
    assert site.navigation(old, pages) == (
        "nav:\n  - Home: index.md\n  # generated: spec\n"
        '  - spec/README.md\n  - "X and more": spec/01-x.md\n  - "The appendix": spec/appendix-a.md\n'
        "  # end\n  - Last: x.md\n"
    )


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"const": "base64"}, '`"base64"`'),
        ({"enum": ["a", 1]}, '`"a"` or `1`'),
        ({}, "any JSON value"),
        ({"type": "integer", "minimum": 1, "maximum": 2**53 - 1}, "integer, 1 to 2^53 - 1"),
        ({"type": "integer", "minimum": 4096}, "integer, at least 4096"),
        ({"type": "string", "minLength": 1, "maxLength": 255, "x-maxBytes": 255}, "string, 1 to 255 bytes"),
        (
            {"type": "array", "items": {"$ref": "#/$defs/id"}, "uniqueItems": True},
            "array of integer, each once",
        ),
        ({"type": "string", "minLength": 1}, "non-empty string"),
        ({"oneOf": [{"type": "string"}, {"type": "object"}]}, "string or object"),
        ({"type": ["string", "null"]}, "string or null"),
    ],
)
def test_a_schema_is_said_in_words(schema: dict[str, object], words: str) -> None:
    """Type and bounds, in one phrase."""
    assert Shapes({"id": {"type": "integer"}}).shape(schema) == words


def test_fields_inside_objects_and_arrays_are_listed_with_their_path() -> None:
    """A reference is followed, and the words beside it win over those of the definition."""
    schema = {
        "required": ["limits"],
        "properties": {
            "limits": {
                "type": "object",
                "properties": {"queue": {"$ref": "../defs.schema.json#/$defs/n", "description": "here"}},
            },
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"b": {}}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {}}}},
        },
    }
    fields = list(Shapes({"n": {"type": "integer", "description": "there", "default": 5}}).fields(schema))
    assert [field.path for field in fields] == [
        "limits",
        "limits.queue",
        "map",
        "map.NAME.b",
        "list",
        "list[].a",
    ]
    assert [field.required for field in fields] == [True, False, False, False, False, False]
    assert (fields[1].text, fields[1].anchor) == ("here Default: `5`.", "field-limits-queue")


def test_checks_are_read_without_importing_them(tmp_path: Path) -> None:
    """Id, requirements, needs and the first paragraph of the docstring."""
    module = tmp_path / "sub.py"
    module.write_text(
        textwrap.dedent(
            '''
            raise SystemExit("never imported")

            @check("sub/no-echo", covers=["SUB-15", "SUB-16"], needs=["pubsub"])
            async def no_echo(t):
                """The publisher hears
                nothing.

                More.
                """

            async def helper(t):
                """Not a check."""
            '''
        )
    )
    (check,) = checks_of(module)
    assert (check.slug, check.covers, check.needs) == ("sub/no-echo", ("SUB-15", "SUB-16"), ("pubsub",))
    assert check.behaviour == "The publisher hears nothing."
    assert check.anchor == "sub-no-echo"


def test_rules_that_watch_every_frame_count_as_checks(tmp_path: Path) -> None:
    """They have no function of their own, only an id, a requirement and a title."""
    module = tmp_path / "rules.py"
    module.write_text('RULES = [Rule("sub/one-open", "SUB-01", "Opens once.")]')
    (rule,) = rules_of(module)
    assert (rule.slug, rule.covers, rule.behaviour) == ("sub/one-open", ("SUB-01",), "Opens once.")


def test_a_conversation_cannot_smuggle_markup_into_the_page() -> None:
    """Frames are data; what looks like a tag is shown."""
    steps: list[dict[str, object]] = [
        {"from": "client", "frame": {"type": "<b>", "data": "<script>&"}, "fault": "<i>"},
        {"from": "client", "text": "<u>"},
        {"from": "server", "connection": "<s>", "close": 4001},
    ]
    drawn = "\n".join(conversation(steps, {}))
    assert not re.search(r"<(script|b|i|u|s)>", drawn)
    assert "&lt;script&gt;&amp;" in drawn
    assert "hf-from-server" in drawn


def test_a_conversation_shows_what_happens_around_its_frames() -> None:
    """A cut, a frame that never arrives and the deeds of others are drawn like the rest."""
    steps: list[dict[str, object]] = [
        {"from": "others", "does": ["trim", "room/7"]},
        {"from": "client", "frame": {"type": "ping"}, "lost": True},
        {"from": "client", "cut": True},
    ]
    others, lost, cut = conversation(steps, {})[1:-1]
    assert 'class="hf-from-others"' in others
    assert '["trim", "room/7"]' in others
    assert '<span class="hf-note">never arrives</span>' in lost
    assert "<code>the connection is lost, without a close frame</code>" in cut


def test_states_are_drawn_with_one_arrow_for_each_pair() -> None:
    """All events from one state to another share an arrow; the outside is shown by the boxes."""
    drawn = site_states.drawing(
        "stateDiagram-v2\n    [*] --> A\n    A --> B: x\n    A --> B: <y>\n    A --> A: z\n    B --> [*]\n"
    )
    assert drawn.count('class="hf-arrow"') == 2
    assert "&lt;y&gt;" in drawn
    assert 'class="hf-first"' in drawn
    assert 'class="hf-last"' in drawn
    assert "[*]" not in drawn


def test_a_chapter_shows_its_conversations_and_states_as_drawings(tmp_path: Path) -> None:
    """What is plain text for readers of the repository is a drawing in the site."""
    traces = tmp_path / "schemas" / "v1" / "traces"
    traces.mkdir(parents=True)
    (traces / "x.json").write_text('{"steps": [{"from": "client", "close": 1000}]}')
    marked = "".join(f"<!-- {kind}: x -->\n```text\nC\n```\n<!-- end -->\n" for kind in ("trace", "diagram"))
    text = f"a\n{marked}b\n```mermaid\nstateDiagram-v2\nA --> B: x\n```\nc"
    drawn = site.draw(text, "spec/x.md", Project(tmp_path))
    assert "```" not in drawn
    assert 'class="hf-conversation"' in drawn
    assert drawn.count("<svg") == 2


def test_only_documented_frames_are_linked_in_a_conversation() -> None:
    """An unknown type may be the point of a conversation; it has no page."""
    steps = [{"from": "client", "frame": {"type": name}} for name in ("publish", "party")]
    known, unknown = conversation(steps, {"publish": "../frames/publish.html"})[1:-1]
    assert 'href="../frames/publish.html"' in known
    assert "href" not in unknown


def test_the_tree_of_this_checkout_has_every_requirement_and_every_frame(tmp_path: Path) -> None:
    """One anchor per requirement in its chapter, one page per frame, and no page with an unknown id."""
    project = Project()
    pages = site.build(project, tmp_path / "docs")
    for requirement in spec_index.build(project).requirements:
        found = [page for page, text in pages.items() if f"{{: #{requirement.id} " in text]
        assert found == [requirement.file], requirement.id
    registry = json.loads((project.v1 / "protocol.json").read_text())
    frames = {f"frames/{row['type']}.md" for row in registry["messages"] if row["edition"] != "reserved"}
    assert frames == {page for page in pages if re.fullmatch(r"frames/(?!index)\w+\.md", page)}
    for page, text in pages.items():
        assert (tmp_path / "docs" / page).read_text() == text
