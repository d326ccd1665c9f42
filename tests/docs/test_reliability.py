"""Each row of docs/reliability.md names tests that there are: a file, and parts of the names of its tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "reliability.md"


def rows(text: str) -> list[str]:
    """The last cell of each row of the page's tables, their heads left out."""
    cells = [line.rstrip().rstrip("|").rsplit("|", 1)[-1] for line in text.splitlines() if line.startswith("|")]
    return [cell for cell in cells if cell.strip() not in ("test", "---")]


def names_of(path: Path) -> list[str]:
    """The names of the tests of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if name.startswith("test_")]


def problems(text: str, project: Path) -> list[str]:
    """What is wrong with the references of a page, a sentence each."""
    found = []
    files = {path.name: path for path in (project / "tests").rglob("test_*.py")}
    for cell in rows(text):
        file = ""
        for word in re.findall(r"`([^`]+)`", cell):
            if word.endswith(".py"):
                file = word
                if file not in files:
                    found.append(f"there is no tests/**/{file}")
            elif file not in files or not any(word in name for name in names_of(files[file])):
                found.append(f"{file or 'a row'} has no test whose name holds {word}")
        if not file:
            found.append(f"a row names no test: {cell.strip()}")
    return found


def test_every_row_names_tests_that_there_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(rows(text)) > 40
    assert problems(text, PROJECT) == []


@pytest.mark.parametrize(
    ("cell", "count"),
    [
        ("`test_a.py`: `breaks_off`, `goes_on`; `test_b.py`", 0),
        ("`test_a.py`: `breaks_off`, `gone`", 1),
        ("`test_c.py`: `breaks_off`", 2),
        ("see elsewhere", 1),
    ],
)
def test_a_reference_to_what_is_gone_is_found(tmp_path: Path, cell: str, count: int) -> None:
    (tmp_path / "tests" / "room").mkdir(parents=True)
    code = "def test_it_breaks_off():\n    ...\n\n\ndef test_it_goes_on():\n    ...\n\n\ndef gone():\n    ...\n"
    (tmp_path / "tests" / "room" / "test_a.py").write_text(code)
    (tmp_path / "tests" / "test_b.py").write_text("")
    page = f"| what happens | what it does | test |\n|---|---|---|\n| a | b | {cell} |\n"
    assert len(problems(page, tmp_path)) == count
