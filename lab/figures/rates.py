"""One classifier, each class against the rest: ROC curves, and true- and false-positive rates over the threshold.

A class is predicted if its probability reaches the threshold. Figures are PNG; :func:`rates_page` is an interactive page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import seaborn
from matplotlib.figure import Figure
from plotly.subplots import make_subplots
from sklearn.metrics import auc, roc_curve

from lab.evaluation.metrics import auc_per_class, checked
from lab.figures.roc import enlarge_corner, mean_roc
from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, plain

THRESHOLDS = np.linspace(0, 1, 501)
TRUE, FALSE = "#0072B2", "#D55E00"  # of Okabe and Ito 2008
STYLES = ("-", "--", "-.", ":")
FEW = 12  # classes: more are drawn in grey, without names


def rates(labels: np.ndarray, probabilities: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """True- and false-positive rate of a class against the rest at each of ``THRESHOLDS``; NaN if there is no such image."""
    found = []
    for images in (probabilities[labels == label, label], probabilities[labels != label, label]):
        below = np.searchsorted(np.sort(images), THRESHOLDS, side="left")
        found.append((len(images) - below) / len(images) if len(images) else np.full(len(THRESHOLDS), np.nan))
    return found[0], found[1]


def classes_roc_figure(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], title: str = ""
) -> Figure:
    """Draw the ROC curve of each class against the rest, the micro average (all decisions for and against a class together) and
    the macro average (the mean of the curves). ``labels`` are [N], ``probabilities`` [N, K]."""
    labels, probabilities = checked(labels, probabilities)
    aucs = auc_per_class(labels, probabilities)
    usable = np.flatnonzero(~np.isnan(aucs)).tolist()
    curves = [roc_curve(labels == label, probabilities[:, label])[:2] for label in usable]
    colours = seaborn.color_palette("colorblind", 10)
    drawn = []
    for label, curve in zip(usable, curves, strict=True):
        style = {"color": colours[label % 10], "ls": STYLES[label // 10 % 4], "lw": 1.3, "zorder": 2}
        named = {"label": f"{plain(class_names[label])}: {aucs[label]:.4f}"}
        drawn.append((*curve, style | named if len(usable) <= FEW else {"color": GREY, "lw": 0.5, "alpha": 0.6}))
    if curves:
        x, y = mean_roc(curves)
        drawn.append(
            (x, y, {"color": "black", "lw": 2, "zorder": 3, "label": f"macro average: {aucs[usable].mean():.4f}"})
        )
        x, y, _ = roc_curve(np.eye(len(aucs))[labels].ravel(), probabilities.ravel())
        drawn.append(
            (x, y, {"color": "black", "lw": 2, "ls": ":", "zorder": 3, "label": f"micro average: {auc(x, y):.4f}"})
        )
    rows = -(-(min(len(usable), FEW) + 2) // 2)
    figure = new_figure(5.6, 5.2 + 0.24 * rows + (0.35 if title else 0), title)
    axes = figure.add_subplot()
    areas = aucs[usable].tolist()
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
    handles, names = axes.get_legend_handles_labels()
    heading = (
        "area under the curve, each class against the rest" if curves else "undefined: all images are of one class"
    )
    style = {"fontsize": SMALL, "title_fontsize": SMALL, "frameon": False, "ncols": 2}
    figure.legend(handles, names, title=heading, loc="outside lower center", **style)
    return figure


def rates_figure(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], title: str = "") -> Figure:
    """Draw the true- and the false-positive rate of each class over the threshold, a panel for each class."""
    columns = min(4, len(class_names))
    rows = -(-len(class_names) // columns)
    figure = new_figure(2.6 * columns + 0.4, 2.3 * rows + 0.9, title)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for label, (axes, name) in enumerate(zip(panels, class_names, strict=False)):
        true, false = rates(labels, probabilities, label)
        axes.plot(THRESHOLDS, true, color=TRUE, lw=1.8, label="true-positive rate")
        axes.plot(THRESHOLDS, false, "--", color=FALSE, lw=1.8, label="false-positive rate")
        axes.set_title(plain(name), fontsize=TICK)
        axes.grid(alpha=0.3, lw=0.6)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=SMALL)
    for axes in panels[len(class_names) :]:
        axes.set_axis_off()
    figure.supxlabel("Threshold of the probability", fontsize=LABEL)
    figure.supylabel("Rate", fontsize=LABEL)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower right", fontsize=SMALL, frameon=False, ncols=2
    )
    return figure


def rates_page(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], title: str = "") -> str:
    """An interactive page with the same panels, as HTML that needs no network; pointing at a curve shows threshold and both
    rates."""
    columns = min(2, len(class_names))
    rows = -(-len(class_names) // columns)
    names = [escape(name) for name in class_names]
    figure = make_subplots(rows, columns, subplot_titles=names, shared_yaxes=True, vertical_spacing=0.25 / rows)
    for label in range(len(class_names)):
        place = {"row": label // columns + 1, "col": label % columns + 1}
        both = np.column_stack(rates(labels, probabilities, label))
        hover = (
            "threshold %{x:.3f}<br>true-positive rate %{customdata[0]:.4f}<br>false-positive rate %{customdata[1]:.4f}"
        )
        for side, (name, hue, dash) in enumerate((("true", TRUE, "solid"), ("false", FALSE, "dash"))):
            figure.add_scatter(
                x=THRESHOLDS.tolist(),
                y=both[:, side].tolist(),
                customdata=both.tolist(),
                name=f"{name}-positive rate",
                legendgroup=name,
                showlegend=label == 0,
                mode="lines",
                line={"color": hue, "dash": dash, "width": 2},
                hovertemplate=f"{names[label]}<br>{hover}<extra></extra>",
                **place,
            )
    figure.update_xaxes(range=[-0.01, 1.01])
    figure.update_xaxes(title="threshold of the probability", row=rows)
    figure.update_yaxes(range=[-0.01, 1.01], title="rate", col=1)
    figure.update_layout(title=escape(title), template="plotly_white", height=280 * rows + 160, hovermode="closest")
    # The whole of plotly.js, 5 MB, because the page may be opened without a network.
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page
