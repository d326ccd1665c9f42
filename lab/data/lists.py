"""Reads and checks lists of images, the lab's CSV files.

A data set is a folder of lists: ``train.csv`` and ``valid.csv`` (``Path,label``), one ``resnet_<depth>_test.csv`` per
depth (``Path`` only) and optionally ``classes.csv`` (``label,name``).
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.data.images import decode
from lab.data.paths import MISSING, locate, nearby, starts
from lab.errors import UserError
from lab.files import PROJECT, write_whole
from lab.tables import CONTROL, read_csv, read_text
from lab.terminal import progress
from lab.text import counted, shown

NEGATIVE = {"hem", "normal", "healthy", "negative", "benign", "no", "false"}  # words for class 0; hem is C-NMC's
PROBLEMS = Path("problems.txt")
SHOWN = 10  # number of problems that an error lists by row


@dataclass(frozen=True)
class ImageList:
    """One list in the file's order. ``ids`` are the paths as written in the file, ``paths`` the image files they refer to."""

    csv: Path
    ids: list[str]
    paths: list[Path]
    labels: np.ndarray  # int64 [N]; -1 in a test list
    lines: Sequence[int] = range(2, sys.maxsize)  # the line of each image in the file; the header is line 1

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, index: int) -> int:
        """Return the line of image ``index`` in the CSV file."""
        return self.lines[index]

    def problem(self, index: int, error: Exception) -> str:
        """Describe an error of image ``index``: the list, the line, the path, the reason."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return f"{self.csv.name} line {self.row(index)}: {shown(self.ids[index])}: {reason}"


@dataclass(frozen=True)
class DataSet:
    """A folder of lists: its short name, its path, the folder of the images if one was given, and the names of the K classes
    (empty if there are only test lists)."""

    name: str
    folder: Path
    root: Path | None
    classes: list[str]


def problems_error(title: str, problems: list[str]) -> UserError:
    """Return one error for many problems: the first ten by row, then the count. All of them are written to ``problems.txt``."""
    lines = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
    more = ""
    if len(problems) > SHOWN:
        more = f"\n  … and {len(problems) - SHOWN:,} more"
        with contextlib.suppress(OSError):  # of a folder that cannot be written
            write_whole(PROBLEMS, "\n".join([title, *problems, ""]))
            more += f"; all are in {PROBLEMS}"
    return UserError(f"{title}{lines}{more}\nCorrect the list or the files and run the command again.")


def find_folder(data: str | Path, root: str | Path | None = None, lists: Iterable[str] = ()) -> Path:
    """Return the folder of lists: the given path, ``csv/<name>``, or ``csv`` itself if ``lab3``'s lists are directly in it.

    Raises :class:`UserError` if there is none, if ``root`` is no folder, or if one of these ``lists`` is missing.
    """
    given = Path(data)
    candidates = [given, Path("csv") / given] + ([Path("csv")] if given.name == "lab3" else [])
    folders = [path for path in candidates if (path / "train.csv").is_file() or any(path.glob("resnet_*_test.csv"))]
    if not folders:
        tried = ", ".join(map(str, candidates))
        near = did_you_mean(given.name, {path.parent.name for path in Path("csv").glob("*/*.csv")})
        raise UserError(
            f"no lists found for --data {data}: looked for train.csv in {tried}{near}; make them with prepare.py."
        )
    check_root(root)
    for name in lists:
        read_text(folders[0] / f"{name}.csv")
    return folders[0]


def check_root(root: str | Path | None) -> None:
    """Raise :class:`UserError` if ``--root`` was given and is no folder."""
    if root is not None and not Path(root).is_dir():
        raise UserError(f"--root {root} is not a folder; name the folder that the paths of the lists start from.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Name the data set that a wrong ``--data`` resembles, as a part of a message; "" if there is none."""
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f" (did you mean --data {near[0]}?)" if near else ""


