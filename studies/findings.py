"""What the measurements of a data set say, in words: each finding is a sentence, with what to do about it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from lab.sources.splits import CNMC_NAME
from lab.text import counted, percent
from studies.measurements import MEASURES

UNEVEN = 3.0  # largest class over smallest
ABOVE = 0.1  # accuracy of one measure above the largest class's share
ALONE = 0.9  # balanced accuracy for a class against the rest
RARE = 0.03  # share of the images that have a size
EMPTY = 1.0  # share of stained pixels, %
FAR = 3.0  # interquartile ranges beyond the quartiles (Tukey 1977, Exploratory Data Analysis: "far out")
FOLDS, SEED = 5, 0
NAMED = 4  # of a finding's examples


class Finding(NamedTuple):
    """A sentence, and what to do."""

    text: str
    advice: str


def named(names: list[str]) -> str:
    """A few examples of a longer list."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def balance(images: pd.DataFrame, classes: list[str]) -> list[Finding]:
    """Uneven classes, and shares that differ between the lists."""
    found = []
    labelled = images[images["label"] >= 0]
    table = pd.crosstab(labelled["list"], labelled["label"]).reindex(columns=range(len(classes)), fill_value=0)
    train = table.loc["train"].to_numpy()
    most, least = int(train.argmax()), int(train.argmin())
    if train[most] >= UNEVEN * max(1, train[least]):
        found.append(
            Finding(
                f"The classes are uneven: train.csv has {train[most]:,} images of {classes[most]} and {train[least]:,} of "
                f"{classes[least]}.",
                "Read macro F1 beside accuracy; --class-weights balanced weights the classes equally.",
            )
        )
    used = table.loc[:, table.sum() > 0]
    if len(used) > 1 and used.shape[1] > 1 and chi2_contingency(used)[1] < 0.001:
        gaps = used.div(used.sum(axis=1), axis=0)
        wide = int(np.asarray(used.columns)[(gaps.max() - gaps.min()).to_numpy().argmax()])
        shares = " and ".join(f"{percent(share, 1)} of {name}.csv" for name, share in gaps[wide].items())
        found.append(
            Finding(
                f"The lists differ in the shares of the classes: {classes[wide]} is {shares}.",
                "Split again (prepare.py), or expect another accuracy on the other list.",
            )
        )
    return found


def sizes_of(images: pd.DataFrame) -> list[tuple[str, int]]:
    """The sizes of the images and how many have them, the most frequent first."""
    found, counts = np.unique(images[["width", "height"]].to_numpy(int), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(f"{found[row, 0]} × {found[row, 1]} px", int(counts[row])) for row in order]


def sizes(images: pd.DataFrame) -> list[Finding]:
    """Images of a rare size."""
    (most, common), *others = sizes_of(images)
    if common < len(images) / 2:
        low, high = (
            images[["width", "height"]].to_numpy(int).min(axis=0),
            images[["width", "height"]].to_numpy(int).max(axis=0),
        )
        return [
            Finding(
                f"The sizes vary: {len(others) + 1:,} different ones, from {low[0]} to {high[0]} px wide and {low[1]} to "
                f"{high[1]} px high.",
                "Look whether all images have the same scale: the window is cut in px of the raw image.",
            )
        ]
    rare = [(size, count) for size, count in others if count < RARE * len(images)]
    if not rare:
        return []
    texts = [f"{size} ({count:,})" for size, count in rare]
    return [
        Finding(
            f"Rare sizes: {counted(sum(count for _, count in rare), 'image')}, {named(texts)}; most are {most}.",
            "Look whether they show the same scale: the window is cut in px of the raw image.",
        )
    ]


def background(images: pd.DataFrame) -> list[Finding]:
    """Images that are nearly all background."""
    empty = images[images["share"] < EMPTY]
    if empty.empty:
        return []
    return [
        Finding(
            f"Nearly all background, below {EMPTY:g} % stained: {counted(len(empty), 'image')}, {named(places(empty))}.",
            "Look at them; remove from the lists what shows no cell.",
        )
    ]


def places(images: pd.DataFrame) -> list[str]:
    """The images by list and line."""
    return [f"{name}.csv line {row}" for name, row in zip(images["list"], images["row"], strict=True)]


def one_measure(values: np.ndarray, labels: np.ndarray, weights: str | None = None) -> np.ndarray:
    """Cross-validated predictions [N] of a small decision tree from one measure [N]; with ``weights`` "balanced" all classes
    count the same."""
    count = len(np.unique(labels))
    tree = DecisionTreeClassifier(max_leaf_nodes=4 * count, min_samples_leaf=max(3, len(labels) // 500))
    tree.set_params(random_state=SEED, class_weight=weights)
    folds = StratifiedKFold(
        min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min())), shuffle=True, random_state=SEED
    )
    return np.asarray(cross_val_predict(tree, values[:, None], labels, cv=folds))


