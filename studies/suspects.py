"""Labels that are probably wrong, by confident learning on the probabilities of a classical head for images it was not fitted on.

Northcutt et al. 2021, Confident Learning: Estimating Uncertainty in Dataset Labels (arXiv 1911.00068), as cleanlab implements it.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lab.text import duration, percent

FOLDS, SEED = 5, 0
COMPONENTS = 256  # principal components, of wider features: their variance without a label
PENALTY = 1.0  # C times the number of features: a head that fits every label finds no wrong one


def out_of_fold(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities [N, K] of logistic regression on features [N, D], each image's by a head that was fitted without it.

    Images of the same group, such as duplicates, are in the same fold.
    """
    if features.shape[1] > 8 * COMPONENTS:
        found = PCA(min(COMPONENTS, len(features)), svd_solver="randomized", random_state=SEED)
        features = found.fit_transform(features)
        share = percent(found.explained_variance_ratio_.sum(), 0)
        print(f"labels: {found.n_components_} principal components, {share} of the variance", flush=True)
    probabilities = np.zeros((len(features), classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    for number, (fitted, rest) in enumerate(folds.split(features, labels, groups), 1):
        began = time.perf_counter()
        head = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY / features.shape[1], max_iter=300))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 300 iterations are enough for a ranking
            head.fit(features[fitted], labels[fitted])
        probabilities[np.ix_(rest, head.classes_)] = head.predict_proba(features[rest])
        took = duration(time.perf_counter() - began)
        print(f"labels: fold {number} of {FOLDS} fitted without its {len(rest):,} images, {took}", flush=True)
    return probabilities


def suspicious(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, int]:
    """All images [N], first those whose labels are suspected, then the others, the most suspicious first; and the number of the
    suspected."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    used, labels = np.unique(labels, return_inverse=True)  # without classes that have no image
    probabilities = probabilities[:, used]
    scores = get_label_quality_scores(labels, probabilities, method="normalized_margin")
    wrong = find_label_issues(labels, probabilities, n_jobs=1)
    return np.lexsort((scores, ~wrong)), int(wrong.sum())
