"""A plain view of `requirements.json`: what each sentence of the specification demands, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

from . import schemas
from .verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Requirement", "Requirements", "published"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One sentence: its id, its level (`MUST`, `SHOULD NOT`, ...), whom it binds, its text, its area and
    file.
    """

    id: str
    level: str
    subject: str
    text: str
    area: str
    file: str


class Requirements:
    """Every requirement, by id."""

    def __init__(self, rows: list[dict[str, object]]) -> None:
        names = ("id", "level", "subject", "text", "area", "file")
        self._by_id = {str(row["id"]): Requirement(*(str(row[name]) for name in names)) for row in rows}

    def __iter__(self) -> Iterator[Requirement]:
        return iter(self._by_id.values())

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def get(self, id: str) -> Requirement | None:
        """Return a requirement, None when there is none of that id."""
        return self._by_id.get(id)

    def verdict(self, id: str) -> Verdict:
        """Return what breaking this requirement means: its level decides, not whoever wrote the check.

        Without a requirement there is nothing to break, only behaviour to record.
        """
        requirement = self._by_id.get(id)
        if requirement is None or requirement.level == "MAY":
            return Verdict.NOTE
        return Verdict.WARN if requirement.level.startswith("SHOULD") else Verdict.FAIL


@cache
def published() -> Requirements:
    """Return the requirements of the published specification."""
    document = schemas.load("v1/requirements.json")
    rows = document["requirements"] if isinstance(document, dict) else document
    return Requirements(cast("list[dict[str, object]]", rows))
