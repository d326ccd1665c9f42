"""Predict a list with a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.checkpoints.checkpoint import About, check_data
from lab.checkpoints.ensembles import load_members
from lab.data.batches import Batches, stored_batches
from lab.data.lists import DataSet, ImageList
from lab.data.preprocessing import Preprocessing
from lab.evaluation.inference import decide_d4, predict_members
from lab.hardware import Hardware


def predict_list(
    path: Path, model: str, data: DataSet, name: str, images: ImageList, d4: str, hardware: Hardware
) -> tuple[np.ndarray, About]:
    """Class probabilities [N, K] of a list by the checkpoint ``path`` and its members, and the checkpoint's description.

    ``name`` is that of the image store. Raises UserError if the checkpoint was trained on other classes or lists.
    """
    members = load_members(path, model)
    about = members[0][1]
    check_data(path, about, data)
    for network, _ in members:
        hardware.place(network)

    def feed(preprocessing: Preprocessing) -> Batches:
        return stored_batches(data.name, name, images, preprocessing, hardware.device)

    return predict_members(members, feed, hardware, decide_d4(about, d4), f"predicting {model}"), about
