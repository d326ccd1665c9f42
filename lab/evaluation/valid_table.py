"""The tables ``valid_<model>.csv``: each image of the valid list with its true class, predicted class and class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lab.data.lists import ImageList
from lab.errors import UserError
from lab.evaluation.metrics import checked
from lab.files import write_whole


@dataclass(frozen=True)
class ValidTable:
    """A table's IDs, labels int64 [N] and probabilities float64 [N, K]."""

    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray


def write_predictions(path: Path, images: ImageList, probabilities: np.ndarray) -> None:
    """Write the probabilities [N, K] of a list's images, with five decimals."""
    columns = {"ID": images.ids, "label": images.labels, "prediction": probabilities.argmax(axis=1)}
    columns |= {f"probability_{label}": probabilities[:, label] for label in range(probabilities.shape[1])}
    write_whole(path, pd.DataFrame(columns).to_csv(index=False, float_format="%.5f", lineterminator="\n"))


def read_predictions_of(images: ImageList, path: Path) -> ValidTable:
    """Read a table. Raises :class:`UserError` if it is none, or not of these images with these labels."""
    table = read_predictions(path, "the command that wrote it")
    if table.ids != images.ids or not np.array_equal(table.labels, images.labels):
        raise UserError(f"{path}: is of another list than {images.csv}; evaluate the system again, or move the file.")
    return table


def read_predictions(path: Path, command: str) -> ValidTable:
    """Read a table. Raises :class:`UserError` if it is none, which names the ``command`` that writes it."""
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype={"ID": str})
        columns = [name for name in table.columns if name.startswith("probability_")]
        labels, probabilities = checked(table["label"].to_numpy(), table[columns].to_numpy())
        return ValidTable(table["ID"].tolist(), labels, probabilities)
    except (KeyError, TypeError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: is not what evaluate.py writes ({error}); run {command} again.") from None
