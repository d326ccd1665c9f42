"""How far a prediction can be trusted: a temperature for the probabilities, and a confidence below which it is uncertain.

Both are fitted on valid when a training ends, with and without D4 averaging, and are kept in the checkpoint.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from lab.checkpoints.checkpoint import About

RISK = 0.5  # of the errors that all of valid has: the share of errors that is left among the certain predictions
NONE = 2.0  # a threshold that no confidence reaches
RANGE = math.log(20)  # a temperature is between 1/20 and 20


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [N, K] at a temperature, float64: the softmax of their logarithms divided by it. The order of the classes
    remains (Guo et al. 2017, On Calibration of Modern Neural Networks, §4.2)."""
    return np.asarray(softmax(np.log(np.clip(probabilities, 1e-12, None, dtype=np.float64)) / temperature, axis=1))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature with the smallest cross-entropy on labelled images, probabilities [N, K].

    The targets are 1 − 1/(N + 2) and not 1 (Platt 1999, Probabilistic Outputs for Support Vector Machines, §2.2), because a
    network without an error on a short list would else become certain of everything.
    """
    logs = np.log(np.clip(probabilities, 1e-12, None, dtype=np.float64))
    rest = 1 / (len(labels) + 2)
    targets = np.full(logs.shape, rest / (logs.shape[1] - 1))
    targets[np.arange(len(labels)), labels] = 1 - rest

    def loss(exponent: float) -> float:
        return -float((targets * log_softmax(logs / math.exp(exponent), axis=1)).sum(axis=1).mean())

    return math.exp(float(minimize_scalar(loss, bounds=(-RANGE, RANGE), method="bounded").x))


def risk_and_coverage(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each confidence that occurs, highest first: the confidence, the share of images with it or a higher one (coverage), and
    the share of errors among these (risk) (Geifman and El-Yaniv 2017, Selective Classification for Deep Neural Networks)."""
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    order = np.argsort(-confidence, kind="stable")
    confidence, errors = confidence[order], np.cumsum(wrong[order])
    last = np.append(confidence[1:] != confidence[:-1], True)  # images of equal confidence are accepted together
    count = np.arange(1, len(labels) + 1)
    return confidence[last], (count / len(labels))[last], (errors / count)[last]


def fit_threshold(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The lowest confidence at which the risk is at most ``RISK`` of that of all images; with its risk and coverage. Where all
    predictions are right, it is 0: all are certain."""
    confidence, coverage, risk = risk_and_coverage(labels, probabilities)
    fits = np.flatnonzero(risk <= RISK * risk[-1])
    if not len(fits):  # the most confident predictions are wrong
        return {"certain": NONE, "certain_risk": 0.0, "certain_coverage": 0.0}
    index = fits[-1]
    # Between two images, so that rounding on another machine changes neither.
    threshold = 0.0 if index == len(risk) - 1 else float(confidence[index : index + 2].mean())
    return {"certain": threshold, "certain_risk": float(risk[index]), "certain_coverage": float(coverage[index])}


def fit_confidence(labels: np.ndarray, plain: np.ndarray, averaged: np.ndarray) -> dict[str, float]:
    """The temperature, threshold, risk and coverage for a checkpoint, from the probabilities [N, K] of valid without and with D4
    averaging; the names of the latter end in ``_d4``."""
    values: dict[str, float] = {}
    for ending, rows in (("", plain), ("_d4", averaged)):
        temperature = fit_temperature(labels, rows)
        found = {"temperature": temperature, **fit_threshold(labels, scaled(rows, temperature))}
        values |= {f"{name}{ending}": value for name, value in found.items()}
    return values


def setting(about: About, name: str, d4: bool, default: float) -> float:
    """A value of :func:`fit_confidence` in a checkpoint, or ``default`` in one of an earlier version or from elsewhere."""
    return about.confidence.get(f"{name}{'_d4' if d4 else ''}", default)


def calibrated(probabilities: np.ndarray, about: About, d4: bool) -> np.ndarray:
    """A network's class probabilities [N, K] at the checkpoint's temperature, float64; unchanged if it has none."""
    return scaled(probabilities, setting(about, "temperature", d4, 1.0)) if about.confidence else probabilities


def threshold(about: About, d4: bool) -> float:
    """The confidence below which a prediction is uncertain; 0 if the checkpoint has none."""
    return setting(about, "certain", d4, 0.0)
