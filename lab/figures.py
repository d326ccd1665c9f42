"""Figures of a run and of an evaluation, as PNG files: labelled axes, colour-blind-safe, readable in grey and small.

Each ``draw_X(..., path)`` writes the figure that ``X_figure(...)`` returns. Figures are made by matplotlib's object
interface, not through pyplot: no window, nothing kept in memory.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from lab.errors import UserError
from lab.files import replacing
from lab.metrics import auc_per_class, checked, overall_auc

Results = Mapping[str, tuple[np.ndarray, np.ndarray]]

# Okabe & Ito 2008, ordered so that deeper is darker: the three depths of the lab stay apart when printed in grey,
# and the markers keep all five apart.
STYLES = {
    "resnet18": ("#E69F00", "o"),
    "resnet34": ("#CC79A7", "v"),
    "resnet50": ("#0072B2", "s"),
    "resnet101": ("#009E73", "D"),
    "resnet152": ("#000000", "^"),
}
OTHER = ("#56B4E9", "X")
GREY = "#595959"
TITLE, LABEL, TICK, SMALL = 13, 12, 11, 9.5  # points
DPI = 200


def display_name(model: str) -> str:
    """Return a model's name as it is written in a text: ``resnet18`` -> ``ResNet18``."""
    return plain(model.replace("resnet", "ResNet"))


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is: a dollar sign would open a formula."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white", metadata={"Software": None})


