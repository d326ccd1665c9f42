"""lab.sources.trees: the class folders of a tree, its split if it has one, and trees whose folders are no classes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.errors import UserError
from lab.sources.trees import read_tree


def tree(*folders: str, images: int = 2) -> list[str]:
    """Paths of a tree with images in these folders."""
    return [f"{folder}/{index}.png" for folder in folders for index in range(images)]


def counts(paths: list[str]) -> dict[Any, int]:
    """Images by list and class."""
    table, names, _ = read_tree(paths)
    assert set(table["path"]) <= set(paths)
    return table.groupby(["list", table["label"].map(dict(enumerate(names)))]).size().to_dict()


@pytest.mark.parametrize("around", ["", "images/", "data/images/"])
def test_class_folders_wherever_they_begin(around: str) -> None:
    table, names, notes = read_tree(tree(f"{around}class 10", f"{around}class 9", f"{around}class 9/deeper"))
    assert names == ["class 9", "class 10"] and notes == [] and "list" not in table
    assert table["label"].tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "names", [("TRAIN", "VAL", "TEST"), ("training", "validation", "testing"), ("train_set", "valid-set", "test")]
)
@pytest.mark.parametrize("around", ["", "images/"])
def test_a_split_tree_keeps_its_split(names: tuple[str, str, str], around: str) -> None:
    paths = tree(*(f"{around}{name}/{kind}" for name in names for kind in ("a", "b")))
    assert counts(paths) == {(part, kind): 2 for part in ("train", "valid", "test") for kind in ("a", "b")}
    assert f"{names[0]} → train, {names[1]} → valid, {names[2]} → test" in read_tree(paths)[2][-1]


def test_a_second_test_folder_is_left_out_and_named() -> None:
    paths = tree("TRAIN/a", "TRAIN/b", "TEST/a", "TEST/b", "TEST_SIMPLE/a")
    assert set(counts(paths)) == {("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")}
    assert "2 images in TEST_SIMPLE left out." in read_tree(paths)[2]


def test_test_images_without_class_folders_are_left_out() -> None:
    table, names, notes = read_tree(tree("train/a", "train/b", "test"))
    assert (
        names == ["a", "b"] and set(table["list"]) == {"train"} and "2 images without a class folder left out." in notes
    )


def test_classes_that_are_called_like_lists_are_classes() -> None:
    table, names, _ = read_tree(tree("train", "valid"))
    assert names == ["train", "valid"] and "list" not in table
    assert read_tree(tree("trained/x", "untrained/x"))[1] == ["trained", "untrained"]


def test_versions_of_the_same_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"Original, Segmented contain the same class folders \(Benign, Pro\)"):
        read_tree(tree("all/Original/Benign", "all/Original/Pro", "all/Segmented/Benign", "all/Segmented/Pro"))
    _, names, notes = read_tree(tree("site 1/normal", "site 1/blast", "site 2/normal", "site 2/blast"))
    assert names == ["site 1", "site 2"]
    assert "each contains blast, normal" in notes[0]


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (tree("only"), "1 class folder with images found"),
        (["0.png"], "0 class folders"),
        (tree("train/a", "test/a"), "1 class folder"),
        (tree("train/a", "train/b", "test/a", "test/c"), "no images of c"),
        (tree("a", "a "), "every class folder needs a different name"),
    ],
)
def test_trees_without_classes_are_refused(paths: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_tree(paths)


def test_trees_that_were_read_wrongly(shared_data: Callable[[str], Path]) -> None:
    paths = {}
    for name in ("presplit_tree", "original_segmented_tree"):
        with zipfile.ZipFile(shared_data("cases") / f"{name}.zip") as archive:
            paths[name] = [path for path in archive.namelist() if not path.endswith("/")]
    assert set(counts(paths["presplit_tree"]).values()) == {8, 5}
    with pytest.raises(UserError, match="Original, Segmented"):
        read_tree(paths["original_segmented_tree"])
