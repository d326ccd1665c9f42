"""The links of docs/defence.md lead to the code that they name; ``python tests/docs/test_defence.py --fix`` sets their lines."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "defence.md"
# [`name`](../file.py#L3-L9): a definition, dotted within a class, or else a piece of code that stands on one line only.
LINK = re.compile(r"\[`([^`]+)`\]\(\.\./([^)#]+)#L(\d+)(?:-L(\d+))?\)")


def definitions(source: str) -> dict[str, tuple[int, int]]:
    """The first and last line of every class, function, method and constant of a file, by its name."""
    found: dict[str, tuple[int, int]] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            last = node.end_lineno or node.lineno
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found[prefix + node.name] = (min([node.lineno, *(d.lineno for d in node.decorator_list)]), last)
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        found[prefix + target.id] = (node.lineno, last)

    walk(ast.parse(source).body, "")
    return found


def place(name: str, path: Path) -> tuple[int, int]:
    """The first and last line of what a link names. Raises ``LookupError`` with what is wrong."""
    if not path.is_file():
        raise LookupError(f"`{name}`: there is no file {path.name} at its place")
    source = path.read_text(encoding="utf-8")
    known = definitions(source)
    if name in known:
        return known[name]
    lines = [number for number, line in enumerate(source.splitlines(), 1) if name in line]
    if len(lines) != 1:
        raise LookupError(f"`{name}`: {path.name} defines no such name, and {len(lines)} of its lines hold that text")
    return lines[0], lines[0]


def anchor(first: int, last: int) -> str:
    """The lines as the end of a link."""
    return f"#L{first}" if first == last else f"#L{first}-L{last}"


def problems(text: str, project: Path) -> list[str]:
    """What is wrong with the links of a page, a sentence each."""
    found = []
    for link in LINK.finditer(text):
        name, file, first, last = link.groups()
        given = anchor(int(first), int(last or first))
        try:
            right = anchor(*place(name, project / file))
        except LookupError as error:
            found.append(str(error))
            continue
        if given != right:
            found.append(
                f"`{name}` is now {file}{right}, not {given}; python tests/docs/test_defence.py --fix mends it"
            )
    return found


def fixed(text: str, project: Path) -> str:
    """The page with the line numbers of now; links to what is gone are left."""

    def mend(link: re.Match[str]) -> str:
        name, file = link[1], link[2]
        try:
            return f"[`{name}`](../{file}{anchor(*place(name, project / file))})"
        except LookupError:
            return link[0]

    return LINK.sub(mend, text)


def test_every_link_leads_to_the_code_that_it_names() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(LINK.findall(text)) > 40
    assert problems(text, PROJECT) == []


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
def test_moved_code_is_said_with_its_place_and_mended(project: Path, link: str, right: str) -> None:
    (problem,) = problems(f"see {link}.", project)
    assert right in problem
    mended = fixed(f"see {link}.", project)
    assert problems(mended, project) == [] and right.rstrip(",") in mended


@pytest.mark.parametrize(
    "link", ["[`gone`](../a.py#L1)", "[`LIMIT`](../b.py#L1)", "[`LIMIT +`](../c/a.py#L1)", "[`I`](../a.py#L1)"]
)
def test_what_is_gone_is_said_and_left(project: Path, link: str) -> None:
    assert len(problems(link, project)) == 1
    assert fixed(link, project) == link


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    if "--fix" in sys.argv:
        PAGE.write_text(fixed(before, PROJECT), encoding="utf-8")
    left = problems(PAGE.read_text(encoding="utf-8"), PROJECT)
    print("\n".join(left) or f"the {len(LINK.findall(before))} links of {PAGE.name} lead where they say")
    sys.exit(bool(left))
