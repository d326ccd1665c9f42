"""Predicting a list with the saved network of a data set, or with the average of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.checkpoints.checkpoint import About, check_classes
from lab.checkpoints.ensembles import load_members
from lab.data.batches import Batches, stored_batches
from lab.data.lists import DataSet, ImageList
from lab.data.preprocessing import Preprocessing
from lab.evaluation.inference import decide_d4, predict_members
from lab.hardware import Hardware


def predict_list(
    path: Path, model: str, data: DataSet, name: str, images: ImageList, d4: str, hardware: Hardware
) -> tuple[np.ndarray, About]:
    """Probabilities [N, K] of a saved depth for a list, preprocessed as its checkpoint says, averaged where that has several
    members; ``name`` is its store's."""
    members = load_members(path, model)
    about = members[0][1]
    check_classes(path, about, data.classes)
    for network, _ in members:
        hardware.place(network)

    def batches(preprocessing: Preprocessing) -> Batches:
        return stored_batches(data.name, name, images, preprocessing, hardware.device)

    return predict_members(members, batches, hardware, decide_d4(about, d4), f"predicting {model}"), about