def data_name(data: str | Path) -> str:
    """Return a data set's short name: that of its folder of lists, or ``lab3`` if the lists are directly in ``csv`` of the
    working directory or of the project. A folder named csv elsewhere is not the lab's."""
    folder = Path(data).resolve()
    return "lab3" if folder in (Path("csv").resolve(), PROJECT / "csv") else folder.name


def read_data_set(data: str | Path, root: str | Path | None = None) -> DataSet:
    """Find a data set's lists and class names; K is the number of classes in ``classes.csv``, or of labels in ``train.csv``."""
    folder = find_folder(data, root)
    name = data_name(folder)
    return DataSet(name, folder, Path(root) if root is not None else None, read_classes(folder, name))


def read_classes(folder: Path, name: str) -> list[str]:
    """Return the class names in label order, from ``classes.csv`` or else from the labels of ``train.csv``."""
    path = folder / "classes.csv"
    if path.is_file():
        return read_class_names(path)
    path = folder / "train.csv"
    if not path.is_file():
        return []  # only test lists, for weights trained elsewhere: the checkpoint names the classes
    table = read_csv(path, ["Path", "label"])
    if table.empty:
        raise UserError(f"{path}: the list has a header but no rows.")
    used = {label for label in map(parse_label, table["label"]) if label is not None and label >= 0}
    if not used:
        raise UserError(f"{path}: {describe_labels(table['label'])}")
    # K is the first label that does not occur; larger labels and texts that are no number are reported by row.
    count = next(label for label in itertools.count() if label not in used)
    if count < 2:
        raise UserError(
            f"{path}: label {count} never occurs, only {', '.join(map(str, sorted(used)[:SHOWN]))}; the column 'label' must "
            f"contain 0, 1, … of two classes or more. Correct it, or name all classes in classes.csv."
        )
    if name == "lab3" and count == 2:
        return ["normal", "leukemia blast"]
    return [f"class {label}" for label in range(count)]


def describe_labels(texts: Iterable[str]) -> str:
    """Say what labels none of which is a whole number are, and which numbers to write instead."""
    kinds = sorted({text.strip() for text in texts}, key=lambda text: (text.lower() not in NEGATIVE, text))
    pairs = ", ".join(f"{number} for {shown(text) or 'an empty label'}" for number, text in enumerate(kinds[:SHOWN]))
    more = " and so on" if len(kinds) > SHOWN else ""
    return (
        f"the column 'label' contains no whole number from 0 on; write {pairs}{more}, and the same numbers with a name for each "
        f"class into classes.csv (label,name)."
    )


def read_class_names(path: Path) -> list[str]:
    """Read the class names from ``classes.csv``, in label order."""
    table = read_csv(path, ["label", "name"])
    labels = [parse_label(text) for text in table["label"]]
    names = [text.strip() for text in table["name"]]
    if sorted(label for label in labels if label is not None) != list(range(len(labels))) or len(labels) < 2:
        quoted = ", ".join(f"'{shown(text)}'" for text in table["label"][:SHOWN]) or "none"
        raise UserError(f"{path}: the labels must be 0, 1, … without a gap, each once, two or more; found {quoted}.")
    by_label = dict(zip(labels, names, strict=True))
    names = [by_label[label] for label in range(len(labels))]
    if len(set(names)) < len(names) or not all(names) or any(map(CONTROL.search, names)):
        quoted = ", ".join(f"'{shown(name)}'" for name in names[:SHOWN])
        raise UserError(f"{path}: every class needs a different name, on one line; found {quoted}.")
    return names


def parse_label(text: str) -> int | None:
    """Return the whole number that a label's text denotes, or None."""
    return int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", text) else None


def read_list(data: DataSet, name: str, labelled: bool, check_files: bool = True) -> ImageList:
    """Read and check one list of a data set: ``train``, ``valid`` or ``resnet_18_test``; with ``check_files`` the images must
    exist. Raises one :class:`UserError` for all its problems."""
    images, problems = inspect(data, name, labelled, check_files)
    if problems:
        title = f"{images.csv}: {counted(len(problems), 'problem')}{searched_folders(data)}:"
        raise problems_error(title, list(problems.values()))
    return images


