"""Checking a Kaggle submission against the list that it answers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from lab.errors import UserError
from lab.lists import DataSet, ImageList, parse_label, problems_error, read_csv, read_list
from lab.words import counted

HEADER = "ID,label"


def check_submission(path: Path, images: ImageList, data: DataSet) -> np.ndarray:
    """The labels, int64 [N], of a submission that is right in every row. Raises :class:`UserError` where the header or the number
    of fields is wrong, or the order is another list's; else one for all rows: IDs that are missing, foreign or twice, labels
    that are no whole numbers of a class."""
    table = read_csv(path, ["ID", "label"])
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if lines[0] != HEADER:
        raise UserError(f"{path}: line 1 is '{lines[0]}'; Kaggle expects '{HEADER}'.")
    for number, fields in enumerate(csv.reader(lines), 1):
        if len(fields) not in (0, 2):
            raise UserError(f"{path} line {number}: {len(fields)} fields; Kaggle expects two, '{HEADER}'.")
    ids = list(table["ID"])
    if ids != images.ids and sorted(ids) == sorted(images.ids):
        raise UserError(f"{path}: the IDs stand in another order than in {images.csv.name}{same_order(ids, data)}.")
    asked, seen = set(images.ids), set[str]()
    problems = []
    for (line, name), text in zip(table["ID"].items(), table["label"], strict=True):
        if name not in asked:
            problems.append(f"line {line}: ID '{name}' is not in {images.csv.name}")
        elif name in seen:
            problems.append(f"line {line}: ID '{name}' stands there twice")
        seen.add(name)
        label = parse_label(text)
        if label is None or str(label) != text or not 0 <= label < (len(data.classes) or label + 1):
            known = f" to {len(data.classes) - 1}" if data.classes else ""
            problems.append(f"line {line}: label '{text}' is not a whole number from 0{known}")
    problems += [f"no row answers '{name}'" for name in images.ids if name not in seen]
    if problems:
        raise problems_error(f"{path}: {counted(len(problems), 'problem')}:", problems)
    return table["label"].astype(np.int64).to_numpy()


def same_order(ids: list[str], data: DataSet) -> str:
    """Which other test list of the data set has this order, in words."""
    for path in sorted(data.folder.glob("resnet_*_test.csv")):
        if read_list(data, path.stem, labelled=False, check_files=False).ids == ids:
            return f", namely in that of {path.name}: it answers another depth's list"
    return ""
