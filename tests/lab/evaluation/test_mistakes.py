"""The hardest images and the most frequent errors, computed by hand."""

from __future__ import annotations

import numpy as np

from lab.evaluation.mistakes import confusions, hardest, wrong_by_model


def test_hardest_images_and_confusions_by_hand() -> None:
    labels = np.array([0, 0, 1, 2])
    one = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
    two = np.array([[0.8, 0.2, 0], [0.3, 0.7, 0], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    results = {"resnet18": (labels, one), "resnet50": (labels, two)}
    assert wrong_by_model(results).tolist() == [[False, True, False, True], [False, True, True, False]]
    # Mean probability of the true class: 0.85 (no model is wrong), 0.25, 0.55, 0.5.
    assert hardest(results, 8) == [1, 3, 2] and hardest(results, 1) == [1]
    assert confusions(results, 3, 8) == [(0, 1, [1, 1], 2), (1, 0, [0, 1], 1), (2, 0, [1, 0], 1)]
    assert confusions(results, 3, 1) == [(0, 1, [1, 1], 2)]
    correct = {"resnet18": (labels[:1], one[:1])}
    assert hardest(correct, 8) == [] and confusions(correct, 3, 8) == []
