"""Facts worth discussing, computed from each image's prediction: calibration, hardest images, confusions, depth against data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

BINS = 15  # as Guo et al. 2017

Results = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Calibration:
    """How far a network's confidence is its accuracy. ``bins`` has a row for each bin that holds images: confidence and accuracy
    (means over them), images. ``error`` is the ECE; ``confidence`` and ``accuracy`` are means over all images."""

    bins: pd.DataFrame
    error: float
    confidence: float
    accuracy: float


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Calibration:
    """Expected calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, §2, equation 3).

    The confidence of a prediction is its probability. Bin m of M holds the confidences in ((m − 1)/M, m/M]; the error is the mean
    over the bins of |accuracy − confidence|, weighted by images.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # scikit-learn's calibration_curve uses the same bins, but does not count the images in them.
    number = np.ceil(confidence * bins).clip(1, bins).astype(int)
    table = pd.DataFrame({"bin": number, "confidence": confidence, "accuracy": right.astype(float), "images": 1})
    means = table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "images": "sum"})
    error = float((means["images"] * (means["accuracy"] - means["confidence"]).abs()).sum() / len(labels))
    return Calibration(means, error, float(confidence.mean()), float(right.mean()))


def wrong_by_depth(results: Results) -> np.ndarray:
    """Which images each depth gets wrong, bool [depths, N]."""
    return np.array([probabilities.argmax(axis=1) != labels for labels, probabilities in results.values()])


def hardest(results: Results, count: int) -> list[int]:
    """The images with the least probability of their true class, mean over the depths; only those that some depth gets wrong."""
    labels = next(iter(results.values()))[0]
    rows = np.arange(len(labels))
    given = np.mean([probabilities[rows, labels] for _, probabilities in results.values()], axis=0)
    wrong = set(np.flatnonzero(wrong_by_depth(results).any(axis=0)).tolist())
    return [index for index in np.argsort(given, kind="stable").tolist() if index in wrong][:count]


def confusions(results: Results, classes: int, count: int) -> list[tuple[int, int, list[int], int]]:
    """The most frequent mistakes: true class, predicted class, how often by each depth, images of the true class."""
    labels = next(iter(results.values()))[0]
    matrices = np.array(
        [confusion_matrix(labels, p.argmax(axis=1), labels=range(classes)) for _, p in results.values()]
    )
    total = matrices.sum(axis=0)
    images = matrices[0].sum(axis=1)
    np.fill_diagonal(total, 0)
    order = np.argsort(-total, axis=None, kind="stable")[:count]
    pairs = [(int(place) // classes, int(place) % classes) for place in order]
    return [(t, p, matrices[:, t, p].tolist(), int(images[t])) for t, p in pairs if total[t, p]]
