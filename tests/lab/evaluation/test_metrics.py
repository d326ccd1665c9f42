"""Metrics: cases computed by hand, properties of any classifier, and invalid input."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from lab.errors import UserError
from lab.evaluation.metrics import COLUMNS, auc_per_class, classification_metrics, mcnemar, metrics_table, write_metrics

# Two classes: probabilities of class 1 for its five images (TP 4, FN 1) and for the five others (TN 3, FP 2).
POSITIVE, NEGATIVE = [0.9, 0.8, 0.7, 0.6, 0.4], [0.1, 0.2, 0.3, 0.65, 0.75]
BINARY_LABELS = np.array([1] * 5 + [0] * 5)
BINARY_PROBABILITIES = np.array([[1 - p, p] for p in POSITIVE + NEGATIVE])

# Three classes: rows are true, columns predicted; the predicted class has probability 0.8, the two others 0.1.
THREE = np.array([[5, 1, 0], [1, 3, 1], [0, 0, 4]])


def from_matrix(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) and probabilities (N, K) with this confusion matrix (K, K)."""
    k = len(matrix)
    true, predicted = np.repeat(np.arange(k * k), matrix.ravel()) // k, np.repeat(np.arange(k * k), matrix.ravel()) % k
    return true, np.where(np.eye(k, dtype=bool)[predicted], 0.8, 0.2 / (k - 1))


def values(table: pd.DataFrame, column: str = "value") -> dict[tuple[str, str], float]:
    """Return {(class, metric): value} of one model's rows."""
    return {(str(c), str(m)): float(v) for c, m, v in zip(table["class"], table["metric"], table[column], strict=True)}


# By hand: accuracy, balanced accuracy, macro F1, AUC, log loss; per class precision, recall, specificity, F1, support (and AUC).
# Of the 25 pairs of the two classes, 5 + 5 + 4 + 3 + 3 are ranked correctly. The ROC curve of a score with two values has one
# corner: its area is the mean of sensitivity and specificity.
OVERALL = ["accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss"]
EACH = ["precision", "recall", "specificity", "f1", "support", "auc"]
AREAS = [(5 / 6 + 8 / 9) / 2, (3 / 5 + 9 / 10) / 2, (1 + 10 / 11) / 2]
TWO_LOSS = -sum(math.log(p) for p in POSITIVE + [1 - p for p in NEGATIVE]) / 10
THREE_LOSS = -(12 * math.log(0.8) + 3 * math.log(0.1)) / 15


@pytest.mark.parametrize(
    ("labels", "probabilities", "overall", "classes"),
    [
        (
            *(BINARY_LABELS, BINARY_PROBABILITIES),
            [7 / 10, (4 / 5 + 3 / 5) / 2, (8 / 11 + 6 / 9) / 2, 20 / 25, TWO_LOSS],
            {"normal": [3 / 4, 3 / 5, 4 / 5, 6 / 9, 5], "blast": [4 / 6, 4 / 5, 3 / 5, 8 / 11, 5]},
        ),
        (
            *from_matrix(THREE),
            [12 / 15, (5 / 6 + 3 / 5 + 1) / 3, (10 / 12 + 6 / 9 + 8 / 9) / 3, sum(AREAS) / 3, THREE_LOSS],
            {
                "a": [5 / 6, 5 / 6, 8 / 9, 10 / 12, 6, AREAS[0]],
                "b": [3 / 4, 3 / 5, 9 / 10, 6 / 9, 5, AREAS[1]],
                "c": [4 / 5, 4 / 4, 10 / 11, 8 / 9, 4, AREAS[2]],
            },
        ),
    ],
)
def test_metrics_by_hand(
    labels: np.ndarray, probabilities: np.ndarray, overall: list[float], classes: dict[str, list[float]]
) -> None:
    expected = {("overall", metric): value for metric, value in zip(OVERALL, overall, strict=True)}
    expected |= {(name, metric): value for name in classes for metric, value in zip(EACH, classes[name], strict=False)}
    table = classification_metrics(labels, probabilities, [*classes])
    assert values(table) == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    """7 of 10, z = 1.959964, z² = 3.841459: centre (0.7 + z²/20) / (1 + z²/10) = 0.644493,
    half width z sqrt(0.7 · 0.3 / 10 + z²/400) / (1 + z²/10) = 0.247715."""
    row = classification_metrics(BINARY_LABELS, BINARY_PROBABILITIES, ["normal", "blast"]).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((0.644493 - 0.247715, 0.644493 + 0.247715), abs=2e-6)
    assert row["note"] == "7 of 10 images"


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (1, 6, 2 * (1 + 7) / 2**7),  # both tails: at most one of seven
        (5, 0, 2 * 1 / 2**5),
        (2, 2, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p: float) -> None:
    labels = np.zeros(only_a + only_b + 6, dtype=int)
    a, b = labels.copy(), labels.copy()
    b[:only_a] = 1
    a[only_a : only_a + only_b] = 1
    a[-2:] = b[-2:] = 1  # both wrong: not counted
    assert mcnemar(labels, a, b) == (only_a, only_b, pytest.approx(p))


