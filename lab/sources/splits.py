"""Splits a table of images into train, valid and test, and writes the lab's lists.

A table is a pandas DataFrame with a row per image and the columns ``path``, ``label`` (0…K−1), ``sha256`` of the file,
``patient`` if it is known, and after the split ``list`` ("train", "valid" or "test"). A split depends on the table and the seed
only, so that it can be tested at full size without images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import ShuffleSplit

from lab.errors import UserError
from lab.files import write_whole
from models.catalog import depths, find

LISTS = ("train", "valid", "test")
TEST_LISTS = tuple(f"{find(model).test_list}.csv" for model in depths())
SOURCE = "source.txt"  # beside the lists: one sentence that says where the images come from, for the report
FILES = ("train.csv", "valid.csv", *TEST_LISTS, "test_labels.csv", "classes.csv")
CNMC_NAME = re.compile(r"UID_(?P<patient>H?\d+)_\d+_\d+_(?P<kind>all|hem)", re.IGNORECASE)
DRAWS = 2000  # number of random splits of which the best is chosen


def natural_key(name: str) -> list[str | int]:
    """Sort key by which "9.bmp" comes before "10.bmp"."""
    return [int(part) if index % 2 else part.lower() for index, part in enumerate(re.split(r"([0-9]+)", name))]


def cnmc_table(paths: Iterable[str]) -> tuple[pd.DataFrame, int]:
    """Read patient and label from C-NMC paths (…/all/UID_<patient>_<image>_<cell>_all.bmp, any letter case).

    Returns the table (path, patient, label) and the number of images outside class folders. Raises :class:`UserError` for names
    of another form, or that contradict their folder.
    """
    rows, invalid, ignored = [], [], 0
    for path in paths:
        kind = Path(path).parent.name.lower()
        if kind not in ("all", "hem"):
            ignored += 1
            continue
        name = CNMC_NAME.fullmatch(Path(path).stem)
        if name is None or name["kind"].lower() != kind:
            invalid.append(path)
        else:
            rows.append((path, name["patient"].upper(), int(kind == "all")))
    if invalid:
        examples = ", ".join(invalid[:10]) + (" …" if len(invalid) > 10 else "")
        raise UserError(
            f"{len(invalid)} image names are not UID_<patient>_<image>_<cell>_all.bmp in a folder all/, or …_hem.bmp in hem/, "
            f"so their patient is unknown: {examples}; rename or remove them."
        )
    if not rows:
        raise UserError(
            "no image is in a folder all/ or hem/: name the folder of C-NMC that contains fold_0 to fold_2."
        )
    return pd.DataFrame(rows, columns=["path", "patient", "label"]), ignored


def without_conflicts(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into the rows to keep and those whose bytes also occur with another label, of which one must be wrong."""
    conflict = table.groupby("sha256")["label"].transform("nunique") > 1
    return table[~conflict].reset_index(drop=True), table[conflict].reset_index(drop=True)


def connected_groups(patients: pd.Series, contents: pd.Series) -> NDArray[np.int64]:
    """Return the group of each image, (N,). A group has all images of a patient and of all patients who share an identical image.

    Patients and contents are the nodes of a graph, each image is an edge, and the groups are its connected components.
    """
    patient, _ = pd.factorize(patients)
    content, _ = pd.factorize(contents)
    first = int(patient.max()) + 1
    nodes = first + int(content.max()) + 1
    edges = coo_array((np.ones(len(patient)), (patient, content + first)), shape=(nodes, nodes))
    _, component = connected_components(edges, directed=False)
    return pd.factorize(component[patient])[0].astype(np.int64)


