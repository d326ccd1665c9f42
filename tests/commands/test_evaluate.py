"""Evaluation: the files written, and their numbers compared with a direct computation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import demo
import evaluate
import predict
import report
from lab.checkpoints.checkpoint import read_about
from lab.errors import UserError
from lab.evaluation.calibration import calibration
from lab.figures.scores import scores_figure
from tests.made import DEPTHS, VALID, Capture, about, command, inside, save_thin, slow_probabilities, thin

CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def work(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """A working directory with only what training wrote into report/; lists and weights are read from ``trained``."""
    shutil.copytree(trained / "report", tmp_path / "report")
    with inside(tmp_path):
        yield tmp_path


def test_all_models(work: Path, trained: Path, capsys: Capture) -> None:
    lists, weights = trained / "csv" / "tiny", trained / "weights"
    command(evaluate, "--data", lists, "--weights", weights, "--d4", "off", *CPU)
    output = capsys.readouterr().out
    report = work / "report" / "tiny"
    figures = {
        "accuracy_comparison.png",
        "roc.png",
        "risk_coverage.png",
        *(f"confusion_{model}.png" for model in DEPTHS),
    }
    assert {path.name for path in report.glob("*.png")} == figures
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in figures)

    valid = pd.read_csv(lists / "valid.csv")
    metrics = pd.read_csv(report / "metrics.csv")
    correct = {}
    for model in DEPTHS:
        best = weights / "tiny" / model / "best.safetensors"
        slow = slow_probabilities(best, [lists / path for path in valid["Path"]])
        correct[model] = slow.argmax(1) == valid["label"]
        hits = int(correct[model].sum())
        row = metrics[(metrics["model"] == model) & (metrics["metric"] == "accuracy")].iloc[0]
        assert row["value"] == pytest.approx(hits / VALID, rel=1e-5)
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["low"] < row["high"]
        assert f"{model}: accuracy {100 * hits / VALID:.2f} % (" in output and f"{hits} of {VALID} images" in output

        table = pd.read_csv(report / f"valid_{model}.csv")
        assert list(table["ID"]) == list(valid["Path"]) and list(table["label"]) == list(valid["label"])
        assert list(table["prediction"]) == list(slow.argmax(1))
        np.testing.assert_allclose(table[["probability_0", "probability_1"]], slow, atol=1e-4)
        # The confidence before and after the temperature, and the certain predictions.
        labels = valid["label"].to_numpy()
        rows = metrics[metrics["model"] == model].set_index("metric")["value"]
        fitted, raw = (
            read_about(best).confidence,
            slow_probabilities(best, [lists / p for p in valid["Path"]], raw=True),
        )
        assert rows["temperature"] == pytest.approx(fitted["temperature"], rel=1e-5)
        assert rows["calibration_error_raw"] == pytest.approx(calibration(labels, raw).error, abs=1e-4)
        assert rows["calibration_error"] == pytest.approx(calibration(labels, slow).error, abs=1e-4)
        assert rows["certain_coverage"] == pytest.approx(fitted["certain_coverage"], rel=1e-5)
        assert rows["certain_risk"] == pytest.approx(fitted["certain_risk"], rel=1e-5) and rows["unlike"] <= 1 / VALID
    for first, second in combinations(DEPTHS, 2):  # McNemar's counts
        pair = metrics[metrics["model"] == f"{first} vs {second}"].set_index("metric")["value"]
        assert pair["only_first_right"] == (correct[first] & ~correct[second]).sum()
        assert pair["only_second_right"] == (correct[second] & ~correct[first]).sum()


def test_one_model_of_three_classes_overwrites_no_other_file(work: Path, trained: Path) -> None:
    lists = trained / "csv" / "other"
    command(evaluate, "--model", "resnet50", "--data", lists, "--weights", trained / "weights", *CPU)
    report = work / "report" / "other"
    assert {path.name for path in report.glob("confusion_*")} == {"confusion_resnet50.png"}
    metrics = pd.read_csv(report / "metrics_resnet50.csv")
    assert not (report / "metrics.csv").exists()
    assert set(metrics["model"]) == {"resnet50"}
    assert {"overall", "class 0", "class 1", "class 2"} == set(metrics["class"])
    assert not list((work / "report" / "tiny").glob("*.png"))


def test_d4_changes_probabilities(work: Path, trained: Path, capsys: Capture) -> None:
    rows = {}
    for d4 in ("on", "off"):
        options = ["--model", "resnet18", "--d4", d4, *CPU]
        command(evaluate, "--data", trained / "csv" / "tiny", "--weights", trained / "weights", *options)
        assert f"D4 averaging {d4}, as asked" in capsys.readouterr().out
        rows[d4] = pd.read_csv(work / "report" / "tiny" / "valid_resnet18.csv")["probability_1"]
    assert not np.allclose(rows["on"], rows["off"], atol=1e-4)


@pytest.mark.parametrize("module", [evaluate, predict, demo])
def test_missing_weights_and_other_classes_are_refused(work: Path, trained: Path, module: ModuleType) -> None:
    lists = trained / "csv" / "tiny"
    with pytest.raises(UserError, match=r"weights/tiny: no trained model there"):
        command(module, "--data", lists, *CPU)
    save_thin(work / "weights/tiny/resnet18/best.safetensors", about(classes=["cat", "dog"]), thin("resnet18"))
    with pytest.raises(UserError, match=r"trained on 2 classes \['cat', 'dog'\], but the data set has 2"):
        command(module, "--data", lists, *CPU)
    assert not (work / "report" / "tiny" / "metrics.csv").exists() and not list(work.rglob("submission*"))


def test_without_the_option_the_only_trained_data_set_is_taken(work: Path, trained: Path, capsys: Capture) -> None:
    shutil.copytree(trained / "csv" / "tiny", "csv/tiny")
    shutil.copytree(trained / "weights/tiny/resnet18", "weights/tiny/resnet18")
    for module in (evaluate, predict, demo, report):
        command(module, *([] if module is report else CPU))
        assert capsys.readouterr().out.startswith(
            "--data tiny: the only trained data set in weights, and there are no lists"
        )
    written = ["report/tiny/valid_resnet18.csv", "csv/tiny/submission_resnet18.csv", "report/tiny/demo.png"]
    assert all(Path(name).is_file() for name in [*written, "report/tiny/report.pdf"])


def test_scores_per_epoch_are_drawn_on_request(work: Path, trained: Path) -> None:
    lists, weights, report = trained / "csv" / "tiny", trained / "weights", work / "report" / "tiny"
    options = ["--data", str(lists), "--weights", str(weights), "--model", "resnet18", "--d4", "off", *CPU]
    command(evaluate, *options)
    assert not (report / "scores_resnet18.png").exists()
    command(evaluate, *options, "--scores")
    assert (report / "scores_resnet18.png").read_bytes().startswith(b"\x89PNG")
    history = pd.read_csv(report / "history_resnet18.csv")
    panels = scores_figure({"resnet18": history}).axes
    assert [np.asarray(panel.lines[0].get_ydata()).tolist() for panel in panels] == [
        (100 * history[f"valid_{name}"]).tolist() for name in ("precision", "recall", "f1")
    ]
    with pytest.raises(UserError, match="no history has the columns"):
        scores_figure({"resnet18": history.drop(columns="valid_f1")})
