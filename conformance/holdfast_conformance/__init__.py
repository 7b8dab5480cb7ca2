"""The Holdfast conformance suite: judges any server by its URL.

report = await holdfast_conformance.run("ws://127.0.0.1:8080/ws")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Report
    from .runner import Options, run
    from .target import Target, TargetError

__all__ = ["Options", "Report", "Target", "TargetError", "run"]

_HOMES = {
    "Options": "runner",
    "Report": "report",
    "Target": "target",
    "TargetError": "target",
    "run": "runner",
}


def __getattr__(name: str) -> object:
    """Import on first use: the command line answers `--version` without loading an event loop."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
