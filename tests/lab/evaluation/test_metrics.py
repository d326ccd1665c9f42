"""Metrics against cases worked by hand, properties that hold for any classifier, and faults."""

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

SETTINGS = settings(max_examples=15, deadline=None, derandomize=True)

# Two classes, by hand: probabilities of class 1 for its five images (TP 4, FN 1) and for the five others (TN 3, FP 2).
POSITIVE, NEGATIVE = [0.9, 0.8, 0.7, 0.6, 0.4], [0.1, 0.2, 0.3, 0.65, 0.75]
BINARY_LABELS = np.array([1] * 5 + [0] * 5)
BINARY_PROBABILITIES = np.array([[1 - p, p] for p in POSITIVE + NEGATIVE])

# Three classes, by hand: rows are true, columns predicted; the predicted class has 0.8, the two others 0.1.
THREE = np.array([[5, 1, 0], [1, 3, 1], [0, 0, 4]])


def spelled_out(matrix: np.ndarray, confidence: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) and probabilities (N, K) that have this confusion matrix (K, K)."""
    k = len(matrix)
    true, predicted = np.repeat(np.arange(k * k), matrix.ravel()) // k, np.repeat(np.arange(k * k), matrix.ravel()) % k
    return true, np.where(np.eye(k, dtype=bool)[predicted], confidence, (1 - confidence) / (k - 1))


def values(table: pd.DataFrame, column: str = "value") -> dict[tuple[str, str], float]:
    """Return {(class, metric): value} of one model's rows."""
    return {(str(c), str(m)): float(v) for c, m, v in zip(table["class"], table["metric"], table[column], strict=True)}


def test_two_classes_by_hand() -> None:
    table = classification_metrics(BINARY_LABELS, BINARY_PROBABILITIES, ["normal", "blast"])
    expected = {
        ("overall", "accuracy"): 7 / 10,
        ("overall", "balanced_accuracy"): (4 / 5 + 3 / 5) / 2,
        ("overall", "macro_f1"): (2 * 4 / (2 * 4 + 1 + 2) + 2 * 3 / (2 * 3 + 2 + 1)) / 2,
        # Of the 25 pairs the positives win 5 + 5 + 4 + 3 + 3.
        ("overall", "auc"): 20 / 25,
        ("overall", "log_loss"): -sum(math.log(p) for p in POSITIVE + [1 - p for p in NEGATIVE]) / 10,
        ("normal", "precision"): 3 / 4,
        ("normal", "recall"): 3 / 5,
        ("normal", "specificity"): 4 / 5,
        ("normal", "f1"): 6 / 9,
        ("normal", "support"): 5,
        ("blast", "precision"): 4 / 6,
        ("blast", "recall"): 4 / 5,
        ("blast", "specificity"): 3 / 5,
        ("blast", "f1"): 8 / 11,
        ("blast", "support"): 5,
    }
    assert values(table) == pytest.approx(expected, abs=1e-12)
    # Wilson, 7 of 10, z = 1.959964, z² = 3.841459: centre (0.7 + z²/20) / (1 + z²/10) = 0.644493,
    # half width z sqrt(0.7 · 0.3 / 10 + z²/400) / (1 + z²/10) = 0.247715.
    assert values(table, "low")["overall", "accuracy"] == pytest.approx(0.644493 - 0.247715, abs=2e-6)
    assert values(table, "high")["overall", "accuracy"] == pytest.approx(0.644493 + 0.247715, abs=2e-6)
    assert table.loc[table["metric"] == "accuracy", "note"].tolist() == ["7 of 10 images"]


def test_three_classes_by_hand() -> None:
    labels, probabilities = spelled_out(THREE)
    table = values(classification_metrics(labels, probabilities, "abc"))
    assert table["overall", "accuracy"] == pytest.approx(12 / 15)
    assert table["overall", "balanced_accuracy"] == pytest.approx((5 / 6 + 3 / 5 + 1) / 3)
    assert table["overall", "macro_f1"] == pytest.approx((10 / 12 + 6 / 9 + 8 / 9) / 3)
    assert table["overall", "log_loss"] == pytest.approx(-(12 * math.log(0.8) + 3 * math.log(0.1)) / 15)
    for name, precision, recall, specificity, f1, support in [
        ("a", 5 / 6, 5 / 6, 8 / 9, 10 / 12, 6),
        ("b", 3 / 4, 3 / 5, 9 / 10, 6 / 9, 5),
        ("c", 4 / 5, 4 / 4, 10 / 11, 8 / 9, 4),
    ]:
        assert table[name, "precision"] == pytest.approx(precision)
        assert table[name, "recall"] == pytest.approx(recall)
        assert table[name, "specificity"] == pytest.approx(specificity)
        assert table[name, "f1"] == pytest.approx(f1)
        assert table[name, "support"] == support
        # A score of two levels has a ROC curve of one corner: its area is the mean of sensitivity and specificity.
        assert table[name, "auc"] == pytest.approx((recall + specificity) / 2)
    assert table["overall", "auc"] == pytest.approx(np.mean([table[name, "auc"] for name in "abc"]))


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (1, 6, 2 * (1 + 7) / 2**7),  # both tails of at most one in seven
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
    a[-2:] = b[-2:] = 1  # both wrong: no evidence for either
    assert mcnemar(labels, a, b) == (only_a, only_b, pytest.approx(p))


