"""The demo: with the lists, and on a machine that has only the code and the weights."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import demo
from lab.checkpoints.checkpoint import read_about, read_tensors, save_checkpoint
from lab.errors import UserError
from lab.evaluation.inference import decide_d4
from lab.evaluation.metrics import wilson
from tests.made import DEPTHS, VALID, Capture, Patch, cell, command, inside, slow_probabilities, thin

CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def work(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """An empty working directory, and thin networks."""
    with inside(tmp_path):
        yield tmp_path


def row_of(output: str, model: str) -> str:
    """The line of a model in the printed table."""
    return next(line for line in output.splitlines() if line.strip().startswith(f"{model} "))


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_with_the_lists(work: Path, trained: Path, monkeypatch: Patch, capsys: Capture) -> None:
    shutil.copytree(trained / "csv" / "tiny", work / "tiny")
    monkeypatch.chdir(work / "tiny")
    weights = trained / "weights"
    command(demo, "--data", ".", "--weights", weights, *CPU)
    output = capsys.readouterr().out
    assert f"tiny, {VALID} images of valid.csv" in output
    valid = pd.read_csv("valid.csv")
    for model in DEPTHS:
        best = weights / "tiny" / model / "best.safetensors"
        slow = slow_probabilities(best, [*map(Path, valid["Path"])], d4=decide_d4(read_about(best), "auto", quiet=True))
        hits = int((slow.argmax(1) == valid["label"]).sum())
        parameters = sum(parameter.numel() for parameter in thin(model).parameters())
        row = row_of(output, model)
        assert f" {parameters:,} " in row and f" {100 * hits / VALID:.2f} % " in row
    assert is_png(Path("report/tiny/demo.png"))


def test_with_code_and_weights_only(work: Path, trained: Path, capsys: Capture) -> None:
    for model in DEPTHS:  # what a student hands in: the best checkpoints
        (work / "weights" / "tiny" / model).mkdir(parents=True)
        name = f"weights/tiny/{model}/best.safetensors"
        shutil.copyfile(trained / name, work / name)
    command(demo, "--data", "csv/tiny", *CPU)
    output = capsys.readouterr().out
    assert "no results on valid.csv: no lists found for --data csv/tiny" in output
    for model in DEPTHS:
        about = read_about(work / "weights" / "tiny" / model / "best.safetensors")
        assert [row["epoch"] for row in about.history] == [1, 2, 3]  # all epochs, not only those up to the best
        accuracy = about.metrics["valid_accuracy_d4" if decide_d4(about, "auto", quiet=True) else "valid_accuracy"]
        low, high = wilson(round(accuracy * VALID), VALID)
        row = row_of(output, model)
        assert f" {100 * accuracy:.2f} % " in row and f"{100 * low:.2f}–{100 * high:.2f} %" in row
    assert is_png(work / "report" / "tiny" / "demo.png")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_single_images(work: Path, trained: Path, capsys: Capture, suffix: str) -> None:
    image = work / f"a cell.{suffix}"
    Image.fromarray(cell(np.random.default_rng(5), 1)).save(image)
    command(demo, "--data", "tiny", "--weights", trained / "weights", *CPU, image)
    output = capsys.readouterr().out
    lines = output.split(f"{image}\n")[1].splitlines()
    assert "valid" not in output  # the list is not predicted
    for model, line in zip(DEPTHS, lines[:3], strict=True):
        best = trained / "weights" / "tiny" / model / "best.safetensors"
        slow = slow_probabilities(best, [image], d4=decide_d4(read_about(best), "auto", quiet=True))[0]
        match = re.fullmatch(rf"  {model}: (.+) \(normal (.+) %, leukemia blast (.+) %\)", line)
        assert match and match[1] == ["normal", "leukemia blast"][int(slow.argmax())]
        assert [float(match[2]), float(match[3])] == pytest.approx(100 * slow, abs=0.06)
    assert is_png(work / "report" / "tiny" / "demo_images.png")


def test_an_image_without_a_cell_gets_no_prediction(
    work: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64), "white").save(work / "white.png")
    Image.fromarray(cell(np.random.default_rng(5), 1)).save(work / "cell.png")
    command(demo, "--data", "tiny", "--weights", trained / "weights", *CPU, work / "white.png", work / "cell.png")
    blank, predicted = capsys.readouterr().out.split("white.png\n")[1].split("cell.png\n")
    assert "no prediction: the image is of one colour, or without a cell on black" in blank and "%" not in blank
    assert predicted.count("leukemia blast") >= 3


def test_an_image_unlike_the_training_images_gets_no_prediction_and_doubt_is_said(
    work: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = cell(np.random.default_rng(5), 1)
    noise[8:40, 8:40] = np.random.default_rng(6).integers(0, 256, (32, 32, 3))
    Image.fromarray(noise).save(work / "noise.png")
    Image.fromarray(cell(np.random.default_rng(5), 1)).save(work / "cell.png")
    images = [work / "noise.png", work / "cell.png"]
    command(demo, "--data", "tiny", "--weights", trained / "weights", *CPU, *images)
    refused, predicted = capsys.readouterr().out.split("noise.png\n")[1].split("cell.png\n")
    assert refused.splitlines()[0] == "  no prediction: the image is unlike the training images"
    assert predicted.count("leukemia blast") >= 3 and "These predictions are not for diagnosis." in predicted

    shutil.copytree(trained / "weights" / "tiny" / "resnet18", work / "weights" / "tiny" / "resnet18")
    best = work / "weights" / "tiny" / "resnet18" / "best.safetensors"
    description = read_about(best)
    certain = {"certain": 1.0, "certain_d4": 1.0}
    save_checkpoint(best, replace(description, confidence=description.confidence | certain), read_tensors(best))
    command(demo, "--data", "tiny", *CPU, work / "cell.png")
    assert "%), uncertain: below 100.0 %" in capsys.readouterr().out


@pytest.mark.parametrize(("data", "message"), [(None, "cannot be read"), (b"no image at all", "not an image")])
def test_an_unreadable_image_is_refused(
    work: Path, trained: Path, capsys: Capture, data: bytes | None, message: str
) -> None:
    image = work / "broken.png"
    if data is not None:
        image.write_bytes(data)
    with pytest.raises(UserError, match=rf"broken.png.*{message}"):
        command(demo, "--data", "tiny", "--weights", trained / "weights", *CPU, image)
    assert capsys.readouterr().out == ""
