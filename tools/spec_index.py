"""The requirements of the specification: extracted from its sentences, and the sentences held to their form.

A requirement is one line of a chapter, `[SUB-14] When ..., a server MUST ...`: one id, one BCP 14 keyword,
and directly before the keyword the one who is bound. A removed requirement leaves a tombstone,
`[SUB-09] Removed: ...`, so that its id is never given to another sentence. Which area belongs to which
chapter stands in the table of `spec/README.md`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.layout import dumps
from tools.problem import Problem, Project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID = re.compile(r"\b[A-Z]{3}-[0-9]{2,3}\b")
_LINE = re.compile(r"\[(?P<id>[A-Z]{3}-[0-9]{2,3})\] (?P<text>.+)")
_KEYWORD = re.compile(
    r"\b(MUST NOT|MUST|SHALL NOT|SHALL|SHOULD NOT|SHOULD|NOT RECOMMENDED|RECOMMENDED|REQUIRED|MAY|OPTIONAL)\b"
)
_BOUND = re.compile(
    r"\b(?i:an?|the|that) (?P<subject>server|client|endpoint)"
    r" (?P<level>MUST NOT|MUST|SHOULD NOT|SHOULD|MAY)\b"
)
_CHAPTER = re.compile(r"\| \[(?P<file>[\w.-]+\.md)\]\([^)]*\) \| (?P<area>[A-Z]{3}) \|")
_SECOND_SENTENCE = re.compile(r"[.!?] +[A-Z]")
_CODE_SPAN = re.compile(r"`[^`]*`")
_REMOVED = "Removed:"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One sentence of the specification that binds somebody.

    Attributes:
        id: its permanent name, such as `SUB-14`.
        level: MUST, MUST NOT, SHOULD, SHOULD NOT or MAY.
        subject: who is bound: server, client, or endpoint for both.
        text: the sentence without its id.
        file: the chapter, relative to the root of the project.
        line: where it stands.
        untestable: why no check of the suite can exercise it, when that is so.
    """

    id: str
    level: str
    subject: str
    text: str
    file: str
    line: int
    untestable: str | None = None

    @property
    def area(self) -> str:
        return self.id.partition("-")[0]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change with the text: a check for another text is suspect."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def binds_server(self) -> bool:
        return self.subject in ("server", "endpoint")


@dataclass(frozen=True, slots=True)
class Index:
    """All requirements in the order of the text, the ids that are dead, and what is wrong with the text."""

    requirements: tuple[Requirement, ...]
    removed: frozenset[str]
    problems: tuple[Problem, ...]

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(requirement.id for requirement in self.requirements)


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a Markdown file that are neither code blocks nor filled in by the tools."""
    code = generated = False
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            code = not code
        elif line.startswith("<!-- end -->"):
            generated = False
        elif line.startswith(("<!-- table:", "<!-- trace:", "<!-- example:")):
            generated = True
        elif not code and not generated:
            yield number, line


def chapters(project: Project) -> dict[str, str]:
    """Return the area of each chapter, by file name, as the table of `spec/README.md` has it."""
    text = (project.spec / "README.md").read_text(encoding="utf-8")
    return {match["file"]: match["area"] for match in _CHAPTER.finditer(text)}


def build(project: Project) -> Index:
    """Read every chapter and `untestable.toml`."""
    reasons = untestable(project)
    found: dict[str, Requirement] = {}
    removed: dict[str, Problem] = {}
    problems: list[Problem] = []
    for name, area in chapters(project).items():
        file = project.spec / name
        if not file.is_file():
            problems.append(
                Problem("spec/README.md", 0, f"lists {name}, which does not exist", "write or unlist it")
            )
            continue
        for number, line in prose(file):
            place = project.name(file)
            match = _LINE.match(line)
            if match is None:
                problems += _plain_line(place, number, line)
                continue
            identity, text = match["id"], match["text"]
            if identity in found or identity in removed:
                problems.append(
                    Problem(
                        place,
                        number,
                        f"{identity} names a second sentence",
                        "ids are never reused: take a new one",
                    )
                )
            if not identity.startswith(area + "-"):
                problems.append(
                    Problem(
                        place, number, f"{identity} is not of this chapter", f"its requirements are {area}-NN"
                    )
                )
            if text.startswith(_REMOVED):
                removed[identity] = Problem(place, number, "", "")
                continue
            faults = list(_sentence(place, number, identity, text))
            problems += faults
            bound = _BOUND.search(text)
            if bound is not None and not faults:
                found[identity] = Requirement(
                    identity,
                    bound["level"],
                    bound["subject"].lower(),
                    text,
                    place,
                    number,
                    reasons.get(identity),
                )
    for name in ("README.md", "appendix-tables.md", "appendix-requirements.md"):
        file = project.spec / name
        if not file.is_file():
            continue
        for number, line in prose(file):
            if _LINE.match(line):
                problems.append(
                    Problem(
                        project.name(file),
                        number,
                        "a requirement outside a chapter",
                        "move it into its chapter",
                    )
                )
    return Index(tuple(found.values()), frozenset(removed), tuple(problems))


def untestable(project: Project) -> dict[str, str]:
    """Return the reason for each requirement that no check can exercise, by id."""
    file = project.spec / "untestable.toml"
    table = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {identity: str(reason) for identity, reason in table.items()}


def _plain_line(place: str, number: int, line: str) -> Iterator[Problem]:
    """Judge a line that is no requirement: it demands nothing and holds one sentence."""
    bare = _CODE_SPAN.sub("`x`", line)
    if keyword := _KEYWORD.search(bare):
        yield Problem(
            place,
            number,
            f"{keyword[0]} in a line without an id",
            "begin the line with a fresh id, or say it without the capitals",
        )
    if not bare.startswith("|") and _SECOND_SENTENCE.search(re.sub(r"^[0-9]+\. ", "", bare)):
        yield Problem(place, number, "two sentences in one line", "give each sentence a line of its own")


def _sentence(place: str, number: int, identity: str, text: str) -> Iterator[Problem]:
    """Judge the form of a requirement."""
    bare = _CODE_SPAN.sub("`x`", text)
    keywords = _KEYWORD.findall(bare)
    if len(keywords) != 1:
        yield Problem(
            place,
            number,
            f"{identity} has {len(keywords)} keywords ({', '.join(keywords)})",
            "one keyword per requirement: split it",
        )
    elif _BOUND.search(bare) is None:
        yield Problem(
            place,
            number,
            f"{identity} does not say who is bound",
            "put `a server`, `a client` or `an endpoint` directly before the keyword",
        )
    if _SECOND_SENTENCE.search(bare) or not bare.endswith("."):
        yield Problem(
            place, number, f"{identity} is not one sentence", "one sentence, ending with a full stop"
        )


def requirements_json(index: Index) -> str:
    """Return the text of `schemas/v1/requirements.json`."""
    return dumps(
        [
            {
                "id": requirement.id,
                "level": requirement.level,
                "subject": requirement.subject,
                "text": requirement.text,
                "hash": requirement.hash,
                "file": requirement.file,
                "area": requirement.area,
                **({"untestable": requirement.untestable} if requirement.untestable else {}),
            }
            for requirement in index.requirements
        ]
    )