def new_figure(width: float, height: float, title: str) -> Figure:
    """Make an empty figure of a size in inches, its title wrapped to its width."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    if title:
        figure.suptitle(textwrap.fill(plain(title), max(20, int(width * 9))), fontsize=TITLE)
    return figure


# ---------------------------------------------------------------------------------------------- accuracy over epochs


def accuracy_columns(model: str, history: pd.DataFrame) -> pd.DataFrame:
    """Return epoch, training and testing accuracy (%) of a history; UserError if it cannot be drawn."""
    missing = {"epoch", "train_accuracy", "test_accuracy"} - set(history.columns)
    if missing:
        raise UserError(f"the history of {model} lacks the column {', '.join(sorted(missing))}; train the model again.")
    if history.empty:
        raise UserError(f"the history of {model} holds no epoch; train the model for one epoch at least.")
    shares = history[["train_accuracy", "test_accuracy"]].astype(float)
    if ((shares < 0) | (shares > 1)).any(axis=None):
        raise UserError(f"the history of {model} holds an accuracy outside 0…1; train the model again.")
    return pd.DataFrame(
        {
            "epoch": history["epoch"].astype(int),
            "train": shares["train_accuracy"] * 100,
            "test": shares["test_accuracy"] * 100,
            "loss": history.get("test_loss", 0.0),
        }
    )


def lowest_shown(curves: Mapping[str, pd.DataFrame]) -> float:
    """Choose the lower end of the accuracy axis (%): all points, unless a few bad epochs would squash the rest.

    The usual range reaches from 100 % down to the 10th percentile of the lowest curve; one and a half times that is
    shown where the whole would be more than twice as long. A curve of fewer than five epochs counts whole.
    """
    lines = [curve[side].dropna().to_numpy() for curve in curves.values() for side in ("train", "test")]
    lines = [line for line in lines if len(line)]
    if not lines:
        return 0.0
    lowest = min(line.min() for line in lines)
    usual = min(np.percentile(line, 10, method="higher") if len(line) >= 5 else line.min() for line in lines)
    low = 100 - 1.5 * (100 - usual)
    low = low if 100 - lowest > 2 * (100 - low) else lowest
    return float(max(0.0, np.floor((low - 0.5) / 2) * 2))


def accuracy_figure(histories: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Draw accuracy (%) over epochs, training and testing, of all models; the best testing epoch of each is marked.

    ``histories`` maps a model to its history: columns epoch (from 1), train_accuracy and test_accuracy (0…1, NaN
    leaves a gap). Points below the axis are shown as arrows at its foot and counted in words. Raises UserError for an
    empty or foreign history.
    """
    if not histories:
        raise UserError("there is no history to draw; train a model first.")
    curves = {model: accuracy_columns(model, history) for model, history in histories.items()}
    low = lowest_shown(curves)
    top = 100 + (100 - low) * 0.02
    figure = new_figure(6.4, 5.4, title)
    axes = figure.add_subplot()
    last = max(int(curve["epoch"].max()) for curve in curves.values())
    axes.set_xlim((0.5, 1.5) if last == 1 else (1 - 0.02 * last, last + 0.02 * last))
    axes.set_ylim(low, top)
    handles, hidden = [], []
    for model, curve in curves.items():
        colour, marker = STYLES.get(model, OTHER)
        every = max(1, len(curve) // 10)
        common: dict[str, Any] = {"color": colour, "marker": marker, "markevery": every}
        axes.plot(curve["epoch"], curve["train"], "--", lw=1.1, ms=4, mfc="white", mew=0.9, zorder=2, **common)
        axes.plot(curve["epoch"], curve["test"], "-", lw=2.0, ms=5, zorder=3, **common)
        text = f"{display_name(model)}: no testing accuracy"
        if curve["test"].notna().any():
            ranked = curve.sort_values(["test", "loss"], ascending=[False, True], kind="stable")  # as train.py does
            best = ranked.iloc[0]
            epoch, share = int(best["epoch"]), float(best["test"])
            text = f"{display_name(model)}: best {share:.2f} % (epoch {epoch})"
            if last > 1:  # a single epoch is its own best: a star would only hide the others
                axes.plot(epoch, share, "*", ms=15, mfc=colour, mec="white", mew=1, zorder=5, clip_on=False)
        handles.append(Line2D([], [], color=colour, marker=marker, lw=2, ms=5, label=text))
        for side, word in (("train", "training"), ("test", "testing")):
            below = curve[curve[side] < low]
            hidden += [(share, model, word, epoch) for epoch, share in zip(below["epoch"], below[side], strict=True)]
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= 100])
    steps = MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]).tick_values(1, last)
    axes.set_xticks(sorted({1} | {int(tick) for tick in steps if 1 < tick <= last}))
    axes.grid(alpha=0.3, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TICK)
    axes.set_ylabel("Accuracy (%)", fontsize=LABEL)
    axes.set_xlabel("Epoch", fontsize=LABEL)
    if hidden:
        for _, model, word, epoch in hidden:
            colour = STYLES.get(model, OTHER)[0]
            face = colour if word == "testing" else "white"
            axes.plot(epoch, low, marker=7, ms=7, mfc=face, mec=colour, clip_on=False, zorder=6, ls="none")
        share, model, word, epoch = min(hidden)
        points = f"{len(hidden)} points lie" if len(hidden) > 1 else "1 point lies"
        note = f"▾ {points} below the axis; the lowest: {share:.1f} %, {display_name(model)}, {word}, epoch {epoch}"
        # Under the ticks' labels, where constrained layout keeps room for it as for any label of the axis.
        axes.annotate(note, (0.5, 0), (0, -48), "axes fraction", "offset points", ha="center", va="top", fontsize=SMALL)
    figure.legend(handles=handles, loc="outside lower left", fontsize=TICK, frameon=False)
    styles = [
        Line2D([], [], color=GREY, lw=2, label="testing (valid list)"),
        Line2D([], [], color=GREY, lw=1.1, ls="--", label="training"),
        Line2D([], [], color=GREY, marker="*", ms=12, mec="white", ls="none", label="best testing epoch"),
    ]
    styles = styles if last > 1 else styles[:2]
    figure.legend(handles=styles, loc="outside lower right", fontsize=TICK, frameon=False)
    return figure


def draw_accuracy(histories: Mapping[str, pd.DataFrame], path: Path, title: str = "") -> None:
    """Write :func:`accuracy_figure` to ``path``."""
    save(accuracy_figure(histories, title), path)


