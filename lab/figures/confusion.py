"""Confusion matrices: one model's in counts and in % of the true class, or several models' in one figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.errors import UserError
from lab.evaluation.metrics import wilson
from lab.evaluation.mistakes import confusion
from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, plain, save
from lab.text import percent
from models.catalog import find


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Return each row of counts (K, K) in % of its sum; NaN if the sum is 0."""
    sums = matrix.sum(axis=1, keepdims=True)
    return np.divide(100.0 * matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0)


def _short_names(class_names: Sequence[str]) -> list[str]:
    """Return names that fit beside a matrix. Long names lose their middle, because names often differ at the end."""
    short = [name if len(name) <= 24 else f"{name[:13]}…{name[-10:]}" for name in class_names]
    return [plain(textwrap.fill(name, 13) if len(short) <= 4 else name) for name in short]


def _confusion_panel(
    axes: Axes, colours: np.ndarray, texts: list[list[str]], class_names: Sequence[str], heading: str, first: bool
) -> None:
    """Draw one matrix: ``colours`` (K, K) as shades of blue, a text in each cell, and the class names on the axes."""
    k = len(class_names)
    peak = max(float(np.nan_to_num(colours).max()), 1e-9)
    names = _short_names(class_names)
    size = 13 if k <= 3 else 11 if k <= 6 else 9.5
    seaborn.heatmap(
        np.nan_to_num(colours),
        ax=axes,
        vmin=0,
        vmax=peak * 1.15,
        cmap="Blues",
        cbar=False,
        square=True,
        linewidths=1.5,
        annot=np.array(texts),
        fmt="",
        # Constrained layout would otherwise measure all K × K texts several times.
        annot_kws={"fontsize": size, "in_layout": False},
        xticklabels=names,
        yticklabels=names if first else False,
    )
    for text in axes.texts:
        if k > 4 and text.get_text() in ("0", "0.0", "–"):
            text.set_color("#A0A0A0")  # grey, so that the errors are seen in a large matrix
    axes.tick_params(length=0, labelsize=TICK if k <= 8 else SMALL)
    for label in axes.get_yticklabels():
        label.set_rotation(0)
    for label in axes.get_xticklabels():
        label.set(**({"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if k > 4 else {"rotation": 0}))
    axes.set_xlabel("Predicted class", fontsize=LABEL)
    if first:
        axes.set_ylabel("True class", fontsize=LABEL)
    axes.set_title(heading, fontsize=LABEL)


def _checked_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Return the counts (K, K) as integers; ValueError if they are not K × K counts."""
    matrix = np.asarray(matrix)
    if matrix.shape != (len(class_names),) * 2 or (matrix < 0).any() or (matrix != np.floor(matrix)).any():
        raise ValueError(f"not a matrix of counts of {len(class_names)} classes: {matrix!r}")
    return matrix.astype(np.int64)


def _matrix_figure(panels: int, class_names: Sequence[str], title: str, foot: float = 0.0) -> tuple[Figure, np.ndarray]:
    """Make a figure and axes for several K × K matrices, in a row or, for more than 10 classes, in a column."""
    k = len(class_names)
    names = [name.split("\n") for name in _short_names(class_names)]
    longest, lines = max(len(line) for name in names for line in name), max(map(len, names))
    side = 2.9 if k <= 3 else max(3.4, 0.46 * k)
    left, below = 0.6 + 0.09 * longest, (0.5 + 0.18 * lines if k <= 4 else 0.5 + 0.06 * longest)
    heading = 0.45 + (0.35 if title else 0.0) + foot
    if k > 10:
        figure = new_figure(side + left + 0.6, panels * (side + below + 0.4) + heading, title)
        return figure, figure.subplots(panels, 1, squeeze=False)[:, 0]
    figure = new_figure(panels * (side + 0.2) + left, side + below + heading, title)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def confusion_figure(matrix: np.ndarray, class_names: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix (K, K), a row for each true class: in counts, and in % of the row."""
    matrix = _checked_matrix(matrix, class_names)
    shares = row_shares(matrix)
    figure, (one, two) = _matrix_figure(2, class_names, title)
    counts = [[f"{n}" for n in row] for row in matrix]
    _confusion_panel(one, matrix.astype(float), counts, class_names, "Number of images", True)
    texts = [["–" if np.isnan(share) else f"{share:.1f}" for share in row] for row in shares]
    _confusion_panel(two, shares, texts, class_names, "% of the true class", len(matrix) > 10)
    return figure


def draw_confusion(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], title: str, path: Path
) -> str:
    """Draw the confusion matrix of a list, labels [N] and probabilities [N, K], with the accuracy and its 95 % interval in the
    title. Returns the accuracy as a text."""
    matrix = confusion(labels, probabilities)
    hits = int(np.trace(matrix))
    low, high = wilson(hits, len(labels))
    accuracy = f"accuracy {percent(hits / len(labels))} ({100 * low:.2f}–{100 * high:.2f})"
    save(confusion_figure(matrix, class_names, f"{title}: {accuracy}"), path)
    return f"{accuracy}, {hits:,} of {len(labels):,} images"


def confusions_figure(matrices: Mapping[str, np.ndarray], class_names: Sequence[str], title: str = "") -> Figure:
    """Draw the confusion matrices (K, K) of several models: counts, coloured by % of the row."""
    if not matrices:
        raise UserError("there is no confusion matrix to draw; train a model first.")
    k = len(class_names)
    figure, panels = _matrix_figure(len(matrices), class_names, title, foot=0.3)
    for axes, (model, counts) in zip(panels, matrices.items(), strict=True):
        matrix = _checked_matrix(counts, class_names)
        shares = row_shares(matrix)
        texts = [
            [f"{n}" if k > 4 or np.isnan(share) else f"{share:.1f} %\n{n}" for n, share in zip(*pair, strict=True)]
            for pair in zip(matrix, shares, strict=True)
        ]
        accuracy = f"accuracy {percent(np.trace(matrix) / matrix.sum())}" if matrix.sum() else "no images"
        heading = f"{find(model).title}: {accuracy}"
        _confusion_panel(axes, shares, texts, class_names, heading, k > 10 or axes is panels[0])
    numbers = "upper number and colour: % of the true class; lower number: images"
    numbers = numbers if k <= 4 else "number: images; colour: share of the true class"
    figure.supxlabel(numbers, fontsize=SMALL, color=GREY)
    return figure
