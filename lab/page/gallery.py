"""The valid list on the page: every model's probabilities, and the images that pass a filter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import confusion_matrix

from lab.checkpoints.checkpoint import About
from lab.checkpoints.ensembles import Member
from lab.data.augmentation import network_input
from lab.data.batches import Batches
from lab.data.lists import ImageList
from lab.data.preprocessing import Preprocessing
from lab.data.store import Store
from lab.evaluation.confidence import calibrated
from lab.evaluation.inference import Feed, predict_members
from lab.evaluation.mistakes import confusions
from lab.hardware import Hardware

CHECKED_IMAGES = 12  # predicted again before a saved table is used
TOLERANCE = 5e-4  # the table has five decimals, and machines round sums in different orders


@dataclass(frozen=True)
class Valid:
    """The valid list: ``windows`` is its image store, ``probabilities`` are float [N, K] for each model."""

    images: ImageList
    classes: list[str]
    windows: Store
    probabilities: dict[str, np.ndarray]

    def matrix(self, model: str) -> np.ndarray:
        """The confusion matrix: counts [K, K], a row for each true class."""
        predicted = self.probabilities[model].argmax(axis=1)
        return confusion_matrix(self.images.labels, predicted, labels=range(len(self.classes)))

    def confused(self, model: str, limit: int = 12) -> list[tuple[int, int, int]]:
        """The most frequent errors, most frequent first: true class, predicted class, number of images."""
        pairs = confusions({model: (self.images.labels, self.probabilities[model])}, len(self.classes), limit)
        return [(true, predicted, images) for true, predicted, (images,), _ in pairs]

    def choose(
        self,
        model: str,
        label: int | None = None,
        result: str = "all",
        low: float = 0.0,
        high: float = 1.0,
        pair: tuple[int, int] | None = None,
        order: str = "list",
    ) -> np.ndarray:
        """Indices of the images that pass a filter, by the predictions of ``model``.

        Args:
            label: the true class.
            result: ``correct`` or ``wrong`` predictions, ``differ`` for images that the models predict differently, or ``all``.
            low, high: limits of the confidence, fractions.
            pair: the true and the predicted class.
            order: ``list`` for the order of the list, ``least`` or ``most`` for the lowest or highest confidence first.
        """
        rows, labels = self.probabilities[model], self.images.labels
        predicted, confidence = rows.argmax(axis=1), rows.max(axis=1)
        mask = (confidence >= low) & (confidence <= high)
        if label is not None:
            mask &= labels == label
        if pair is not None:
            mask &= (labels == pair[0]) & (predicted == pair[1])
        if result in ("correct", "wrong"):
            mask &= (predicted == labels) == (result == "correct")
        if result == "differ":
            mask &= np.any([other.argmax(axis=1) != predicted for other in self.probabilities.values()], axis=0)
        indices = np.flatnonzero(mask)
        if order != "list":
            key = confidence[indices] if order == "least" else -confidence[indices]
            indices = indices[np.argsort(key, kind="stable")]
        return indices


def valid_probabilities(
    members: list[Member],
    images: ImageList,
    batches: dict[Preprocessing, Batches],
    hardware: Hardware,
    d4: bool,
    path: Path,
) -> tuple[np.ndarray, bool]:
    """Class probabilities [N, K] of the valid list: read from the table that evaluate.py wrote to ``path`` if it belongs to these
    weights and images, or else computed; and whether they were read."""
    about = members[0][1]
    table = read_table(path, images, about, d4)
    if table is None:
        print(f"{about.model}: predicting valid.csv; run evaluate.py once, and the page starts without this step")
    else:
        indices = np.unique(np.linspace(0, len(images) - 1, CHECKED_IMAGES).astype(int))

        def feed(preprocessing: Preprocessing) -> Feed:
            store = batches[preprocessing].store
            source = torch.from_numpy(store.images[store.rows[indices]])
            return [(network_input(source, preprocessing).to(hardware.device), torch.empty(0), indices)]

        again = calibrated(predict_members(members, feed, hardware, d4), about, d4)
        if np.abs(again - table[indices]).max() <= TOLERANCE:
            print(f"{about.model}: using the predictions in {path}, which match these weights")
            return table, True
        print(f"{about.model}: {path} is of other weights; predicting valid.csv again")
    rows = predict_members(members, batches.__getitem__, hardware, d4, f"{about.model} on valid")
    return calibrated(rows, about, d4), False


def read_table(path: Path, images: ImageList, about: About, d4: bool) -> np.ndarray | None:
    """The probabilities [N, K] in a table of evaluate.py; None unless its rows are those of the list and its accuracy is that of
    the checkpoint, where known."""
    try:
        table = pd.read_csv(path, dtype={"ID": str}, keep_default_na=False)
        rows = table[[f"probability_{label}" for label in range(len(about.classes))]].to_numpy(dtype=float)
        same = table["ID"].tolist() == images.ids and table["label"].tolist() == images.labels.tolist()
    except (OSError, ValueError, KeyError):
        return None
    if not same or not np.abs(rows.sum(axis=1) - 1).max() <= 1e-3:
        return None
    accuracy = about.metrics.get("valid_accuracy_d4" if d4 else "valid_accuracy")
    hits = int((rows.argmax(axis=1) == images.labels).sum())
    # Another machine may resolve a tie between two probabilities differently: one image in a thousand is tolerated.
    return rows if accuracy is None or abs(accuracy * len(images) - hits) <= len(images) / 1000 else None
