"""The valid list on the page: every model's probabilities, and the images that a filter leaves."""

from __future__ import annotations

from collections.abc import Mapping
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
from lab.evaluation.inference import Feed, predict_members
from lab.evaluation.mistakes import confusions
from lab.hardware import Hardware

PROBED = 12  # images that are predicted anew before a kept table is believed
ALIKE = 5e-4  # the table holds five decimals; the sums are rounded in another order from machine to machine


@dataclass(frozen=True)
class Valid:
    """``windows`` is the store of the list's images; ``probabilities`` float [N, K] by model."""

    images: ImageList
    classes: list[str]
    windows: Store
    probabilities: dict[str, np.ndarray]

    def matrix(self, model: str) -> np.ndarray:
        """Counts [K, K], true classes down, predicted across."""
        predicted = self.probabilities[model].argmax(axis=1)
        return confusion_matrix(self.images.labels, predicted, labels=range(len(self.classes)))

    def confused(self, model: str, most: int = 12) -> list[tuple[int, int, int]]:
        """The most frequent errors: true class, predicted class, images; the most frequent first."""
        found = confusions({model: (self.images.labels, self.probabilities[model])}, len(self.classes), most)
        return [(true, predicted, images) for true, predicted, (images,), _ in found]

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
        """Indices of the images that a filter leaves, as ``model`` answers.

        Those of class ``label``; the ``right`` or ``wrong`` ones, or those on which the depths ``differ``; with a confidence
        from ``low`` to ``high`` (fractions); of true and predicted class ``pair``. In the ``list``'s order, or the ``least`` or
        ``most`` sure first.
        """
        rows, labels = self.probabilities[model], self.images.labels
        predicted, sure = rows.argmax(axis=1), rows.max(axis=1)
        kept = (sure >= low) & (sure <= high)
        if label is not None:
            kept &= labels == label
        if pair is not None:
            kept &= (labels == pair[0]) & (predicted == pair[1])
        if result in ("right", "wrong"):
            kept &= (predicted == labels) == (result == "right")
        if result == "differ":
            kept &= np.any([other.argmax(axis=1) != predicted for other in self.probabilities.values()], axis=0)
        found = np.flatnonzero(kept)
        if order != "list":
            found = found[np.argsort(sure[found] if order == "least" else -sure[found], kind="stable")]
        return found


def valid_probabilities(
    members: list[Member],
    images: ImageList,
    batches: Mapping[Preprocessing, Batches],
    hardware: Hardware,
    d4: bool,
    kept: Path,
) -> np.ndarray:
    """Class probabilities [N, K] of the valid list: those that evaluate.py has ``kept``, where they are proved to be of these
    networks and images, or else predicted now."""
    about = members[0][1]
    table = read_kept(kept, images, about, d4)
    if table is not None:
        probed = np.unique(np.linspace(0, len(images) - 1, PROBED).astype(int))
        anew = predict_members(members, lambda one: probe(batches[one].store, probed, one, hardware), hardware, d4)
        if np.abs(anew - table[probed]).max() <= ALIKE:
            print(f"{about.model}: valid list as in {kept}, which fits these weights")
            return table
        print(f"{about.model}: {kept} was made by other weights, so the valid list is predicted anew")
    else:
        print(
            f"{about.model}: predicting the valid list; `python evaluate.py` keeps it, and the page then opens at once"
        )
    return predict_members(members, batches.__getitem__, hardware, d4, f"{about.model} on valid")


def read_kept(path: Path, images: ImageList, about: About, d4: bool) -> np.ndarray | None:
    """The probabilities of a table that evaluate.py wrote, [N, K]; None unless it is of the same list, row by row, and as right
    as the checkpoint says it is."""
    classes = len(about.classes)
    try:
        table = pd.read_csv(path, dtype={"ID": str}, keep_default_na=False)
        rows = table[[f"probability_{label}" for label in range(classes)]].to_numpy(dtype=float)
        same = table["ID"].tolist() == images.ids and table["label"].tolist() == images.labels.tolist()
    except (OSError, ValueError, KeyError):
        return None
    if not same or not np.abs(rows.sum(axis=1) - 1).max() <= 1e-3:
        return None
    said = about.metrics.get("valid_accuracy_d4" if d4 else "valid_accuracy")
    hits = int((rows.argmax(axis=1) == images.labels).sum())
    # Of two probabilities that are equal in all decimals another machine may take the other: one image in a thousand.
    return rows if said is not None and abs(said * len(images) - hits) <= len(images) / 1000 else None


def probe(store: Store, indices: np.ndarray, preprocessing: Preprocessing, hardware: Hardware) -> Feed:
    """Some images of the list as one batch."""
    source = torch.from_numpy(store.images[store.rows[indices]])
    return [(network_input(source, preprocessing).to(hardware.device), torch.empty(0), indices)]
