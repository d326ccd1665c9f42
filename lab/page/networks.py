"""A model on the page: what is known of it, and its answer to one image."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lab.checkpoints.ensembles import Member
from lab.data.augmentation import network_input, resample, to_uint8
from lab.data.preprocessing import Preprocessing
from lab.evaluation.gradcam import explain, heat, overlay, telling_stages
from lab.evaluation.inference import probabilities
from lab.hardware import Hardware
from models.catalog import find


@dataclass
class Depth:
    """A trained model.

    ``d4``: whether it answers with the mean of the eight views. ``accuracy`` is a fraction with its 95 % interval, NaN where not
    measured, of ``images`` of the valid list. ``history`` has one row per epoch. ``milliseconds`` are those of one image's
    prediction here, all views and members included.
    """

    model: str
    members: list[Member]
    d4: bool
    accuracy: tuple[float, float, float]
    images: int
    history: pd.DataFrame | None = None
    milliseconds: float = 0.0

    @property
    def preprocessing(self) -> Preprocessing:
        """That of the first member, which speaks for all."""
        return self.members[0][1].preprocessing

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return self.members[0][1].classes


@dataclass(frozen=True)
class Answer:
    """A depth's answer to one image.

    ``probabilities`` float32 [K]; ``seen`` the network's input, uint8 [S, S, 3]; ``heat`` the heat map over the window, uint8
    [T, T, 3], of class ``label`` at ``stage``, whose own map has ``places`` × ``places``; ``found``: whether anything was hot.
    """

    depth: Depth
    probabilities: np.ndarray
    seen: np.ndarray
    heat: np.ndarray
    label: int
    stage: str
    places: int
    found: bool

    @property
    def predicted(self) -> int:
        """The most probable class."""
        return int(self.probabilities.argmax())


def network_inputs(depth: Depth, image: np.ndarray, hardware: Hardware) -> tuple[np.ndarray, np.ndarray, list[Tensor]]:
    """Of a raw image, RGB uint8 [H, W, 3]: the first member's window uint8 [T, T, 3] and input uint8 [S, S, 3] to look at, and
    every member's input float32 [1, 3, S, S]."""
    preprocessings = [about.preprocessing for _, about in depth.members]
    windows = [torch.from_numpy(preprocessing.crop(image)[None]) for preprocessing in preprocessings]
    pairs = zip(windows, preprocessings, strict=True)
    inputs = [network_input(window, preprocessing).to(hardware.device) for window, preprocessing in pairs]
    first, window = preprocessings[0], windows[0]
    return window[0].numpy(), to_uint8(resample(window, first.size, padding=first.padding))[0], inputs


def predict_inputs(depth: Depth, inputs: list[Tensor], hardware: Hardware) -> np.ndarray:
    """Class probabilities of one image, float32 [K]: the mean over the members, as everywhere in this project."""
    networks = [network for network, _ in depth.members]
    rows = [probabilities(*pair, hardware, depth.d4)[0].cpu().numpy() for pair in zip(networks, inputs, strict=True)]
    return np.mean(rows, axis=0)


def look(depth: Depth, image: np.ndarray, hardware: Hardware, label: int | None = None, stage: str = "") -> Answer:
    """Predict one raw image, RGB uint8 [H, W, 3], and show what speaks for class ``label``, or else for the one predicted, at a
    ``stage``, or else at the deepest that tells where: one that is not the deepest of all can find nothing that speaks for a
    class, and then the one before it is asked. The map is the mean over the members, too."""
    window, seen, inputs = network_inputs(depth, image, hardware)
    if label is None and len(inputs) > 1:  # one network finds it in the same pass
        label = int(predict_inputs(depth, inputs, hardware).argmax())
    known = find(depth.model).stages
    stages = [stage] if stage in known else telling_stages(known, seen.shape[0]) or list(known)[-1:]
    for stage in stages:
        found = [
            explain(network, one, label, stage, hardware, depth.d4)
            for (network, _), one in zip(depth.members, inputs, strict=True)
        ]
        hot = np.mean([heat(places, window.shape[0]) for _, places in found], axis=0)
        if hot.max() > 0:
            break
    row = np.mean([shares for shares, _ in found], axis=0)
    label = int(row.argmax()) if label is None else label
    return Answer(depth, row, seen, overlay(window, hot), label, stage, found[0][1].shape[-1], bool(hot.max() > 0))


def measure(depth: Depth, hardware: Hardware, rounds: int = 3) -> float:
    """Milliseconds that one image's prediction takes here: the median of some, after one that warms up."""
    image = np.zeros((depth.preprocessing.window, depth.preprocessing.window, 3), dtype=np.uint8)
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        predict_inputs(depth, network_inputs(depth, image, hardware)[2], hardware)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[1:])
