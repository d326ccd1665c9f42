"""The history of a run, one row per epoch: written, read and formatted for messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from lab.checkpoints.checkpoint import RENAMED, About
from lab.errors import UserError
from lab.files import write_whole
from lab.text import duration, percent
from models import catalog


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write the history as CSV: accuracies 0…1, losses in nats, seconds per epoch, images per second of training. Without a
    finished epoch there is no file."""
    if not history:
        path.unlink(missing_ok=True)
        return
    write_whole(path, pd.DataFrame(history).to_csv(index=False, float_format="%.6g"))


def write_run(path: Path, about: About) -> None:
    """Write the settings, the preprocessing, the records, the threads and the algorithms of a run as JSON."""
    names = ("model", "classes", "data", "lists", "settings", "preprocessing", "records", "threads", "algorithms")
    values = asdict(about)
    run = {name: values[name] for name in names}
    write_whole(path, json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def read_histories(folder: Path) -> dict[str, pd.DataFrame]:
    """The histories in a folder by model, in the order of the catalogue, with the present names of columns."""
    histories = {}
    for model in catalog.names():
        path = folder / f"history_{model}.csv"
        if not path.is_file():
            continue
        try:
            table = pd.read_csv(path).rename(columns=RENAMED)
        except pd.errors.EmptyDataError:
            table = pd.DataFrame()
        numbers = table.apply(pd.to_numeric, errors="coerce")
        if "epoch" not in table or "valid_accuracy" not in table or table.empty or numbers["epoch"].isna().any():
            raise UserError(f"{path}: not a history; expected columns such as epoch and valid_accuracy.")
        histories[model] = numbers
    return histories


def best_of(about: About) -> tuple[float, float, float]:
    """The key by which epochs are compared, of the best epoch: valid accuracy; among equals the larger input, because a network
    that was trained at its full size is to be used at it; then the lower loss."""
    best = next((row for row in about.history if row["epoch"] == about.metrics.get("epoch")), about.metrics)
    return rank(best) if best else (-1.0, 0.0, 0.0)


def rank(row: Mapping[Any, float]) -> tuple[float, float, float]:
    """The key of :func:`best_of` of a row of a history; 0 for a size or loss that it lacks."""
    return row["valid_accuracy"], row.get("size", 0.0), -row.get("valid_loss", 0.0)


def best_row(history: pd.DataFrame) -> int:
    """The position of the best epoch in a history, the first by the key of :func:`best_of`; a missing accuracy is the lowest."""
    rows = history.assign(valid_accuracy=history["valid_accuracy"].fillna(-1)).fillna(0.0).to_dict("records")
    return max(range(len(rows)), key=lambda number: rank(rows[number]))


def describe_best(about: About) -> str:
    """The best epoch so far, in a message."""
    return f"best valid accuracy {percent(about.metrics['valid_accuracy'])} in epoch {about.metrics['epoch']:.0f}"


def epoch_line(model: str, row: dict[str, float], about: About, epochs: int) -> str:
    """The results of an epoch in one line."""
    return (
        f"{model} epoch {row['epoch']}/{epochs}: train {percent(row['train_accuracy'])}, valid "
        f"{percent(row['valid_accuracy'])}, {describe_best(about)}; loss {row['train_loss']:.3f} / {row['valid_loss']:.3f}, "
        f"{row['size']} px, {row['images_per_second']:.0f} images/s, {duration(row['seconds'])}"
    )
