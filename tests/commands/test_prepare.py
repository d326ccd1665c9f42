"""prepare.py: its subcommands on small data sets and on the lab's 52 originals, and its errors; kaggle is in test_kaggle.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import prepare
from lab.errors import UserError
from lab.sources import splits
from tests.made import command, contents, outputs

SAMPLE = ["--train", "5", "--valid", "3", "--test", "3"]


def picture(path: Path, seed: int) -> None:
    """Write a small image of noise; the same seed gives byte-identical files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)).save(path)


def everything(folder: Path) -> pd.DataFrame:
    """Path, label and list of all images in the lists, after checking that the test lists agree."""
    names = {"train": "train.csv", "valid": "valid.csv", "test": "test_labels.csv"}
    parts = [pd.read_csv(folder / file).assign(list=name) for name, file in names.items()]
    for name in splits.TEST_LISTS:
        test = pd.read_csv(folder / name)
        assert test.columns.tolist() == ["Path"]
        assert sorted(test["Path"]) == sorted(parts[2]["Path"])
    table = pd.concat(parts, ignore_index=True)
    assert table["Path"].is_unique
    return table


def classes(folder: Path) -> list[list[object]]:
    rows: list[list[object]] = pd.read_csv(folder / "classes.csv").to_numpy().tolist()
    return rows


def refused(message: str, *options: str | Path) -> None:
    with pytest.raises(UserError, match=message):
        command(prepare, *options)


# ---- sample ----------------------------------------------------------------------------------------------------------


def test_sample_is_drawn_once_and_replaced_only_with_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sample"
    options = ["sample", "--out", str(out), *SAMPLE]
    command(prepare, *options)
    assert f"python train.py --model resnet18 --data {out}" in capsys.readouterr().out
    table = everything(out)
    assert table["list"].value_counts().to_dict() == {"train": 5, "valid": 3, "test": 3}
    assert all((out / path).is_file() for path in table["Path"])
    assert classes(out) == [[0, "normal"], [1, "leukemia blast"]]

    before = outputs(out)
    command(prepare, *options)
    assert "already there" in capsys.readouterr().out
    refused("--fresh", *options, "--seed", "1")
    assert outputs(out) == before
    image = (out / "train" / "0.bmp").read_bytes()
    command(prepare, *options, "--seed", "1", "--fresh")
    assert (out / "train" / "0.bmp").read_bytes() != image


def test_an_interrupted_sample_is_completed(tmp_path: Path) -> None:
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    command(prepare, "sample", "--out", whole, *SAMPLE)
    (interrupted / "train").mkdir(parents=True)
    (interrupted / "train" / "0.bmp").write_bytes(b"BM half an image")  # the lists are written later
    command(prepare, "sample", "--out", interrupted, *SAMPLE)
    assert len(contents(whole)) == 11 + len(splits.FILES) + 1 and contents(whole) == contents(interrupted)


# ---- cnmc ------------------------------------------------------------------------------------------------------------


def tiny_cnmc(root: Path) -> None:
    """12 patients with two images each, half blast half normal; patients 0 and 2 share an image."""
    for patient in range(12):
        kind, prefix = ("all", "") if patient % 2 else ("hem", "h" if patient == 4 else "H")
        for cell in (1, 2):
            seed = 0 if patient in (0, 2) and cell == 1 else 10 * patient + cell
            picture(root / f"training_data/fold_{patient % 3}/{kind}/UID_{prefix}{patient}_1_{cell}_{kind}.bmp", seed)
    picture(root / "testing_data/1.bmp", 999)
    (root / "training_data/fold_0/all/._UID_1_1_1_all.bmp").write_bytes(b"a file that macOS adds")


def check_split_by_patient(lists: Path, images: Path, count: int) -> tuple[pd.DataFrame, pd.Series]:
    """Check the paths, and that each patient is in one list; returns the table and its patients."""
    table = everything(lists)
    assert len(table) == count and all((images / path).is_file() for path in table["Path"])
    patient = table["Path"].str.extract(r"(?i)UID_(H?\d+)_")[0].str.upper()
    assert (table.groupby(patient)["list"].nunique() == 1).all()
    return table, patient


