"""Generated lists, damaged and hostile.

The result must equal a simple model of it, or be one message that names file and row. ``make fuzz`` runs at least 10,000 new
cases each time; ``make test`` runs a smaller number, the same each time."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pandas as pd
from hypothesis import strategies as st

from lab.data.lists import read_data_set, read_list
from lab.tables import CONTROL
from tests.hostile import LABELS, LINE, NO_LABELS, Tree, broken_text, hostile, problems, read, refused, table

GOOD = ["img/0.png", "./img/1.png", "img/../img/2.png", ".\\img\\3.png", " img/4.png ", "TOP/lists/img/5.png"]
GOOD += ["img/6.png", "img/NA", "img/a, b.png", 'img/q"t.png', "img/ü €.png", "img/link.png", "img/far.png"]
GOOD += ["img/out/0.png", "../here/img/6.png"]
BAD = {
    "": "the path is empty",
    " \t ": "the path is empty",
    "img/none.png": "img/none.png does not exist",
    "img": "img is not a file",
    ".": ". is not a file",
    "img/hollow.png": "img/hollow.png is a link that leads to no file",
    "img/loop.png": "img/loop.png is a link that leads to no file",
    "../outside/0.png": "../outside/0.png is outside of",
    "img/out/../../../outside/0.png": "is outside of",
    "TOP/outside/0.png": "is outside of",
    "/etc/passwd": "/etc/passwd is outside of",
    "//etc/passwd": "//etc/passwd is outside of",
    "../../../../../../../../../../../../etc/passwd": "is outside of",
    "..": ".. is outside of",
    "..\\..\\..\\secret": "is outside of",
    "/dev/zero": "is outside of",
    "img/\0.png": "img/\\x00.png contains a line break or another control character",
    "img/\x1b[2J.png": "img/\\x1b[2J.png contains",
    "img/0.png\nimg/1.png": "img/0.png\\nimg/1.png contains",
    "img/0.png\u2028": "img/0.png contains",
    "a\u2028b": "a\\u2028b contains",
    "x" * 5000: "x does not exist",
    "x/" * 3000: "does not exist",
    "~/cell.png": "~/cell.png does not exist",
    "C:\\cell.png": "C:\\cell.png does not exist",
    "\ufeffimg/0.png": "\\ufeffimg/0.png does not exist",
    "=cmd()": "=cmd() does not exist",
}


@hostile(st.data())
def test_a_list_is_read_whole_or_refused_with_each_bad_row(tree: Tree, data: st.DataObject) -> None:
    """Rows with a known result, in any order and form."""
    labelled = data.draw(st.booleans())
    kinds = st.sampled_from(GOOD) if data.draw(st.integers(0, 3)) == 0 else st.sampled_from([*GOOD, *BAD])
    paths = data.draw(st.lists(kinds, min_size=1, max_size=14))
    labels = [data.draw(st.sampled_from([*LABELS] * 4 + NO_LABELS)) for _ in paths]
    paths = [text.replace("TOP", str(tree.top)) for text in paths]
    bad = {text.replace("TOP", str(tree.top)): phrase for text, phrase in BAD.items()}
    columns = ["Path", "label"] if labelled else ["Path"]
    content, lines = data.draw(table(columns, [[*row][: len(columns)] for row in zip(paths, labels, strict=True)]))
    name = "train" if labelled else "resnet_18_test"
    tree.write("classes", "label,name\n0,a\n1,b\n2,c\n")
    tree.write(name, content)

    expected: dict[int, list[str]] = {}
    first_lines: dict[str, int] = {}
    for line, text, label in zip(lines, paths, labels, strict=True):
        path = {"img/6.png": "../here/img/6.png"}.get(text, text).strip().replace("\\", "/")
        key = os.path.normpath(tree.lists / path)
        is_path = "contains" not in bad.get(text, "") and "empty" not in bad.get(text, "")
        if is_path and key in first_lines:
            expected[line] = [f"is already on line {first_lines[key]}"]
        elif text in bad:
            expected[line] = [bad[text]]
        if is_path:
            first_lines.setdefault(key, line)
        if labelled and label not in LABELS:
            expected.setdefault(line, []).append("is not a whole number from 0 to 2")

    message, images = read(lambda: read_list(read_data_set(tree.lists), name, labelled))
    if not expected:
        assert message == "" and images.ids == paths and list(images.lines) == lines
        assert all(path.is_file() for path in images.paths)
        assert images.labels.tolist() == ([LABELS[label] for label in labels] if labelled else [-1] * len(paths))
        return
    assert f"{name}.csv: {len(expected)} problem" in message
    for text, line in zip(problems(message), sorted(expected), strict=False):
        assert text.startswith(f"{name}.csv line {line}: ")
        assert all(phrase in text for phrase in expected[line]), (text, expected[line])
    assert len(problems(message)) == min(len(expected), 10)
    assert (f"and {len(expected) - 10:,} more" in message) == (len(expected) > 10)


@hostile(st.lists(st.sampled_from([*LABELS, *LABELS, *NO_LABELS]), max_size=12), st.data(), share=0.25)
def test_classes_are_counted_in_any_labels(tree: Tree, labels: list[str], data: st.DataObject) -> None:
    """Without classes.csv: no row, one class only, gaps."""
    (tree.lists / "classes.csv").unlink(missing_ok=True)
    rows = [[f"{index}.png", label] for index, label in enumerate(labels)]
    content, lines = data.draw(table(["Path", "label"], rows))
    path = tree.write("train", content)
    used = {LABELS[label] if label in LABELS else int(label) for label in labels if label in [*LABELS, "3"]}
    count = next(label for label in range(9) if label not in used)
    message = refused(lambda: read_list(read_data_set(tree.lists), "train", labelled=True, check_files=False))
    if not labels:
        assert message == f"{path}: the list has a header but no rows."
    elif not used:
        assert message.startswith(f"{path}: the column 'label' contains no whole number from 0 on; write 0 for ")
    elif used and count < 2:
        assert message.startswith(f"{path}: label {count} never occurs, only ")
    else:
        numbers = [LABELS.get(label, 3 if label == "3" else 9) for label in labels]
        wrong = [line for line, number in zip(lines, numbers, strict=True) if number >= count]
        listed = [int(text.split(":")[0].removeprefix("train.csv line ")) for text in problems(message)]
        assert listed == wrong[:10] and bool(message) == bool(wrong)


NAMES = ["a", "b", " c ", "ü €", "$x$", "NA", "1", "a, b", "", " ", "a\nb", "\0", "\x1b[2J"]


@hostile(st.data(), share=0.25)
def test_class_names(tree: Tree, data: st.DataObject) -> None:
    """Labels with gaps, duplicates or none; names that are empty, equal or without letters."""
    names = data.draw(st.lists(st.sampled_from(NAMES), max_size=6))
    numbers = [str(index) for index in data.draw(st.permutations(range(len(names))))]
    for _ in range(data.draw(st.integers(0, 1)) if names else 0):
        numbers[data.draw(st.integers(0, len(names) - 1))] = data.draw(st.sampled_from([*LABELS, *NO_LABELS]))
    rows = [[label, name] for label, name in zip(numbers, names, strict=True)]
    tree.write("train", "Path,label\n")  # not read, but it makes the folder a folder of lists
    path = tree.write("classes", data.draw(table(["label", "name"], rows))[0])
    message, data_set = read(lambda: read_data_set(tree.lists))
    labels = [LABELS.get(label, int(label) if label in ("3", "4", "5") else -1) for label in numbers]
    if sorted(labels) != list(range(len(labels))) or len(labels) < 2:
        assert message.startswith(f"{path}: the labels must be 0, 1, …")
    elif len({name.strip() for name in names}) < len(names) or any(not n.strip() or CONTROL.search(n) for n in names):
        assert message.startswith(f"{path}: every class needs a different name")
    else:
        assert data_set.classes == [name.strip() for _, name in sorted(zip(labels, names, strict=True))]
    (tree.lists / "classes.csv").unlink()


SEGMENTS = ["..", "..", "..", ".", "", "img", "lists", "here", "outside", "out", "0.png", "6.png", "none"]


@hostile(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=9), st.data())
def test_no_path_leaves_the_folder_it_starts_from(tree: Tree, segments: list[str], data: st.DataObject) -> None:
    """However it is written, except through links, which the owner of the folder has made."""
    begin = data.draw(st.sampled_from(["", "", "", "/", f"{tree.top}/", f"{tree.lists}/", f"{tree.top}/here/../"]))
    text = begin + data.draw(st.sampled_from(["/", "/", "\\"])).join(segments)
    root = data.draw(st.sampled_from([None, None, tree.lists, tree.top, Path("../lists"), Path("/")]))
    tree.write("resnet_18_test", f"Path\n{text}\n" if text.strip() else 'Path\n""\n')
    (tree.lists / "train.csv").unlink(missing_ok=True)

    def walk(start: Path, steps: str) -> list[str]:
        at = [] if steps.startswith("/") else list(start.parts[1:])
        for step in steps.split("/"):
            if step == "..":
                at = at[:-1]
            elif step not in ("", "."):
                at.append(step)
        return at

    folders = [Path(os.path.normpath(Path.cwd() / root))] if root is not None else [tree.lists, Path.cwd()]
    walked = [walk(folder, text.replace("\\", "/")) for folder in folders]
    inside = [at for at in walked if any(at[: len(f.parts) - 1] == list(f.parts[1:]) for f in folders)]
    message, images = read(lambda: read_list(read_data_set(tree.lists, root), "resnet_18_test", labelled=False))
    files = [Path("/", *at) for at in inside if Path("/", *at).is_file()]
    if files and not text.endswith(("/", "\\")):
        assert not message
    if not message:
        assert os.path.normpath(images.paths[0].absolute()) == str(files[0])
    elif text.strip():
        assert ("line 2: " in message and "is outside of" in message) == (not inside), message


@hostile(st.data(), share=0.8)
def test_a_broken_list_loses_no_row(tree: Tree, data: st.DataObject) -> None:
    """Bytes changed at random, other encodings, other separators: the rows must equal the lines of the file."""
    name = data.draw(st.sampled_from(["train", "resnet_18_test"]))
    columns = ["Path", "label"] if name == "train" else ["Path"]
    rows = [[text, str(index % 2)][: len(columns)] for index, text in enumerate(GOOD[:5])]
    content = data.draw(broken_text("\n".join(",".join(row) for row in [columns, *rows]) + "\n"))
    path = tree.write(name, content)
    tree.write("classes", "label,name\n0,a\n1,b\n2,c\n")
    check_files = data.draw(st.booleans())
    message, images = read(lambda: read_list(read_data_set(tree.lists), name, name == "train", check_files))
    if message:
        assert str(path) in message
        assert " line " in message or "the file is empty" in message or "no rows" in message
        return
    lines = LINE.split(content.decode("utf-8-sig"))
    numbers = [number for number, line in enumerate(lines, 1) if line.strip(" \t")]
    if '"' not in "".join(lines):
        column = [field.strip().lower() for field in lines[numbers[0] - 1].split(",")].index("path")
        assert images.ids == [lines[number - 1].split(",")[column] for number in numbers[1:]]
        assert list(images.lines) == numbers[1:]
    for index, text in enumerate(images.ids):
        assert text.replace('"', "") in lines[images.row(index) - 1].replace('"', "")
    # pandas, allowed any number of fields, finds the same number of rows including the header.
    expected = pd.read_csv(io.BytesIO(content), dtype=str, header=None, names=range(40), encoding="utf-8-sig")
    assert len(images) + 1 == len(expected)