@st.composite
def classified(draw: st.DrawFn, classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and probabilities (N, K), often with absent classes and without ties."""
    k, n = classes or draw(st.integers(2, 5)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random.integers(0, draw(st.integers(1, k)), n)
    return labels, random.dirichlet(np.ones(k), n)


@SETTINGS
@given(classified())
def test_any_classifier(case: tuple[np.ndarray, np.ndarray]) -> None:
    """Accuracy is trace/n; values and intervals are fractions; shuffling changes nothing; no warning ever."""
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
    slack = 1e-12
    assert ((bounded["low"] - slack <= bounded["value"]) & (bounded["value"] <= bounded["high"] + slack)).all()
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = classification_metrics(labels[order], probabilities[order], names)
    pd.testing.assert_frame_equal(table, shuffled, rtol=1e-9)


def test_agrees_with_the_library_functions_of_the_same_name() -> None:
    random = np.random.default_rng(3)
    labels, probabilities = np.arange(90) % 3, random.dirichlet(np.ones(3), 90)
    found = values(classification_metrics(labels, probabilities, "abc"))
    predicted = probabilities.argmax(axis=1)
    assert found["overall", "balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["overall", "auc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))


def test_absent_class_is_undefined_and_left_out_of_the_means() -> None:
    labels, probabilities = spelled_out(THREE)
    kept = labels != 2
    table = classification_metrics(labels[kept], probabilities[kept], "abc")
    found = values(table)
    assert math.isnan(found["c", "recall"]) and math.isnan(found["c", "auc"])
    assert found["c", "specificity"] == pytest.approx(10 / 11)
    assert found["overall", "balanced_accuracy"] == pytest.approx((5 / 6 + 3 / 5) / 2)
    assert found["overall", "auc"] == pytest.approx((found["a", "auc"] + found["b", "auc"]) / 2)
    assert "macro one-vs-rest over 2 of 3 classes" in table["note"].tolist()
    assert np.isnan(auc_per_class(np.ones(4, dtype=int), np.full((4, 2), 0.5))).all()


def test_float32_and_bfloat16_rounding_of_probabilities_is_no_error() -> None:
    rounded = (BINARY_PROBABILITIES * 1.004).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = values(classification_metrics(BINARY_LABELS, rounded, ["normal", "blast"]))
    assert found["overall", "auc"] == pytest.approx(0.8)


def test_table_of_three_models_holds_each_pair_once_and_reads_back(tmp_path: Path) -> None:
    labels = BINARY_LABELS
    always_right = np.eye(2)[labels] * 0.9 + 0.05
    results = {
        "resnet18": (labels, BINARY_PROBABILITIES),
        "resnet50": (labels, always_right),
        "resnet152": (labels, BINARY_PROBABILITIES),
    }
    table = metrics_table(results, ["hem", "all"])
    assert table.columns.tolist() == COLUMNS
    assert not table.duplicated(["model", "class", "metric"]).any()
    pairs = table[table["metric"] == "mcnemar_p"].set_index("model")["value"].to_dict()
    # Three images that only resnet50 gets right: p = 2 / 2³.
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


def test_one_model_has_no_pair() -> None:
    table = metrics_table({"resnet18": (BINARY_LABELS, BINARY_PROBABILITIES)}, ["x", "y"])
    assert "mcnemar_p" not in table["metric"].tolist()


@pytest.mark.parametrize(
    ("labels", "probabilities", "says"),
    [
        ([], np.zeros((0, 2)), "no labelled image"),
        ([0, 2], [[0.5, 0.5]] * 2, "label 2 of image 2 is none of the model's classes 0…1"),
        ([0, -1], [[0.5, 0.5]] * 2, "label -1 of image 2"),
        ([0, 1], [[0.5, 0.5], [np.nan, np.nan]], "first: image 2"),
    ],
)
def test_what_a_user_can_cause_is_said(labels: list[int], probabilities: list[list[float]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        classification_metrics(np.array(labels, dtype=int), np.array(probabilities), ["x", "y"])


def test_what_a_programmer_can_cause_is_refused() -> None:
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