def test_cnmc_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_cnmc(tmp_path / "src")
    out = tmp_path / "lists"
    command(prepare, "cnmc", tmp_path / "src", "--out", out)
    output = capsys.readouterr().out
    assert "1 image outside" in output
    assert "12 patients; 1 byte-identical copies join them into 11 groups" in output
    assert f"--data {out} --root {tmp_path / 'src'}" in output
    table, patient = check_split_by_patient(out, tmp_path / "src", 24)
    assert (table["label"] == table["Path"].str.contains("/all/")).all()
    assert table[patient.isin(["H0", "H2"])]["list"].nunique() == 1

    refused("already has", "cnmc", tmp_path / "src", "--out", out)
    before = contents(out)
    # A typing error in the path loses nothing, even with --fresh.
    refused("is not a folder", "cnmc", tmp_path / "scr", "--out", out, "--fresh")
    assert contents(out) == before
    command(prepare, "cnmc", tmp_path / "src", "--out", out, "--fresh")
    assert contents(out) == before  # the same seed gives the same lists


def test_the_52_originals(
    working_folder: Path, shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    originals = shared_data("cnmc52")
    command(prepare, "cnmc", originals, "--name", "cnmc52")
    assert f"--data csv/cnmc52 --root {originals}" in capsys.readouterr().out
    table, _ = check_split_by_patient(working_folder / "csv" / "cnmc52", originals, 52)
    assert (table.groupby("list")["label"].nunique() == 2).all()


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_folders_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "my cells"
    for label, name in enumerate(("grade 2", "grade 10")):
        for n in range(20):
            picture(source / name / "part" / f"{n}.png", 100 * label + n)
    picture(source / "grade 2" / "copy.png", 3)  # the bytes of grade 2/part/3.png
    picture(source / "grade 2" / "doubt.png", 777)
    picture(source / "grade 10" / "doubt.png", 777)  # one image with two labels
    picture(source / "stray.png", 888)
    out = tmp_path / "lists"
    command(prepare, "folders", source, "--out", out)
    output = capsys.readouterr().out
    assert "1 image outside any class folder" in output and "2 images left out" in output
    assert f"--root '{source}'" in output
    assert (out / "source.txt").read_text() == "The folder my cells, with a folder per class (prepare.py folders).\n"
    table = everything(out)
    assert len(table) == 41 and not table["Path"].str.contains("doubt").any()
    assert classes(out) == [[0, "grade 2"], [1, "grade 10"]]  # natural order
    assert (table["label"] == table["Path"].str.contains("grade 10")).all()
    copies = table["Path"].isin(["./grade 2/copy.png", "./grade 2/part/3.png"])
    assert copies.sum() == 2 and (table[copies]["list"] == "train").all()
    assert pd.crosstab(table["label"], table["list"])[["valid", "test"]].to_numpy().tolist() == [[3, 3], [3, 3]]


def test_a_tree_that_is_split_keeps_its_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (part, count) in enumerate({"TRAIN": 20, "TEST": 4, "TEST_SIMPLE": 2}.items()):
        for label, name in enumerate(("EOSINOPHIL", "LYMPHOCYTE")):
            for n in range(count):
                picture(tmp_path / "images" / part / name / f"{n}.png", 1000 * number + 100 * label + n)
    (tmp_path / "images" / "TRAIN" / "labels.xml").touch()
    (tmp_path / "images" / "TRAIN" / "a.webp").touch()
    command(prepare, "folders", tmp_path, "--out", tmp_path / "lists")
    output = capsys.readouterr().out
    assert "2 other files left out (1 .xml, 1 .webp)" in output or "2 other files left out (1 .webp, 1 .xml)" in output
    assert "TRAIN → train, TEST → test" in output and "4 images in TEST_SIMPLE left out" in output
    assert "the tree has no valid part: taken out of its training images" in output
    table = everything(tmp_path / "lists")
    assert table.groupby("list").size().to_dict() == {"train": 34, "valid": 6, "test": 8}
    assert table["Path"].str.contains("/TEST/").equals(table["list"] == "test")
    assert classes(tmp_path / "lists") == [[0, "EOSINOPHIL"], [1, "LYMPHOCYTE"]]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ({}, "no image"),
        ({"a": [1]}, "1 class folder "),
        ({"a": [1], "b": [2]}, "too few"),
        ({"a": range(9), "b": range(9), "c": range(100, 109)}, "no image of class a is left"),
        ({"a": range(9), "a ": range(9, 18)}, "every class folder needs a different name"),
    ],
)
def test_unusable_folders_are_refused(tmp_path: Path, seeds: dict[str, Iterable[int]], message: str) -> None:
    (tmp_path / "tree").mkdir()
    for folder in seeds:
        for index, seed in enumerate(seeds[folder]):
            picture(tmp_path / "tree" / folder / f"{index}.png", seed)
    refused(message, "folders", tmp_path / "tree", "--out", tmp_path / "lists")
    refused("not a plain name", "folders", tmp_path / "tree", "--name", "a/b")
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"a\nb.png", b"a\\b.png", b"\x1b[2J.png"])
def test_names_that_a_list_cannot_contain_are_refused(tmp_path: Path, name: bytes) -> None:
    for folder in "ab":
        picture(tmp_path / "tree" / folder / "0.png", ord(folder))
    (tmp_path / "tree" / "a" / "0.png").rename(tmp_path / "tree" / "a" / os.fsdecode(name))
    with pytest.raises(UserError, match=r"1 image name below .* cannot be in a list.*rename them") as caught:
        command(prepare, "folders", tmp_path / "tree", "--out", tmp_path / "lists")
    assert str(caught.value).isprintable() and not (tmp_path / "lists").exists()


