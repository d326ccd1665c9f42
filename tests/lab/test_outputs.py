"""The table of files that ends the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.outputs import next_steps, table


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_the_files_of_this_data_set_are_listed(work: Path) -> None:
    put(work / "csv" / "cells" / "train.csv", 2048)
    put(work / "csv" / "cells" / "submission_resnet50.csv", 10)
    put(work / "weights" / "cells" / "resnet18" / "best.safetensors", 5 * 1024 * 1024)
    put(work / "weights" / "others" / "resnet18" / "best.safetensors", 1)
    lines = table("cells").splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["csv/cells/train.csv", "2"],
        ["weights/cells/resnet18/best.safetensors", "5,120"],
        ["csv/cells/submission_resnet50.csv", "0"],
    ]
    assert len({line.index(" KiB ") for line in lines}) == 1  # the sizes are aligned


def test_lists_directly_in_csv_are_lab3(work: Path) -> None:
    put(work / "csv" / "train.csv", 1)
    put(work / "csv" / "submission_resnet18.csv", 1)
    assert [line.split()[0] for line in table("lab3").splitlines()] == ["csv/submission_resnet18.csv", "csv/train.csv"]
    assert table("cells") == "nothing written for cells yet"


def test_what_to_type_next_names_an_image_that_exists(work: Path) -> None:
    put(work / "csv" / "cells" / "test" / "0.bmp", 1)
    assert "python demo.py --data cells csv/cells/test/0.bmp " in next_steps("cells")
    assert "python demo.py --data others IMAGE " in next_steps("others")
