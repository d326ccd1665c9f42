"""prepare.py: each of its four verbs on small trees, what it refuses, and the 52 originals of the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import prepare
from lab.errors import UserError
from lab.sources import splits
from tests.made import command

ROOT = Path(__file__).resolve().parents[2]
ORIGINALS = ROOT.parent / "shared" / "data" / "cnmc52"
SAMPLE = ["--train", "5", "--valid", "3", "--test", "3"]


def picture(path: Path, seed: int) -> None:
    """A small picture of noise, another for each seed; the same seed gives byte-identical files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)).save(path)


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name)


def everything(folder: Path) -> pd.DataFrame:
    """Path, label and list of all images of a folder of lists, after checking that the test lists agree."""
    names = {"train": "train.csv", "valid": "valid.csv", "test": "test_labels.csv"}
    parts = [read(folder, file).assign(list=name) for name, file in names.items()]
    for name in splits.TEST_LISTS:
        test = read(folder, name)
        assert test.columns.tolist() == ["Path"]
        assert sorted(test["Path"]) == sorted(parts[2]["Path"])
    table = pd.concat(parts, ignore_index=True)
    assert table["Path"].is_unique
    return table


# ---- sample ----------------------------------------------------------------------------------------------------------


def test_sample_is_made_once_and_replaced_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sample"
    options = ["sample", "--out", str(out), *SAMPLE]
    assert command(prepare, *options) == 0
    assert f"python train.py --model resnet18 --data {out}" in capsys.readouterr().out
    table = everything(out)
    assert table["list"].value_counts().to_dict() == {"train": 5, "valid": 3, "test": 3}
    assert all((out / path).is_file() for path in table["Path"])
    assert read(out, "classes.csv").to_numpy().tolist() == [[0, "normal"], [1, "leukemia blast"]]

    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert command(prepare, *options) == 0
    assert "already there" in capsys.readouterr().out
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}

    other = [*options, "--seed", "1"]
    with pytest.raises(UserError, match="--fresh"):
        command(prepare, *other)
    assert (out / "train.csv").read_bytes() == before[out / "train.csv"][0]
    assert command(prepare, *other, "--fresh") == 0
    assert (out / "train" / "0.bmp").read_bytes() != before[out / "train" / "0.bmp"][0]


def test_sample_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command(prepare, "sample", "--out", whole, *SAMPLE)
    (broken / "train").mkdir(parents=True)
    (broken / "train" / "0.bmp").write_bytes(b"BM half an image")  # no list yet: they are written last
    command(prepare, "sample", "--out", broken, *SAMPLE)
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert len(files) == 11 + len(splits.FILES) + 1
    assert all((whole / file).read_bytes() == (broken / file).read_bytes() for file in files)


# ---- cnmc ------------------------------------------------------------------------------------------------------------


def tiny_cnmc(root: Path) -> None:
    """12 patients of two images, half blast half normal; patients 0 and 1 share an image."""
    for patient in range(12):
        kind, prefix = ("all", "") if patient % 2 else ("hem", "h" if patient == 4 else "H")
        for cell in (1, 2):
            seed = 0 if patient in (0, 2) and cell == 1 else 10 * patient + cell
            picture(root / f"training_data/fold_{patient % 3}/{kind}/UID_{prefix}{patient}_1_{cell}_{kind}.bmp", seed)
    picture(root / "testing_data/1.bmp", 999)
    (root / "training_data/fold_0/all/._UID_1_1_1_all.bmp").write_bytes(b"what macOS leaves behind")


