"""Reads a tree of images with a folder per class, and the split into train, valid and test if the tree has one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from lab.errors import UserError
from lab.sources.splits import LISTS, natural_key
from lab.text import counted

LIST_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
LIST_NAMES |= dict.fromkeys(("val", "valid", "validation"), "valid")
VERSIONS = re.compile(r"original|segment|mask|augment|raw|crop|process", re.IGNORECASE)  # of the same images

Row = tuple[str, list[str]]  # the path of an image, and the folders that it is in


def read_tree(paths: Sequence[str]) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The table of a tree's images (path, label and, if it is split, list), the class names in natural order, and notes to print.

    ``paths`` are relative to the tree, with forward slashes. Folders that contain all images are skipped. The tree is split if
    the name of every folder at the top begins with that of a list (TRAIN, val, test_set), and class folders are below them.
    Raises ``UserError`` if there are fewer than two classes, if the folders at the top are versions of the same images (Original,
    Segmented), or if a class has no training images.
    """
    rows = [(path, path.split("/")[:-1]) for path in paths]
    while all(len(folders) > 1 for _, folders in rows) and len({folders[0] for _, folders in rows}) == 1:
        rows = [(path, folders[1:]) for path, folders in rows]
    inside = [(path, folders) for path, folders in rows if folders]
    notes = []
    if len(inside) < len(rows):
        notes.append(f"{counted(len(rows) - len(inside), 'image')} outside any class folder left out.")
    below: dict[str, set[str]] = {}
    for _, folders in inside:
        below.setdefault(folders[0], set()).update(folders[1:2])
    lists = {top: LIST_NAMES.get(re.split(r"[^a-z]", top.lower())[0]) for top in below}
    trained = [below[top] for top, name in lists.items() if name == "train"]
    if trained and all(lists.values()) and len(below) > 1 and all(trained):
        return split_tree(inside, lists, notes)
    kinds = next(iter(below.values()), set())
    if len(below) > 1 and len(kinds) > 1 and all(names == kinds for names in below.values()):
        tops, classes = (", ".join(sorted(names, key=natural_key)) for names in (below, kinds))
        if any(map(VERSIONS.search, below)):
            raise UserError(
                f"{tops} contain the same class folders ({classes}), so they seem to be versions of the same images; name one of "
                f"them instead of the folder around them."
            )
        notes.append(
            f"the classes are {tops}, and each contains {classes}. If those are the classes, name one of {tops}."
        )
    return make_table([(path, folders[0]) for path, folders in inside], notes)


def split_tree(
    rows: list[Row], lists: dict[str, str | None], notes: list[str]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The table, class names and notes of a tree whose folders at the top are the ``lists``."""
    chosen = dict(lists)
    for name in set(lists.values()):
        exact = [top for top in lists if lists[top] == name and top.lower() in LIST_NAMES]
        if exact:  # TEST, and beside it TEST_SIMPLE
            chosen = {top: part for top, part in chosen.items() if part != name or top in exact}
    parts = ", ".join(f"{top} → {name}" for name in LISTS for top, part in chosen.items() if part == name)
    notes.append(f"the tree is split already, and its split is kept: {parts}.")
    for top in lists.keys() - chosen.keys():
        notes.append(f"{counted(sum(folders[0] == top for _, folders in rows), 'image')} in {top} left out.")
    used = [(path, folders) for path, folders in rows if folders[0] in chosen and len(folders) > 1]
    unlabelled = sum(folders[0] in chosen and len(folders) == 1 for _, folders in rows)
    if unlabelled:
        notes.append(f"{counted(unlabelled, 'image')} without a class folder left out.")
    table, names, notes = make_table([(path, folders[1]) for path, folders in used], notes)
    table["list"] = [chosen[folders[0]] for _, folders in used]
    untrained = set(range(len(names))) - set(table.loc[table["list"] == "train", "label"])
    if untrained:
        missing = ", ".join(names[label] for label in sorted(untrained))
        raise UserError(
            f"the training part of the tree has no images of {missing}; add some, or remove these class folders."
        )
    return table, names, notes


def make_table(rows: list[tuple[str, str]], notes: list[str]) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The table (path, label), class names and notes of images, each with its class."""
    names = sorted({name for _, name in rows}, key=natural_key)
    if len(names) < 2:
        raise UserError(
            f"{counted(len(names), 'class folder')} with images found; at least 2 are needed, one per class."
        )
    if len({name.strip() for name in names} - {""}) < len(names):
        raise UserError("every class folder needs a different name, not only spaces; rename them.")
    label = {name: index for index, name in enumerate(names)}
    return pd.DataFrame({"path": [path for path, _ in rows], "label": [label[name] for _, name in rows]}), names, notes
