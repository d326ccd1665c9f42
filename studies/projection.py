"""Features in few dimensions: principal components, t-SNE and UMAP, how far their neighbourhoods can be trusted, and clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.linalg import eigh, eigvalsh
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

COMPONENTS = 50  # principal components that maps and clusters are made of
NEAREST = 15  # neighbours that two maps share
SEEDS = (0, 1, 2)
SILHOUETTE = 2000  # images: it compares all pairs
PART = 2048  # features at once, so that memory holds one standardised part

Map = Callable[[np.ndarray, int], np.ndarray]  # scores [n, C], seed → coordinates [n, 2]


@dataclass(frozen=True)
class Components:
    """Principal components of standardised features: ``scores`` [N, C] of the images, and the share of the variance of every
    component, ``shares`` [min(N, D)]."""

    scores: np.ndarray
    shares: np.ndarray

    def needed(self, share: float) -> int:
        """How many components have this share of the variance."""
        return min(len(self.shares), int(np.searchsorted(self.shares.cumsum(), share - 1e-9)) + 1)


def standardised(values: np.ndarray) -> Iterator[np.ndarray]:
    """Features [N, D] with mean 0 and standard deviation 1, in parts of ``PART`` columns; constant ones are 0."""
    for begin in range(0, values.shape[1], PART):
        part = np.asarray(values[:, begin : begin + PART], np.float32)
        spread = part.std(axis=0)
        yield (part - part.mean(axis=0)) / np.where(spread > 0, spread, 1)


def principal_components(values: np.ndarray) -> Components:
    """Principal components of features [N, D], by the smaller of the covariance [D, D] and the products of all pairs [N, N]."""
    count, width = values.shape
    kept = min(COMPONENTS, count - 1, width)
    if width <= count:
        whole = np.concatenate(list(standardised(values)), axis=1)
        square = whole.T @ whole
    else:
        square = np.zeros((count, count), np.float32)
        for part in standardised(values):
            square += part @ part.T
    shares = eigvalsh(square, check_finite=False)[::-1].clip(0)
    top, vectors = eigh(square, subset_by_index=[len(square) - kept, len(square) - 1], check_finite=False)
    vectors = vectors[:, ::-1]
    scores = whole @ vectors if width <= count else vectors * np.sqrt(top[::-1].clip(0))
    return Components(np.asarray(scores, np.float32), shares / shares.sum())


def tsne(scores: np.ndarray, seed: int | None) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton 2008) from a random start, or without a seed from the first two components, as Kobak and
    Berens 2019 advise (The art of using t-SNE for single-cell transcriptomics, doi 10.1038/s41467-019-13056-x)."""
    perplexity = min(30.0, (len(scores) - 1) / 3)
    start = "pca" if seed is None else "random"
    found = TSNE(perplexity=perplexity, init=start, random_state=seed or 0).fit_transform(scores)
    return np.asarray(found)


def umap(scores: np.ndarray, seed: int | None) -> np.ndarray:
    """UMAP (McInnes et al. 2018, arXiv 1802.03426) from its own start, or with a seed from a random one."""
    from umap import UMAP  # optional, and slow to import

    start = "spectral" if seed is None else "random"
    found = UMAP(n_neighbors=min(15, len(scores) - 1), init=start, random_state=seed or 0, n_jobs=1).fit_transform(
        scores
    )
    return np.asarray(found)


def has_umap() -> bool:
    """Whether umap-learn is installed."""
    return find_spec("umap") is not None


def nearest(points: np.ndarray) -> np.ndarray:
    """The numbers of the nearest other points of each point [n, NEAREST]."""
    count = min(NEAREST, len(points) - 1)
    return np.asarray(NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False))


def stability(scores: np.ndarray, draw: Map) -> tuple[float, float]:
    """How much a map depends on its random start: the share of the nearest neighbours that two maps have in common, mean over
    pairs of ``SEEDS``, and the mean trustworthiness of these maps, both 0…1."""
    maps = [draw(scores, seed + 1) for seed in SEEDS]
    around = [nearest(points) for points in maps]
    shared = [
        np.mean([len(set(one) & set(other)) / len(one) for one, other in zip(first, second, strict=True)])
        for first, second in combinations(around, 2)
    ]
    return float(np.mean(shared)), float(np.mean([trust(scores, points) for points in maps]))


def trust(scores: np.ndarray, points: np.ndarray) -> float:
    """The trustworthiness of a map [n, 2] (Venna and Kaski 2001), 0…1: whether its neighbours are near in the scores [n, C]."""
    count = min(NEAREST, (len(scores) - 1) // 2)
    return float(trustworthiness(scores, points, n_neighbors=count))


def clusters(scores: np.ndarray, labels: np.ndarray, classes: int) -> tuple[pd.DataFrame, np.ndarray]:
    """K-means for several K: adjusted Rand index and normalised mutual information with the labels, the same with the labels
    shuffled, and the silhouette. Also returns the cluster [N] of each image for K = ``classes``."""
    rng = np.random.default_rng(SEEDS[0])
    shuffled = rng.permutation(labels)
    some = rng.permutation(len(scores))[:SILHOUETTE]
    rows, chosen = [], np.zeros(len(scores), int)
    for count in sorted({2, max(2, classes // 2), classes, classes + 2, 2 * classes, 3 * classes}):
        if count >= len(scores):
            continue
        found = KMeans(count, n_init=5, random_state=SEEDS[0]).fit_predict(scores)
        several = len(set(found[some])) > 1
        rows.append(
            {
                "clusters": count,
                "ari": adjusted_rand_score(labels, found),
                "nmi": normalized_mutual_info_score(labels, found),
                "ari_shuffled": adjusted_rand_score(shuffled, found),
                "nmi_shuffled": normalized_mutual_info_score(shuffled, found),
                "silhouette": silhouette_score(scores[some], found[some]) if several else np.nan,
            }
        )
        chosen = found if count == classes else chosen
    return pd.DataFrame(rows), chosen


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12)


def similar(points: np.ndarray, queries: np.ndarray, among: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` most similar images by cosine among ``among``, for each of ``queries`` (numbers of rows of ``points``, which
    have length 1); a query is not its own neighbour. Returns their numbers and similarities, [Q, count]."""
    products = points[queries] @ points[among].T
    products[queries[:, None] == among[None]] = -np.inf
    order = np.argsort(-products, axis=1, kind="stable")[:, :count]
    return among[order], np.take_along_axis(products, order, axis=1)
