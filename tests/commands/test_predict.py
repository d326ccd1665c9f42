"""predict.py: a submission has the IDs of its own list, unchanged and in order, with the labels of the saved network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import demo
import evaluate
import predict
from lab.checkpoints.checkpoint import load_network, read_about, read_tensors, save_checkpoint
from lab.errors import UserError
from tests.made import (
    DEPTHS,
    Trainer,
    about,
    command,
    contents,
    inside,
    make_data,
    save_thin,
    slow_probabilities,
    thin,
)

CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def work(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """An empty working directory with thin networks."""
    with inside(tmp_path):
        yield tmp_path


def listed(data: Path, model: str) -> list[str]:
    """The IDs of a depth's own list, read without this project's code."""
    lines = (data / f"resnet_{model[6:]}_test.csv").read_text().split("\n")
    assert lines[0] == "Path"
    return lines[1:]


@pytest.mark.parametrize("data", ["tiny", "other"])
def test_submissions_of_all_depths(trained: Path, work: Path, data: str) -> None:
    lists, weights = trained / "csv" / data, trained / "weights"
    command(predict, "--data", lists, "--weights", weights, "--d4", "off", *CPU)
    labels = set()
    for model in DEPTHS:
        # Nothing is written to a folder of lists outside csv/.
        lines = (work / "csv" / data / f"submission_{model}.csv").read_bytes().decode().split("\n")
        ids = listed(lists, model)
        slow = slow_probabilities(weights / data / model / "best.safetensors", [lists / path for path in ids])
        assert lines == ["ID,label", *(f"{path},{label}" for path, label in zip(ids, slow.argmax(1), strict=True)), ""]
        labels |= set(slow.argmax(1))
    assert len(labels) > 1  # with equal labels the order would not be tested
    assert len({tuple(listed(lists, model)) for model in DEPTHS}) == 3
    assert not list(lists.glob("submission*"))


def test_confidences_are_written_beside_the_submission(
    trained: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists, best = trained / "csv" / "tiny", trained / "weights" / "tiny" / "resnet18" / "best.safetensors"
    make_data(work / "csv" / "tiny")
    for model, unlike, certain in (("resnet18", 1e9, 0.0), ("resnet18", 1e9, 1.0), ("resnet18", 0.0, 0.0)):
        description = read_about(best)
        confidence = description.confidence | {"unlike": unlike, "certain": certain}
        copy = work / "weights" / "tiny" / model / "best.safetensors"
        save_checkpoint(copy, replace(description, confidence=confidence), read_tensors(best))
        command(predict, "--model", model, "--data", lists, "--d4", "off", *CPU)
        table = pd.read_csv(work / "csv" / "tiny" / "confidence_resnet18.csv")
        submission = pd.read_csv(work / "csv" / "tiny" / "submission_resnet18.csv")
        assert list(table["ID"]) == listed(lists, model) and list(table["label"]) == list(submission["label"])
        slow = slow_probabilities(copy, [lists / path for path in table["ID"]])
        np.testing.assert_allclose(table["confidence"], slow.max(axis=1), atol=1e-4)
        verdict = "unlike the training images" if not unlike else "uncertain" if certain else "certain"
        assert set(table["verdict"]) == {verdict} and list(submission.columns) == ["ID", "label"]
        output = capsys.readouterr().out
        assert f"resnet18: {len(table)} {verdict}, see" in output and "not for diagnosis" in output


def test_ids_are_written_as_in_the_list(work: Path, trained: Path) -> None:
    """CRLF, a byte-order mark, spaces, an extra column, no final newline; below csv/ the submission is beside its list."""
    data = make_data(work / "csv" / "tiny")
    text = '\ufeff path ,note\r\n./test/3.png,x\r\n test/1.png,"a,b"\r\n.\\test\\0.png,'
    (data / "resnet_18_test.csv").write_bytes(text.encode())
    command(predict, "--model", "resnet18", "--data", "csv/tiny", "--weights", trained / "weights", *CPU)
    table = pd.read_csv(data / "submission_resnet18.csv")
    assert list(table["ID"]) == ["./test/3.png", " test/1.png", ".\\test\\0.png"]
    paths = [data / "test" / f"{index}.png" for index in (3, 1, 0)]
    slow = slow_probabilities(trained / "weights/tiny/resnet18/best.safetensors", paths)
    assert list(table["label"]) == list(slow.argmax(1))
    assert sorted(path.name for path in data.glob("submission*.csv")) == ["submission_resnet18.csv"]


def test_preprocessing_is_that_of_the_checkpoint(work: Path, trained: Path) -> None:
    """The predictions equal the oracle's for another window and size in the checkpoint."""
    network, checkpoint = load_network(trained / "weights/tiny/resnet50/best.safetensors", "resnet50")
    changes: dict[str, Any] = {"window": 40, "source": 80, "size": 40, "mean": (0.1, 0.2, 0.3), "std": (0.3, 0.2, 0.1)}
    path = work / "weights" / "tiny" / "resnet50" / "best.safetensors"
    preprocessing = replace(checkpoint.preprocessing, **changes)
    save_thin(path, replace(checkpoint, preprocessing=preprocessing), network)
    lists = trained / "csv" / "tiny"
    command(predict, "--model", "resnet50", "--data", lists, "--out", ".", *CPU)
    slow = slow_probabilities(path, [lists / name for name in listed(lists, "resnet50")])
    assert list(pd.read_csv("submission_resnet50.csv")["label"]) == list(slow.argmax(1))


