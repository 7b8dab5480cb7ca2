"""Finding checks: those written by hand in `cases/`, and those made from the published vectors."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING

from . import cases, vectors
from .case import CHECKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .case import Check
    from .requirements import Requirements

__all__ = ["NoMatchError", "everything", "select"]


class NoMatchError(Exception):
    """A pattern that matches no check; `close` holds ids and requirements that look like it."""

    def __init__(self, pattern: str, close: list[str]) -> None:
        super().__init__(f"no check matches {pattern!r}")
        self.close = close


@cache
def everything() -> tuple[Check, ...]:
    """Return every check.

    Raises:
        ValueError: two checks have the same id.
    """
    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"{cases.__name__}.{module.name}")
    made = {check.id: check for check in vectors.checks()}
    if both := made.keys() & CHECKS.keys():
        raise ValueError(f"two checks have the id {min(both)}")
    return (*CHECKS.values(), *made.values())


def select(
    checks: Sequence[Check],
    requirements: Requirements,
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    level: str = "all",
) -> list[Check]:
    """Return the checks that match.

    Args:
        only: patterns (`*`, `?`) of ids, or ids of areas (`sub`) and requirements (`SUB-05`); none means all.
        skip: patterns of what to leave out.
        level: `must`, `should` (and above) or `all`: the strongest level among the covered requirements.

    Raises:
        NoMatchError: a pattern matches nothing.
    """
    chosen: dict[str, Check] = {}
    for pattern in only:
        chosen |= _matching(checks, pattern)
    if not list(only):
        chosen = {check.id: check for check in checks}
    for pattern in skip:
        for id in _matching(checks, pattern):
            chosen.pop(id, None)
    return [check for check in chosen.values() if _strong_enough(check, requirements, level)]


def _matching(checks: Sequence[Check], pattern: str) -> dict[str, Check]:
    found = {
        check.id: check
        for check in checks
        if fnmatchcase(check.id, pattern) or check.area == pattern or pattern in check.covers
    }
    if not found:
        names = dict.fromkeys(name for check in checks for name in (check.id, check.area, *check.covers))
        tails = {check.id.split("/")[-1]: check.id for check in checks}
        close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.6)
        close += [tails[tail] for tail in difflib.get_close_matches(pattern, tails, n=2, cutoff=0.7)]
        raise NoMatchError(pattern, list(dict.fromkeys(close)))
    return found


def _strong_enough(check: Check, requirements: Requirements, level: str) -> bool:
    if level == "all":
        return True
    levels = {found.level for id in check.covers if (found := requirements.get(id)) is not None}
    wanted = {"MUST", "MUST NOT"} | ({"SHOULD", "SHOULD NOT"} if level == "should" else set())
    return bool(levels & wanted)
