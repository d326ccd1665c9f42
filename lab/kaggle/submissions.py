"""Writing a Kaggle submission, and checking one against the list that it answers."""

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
    """Write a list's IDs, as it spells and orders them, with their labels, int64 [N]; and read it back, checked."""
    table = pd.DataFrame({"ID": images.ids, "label": labels.astype(int)})
    write_whole(path, table.to_csv(index=False, lineterminator="\n"))
    check_submission(path, images, data)


def check_submission(path: Path, images: ImageList, data: DataSet) -> np.ndarray:
    """The labels, int64 [N], of a submission that is right in every row. Raises :class:`UserError` where the header or the number
    of fields is wrong, or the order is another list's; else one for all rows: IDs that are missing, foreign or twice, labels
    that are no whole numbers of a class."""
    (first, header), *rows = read_rows(path, HEADER)
    if first != 1 or header != HEADER.split(","):
        quoted = " in one pair of quotes" if header == [HEADER] else ""
        raise UserError(
            f"{path}: line {first} is '{shown(','.join(header))}'{quoted}; Kaggle expects '{HEADER}' on line 1."
        )
    for line, fields in rows:
        if len(fields) != 2:
            raise UserError(f"{path} line {line}: {counted(len(fields), 'field')}; Kaggle expects two, '{HEADER}'.")
    ids = [name for _, (name, _) in rows]
    if ids != images.ids and sorted(ids) == sorted(images.ids):
        raise UserError(f"{path}: the IDs stand in another order than in {images.csv.name}{same_order(ids, data)}.")
    asked, seen = set(images.ids), set[str]()
    problems = []
    for line, (name, text) in rows:
        if name not in asked:
            problems.append(f"line {line}: ID '{shown(name)}' is not in {images.csv.name}")
        elif name in seen:
            problems.append(f"line {line}: ID '{shown(name)}' stands there twice")
        seen.add(name)
        label = parse_label(text)
        if label is None or str(label) != text or not 0 <= label < (len(data.classes) or label + 1):
            known = f" to {len(data.classes) - 1}" if data.classes else ""
            problems.append(f"line {line}: label '{shown(text)}' is not a whole number from 0{known}")
    problems += [f"no row answers '{shown(name)}'" for name in images.ids if name not in seen]
    if problems:
        raise problems_error(f"{path}: {counted(len(problems), 'problem')}:", problems)
    return np.array([int(text) for _, (_, text) in rows], dtype=np.int64)


def same_order(ids: list[str], data: DataSet) -> str:
    """Which other test list of the data set has this order, in words."""
    for path in sorted(data.folder.glob("resnet_*_test.csv")):
        try:
            other = read_list(data, path.stem, labelled=False, check_files=False)
        except UserError:
            continue  # a list that cannot be read is not the one that was answered
        if other.ids == ids:
            return f", namely in that of {path.name}: it answers another depth's list"
    return ""


def submission_folder(data: DataSet) -> Path:
    """The lists' own folder where it lies in csv/, else csv/<data>: other folders of lists are not ours to write into."""
    ours = Path("csv").resolve()
    folder = data.folder.resolve()
    return data.folder if ours == folder or ours in folder.parents else Path("csv") / data.name