def test_a_missing_checkpoint_or_list(work: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="there is no such checkpoint"):
        command(predict, "--model", "resnet18", "--data", trained / "csv" / "tiny", *CPU)
    data = make_data(work / "csv" / "tiny")
    (data / "resnet_152_test.csv").unlink()
    options: list[str | Path] = ["--data", "tiny", "--weights", trained / "weights", *CPU]
    with pytest.raises(UserError, match=r"resnet_152_test.csv: there is no such list"):
        command(predict, "--model", "resnet152", *options)
    assert not list(work.rglob("submission*"))
    command(predict, *options)
    assert "resnet152: skipped, there is no resnet_152_test.csv in csv/tiny" in capsys.readouterr().out
    assert {path.name for path in work.rglob("submission*.csv")} == {
        "submission_resnet18.csv",
        "submission_resnet50.csv",
    }


def test_all_lists_are_checked_before_the_first_submission(work: Path, trained: Path) -> None:
    data = make_data(work / "csv" / "tiny")
    (data / "resnet_152_test.csv").write_text("Path\n./test/0.png\n./test/0.png\n")
    with pytest.raises(UserError, match=r"resnet_152_test.csv.*\n.*line 3: ./test/0.png is already on line 2"):
        command(predict, "--data", "tiny", "--weights", trained / "weights", *CPU)
    assert not list(work.rglob("submission*"))


def test_d4_is_used_if_it_helped_on_valid(work: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, checkpoint = load_network(trained / "weights/tiny/resnet18/best.safetensors", "resnet18")
    for d4, plain, expected in ((0.9, 0.8, "on"), (0.7, 0.8, "off")):
        metrics = checkpoint.metrics | {"valid_accuracy": plain, "valid_accuracy_d4": d4}
        path = work / "weights" / "tiny" / "resnet18" / "best.safetensors"
        save_thin(path, replace(checkpoint, metrics=metrics), network)
        capsys.readouterr()
        command(predict, "--data", trained / "csv" / "tiny", *CPU)
        assert f"resnet18: D4 averaging {expected}, on valid" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("blasts", "count", "warned"),
    [
        # 1000 images, 68 % in training: the limit is 5 points, because three standard errors are 4.4.
        (680, 1000, False),
        (725, 1000, False),
        (735, 1000, True),
        (625, 1000, True),
        # 10 images: three standard errors are 44 points.
        (10, 10, False),
        (2, 10, True),
    ],
)
def test_shares_far_from_those_in_training_give_a_warning(
    capsys: pytest.CaptureFixture[str], blasts: int, count: int, warned: bool
) -> None:
    predictions = np.array([1] * blasts + [0] * (count - blasts))
    predict.warn_of_shares("resnet18", predictions, about().classes, [0.32, 0.68])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == (2 if warned else 0)
    if warned:
        assert f"resnet18 predicts leukemia blast for {100 * blasts / count:.1f} %" in warnings[1]
        assert "68.0 % in training" in warnings[1]


def test_the_command_prints_the_warning(work: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = thin("resnet18").eval()
    network.fc.bias.data[:] = torch.tensor([0.0, 100.0])  # always class 1
    checkpoint = replace(read_about(trained / "weights/tiny/resnet18/best.safetensors"), train_share=[0.9, 0.1])
    save_thin(work / "weights/tiny/resnet18/best.safetensors", checkpoint, network)
    command(predict, "--data", trained / "csv" / "tiny", *CPU)
    assert "warning: resnet18 predicts leukemia blast for 100.0 % of the images" in capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_status_2(trainer: Trainer, tmp_path: Path) -> None:
    make_data(tmp_path / "csv" / "tiny")
    before = contents(tmp_path)
    done = trainer.script(tmp_path, "predict.py", "--data", "tiny", *CPU)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: weights/tiny: no trained model there") and "train.py" in line
    assert contents(tmp_path) == before


def test_a_data_set_of_the_same_name_is_not_predicted_by_the_network_of_another(trained: Path, work: Path) -> None:
    data = make_data(work / "elsewhere" / "tiny")
    valid = pd.read_csv(data / "valid.csv")
    valid.assign(label=1 - valid["label"]).to_csv(data / "valid.csv", index=False)  # the labels the other way round
    before = contents(work)
    for module in (predict, evaluate, demo):
        with pytest.raises(UserError, match=r"best.safetensors: trained on other lists than those in .*elsewhere/tiny"):
            command(module, "--data", data, "--weights", trained / "weights", *CPU)
    assert contents(work) == before
    for name in ("train", "valid"):
        (data / f"{name}.csv").unlink()  # only test lists: nothing to compare
    command(predict, "--data", data, "--weights", trained / "weights", "--model", "resnet18", *CPU)
