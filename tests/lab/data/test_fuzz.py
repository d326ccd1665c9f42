"""Bad and hostile input, generated: either a good result, held against a plain model of it, or one clear sentence with file and
row. ``make fuzz`` runs 10,000 cases and more, others each time; ``make test`` a quick share, the same each time."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st
from PIL import Image

import predict
import prepare
from lab.data.images import decode
from lab.data.lists import ImageList, read_data_set, read_list, read_lists
from lab.data.preprocessing import Preprocessing, choose_preprocessing, choose_window
from lab.data.store import open_stores
from lab.kaggle.submissions import check_submission, write_submission
from lab.tables import CONTROL
from tests.hostile import (
    LINE,
    any_image,
    bitmap,
    broken,
    broken_text,
    chunk,
    encode,
    gif,
    hostile,
    png,
    problems,
    refused,
    samples,
    tiff,
)
from tests.made import command

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest sets aside the filter of lab.data.images


@dataclass(frozen=True)
class Tree:
    """A folder with lists and images in it, a working directory beside it, and an image outside of both."""

    top: Path

    @property
    def lists(self) -> Path:
        return self.top / "lists"

    def write(self, name: str, content: str | bytes) -> Path:
        """One list, byte for byte."""
        path = self.lists / f"{name}.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    made = Tree(tmp_path_factory.mktemp("tree"))
    for name in ("lists/img", "here/img", "outside"):
        (made.top / name).mkdir(parents=True)
    cell = encode(Image.new("RGB", (6, 5), (9, 99, 9)), "PNG")
    for name in ("0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "a, b.png", 'q"t.png', "ü €.png", "NA"):
        (made.lists / "img" / name).write_bytes(cell)
    (made.top / "here" / "img" / "6.png").write_bytes(cell)
    (made.top / "outside" / "0.png").write_bytes(cell)
    links = {"link.png": "0.png", "far.png": "../../outside/0.png", "hollow.png": "none.png", "loop.png": "loop.png"}
    for name, target in (links | {"out": "../../outside"}).items():
        (made.lists / "img" / name).symlink_to(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.top / "here")
        patch.setattr(os, "fsync", lambda _: None)  # no power is lost here, and it would take most of the time
        yield made


# ---- lists -------------------------------------------------------------------------------------------------------------------

GOOD = [
    "img/0.png",
    "./img/1.png",
    "img/../img/2.png",
    ".\\img\\3.png",
    " img/4.png ",
    "TOP/lists/img/5.png",
    "img/6.png",
    "img/NA",
]
GOOD += [
    "img/a, b.png",
    'img/q"t.png',
    "img/ü €.png",
    "img/link.png",
    "img/far.png",
    "img/out/0.png",
    "../here/img/6.png",
]
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
LABELS = {"0": 0, "1": 1, "2": 2, " 1 ": 1, "+1": 1, "01": 1, "1\n": 1, "-0": 0}
NO_LABELS = [
    "",
    "cat",
    "1.0",
    "-1",
    "3",
    "1e3",
    "9" * 30,
    "٣",
    "nan",
    "0x1",
    "1 0",
    "1_0",
    "\0",
    '"',
    "1;0",
    "True",
    "x" * 999,
]


@st.composite
def table(draw: st.DrawFn, columns: list[str], rows: list[list[str]]) -> tuple[bytes, list[int]]:
    """A table in any spelling that is read, and the line that each row begins on."""
    place = draw(st.permutations(range(len(columns) + draw(st.integers(0, 2)))))  # further columns too, in any order
    newline, quotes = draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.booleans())

    def line(fields: list[str]) -> str:
        spread = [fields[at] if at < len(fields) else "x,\ny" for at in place]
        bare = [
            not (quotes or CONTROL.search(text) or set(text) & set(',"\u2028') or not text.strip()) for text in spread
        ]
        texts = [
            text if plain else '"{}"'.format(text.replace('"', '""')) for text, plain in zip(spread, bare, strict=True)
        ]
        return ",".join(texts) + draw(st.sampled_from(["", "", "", ",", ",, "]))

    header = [draw(st.sampled_from([name, name.upper(), f" {name} ", name.lower()])) for name in columns]
    text, lines = ",".join(header[at] if at < len(header) else "note" for at in place), []
    for row in rows:
        text += newline + draw(st.sampled_from(["", "", "", newline, f" \t{newline}"]))
        lines.append(len(LINE.split(text)))
        text += line(row)
    text += draw(st.sampled_from(["", newline, 2 * newline]))
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + text.encode(), lines


@hostile(st.data())
def test_a_list_is_read_whole_or_refused_with_each_bad_row(tree: Tree, data: st.DataObject) -> None:
    """Rows of known worth, in any order and spelling."""
    labelled = data.draw(st.booleans())
    kinds = st.sampled_from(GOOD) if data.draw(st.integers(0, 3)) == 0 else st.sampled_from([*GOOD, *BAD])
    paths = data.draw(st.lists(kinds, min_size=1, max_size=14))
    labels = [data.draw(st.sampled_from([*LABELS] * 4 + NO_LABELS)) for _ in paths]
    paths = [text.replace("TOP", str(tree.top)) for text in paths]
    bad = {text.replace("TOP", str(tree.top)): words for text, words in BAD.items()}
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
    said = refused(lambda: found.append(read_list(read_data_set(tree.lists), name, labelled)))
    if not expected:
        assert said == "" and found[0].ids == paths and list(found[0].lines) == lines
        assert all(path.is_file() for path in found[0].paths)
        assert found[0].labels.tolist() == ([LABELS[label] for label in labels] if labelled else [-1] * len(paths))
        return
    assert f"{name}.csv: {len(expected)} problem" in said
    for text, line in zip(problems(said), sorted(expected), strict=False):
        assert text.startswith(f"{name}.csv line {line}: ")
        assert all(words in text for words in expected[line]), (text, expected[line])
    assert len(problems(said)) == min(len(expected), 10)
    assert (f"and {len(expected) - 10:,} more" in said) == (len(expected) > 10)


@hostile(st.lists(st.sampled_from([*LABELS, *LABELS, *NO_LABELS]), max_size=12), st.data(), share=0.25)
def test_classes_are_counted_in_any_labels(tree: Tree, labels: list[str], data: st.DataObject) -> None:
    """Without classes.csv: no row, one class only, gaps."""
    (tree.lists / "classes.csv").unlink(missing_ok=True)
    rows = [[f"{index}.png", label] for index, label in enumerate(labels)]
    content, lines = data.draw(table(["Path", "label"], rows))
    path = tree.write("train", content)
    seen = {LABELS[label] if label in LABELS else int(label) for label in labels if label in [*LABELS, "3"]}
    count = next(label for label in range(9) if label not in seen)
    said = refused(lambda: read_list(read_data_set(tree.lists), "train", labelled=True, check_files=False))
    if not labels:
        assert said == f"{path}: the list has a header but no rows."
    elif seen and count < 2:
        assert said.startswith(f"{path}: label {count} never occurs, only ")
    else:
        count = count if seen else 2
        wrong = [
            line
            for line, label in zip(lines, labels, strict=True)
            if LABELS.get(label, 3 if label == "3" else 9) >= count
        ]
        listed = [int(text.split(":")[0].removeprefix("train.csv line ")) for text in problems(said)]
        assert listed == wrong[:10] and bool(said) == bool(wrong)


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
    said = refused(lambda: found.append(read_data_set(tree.lists).classes))
    labels = [LABELS.get(label, int(label) if label in ("3", "4", "5") else -1) for label in numbers]
    if sorted(labels) != list(range(len(labels))) or len(labels) < 2:
        assert said.startswith(f"{path}: the labels must be 0, 1, …")
    elif len({name.strip() for name in names}) < len(names) or any(not n.strip() or CONTROL.search(n) for n in names):
        assert said.startswith(f"{path}: every class needs a name of its own")
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
    said = refused(lambda: found.append(read_list(read_data_set(tree.lists, root), "resnet_18_test", labelled=False)))
    there = [Path("/", *at) for at in inside if Path("/", *at).is_file()]
    if there and not text.endswith(("/", "\\")):
        assert not said
    if found:
        assert os.path.normpath(found[0].paths[0].absolute()) == str(there[0])
    elif text.strip():
        assert ("line 2: " in said and "lies outside of" in said) == (not inside), said


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
    said = refused(lambda: found.append(read_list(read_data_set(tree.lists), name, name == "train", check_files)))
    if said:
        assert str(path) in said
        assert " line " in said or "the file is empty" in said or "no rows" in said
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


# ---- images ------------------------------------------------------------------------------------------------------------------


def decoded(content: bytes) -> np.ndarray | None:
    """The pixels, or None where a reason on one line was given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of our own code; for Pillow's see the test below
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            pixels = decode(content)
        except ValueError as error:
            assert type(error) is ValueError
            assert str(error).isprintable() and 0 < len(str(error)) < 300 and not str(error).endswith("()")
            return None
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    return pixels


