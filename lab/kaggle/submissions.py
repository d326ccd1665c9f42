"""Writes a Kaggle submission, and checks one against its test list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lab.data.lists import DataSet, ImageList, parse_label, problems_error, read_list
from lab.errors import UserError
from lab.files import write_whole
from lab.tables import read_rows
from lab.text import counted, shown

HEADER = "ID,label"


def write_submission(path: Path, images: ImageList, labels: np.ndarray, data: DataSet) -> None:
    """Write the IDs of a list, unchanged and in its order, with their labels, int64 [N]; then check the file."""
    table = pd.DataFrame({"ID": images.ids, "label": labels.astype(int)})
    write_whole(path, table.to_csv(index=False, lineterminator="\n"))
    check_submission(path, images, data)


def check_submission(path: Path, images: ImageList, data: DataSet) -> np.ndarray:
    """Return the labels, int64 [N], of a correct submission.

    Raises :class:`UserError` if the header, the number of fields or the order is wrong, or else one error for all rows with
    missing, unknown or duplicate IDs or invalid labels.
    """
    (first, header), *rows = read_rows(path, HEADER)
    if first != 1 or header != HEADER.split(","):
        text = f"'{shown(','.join(header))}'" + (" in one pair of quotes" if header == [HEADER] else "")
        raise UserError(f"{path}: line {first} is {text}; Kaggle expects '{HEADER}' on line 1.")
    for line, fields in rows:
        if len(fields) != 2:
            raise UserError(f"{path} line {line}: {counted(len(fields), 'field')}; Kaggle expects two, '{HEADER}'.")
    ids = [name for _, (name, _) in rows]
    if ids != images.ids and sorted(ids) == sorted(images.ids):
        raise UserError(f"{path}: the IDs are in another order than in {images.csv.name}{same_order(ids, data)}.")
    listed, answered = set(images.ids), set[str]()
    problems = []
    for line, (name, text) in rows:
        if name not in listed:
            problems.append(f"line {line}: ID '{shown(name)}' is not in {images.csv.name}")
        elif name in answered:
            problems.append(f"line {line}: ID '{shown(name)}' is a duplicate")
        answered.add(name)
        label = parse_label(text)
        if label is None or str(label) != text or not 0 <= label < (len(data.classes) or label + 1):
            last = f" to {len(data.classes) - 1}" if data.classes else ""
            problems.append(f"line {line}: label '{shown(text)}' is not a whole number from 0{last}")
    problems += [f"there is no row for '{shown(name)}'" for name in images.ids if name not in answered]
    if problems:
        raise problems_error(f"{path}: {counted(len(problems), 'problem')}:", problems)
    return np.array([int(text) for _, (_, text) in rows], dtype=np.int64)


def same_order(ids: list[str], data: DataSet) -> str:
    """Name another test list of the data set that has this order, as the end of a message; "" if there is none."""
    for path in sorted(data.folder.glob("resnet_*_test.csv")):
        try:
            other = read_list(data, path.stem, labelled=False, check_files=False)
        except UserError:
            continue  # an unreadable list cannot have been predicted
        if other.ids == ids:
            return f"; it is that of {path.name}, another depth's list"
    return ""


def submission_folder(data: DataSet) -> Path:
    """Return the folder of the lists if it is below csv/, else csv/<data>, because other folders are not written to."""
    folder = data.folder.resolve()
    return data.folder if folder.is_relative_to(Path("csv").resolve()) else Path("csv") / data.name
