"""Who may import whom: the suite stands on its own, and its checks know only what their authors should."""

from __future__ import annotations

import ast
from pathlib import Path

import holdfast_conformance
import pytest

PACKAGE = Path(holdfast_conformance.__file__).parent
FORBIDDEN = {"holdfast_reference", "websockets", "msgspec", "trio_websocket"}
ALLOWED = {
    "click",
    "h11",
    "holdfast_conformance",
    "hypothesis",  # an extra: for drawing plans alone
    "jsonschema",
    "referencing",
    "rich",
    "rich_click",
    "trio",
    "wsproto",
}
CASES_MAY = {
    "case", "cases", "client", "expect", "frames", "lives", "logs", "registry", "requirements", "session",
    "traffic",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Return the absolute dotted names that a module of the package imports, wherever in it."""
    names: set[str] = set()
    inside = ["holdfast_conformance", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names} if node.module is None else {module}
    return names


def modules() -> list[Path]:
    """Return every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_imports_nothing_of_the_reference(path: Path) -> None:
    """No module imports the reference, its libraries, or anything that is not a dependency."""
    import sys

    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & FORBIDDEN
    assert roots <= ALLOWED | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted((PACKAGE / "cases").glob("*.py")), ids=lambda path: path.name)
def test_cases_import_only_the_api(path: Path) -> None:
    """A module of checks imports the API of authors, and no runner, report or other module of checks."""
    ours = {name for name in imported(path) if name.startswith("holdfast_conformance.")}
    assert {name.split(".")[1] for name in ours} <= CASES_MAY
    assert not {name for name in ours if name.startswith("holdfast_conformance.cases.")}


def test_the_test_itself_sees_imports() -> None:
    """The walk finds relative, absolute and local imports."""
    found = imported(PACKAGE / "cli.py")
    assert {"rich_click", "trio", "rich.console", "holdfast_conformance.runner"} <= found
