"""Mistakes of several models on the same images: the images they get wrong, and the classes they confuse."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from lab.evaluation.metrics import Results


def wrong_by_model(results: Results) -> np.ndarray:
    """The images that each model gets wrong, bool [models, N]."""
    return np.array([probabilities.argmax(axis=1) != labels for labels, probabilities in results.values()])


def hardest(results: Results, count: int) -> list[int]:
    """The images with the lowest mean probability of the true class over the models, hardest first; only those that a model
    gets wrong."""
    labels = next(iter(results.values()))[0]
    rows = np.arange(len(labels))
    of_truth = np.mean([probabilities[rows, labels] for _, probabilities in results.values()], axis=0)
    wrong = np.atleast_1d(wrong_by_model(results).any(axis=0))
    return [int(index) for index in np.argsort(of_truth, kind="stable") if wrong[index]][:count]


def confusions(results: Results, classes: int, count: int) -> list[tuple[int, int, list[int], int]]:
    """The most frequent mistakes, most frequent first: true class, predicted class, number by each model, images of the true
    class."""
    labels = next(iter(results.values()))[0]
    matrices = np.array(
        [confusion_matrix(labels, p.argmax(axis=1), labels=range(classes)) for _, p in results.values()]
    )
    total, images = matrices.sum(axis=0), matrices[0].sum(axis=1)
    np.fill_diagonal(total, 0)
    order = np.argsort(-total, axis=None, kind="stable")[:count]
    pairs = [divmod(int(cell), classes) for cell in order]
    return [(t, p, matrices[:, t, p].tolist(), int(images[t])) for t, p in pairs if total[t, p]]
