"""No file imports a command; docs/architecture.md has a line for each file.

import-linter checks the direction of imports between packages (pyproject.toml, ``make lint``), but knows no scripts.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.made import PROJECT
from tests.test_no_library_model import imported_files

SCRIPTS = sorted(PROJECT.glob("*.py"))
ROOMS = ("resnet", "models", "lab", "studies")
FILES = [path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("path", [*SCRIPTS, *FILES], ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_no_file_imports_a_command(path: Path) -> None:
    """Except the report, which prints the lab's DataLoader as a listing."""
    allowed = {PROJECT / "dataloader.py"} if path == PROJECT / "report.py" else set()
    imports = imported_files(ast.parse(path.read_text(encoding="utf-8")), path, PROJECT)
    assert imports & set(SCRIPTS) <= allowed


def test_architecture_md_has_a_line_for_each_file() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([^`]+\.py)` \| \S", text, flags=re.MULTILINE)
    expected = {path.relative_to(PROJECT).as_posix() for path in [*SCRIPTS, *FILES]}
    assert sorted(listed) == sorted(set(listed)) and set(listed) == expected
