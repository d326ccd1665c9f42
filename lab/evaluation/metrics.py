"""Metrics of classifiers on a labelled list: the table in ``metrics.csv``.

Columns of the table, one row per (model, class, metric):

=========  ==========================================================================================================
model      ``resnet18``; for a comparison ``resnet18 vs resnet50``
class      ``overall``, or the name of a class, one-vs-rest
metric     overall: accuracy, balanced_accuracy, macro_f1, auc, log_loss; per class: precision, recall, specificity,
           f1, support (images) and, with more than two classes, auc; for a comparison: only_first_right,
           only_second_right (images), mcnemar_p; then overall: temperature, calibration_error_raw,
           calibration_error, certain_threshold, certain_coverage, certain_risk, unlike
value      a fraction 0…1, a number of images, or nats per image (log_loss); empty if undefined
low, high  95 % Wilson interval of the metrics that are proportions of images (Wilson 1927)
note       the counts behind the value, or why it is undefined
=========  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)
from statsmodels.stats import contingency_tables

from lab.errors import UserError
from lab.evaluation.calibration import BINS, calibration
from lab.evaluation.confidence import setting, threshold
from lab.evaluation.prediction import Predicted
from lab.files import write_whole

# For each model its labels [N] and probabilities [N, K] on the same list.
Results = Mapping[str, tuple[np.ndarray, np.ndarray]]
COLUMNS = ["model", "class", "metric", "value", "low", "high", "note"]
OVERALL = "overall"  # not "all", which is a class in the leukemia data


def checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) as integers, and probabilities (N, K) as float64 with rows normalised to a sum of 1.

    Raises ValueError for wrong shapes, negative values or sums that differ from 1; UserError for faults that a user can
    correct: no images, a label outside the model's classes, NaN.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities) or probabilities.shape[1] < 2:
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} are not (N,) and (N, K >= 2)")
    if len(labels) == 0:
        raise UserError("the list has no labelled image; give a list with labels.")
    classes = probabilities.shape[1]
    unknown = np.flatnonzero((labels < 0) | (labels >= classes) | (labels != np.floor(labels)))
    if len(unknown):
        raise UserError(
            f"label {labels[unknown[0]]} of image {unknown[0] + 1} is outside the model's classes 0…{classes - 1}; "
            "evaluate the model on the data set that it was trained on."
        )
    broken = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(broken):
        raise UserError(
            f"the probabilities of {len(broken)} images (first: image {broken[0] + 1}) are not numbers: "
            "the model diverged; train it again with a lower learning rate."
        )
    sums = probabilities.sum(axis=1, keepdims=True)
    if (probabilities < 0).any() or np.abs(sums - 1).max() > 1e-2:  # loose enough for a softmax in bfloat16
        raise ValueError("probabilities must be in 0…1 and sum to one in each row: logits were given?")
    return labels.astype(np.int64), probabilities / sums


def auc_per_class(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the one-vs-rest area under the ROC curve of each class, (K,); NaN if all images or none are of the class."""
    aucs = np.full(probabilities.shape[1], np.nan)
    for k in range(len(aucs)):
        if 0 < np.count_nonzero(labels == k) < len(labels):
            aucs[k] = roc_auc_score(labels == k, probabilities[:, k])
    return aucs


def overall_auc(aucs: np.ndarray) -> float:
    """Return the AUC of class 1 for two classes, else the mean over the classes with a defined AUC, NaN if there is none."""
    if len(aucs) == 2:
        return float(aucs[1])
    defined = aucs[~np.isnan(aucs)]
    return float(defined.mean()) if len(defined) else float("nan")


def wilson(hits: int, images: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson 1927); NaN for no images."""
    if images == 0:
        return float("nan"), float("nan")
    interval = binomtest(hits, images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def saved_accuracy(metrics: Mapping[str, float], d4: bool) -> tuple[float, float, float]:
    """Accuracy on valid in a checkpoint's metrics, with D4 averaging or without, and its 95 % interval; NaN if unknown."""
    accuracy = metrics.get("valid_accuracy_d4" if d4 else "valid_accuracy", float("nan"))
    images = int(metrics.get("valid_images", 0))
    hits = 0 if np.isnan(accuracy) else round(accuracy * images)
    return accuracy, *wilson(hits, images)


def _row(scope: str, metric: str, value: float, of: tuple[int, int] | None = None, note: str = "") -> dict[str, object]:
    """Make one row of the table; ``of`` is (hits, images) for a metric that is a proportion of images."""
    low, high = wilson(*of) if of else (float("nan"), float("nan"))
    note = f"{of[0]} of {of[1]} images" if of else note
    return {"class": scope, "metric": metric, "value": float(value), "low": low, "high": high, "note": note}


