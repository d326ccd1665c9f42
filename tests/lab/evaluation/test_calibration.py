"""The expected calibration error: by hand, and against the obvious way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lab.evaluation.calibration import calibration


def test_calibration_by_hand() -> None:
    # Confidences 0.9, 0.9 (one of two right), 0.6 (right): |0.5 − 0.9|·2/3 + |1 − 0.6|·1/3 = 0.4.
    labels, given_ = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    found = calibration(labels, given_, bins=10)
    assert found.error == pytest.approx(0.4)
    assert (found.confidence, found.accuracy) == pytest.approx((0.8, 2 / 3))
    assert found.bins.index.tolist() == [6, 9] and found.bins["images"].tolist() == [1, 2]


@settings(max_examples=60)
@given(
    arrays.arrays(np.int64, st.shared(st.integers(1, 40), key="n"), elements=st.integers(0, 2)),
    arrays.arrays(
        np.float64, st.shared(st.integers(1, 40), key="n").map(lambda n: (n, 3)), elements=st.floats(0.01, 1)
    ),
)
def test_calibration_against_the_obvious_way(labels: np.ndarray, weights: np.ndarray) -> None:
    given_ = weights / weights.sum(axis=1, keepdims=True)
    found = calibration(labels, given_)
    error = 0.0
    for m in range(1, 16):
        inside_ = [i for i, row in enumerate(given_) if (m - 1) / 15 < row.max() <= m / 15]
        if inside_:
            right = np.mean([given_[i].argmax() == labels[i] for i in inside_])
            error += len(inside_) / len(labels) * abs(right - np.mean([given_[i].max() for i in inside_]))
    assert found.error == pytest.approx(error, abs=1e-9)
    assert abs(found.confidence - found.accuracy) <= found.error + 1e-12  # the triangle inequality