def test_whole_images_of_every_format_are_read() -> None:
    assert len(samples()) > 100
    for name, content in samples().items():
        pixels = decoded(content)
        assert pixels is not None and pixels.shape == ((13, 16, 3) if name.startswith("ICO") else (16, 20, 3)), name


@hostile(any_image(), share=1.5)
def test_any_bytes_are_an_image_or_have_a_reason(content: bytes) -> None:
    decoded(content)


@hostile(st.one_of(bitmap(), png(), tiff(), gif()), share=0.8)
def test_headers_of_any_fields(content: bytes) -> None:
    decoded(content)


@st.composite
def any_pixels(draw: st.DrawFn) -> np.ndarray:
    """An image of any size: black, white, noise, or a disc on black."""
    height, width = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 3), (5, 4), (40, 40), (1, 5000), (5000, 1)]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(x - width / 2, y - height / 2) < draw(st.sampled_from([1, 3, 12]))
    kind = draw(st.integers(0, 4))
    level = {0: 0, 1: 255, 2: rng.integers(0, 256, (height, width)), 3: disc * 200, 4: 255 - disc * 200}[kind]
    return np.repeat(np.broadcast_to(np.asarray(level), (height, width))[..., None], 3, axis=2).astype(np.uint8)


@hostile(st.lists(any_pixels(), min_size=1, max_size=4), share=0.4)
def test_images_of_any_size_together_give_a_window_that_cuts_them_all(images: list[np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        side, locate, reason = choose_window(images)
        assert 1 <= side <= 16384 and reason.isprintable()
        for image in images:
            assert Preprocessing(side, 24, 12, locate).crop(image).shape == (24, 24, 3)


SIDE = (20_000).to_bytes(4, "little")
FILES: dict[str, bytes] = {
    "zero bytes": b"",
    "text": b"Path,label\n0.bmp,1\n",
    "a page": b"<!DOCTYPE html><title>404</title>",
    "zeros": bytes(500),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n%%EndComments\n(x) run\n%%EOF\n",
    "PNG bomb": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", 2 * SIDE[::-1] + b"\1\0\0\0\0") + chunk(b"IDAT", b""),
    "BMP bomb": samples()["BMP 1"][:18] + 2 * SIDE + samples()["BMP 1"][26:],
    "1×1": encode(Image.new("RGB", (1, 1), (9, 9, 9)), "BMP"),
    "1×5000": encode(Image.new("L", (1, 5000), 99), "PNG"),
}
UNUSABLE = list(FILES)[:-2]


@hostile(st.data(), share=0.2)
def test_a_store_holds_every_row_or_every_bad_row_is_named(tree: Tree, data: st.DataObject) -> None:
    """Whole images of any format, under any extension, between unusable ones, through the layers that a training goes through."""
    usable = [*FILES, *(name for name in samples() if not name.startswith(("AVIF", "ICO")))]
    with tempfile.TemporaryDirectory(dir=tree.top) as place:
        folder = Path(place)
        bad: dict[str, Path] = {}
        good: dict[str, Path] = {}
        whole = st.sampled_from([name for name in usable if name not in UNUSABLE])
        kinds = whole if data.draw(st.booleans()) else whole | st.sampled_from(UNUSABLE)
        for name in ("train", "valid"):
            text = "Path,label\n"
            for line in range(2, 2 + data.draw(st.integers(2, 5))):
                kind = data.draw(kinds)
                path = (
                    folder / f"{name}-{line}{data.draw(st.sampled_from(['.bmp', '.png', '.jpg', '.tif', '', '.txt']))}"
                )
                path.write_bytes(FILES[kind] if kind in FILES else samples()[kind])
                text += f"{path.name},{line % 2}\n"
                (bad if kind in UNUSABLE else good)[f"{name}.csv line {line}: {path.name}: "] = path
            (folder / f"{name}.csv").write_text(text)
        if data.draw(st.integers(0, 3)) == 0:  # a missing one has all of them looked at sooner
            (folder / "valid.csv").write_text(text + "gone.bmp,1\n")
            bad["valid.csv line " + str(line + 1) + ": gone.bmp does not exist"] = folder
        lists: dict[str, ImageList] = {}
        stores: dict[str, Any] = {}

        def start() -> None:
            lists.update(read_lists(read_data_set(folder), ("train", "valid")))
            chosen = choose_preprocessing(lists["train"], 8)
            stores.update(open_stores(lists, chosen, folder / "store"), chosen=chosen)

        said = refused(start)
        if bad:
            listed, expected = problems(said), [*bad]
            if "of the images tried can be used" in said:  # no image of the training list can be read
                expected = [text for text in bad if text.startswith("train")]
                assert len(expected) == len(lists["train"])
            assert len(listed) == min(10, len(expected)), said
            assert all(text.startswith(tuple(expected)) for text in listed), said
            assert not any(list(folder.glob(f"store/{text.split('.')[0]}-*")) for text in bad)
            return
        for name, images in lists.items():
            assert len(stores[name].rows) == len(images) == sum(text.startswith(name) for text in good)
            for row, path in zip(stores[name].rows, images.paths, strict=True):
                crop = stores["chosen"].crop(decode(path.read_bytes()))
                np.testing.assert_array_equal(stores[name].images[row], crop)


# ---- submissions -------------------------------------------------------------------------------------------------------------


@hostile(st.data(), share=0.8)
def test_a_broken_submission_passes_only_where_nothing_broke(tree: Tree, data: st.DataObject) -> None:
    """Held against what pandas, and so Kaggle, makes of the file."""
    ids = ["./test/0.png", "./test/1.png", " test/2.png", "test/3 ü.png", "test/4.png"]
    tree.write("resnet_18_test", "Path\n" + "".join(f"{name}\n" for name in ids))
    tree.write("train", "Path,label\na,0\nb,1\n")
    tree.write("classes", "label,name\n0,a\n1,b\n")
    good = "ID,label\n" + "".join(f"{name},{index % 2}\n" for index, name in enumerate(ids))
    if data.draw(st.booleans()):
        path = tree.write("submission_resnet18", data.draw(broken_text(good)))
    else:  # rows left out, repeated or moved, and labels of all kinds
        kept = data.draw(st.permutations(ids) | st.just(ids) | st.lists(st.sampled_from(ids), max_size=6))
        labels_of = st.sampled_from(["0", "1"] * 80 + [*LABELS, *NO_LABELS])
        rows = [[text, data.draw(labels_of)] for text in kept]
        path = tree.write("submission_resnet18", pd.DataFrame(rows, columns=["ID", "label"]).to_csv(index=False))
    sets = read_data_set(tree.lists)
    images = read_list(sets, "resnet_18_test", labelled=False, check_files=False)
    labels: list[np.ndarray] = []
    if data.draw(st.integers(0, 9)) == 0:
        said = refused(lambda: command(predict, "--data", tree.lists, "--check", path))
    else:
        said = refused(lambda: labels.append(check_submission(path, images, sets)))
    if said:
        assert str(path) in said
        assert data.draw(st.just(path.read_bytes())) != good.encode()
        return
    read = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(read.columns) == ["ID", "label"] and read["ID"].tolist() == ids
    assert set(read["label"]) <= {"0", "1"} and (not labels or read["label"].astype(int).tolist() == labels[0].tolist())


LETTERS = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]) | st.sampled_from("\",;' ./\\=$-")