def classification_metrics(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of one model, without the column ``model``; the predicted class is the most probable one.

    Args: labels (N,) in 0…K−1, probabilities (N, K), K class names. A class without images has no recall and no AUC
    (NaN), and macro means exclude it. Raises as :func:`checked`, and ValueError for a wrong number of names.
    """
    labels, probabilities = checked(labels, probabilities)
    if len(class_names) != probabilities.shape[1]:
        raise ValueError(f"{len(class_names)} class names for {probabilities.shape[1]} columns of probabilities")
    predictions, classes = probabilities.argmax(axis=1), np.arange(len(class_names))
    macro = precision_recall_fscore_support(labels, predictions, labels=classes, average="macro", zero_division=np.nan)
    each = precision_recall_fscore_support(labels, predictions, labels=classes, zero_division=np.nan)
    aucs, right = auc_per_class(labels, probabilities), int((predictions == labels).sum())
    defined = int((~np.isnan(aucs)).sum())
    if defined == 0:
        auc_note = "undefined: all labels are of one class"
    elif len(classes) == 2:
        auc_note = f"of class {class_names[1]}"
    else:
        auc_note = f"macro one-vs-rest over {defined} of {len(classes)} classes"
    present = f"mean over {np.count_nonzero(each[3])} of {len(classes)} classes"
    rows = [
        _row(OVERALL, "accuracy", accuracy_score(labels, predictions), (right, len(labels))),
        # Balanced accuracy is the macro mean of recall (Brodersen et al. 2010), here without classes that have no images.
        _row(OVERALL, "balanced_accuracy", macro[1], note=present),
        _row(OVERALL, "macro_f1", macro[2]),
        _row(OVERALL, "auc", overall_auc(aucs), note=auc_note),
        _row(OVERALL, "log_loss", log_loss(labels, probabilities, labels=classes), note="nats per image"),
    ]
    # (K, 2, 2) of TN FP / FN TP; scikit-learn returns floats if a class is missing.
    counts = multilabel_confusion_matrix(labels, predictions, labels=classes).astype(np.int64)
    for k, name in enumerate(class_names):
        (tn, fp), (fn, tp) = counts[k].tolist()
        specificity = recall_score(labels != k, predictions != k, zero_division=np.nan)
        absent = "" if tp + fn else "undefined: no images of this class"
        absent = absent if tn + fp else "undefined: all images are of this class"
        rows += [
            _row(name, "precision", each[0][k], (tp, tp + fp)),
            _row(name, "recall", each[1][k], (tp, tp + fn)),
            _row(name, "specificity", specificity, (tn, tn + fp)),
            _row(name, "f1", each[2][k]),
            _row(name, "support", each[3][k], note="images"),
        ]
        if len(classes) > 2:
            rows.append(_row(name, "auc", aucs[k], note=absent))
    return pd.DataFrame(rows, columns=COLUMNS[1:])


def mcnemar(labels: np.ndarray, predictions_a: np.ndarray, predictions_b: np.ndarray) -> tuple[int, int, float]:
    """Compare two classifiers on the same images by McNemar's exact, two-sided test; all arrays are (N,).

    Returns (b, c, p): the number of images that only ``a`` classifies correctly, the number for only ``b``, and the p value
    of b under Binomial(b + c, 1/2), 1 if b + c = 0. Source: McNemar 1947, "Note on the sampling error of the difference
    between correlated proportions".
    """
    if not np.shape(labels) == np.shape(predictions_a) == np.shape(predictions_b):
        raise ValueError("McNemar's test needs labels and predictions of the same images in the same order")
    right_a, right_b = np.equal(predictions_a, labels), np.equal(predictions_b, labels)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    table = [[int((right_a & right_b).sum()), only_a], [only_b, int((~right_a & ~right_b).sum())]]
    return only_a, only_b, float(contingency_tables.mcnemar(table, exact=True).pvalue)


def metrics_table(results: Results, class_names: Sequence[str]) -> pd.DataFrame:
    """Return the whole table: the rows of each model, then McNemar's test for each pair of models.

    Raises ValueError unless all models have the same labels. The p values are not corrected for the number of pairs.
    """
    if not results:
        raise UserError("there is no model to evaluate; train one first.")
    parts = [classification_metrics(*result, class_names).assign(model=model) for model, result in results.items()]
    rows = []
    for (first, (labels, given_a)), (second, (labels_b, given_b)) in combinations(results.items(), 2):
        if not np.array_equal(labels, labels_b):
            raise ValueError(f"{first} and {second} were not evaluated on the same list in the same order")
        b, c, p = mcnemar(labels, np.argmax(given_a, axis=1), np.argmax(given_b, axis=1))
        pair = {"model": f"{first} vs {second}"}
        rows += [
            pair | _row(OVERALL, "only_first_right", b, note="images"),
            pair | _row(OVERALL, "only_second_right", c, note="images"),
            pair | _row(OVERALL, "mcnemar_p", p, note="exact, two-sided, not corrected for the number of pairs"),
        ]
    parts += [pd.DataFrame(rows)] if rows else []
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def confidence_metrics(labels: np.ndarray, found: Predicted) -> pd.DataFrame:
    """Return the rows that say how far a model's confidence can be trusted, without the column ``model``.

    The calibration error is given before (raw) and after the temperature. Risk is the share of errors among the certain
    predictions. The temperature and the threshold were themselves fitted on valid.
    """
    images, limit = len(labels), threshold(found.about, found.d4)
    errors = int((found.certain & (found.probabilities.argmax(axis=1) != labels)).sum())
    count, unlike = int(found.certain.sum()), int(found.unlike.sum())
    fitted = "temperature" in found.about.confidence
    none = "none in the checkpoint; if train.py wrote it, the same command once more adds it"
    bins = f"expected calibration error, {BINS} bins"
    rows = [
        _row(OVERALL, "temperature", setting(found.about, "temperature", found.d4, 1.0), note="" if fitted else none),
        _row(OVERALL, "calibration_error_raw", calibration(labels, found.raw).error, note=f"{bins}, no temperature"),
        _row(OVERALL, "calibration_error", calibration(labels, found.probabilities).error, note=bins),
        _row(OVERALL, "certain_threshold", limit if limit <= 1 else np.nan, note="confidence" if fitted else none),
        _row(OVERALL, "certain_coverage", count / images, (count, images)),
        _row(OVERALL, "certain_risk", errors / count if count else np.nan, (errors, count)),
        _row(OVERALL, "unlike", unlike / images, (unlike, images)),
    ]
    return pd.DataFrame(rows, columns=COLUMNS[1:])


def write_metrics(path: Path, table: pd.DataFrame) -> None:
    """Write the table as CSV with six significant digits; undefined values are empty."""
    write_whole(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