# ------------------------------------------------------------------------------------------------ confusion matrices


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Return each row of counts (K, K) in % of its sum; NaN for a class without images."""
    sums = matrix.sum(axis=1, keepdims=True)
    return np.divide(100.0 * matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0)


def _short_names(class_names: Sequence[str]) -> list[str]:
    """Return names that fit beside a matrix: the middle of a long one is left out, as names often differ at the end."""
    short = [name if len(name) <= 24 else f"{name[:13]}…{name[-10:]}" for name in class_names]
    return [plain(textwrap.fill(name, 13) if len(short) <= 4 else name) for name in short]


def _confusion_panel(
    axes: Axes, colours: np.ndarray, texts: list[list[str]], class_names: Sequence[str], heading: str, first: bool
) -> None:
    """Draw one matrix: ``colours`` (K, K) from 0 to its ``vmax``, a text in each cell, names on both axes."""
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
        # Not part of the layout, which would measure every one of the K × K texts again and again.
        annot_kws={"fontsize": size, "in_layout": False},
        xticklabels=names,
        yticklabels=names if first else False,
    )
    for text in axes.texts:
        if k > 4 and text.get_text() in ("0", "0.0", "–"):
            text.set_color("#A0A0A0")  # let the errors stand out in a large matrix
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
    """Return counts (K, K) as integers; ValueError if they are not K × K counts."""
    matrix = np.asarray(matrix)
    if matrix.shape != (len(class_names),) * 2 or (matrix < 0).any() or (matrix != np.floor(matrix)).any():
        raise ValueError(f"not a matrix of counts of {len(class_names)} classes: {matrix!r}")
    return matrix.astype(np.int64)


def _matrix_figure(panels: int, class_names: Sequence[str], title: str, foot: float = 0.0) -> tuple[Figure, np.ndarray]:
    """Make a figure for some K × K matrices in a row, in a column if they are large, with room for names and a foot line."""
    k = len(class_names)
    longest = max(len(line) for name in _short_names(class_names) for line in name.split("\n"))
    side = 2.9 if k <= 3 else max(3.4, 0.46 * k)
    lines = max(name.count("\n") for name in _short_names(class_names)) + 1
    left, below = 0.6 + 0.09 * longest, (0.5 + 0.18 * lines if k <= 4 else 0.5 + 0.06 * longest)
    heading = 0.45 + (0.35 if title else 0.0) + foot
    if k > 10:
        figure = new_figure(side + left + 0.6, panels * (side + below + 0.4) + heading, title)
        return figure, figure.subplots(panels, 1, squeeze=False)[:, 0]
    figure = new_figure(panels * (side + 0.2) + left, side + below + heading, title)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def confusion_figure(matrix: np.ndarray, class_names: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix (K, K) of counts, true classes down, predicted across: in counts, and in % of its row."""
    matrix = _checked_matrix(matrix, class_names)
    shares = row_shares(matrix)
    figure, (one, two) = _matrix_figure(2, class_names, title)
    counts = [[f"{n}" for n in row] for row in matrix]
    _confusion_panel(one, matrix.astype(float), counts, class_names, "Number of images", True)
    texts = [["–" if np.isnan(share) else f"{share:.1f}" for share in row] for row in shares]
    _confusion_panel(two, shares, texts, class_names, "% of the true class", len(matrix) > 10)
    return figure


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str], path: Path, title: str = "") -> None:
    """Write :func:`confusion_figure` to ``path``."""
    save(confusion_figure(matrix, class_names, title), path)


def confusions_figure(matrices: Mapping[str, np.ndarray], class_names: Sequence[str], title: str = "") -> Figure:
    """Draw the matrices (K, K) of several models side by side: colour is % of the row, the counts stand beside."""
    if not matrices:
        raise UserError("there is no confusion matrix to draw; train a model first.")
    k = len(class_names)
    figure, panels = _matrix_figure(len(matrices), class_names, title, foot=0.3)
    for axes, (model, given) in zip(panels, matrices.items(), strict=True):
        matrix = _checked_matrix(given, class_names)
        shares = row_shares(matrix)
        texts = [
            [f"{n}" if k > 4 or np.isnan(share) else f"{share:.1f} %\n{n}" for n, share in zip(*pair, strict=True)]
            for pair in zip(matrix, shares, strict=True)
        ]
        right = f"{100 * np.trace(matrix) / matrix.sum():.2f} % right" if matrix.sum() else "no image"
        _confusion_panel(
            axes, shares, texts, class_names, f"{display_name(model)}: {right}", k > 10 or axes is panels[0]
        )
    numbers = "upper number and colour: % of the true class; lower number: images"
    numbers = numbers if k <= 4 else "number: images; colour: share of the true class"
    figure.supxlabel(numbers, fontsize=SMALL, color=GREY)
    return figure


