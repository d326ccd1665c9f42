"""The student's commands in order, each in a process of its own, with the real ResNet18; and every ``--help``."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pandas as pd
import pytest
import safetensors

from tests.made import PROJECT, Trainer, contents

TRAINING = ["--model", "resnet18", "--data", "csv/sample", "--size", "32", "--epochs", "2", "--batch-size", "8"]
CPU = ["--device", "cpu", "--precision", "fp32"]


def test_the_commands_in_order(trainer: Trainer, tmp_path: Path) -> None:
    def run(name: str, *options: str | Path) -> str:
        result = trainer.script(tmp_path, name, *options)
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
        return result.stdout

    # The sample, in the lab's format.
    run("prepare.py", "sample", "--train", "24", "--valid", "12", "--test", "8")
    lists = tmp_path / "csv" / "sample"
    assert len(pd.read_csv(lists / "train.csv")) == 24 and len(pd.read_csv(lists / "valid.csv")) == 12

    output = run("train.py", *TRAINING, *CPU)
    assert "resnet18: 11,177,538 parameters, 2 epochs of 3 steps\n" in output
    assert "batch: 8 images per step, as asked" in output
    weights = tmp_path / "weights" / "sample" / "resnet18"
    assert {path.name for path in weights.iterdir()} == {"best.safetensors", "last.safetensors", ".lock"}
    report = tmp_path / "report" / "sample"
    history = pd.read_csv(report / "history_resnet18.csv")
    assert list(history["epoch"]) == [1, 2]
    with safetensors.safe_open(weights / "best.safetensors", "pt") as file:
        assert file.get_tensor("model.conv1.weight").shape == (64, 3, 7, 7)

    # Without D4 averaging, the accuracy is that of the best epoch in the history.
    output = run("evaluate.py", "--data", "csv/sample", "--d4", "off", *CPU)
    metrics = pd.read_csv(report / "metrics.csv")
    accuracy = metrics.loc[metrics["metric"] == "accuracy", "value"].item()
    assert accuracy == pytest.approx(history["valid_accuracy"].max(), rel=1e-4)
    assert f"accuracy {100 * accuracy:.2f} %" in output
    figures = {"preprocessing", "augmentation", "accuracy_comparison", "confusion_resnet18", "roc", "risk_coverage"}
    assert {path.stem for path in report.glob("*.png")} == figures

    run("predict.py", "--data", "csv/sample", *CPU)
    submission = pd.read_csv(lists / "submission_resnet18.csv")
    assert list(submission.columns) == ["ID", "label"]
    assert list(submission["ID"]) == list(pd.read_csv(lists / "resnet_18_test.csv")["Path"])
    assert len(submission) == 8 and submission["label"].isin([0, 1]).all()

    # After the sample's training, no command needs --data.
    output = run("demo.py", *CPU)
    assert "12 images of valid.csv" in output and "11,177,538" in output
    assert "resnet18: " in run("demo.py", *CPU, lists / "test" / "0.bmp")
    assert (report / "demo.png").is_file() and (report / "demo_images.png").is_file()

    assert not [name for name in contents(tmp_path) if ".tmp" in name]  # no temporary file is left


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "demo"])
def test_every_option_has_a_help_text_and_the_docstring_shows_valid_commands(name: str) -> None:
    module = importlib.import_module(name)
    parser, docstring = module.arguments(), str(module.__doc__)
    options = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    for action in options:
        assert action.option_strings[0] in parser.format_help()
        assert action.help or action.choices, f"{action.option_strings[0]} is not explained"
    assert re.search(rf"^    python {name}\.py", docstring, re.MULTILINE)
    known = {option for action in options for option in action.option_strings}
    commands = "".join(line.partition(f"{name}.py")[2] for line in docstring.splitlines())
    assert set(re.findall(r"--[a-z0-9-]+", commands)) <= known


def test_the_folder_of_lists_does_not_hide_the_csv_module() -> None:
    assert not (PROJECT / "csv" / "__init__.py").exists()
