"""docs/formats.md names exactly the columns and fields that the commands write."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

import evaluate
import predict
import prepare
from lab.page.html import csv_link
from lab.page.texts import TEXTS
from tests.made import PROJECT, command, inside

PAGE = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
CPU = ["--device", "cpu", "--precision", "fp32", "--d4", "off"]


def fields(heading: str) -> list[str]:
    """The names in the first column of the last table below the heading with the text ``heading``, in order."""
    sections = [text for text in re.split(r"^#+ ", PAGE, flags=re.MULTILINE) if heading in text.split("\n")[0]]
    assert len(sections) == 1, heading
    table = sections[0].rsplit("|---|", 1)[1].split("\n\n")[0]
    return [name for row in table.splitlines()[1:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


@pytest.fixture(scope="module")
def written(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables that evaluate.py and predict.py write for the trained models."""
    folder = tmp_path_factory.mktemp("written")
    options: list[str | Path] = ["--data", trained / "csv" / "tiny", "--weights", trained / "weights", *CPU]
    with inside(folder) as patch:
        for name in ("draw_confusion", "roc_figure", "save", "redraw_accuracy"):
            patch.setattr(evaluate, name, lambda *_: None)
        command(evaluate, *options)
        command(predict, *options, "--out", folder)
    return folder


def columns(path: Path) -> list[str]:
    return list(pd.read_csv(path).columns)


def test_lists_and_submissions(written: Path, trained: Path) -> None:
    lists = trained / "csv" / "tiny"
    assert columns(lists / "train.csv") == columns(lists / "valid.csv") == fields("`train.csv`")
    assert columns(lists / "resnet_50_test.csv") == fields("`resnet_18_test.csv`")
    assert columns(lists / "classes.csv") == fields("`classes.csv`")
    assert columns(written / "submission_resnet50.csv") == fields("`submission_<model>.csv`")


def test_a_sample(tmp_path: Path) -> None:
    command(prepare, "sample", "--out", tmp_path, "--train", "2", "--valid", "1", "--test", "1")
    assert list(json.loads((tmp_path / "sample.json").read_text())) == fields("`sample.json`")
    assert columns(tmp_path / "test_labels.csv") == fields("`train.csv`")


def test_histories_and_evaluations(written: Path, trained: Path) -> None:
    assert columns(trained / "report" / "tiny" / "history_resnet18.csv") == fields("`history_<model>.csv`")
    valid = columns(written / "report" / "tiny" / "valid_resnet18.csv")
    assert [re.sub(r"_\d+$", "_<label>", name) for name in valid[:4]] == fields("`valid_<model>.csv`")
    for origin in (written / "report" / "tiny" / "valid_resnet18.json", written / "submission_resnet18.json"):
        assert list(json.loads(origin.read_text())) == fields("`valid_<model>.json`")
    metrics = pd.read_csv(written / "report" / "tiny" / "metrics.csv")
    assert list(metrics.columns) == fields("`metrics.csv`")
    assert all(f"`{name}`" in PAGE for name in metrics["metric"])


def test_the_predictions_that_the_page_saves() -> None:
    model: Any = SimpleNamespace(name="resnet18", is_certain=lambda _: True)
    link = csv_link(TEXTS["en"], [("a.png", None, [np.array([0.2, 0.8])], "")], [model], ["x", "y"])
    names = base64.b64decode(link.split("base64,")[1].split('"')[0]).decode().splitlines()[0].split(",")
    assert list(dict.fromkeys(re.sub(r"_\d+$", "_<label>", name) for name in names)) == fields("`predictions.csv`")


def test_the_description_of_a_run_and_its_checkpoints(trained: Path) -> None:
    run = json.loads((trained / "report" / "tiny" / "run_resnet18.json").read_text(encoding="utf-8"))
    with safe_open(trained / "weights" / "tiny" / "resnet18" / "last.safetensors", "pt") as file:
        names, header = set(file.keys()), file.metadata()
    about = json.loads(header["about"])
    assert set(run) == set(fields("`run_<model>.json`"))
    assert set(about) == set(fields("`best.safetensors`"))
    assert {name.split(".")[0] for name in names} == {"model", "train", "optimizer"}
    assert f"`{header['format']}`" in PAGE and all(f"`{name}`" in PAGE for name in about["metrics"])
    for values in (run, about):
        assert list(values["settings"]) == fields("Settings")
        assert list(values["preprocessing"]) == fields("Preprocessing")
    assert set(about["records"][-1]) == set(fields("Records"))
    assert list(about["history"][0]) == fields("`history_<model>.csv`")


def test_the_store(trained: Path) -> None:
    heading = next(line for line in PAGE.splitlines() if line.startswith("### `<list>-"))
    (array,) = (trained / ".store" / "tiny").glob("valid-cell*.npy")
    pattern = re.sub(r"<\w+>", r"\\w+", heading.split("`")[1])
    assert re.fullmatch(pattern, array.name)
    assert set(json.loads(array.with_suffix(".json").read_text())) == set(fields("`<list>-"))
    assert np.load(array, mmap_mode="r").dtype == np.uint8
