"""The errors on valid: counted by hand on tables of three systems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lab.data.lists import DataSet, read_data_set, read_list
from lab.errors import UserError
from lab.evaluation.valid_table import write_predictions
from studies import mistakes
from tests.made import VALID, Capture, Patch, command, make_data

FOLDER = Path("report", "tiny")


def write_system(name: str, data: DataSet, wrong: dict[int, int]) -> None:
    """A system that is sure of the label of each valid image, but of another class for these."""
    valid = read_list(data, "valid", labelled=True)
    answers = valid.labels.copy()
    answers[list(wrong)] = list(wrong.values())
    probabilities = np.full((VALID, 3), 0.1)
    probabilities[np.arange(VALID), answers] = 0.8
    write_predictions(FOLDER / f"valid_{name}.csv", valid, probabilities)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: Patch) -> DataSet:
    """Three classes in turn, and three systems: all say 1 to image 0; image 4 has two wrong answers; image 6 one error."""
    monkeypatch.chdir(tmp_path)
    found = read_data_set(str(make_data(tmp_path / "csv" / "tiny", classes=3)), None)
    labels = read_list(found, "valid", labelled=True).labels
    assert list(labels[[0, 4, 6]]) == [0, 1, 0]
    write_system("resnet18", found, {0: 1, 4: 2, 6: 2})
    write_system("resnet50", found, {0: 1, 4: 0})
    write_system("cnn6", found, {0: 1})
    return found


def test_errors_that_systems_share_come_first(data: DataSet, capsys: Capture) -> None:
    suspect = {"list": "valid", "image": read_list(data, "valid", labelled=True).ids[4], "wrong": True}
    pd.DataFrame([suspect]).to_csv(FOLDER / "explore_suspects.csv", index=False)
    command(mistakes, "--data", "tiny", "--systems", "resnet18", "resnet50", "cnn6")
    table = pd.read_csv(FOLDER / "mistakes.csv")
    valid = read_list(data, "valid", labelled=True)
    assert list(table["ID"]) == [valid.ids[index] for index in (0, 4, 6)]
    assert list(table["wrong"]) == [3, 2, 1] and list(table["same"]) == [3, 1, 1]
    assert list(table["suspected"]) == [False, True, False]
    assert list(table["probability_of_label"]) == pytest.approx(
        [0.1, (0.1 + 0.1 + 0.8) / 3, (0.1 + 0.8 + 0.8) / 3], abs=1e-5
    )
    names = data.classes
    assert list(table["class"]) == [names[0], names[1], names[0]]
    assert table["answer"][0] == names[1] and table["answer"][2] == names[2]

    lines = (FOLDER / "mistakes.md").read_text().splitlines()
    pairs = f"{names[0]} → {names[1]} 1, {names[1]} → {names[2]} 1, {names[0]} → {names[2]} 1"
    assert f"| resnet18 | 3 | 1 | 1 | {pairs} |" in lines and "| cnn6 | 1 | 1 | 0 |" in "\n".join(lines)
    assert lines[-2] == "3 images with an error of any system, 1 with the same error of all."
    assert lines[-1] == f"A system that gives these answers too cannot exceed {100 * (1 - 1 / VALID):.2f} %."
    assert "mistakes.png" in capsys.readouterr().out and (FOLDER / "mistakes.png").is_file()


def test_images_that_must_not_be_shown_are_not_drawn(data: DataSet) -> None:
    command(mistakes, "--data", "tiny", "--systems", "resnet18", "cnn6")
    command(mistakes, "--data", "tiny", "--systems", "resnet18", "cnn6", "--no-images")
    assert not (FOLDER / "mistakes.png").exists()


def test_the_trained_resnets_are_the_default(data: DataSet, capsys: Capture) -> None:
    command(mistakes, "--data", "tiny")
    output = capsys.readouterr().out
    assert "| resnet18 |" in output and "| resnet50 |" in output and "cnn6" not in output


def test_a_missing_or_foreign_table_is_one_sentence(data: DataSet) -> None:
    with pytest.raises(UserError, match=r"there is no valid_vgg16\.csv; train the model"):
        command(mistakes, "--data", "tiny", "--systems", "vgg16")
    path = FOLDER / "valid_cnn6.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match=r"valid_cnn6\.csv: is of another list"):
        command(mistakes, "--data", "tiny", "--systems", "resnet18", "cnn6")