def draw_confusions(
    matrices: Mapping[str, np.ndarray], class_names: Sequence[str], path: Path, title: str = ""
) -> None:
    """Write :func:`confusions_figure` to ``path``."""
    save(confusions_figure(matrices, class_names, title), path)


# --------------------------------------------------------------------------------------------------------- ROC curves


def _mean_roc(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Average ROC curves vertically (Fawcett 2006): the mean true-positive rate at each false-positive rate."""
    grid = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    mean = np.mean([np.interp(grid, fpr, tpr) for fpr, tpr in curves], axis=0)
    return np.concatenate([[0.0], grid]), np.concatenate([[0.0], mean])


def roc_figure(results: Results, class_names: Sequence[str], title: str = "") -> Figure:
    """Draw ROC curves: of class 1 of two classes, else the one-vs-rest mean, with thin lines per class up to K = 8.

    ``results`` maps a model to labels (N,) and probabilities (N, K). The areas in the legend are those of
    ``metrics.csv``. An inset enlarges the corner where good models crowd. Raises as :func:`lab.metrics.checked`.
    """
    if not results:
        raise UserError("there is no model to evaluate; train one first.")
    k = len(class_names)
    lines = len(results) + 2 if k == 2 else max(len(results), 2) + 1  # of the legend
    figure = new_figure(5.6, 5.3 + 0.22 * lines + (0.35 if title else 0), title)
    axes = figure.add_subplot()
    handles, drawn, areas = [], [], []
    for model, given in results.items():
        labels, probabilities = checked(*given)
        colour, marker = STYLES.get(model, OTHER)
        aucs = auc_per_class(labels, probabilities)
        usable = [c for c in ([1] if k == 2 else range(k)) if not np.isnan(aucs[c])]
        curves = [roc_curve(labels == c, probabilities[:, c])[:2] for c in usable]
        text = f"{display_name(model)}: AUC undefined (labels of one class only)"
        if curves:
            areas.append(overall_auc(aucs))
            text = f"{display_name(model)}: AUC {areas[-1]:.4f}"
            if 2 < k <= 8:
                drawn += [(*curve, {"color": colour, "lw": 0.6, "alpha": 0.5, "zorder": 2}) for curve in curves]
            x, y = curves[0] if k == 2 else _mean_roc(curves)
            look = {"color": colour, "lw": 2, "zorder": 3, "marker": marker, "ms": 5, "markevery": 0.12}
            drawn.append((x, y, look))
        handles.append(Line2D([], [], color=colour, marker=marker, lw=2, ms=5, label=text))
    insets = [axes]
    if areas and max(areas) > 0.97:
        inset = axes.inset_axes((0.28, 0.1, 0.58, 0.58))
        inset.yaxis.tick_right()
        corner = 0.03 if min(areas) > 0.995 else 0.1
        inset.set(xlim=(-0.02 * corner, corner), ylim=(1 - corner, 1 + 0.02 * corner))
        inset.xaxis.set_major_locator(MaxNLocator(3))
        inset.yaxis.set_major_locator(MaxNLocator(3))
        halo = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        inset.set_title("top left corner, enlarged", fontsize=SMALL, color=GREY, bbox=halo)
        axes.indicate_inset_zoom(inset, edgecolor=GREY)
        insets.append(inset)
    for panel in insets:
        for x, y, look in drawn:
            panel.plot(x, y, **look)
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
    what = f"positive class: {plain(class_names[1])}" if k == 2 else "mean over the classes, each against the rest"
    look = {"fontsize": TICK, "title_fontsize": TICK, "frameon": False, "ncols": 1 if k == 2 else 2}
    figure.legend(handles=handles, title=what, loc="outside lower center", **look)
    return figure


def draw_roc(results: Results, class_names: Sequence[str], path: Path, title: str = "") -> None:
    """Write :func:`roc_figure` to ``path``."""
    save(roc_figure(results, class_names, title), path)
