"""The comparison of systems: its numbers against direct computations, and what is wrong with its files in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from lab.data.lists import DataSet, read_data_set, read_list
from lab.errors import UserError
from lab.evaluation.metrics import mcnemar, wilson
from lab.evaluation.valid_table import write_predictions
from lab.figures.comparison import comparison_figure
from lab.hardware import Hardware
from models import catalog
from studies import compare
from studies.systems import System, count_network, write_system
from tests.made import TRAIN, VALID, Capture, Patch, command, make_data

SIZES = [32, 48, 48]  # of three epochs
FOLDER = Path("report", "tiny")
HEAD = System(
    name="hog_logreg",
    title="HOG and logistic regression",
    base="hog",
    size=360,
    settings={"C": 0.1},
    parameters=88202,
    macs=None,
    training_flop=None,
    seconds=3.5,
)


def rows_with(wrong: list[int], data: DataSet) -> np.ndarray:
    """Probabilities of the valid list that misclassify these images."""
    labels = read_list(data, "valid", labelled=True).labels
    rows = np.full((VALID, len(data.classes)), 0.2)
    rows[np.arange(VALID), labels] = 0.8
    rows[wrong] = 1 - rows[wrong]
    return rows / rows.sum(axis=1, keepdims=True)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: Patch) -> DataSet:
    """Two trained models, and features with a head, of the tiny data set in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "SECONDS", 0.0)
    made = read_data_set(make_data(tmp_path / "csv" / "tiny"), None)
    valid = read_list(made, "valid", labelled=True)
    history = pd.DataFrame({"epoch": [1, 2, 3], "valid_accuracy": [0.5, 0.9, 0.9], "size": SIZES, "seconds": 10.0})
    for model, wrong in (("resnet18", [0]), ("cnn_light", [1, 2, 3, 4, 5, 6, 7])):
        write_predictions(FOLDER / f"valid_{model}.csv", valid, rows_with(wrong, made))
        history.to_csv(FOLDER / f"history_{model}.csv", index=False)
    record = {"device": "cpu", "processor": "Some CPU, AVX2"}
    run = {"classes": made.classes, "records": [record], "threads": [[0, 2]]}
    (FOLDER / "run_resnet18.json").write_text(json.dumps(run))
    hardware = Hardware(torch.device("cpu"), "fp32")
    write_system(HEAD, made, hardware, valid, rows_with([], made), FOLDER)
    return made


def compared() -> dict[str, dict[str, Any]]:
    """The rows of the table that the command writes, by system."""
    command(compare, "--data", "csv/tiny", "--device", "cpu", "--precision", "fp32")
    rows = pd.read_csv(FOLDER / "compare.csv").to_dict("records")
    return {row["system"]: {str(name): value for name, value in row.items()} for row in rows}


def test_the_table(data: DataSet, capsys: Capture) -> None:
    table = compared()
    output = capsys.readouterr().out
    assert list(table) == ["hog_logreg", "resnet18", "cnn_light"]  # the best first
    assert f"resnet18: accuracy {1100 / 12:.2f} %" in output
    labels = read_list(data, "valid", labelled=True).labels
    predicted = rows_with([0], data).argmax(axis=1)
    one = table["resnet18"]
    assert (one["accuracy"], one["low"], one["high"]) == pytest.approx((11 / 12, *wilson(11, 12)), rel=1e-5)
    assert one["f1"] == pytest.approx(f1_score(labels, predicted, average="macro"), rel=1e-5)
    assert one["processor"] == "Some CPU, AVX2" and one["threads"] == 2 and one["seconds"] == 30
    assert all(table[model]["images_per_second"] > 0 for model in ("resnet18", "cnn_light"))
    # The figures of HOG are those of its run.
    head = table["hog_logreg"]
    assert head["parameters"] == 88202 and head["seconds"] == 3.5 and np.isnan(head["macs"])


def test_cost_is_six_times_the_multiply_accumulates_of_the_images_seen(data: DataSet) -> None:
    table = compared()
    # All of cnn_light's layers but the last two scale with the area of the image.
    classifier = 40 * 512 + 512 * 2
    convolutions = table["cnn_light"]["macs"] - classifier
    assert table["cnn_light"]["size"] == 48
    expected = sum(6 * TRAIN * (convolutions * (size / 48) ** 2 + classifier) for size in SIZES)
    assert table["cnn_light"]["training_flop"] == pytest.approx(expected, rel=1e-5)


