"""Calibration: how well a network's confidence matches its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

BINS = 15  # as Guo et al. 2017


@dataclass(frozen=True)
class Calibration:
    """``bins`` has the mean confidence, accuracy and number of images of each non-empty bin; ``error`` is the expected
    calibration error; ``confidence`` and ``accuracy`` are means over all images."""

    bins: pd.DataFrame
    error: float
    confidence: float
    accuracy: float


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Calibration:
    """Expected calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, §2, equation 3).

    The confidence is the probability of the predicted class. Bin m of M is ((m − 1)/M, m/M]; the error is the mean over the bins
    of |accuracy − confidence|, weighted by the number of images.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # scikit-learn's calibration_curve has the same bins, but does not return the number of images in each.
    number = np.ceil(confidence * bins).clip(1, bins).astype(int)
    table = pd.DataFrame({"bin": number, "confidence": confidence, "accuracy": right.astype(float), "images": 1})
    means = table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "images": "sum"})
    error = float((means["images"] * (means["accuracy"] - means["confidence"]).abs()).sum() / len(labels))
    return Calibration(means, error, float(confidence.mean()), float(right.mean()))
