"""The links of docs/defence.md lead to the code that they name; ``python tests/docs/test_defence.py --fix`` updates the lines."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "defence.md"
# [`name`](../file.py#L3-L9): a definition (dotted within a class), or code that occurs on one line only.
LINK = re.compile(r"\[`([^`]+)`\]\(\.\./([^)#]+)(#L\d+(?:-L\d+)?)\)")


def definitions(body: list[ast.stmt], prefix: str = "") -> dict[str, tuple[int, int]]:
    """The first and last line of every class, function, method and constant of a module, by name."""
    lines: dict[str, tuple[int, int]] = {}
    for node in body:
        last = node.end_lineno or node.lineno
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            lines[prefix + node.name] = (min([node.lineno, *(d.lineno for d in node.decorator_list)]), last)
        if isinstance(node, ast.ClassDef):
            lines |= definitions(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign):
            lines |= {prefix + name.id: (node.lineno, last) for name in node.targets if isinstance(name, ast.Name)}
    return lines


def anchor(name: str, path: Path) -> str:
    """The end of the link to a name: ``#L3-L9``. Raises ``LookupError`` with the reason if there is no such code."""
    if not path.is_file():
        raise LookupError(f"`{name}`: there is no file {path.name} at its place")
    source = path.read_text(encoding="utf-8")
    lines = [number for number, line in enumerate(source.splitlines(), 1) if name in line]
    known = definitions(ast.parse(source).body)
    if name not in known and len(lines) != 1:
        raise LookupError(f"`{name}`: {path.name} defines no such name, and {len(lines)} of its lines have that text")
    first, last = known.get(name) or (lines[0], lines[0])
    return f"#L{first}" if first == last else f"#L{first}-L{last}"


def check(text: str, project: Path) -> tuple[str, list[str]]:
    """The page with current line numbers, and a sentence for each wrong link. Links to missing code are not changed."""
    problems: list[str] = []

    def current(link: re.Match[str]) -> str:
        name, file, given = link.groups()
        try:
            right = anchor(name, project / file)
        except LookupError as error:
            problems.append(str(error))
            return link[0]
        if given != right:
            fix = "python tests/docs/test_defence.py --fix corrects it"
            problems.append(f"`{name}` is now {file}{right}, not {given}; {fix}")
        return f"[`{name}`](../{file}{right})"

    return LINK.sub(current, text), problems


def test_every_link_leads_to_the_code_that_it_names() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(LINK.findall(text)) > 40
    assert check(text, PROJECT)[1] == []


def test_every_other_link_leads_to_a_file() -> None:
    text = LINK.sub("", PAGE.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and [link for link in links if not (PAGE.parent / link).is_file()] == []


def test_the_questions_of_the_lab_are_answered() -> None:
    questions = re.findall(r"^\*\*(.+?\?)\*\* \S", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(questions) > 20
    asked = ["block built", "shortcuts help", "stride", "1×1", "any size", "softmax", "over-fitting", "bottleneck save"]
    assert [word for word in asked if not any(word in question for question in questions)] == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(
        "LIMIT = 3\n\n\nclass A:\n    @property\n    def b(self):\n        return LIMIT + 1\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("link", "right"),
    [
        ("[`LIMIT`](../a.py#L9)", "a.py#L1,"),
        ("[`A`](../a.py#L1-L2)", "a.py#L4-L7,"),
        ("[`A.b`](../a.py#L6-L7)", "a.py#L5-L7,"),
        ("[`return LIMIT`](../a.py#L6)", "a.py#L7,"),
    ],
)
def test_moved_code_is_reported_and_its_link_corrected(project: Path, link: str, right: str) -> None:
    corrected, (problem,) = check(f"see {link}.", project)
    assert right in problem and right.rstrip(",") in corrected
    assert check(corrected, project) == (corrected, [])


@pytest.mark.parametrize(
    "link", ["[`gone`](../a.py#L1)", "[`LIMIT`](../b.py#L1)", "[`LIMIT +`](../c/a.py#L1)", "[`I`](../a.py#L1)"]
)
def test_missing_code_is_reported_and_its_link_not_changed(project: Path, link: str) -> None:
    unchanged, problems = check(link, project)
    assert unchanged == link and len(problems) == 1


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after, problems = check(before, PROJECT)
    if "--fix" in sys.argv:
        PAGE.write_text(after, encoding="utf-8")
        problems = check(after, PROJECT)[1]
    print("\n".join(problems) or f"the {len(LINK.findall(before))} links of {PAGE.name} lead where they say")
    sys.exit(bool(problems))
