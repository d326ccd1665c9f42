"""Classical heads on features: logistic regression, decision tree, k nearest neighbours, linear SVM.

Features are standardised with the mean and standard deviation of the training images. Each head has one setting, which is chosen
on valid by a small grid.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import ssyrk
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from lab.evaluation.confidence import fit_temperature
from lab.terminal import progress, warn
from lab.text import duration, percent

# The grids. C is given for features whose squares sum to 1 in an image, and is divided by the number of features.
GRIDS: dict[str, list[float]] = {
    "logreg": [0.1, 1, 10, 100, 1000],
    "tree": [4, 6, 8, 10, 15],
    "knn": [1, 3, 5, 9, 15, 25],
    "svm": [0.001, 0.01, 0.1, 1, 10],
}
SETTINGS = {"logreg": "C", "tree": "max_depth", "knn": "n_neighbors", "svm": "C"}
WIDE = 8192  # features; with more, linear heads are fitted in coordinates of the training images
COLUMNS = 2000  # features that a tree is given
ROWS = 512  # images that are standardised at once
SEED = 0
Predict = Callable[[np.ndarray], np.ndarray]  # features [n, D] → class probabilities [n, K]


@dataclass(frozen=True)
class Training:
    """The features of the training images [N, D], their labels [N], and the number of classes K."""

    features: np.ndarray
    labels: np.ndarray
    classes: int

    @cached_property
    def scaler(self) -> StandardScaler:
        """Mean and standard deviation of each feature."""
        scaler = StandardScaler()
        for part in parts(self.features):
            scaler.partial_fit(part)
        return scaler

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """Features [n, D] with the training images' mean 0 and standard deviation 1, float32."""
        return (features - self.scaler.mean_.astype(np.float32)) / self.scaler.scale_.astype(np.float32)

    @cached_property
    def coordinates(self) -> np.ndarray:
        """What linear heads are fitted on, float32 [N, M]: the standardised features Z, or, with more than ``WIDE``, the Cholesky
        factor L of Z Zᵀ.

        A linear head with an L2 penalty has weights w = Zᵀ a (the representer theorem: Schölkopf et al. 2001), so that it
        depends on Z Zᵀ = L Lᵀ alone. There is a Q with orthonormal columns and Z = L Qᵀ, so that the head on L has the same
        scores and the same penalty.
        """
        if self.features.shape[1] <= WIDE:
            return np.concatenate([self.standardise(part) for part in parts(self.features)])
        count, width = self.features.shape
        print(
            f"linear heads: fitted on {count:,} coordinates in place of {width:,} features, which gives the same heads",
            flush=True,
        )
        mean, scale = self.scaler.mean_.astype(np.float32), self.scaler.scale_.astype(np.float32)
        gram = np.zeros((count, count), np.float32, order="F")
        for begin in progress(range(0, width, 2048), "products of all pairs", unit=" parts"):
            part = slice(begin, begin + 2048)
            columns = (self.features[:, part] - mean[part]) / scale[part]
            gram = ssyrk(1.0, columns.T, 1.0, gram, trans=1, lower=1, overwrite_c=1)
        # The mean of the features is 0, so that the matrix is singular. The addition is below float32's errors of the sums.
        diagonal = np.arange(count)
        gram[diagonal, diagonal] += 1e-5 * gram[diagonal, diagonal].mean()
        factor: np.ndarray = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        return np.ascontiguousarray(factor)

    def to_features(self, weights: np.ndarray) -> np.ndarray:
        """Weights of coordinates [M, K] as weights of standardised features [D, K]."""
        if self.features.shape[1] <= WIDE:
            return weights
        solved = solve_triangular(self.coordinates, weights, lower=True, trans="T", check_finite=False)
        total = np.zeros((self.features.shape[1], weights.shape[1]), np.float32)
        for begin, part in zip(range(0, len(solved), ROWS), parts(self.features), strict=True):
            total += self.standardise(part).T @ solved[begin : begin + ROWS]
        return total


