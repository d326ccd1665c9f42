"""The expected calibration error: computed by hand, and compared with a direct implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lab.evaluation.calibration import calibration


def test_calibration_by_hand() -> None:
    # Confidences 0.9, 0.9 (one of two right), 0.6 (right): |0.5 − 0.9|·2/3 + |1 − 0.6|·1/3 = 0.4.
    labels, probabilities = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    result = calibration(labels, probabilities, bins=10)
    assert result.error == pytest.approx(0.4)
    assert (result.confidence, result.accuracy) == pytest.approx((0.8, 2 / 3))
    assert result.bins.index.tolist() == [6, 9] and result.bins["images"].tolist() == [1, 2]


N = st.shared(st.integers(1, 40), key="n")


@settings(max_examples=60)
@given(
    arrays.arrays(np.int64, N, elements=st.integers(0, 2)),
    arrays.arrays(np.float64, N.map(lambda n: (n, 3)), elements=st.floats(0.01, 1)),
)
def test_calibration_equals_a_direct_implementation(labels: np.ndarray, weights: np.ndarray) -> None:
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    result = calibration(labels, probabilities)
    error = 0.0
    for m in range(1, 16):
        indices = [i for i, row in enumerate(probabilities) if (m - 1) / 15 < row.max() <= m / 15]
        if indices:
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in indices])
            confidence = np.mean([probabilities[i].max() for i in indices])
            error += len(indices) / len(labels) * abs(accuracy - confidence)
    assert result.error == pytest.approx(error, abs=1e-9)
    assert abs(result.confidence - result.accuracy) <= result.error + 1e-12  # the triangle inequality
