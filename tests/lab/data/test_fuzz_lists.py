"""Generated lists, bad and hostile.

Either a good result, compared with a plain model of it, or one clear message with file and row. ``make fuzz`` runs 10,000
cases and more, others each time; ``make test`` a quick share, the same each time."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pandas as pd
from hypothesis import strategies as st

from lab.data.lists import ImageList, read_data_set, read_list
from lab.tables import CONTROL
from tests.hostile import LABELS, LINE, NO_LABELS, Tree, broken_text, hostile, problems, refused, table

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
    "../outside/0.png": "../outside/0.png lies outside of",
    "img/out/../../../outside/0.png": "lies outside of",
    "TOP/outside/0.png": "lies outside of",
    "/etc/passwd": "/etc/passwd lies outside of",
    "//etc/passwd": "//etc/passwd lies outside of",
    "../../../../../../../../../../../../etc/passwd": "lies outside of",
    "..": ".. lies outside of",
    "..\\..\\..\\secret": "lies outside of",
    "/dev/zero": "lies outside of",
    "img/\0.png": "img/\\x00.png holds a line break or another control character",
    "img/\x1b[2J.png": "img/\\x1b[2J.png holds",
    "img/0.png\nimg/1.png": "img/0.png\\nimg/1.png holds",
    "img/0.png\u2028": "img/0.png holds",
    "a\u2028b": "a\\u2028b holds",
    "x" * 5000: "x does not exist",
    "x/" * 3000: "does not exist",
    "~/cell.png": "~/cell.png does not exist",
    "C:\\cell.png": "C:\\cell.png does not exist",
    "\ufeffimg/0.png": "\\ufeffimg/0.png does not exist",
    "=cmd()": "=cmd() does not exist",
}


@hostile(st.data())
def test_a_list_is_read_whole_or_refused_with_each_bad_row(tree: Tree, data: st.DataObject) -> None:
    """Rows of known worth, in any order and spelling."""
    labelled = data.draw(st.booleans())
    kinds = st.sampled_from(GOOD) if data.draw(st.integers(0, 3)) == 0 else st.sampled_from([*GOOD, *BAD])
    paths = data.draw(st.lists(kinds, min_size=1, max_size=14))
    labels = [data.draw(st.sampled_from([*LABELS] * 4 + NO_LABELS)) for _ in paths]
    paths = [text.replace("TOP", str(tree.top)) for text in paths]
    bad = {text.replace("TOP", str(tree.top)): phrase for text, phrase in BAD.items()}
    columns, rows = ["Path"], [[text] for text in paths]
    if labelled:
        columns, rows = ["Path", "label"], [[text, label] for text, label in zip(paths, labels, strict=True)]
    content, lines = data.draw(table(columns, rows))
    name = "train" if labelled else "resnet_18_test"
    tree.write("classes", "label,name\n0,a\n1,b\n2,c\n")
    tree.write(name, content)

    expected: dict[int, list[str]] = {}
    first: dict[str, int] = {}
    for line, text, label in zip(lines, paths, labels, strict=True):
        where = {"img/6.png": "../here/img/6.png"}.get(text, text).strip().replace("\\", "/")
        key = os.path.normpath(tree.lists / where)
        if "holds" in bad.get(text, "") or "empty" in bad.get(text, ""):
            expected[line] = [bad[text]]
        elif key in first:
            expected[line] = [f"stands already on line {first[key]}"]
        elif text in bad:
            expected[line] = [bad[text]]
        if "holds" not in bad.get(text, "") and text.strip():
            first.setdefault(key, line)
        if labelled and label not in LABELS:
            expected.setdefault(line, []).append("is not a whole number from 0 to 2")

    found: list[ImageList] = []
    message = refused(lambda: found.append(read_list(read_data_set(tree.lists), name, labelled)))
    if not expected:
        assert message == "" and found[0].ids == paths and list(found[0].lines) == lines
        assert all(path.is_file() for path in found[0].paths)
        assert found[0].labels.tolist() == ([LABELS[label] for label in labels] if labelled else [-1] * len(paths))
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
    elif used and count < 2:
        assert message.startswith(f"{path}: label {count} never occurs, only ")
    else:
        count = count if used else 2
        wrong = [
            line
            for line, label in zip(lines, labels, strict=True)
            if LABELS.get(label, 3 if label == "3" else 9) >= count
        ]
        listed = [int(text.split(":")[0].removeprefix("train.csv line ")) for text in problems(message)]
        assert listed == wrong[:10] and bool(message) == bool(wrong)


NAMES = ["a", "b", " c ", "ü €", "$x$", "NA", "1", "a, b", "", " ", "a\nb", "\0", "\x1b[2J"]


@hostile(st.data(), share=0.25)
def test_class_names(tree: Tree, data: st.DataObject) -> None:
    """Labels with gaps, twice or none; names that are empty, alike or of no letters."""
    names = data.draw(st.lists(st.sampled_from(NAMES), max_size=6))
    numbers = [str(index) for index in data.draw(st.permutations(range(len(names))))]
    for _ in range(data.draw(st.integers(0, 1)) if names else 0):
        numbers[data.draw(st.integers(0, len(names) - 1))] = data.draw(st.sampled_from([*LABELS, *NO_LABELS]))
    rows = [[label, name] for label, name in zip(numbers, names, strict=True)]
    tree.write("train", "Path,label\n")  # which is not read, but makes it a folder of lists
    path = tree.write("classes", data.draw(table(["label", "name"], rows))[0])
    found: list[list[str]] = []
    message = refused(lambda: found.append(read_data_set(tree.lists).classes))
    labels = [LABELS.get(label, int(label) if label in ("3", "4", "5") else -1) for label in numbers]
    if sorted(labels) != list(range(len(labels))) or len(labels) < 2:
        assert message.startswith(f"{path}: the labels must be 0, 1, …")
    elif len({name.strip() for name in names}) < len(names) or any(not n.strip() or CONTROL.search(n) for n in names):
        assert message.startswith(f"{path}: every class needs a name of its own")
    else:
        assert found == [[name.strip() for _, name in sorted(zip(labels, names, strict=True))]]
    (tree.lists / "classes.csv").unlink()


SEGMENTS = ["..", "..", "..", ".", "", "img", "lists", "here", "outside", "out", "0.png", "6.png", "none"]


@hostile(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=9), st.data())
def test_no_path_leaves_the_folder_it_starts_from(tree: Tree, segments: list[str], data: st.DataObject) -> None:
    """However it is spelled; links are followed, which is the owner's will and not the list's."""
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
    found: list[ImageList] = []
    message = refused(
        lambda: found.append(read_list(read_data_set(tree.lists, root), "resnet_18_test", labelled=False))
    )
    there = [Path("/", *at) for at in inside if Path("/", *at).is_file()]
    if there and not text.endswith(("/", "\\")):
        assert not message
    if found:
        assert os.path.normpath(found[0].paths[0].absolute()) == str(there[0])
    elif text.strip():
        assert ("line 2: " in message and "lies outside of" in message) == (not inside), message


@hostile(st.data(), share=0.8)
def test_a_broken_list_loses_no_row(tree: Tree, data: st.DataObject) -> None:
    """Bytes changed at random, other encodings, other separators: what is read is what stands there."""
    name = data.draw(st.sampled_from(["train", "resnet_18_test"]))
    columns = ["Path", "label"] if name == "train" else ["Path"]
    rows = [[text, str(index % 2)][: len(columns)] for index, text in enumerate(GOOD[:5])]
    content = data.draw(broken_text("\n".join(",".join(row) for row in [columns, *rows]) + "\n"))
    path = tree.write(name, content)
    tree.write("classes", "label,name\n0,a\n1,b\n2,c\n")
    check_files = data.draw(st.booleans())
    found: list[ImageList] = []
    message = refused(lambda: found.append(read_list(read_data_set(tree.lists), name, name == "train", check_files)))
    if message:
        assert str(path) in message
        assert " line " in message or "the file is empty" in message or "no rows" in message
        return
    lines = LINE.split(content.decode("utf-8-sig"))
    numbers = [number for number, line in enumerate(lines, 1) if line.strip(" \t")]
    if '"' not in "".join(lines):
        at = [field.strip().lower() for field in lines[numbers[0] - 1].split(",")].index("path")
        assert found[0].ids == [lines[number - 1].split(",")[at] for number in numbers[1:]]
        assert list(found[0].lines) == numbers[1:]
    for index, text in enumerate(found[0].ids):
        assert text.replace('"', "") in lines[found[0].row(index) - 1].replace('"', "")
    # pandas with room for any number of fields agrees on where rows begin, the header among them.
    room = pd.read_csv(io.BytesIO(content), dtype=str, header=None, names=range(40), encoding="utf-8-sig")
    assert len(found[0]) + 1 == len(room)