@hostile(st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=6), st.data(), share=0.25)
def test_a_submission_repeats_ids_of_any_letters_in_their_order(
    tree: Tree, ids: list[str], data: st.DataObject
) -> None:
    tree.write("resnet_18_test", data.draw(table(["Path"], [[text] for text in ids]))[0])
    (tree.lists / "classes.csv").unlink(missing_ok=True)
    (tree.lists / "train.csv").unlink(missing_ok=True)
    sets = read_data_set(tree.lists)
    found: list[ImageList] = []
    if refused(lambda: found.append(read_list(sets, "resnet_18_test", labelled=False, check_files=False))):
        spelled = [os.path.normpath(text.strip().replace("\\", "/")) for text in ids]
        assert len(set(spelled)) < len(ids) or not all(map(str.strip, ids)) or any(text[0] == "/" for text in spelled)
        return
    assert found[0].ids == ids
    labels = np.arange(len(ids)) % 3
    path = tree.lists / "submission_resnet18.csv"
    write_submission(path, found[0], labels, sets)
    read = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=False)
    assert read["ID"].tolist() == ids and read["label"].tolist() == [str(label) for label in labels]
    if len(ids) > 1:
        path.write_text(read.iloc[::-1].to_csv(index=False))
        assert "the IDs stand in another order" in refused(lambda: check_submission(path, found[0], sets))