@dataclass(frozen=True)
class Fitted:
    """A fitted head.

    Attributes:
        predict: features [n, D] → class probabilities [n, K].
        parameters: the numbers that it stores.
        strength: how telling each feature is by the head's own measure, [D].
        details: what else was chosen.
        weights: of the standardised features [D, K], for linear heads.
        tree, columns: of a decision tree, and the features that it was given.
    """

    predict: Predict
    parameters: int
    strength: np.ndarray
    details: dict[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None
    tree: DecisionTreeClassifier | None = None
    columns: np.ndarray | None = None


def parts(features: np.ndarray) -> Iterator[np.ndarray]:
    """Features in blocks of ``ROWS`` images, so that memory holds only a part of a memory-mapped array."""
    return (features[begin : begin + ROWS] for begin in range(0, len(features), ROWS))


def in_blocks(predict: Predict) -> Predict:
    """``predict`` applied to blocks of images."""
    return lambda features: np.concatenate([predict(part) for part in parts(features)])


def fit_linear(training: Training, head: str, valid: np.ndarray, labels: np.ndarray) -> Iterator[tuple[float, Fitted]]:
    """Logistic regression (L-BFGS) or linear SVM (squared hinge loss, each class against the rest) for each C of the grid."""
    width = training.features.shape[1]
    if head == "logreg":
        model = LogisticRegression(max_iter=500, warm_start=True)
    else:
        model = LinearSVC(dual=True, max_iter=2000, random_state=SEED)
    for value in GRIDS[head]:
        model.set_params(C=value / width)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(training.coordinates, training.labels)
        if any(issubclass(one.category, ConvergenceWarning) for one in caught):
            warn(f"{head}: C {value / width:.2g} stopped after {model.max_iter:,} iterations, before it converged.")
        weights, bias = by_class(model.coef_, model.intercept_, model.classes_, training.classes)
        yield value / width, linear(training, training.to_features(weights), bias, head, valid, labels)


def by_class(coef: np.ndarray, intercept: np.ndarray, seen: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's coefficients as weights [M, K] and biases [K]. Of two classes it has one row, the difference between them,
    of which each gets half; a class without a training image gets the bias -inf, which makes its probability 0."""
    if len(seen) == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.append(-intercept, intercept) / 2
    weights, bias = np.zeros((coef.shape[1], classes), np.float32), np.full(classes, -np.inf, np.float32)
    weights[:, seen], bias[seen] = coef.T, intercept
    return weights, bias


def linear(
    training: Training, weights: np.ndarray, bias: np.ndarray, head: str, valid: np.ndarray, labels: np.ndarray
) -> Fitted:
    """A linear head. The scores of an SVM are no logarithms of probabilities: their softmax is taken at the temperature that fits
    valid best (Guo et al. 2017), as for the networks."""

    def scores(features: np.ndarray) -> np.ndarray:
        return np.asarray((training.standardise(features) @ weights + bias).astype(np.float64))

    temperature = 1.0
    seen = np.flatnonzero(np.isfinite(bias))
    known = np.isin(labels, seen)
    if head == "svm" and known.any():
        rows = in_blocks(scores)(valid)[known][:, seen]
        spread = float(rows.std()) or 1.0  # a temperature is sought between limits, near those of logits
        temperature = spread * fit_temperature(np.searchsorted(seen, labels[known]), softmax(rows / spread, axis=1))
    predict = in_blocks(lambda features: softmax(scores(features) / temperature, axis=1))
    details = {"temperature": temperature} if head == "svm" else {}
    return Fitted(predict, weights.size + bias.size, np.abs(weights).max(axis=1), details, weights)


def most_telling(training: Training) -> np.ndarray:
    """The F statistic of each feature [D]: variance between the classes over variance within them."""
    found = []
    with warnings.catch_warnings():  # a feature that is the same in all images gives 0 / 0
        warnings.simplefilter("ignore")
        for begin in range(0, training.features.shape[1], 2048):
            found.append(f_classif(training.features[:, begin : begin + 2048], training.labels)[0])
    return np.nan_to_num(np.concatenate(found), nan=0.0, posinf=0.0)


def fit_tree(training: Training, strength: np.ndarray) -> Iterator[tuple[float, Fitted]]:
    """A decision tree for each depth. Of more than ``COLUMNS`` features it is given those with the largest F statistic, because
    the time of a fit grows with their number."""
    columns = np.sort(np.argsort(-strength, kind="stable")[:COLUMNS])
    if len(columns) < len(strength):
        print(
            f"tree: given {len(columns):,} of {len(strength):,} features, those that differ most between the classes (F)"
        )
    values = np.concatenate([part[:, columns] for part in parts(training.features)])
    for depth in GRIDS["tree"]:
        tree = DecisionTreeClassifier(max_depth=int(depth), random_state=SEED).fit(values, training.labels)

        def predict(features: np.ndarray, tree: DecisionTreeClassifier = tree) -> np.ndarray:
            rows = np.zeros((len(features), training.classes))
            rows[:, tree.classes_] = tree.predict_proba(features[:, columns])
            return rows

        own = np.zeros(len(strength))
        own[columns] = tree.feature_importances_
        leaves = tree.get_n_leaves()
        numbers = int(2 * (tree.tree_.node_count - leaves) + leaves * training.classes)
        details = {"features_given": len(columns)}
        yield depth, Fitted(in_blocks(predict), numbers, own, details, tree=tree, columns=columns)


def fit_neighbours(training: Training, strength: np.ndarray, valid: np.ndarray) -> Iterator[tuple[float, Fitted]]:
    """k nearest neighbours by cosine similarity of the standardised features, for each k; a class has its share of the k."""

    def unit(features: np.ndarray) -> np.ndarray:
        values = training.standardise(features)
        return values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12)

    stored = np.empty(training.features.shape, np.float32)
    for begin, part in zip(range(0, len(stored), ROWS), parts(training.features), strict=True):
        stored[begin : begin + ROWS] = unit(part)
    # On vectors of length 1 the order by distance is that by cosine; scikit-learn's own cosine would copy all of them.
    counts = [int(k) for k in GRIDS["knn"] if k <= len(stored)]
    index = NearestNeighbors(n_neighbors=counts[-1], algorithm="brute").fit(stored)
    one_hot = np.eye(training.classes)[training.labels]
    nearest: dict[int, np.ndarray] = {}  # of valid, whose search takes minutes with HOG

    def search(features: np.ndarray) -> np.ndarray:
        found = [index.kneighbors(unit(part), return_distance=False) for part in parts(features)]
        return np.concatenate(found)

    nearest[id(valid)] = search(valid)
    for k in counts:

        def predict(features: np.ndarray, k: int = k) -> np.ndarray:
            found = nearest[id(features)] if id(features) in nearest else search(features)
            return one_hot[found[:, :k]].mean(axis=1)

        yield k, Fitted(predict, stored.size, strength)


def choose(
    training: Training, head: str, valid: np.ndarray, labels: np.ndarray, strength: np.ndarray
) -> tuple[float, Fitted, dict[str, float]]:
    """The setting with the best accuracy on valid, the first of equals, with its head and the accuracies of the whole grid."""
    if head == "tree":
        candidates = fit_tree(training, strength)
    elif head == "knn":
        candidates = fit_neighbours(training, strength, valid)
    else:
        candidates = fit_linear(training, head, valid, labels)
    grid: dict[str, float] = {}
    best: tuple[float, float, Fitted] | None = None
    began = time.perf_counter()
    for value, fitted in candidates:
        accuracy = float((fitted.predict(valid).argmax(axis=1) == labels).mean())
        grid[f"{value:.3g}"] = accuracy
        now = time.perf_counter()
        print(
            f"{head}: {SETTINGS[head]} {value:.3g}: {percent(accuracy)} on valid, {duration(now - began)}", flush=True
        )
        began = now
        if best is None or accuracy > best[0]:
            best = accuracy, value, fitted
    assert best is not None
    end = ", at an end of the grid" if f"{best[1]:.3g}" in (next(iter(grid)), next(reversed(grid))) else ""
    print(f"{head}: {SETTINGS[head]} {best[1]:.3g}, the best on valid.csv{end}")
    return best[1], best[2], grid
