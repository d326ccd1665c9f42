"""Lists of images: the lab's CSV files, read tolerantly and checked whole.

A data set is a folder of lists: ``train.csv`` and ``valid.csv`` (``Path,label``), one ``resnet_<depth>_test.csv`` per
depth (``Path`` only) and, if there is one, ``classes.csv`` (``label,name``).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lab.errors import UserError

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


def read_data_set(data: str | Path, root: str | Path | None = None) -> DataSet:
    """Find a data set's lists and class names; K is the number of classes named, or of labels seen in ``train.csv``."""
    folder = find_folder(data)
    name = "lab3" if folder.resolve().name == "csv" else folder.resolve().name
    if root is not None and not Path(root).is_dir():
        raise UserError(f"--root {root} is no folder; name the folder that the paths of the lists start from.")
    return DataSet(name, folder, Path(root) if root is not None else None, read_classes(folder))


def read_classes(folder: Path) -> list[str]:
    """Class names in label order, from ``classes.csv`` or, without one, from the labels of ``train.csv``."""
    path = folder / "classes.csv"
    if path.is_file():
        table = read_csv(path, ["label", "name"])
        labels = [parse_label(text) for text in table["label"]]
        if sorted(label for label in labels if label is not None) != list(range(len(labels))) or not labels:
            raise UserError(
                f"{path}: the labels must be 0, 1, … without a gap, each once; found {list(table['label'])}."
            )
        return [
            name.strip() for _, name in sorted(zip(labels, table["name"], strict=True), key=lambda pair: pair[0] or 0)
        ]
    path = folder / "train.csv"
    if not path.is_file():
        return []  # test lists alone, beside weights made elsewhere: their checkpoint names the classes
    found = map(parse_label, read_csv(path, ["Path", "label"])["label"])
    seen = {label for label in found if label is not None and label >= 0}  # read_list reports the others by row
    if not seen:
        raise UserError(f"{path}: no usable labels; the column 'label' must hold whole numbers from 0 on.")
    count = max(seen) + 1
    if len(seen) != count:
        missing = sorted(set(range(count)) - seen)[:SHOWN]
        raise UserError(
            f"{path}: labels go up to {count - 1} but {missing} never occur; list all classes in classes.csv."
        )
    # In the lab's own two-class case the names are known; elsewhere the label is the name.
    return ["normal", "leukemia blast"] if count == 2 else [f"class {label}" for label in range(count)]


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read ``columns`` of a CSV file as text, indexed by line. Headers match in any letter case; a byte-order mark, CRLF,
    spaces around headers, extra columns, blank lines and a missing final newline are all fine. Raises :class:`UserError`
    otherwise."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such list.") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the file is empty; expected the columns {','.join(columns)}.") from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a UTF-8 CSV file ({str(error).strip()}).") from None
    found = {str(column).strip().lower(): column for column in reversed(table.columns)}
    absent = [column for column in columns if column.lower() not in found]
    if absent:
        raise UserError(
            f"{path}: line 1 has the columns '{','.join(map(str, table.columns))}'; expected {','.join(columns)}, separated "
            f"by commas."
        )
    lines = [number for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()][1:]
    if len(lines) != len(table):  # a quoted name with a line break in it: count rows as if there were none
        lines = list(range(2, len(table) + 2))
    return table[[found[column.lower()] for column in columns]].set_axis(columns, axis=1).set_axis(lines, axis=0)


def parse_label(text: str) -> int | None:
    """The whole number that a label's text spells, or None."""
    return int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", text) else None


def resolve(text: str, folder: Path, root: Path | None) -> Path:
    """Where a path of a list lies: below ``root`` when given, else below the list's folder, else the working directory.

    A path that exists in neither of the last two comes back below the list's folder, for the check to report.
    """
    relative = text.strip().replace("\\", "/")
    if root is not None:
        return root / relative
    beside = folder / relative
    if not is_file(beside) and is_file(Path(relative)):
        return Path(relative)
    return beside


def is_file(path: Path) -> bool:
    """Whether a file lies there; no where the system refuses to look (a closed folder, an overlong name)."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_list(data: DataSet, name: str, labelled: bool, check_files: bool = True) -> ImageList:
    """Read and check one list of a data set: ``train``, ``valid`` or ``resnet_18_test``; ``check_files``: must the
    images be there?

    All wrong labels, duplicate rows and missing files are reported together in one :class:`UserError`.
    """
    path = data.folder / f"{name}.csv"
    table = read_csv(path, ["Path", "label"] if labelled else ["Path"])
    if table.empty:
        raise UserError(f"{path}: the list has a header but no rows.")
    ids = list(table["Path"])
    paths = [resolve(text, data.folder, data.root) for text in ids]
    problems: list[str] = []
    lines = list(table.index)
    first: dict[Path, int] = {}
    parsed = [parse_label(text) for text in table["label"]] if labelled else []
    for index, (text, where) in enumerate(zip(ids, paths, strict=True)):
        row = f"{path.name} line {lines[index]}"
        if not text.strip():
            problems.append(f"{row}: the path is empty")
        elif where in first:  # by place, so that ./0.bmp and 0.bmp are one
            problems.append(f"{row}: {text.strip()} stands already on line {first[where]}")
        elif check_files and not is_file(where):
            problems.append(f"{row}: {text.strip()} does not exist")
        first.setdefault(where, lines[index])
        if labelled and (parsed[index] is None or not 0 <= (parsed[index] or 0) < len(data.classes)):
            problems.append(
                f"{row}: label '{table['label'].iloc[index]}' is not a whole number from 0 to {len(data.classes) - 1}"
            )
    if problems:
        tried = f"{data.root}" if data.root is not None else f"{data.folder} and {Path.cwd()}"
        count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
        raise problems_error(f"{path}: {count}; paths were tried against {tried}:", problems)
    labels = np.array(parsed if labelled else [-1] * len(ids), dtype=np.int64)
    return ImageList(path, ids, paths, labels, lines)
