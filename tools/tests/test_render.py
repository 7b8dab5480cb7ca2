"""Text that is made from data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools import render, spec_index
from tools.evidence import Evidence
from tools.render import Renderer, RenderError

if TYPE_CHECKING:
    from tools.problem import Project


def test_a_marked_place_is_filled_again_and_again(project: Project) -> None:
    """Filling replaces what stands there, so a second time changes nothing."""
    text = "Before.\n\n<!-- table: machine:session -->\nstale words\n<!-- end -->\n\nAfter.\n"
    filled = Renderer(project).fill(text)
    assert "| ATTACHED | connection_end: " in filled
    assert "stale words" not in filled
    assert filled.startswith("Before.\n")
    assert filled.endswith("\nAfter.\n")
    assert Renderer(project).fill(filled) == filled


def test_two_marked_places_stay_two(project: Project) -> None:
    """A place ends at its own end mark."""
    mark = "<!-- table: profiles -->\n<!-- end -->\n"
    filled = Renderer(project).fill(mark + "Between.\n" + mark)
    assert filled.count("| profile | needs |") == 2
    assert "\nBetween.\n" in filled


def test_a_conversation_shows_who_says_what(project: Project) -> None:
    """Frames are compact, closes are named, notes stand below."""
    shown = Renderer(project).fill("<!-- trace: wrong-first-frame -->\n<!-- end -->")
    assert shown.splitlines()[1:-1] == [
        "```text",
        'C {"type":"ping","t":"1"}',
        "    # the first frame is not hello",
        "S close 4002",
        "C close 4002",
        "```",
    ]


def test_a_conversation_shows_what_is_lost_and_what_others_do(project: Project) -> None:
    """What no frame says stands there too: a cut, a frame that never arrives, what happens at the server."""
    shown = Renderer(project).fill("<!-- trace: resume-clean -->\n<!-- end -->")
    assert 'O ["emit","room/7",{"n":2}]\n' in shown
    assert '"seq":3,"data":{"n":2}}\n    # never arrives\n' in shown
    assert "C (first) the connection is lost, without a close frame\n" in shown


def test_a_member_under_a_condition_has_its_row(project: Project) -> None:
    """Words stand under `properties`, bounds under the condition; the table has both."""
    table = Renderer(project).table("frame:hello").splitlines()
    assert any(line.startswith("| `resume.attempt` | integer, 1 to 2^53 - 1 | required |") for line in table)
    (row,) = (line for line in table if line.startswith("| `limits.window` "))
    assert "integer, 1 to 2^53 - 1 | optional | Profile `ack`: how many" in row


def test_a_frame_shows_what_its_result_holds(project: Project) -> None:
    """The `data` of a result has a table where the protocol gives it a shape."""
    appendix = Renderer(project).tables_appendix()
    shown = appendix.partition("### history")[2].partition("###")[0]
    assert "In the `data` of its `result`:" in shown
    assert "| `events[].too_large` |" in shown


def test_an_invalid_example_shows_its_frame_only(project: Project) -> None:
    """The wrapper with the fault is for machines."""
    shown = Renderer(project).fill("<!-- example: cancel/invalid/missing-of.json -->\n<!-- end -->")
    assert '"type": "cancel"' in shown
    assert "why" not in shown


def test_the_appendix_shows_every_event_in_every_state(project: Project) -> None:
    """An empty cell is a violation or cannot occur, so it has to be empty for a reason."""
    lines = Renderer(project).tables_appendix().splitlines()
    head = lines.index("| event | NEW | READY | DRAINING |")
    assert "| hello | READY |  |  |" in lines[head:]
    assert "| deadline |  |  | CLOSED |" in lines[head:]


def test_every_frame_has_its_table_of_members(project: Project) -> None:
    """Bounds come from the schema, so nobody types them twice."""
    appendix = Renderer(project).tables_appendix()
    row = next(line for line in appendix.splitlines() if line.startswith("| `timeout_ms` |"))
    assert "integer, 1 to 2^31 - 1" in row
    assert "### gap" in appendix
    assert "### synced" not in appendix


def test_a_bar_inside_a_cell_does_not_end_it(project: Project) -> None:
    """Every row of every table has as many cells as its head."""
    for block in Renderer(project).tables_appendix().split("\n\n"):
        if block.startswith("|"):
            counts = {line.replace("\\|", "").count("|") for line in block.splitlines()}
            assert len(counts) == 1, block


@pytest.mark.parametrize("name", ["nonsense", "machine:nonsense", "frame:nonsense"])
def test_a_table_that_does_not_exist_is_an_error(project: Project, name: str) -> None:
    """A mistyped mark must not leave a hole in the text."""
    with pytest.raises(RenderError, match="nonsense"):
        Renderer(project).table(name)


def test_each_requirement_shows_what_tests_it_or_why_nothing_does(project: Project) -> None:
    """Long lists are cut with a count; a reason stands in place of checks."""
    (project.spec / "untestable.toml").write_text('SUB-02 = "because"\n')
    found = Evidence()
    for number in range(8):
        found.add(f"sub/check-{number}", ["SUB-01"])
    text = render.requirements_appendix(project, spec_index.build(project), found)
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| SUB-")}
    assert "`sub/check-5` and 2 more |" in lines["| SUB-01"]
    assert "*not testable: because*" in lines["| SUB-02"]
    assert lines["| SUB-03"].endswith("|  |")