@st.composite
def classified(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,), often with absent classes, and probabilities (N, K)."""
    k, n = draw(st.integers(2, 5)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random.integers(0, draw(st.integers(1, k)), n)
    return labels, random.dirichlet(np.ones(k), n)


@settings(max_examples=15)
@given(classified())
def test_any_classifier(case: tuple[np.ndarray, np.ndarray]) -> None:
    """Values are fractions inside their intervals; the order of the images has no effect; nothing warns."""
    labels, probabilities = case
    names = [f"class {k}" for k in range(probabilities.shape[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = classification_metrics(labels, probabilities, names)
    found = values(table)
    assert found["overall", "accuracy"] == pytest.approx(np.mean(probabilities.argmax(axis=1) == labels))
    assert sum(found[name, "support"] for name in names) == len(labels)
    for name in names:
        assert math.isnan(found[name, "recall"]) == (found[name, "support"] == 0)
    fractions = table[~table["metric"].isin(["support", "log_loss"]) & table["value"].notna()]
    assert fractions["value"].between(0, 1).all()
    bounded = table[table["low"].notna()]
    assert ((bounded["low"] <= bounded["value"] + 1e-12) & (bounded["value"] <= bounded["high"] + 1e-12)).all()
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = classification_metrics(labels[order], probabilities[order], names)
    pd.testing.assert_frame_equal(table, shuffled, rtol=1e-9)


def test_metrics_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(3)
    labels, probabilities = np.arange(90) % 3, random.dirichlet(np.ones(3), 90)
    found = values(classification_metrics(labels, probabilities, "abc"))
    predicted = probabilities.argmax(axis=1)
    assert found["overall", "balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["overall", "auc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))


def test_a_class_without_images_is_undefined_and_excluded_from_means() -> None:
    labels, probabilities = from_matrix(THREE)
    present = labels != 2
    table = classification_metrics(labels[present], probabilities[present], "abc")
    found = values(table)
    assert math.isnan(found["c", "recall"]) and math.isnan(found["c", "auc"])
    assert found["c", "specificity"] == pytest.approx(10 / 11)
    assert found["overall", "balanced_accuracy"] == pytest.approx((5 / 6 + 3 / 5) / 2)
    assert found["overall", "auc"] == pytest.approx((found["a", "auc"] + found["b", "auc"]) / 2)
    assert "macro one-vs-rest over 2 of 3 classes" in table["note"].tolist()
    assert np.isnan(auc_per_class(np.ones(4, dtype=int), np.full((4, 2), 0.5))).all()


def test_probabilities_rounded_to_bfloat16_are_accepted() -> None:
    rounded = (BINARY_PROBABILITIES * 1.004).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = values(classification_metrics(BINARY_LABELS, rounded, ["normal", "blast"]))
    assert found["overall", "auc"] == pytest.approx(0.8)


def test_the_table_has_each_pair_of_models_once_and_can_be_read_again(tmp_path: Path) -> None:
    correct = np.eye(2)[BINARY_LABELS] * 0.9 + 0.05
    probabilities = {"resnet18": BINARY_PROBABILITIES, "resnet50": correct, "resnet152": BINARY_PROBABILITIES}
    table = metrics_table({model: (BINARY_LABELS, rows) for model, rows in probabilities.items()}, ["hem", "all"])
    assert table.columns.tolist() == COLUMNS
    assert not table.duplicated(["model", "class", "metric"]).any()
    pairs = table[table["metric"] == "mcnemar_p"].set_index("model")["value"].to_dict()
    # Only resnet50 is correct on three images: p = 2 / 2³.
    assert pairs == {
        "resnet18 vs resnet50": pytest.approx(0.25),
        "resnet18 vs resnet152": pytest.approx(1.0),
        "resnet50 vs resnet152": pytest.approx(0.25),
    }
    only = table[table["model"] == "resnet18 vs resnet50"].set_index("metric")["value"]
    assert (only["only_first_right"], only["only_second_right"]) == (0, 3)
    write_metrics(tmp_path / "metrics.csv", table)
    text = (tmp_path / "metrics.csv").read_bytes()
    assert b"resnet18,overall,accuracy,0.7,0.396778,0.892209,7 of 10 images\n" in text
    assert b"resnet18,hem,support,5,,,images\n" in text and b"\r" not in text
    pd.testing.assert_series_equal(pd.read_csv(tmp_path / "metrics.csv")["value"], table["value"], rtol=1e-5)
    single = metrics_table({"resnet18": (BINARY_LABELS, BINARY_PROBABILITIES)}, ["x", "y"])
    assert "mcnemar_p" not in single["metric"].tolist()


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], np.zeros((0, 2)), "no labelled image"),
        ([0, 2], [[0.5, 0.5]] * 2, "label 2 of image 2 is outside the model's classes 0…1"),
        ([0, -1], [[0.5, 0.5]] * 2, "label -1 of image 2"),
        ([0, 1], [[0.5, 0.5], [np.nan, np.nan]], "first: image 2"),
    ],
)
def test_invalid_lists_are_refused(labels: list[int], probabilities: list[list[float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classification_metrics(np.array(labels, dtype=int), np.array(probabilities), ["x", "y"])


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="no model"):
        metrics_table({}, ["x", "y"])
    with pytest.raises(ValueError, match="class names"):
        classification_metrics(BINARY_LABELS, BINARY_PROBABILITIES, ["x"])
    with pytest.raises(ValueError, match="logits"):
        classification_metrics(BINARY_LABELS, BINARY_PROBABILITIES * 7, ["x", "y"])
    with pytest.raises(ValueError, match="not"):
        classification_metrics(BINARY_LABELS[1:], BINARY_PROBABILITIES, ["x", "y"])
    other = {"a": (BINARY_LABELS, BINARY_PROBABILITIES), "b": (BINARY_LABELS[::-1], BINARY_PROBABILITIES)}
    with pytest.raises(ValueError, match="same list in the same order"):
        metrics_table(other, ["x", "y"])
    with pytest.raises(ValueError, match="same images"):
        mcnemar(np.zeros(3), np.zeros(3), np.zeros(2))
