"""What a data set holds: images per class and list, measurements per class, samples, and galleries of images with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, plain

LISTS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")  # of Okabe and Ito 2008
POINTS = {"marker": ".", "markersize": 2, "markerfacecolor": GREY, "markeredgecolor": GREY}


def classes_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw the images of each class and list; ``table`` has a row for each class and a column for each list."""
    figure = new_figure(7.2, 0.26 * table.size + 1.6, title)
    axes = figure.add_subplot()
    thickness = 0.8 / table.shape[1]
    shares = 100 * table / table.sum().clip(lower=1)
    for number, name in enumerate(table):
        places = np.arange(len(table)) + (number - (table.shape[1] - 1) / 2) * thickness
        bars = axes.barh(places, shares[name], thickness * 0.92, color=LISTS[number % len(LISTS)], label=f"{name}.csv")
        axes.bar_label(bars, [f"{count:,}" for count in table[name]], fontsize=SMALL, padding=2)
    axes.set_yticks(range(len(table)), [textwrap.shorten(plain(name), 24, placeholder="…") for name in table.index])
    axes.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 1.12 * float(shares.to_numpy().max())))
    axes.set_xlabel("Share of the list, %; the numbers are images", fontsize=LABEL)
    axes.tick_params(labelsize=TICK)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=table.shape[1], fontsize=TICK, frameon=False)
    return figure


def boxes_figure(
    images: pd.DataFrame, measures: Mapping[str, str], class_names: Sequence[str], title: str = ""
) -> Figure:
    """Draw the box plots of each measure per class; ``images`` has the columns ``class`` and the measures, whose titles are
    given."""
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    figure = new_figure(4.1 * columns, (0.9 + 0.27 * len(class_names)) * rows + 0.5, title)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    short = [textwrap.shorten(plain(name), 20, placeholder="…") for name in class_names]
    for axes, (measure, text) in zip(panels, measures.items(), strict=False):
        values = [images.loc[images["class"] == name, measure].to_numpy() for name in class_names]
        drawn = axes.boxplot(
            values, orientation="horizontal", widths=0.65, patch_artist=True, whis=3.0, flierprops=POINTS
        )
        for box, middle in zip(drawn["boxes"], drawn["medians"], strict=True):
            box.set(facecolor="#8FBCE6", linewidth=0.8)
            middle.set(color="black", linewidth=1.4)
        axes.set_xlabel(text, fontsize=TICK)
        axes.set_yticks(range(1, len(short) + 1), short)
        axes.set_ylim(len(short) + 0.5, 0.5)
        axes.tick_params(labelsize=SMALL)
        axes.grid(axis="x", alpha=0.3, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    return figure


def rows_figure(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]],
    headings: Sequence[str] = (),
    title: str = "",
    captions: Sequence[Sequence[str]] = (),
) -> Figure:
    """Draw a row of images for each name: RGB uint8, grey or bool; ``headings`` are those of the columns, ``captions`` the texts
    below the images, row by row."""
    count = max(len(images) for _, images in rows)
    figure = new_figure(1.4 * count + 1.9, 1.42 * len(rows) + 0.5 + 0.3 * bool(headings), title)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0))
    panels = figure.subplots(len(rows), count, squeeze=False)
    for axes in panels.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for (name, images), line in zip(rows, panels, strict=True):
        line[0].set_ylabel(textwrap.fill(plain(name), 16), rotation=0, ha="right", va="center", fontsize=TICK)
        for axes, image in zip(line, images, strict=False):
            axes.imshow(image, cmap="gray")
    for line, texts in zip(panels, captions, strict=False):
        for axes, text in zip(line, texts, strict=False):
            axes.set_xlabel(plain(text), fontsize=7.5, labelpad=2)
    for axes, heading in zip(panels[0], headings, strict=False):
        axes.set_title(heading, fontsize=TICK)
    return figure


def gallery_figure(cells: Sequence[tuple[Sequence[np.ndarray], str]], columns: int, title: str = "") -> Figure:
    """Draw images with captions: each cell has one image or several side by side, RGB uint8, and a text below."""
    columns = min(columns, len(cells))
    wide = max(len(images) for images, _ in cells)
    lines = -(-len(cells) // columns)
    figure = new_figure((1.35 * wide + 0.45) * columns, 2.1 * lines + 0.5, title)
    outer = figure.subfigures(lines, columns, squeeze=False).ravel()
    for part, (images, caption) in zip(outer, cells, strict=False):
        panels = part.subplots(1, len(images), squeeze=False)[0]
        for axes, image in zip(panels, images, strict=True):
            axes.imshow(image)
            axes.set_axis_off()
        part.supxlabel(plain(caption), fontsize=7.5)
    return figure


def distances_figure(counts: np.ndarray, limit: int, title: str = "") -> Figure:
    """Draw how many pairs of images have each distance between their hashes, and the limit for near duplicates."""
    last = int(np.flatnonzero(counts)[-1]) if counts.any() else len(counts) - 1
    figure = new_figure(7.2, 3.6, title)
    axes = figure.add_subplot()
    axes.bar(range(last + 1), counts[: last + 1], width=0.9, color=LISTS[0])
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlim=(-0.6, last + 0.6), ylim=(0, None))
    if limit >= 0:
        axes.axvline(limit + 0.5, color="#D55E00", lw=1.8)
        axes.annotate(
            f"compared in pixels: up to {limit}",
            (limit + 0.5, 1),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=SMALL,
            color="#D55E00",
            ha="center",
        )
    axes.set_xlabel(
        f"Signs that differ, of {len(counts) - 1}, in the most similar of eight flips and turns", fontsize=TICK
    )
    axes.set_ylabel("Pairs of images", fontsize=TICK)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
