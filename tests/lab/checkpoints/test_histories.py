"""The history of a run is read back as it was written; the accuracy figure is drawn from it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lab.checkpoints.histories import best_row, rank, read_histories, write_history
from lab.errors import UserError
from lab.figures.runs import redraw_accuracy

ROWS = [
    {"epoch": 1, "train_accuracy": 0.5, "valid_accuracy": 2 / 3, "seconds": 0.25},
    {"epoch": 2, "train_accuracy": 0.75, "valid_accuracy": 0.9375, "seconds": 0.5},
]


def test_histories_are_read_in_the_catalogues_order(tmp_path: Path) -> None:
    for model in ("resnet152", "resnet18", "resnet50"):
        write_history(tmp_path / f"history_{model}.csv", ROWS)
    (tmp_path / "metrics.csv").write_text("not,a,history\n")
    histories = read_histories(tmp_path)
    assert list(histories) == ["resnet18", "resnet50", "resnet152"]
    table = histories["resnet50"]
    assert list(table.columns) == list(ROWS[0]) and list(table["epoch"]) == [1, 2]
    assert list(table["valid_accuracy"]) == pytest.approx([2 / 3, 0.9375], rel=1e-5)


def test_former_names_of_columns_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "history_resnet18.csv").write_text(
        "epoch,train_accuracy,test_accuracy,train_loss,test_loss\n1,0.5,0.75,0.6,0.4\n"
    )
    expected = {"epoch": 1, "train_accuracy": 0.5, "valid_accuracy": 0.75, "train_loss": 0.6, "valid_loss": 0.4}
    assert read_histories(tmp_path)["resnet18"].to_dict("records") == [expected]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "epoch,valid_accuracy\n", "epoch,valid_accuracy\nx,y\n"])
def test_another_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "history_resnet18.csv").write_text(text)
    with pytest.raises(UserError, match=r"history_resnet18.csv: not a history"):
        read_histories(tmp_path)


def test_the_accuracy_figure_is_drawn_if_there_is_a_history(tmp_path: Path) -> None:
    redraw_accuracy(tmp_path)
    assert not list(tmp_path.iterdir())
    write_history(tmp_path / "history_resnet18.csv", ROWS)
    redraw_accuracy(tmp_path)
    assert (tmp_path / "accuracy_comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("size", "best"), [(64, 1), (32, 0)])
def test_a_tie_goes_to_the_larger_input_then_to_the_lower_loss(size: int, best: int) -> None:
    rows = [
        {"epoch": 1, "valid_accuracy": 0.9, "valid_loss": 0.1, "size": 32},
        {"epoch": 2, "valid_accuracy": 0.9, "valid_loss": 0.2, "size": size},
        {"epoch": 3, "valid_accuracy": float("nan"), "valid_loss": 0.0, "size": 64},
    ]
    assert best_row(pd.DataFrame(rows)) == best
    assert (rank(rows[1]) > rank(rows[0])) is bool(best)
