"""The demo: with the lists, and on a machine that has only the code and the weights."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import demo
from lab.checkpoints.checkpoint import read_about
from lab.errors import UserError
from lab.evaluation.inference import decide_d4
from lab.evaluation.metrics import wilson
from tests.made import DEPTHS, VALID, cell, command, inside, slow_probabilities, thin

CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def work(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """Another machine's working directory: thin networks, nothing else."""
    with inside(tmp_path):
        yield tmp_path


def test_with_the_lists(work: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists, weights = trained / "csv" / "tiny", trained / "weights"
    command(demo, "--data", lists, "--weights", weights, *CPU)
    said = capsys.readouterr().out
    assert f"tiny, {VALID} images of valid.csv" in said
    valid = pd.read_csv(lists / "valid.csv")
    for model in DEPTHS:
        best, paths = weights / "tiny" / model / "best.safetensors", [lists / path for path in valid["Path"]]
        slow = slow_probabilities(best, paths, d4=decide_d4(read_about(best), "auto", quiet=True))
        hits = int((slow.argmax(1) == valid["label"]).sum())
        row = next(line for line in said.splitlines() if line.strip().startswith(f"{model} "))
        parameters = sum(parameter.numel() for parameter in thin(model).parameters())
        assert f" {parameters:,} " in row and f" {100 * hits / VALID:.2f} % " in row
    assert (work / "report" / "tiny" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_with_code_and_weights_only(work: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in DEPTHS:  # what a student hands in: the best checkpoints
        (work / "weights" / "tiny" / model).mkdir(parents=True)
        name = f"weights/tiny/{model}/best.safetensors"
        shutil.copyfile(trained / name, work / name)
    command(demo, "--data", "csv/tiny", *CPU)
    said = capsys.readouterr().out
    assert "no results on the valid list, since no lists found for --data csv/tiny" in said
    for model in DEPTHS:
        saved = read_about(work / "weights" / "tiny" / model / "best.safetensors")
        assert [row["epoch"] for row in saved.history] == [1, 2, 3]  # the whole run, not up to its best epoch
        kind = "valid_accuracy_d4" if decide_d4(saved, "auto", quiet=True) else "valid_accuracy"
        low, high = wilson(round(saved.metrics[kind] * VALID), VALID)
        row = next(line for line in said.splitlines() if line.strip().startswith(f"{model} "))
        assert f" {100 * saved.metrics[kind]:.2f} % " in row and f"{100 * low:.2f}–{100 * high:.2f} %" in row
    assert (work / "report" / "tiny" / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_single_images(work: Path, trained: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    image = work / f"a cell.{suffix}"
    Image.fromarray(cell(np.random.default_rng(5), 1)).save(image)
    command(demo, "--data", "tiny", "--weights", trained / "weights", *CPU, image)
    said = capsys.readouterr().out.split(f"{image}\n")[1].splitlines()
    for model, line in zip(DEPTHS, said[:3], strict=True):
        best = trained / "weights" / "tiny" / model / "best.safetensors"
        slow = slow_probabilities(best, [image], d4=decide_d4(read_about(best), "auto", quiet=True))[0]
        found = re.fullmatch(rf"  {model}: (.+) \(normal (.+) %, leukemia blast (.+) %\)", line)
        assert found and found[1] == ["normal", "leukemia blast"][int(slow.argmax())]
        assert [float(found[2]), float(found[3])] == pytest.approx(100 * slow, abs=0.06)
    assert (work / "report" / "tiny" / "demo_images.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("data", "words"), [(None, "cannot be read"), (b"no image at all", "not an image")])
def test_an_unreadable_image_is_said_before_anything_else(
    work: Path, trained: Path, capsys: pytest.CaptureFixture[str], data: bytes | None, words: str
) -> None:
    image = work / "broken.png"
    if data is not None:
        image.write_bytes(data)
    with pytest.raises(UserError, match=rf"broken.png.*{words}"):
        command(demo, "--data", "tiny", "--weights", trained / "weights", *CPU, image)
    assert capsys.readouterr().out == ""


def test_the_lists_folder_may_be_the_working_directory(
    work: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "tiny").mkdir()
    monkeypatch.chdir(work / "tiny")
    command(demo, "--data", ".", "--weights", trained / "weights", *CPU)
    assert "resnet152" in capsys.readouterr().out
