"""ROC curves of several models; for more than two classes, the mean over the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from lab.errors import UserError
from lab.evaluation.metrics import Results, auc_per_class, checked, overall_auc
from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, plain
from models.catalog import find


def mean_roc(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Average ROC curves vertically (Fawcett 2006): the mean true-positive rate at each false-positive rate."""
    grid = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    mean = np.mean([np.interp(grid, fpr, tpr) for fpr, tpr in curves], axis=0)
    return np.concatenate([[0.0], grid]), np.concatenate([[0.0], mean])


def roc_points(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """False- and true-positive rates and the area: of class 1 for two classes, else the one-vs-rest mean; empty and NaN if all
    labels are of one class."""
    labels, probabilities = checked(labels, probabilities)
    aucs = auc_per_class(labels, probabilities)
    chosen = [1] if len(aucs) == 2 else range(len(aucs))
    curves = [roc_curve(labels == c, probabilities[:, c])[:2] for c in chosen if not np.isnan(aucs[c])]
    if not curves:
        return np.empty(0), np.empty(0), np.nan
    return *(curves[0] if len(aucs) == 2 else mean_roc(curves)), overall_auc(aucs)


def enlarge_corner(axes: Axes, areas: Sequence[float]) -> list[Axes]:
    """Add an inset that enlarges the upper left corner, if an area exceeds 0.97. Returns the inset, or an empty list."""
    if not areas or max(areas) <= 0.97:
        return []
    inset = axes.inset_axes((0.28, 0.1, 0.58, 0.58))
    inset.yaxis.tick_right()
    corner = 0.03 if min(areas) > 0.995 else 0.1
    inset.set(xlim=(-0.02 * corner, corner), ylim=(1 - corner, 1 + 0.02 * corner))
    inset.xaxis.set_major_locator(MaxNLocator(3))
    inset.yaxis.set_major_locator(MaxNLocator(3))
    halo = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    inset.set_title("upper left corner, enlarged", fontsize=SMALL, color=GREY, bbox=halo)
    axes.indicate_inset_zoom(inset, edgecolor=GREY)
    return [inset]


def roc_figure(results: Results, class_names: Sequence[str], title: str = "") -> Figure:
    """Draw ROC curves: that of class 1 for two classes, else the one-vs-rest mean, with a thin line for each class if K ≤ 8.

    ``results`` maps a model to labels (N,) and probabilities (N, K). The areas in the legend are those in ``metrics.csv``.
    If an area exceeds 0.97, an inset enlarges the upper left corner. Raises as :func:`lab.evaluation.metrics.checked`.
    """
    if not results:
        raise UserError("there is no model to evaluate; train one first.")
    k = len(class_names)
    lines = len(results) + 2 if k == 2 else max(len(results), 2) + 1  # of the legend
    figure = new_figure(5.6, 5.3 + 0.22 * lines + (0.35 if title else 0), title)
    axes = figure.add_subplot()
    handles, drawn, areas = [], [], []
    for model, result in results.items():
        labels, probabilities = checked(*result)
        row = find(model)
        aucs = auc_per_class(labels, probabilities)
        usable = [c for c in ([1] if k == 2 else range(k)) if not np.isnan(aucs[c])]
        curves = [roc_curve(labels == c, probabilities[:, c])[:2] for c in usable]
        text = f"{row.title}: AUC undefined (labels of one class only)"
        if curves:
            areas.append(overall_auc(aucs))
            text = f"{row.title}: AUC {areas[-1]:.4f}"
            if 2 < k <= 8:
                drawn += [(*curve, {"color": row.colour, "lw": 0.6, "alpha": 0.5, "zorder": 2}) for curve in curves]
            x, y = curves[0] if k == 2 else mean_roc(curves)
            style = {"color": row.colour, "lw": 2, "zorder": 3, "marker": row.marker, "ms": 5, "markevery": 0.12}
            drawn.append((x, y, style))
        handles.append(Line2D([], [], color=row.colour, marker=row.marker, lw=2, ms=5, label=text))
    for panel in [axes, *enlarge_corner(axes, areas)]:
        for x, y, style in drawn:
            panel.plot(x, y, **style)
        panel.grid(alpha=0.3, lw=0.6)
        panel.tick_params(labelsize=TICK if panel is axes else SMALL)
    axes.plot([0, 1], [0, 1], ":", color=GREY, lw=1.2)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("False-positive rate (1 − specificity)", fontsize=LABEL)
    axes.set_ylabel("True-positive rate (sensitivity)", fontsize=LABEL)
    handles.append(Line2D([], [], color=GREY, ls=":", lw=1.2, label="chance: AUC 0.5"))
    if 2 < k <= 8:
        handles.append(Line2D([], [], color=GREY, lw=0.6, label="single classes"))
    title = f"positive class: {plain(class_names[1])}" if k == 2 else "mean over the classes, one-vs-rest"
    style = {"fontsize": TICK, "title_fontsize": TICK, "frameon": False, "ncols": 1 if k == 2 else 2}
    figure.legend(handles=handles, title=title, loc="outside lower center", **style)
    return figure