def test_attention_is_counted_on_every_device() -> None:
    with torch.device("meta"):
        meta = catalog.build("vit_tiny", 4, 32)
    # 16 patches and the class token; two products of queries, keys and values in each of 12 layers.
    layer = 17 * (4 * 192 * 192 + 8 * 192 * 192) + 2 * 17 * 17 * 192
    expected = 16 * 3 * 64 * 192 + 12 * layer + 192 * 4
    assert count_network(meta, 32)[1] == count_network(catalog.build("vit_tiny", 4, 32), 32)[1] == expected


def test_counted_layers() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    assert count_network(network, 8, ["0"]) == (108 + 1285, 64 * 108 + 1280, 64 * 108)


def test_p_values_are_corrected_by_holm(data: DataSet) -> None:
    table = compared()
    labels = read_list(data, "valid", labelled=True).labels
    best, resnet, light = (rows_with(wrong, data).argmax(axis=1) for wrong in ([], [0], [1, 2, 3, 4, 5, 6, 7]))
    small, large = mcnemar(labels, light, best)[2], mcnemar(labels, resnet, best)[2]
    assert small < large
    assert table["cnn_light"]["p_best"] == pytest.approx(2 * small, rel=1e-5)
    assert table["resnet18"]["p_best"] == pytest.approx(max(large, 2 * small), rel=1e-5)
    assert np.isnan(table["hog_logreg"]["p_best"]) and np.isnan(table["resnet18"]["p_resnet18"])


def test_the_page_for_people_has_all_systems_and_the_published_figures(data: DataSet, monkeypatch: Patch) -> None:
    monkeypatch.setattr(compare, "PUBLISHED", Path("published.csv"))
    Path("published.csv").write_text("data,system,accuracy,note\ntiny,Theirs,97.1,valid\nother,Another,50,test\n")
    compared()
    text = (FOLDER / "compare.md").read_text()
    assert "| HOG and logistic regression | 360 | **100.00** (75.75–100.00) |" in text
    assert "| ResNet18, D4 not recorded | 48 |" in text
    assert "| 30 s (Some CPU, AVX2, 2 threads) |" in text
    assert "| Theirs | 97.1 | valid |" in text and "Another" not in text
    assert (FOLDER / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_a_system_far_behind_does_not_compress_the_axis() -> None:
    shares = [0.98, 0.979, 0.97, 0.2]
    names = ["resnet18", "cnn6", "hog_logreg", "hog_tree"]
    table = pd.DataFrame({"system": names, "title": names, "accuracy": shares, "parameters": 10, "training_flop": 1e12})
    table = table.assign(low=table["accuracy"] - 0.01, high=table["accuracy"] + 0.01)
    figure = comparison_figure(table)
    left = figure.axes[0]
    assert left.get_xlim()[0] > 90 and [text.get_text() for text in left.texts] == ["◂ 20.0"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["1, 2", "3"]  # two of them almost coincide


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("valid_resnet18.csv", "ID,label,probability_0,probability_1\n./valid/0.png,0,0.5,0.5\n", "is of another list"),
        ("valid_resnet18.csv", "nonsense\n", "is not what evaluate.py writes"),
        ("valid_mine.csv", None, "no run_mine.json that describes the system"),
        ("run_hog_logreg.json", "{", "cannot be read"),
        ("run_hog_logreg.json", '{"base": "hog"}', "lacks title"),
        ("run_resnet18.json", '{"classes": ["a", "b"]}', "is of other classes"),
        ("run_resnet18.json", '{"records": [5]}', "is not what our commands write"),
        ("run_resnet18.json", '{"lists": "0a1b"}', "is of other lists"),
        ("history_resnet18.csv", "epoch,valid_accuracy\n1,0.5\n", "has no column size"),
    ],
)
def test_a_wrong_file_is_one_sentence(data: DataSet, file: str, content: str | None, message: str) -> None:
    text = content if content is not None else (FOLDER / "valid_resnet18.csv").read_text()
    (FOLDER / file).write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        compared()
    assert file in str(raised.value) and not (FOLDER / "compare.csv").exists()


def test_without_resnet18_there_is_no_test_against_it(data: DataSet) -> None:
    (FOLDER / "valid_resnet18.csv").unlink()
    table = compared()
    assert list(table) == ["hog_logreg", "cnn_light"] and all(np.isnan(row["p_resnet18"]) for row in table.values())
    assert 0 < table["cnn_light"]["p_best"] < 0.1


def test_nothing_to_compare_is_one_sentence(data: DataSet) -> None:
    for path in FOLDER.glob("valid_*.csv"):
        path.unlink()
    with pytest.raises(UserError, match=r"there is no valid_<system>\.csv"):
        compared()
