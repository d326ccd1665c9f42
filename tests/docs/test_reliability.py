"""Each row of docs/reliability.md names existing tests: a file, and parts of the names of its tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "reliability.md"


def rows(text: str) -> list[str]:
    """The last cell of each row of the page's tables, without the headers."""
    cells = [line.rstrip().rstrip("|").rsplit("|", 1)[-1] for line in text.splitlines() if line.startswith("|")]
    return [cell for cell in cells if cell.strip() not in ("test", "---")]


def problems(text: str, project: Path) -> list[str]:
    """A sentence for each wrong reference of a page."""
    sentences = []
    files = {path.name: path.read_text(encoding="utf-8") for path in (project / "tests").rglob("test_*.py")}
    for cell in rows(text):
        file = ""
        for name in re.findall(r"`([^`]+)`", cell):
            if name.endswith(".py"):
                file = name
                if file not in files:
                    sentences.append(f"there is no tests/**/{file}")
            elif not re.search(rf"^ *def test_\w*{name}", files.get(file, ""), re.MULTILINE):
                sentences.append(f"{file or 'a row'} has no test with {name} in its name")
        if not file:
            sentences.append(f"a row names no test: {cell.strip()}")
    return sentences


def test_every_row_names_existing_tests() -> None:
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
def test_a_reference_to_a_missing_test_is_reported(tmp_path: Path, cell: str, count: int) -> None:
    (tmp_path / "tests" / "room").mkdir(parents=True)
    code = "def test_it_breaks_off():\n    ...\n\n\ndef test_it_goes_on():\n    ...\n\n\ndef gone():\n    ...\n"
    (tmp_path / "tests" / "room" / "test_a.py").write_text(code)
    (tmp_path / "tests" / "test_b.py").write_text("")
    page = f"| what happens | what it does | test |\n|---|---|---|\n| a | b | {cell} |\n"
    assert len(problems(page, tmp_path)) == count
