"""Figures with images: the steps of the preprocessing, augmented views, and predictions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from lab.errors import UserError
from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, plain
from models.catalog import find

MAX_ROWS = 24  # of a figure with one row per image


def _show(axes: Axes, image: np.ndarray) -> None:
    """Show an image (H, W, 3) or a mask (H, W) without ticks and without interpolation."""
    axes.imshow(image, cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def preprocessing_figure(rows: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Draw the steps of the preprocessing, a row for each cell: raw image, mask, window, stored image, network input.

    A row has class_name, raw (H, W, 3) uint8, mask (H, W) bool or None, window (x, y, side) in raw pixels, cropped
    (T, T, 3) uint8 and input (S, S, 3) uint8. The column of masks is omitted if no row has one. Raises UserError if there
    are no rows.
    """
    if not rows:
        raise UserError("there is no image to draw the preprocessing of.")
    masked = any(row["mask"] is not None for row in rows)
    headings = ["raw image", "mask of the cell", "window", "stored", "network input"]
    if not masked:
        headings = ["raw image", "window (no mask:\nimage centre)", "stored", "network input"]
    figure = new_figure(1.72 * len(headings) + 0.4, 1.78 * len(rows) + 0.5 + (0.3 if title else 0), title)
    grid = figure.subplots(len(rows), len(headings), squeeze=False)
    for row, panels in zip(rows, grid, strict=True):
        raw, mask, (x, y, side) = row["raw"], row["mask"], row["window"]
        height, width = raw.shape[:2]
        first, *middle, window, stored, last = panels
        images = [raw, raw, row["cropped"], row["input"]]
        for axes, image in zip([first, window, stored, last], images, strict=True):
            _show(axes, image)
            axes.set_xlabel(f"{image.shape[1]} × {image.shape[0]} px", fontsize=SMALL, color=GREY, labelpad=2)
        for axes in middle:
            _show(axes, np.zeros((height, width), dtype=bool) if mask is None else mask)
            if mask is None:
                centre: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
                axes.text(0.5, 0.5, "none found:\nimage centre", color="white", **centre)
        # Black and yellow, so that the frame is visible on black and on a bright smear.
        for colour, stroke in (("black", 3.0), ("#F0E442", 1.6)):
            frame = Rectangle((x - 0.5, y - 0.5), side, side, fill=False, ec=colour, lw=stroke, clip_on=False)
            window.add_patch(frame)
        window.set(xlim=(min(x, 0) - 0.5, max(x + side, width) - 0.5))
        window.set(ylim=(max(y + side, height) - 0.5, min(y, 0) - 0.5))
        window.set_xlabel(f"{side} × {side} px of raw", fontsize=SMALL, color=GREY, labelpad=2)
        first.set_ylabel(textwrap.fill(plain(row["class_name"]), 16), fontsize=TICK)
    for axes, text in zip(grid[0], headings, strict=True):
        axes.set_title(text, fontsize=LABEL)
    return figure


def augmented_figure(originals: Sequence[np.ndarray], views: Sequence[Sequence[np.ndarray]], title: str = "") -> Figure:
    """Draw each original (S, S, 3) uint8 with its augmented views, a row for each image.

    Raises UserError if there are no images, ValueError unless every original has the same number of views, at least one.
    """
    if not originals:
        raise UserError("there is no image to draw augmented views of.")
    if len(originals) != len(views) or len({len(row) for row in views}) != 1 or not len(views[0]):
        raise ValueError("every original needs the same number of augmented views, at least one")
    columns = len(views[0])
    # A narrow empty column separates the original from the views.
    figure = new_figure(1.05 * (columns + 1) + 0.5, 1.05 * len(originals) + 1.0, title)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.035, wspace=0, hspace=0))
    grid = figure.subplots(len(originals), columns + 2, squeeze=False, width_ratios=[1, 0.12] + [1] * columns)
    for original, row, panels in zip(originals, views, grid, strict=True):
        panels[1].set_axis_off()
        for axes, image in zip(np.delete(panels, 1), [original, *row], strict=True):
            _show(axes, image)
    grid[0][0].set_title("original", fontsize=LABEL)
    grid[0][2 + (columns - 1) // 2].set_title("augmented views", fontsize=LABEL)
    return figure


def predictions_figure(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str], title: str = "") -> Figure:
    """Draw images, each with a bar for every model's probability (%) of every class.

    A row has title, image (H, W, 3) uint8 and probabilities {model: (K,)}. Of more than six classes the five most probable
    are drawn, of more than ``MAX_ROWS`` images the first ``MAX_ROWS``; the figure states both.
    """
    if not rows:
        raise UserError("there is no image to show predictions of; name one on the command line.")
    shown = rows[:MAX_ROWS]
    if len(rows) > MAX_ROWS:
        title = f"{title} (the first {MAX_ROWS} of {len(rows)} images)".strip()
    models = list(shown[0]["probabilities"])
    drawn = len(class_names) if len(class_names) <= 6 else 5
    height = max(1.7, 0.19 * drawn * len(models) + 0.75)
    figure = new_figure(7.2, height * len(shown) + 1.2, title)
    grid = figure.subplots(len(shown), 2, squeeze=False, width_ratios=[1, 2.2])
    for row, (left, right) in zip(shown, grid, strict=True):
        _show(left, row["image"])
        shares = np.array([row["probabilities"][model] for model in models]) * 100  # (models, K), %
        order = np.sort(np.argsort(-shares.max(axis=0), kind="stable")[:drawn])
        thickness = 0.8 / len(models)
        for m, model in enumerate(models):
            y = np.arange(drawn) + (m - (len(models) - 1) / 2) * thickness
            bars = right.barh(y, shares[m, order], thickness, color=find(model).colour, ec="white", lw=0.5)
            right.bar_label(bars, fmt="%.1f", fontsize=SMALL, padding=2)
        right.set(xlim=(0, 112), xticks=range(0, 101, 20), ylim=(drawn - 0.5, -0.5))
        right.set_yticks(range(drawn), [textwrap.shorten(plain(class_names[c]), 24, placeholder="…") for c in order])
        right.tick_params(labelsize=TICK)
        right.spines[["top", "right"]].set_visible(False)
        right.spines["bottom"].set_bounds(0, 100)
        right.set_title(textwrap.fill(plain(row["title"]), 44), fontsize=TICK, loc="left")
    some = "" if drawn == len(class_names) else f", the {drawn} most probable of {len(class_names)} classes"
    grid[-1][1].set_xlabel(f"Probability (%){some}", fontsize=LABEL)
    handles = [Rectangle((0, 0), 1, 1, color=find(m).colour, label=find(m).title) for m in models]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(models), fontsize=TICK, frameon=False)
    return figure
