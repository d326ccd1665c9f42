"""Predict a list with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.checkpoints.checkpoint import About, check_data
from lab.checkpoints.ensembles import load_members
from lab.data.batches import Batches, stored_batches
from lab.data.lists import DataSet, ImageList
from lab.data.preprocessing import Preprocessing
from lab.evaluation.confidence import calibrated, threshold
from lab.evaluation.inference import decide_d4, predict_members
from lab.evaluation.unlike import UNLIKE, are_unlike
from lab.hardware import Hardware

NOT_FOR_DIAGNOSIS = "These predictions are not for diagnosis."


@dataclass(frozen=True)
class Predicted:
    """A model's predictions for a list.

    Attributes:
        raw: the network's class probabilities [N, K], before the temperature.
        probabilities: at the checkpoint's temperature [N, K].
        unlike: which images are unlike the training images, bool [N].
        d4: whether the probabilities are averaged over D4.
        about: the description of the checkpoint.
    """

    raw: np.ndarray
    probabilities: np.ndarray
    unlike: np.ndarray
    d4: bool
    about: About

    @property
    def certain(self) -> np.ndarray:
        """Whether each image's confidence reaches the checkpoint's threshold, bool [N]."""
        return np.asarray(self.probabilities.max(axis=1) >= threshold(self.about, self.d4))

    @property
    def verdicts(self) -> np.ndarray:
        """``certain``, ``uncertain`` or ``unlike the training images`` for each image, [N]."""
        return np.where(self.unlike, UNLIKE, np.where(self.certain, "certain", "uncertain"))


def predict_list(
    path: Path, model: str, data: DataSet, name: str, images: ImageList, d4: str, hardware: Hardware
) -> Predicted:
    """Predict a list with the checkpoint ``path`` and its members. ``name`` is that of the image store.

    Raises UserError if the checkpoint was trained on other classes or lists.
    """
    members = load_members(path, model)
    about = members[0][1]
    check_data(path, about, data)
    for network, _ in members:
        hardware.place(network)

    def feed(preprocessing: Preprocessing) -> Batches:
        return stored_batches(data.name, name, images, preprocessing, hardware.device)

    averaged = decide_d4(about, d4)
    raw = predict_members(members, feed, hardware, averaged, f"predicting {model}")
    unlike = are_unlike(feed(about.preprocessing), about) if about.typical else np.zeros(len(images), dtype=bool)
    return Predicted(raw, calibrated(raw, about, averaged), unlike, averaged, about)