# ---- foreign trees and arrays ------------------------------------------------------------------------------------------------


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


PICTURES, NUMBERS = np.zeros((3, 4, 4), np.uint8), np.array([[0], [1], [1]], np.uint8)
SHAPES = [
    (0,),
    (3,),
    (3, 4, 4),
    (3, 4, 4, 3),
    (3, 4, 4, 4),
    (0, 4, 4),
    (3, 0, 4),
    (3, 4, 0, 3),
    (3, 1),
    (3, 2),
    (2, 1),
    (),
]
TYPES = ["u1", "i1", "i8", "u8", "f4", "?", "U3", "S2", "M8[s]", "c8"]


@hostile(st.data(), share=0.25)
def test_arrays_of_any_kind_are_images_with_labels_or_refused(tree: Tree, data: st.DataObject) -> None:
    """A MedMNIST file with other arrays in it, or broken bytewise."""
    parts: dict[str, Any] = {"train_images": PICTURES, "train_labels": NUMBERS}
    for name in parts:
        if data.draw(st.integers(0, 1)):
            shape = data.draw(st.sampled_from(SHAPES) | st.just(parts[name].shape))
            parts[name] = np.zeros(shape, data.draw(st.sampled_from(TYPES) | st.just("i8")))
            if parts[name].dtype.kind in "iu":
                wide = parts[name].itemsize == 8
                parts[name] += data.draw(st.sampled_from([0, 1, 127, 2**60 if wide else 2]))
    content = archive(**parts)
    file = tree.top / "tiny.npz"
    file.write_bytes(data.draw(broken(content)) if data.draw(st.integers(0, 2)) == 0 else content)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the archive's names
        said = refused(lambda: found.append(prepare.medmnist_part(file, "train")))
    if said:
        assert said.startswith(str(file))
        return
    images, labels = found[0]
    assert images.dtype == np.uint8 and images.size and labels.dtype == np.int64 and len(labels) == len(images)
    assert 0 <= labels.min() <= labels.max() < 10_000
    Image.fromarray(images[0])


@hostile(st.lists(st.binary(min_size=1, max_size=6), min_size=6, max_size=9), share=0.06)
def test_a_tree_of_any_names_gives_lists_that_are_read_or_is_refused(tree: Tree, names: list[bytes]) -> None:
    """File names are bytes on this system; lists are text."""
    with tempfile.TemporaryDirectory(dir=tree.top) as place:
        source, out = Path(place) / "source", Path(place) / "lists"
        for index, name in enumerate(names):
            folder = source / ("a" if index % 2 else "b")
            folder.mkdir(parents=True, exist_ok=True)
            content = encode(Image.new("RGB", (3, 3), (index, 0, 0)), "PNG")
            (folder / os.fsdecode(name.replace(b"/", b"").replace(b"\0", b"") + b"%d.png" % index)).write_bytes(content)
        said = refused(lambda: command(prepare, "folders", source, "--out", out))
        if said:
            assert not out.exists()
            return
        data = read_data_set(out, source)
        read = [*read_lists(data, ("train", "valid")).values(), read_list(data, "resnet_50_test", labelled=False)]
        assert sum(map(len, read)) == len([*source.glob("*/*")])
