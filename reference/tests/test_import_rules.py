"""Who may import whom, read from the syntax trees."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import holdfast_reference
import pytest

ROOT = Path(holdfast_reference.__file__).parent
OURS = "holdfast_reference"
#: What the modules of a folder may import, beside the standard library and their own folder.
ALLOWED: dict[str, set[str]] = {
    "protocol": set(),
    "backends": {"trio", f"{OURS}.protocol"},
    "server": {"trio", f"{OURS}.protocol", f"{OURS}.backends.base"},
    "client": {"trio", f"{OURS}.protocol"},
}
EXCEPTIONS: dict[str, set[str]] = {
    "protocol/messages.py": {"msgspec"},
    "protocol/codec.py": {"msgspec"},
    "client/connection.py": {"trio_websocket"},
    "server/handshake.py": {"h11"},
    "server/websocket.py": {"websockets"},
    # The defaults of an embedded server, and the type of what configures it.
    "server/serve.py": {f"{OURS}.backends.memory", f"{OURS}.backends.tokens", f"{OURS}.config"},
}
FORBIDDEN: dict[str, set[str]] = {
    "protocol": {"time", "random", "secrets", "logging", "asyncio", "threading", "socket", "json"},
    "backends": {f"{OURS}.protocol.connection"},
}
MAY_JSON = {"protocol/codec.py"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, for types alone or not."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            modules = {
                name for name in inner if (ROOT.parent / name.replace(".", "/")).with_suffix(".py").exists()
            }
            found |= modules or {module}
    return found


def within(name: str, allowed: set[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in allowed)


FILES = sorted(
    path.relative_to(ROOT).as_posix() for folder in ALLOWED for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("file", FILES)
def test_imports(file: str) -> None:
    folder = file.split("/")[0]
    allowed = ALLOWED[folder] | EXCEPTIONS.get(file, set()) | {f"{OURS}.{folder}"}
    for name in imports(ROOT / file):
        if name.split(".")[0] not in sys.stdlib_module_names:
            assert within(name, allowed), f"{file} must not import {name}"
        if not (name == "json" and file in MAY_JSON):
            assert not within(name, FORBIDDEN.get(folder, set())), f"{file} must not import {name}"


def test_nothing_here_knows_the_suite() -> None:
    for path in ROOT.rglob("*.py"):
        assert not within_suite(imports(path)), path


def within_suite(names: set[str]) -> bool:
    return any(within(name, {"holdfast_conformance"}) for name in names)


def test_every_folder_was_looked_at() -> None:
    assert {file.split("/")[0] for file in FILES} == set(ALLOWED)
