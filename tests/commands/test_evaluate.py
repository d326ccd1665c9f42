"""Evaluation: what is drawn and written, and that its numbers are those of a recount."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import demo
import evaluate
import predict
from lab.errors import UserError
from tests.made import DEPTHS, VALID, about, command, inside, save_thin, slow_probabilities, thin

CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def work(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """A working directory with the trained histories only; lists and weights are read where they lie."""
    for data in ("tiny", "other"):
        for model in DEPTHS:
            path = tmp_path / "report" / data / f"history_{model}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((trained / "report" / data / path.name).read_bytes())
    with inside(tmp_path):
        yield tmp_path


def test_all_depths(work: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists, weights = trained / "csv" / "tiny", trained / "weights"
    command(evaluate, "--data", lists, "--weights", weights, "--d4", "off", *CPU)
    said = capsys.readouterr().out
    report = work / "report" / "tiny"
    figures = {"accuracy_comparison.png", "roc.png", *(f"confusion_{model}.png" for model in DEPTHS)}
    assert {path.name for path in report.glob("*.png")} == figures
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in figures)

    valid = pd.read_csv(lists / "valid.csv")
    metrics = pd.read_csv(report / "metrics.csv")
    predictions = {}
    for model in DEPTHS:
        slow = slow_probabilities(
            weights / "tiny" / model / "best.safetensors", [lists / path for path in valid["Path"]]
        )
        predictions[model] = slow.argmax(1)
        hits = int((predictions[model] == valid["label"]).sum())
        row = metrics[(metrics["model"] == model) & (metrics["metric"] == "accuracy")].iloc[0]
        assert row["value"] == pytest.approx(hits / VALID, rel=1e-5)
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["low"] < row["high"]
        assert f"{model}: accuracy {100 * hits / VALID:.2f} % (" in said and f"{hits} of {VALID} images" in said

        each = pd.read_csv(report / f"valid_{model}.csv")
        assert list(each["ID"]) == list(valid["Path"]) and list(each["label"]) == list(valid["label"])
        assert list(each["prediction"]) == list(predictions[model])
        np.testing.assert_allclose(each[["probability_0", "probability_1"]], slow, atol=1e-4)
    # McNemar's counts of each pair of depths, recounted.
    for first, second in (("resnet18", "resnet50"), ("resnet18", "resnet152"), ("resnet50", "resnet152")):
        pair = metrics[metrics["model"] == f"{first} vs {second}"].set_index("metric")["value"]
        right = {model: predictions[model] == valid["label"] for model in (first, second)}
        assert pair["only_first_right"] == (right[first] & ~right[second]).sum()
        assert pair["only_second_right"] == (right[second] & ~right[first]).sum()


def test_one_depth_of_three_classes_leaves_the_others_alone(work: Path, trained: Path) -> None:
    command(
        evaluate, "--model", "resnet50", "--data", trained / "csv" / "other", "--weights", trained / "weights", *CPU
    )
    report = work / "report" / "other"
    assert {path.name for path in report.glob("confusion_*")} == {"confusion_resnet50.png"}
    metrics = pd.read_csv(report / "metrics_resnet50.csv")
    assert not (report / "metrics.csv").exists()  # that of all depths would lose the other two
    assert set(metrics["model"]) == {"resnet50"}
    assert {"overall", "class 0", "class 1", "class 2"} == set(metrics["class"])
    assert not list((work / "report" / "tiny").glob("*.png"))


def test_d4_changes_the_probabilities_and_is_said(
    work: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists, weights = str(trained / "csv" / "tiny"), str(trained / "weights")
    options = ["--model", "resnet18", "--data", lists, "--weights", weights, *CPU]
    found = {}
    for d4 in ("on", "off"):
        command(evaluate, *options, "--d4", d4)
        assert f"D4 averaging {d4}, as asked" in capsys.readouterr().out
        found[d4] = pd.read_csv(work / "report" / "tiny" / "valid_resnet18.csv")["probability_1"]
    assert not np.allclose(found["on"], found["off"], atol=1e-4)


@pytest.mark.parametrize("module", [evaluate, predict, demo])
def test_other_classes_are_refused(work: Path, trained: Path, module: ModuleType) -> None:
    save_thin(work / "weights/tiny/resnet18/best.safetensors", about(classes=["cat", "dog"]), thin("resnet18"))
    with pytest.raises(UserError, match=r"trained on 2 classes \['cat', 'dog'\], but the data set has 2"):
        command(module, "--data", trained / "csv" / "tiny", *CPU)
    assert not (work / "report" / "tiny" / "metrics.csv").exists() and not list(work.rglob("submission*"))


@pytest.mark.parametrize("module", [evaluate, demo])
def test_nothing_trained_is_said(work: Path, trained: Path, module: ModuleType) -> None:
    with pytest.raises(UserError, match=r"weights/tiny: no trained model there"):
        command(module, "--data", trained / "csv" / "tiny", *CPU)