def test_cnmc_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_cnmc(tmp_path / "src")
    out = tmp_path / "lists"
    assert command(prepare, "cnmc", tmp_path / "src", "--out", out) == 0
    said = capsys.readouterr().out
    assert "1 image outside" in said
    assert "12 patients; 1 byte-identical copies join them into 11 groups" in said
    assert f"--data {out} --root {tmp_path / 'src'}" in said
    table = everything(out)
    assert len(table) == 24
    assert all((tmp_path / "src" / path).is_file() for path in table["Path"])
    assert (table["label"] == table["Path"].str.contains("/all/")).all()
    patient = table["Path"].str.extract(r"UID_([hH]?\d+)_")[0]
    assert (table.groupby(patient)["list"].nunique() == 1).all()
    assert table[patient.isin(["H0", "H2"])]["list"].nunique() == 1

    with pytest.raises(UserError, match="already holds"):
        command(prepare, "cnmc", tmp_path / "src", "--out", out)
    kept = (out / "train.csv").read_bytes()
    with pytest.raises(UserError, match="is not a folder"):  # a slip in the path costs nothing, even with --fresh
        command(prepare, "cnmc", tmp_path / "scr", "--out", out, "--fresh")
    assert (out / "train.csv").read_bytes() == kept
    assert command(prepare, "cnmc", tmp_path / "src", "--out", out, "--fresh") == 0
    assert (out / "train.csv").read_bytes() == kept  # the same seed gives the same lists


@pytest.mark.skipif(not ORIGINALS.exists(), reason="the 52 originals are not beside this checkout")
def test_the_52_originals_from_the_command_line(tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "prepare.py"), "cnmc", str(ORIGINALS), "--name", "cnmc52"]
    answer = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert f"--data csv/cnmc52 --root {ORIGINALS}" in answer.stdout
    table = everything(tmp_path / "csv" / "cnmc52")
    assert len(table) == 52
    assert all((ORIGINALS / path).is_file() for path in table["Path"])
    patient = table["Path"].str.extract(r"(?i)UID_(H?\d+)_")[0].str.upper()
    assert (table.groupby(patient)["list"].nunique() == 1).all()
    assert (table.groupby("list")["label"].nunique() == 2).all()
    again = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("error: csv/cnmc52 already holds train.csv")
    assert "Traceback" not in again.stderr


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_folders_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "my cells"
    for label, name in enumerate(("grade 2", "grade 10")):
        for n in range(20):
            picture(source / name / "part" / f"{n}.png", 100 * label + n)
    picture(source / "grade 2" / "copy.png", 3)  # the bytes of grade 2/part/3.png
    picture(source / "grade 2" / "doubt.png", 777)
    picture(source / "grade 10" / "doubt.png", 777)  # one image, two labels: left out
    picture(source / "stray.png", 888)
    out = tmp_path / "lists"
    assert command(prepare, "folders", source, "--out", out) == 0
    said = capsys.readouterr().out
    assert "1 image outside any class folder" in said
    assert "2 images left out" in said
    assert f"--root '{source}'" in said
    table = everything(out)
    assert len(table) == 41
    assert not table["Path"].str.contains("doubt").any()
    assert read(out, "classes.csv").to_numpy().tolist() == [[0, "grade 2"], [1, "grade 10"]]  # natural order
    assert (table["label"] == table["Path"].str.contains("grade 10")).all()
    copies = table["Path"].isin(["./grade 2/copy.png", "./grade 2/part/3.png"])
    assert copies.sum() == 2
    assert (table[copies]["list"] == "train").all()
    assert pd.crosstab(table["label"], table["list"])[["valid", "test"]].to_numpy().tolist() == [[3, 3], [3, 3]]


def test_folders_errors_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image"):
        command(prepare, "folders", tmp_path / "empty", "--out", tmp_path / "o")
    picture(tmp_path / "one" / "a" / "1.png", 1)
    with pytest.raises(UserError, match="1 class folder"):
        command(prepare, "folders", tmp_path / "one", "--out", tmp_path / "o")
    picture(tmp_path / "one" / "b" / "1.png", 2)
    with pytest.raises(UserError, match="too few"):
        command(prepare, "folders", tmp_path / "one", "--out", tmp_path / "o")
    for index in range(9):
        for folder in "ab":
            picture(tmp_path / "copied" / folder / f"{index}.png", index)
        picture(tmp_path / "copied" / "c" / f"{index}.png", 100 + index)
    with pytest.raises(UserError, match="no image of class a is left"):  # every one of its images stands in b too
        command(prepare, "folders", tmp_path / "copied", "--out", tmp_path / "o")
    with pytest.raises(UserError, match="not a plain name"):
        command(prepare, "folders", tmp_path / "one", "--name", "a/b")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"a\nb.png", b"a\\b.png", b"\x1b[2J.png"])
