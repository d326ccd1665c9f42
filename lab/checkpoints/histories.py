"""The history of a run: one row per epoch, written, read and put into words."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from lab.checkpoints.checkpoint import RENAMED, About
from lab.errors import UserError
from lab.files import write_whole
from lab.text import duration, percent
from models.catalog import names


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write the history as CSV: accuracies as fractions, losses in nats, seconds per epoch, images per second of training; no
    file before the first epoch has ended."""
    if not history:
        path.unlink(missing_ok=True)
        return
    write_whole(path, pd.DataFrame(history).to_csv(index=False, float_format="%.6g"))


def write_run(path: Path, about: About) -> None:
    """What a run was made with, to be read: its settings, what was measured of the images, and its records."""
    kept = {
        key: value for key, value in asdict(about).items() if key in ("model", "data", "lists", "classes", "settings")
    }
    kept |= {"preprocessing": asdict(about.preprocessing), "records": about.records}
    write_whole(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def read_histories(folder: Path) -> dict[str, pd.DataFrame]:
    """The histories of a data set's runs by model, in the order of the catalogue; columns of earlier versions are renamed."""
    histories = {}
    for model in names():
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


def best_of(metrics: dict[str, float]) -> tuple[float, float]:
    """What a new best must exceed: accuracy first, the lower loss among equals."""
    return (metrics["valid_accuracy"], -metrics["valid_loss"]) if metrics else (-1.0, 0.0)


def describe_best(about: About) -> str:
    """The best epoch so far in words."""
    return f"best valid accuracy {percent(about.metrics['valid_accuracy'])} in epoch {about.metrics['epoch']:.0f}"


def epoch_line(model: str, row: dict[str, float], about: About, epochs: int) -> str:
    """One line of results for an epoch."""
    return (
        f"{model} epoch {row['epoch']}/{epochs}: train {percent(row['train_accuracy'])}, valid "
        f"{percent(row['valid_accuracy'])}, {describe_best(about)}; loss {row['train_loss']:.3f} / {row['valid_loss']:.3f}, "
        f"{row['size']} px, {row['images_per_second']:.0f} images/s, {duration(row['seconds'])}"
    )
