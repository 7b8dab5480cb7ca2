"""What every check of `tools.check` returns, and where the files of the project are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that is wrong in one place.

    Attributes:
        file: path relative to the root of the project.
        line: 1 for the first line; 0 where the file as a whole is meant.
        text: what is wrong.
        hint: what to do about it.
    """

    file: str
    line: int
    text: str
    hint: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}\n    hint: {self.hint}"


@dataclass(frozen=True, slots=True)
class Project:
    """The files of one checkout.

    Attributes:
        root: directory that holds `spec/`, `schemas/`, `reference/` and `conformance/`.
    """

    root: Path = ROOT

    @property
    def spec(self) -> Path:
        return self.root / "spec"

    @property
    def v1(self) -> Path:
        return self.root / "schemas" / "v1"

    @property
    def meta(self) -> Path:
        return self.root / "schemas" / "meta"

    def name(self, file: Path) -> str:
        """Return the path of `file` relative to the root, with forward slashes."""
        return file.relative_to(self.root).as_posix()

    def json(self, file: Path) -> object:
        """Parse one JSON file; a name that stands twice in one object is an error.

        Raises:
            ValueError: the file is not JSON in that sense.
        """
        return json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)

    def object(self, file: Path) -> Mapping[str, object]:
        """Parse one JSON file that holds an object.

        Raises:
            ValueError: it holds something else.
        """
        value = self.json(file)
        if not isinstance(value, dict):
            raise ValueError(f"{self.name(file)} does not hold a JSON object")
        return value

    def line_of(self, file: Path, needle: str) -> int:
        """Return the number of the first line of `file` that contains `needle`, 0 if none does."""
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if needle in line:
                return number
        return 0


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object, refusing a name that occurs twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"duplicate member among {[name for name, _ in pairs]}")
    return value


def rows(value: object) -> list[dict[str, object]]:
    """Return the objects of a JSON array; anything that is not one counts as absent."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def strings(value: object) -> list[str]:
    """Return the strings of a JSON array, or a single string as a list of one."""
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
