"""Splits a table of images into train, valid and test, and writes the lab's lists.

A table is a pandas DataFrame with a row per image and the columns ``path``, ``label`` (0…K−1), ``sha256`` of the file (equal
for byte-identical copies), ``patient`` where it is known, and ``list`` ("train", "valid" or "test") once it is split. A split
is a function of the table and the seed alone, so that it can be tested at full size without an image.
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
FILES = ("train.csv", "valid.csv", *TEST_LISTS, "test_labels.csv", "classes.csv")
CNMC_NAME = re.compile(r"UID_(?P<patient>H?\d+)_\d+_\d+_(?P<kind>all|hem)", re.IGNORECASE)
DRAWS = 2000  # random divisions of the groups that are weighed against each other


def natural(name: str) -> list[str | int]:
    """Sort key by which "9.bmp" comes before "10.bmp"."""
    return [int(part) if place % 2 else part.lower() for place, part in enumerate(re.split(r"([0-9]+)", name))]


def cnmc_table(paths: Iterable[str]) -> tuple[pd.DataFrame, int]:
    """Read patient and label from C-NMC paths (…/all/UID_<patient>_<image>_<cell>_all.bmp, any letter case).

    Returns the table (path, patient, label) and the number of images outside class folders. Raises UserError that names the
    paths which cannot be read so, or whose folder contradicts their name.
    """
    rows, bad, ignored = [], [], 0
    for path in paths:
        kind = Path(path).parent.name.lower()
        if kind not in ("all", "hem"):
            ignored += 1
            continue
        name = CNMC_NAME.fullmatch(Path(path).stem)
        if name is None or name["kind"].lower() != kind:
            bad.append(path)
        else:
            rows.append((path, name["patient"].upper(), int(kind == "all")))
    if bad:
        raise UserError(
            f"{len(bad)} image names do not read UID_<patient>_<image>_<cell>_all.bmp in a folder all/, or …_hem.bmp in hem/, so "
            f"their patient is unknown: {', '.join(bad[:10])}{' …' if len(bad) > 10 else ''}; rename or remove them."
        )
    if not rows:
        raise UserError(
            "no image lies in a folder all/ or hem/: name the folder of C-NMC that holds fold_0, fold_1 and fold_2."
        )
    return pd.DataFrame(rows, columns=["path", "patient", "label"]), ignored


def without_conflicts(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part a table into the rows to keep and those whose bytes also stand under another label: one of the labels is wrong."""
    conflict = table.groupby("sha256")["label"].transform("nunique") > 1
    return table[~conflict].reset_index(drop=True), table[conflict].reset_index(drop=True)


def joined(patients: pd.Series, contents: pd.Series) -> NDArray[np.int64]:
    """Number the groups that must stay together, (N,): images of one patient, and patients who share a byte-identical image.

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
    """Split each class near ``shares`` (train, valid, test) so that neither a patient nor a content is in two lists.

    Of many random divisions of the groups the one nearest to the shares, summed over classes, is taken: first for the test
    list, then for the valid list out of what remains. Raises UserError where there are fewer than three groups.
    """
    groups = joined(table["patient"], table["sha256"]) if len(table) else np.zeros(0, np.int64)
    counts = pd.crosstab(groups, table["label"]).to_numpy()  # (groups, classes)
    if len(counts) < len(LISTS):
        raise UserError(
            f"a split by patient needs at least 3 patients (or groups of patients) that share no image, and here are "
            f"{len(counts)}: add the images of more patients, or split by image with `prepare.py folders`."
        )
    wanted = np.asarray(shares, float) / np.sum(shares)
    place = np.zeros(len(counts), int)  # index into LISTS of each group
    for target in (2, 1):
        rest = np.flatnonzero(place == 0)
        share = wanted[target] * counts.sum(axis=0)
        number = round(float(wanted[target] / wanted[: target + 1].sum()) * len(rest))
        number = min(max(number, 1), len(rest) - target)  # at least one group is left for each list that follows
        best: tuple[float, NDArray[np.int64]] = (np.inf, rest)
        for _, taken in ShuffleSplit(DRAWS, test_size=number, train_size=len(rest) - number, random_state=seed).split(
            rest
        ):
            missed = float((np.abs(counts[rest[taken]].sum(axis=0) - share) / counts.sum(axis=0)).sum())
            best = min(best, (missed, rest[taken]), key=lambda draw: draw[0])
        place[best[1]] = target
    return table.assign(list=np.array(LISTS, object)[place[groups]])


def split_by_image(table: pd.DataFrame, shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Split each class by ``shares`` (train, valid, test); images with byte-identical copies all go into train.

    Raises UserError where a class has too few images for each list to get one.
    """
    wanted = np.asarray(shares, float) / np.sum(shares)
    copied = table["sha256"].duplicated(keep=False).to_numpy()
    place = np.zeros(len(table), int)
    rng = np.random.default_rng(seed)
    for label, rows in table.groupby("label").indices.items():
        free = rng.permutation(rows[~copied[rows]])
        valid, test = (max(1, round(float(part) * len(rows))) for part in wanted[1:])
        if valid + test > len(free) or valid + test >= len(rows):
            raise UserError(
                f"class {label} has {len(rows)} images ({len(free)} without a byte-identical copy), too few to fill train, "
                "valid and test: add images, leave the class out, or give other --shares."
            )
        place[free[:valid]] = 1
        place[free[valid : valid + test]] = 2
    return table.assign(list=np.array(LISTS, object)[place])


def summary(table: pd.DataFrame, names: Sequence[str]) -> str:
    """What a split came to, as text: per list the images, the patients where known, and the images and share of each class."""
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
    """Write the lab's lists of a split table into ``folder``: train, valid, a test list per depth, the test's truth, the classes.

    The three test lists hold the same images in three orders, as in the lab. ``train.csv`` comes last: where it is, all are.
    """
    (folder / "train.csv").unlink(missing_ok=True)
    rows = table.rename(columns={"path": "Path"})
    part = {name: rows.loc[rows["list"] == name, ["Path", "label"]] for name in LISTS}
    for place, name in enumerate(TEST_LISTS):
        order = np.random.default_rng((seed, place)).permutation(len(part["test"]))
        _write_csv(folder / name, part["test"][["Path"]].iloc[order])
    _write_csv(folder / "test_labels.csv", part["test"])
    _write_csv(folder / "classes.csv", pd.DataFrame({"label": range(len(names)), "name": names}))
    _write_csv(folder / "valid.csv", part["valid"])
    _write_csv(folder / "train.csv", part["train"])


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_whole(path, table.to_csv(index=False, lineterminator="\n"))