def test_names_that_no_list_can_hold_are_refused(tmp_path: Path, name: bytes) -> None:
    for index in range(9):
        for folder in "ab":
            picture(tmp_path / "tree" / folder / f"{index}.png", 10 * index + ord(folder))
    (tmp_path / "tree" / "a" / "0.png").rename(tmp_path / "tree" / "a" / os.fsdecode(name))
    with pytest.raises(UserError, match=r"1 image name below .* cannot stand in a list.*rename them") as caught:
        command(prepare, "folders", tmp_path / "tree", "--out", tmp_path / "o")
    assert str(caught.value).isprintable() and not (tmp_path / "o").exists()


def test_class_folders_need_names(tmp_path: Path) -> None:
    for index in range(9):
        for folder in ("a", "a "):
            picture(tmp_path / folder / f"{index}.png", 10 * index + len(folder))
    with pytest.raises(UserError, match="every class folder needs a name of its own"):
        command(prepare, "folders", tmp_path, "--out", tmp_path / "o")


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
def test_medmnist_images_come_back_pixel_for_pixel(tmp_path: Path, grey: bool) -> None:
    made, out = arrays(grey), tmp_path / "lists"
    np.savez(tmp_path / "tiny.npz", **made)
    assert command(prepare, "medmnist", tmp_path / "tiny.npz", "--out", out) == 0
    everything(out)
    for part, name in (("train", "train.csv"), ("val", "valid.csv"), ("test", "test_labels.csv")):
        table = read(out, name)
        assert table["label"].tolist() == made[f"{part}_labels"][:, 0].tolist()
        for path, pixels in zip(table["Path"], made[f"{part}_images"], strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(out / path)), pixels)
    assert read(out, "classes.csv")["label"].tolist() == [0, 1, 2]


def test_medmnist_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    out, file = tmp_path / "lists", tmp_path / "tiny.npz"
    options = ["medmnist", str(file), "--out", str(out)]
    with pytest.raises(UserError, match="not a MedMNIST"):
        command(prepare, *options)  # no such file
    file.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="not a MedMNIST"):
        command(prepare, *options)
    good = arrays(grey=False)
    faults: dict[str, tuple[np.ndarray, str]] = {
        "train_images": (np.zeros((7, 8, 8, 8), np.uint8), "only uint8 images"),  # a 3D data set
        "train_labels": (np.zeros((7, 14), np.uint8), "one class number"),  # several labels per image
        "val_labels": (np.full((4, 1), 2**60), "one class number"),  # would be asked a name for each number below it
        "test_images": (np.zeros((5, 0, 8), np.uint8), "holds no image"),
    }
    for key, (value, message) in faults.items():
        np.savez(file, **(good | {key: value}))
        with pytest.raises(UserError, match=message):
            command(prepare, *options)
    np.savez(
        file, **(good | {"val_images": np.zeros((0, 8, 8, 3), np.uint8), "val_labels": np.zeros((0, 1), np.uint8)})
    )
    with pytest.raises(UserError, match="val_images holds no image"):
        command(prepare, *options)
    np.savez(file, **{**good, "train_images": np.array([{}] * 7, object)})
    with pytest.raises(UserError, match="not a MedMNIST"):  # a pickle is never opened
        command(prepare, *options)
    np.savez(file, **{key: value for key, value in good.items() if key != "train_labels"})
    with pytest.raises(UserError, match="train_labels"):
        command(prepare, *options)
    assert not out.exists()
