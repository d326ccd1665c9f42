"""Lists of images: the lab's CSV files, read tolerantly and checked completely.

A data set is a folder of lists: ``train.csv`` and ``valid.csv`` (``Path,label``), one ``resnet_<depth>_test.csv`` per
depth (``Path`` only) and, if there is one, ``classes.csv`` (``label,name``).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.data.images import decode
from lab.data.paths import locate, starts
from lab.errors import UserError
from lab.tables import CONTROL, read_csv
from lab.terminal import progress
from lab.text import counted, shown

SHOWN = 10  # how many problems an error lists by row before it only counts


@dataclass(frozen=True)
class ImageList:
    """One list. ``ids`` are the paths as the file spells them, ``paths`` where the images lie, in the file's order."""

    csv: Path
    ids: list[str]
    paths: list[Path]
    labels: np.ndarray  # int64 [N]; -1 in a test list
    lines: Sequence[int] = range(2, sys.maxsize)  # the line of the file that holds each image; the header is line 1

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, index: int) -> int:
        """The line of the CSV file that holds image ``index``."""
        return self.lines[index]

    def problem(self, index: int, error: Exception) -> str:
        """What is wrong with image ``index``, in words: the list, the line, the path, the reason."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return f"{self.csv.name} line {self.row(index)}: {shown(self.ids[index])}: {reason}"


@dataclass(frozen=True)
class DataSet:
    """A folder of lists: its short name, where it lies, where the images lie, and the names of the K classes
    (none where there are test lists alone)."""

    name: str
    folder: Path
    root: Path | None
    classes: list[str]


def problems_error(title: str, problems: list[str]) -> UserError:
    """One error for many problems: the first ten by row, then the count."""
    lines = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
    more = f"\n  … and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
    return UserError(
        f"{title}{lines}{more}\nNothing was started; mend the list or the files and run the command again."
    )


def find_folder(data: str | Path) -> Path:
    """The folder of lists: the path given, ``csv/<name>``, or ``csv`` itself for ``lab3`` dropped straight into it."""
    given = Path(data)
    tried = [given, Path("csv") / given] + ([Path("csv")] if given.name == "lab3" else [])
    for folder in tried:
        if (folder / "train.csv").is_file() or any(folder.glob("resnet_*_test.csv")):
            return folder
    places = ", ".join(str(folder) for folder in tried)
    raise UserError(
        f"no lists found for --data {data}: looked for train.csv in {places}. `python prepare.py` makes them."
    )


def data_name(data: str | Path) -> str:
    """A data set's short name: that of its folder of lists; ``lab3`` for lists dropped straight into ``csv``."""
    name = Path(data).resolve().name
    return "lab3" if name == "csv" else name


def read_data_set(data: str | Path, root: str | Path | None = None) -> DataSet:
    """Find a data set's lists and class names; K is the number of classes named, or of labels seen in ``train.csv``."""
    folder = find_folder(data)
    name = data_name(folder)
    if root is not None and not Path(root).is_dir():
        raise UserError(f"--root {root} is not a folder; name the folder that the paths of the lists start from.")
    return DataSet(name, folder, Path(root) if root is not None else None, read_classes(folder, name))


def read_classes(folder: Path, name: str) -> list[str]:
    """Class names in label order, from ``classes.csv`` or, without one, from the labels of ``train.csv``."""
    path = folder / "classes.csv"
    if path.is_file():
        table = read_csv(path, ["label", "name"])
        labels = [parse_label(text) for text in table["label"]]
        if sorted(label for label in labels if label is not None) != list(range(len(labels))) or len(labels) < 2:
            found = ", ".join(f"'{shown(text)}'" for text in table["label"][:SHOWN])
            raise UserError(
                f"{path}: the labels must be 0, 1, … without a gap, each once, two or more; found {found or 'none'}."
            )
        names = [
            name.strip() for _, name in sorted(zip(labels, table["name"], strict=True), key=lambda pair: pair[0] or 0)
        ]
        if len(set(names)) < len(names) or not all(names) or any(map(CONTROL.search, names)):
            found = ", ".join(f"'{shown(name)}'" for name in names[:SHOWN])
            raise UserError(f"{path}: every class needs a name of its own, on one line; found {found}.")
        return names
    path = folder / "train.csv"
    if not path.is_file():
        return []  # test lists alone, beside weights made elsewhere: their checkpoint names the classes
    table = read_csv(path, ["Path", "label"])
    if table.empty:
        raise UserError(f"{path}: the list has a header but no rows.")
    seen = {label for label in map(parse_label, table["label"]) if label is not None and label >= 0}
    # Labels count up to the first that never occurs; those beyond it, and what is no number, are reported by row.
    count = next(label for label in itertools.count() if label not in seen) if seen else 2
    if count < 2:
        raise UserError(
            f"{path}: label {count} never occurs, only {', '.join(map(str, sorted(seen)[:SHOWN]))}; the column 'label' must hold "
            f"0, 1, … of two classes or more. Mend it, or name all classes in classes.csv."
        )
    # The lab's two classes have names; elsewhere the label is the name.
    return (
        ["normal", "leukemia blast"] if name == "lab3" and count == 2 else [f"class {label}" for label in range(count)]
    )