def shortcuts(images: pd.DataFrame, classes: list[str]) -> tuple[list[Finding], pd.DataFrame]:
    """Classes that one number tells apart: a network may learn it instead of the cell.

    Also returns the table behind it: for each measure the accuracy over all classes and, for each class against the rest, the
    mean of the accuracies on either side (balanced), all cross-validated. Classes of one image are left out.
    """
    labelled = images[images["label"] >= 0]
    counts = labelled["label"].value_counts()
    labelled = labelled[labelled["label"].isin(counts[counts >= 2].index)]
    labels = labelled["label"].to_numpy()
    if len(np.unique(labels)) < 2:
        return [], pd.DataFrame()
    share = float(np.bincount(labels).max() / len(labels))
    rows, found = [], []
    for measure in MEASURES:
        values = labelled[measure].to_numpy()
        if np.ptp(values) == 0:
            continue
        row = {"measure": measure, "accuracy": float((one_measure(values, labels) == labels).mean()), "majority": share}
        for label in np.unique(labels):
            own = labels == label
            predicted = one_measure(values, own.astype(int), "balanced").astype(bool)
            row[classes[label]] = float((predicted[own].mean() + (~predicted[~own]).mean()) / 2)
        rows.append(row)
    if not rows:  # all images measure the same
        return [], pd.DataFrame()
    table = pd.DataFrame(rows)
    strong = table[table["accuracy"] > share + ABOVE].sort_values("accuracy", ascending=False)
    if len(strong):
        pairs = zip(strong["measure"], strong["accuracy"], strict=True)
        texts = [f"{measure} {percent(accuracy, 1)}" for measure, accuracy in pairs]
        found.append(
            Finding(
                f"One measure says much about the class. A decision tree on it alone reaches (cross-validated): {named(texts)}; "
                f"the largest class has {percent(share, 1)}.",
                "A network may take this shortcut. Where it comes from the camera or the stain and not from the cell, use "
                "--augmentation geometry,colour, and evaluate on images from elsewhere.",
            )
        )
    for name in classes:
        if name not in table or table[name].max() < ALONE:
            continue
        best = table.iloc[int(table[name].to_numpy().argmax())]
        own = labelled["label"] == classes.index(name)
        typical, others = (labelled[chosen][best["measure"]].median() for chosen in (own, ~own))
        found.append(
            Finding(
                f"{name} is told from the other classes by {best['measure']} alone: balanced accuracy {percent(best[name], 1)}; "
                f"its median is {typical:.3g}, that of the others {others:.3g}.",
                "Look at the samples: if the cells themselves differ that way, all is well.",
            )
        )
    return found, table


def outliers(images: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """The images far out of their class's range: index, measure, value, low, high."""
    found = []
    for label, name in enumerate(classes):
        group = images[images["label"] == label]
        for measure in MEASURES:
            values = group[measure]
            first, third = values.quantile([0.25, 0.75])
            low, high = first - FAR * (third - first), third + FAR * (third - first)
            far = group[(values < low) | (values > high)]
            part = far[["list", "row", "image"]].assign(measure=measure, value=far[measure], low=low, high=high)
            part.insert(3, "class", name)
            found.append(part)
    return pd.concat(found)


def duplicates(images: pd.DataFrame, pairs: pd.DataFrame) -> list[Finding]:
    """Duplicates within and across the lists, and labels that contradict each other."""
    found = []
    first, second = images.iloc[pairs["first"]].reset_index(), images.iloc[pairs["second"]].reset_index()
    across = first["list"] != second["list"]
    for kind, what in (("identical", "byte-identical files"), ("near", "near duplicates")):
        chosen = pairs["kind"] == kind
        if not chosen.any():
            continue
        lists = first[across & chosen]["list"] + " and " + second[across & chosen]["list"]
        where = ", ".join(f"{count:,} between {name}" for name, count in lists.value_counts().items())
        found.append(
            Finding(
                f"{counted(int(chosen.sum()), 'pair')} of {what}"
                + (f", of them {where}." if where else ", each within one list."),
                "Images on both sides make the accuracy too high; keep one of each pair (explore_duplicates.csv)."
                if where
                else "Remove one of each pair, or know that they count twice (explore_duplicates.csv).",
            )
        )
    contradictory = (first["label"] != second["label"]) & (first["label"] >= 0) & (second["label"] >= 0)
    if contradictory.any():
        found.append(
            Finding(
                f"{counted(int(contradictory.sum()), 'pair')} of duplicates have different labels: "
                f"{named(places(images.iloc[pairs[contradictory]['first']]))}.",
                "One of each is wrong; look at them, and correct or remove it.",
            )
        )
    return found


def patients(images: pd.DataFrame) -> list[Finding]:
    """Patients whose cells are in several lists, where C-NMC's file names tell."""
    names = images["image"].str.extract(r"([^/]*)\.\w+$")[0].fillna("")
    who = names.map(lambda name: match["patient"] if (match := CNMC_NAME.fullmatch(name)) else None)
    shared = images.groupby(who)["list"].nunique()
    shared = shared[shared > 1]
    if shared.empty:
        return []
    return [
        Finding(
            f"Patients in several lists: {len(shared):,}, {named([str(name) for name in shared.index])}.",
            "Split by patient (prepare.py cnmc): cells of one patient resemble each other.",
        )
    ]


def suspects(images: pd.DataFrame, order: np.ndarray, wrong: int, features: str) -> list[Finding]:
    """Labels that are probably wrong; ``order`` are positions of ``images``, the most suspicious first."""
    if not wrong:
        return [Finding(f"No label is suspicious to logistic regression on {features}.", "Nothing.")]
    return [
        Finding(
            f"Confident learning with logistic regression on {features} suspects {wrong:,} of {len(images):,} labels "
            f"({percent(wrong / len(images), 1)}): {named(places(images.iloc[order[:wrong]]))}.",
            "Show them to a haematologist (explore_suspects.csv); without one, remove none.",
        )
    ]
