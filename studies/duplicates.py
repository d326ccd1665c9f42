"""Pairs of images that show the same: byte-identical files, and near ones, such as turned or compressed copies.

The hash of an image is the signs of its lowest frequencies (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash
Functions, §3.2.1, with signs in place of a comparison with the median). A flip changes the signs of the odd frequencies, and a
quarter turn also exchanges rows and columns, so that the hashes of the eight flips and turns follow from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_erosion
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm

from lab.data.images import read_image
from lab.data.preprocessing import cell_mask
from lab.terminal import progress
from studies.measurements import LOW, SIGNS

TURNS = tuple(product((False, True), repeat=3))  # whether to exchange rows and columns, then reverse rows, then columns
BLOCK = 512  # images that are compared with all others at once
SAMPLE, SEED = 2000, 0  # images whose distances choose the limit
MOST = 50_000  # pairs: with more, the hash does not tell these images apart
ALIKE, SIDE = 0.95, 64  # correlation of near duplicates, as grey images of SIDE px
# Of cells on black, where only the grain of the cell is compared: compressed copies have 0.79 and more (JPEG, quality 40),
# different cells at most 0.65 (the lab's 52 originals, and generated cells).
ALIKE_CELLS = 0.75


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """An image [H, W, …] after one of the eight flips and turns."""
    swap, rows, columns = TURNS[turn]
    image = image.swapaxes(0, 1) if swap else image
    return image[:: -1 if rows else 1, :: -1 if columns else 1]


def turned_signs(signs: np.ndarray, turn: int) -> np.ndarray:
    """The hashes [N, SIGNS] (−1 or 1) of the images after one of the eight flips and turns."""
    swap, rows, columns = TURNS[turn]
    whole = np.pad(signs, ((0, 0), (1, 0))).reshape(-1, LOW, LOW)
    whole = whole.swapaxes(1, 2) if swap else whole
    odd = np.where(np.arange(LOW) % 2, -1, 1).astype(signs.dtype)
    return (whole * (odd[:, None] if rows else 1) * (odd if columns else 1)).reshape(-1, SIGNS + 1)[:, 1:]


def distances(signs: np.ndarray, limit: int) -> tuple[np.ndarray, pd.DataFrame, int]:
    """Compare all pairs of hashes [N, SIGNS]: the smallest number of signs that differ over the eight flips and turns.

    Returns how many pairs have each distance, [SIGNS + 1], the pairs with up to ``limit`` (first < second, distance, turn), and
    the limit, which is lowered, below 0 at last, if more than ``MOST`` pairs are within it.
    """
    signs = np.where(signs > 0, 1, -1).astype(np.float32)
    all_turned = [turned_signs(signs, turn) for turn in range(len(TURNS))]
    counts, found = np.zeros(SIGNS + 1, np.int64), []
    for begin in progress(range(0, len(signs), BLOCK), "comparing all pairs", unit=" blocks"):
        products = np.stack([signs[begin : begin + BLOCK] @ other[begin:].T for other in all_turned])
        least = ((SIGNS - products.max(axis=0)) / 2).round().astype(np.int16)
        upper = np.triu(np.ones(least.shape, bool), 1)
        counts += np.bincount(least[upper], minlength=SIGNS + 1)
        first, second = np.nonzero(upper & (least <= limit))
        turns = products[:, first, second].argmax(axis=0)
        columns = {"first": begin + first, "second": begin + second, "distance": least[first, second], "turn": turns}
        found.append(pd.DataFrame(columns))
        while sum(map(len, found)) > MOST:
            limit -= 1
            found = [part[part["distance"] <= limit] for part in found]
    return counts, pd.concat(found, ignore_index=True), limit


def choose_limit(counts: np.ndarray, images: int) -> int:
    """The largest distance up to which less than one pair of so many ``images`` is expected by chance, if distances of different
    images are normally distributed; at least 0, the distance of identical files. ``counts`` are those of a sample."""
    numbers, total = np.arange(len(counts)), images * (images - 1) / 2
    if not counts.any():
        return 0
    middle = int(np.searchsorted(counts.cumsum(), counts.sum() / 2))
    # The spread above the median, because duplicates are below it.
    above = counts[middle:]
    spread = max(1.0, float(np.sqrt((above * (numbers[middle:] - middle) ** 2).sum() / above.sum())))
    expected = total * norm.cdf((numbers + 0.5 - middle) / spread)
    return max(0, int(np.searchsorted(expected, 1.0)) - 1)


def small_grey(path: Path) -> tuple[np.ndarray, float]:
    """An image as grey [SIDE, SIDE] with mean 0 and length 1, zeros if it is of one colour; and the correlation of its near
    duplicates. Of a cell on black, only the cell counts: otherwise all round cells would be alike."""
    image = read_image(path)
    mask = cell_mask(image)
    values, inside = shrunk(np.asarray(Image.fromarray(image).convert("L"))), np.ones((SIDE, SIDE), bool)
    if mask is not None:
        whole = shrunk(np.uint8(255) * mask) > 128
        core = binary_erosion(whole, iterations=2)  # without the border, because compression moves it
        inside = core if core.any() else inside
    values = np.where(inside, values - values[inside].mean(), 0)
    length = np.linalg.norm(values)
    return np.asarray(values / length if length else values), ALIKE if mask is None else ALIKE_CELLS


def shrunk(grey: np.ndarray) -> np.ndarray:
    """A grey image uint8 [H, W] as float32 [SIDE, SIDE]."""
    return np.array(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)


def near_pairs(
    signs: np.ndarray, paths: Sequence[Path], contents: Sequence[str]
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """Pairs of images that show the same. ``contents`` are the files' SHA-256.

    Returns the pairs (first, second, distance, turn, correlation, kind: identical or near), the counts of :func:`distances` and
    the limit. Identical files are paired with the first of them, which stands for all in near pairs. A near pair differs by no
    more signs than the limit, and its pixels correlate by ``ALIKE`` or more, those of cells on black by ``ALIKE_CELLS``.
    """
    own = pd.factorize(pd.Series(contents))[0]  # the number of each content, in the order of its first file
    firsts = np.unique(own, return_index=True)[1]
    copies = np.setdiff1d(np.arange(len(own)), firsts)
    identical = pd.DataFrame({"first": firsts[own[copies]], "second": copies, "distance": 0, "turn": 0})
    sample = np.random.default_rng(SEED).permutation(firsts)[:SAMPLE]
    limit = choose_limit(distances(signs[sample], -1)[0], len(firsts))
    counts, pairs, limit = distances(signs[firsts], limit)
    pairs = pairs.assign(first=firsts[pairs["first"]], second=firsts[pairs["second"]], kind="near")
    greys: dict[int, tuple[np.ndarray, float]] = {}
    correlations, alike = [], []
    numbers = pairs[["first", "second", "turn"]].to_numpy(int).tolist()
    for first, second, turn in progress(numbers, "comparing pixels", unit=" pairs"):
        for index in (first, second):
            if index not in greys:
                greys[index] = small_grey(paths[index])
        (one, least), (other, also) = greys[first], greys[second]
        correlations.append(float((one * turned(other, turn)).sum()))
        alike.append(correlations[-1] >= max(least, also))
    pairs = pairs.assign(correlation=correlations)[np.array(alike, bool)]
    pairs = pd.concat([identical.assign(kind="identical", correlation=1.0), pairs], ignore_index=True)
    return pairs, counts, limit


def groups(pairs: pd.DataFrame, count: int) -> np.ndarray:
    """The group [N] of each of ``count`` images: those that pairs connect have the same number."""
    links = coo_array((np.ones(len(pairs)), (pairs["first"], pairs["second"])), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1])
