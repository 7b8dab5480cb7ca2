"""A checkout of its own for each test: the published text and data, with an empty suite."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tools.problem import ROOT, Project

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The real `spec/` and `schemas/`, which a test may damage."""
    for name in ("spec", "schemas"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "conformance" / "holdfast_conformance" / "cases").mkdir(parents=True)
    (tmp_path / "conformance" / "mutants").mkdir()
    return Project(tmp_path)