def read_lists(data: DataSet, names: Sequence[str]) -> dict[str, ImageList]:
    """Read and check several labelled lists. Raises one :class:`UserError` for all their problems.

    If there are problems, the images are decoded too, so that damaged ones are reported with the rest. Otherwise the store
    reports them when it decodes every image.
    """
    inspected = {name: inspect(data, name, labelled=True) for name in names}
    if any(problems for _, problems in inspected.values()):
        texts = []
        for images, problems in inspected.values():
            texts += [text for _, text in sorted((damaged(images, set(problems)) | problems).items())]
        raise problems_error(f"{data.folder}: {counted(len(texts), 'problem')}{searched_folders(data)}:", texts)
    return {name: images for name, (images, _) in inspected.items()}


def inspect(data: DataSet, name: str, labelled: bool, check_files: bool = True) -> tuple[ImageList, dict[int, str]]:
    """Read a list; returns it and its problems by line: wrong labels, duplicate rows, missing files, paths that lead outside."""
    path = data.folder / f"{name}.csv"
    table = read_csv(path, ["Path", "label"] if labelled else ["Path"])
    if table.empty:
        raise UserError(f"{path}: the list has a header but no rows.")
    ids, lines = table["Path"].tolist(), table.index.tolist()
    label_texts = table["label"].tolist() if labelled else []
    parsed = map(parse_label, label_texts) if labelled else [None] * len(ids)
    labels = np.array([-1 if label is None else label for label in parsed], dtype=np.int64)
    # Without classes.csv the number of classes comes from train.csv.
    hint = "" if (data.folder / "classes.csv").is_file() else f" ({len(data.classes)} never occurs in train.csv)"
    folders = starts(data.folder, data.root)
    paths: list[Path] = []
    problems: dict[int, str] = {}
    first_lines: dict[str, int] = {}
    searched = False
    for index, (line, text) in enumerate(zip(lines, ids, strict=True)):
        file, faults = "", []
        if not text.strip():
            faults.append("the path is empty")
        elif CONTROL.search(text.strip(" \t")):
            faults.append(f"{shown(text)} contains a line break or another control character")
        else:
            file, absolute, fault = locate(text, folders)
            if absolute in first_lines:  # ./0.bmp and 0.bmp are the same file
                faults.append(f"{shown(text)} is already on line {first_lines[absolute]}")
            elif check_files and fault:
                # Searched for the first missing file of a list: the others are mostly missing for the same reason.
                near = nearby(text, folders) if fault == MISSING and not searched else ""
                searched = searched or fault == MISSING
                faults.append(f"{shown(text)} {fault}{near and f' ({shown(near, 300)})'}")
            first_lines.setdefault(absolute, line)
        if labelled and not 0 <= labels[index] < len(data.classes):
            quoted, last = shown(label_texts[index]), len(data.classes) - 1
            named = label_texts[index].strip() in data.classes
            number = f"; it is the name of class {data.classes.index(label_texts[index].strip())}" if named else hint
            faults.append(f"label '{quoted}' is not a whole number from 0 to {last}{number}")
        if faults:
            problems[line] = f"{path.name} line {line}: {'; '.join(faults)}"
        paths.append(Path(file))
    return ImageList(path, ids, paths, labels, lines), problems


def damaged(images: ImageList, known: set[int]) -> dict[int, str]:
    """Describe, by line, the images that cannot be decoded, except on the lines in ``known``."""

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
    """Return a hash of the training and valid lists and the class names, which identifies what a run was trained on."""
    digest = hashlib.sha256(json.dumps(data.classes).encode())
    for name in ("train", "valid"):
        digest.update((data.folder / f"{name}.csv").read_bytes())
    return digest.hexdigest()


def searched_folders(data: DataSet) -> str:
    """Name the folders that were searched for the paths of a list, as the end of an error's title."""
    folders = [data.root] if data.root is not None else [data.folder, Path.cwd()]
    return f"; the images were searched in {' and '.join(dict.fromkeys(str(folder.resolve()) for folder in folders))}"
