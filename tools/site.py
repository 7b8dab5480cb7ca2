"""The tree that mkdocs builds the site from: `docs/` and `spec/` plus every page that is derived from data.

Everything is written before mkdocs starts, into `build/docs`, so the site needs neither hooks nor plugins
of its own and any engine that reads Markdown can take over. This module assembles: it decides where a file
of the repository stands in the site, gives every requirement its permanent anchor, turns every id that is
mentioned into a link to it, and keeps the generated parts of the navigation. The pages themselves come from
`site_frames` and `site_suite`.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools import sequence, site_frames, site_states, site_suite, spec_index
from tools.problem import Project, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tools.spec_index import Requirement

# Places of the repository that have another name in the site; the longest match counts.
_PLACES = {
    "docs": "",
    "spec": "spec",
    "schemas": "schemas",
    "schemas/v1/messages": "frames/index.md",
    "schemas/v1/traces": "suite/traces.md",
    "schemas/v1/vectors": "suite/vectors.md",
    "conformance/holdfast_conformance/cases": "suite/checks.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "changelog.d/README.md": "project/fragments.md",
}
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)(?P<path>[^)#\s]+)")
_REQUIREMENT = re.compile(r"\[(?P<id>[A-Z]{3}-[0-9]{2,3})\] (?P<text>.+)")
# A mention is not one when it stands in a code span, a link, an HTML tag or an attribute list.
_MENTION = re.compile(r"(?:`+[^`]*`+|\[[^\]]*\]\([^)]*\)|<[^>]*>|\{[^}]*\})|(?P<id>\b[A-Z]{3}-[0-9]{2,3}\b)")
_FILLED = re.compile(r"^<!-- (?P<what>fields|include): (?P<file>[\w./-]+) -->$", re.MULTILINE)
_TRACE = re.compile(r"^<!-- trace: (?P<name>[\w-]+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
_DIAGRAM = re.compile(r"^<!-- diagram: (?P<name>[\w-]+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
_STATES = re.compile(r"^```mermaid\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
_NAVIGATION = re.compile(r"^(?P<pad> *)# generated: (?P<name>\w+)\n(?:.*\n)*?(?P=pad)# end\n", re.MULTILINE)


class SiteError(Exception):
    """A page cannot be built from its source; the text says which page and why."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """Where the requirements stand in the site.

    Attributes:
        pages: for each requirement id the page of its chapter, relative to the root of the site.
        removed: ids of tombstones; they may be mentioned and lead nowhere.
    """

    pages: Mapping[str, str]
    removed: frozenset[str]

    def link(self, text: str, page: str) -> str:
        """Turn each requirement id that `text`, a part of `page`, mentions into a link to its anchor.

        Raises:
            SiteError: an id has the area of the specification, but the specification does not have it.
        """
        areas = {identity[:3] for identity in self.pages}

        def replace(match: re.Match[str]) -> str:
            identity = match["id"]
            if identity is None or identity[:3] not in areas or identity in self.removed:
                return match[0]
            if identity not in self.pages:
                raise SiteError(f"{page} mentions {identity}, which the specification does not have")
            return f"[{identity}]({relative(self.pages[identity], page)}#{identity})"

        return outside_code(text, lambda line: line if line.startswith("#") else _MENTION.sub(replace, line))


def relative(target: str, page: str) -> str:
    """Return the path of `target` as seen from `page`; both are relative to the root of the site."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to every line of Markdown that is not in a fenced block."""
    fence = ""
    lines = []
    for line in text.split("\n"):
        mark = re.match(r" *(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence:
            line = change(line)
        lines.append(line)
    return "\n".join(lines)


def place(source: str) -> str | None:
    """Return where a file or directory of the repository stands in the site, None when it does not."""
    if match := re.fullmatch(r"schemas/v1/messages/(\w+)\.schema\.json", source):
        return f"frames/{match[1]}.md"
    for prefix in sorted(_PLACES, key=len, reverse=True):
        if source == prefix or source.startswith(prefix + "/"):
            return posixpath.normpath(posixpath.join(_PLACES[prefix], source[len(prefix) + 1 :] or "."))
    return None


def move_links(text: str, source: str) -> str:
    """Point the links of a repository file at the places of their targets in the site.

    Args:
        text: the Markdown of the file, whose links are right within the repository.
        source: path of the file, relative to the root of the repository.

    Raises:
        SiteError: a link leads to a file that the site does not have.
    """
    page = place(source)
    assert page is not None

    def replace(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        # A page that only the site has (a frame, the list of checks) is linked as if it stood in docs/.
        found = place(target)
        if found is None:
            raise SiteError(f"{source} links to {target}, which is not part of the site")
        return relative(found, page)

    return outside_code(text, lambda line: _LINK.sub(replace, line))


def mark_requirements(text: str, requirements: Mapping[str, Requirement]) -> str:
    """Give each requirement line of a chapter its anchor, a permalink, and who is bound how strongly."""

    def mark(line: str) -> str:
        match = _REQUIREMENT.match(line)
        found = requirements.get(match["id"]) if match else None
        if match is None or found is None:
            return line
        strength = found.level.split()[0].lower()
        sentence = match["text"].replace(found.level, f"**{found.level}**", 1)
        return (
            f'<span class="hf-tags">[{found.id}](#{found.id} "Permanent link to {found.id}"){{ .hf-id }} '
            f'<span class="hf-level hf-{strength}">{found.level}</span> '
            f'<span class="hf-who">{found.subject}</span></span>\n'
            f"{sentence}\n"
            f"{{: #{found.id} .hf-requirement }}"
        )

    return outside_code(text, mark)


def draw(text: str, page: str, project: Project) -> str:
    """Draw what a page shows as plain text or as a description: conversations, sequences and states."""

    def conversation(match: re.Match[str]) -> str:
        trace = project.object(project.v1 / "traces" / f"{match['name']}.json")
        return "\n".join(site_suite.conversation(rows(trace["steps"]), links))

    def sequence_drawn(match: re.Match[str]) -> str:
        trace = project.object(project.v1 / "traces" / f"{match['name']}.json")
        return sequence.drawing(sequence.mermaid(rows(trace["steps"])))

    links = {type: relative(f"frames/{type}.html", page) for type in site_frames.documented(project)}
    text = _TRACE.sub(conversation, text)
    text = _DIAGRAM.sub(sequence_drawn, text)
    return _STATES.sub(lambda match: site_states.drawing(match["source"]), text)


def fill(text: str, project: Project) -> str:
    """Put in what a page takes from elsewhere, so that it is written once.

    `<!-- fields: schemas/x.schema.json -->` becomes the table of what that schema describes,
    `<!-- include: path.py -->` the file as a block of code.
    """

    def replace(match: re.Match[str]) -> str:
        file = project.root / match["file"]
        if match["what"] == "fields":
            return "\n".join(site_frames.table(project.object(file)))
        return f"```{file.suffix[1:]}\n{file.read_text(encoding='utf-8').rstrip()}\n```"

    return _FILLED.sub(replace, text)


def build(project: Project, out: Path) -> dict[str, str]:
    """Write the whole tree; what stood in `out` before is removed.

    Returns:
        the Markdown of every page by its path in the site.

    Raises:
        SiteError: a page mentions or links to something that does not exist.
    """
    index = spec_index.build(project)
    requirements = {requirement.id: requirement for requirement in index.requirements}
    anchors = Anchors({identity: found.file for identity, found in requirements.items()}, index.removed)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(project.root / "docs", out)
    shutil.copytree(project.root / "schemas", out / "schemas")
    pages = {
        page: draw(fill(move_links(text, source), project), page, project)
        for source, text in _sources(project)
        if (page := place(source)) is not None
    }
    for page in (page for page in pages if page.startswith("spec/")):
        pages[page] = mark_requirements(pages[page], requirements)
    pages |= site_frames.pages(project, index.requirements)
    pages |= site_suite.pages(project, index.requirements)
    pages["decisions/index.md"] = _decisions(pages)
    pages = {page: anchors.link(text, page) for page, text in pages.items()}
    for page, text in pages.items():
        file = out / page
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return pages


def _sources(project: Project) -> Iterator[tuple[str, str]]:
    """Yield every Markdown file of the repository that is a page of the site: its path and its text."""
    files = [
        file for folder in ("docs", "spec", "schemas") for file in project.root.glob(f"{folder}/**/*.md")
    ]
    files += [project.root / name for name in _PLACES if name.endswith(".md")]
    for file in sorted(files):
        yield project.name(file), file.read_text(encoding="utf-8")


def title(text: str) -> str:
    """Return the first heading of a page without its marks."""
    match = re.search(r"^# (.+?)(?: *\{.*\})?$", text, re.MULTILINE)
    return match[1].replace("`", "") if match else ""


def _decisions(pages: Mapping[str, str]) -> str:
    """Return the list of the decision records."""
    rows = [
        f"- [{title(text)}]({posixpath.basename(page)})"
        for page, text in sorted(pages.items())
        if page.startswith("decisions/")
    ]
    return "\n".join(
        [
            "# Decisions",
            "",
            "Why things are as they are: what was weighed, what was measured, what would change our mind.",
            "Each record is one page and is never rewritten to look wiser; a later one replaces it by name.",
            "",
            *rows,
            "",
        ]
    )


def navigation(text: str, pages: Mapping[str, str]) -> str:
    """Bring the generated parts of `mkdocs.yml` in line with the pages: a new frame needs no hand there."""

    def replace(match: re.Match[str]) -> str:
        pad, name = match["pad"], match["name"]
        rows = [
            f"{pad}- {page}" if _rank(page) == 0 else f'{pad}- "{title(text)}": {page}'
            for page, text in sorted(pages.items(), key=lambda item: (_rank(item[0]), item[0]))
            if page.startswith(name + "/")
        ]
        return "\n".join([f"{pad}# generated: {name}", *rows, f"{pad}# end", ""])

    return _NAVIGATION.sub(replace, text)


def _rank(page: str) -> int:
    """Order pages of one section: its index, the chapters by number or name, the appendices."""
    name = posixpath.basename(page)
    return 0 if name in ("README.md", "index.md") else 2 if name.startswith("appendix") else 1


def main() -> int:
    """Build the tree of this checkout into `build/docs`."""
    project = Project()
    config = project.root / "mkdocs.yml"
    try:
        pages = build(project, project.root / "build" / "docs")
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    config.write_text(navigation(config.read_text(encoding="utf-8"), pages), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