# ---- medmnist --------------------------------------------------------------------------------------------------------


def arrays(grey: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for part, number in (("train", 7), ("val", 4), ("test", 5)):
        shape = (number, 8, 8) if grey else (number, 8, 8, 3)
        made[f"{part}_images"] = rng.integers(0, 256, shape, np.uint8)
        made[f"{part}_labels"] = (np.arange(number) % 3).astype(np.uint8)[:, None]
    return made


@pytest.mark.parametrize("grey", [False, True])
def test_medmnist_images_are_written_without_loss(tmp_path: Path, grey: bool) -> None:
    original, out = arrays(grey), tmp_path / "lists"
    np.savez(tmp_path / "tiny.npz", **original)
    command(prepare, "medmnist", tmp_path / "tiny.npz", "--out", out)
    everything(out)
    for part, name in (("train", "train.csv"), ("val", "valid.csv"), ("test", "test_labels.csv")):
        table = pd.read_csv(out / name)
        assert table["label"].tolist() == original[f"{part}_labels"][:, 0].tolist()
        for path, pixels in zip(table["Path"], original[f"{part}_images"], strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(out / path)), pixels)
    assert [label for label, _ in classes(out)] == [0, 1, 2]


NO_IMAGE = {"val_images": np.zeros((0, 8, 8, 3), np.uint8), "val_labels": np.zeros((0, 1), np.uint8)}
UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"train_images": np.zeros((7, 8, 8, 8), np.uint8)}, "only uint8 images"),  # a 3D data set
    ({"train_labels": np.zeros((7, 14), np.uint8)}, "one class number"),  # several labels per image
    ({"val_labels": np.full((4, 1), 2**60)}, "one class number"),  # would need as many class names
    ({"test_images": np.zeros((5, 0, 8), np.uint8)}, "test_images contains no image"),
    (NO_IMAGE, "val_images contains no image"),
    ({"train_images": np.array([{}] * 7, object)}, "not a MedMNIST"),  # pickles are not loaded
]


@pytest.mark.parametrize(("changes", "message"), UNUSABLE)
def test_unusable_medmnist_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "tiny.npz", **(arrays(grey=False) | changes))
    refused(message, "medmnist", tmp_path / "tiny.npz", "--out", tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_files_that_are_not_of_medmnist_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny.npz"
    refused("not a MedMNIST", "medmnist", file, "--out", tmp_path / "lists")  # no such file
    file.write_bytes(b"PK\x03\x04 cut off")
    refused("not a MedMNIST", "medmnist", file, "--out", tmp_path / "lists")
    np.savez(file, **{name: values for name, values in arrays(grey=False).items() if name != "train_labels"})
    refused("train_labels", "medmnist", file, "--out", tmp_path / "lists")
    assert not (tmp_path / "lists").exists()