def split_by_patient(table: pd.DataFrame, shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Split near ``shares`` (train, valid, test) in each class, so that no patient and no content is in two lists.

    Of many random splits of the groups, the one with the smallest relative error of the class counts is chosen: first for the
    test list, then for the valid list among the rest. Raises :class:`UserError` if there are fewer than three groups.
    """
    groups = connected_groups(table["patient"], table["sha256"]) if len(table) else np.zeros(0, np.int64)
    counts = pd.crosstab(groups, table["label"]).to_numpy()  # (groups, classes)
    if len(counts) < len(LISTS):
        raise UserError(
            f"a split by patient needs at least 3 patients (or groups of patients) that share no image, and here are "
            f"{len(counts)}: add the images of more patients, or split by image with `prepare.py folders`."
        )
    fractions = np.asarray(shares, float) / np.sum(shares)
    list_index = np.zeros(len(counts), int)  # index into LISTS of each group
    for target in (2, 1):
        rest = np.flatnonzero(list_index == 0)
        wanted = fractions[target] * counts.sum(axis=0)
        number = round(float(fractions[target] / fractions[: target + 1].sum()) * len(rest))
        number = min(max(number, 1), len(rest) - target)  # at least one group remains for each further list
        best: tuple[float, NDArray[np.int64]] = (np.inf, rest)
        draws = ShuffleSplit(DRAWS, test_size=number, train_size=len(rest) - number, random_state=seed)
        for _, chosen in draws.split(rest):
            error = float((np.abs(counts[rest[chosen]].sum(axis=0) - wanted) / counts.sum(axis=0)).sum())
            best = min(best, (error, rest[chosen]), key=lambda draw: draw[0])
        list_index[best[1]] = target
    return table.assign(list=np.array(LISTS, object)[list_index[groups]])


def split_by_image(table: pd.DataFrame, shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Split each class by ``shares`` (train, valid, test); images with byte-identical copies all go into train.

    Raises :class:`UserError` if a class has too few images for each list to get one.
    """
    fractions = np.asarray(shares, float) / np.sum(shares)
    copied = table["sha256"].duplicated(keep=False).to_numpy()
    list_index = np.zeros(len(table), int)
    rng = np.random.default_rng(seed)
    for label, rows in table.groupby("label").indices.items():
        unique = rng.permutation(rows[~copied[rows]])
        valid, test = (max(1, round(float(fraction) * len(rows))) for fraction in fractions[1:])
        if valid + test > len(unique) or valid + test >= len(rows):
            raise UserError(
                f"class {label} has {len(rows)} images ({len(unique)} without a byte-identical copy), too few to fill train, "
                "valid and test: add images, leave the class out, or give other --shares."
            )
        list_index[unique[:valid]] = 1
        list_index[unique[valid : valid + test]] = 2
    return table.assign(list=np.array(LISTS, object)[list_index])


def complete(table: pd.DataFrame, shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Split a table that has no column ``list``; in one that has it, take lists that are missing out of the training images."""
    if "list" not in table:
        return split_by_image(table, shares, seed)
    missing = [name for name in LISTS if name not in set(table["list"])]
    if not missing:
        return table
    train = table["list"] == "train"
    lists = split_by_image(table[train].reset_index(drop=True), shares, seed)["list"]
    print(f"the tree has no {' and no '.join(missing)} part: taken out of its training images.")
    completed = table["list"].to_numpy(object)
    completed[train] = lists.where(lists.isin(missing), "train")
    return table.assign(list=completed)


def summary(table: pd.DataFrame, names: Sequence[str]) -> str:
    """Return a table as text: for each list the number of images, of patients if known, and the images of each class."""
    rows = []
    for name in LISTS:
        part = table[table["list"] == name]
        row: dict[str, str] = {"list": name, "images": f"{len(part):,}", "of all": f"{len(part) / len(table):.1%}"}
        if "patient" in table:
            row["patients"] = str(part["patient"].nunique())
        for label, title in enumerate(names):
            number = int((part["label"] == label).sum())
            row[title] = f"{number:,} ({number / max(len(part), 1):.1%})"
        rows.append(row)
    return pd.DataFrame(rows).to_string(index=False)


def write_lists(folder: Path, table: pd.DataFrame, names: Sequence[str], seed: int) -> None:
    """Write the lists of a split table: train, valid, a test list per depth, the labels of the test images, the classes.

    The three test lists have the same images in three orders, as in the lab. ``train.csv`` is written last: if it exists, the
    others do too.
    """
    (folder / "train.csv").unlink(missing_ok=True)
    rows = table.rename(columns={"path": "Path"})
    part = {name: rows.loc[rows["list"] == name, ["Path", "label"]] for name in LISTS}
    for number, name in enumerate(TEST_LISTS):
        order = np.random.default_rng((seed, number)).permutation(len(part["test"]))
        _write_csv(folder / name, part["test"][["Path"]].iloc[order])
    _write_csv(folder / "test_labels.csv", part["test"])
    _write_csv(folder / "classes.csv", pd.DataFrame({"label": range(len(names)), "name": names}))
    _write_csv(folder / "valid.csv", part["valid"])
    _write_csv(folder / "train.csv", part["train"])


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_whole(path, table.to_csv(index=False, lineterminator="\n"))
