"""Errors of several models on the same images: misclassified images and confused classes."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from lab.evaluation.metrics import Results


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The confusion matrix [K, K]: the number of images of each true class (row) by predicted class (column).

    ``labels`` are the true classes [N]; the predicted class is the most probable one of ``probabilities`` [N, K].
    """
    return confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(probabilities.shape[1]))


def wrong_by_model(results: Results) -> np.ndarray:
    """Whether each model misclassifies each image, bool [models, N]."""
    return np.array([probabilities.argmax(axis=1) != labels for labels, probabilities in results.values()])


def hardest(results: Results, count: int) -> list[int]:
    """Indices of the images with the lowest probability of the true class, averaged over the models, lowest first; only images
    that at least one model misclassifies."""
    labels = next(iter(results.values()))[0]
    rows = np.arange(len(labels))
    true_class = np.mean([probabilities[rows, labels] for _, probabilities in results.values()], axis=0)
    wrong = np.flatnonzero(wrong_by_model(results).any(axis=0))
    return wrong[np.argsort(true_class[wrong], kind="stable")][:count].tolist()


def confusions(results: Results, classes: int, count: int) -> list[tuple[int, int, list[int], int]]:
    """The most frequent errors, most frequent first: true class, predicted class, count by each model, images of the true
    class."""
    matrices = np.array([confusion(*result) for result in results.values()])
    total, images = matrices.sum(axis=0), matrices[0].sum(axis=1)
    np.fill_diagonal(total, 0)
    order = np.argsort(-total, axis=None, kind="stable")[:count]
    pairs = [divmod(int(cell), classes) for cell in order]
    return [(t, p, matrices[:, t, p].tolist(), int(images[t])) for t, p in pairs if total[t, p]]
