"""Training, evaluation and prediction on the lab's real lists of 7,995 rows, with generated images and thin networks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import evaluate
import predict
import train
from tests.made import command, inside


def bitmaps() -> list[bytes]:
    """A normal cell and a larger blast on black, as small 24-bit bitmaps."""
    y, x = np.mgrid[:40, :40] - 19.5
    files = []
    for radius, colour in ((9, (90, 40, 110)), (14, (120, 50, 130))):
        image = ((np.hypot(x, y) < radius)[..., None] * np.array(colour)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "BMP")
        files.append(buffer.getvalue())
    return files


@pytest.fixture
def lab(tmp_path: Path, shared_data: Callable[[str], Path]) -> Path:
    """A folder with the real lists directly in ``csv/``, and an image at every path in them."""
    (tmp_path / "csv").mkdir()
    cells = bitmaps()
    for source in shared_data("lab3_lists").glob("*.csv"):
        (tmp_path / "csv" / source.name).write_bytes(source.read_bytes())
        table = pd.read_csv(source)
        labels = table["label"] if "label" in table else [index % 2 for index in range(len(table))]
        for name, label in zip(table["Path"], labels, strict=True):
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # The path after the pixels makes each file's content unique; readers of bitmaps ignore it.
            target.write_bytes(cells[int(label)] + str(target).encode())
    return tmp_path


def test_the_lists_of_the_lab(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Directly in csv/ they can be trained on and evaluated, and give three submissions, each in the order of its own list."""
    with inside(lab, figures=False):
        command(train, "--model", "all", "--size", "32", "--epochs", "1", "--device", "cpu", "--precision", "fp32")
        trained, warnings = capsys.readouterr()
        command(evaluate, "--d4", "off")
        command(predict, "--d4", "off")
    assert "train: 7,995 images" in trained and "valid: 1,599 images" in trained
    assert "warning: " not in warnings  # train and valid share no content
    orders = []
    for depth in (18, 50, 152):
        table = pd.read_csv(lab / "csv" / f"submission_resnet{depth}.csv")
        test_list = pd.read_csv(lab / "csv" / f"resnet_{depth}_test.csv")
        assert list(table.columns) == ["ID", "label"] and table["label"].dtype == np.int64
        assert list(table["ID"]) == list(test_list["Path"]) and len(set(table["ID"])) == 1067
        orders.append(list(table["ID"]))
    assert orders[0] != orders[1] != orders[2]
    accuracy = pd.read_csv(lab / "report" / "lab3" / "metrics.csv").query("metric == 'accuracy'")["value"]
    assert len(accuracy) == 3 and accuracy.min() > 0.9  # easy classes, so labels and images belong together