def parse_label(text: str) -> int | None:
    """The whole number that a label's text spells, or None."""
    return int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", text) else None


def read_list(data: DataSet, name: str, labelled: bool, check_files: bool = True) -> ImageList:
    """Read and check one list of a data set: ``train``, ``valid`` or ``resnet_18_test``; ``check_files``: must the
    images be there? Raises one :class:`UserError` for all its problems."""
    images, problems = inspect(data, name, labelled, check_files)
    if problems:
        raise problems_error(
            f"{images.csv}: {counted(len(problems), 'problem')}{places_tried(data)}:", list(problems.values())
        )
    return images


def read_lists(data: DataSet, names: Sequence[str]) -> dict[str, ImageList]:
    """Read and check several labelled lists; all their problems are one :class:`UserError`.

    Images are decoded here only where there are problems already, so that damaged ones are reported with the rest;
    otherwise the store finds those when it decodes every image once.
    """
    inspected = {name: inspect(data, name, labelled=True) for name in names}
    if any(problems for _, problems in inspected.values()):
        everything = []
        for images, problems in inspected.values():
            everything += [text for _, text in sorted((damaged(images, set(problems)) | problems).items())]
        raise problems_error(f"{data.folder}: {counted(len(everything), 'problem')}{places_tried(data)}:", everything)
    return {name: images for name, (images, _) in inspected.items()}


def inspect(data: DataSet, name: str, labelled: bool, check_files: bool = True) -> tuple[ImageList, dict[int, str]]:
    """A list and its problems in words by line: wrong labels, duplicate rows, missing files, paths that lead outside."""
    path = data.folder / f"{name}.csv"
    table = read_csv(path, ["Path", "label"] if labelled else ["Path"])
    if table.empty:
        raise UserError(f"{path}: the list has a header but no rows.")
    ids, lines = table["Path"].tolist(), table.index.tolist()
    spelled = table["label"].tolist() if labelled else []
    parsed = map(parse_label, spelled) if labelled else [None] * len(ids)
    labels = np.array([-1 if label is None else label for label in parsed], dtype=np.int64)
    # Without classes.csv the labels of train.csv say how many classes there are.
    hint = "" if (data.folder / "classes.csv").is_file() else f" ({len(data.classes)} never occurs in train.csv)"
    folders = starts(data.folder, data.root)
    paths: list[Path] = []
    problems: dict[int, str] = {}
    first: dict[str, int] = {}
    for index, (line, text) in enumerate(zip(lines, ids, strict=True)):
        place, found = "", []
        if not text.strip():
            found.append("the path is empty")
        elif CONTROL.search(text.strip(" \t")):
            found.append(f"{shown(text)} holds a line break or another control character")
        else:
            place, spelling, wrong = locate(text, folders)
            if spelling in first:  # ./0.bmp and 0.bmp are one
                found.append(f"{shown(text)} stands already on line {first[spelling]}")
            elif check_files and wrong:
                found.append(f"{shown(text)} {wrong}")
            first.setdefault(spelling, line)
        if labelled and not 0 <= labels[index] < len(data.classes):
            found.append(
                f"label '{shown(spelled[index])}' is not a whole number from 0 to {len(data.classes) - 1}{hint}"
            )
        if found:
            problems[line] = f"{path.name} line {line}: {'; '.join(found)}"
        paths.append(Path(place))
    return ImageList(path, ids, paths, labels, lines), problems


def damaged(images: ImageList, known: set[int]) -> dict[int, str]:
    """The images that cannot be decoded, in words by line, leaving out the lines in ``known``."""

    def reason(index: int) -> str | None:
        try:
            decode(images.paths[index].read_bytes())
        except (OSError, ValueError) as error:
            return images.problem(index, error)
        return None

    rest = [index for index in range(len(images)) if images.row(index) not in known]
    with ThreadPoolExecutor() as pool:
        reasons = list(progress(pool.map(reason, rest), f"checking {images.csv.name}", len(rest), delay=1))
    return {images.row(index): text for index, text in zip(rest, reasons, strict=True) if text}


def list_digest(data: DataSet) -> str:
    """A hash of the training and valid lists and the class names: what a run was trained on."""
    digest = hashlib.sha256(json.dumps(data.classes).encode())
    for name in ("train", "valid"):
        digest.update((data.folder / f"{name}.csv").read_bytes())
    return digest.hexdigest()


def places_tried(data: DataSet) -> str:
    """Where the paths of a list were looked for, in words."""
    places = [data.root] if data.root is not None else [data.folder, Path.cwd()]
    return f"; paths were tried against {' and '.join(dict.fromkeys(str(place.resolve()) for place in places))}"
