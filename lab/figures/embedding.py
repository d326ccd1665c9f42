"""A feature space: explained variance, maps in two dimensions, clusters against classes, nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, plain

COLOURS = [seaborn.color_palette("colorblind", 10)[index] for index in range(10)]
MARKERS = ("o", "^", "s", "D")  # after ten classes the colours return with another marker


def variance_figure(shares: np.ndarray, needed: Mapping[int, int], title: str = "") -> Figure:
    """Draw the share of the variance of the first components as bars, and their sum as a line; ``needed`` maps a share in % to
    the number of components that have it."""
    figure = new_figure(7.2, 3.8, title)
    left, right = figure.subplots(1, 2)
    first = shares[:20]
    left.bar(range(1, len(first) + 1), 100 * first, color="#0072B2")
    left.set_xlabel("Component", fontsize=TICK)
    left.set_ylabel("Share of the variance, %", fontsize=TICK)
    right.plot(range(1, len(shares) + 1), 100 * shares.cumsum(), color="#0072B2", lw=1.8)
    for share, count in needed.items():
        right.plot([count, count], [0, share], ":", color=GREY, lw=1.2)
        right.plot(count, share, "o", color="#D55E00", ms=5)
        right.annotate(f"{share} %: {count:,}", (count, share), (6, -12), textcoords="offset points", fontsize=SMALL)
    right.set(xscale="log", ylim=(0, 102))
    right.set_xlabel("Number of components", fontsize=TICK)
    right.set_ylabel("Their share, %", fontsize=TICK)
    for axes in (left, right):
        axes.tick_params(labelsize=SMALL)
        axes.grid(alpha=0.3, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def maps_figure(
    maps: Mapping[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str], title: str = ""
) -> Figure:
    """Draw maps [n, 2] of the same images side by side, coloured by class; labels are [n]."""
    figure = new_figure(4.3 * len(maps), 4.9, title)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, points) in zip(panels, maps.items(), strict=True):
        for label, class_name in enumerate(class_names):
            own = labels == label
            style = {"s": 7, "alpha": 0.75, "lw": 0, "marker": MARKERS[label // 10 % 4]}
            axes.scatter(*points[own].T, color=COLOURS[label % 10], label=plain(class_name), **style)
        axes.set_title(name, fontsize=LABEL)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#C0C0C0")
    handles, names = panels[0].get_legend_handles_labels()
    columns = min(len(names), 3 * len(maps))
    legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=TICK, frameon=False)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set(sizes=[40], alpha=1)
    return figure


def clusters_figure(table: pd.DataFrame, counts: np.ndarray, class_names: Sequence[str], title: str = "") -> Figure:
    """Draw how K-means agrees with the classes over K, and the classes in each cluster for K = classes: ``counts`` is [K, K], a
    row for each class."""
    figure = new_figure(10.4, 0.34 * len(class_names) + 3.0, title)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    lines = {"ari": ("adjusted Rand index", "-", "#0072B2"), "nmi": ("mutual information, normalised", "-", "#D55E00")}
    lines |= {"ari_shuffled": ("the same, labels shuffled", ":", "#0072B2"), "nmi_shuffled": ("", ":", "#D55E00")}
    lines |= {"silhouette": ("silhouette", "--", "#009E73")}
    for column, (name, style, colour) in lines.items():
        left.plot(table["clusters"], table[column], style, color=colour, marker=".", label=name or None, lw=1.6)
    left.set_xlabel("Clusters", fontsize=TICK)
    left.set(ylim=(min(-0.05, 1.1 * float(table["silhouette"].min())), 1))
    left.grid(alpha=0.3, lw=0.6)
    left.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=SMALL, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    left.tick_params(labelsize=SMALL)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    names = [plain(name) for name in class_names]
    seaborn.heatmap(
        shares,
        ax=right,
        cmap="Blues",
        cbar=False,
        annot=len(names) <= 12,
        fmt=".0f",
        annot_kws={"fontsize": SMALL},
        linewidths=1,
        yticklabels=names,
        xticklabels=[str(number) for number in range(1, len(names) + 1)],
    )
    right.set_xlabel("Cluster; the numbers are % of the class", fontsize=TICK)
    right.tick_params(labelsize=SMALL, length=0)
    right.tick_params(axis="y", rotation=0)
    return figure
