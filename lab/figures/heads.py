"""What a classical head looks at: weights drawn as an image, images that activate a feature, a tree, permutation importance."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.tree import DecisionTreeClassifier, plot_tree

from lab.figures.style import GREY, SMALL, TICK, new_figure, plain

RIGHT, WRONG = "#009E73", "#D55E00"  # of Okabe and Ito 2008
LEVELS = 3  # of a drawn tree below its root; more cannot be read


def weights_figure(
    weights: np.ndarray, examples: Sequence[np.ndarray | None], class_names: Sequence[str], title: str = ""
) -> Figure:
    """Draw weights over the image, [K, H, W]: a map for each class, below the mean image of the class, uint8 [S, S], or None."""
    columns = min(4, len(weights))
    rows = -(-len(weights) // columns)
    figure = new_figure(2.0 * columns + 0.9, 4.2 * rows + 0.5, title)
    panels = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    top = float(np.percentile(np.abs(weights), 99.5)) or 1.0
    for label, (values, example, name) in enumerate(zip(weights, examples, class_names, strict=True)):
        above, below = panels[2 * (label // columns) : 2 * (label // columns) + 2, label % columns]
        above.set_title(plain(name), fontsize=TICK)
        if example is not None:
            above.imshow(example, cmap="gray")
        drawn = below.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
    bar = figure.colorbar(drawn, ax=panels, shrink=0.5, aspect=30, pad=0.02)
    bar.set_label("mean weight of a cell's features: against the class (blue), for it (red)", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def strongest_figure(
    images: Sequence[Sequence[np.ndarray]],
    labels: Sequence[Sequence[int]],
    headings: Sequence[str],
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw a row of images for each class: RGB uint8 images, and their own classes, which are named where they differ.

    ``headings`` [K] say which feature the row shows."""
    count = max(map(len, images))
    figure = new_figure(1.25 * count + 2.3, 1.42 * len(images) + 0.6, title)
    panels = figure.subplots(len(images), count, squeeze=False)
    for label, (row, own, heading) in enumerate(zip(images, labels, headings, strict=True)):
        for axes in panels[label]:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        text = f"{textwrap.fill(plain(class_names[label]), 18)}\n{heading}"
        panels[label, 0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=SMALL)
        for axes, image, true in zip(panels[label], row, own, strict=False):
            axes.imshow(image)
            right = true == label
            axes.spines[:].set(visible=True, color=RIGHT if right else WRONG, linewidth=2.5)
            axes.set_xlabel("" if right else plain(class_names[true]), fontsize=7.5, color=WRONG, labelpad=2)
    return figure


def tree_figure(
    tree: DecisionTreeClassifier,
    feature_names: Sequence[str],
    class_names: Sequence[str],
    title: str = "",
    note: str = "",
) -> Figure:
    """Draw the first levels of a decision tree: the question of each node, its training images, and its most frequent class.
    ``note`` says what the features are."""
    depth = min(LEVELS, tree.get_depth())
    figure = new_figure(1.7 * 2**depth + 1, 1.3 * (depth + 1) + 1, title)
    FigureCanvasAgg(figure)  # plot_tree measures its texts with it
    axes = figure.add_subplot()
    names = [plain(class_names[label]) for label in tree.classes_]
    options = {"filled": True, "rounded": True, "impurity": False, "proportion": False, "fontsize": 9}
    for text in plot_tree(tree, max_depth=depth, feature_names=feature_names, class_names=names, ax=axes, **options):
        # The counts of all classes do not fit into a node.
        kept = re.sub(r"value = \[[^\]]*\]\n?", "", text.get_text())
        text.set_text(kept.replace("class = ", "").replace("samples = ", "images: ").replace("<=", "≤"))
        if text.get_bbox_patch():
            colour = text.get_bbox_patch().get_facecolor()
            text.get_bbox_patch().set_facecolor([0.4 + 0.6 * channel for channel in colour[:3]])  # lighter, to be read
    left = f"the first {depth} of {tree.get_depth()} levels; " if tree.get_depth() > depth else ""
    below = f"{left}a node's class is the most frequent one of its training images{note and f'; {note}'}"
    figure.supxlabel(below, fontsize=SMALL, color=GREY)
    return figure


def importance_figure(
    drops: np.ndarray, names: Sequence[str], note: str, shape: tuple[int, int] | None = None, title: str = ""
) -> Figure:
    """Draw permutation importance: how much of the true class's mean probability (0…1) is lost if a feature's values are shuffled
    among the images, [features, repeats]; as bars, or as a heat map of the image if there is a ``shape`` (rows, columns)."""
    mean, spread = 100 * drops.mean(axis=1), 100 * drops.std(axis=1)
    label = "Loss of the true class's probability (percentage points)"
    if shape:
        figure = new_figure(5.4, 5.0, title)
        axes = figure.add_subplot()
        top = max(float(mean.max()), 1e-9)
        drawn = axes.imshow(mean.reshape(shape), cmap="viridis", vmin=min(0.0, float(mean.min())), vmax=top)
        for index, value in enumerate(mean):
            row, column = divmod(index, shape[1])
            colour = "black" if value > 0.6 * top else "white"
            axes.text(column, row, f"{round(value, 1) + 0:.1f}", ha="center", va="center", fontsize=SMALL, color=colour)
        axes.set(xticks=[], yticks=[])
        figure.colorbar(drawn, ax=axes, shrink=0.8).set_label(label, fontsize=SMALL)
    else:
        order = np.argsort(mean, kind="stable")
        figure = new_figure(5.8, 1.4 + 0.24 * len(mean), title)
        axes = figure.add_subplot()
        axes.barh([names[index] for index in order], mean[order], xerr=spread[order], color="#0072B2", ecolor=GREY)
        axes.margins(y=0.01)
        axes.axvline(0, color=GREY, lw=0.8)
        axes.set_xlabel(label, fontsize=TICK)
        axes.tick_params(labelsize=SMALL)
        axes.grid(axis="x", alpha=0.3, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(textwrap.fill(note, 80), fontsize=SMALL, color=GREY)
    return figure
