"""Figures that only the report has: the blocks and the network, reliability diagrams, thumbnails."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from PIL import Image

from lab.evaluation.calibration import BINS, Calibration
from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure
from lab.report.texts import Texts
from models.catalog import find

INK, EDGE, BLUE, SAND, GREEN, SOFT = "#1c2430", "#5b6675", "#cfe3f5", "#f7e3c0", "#d5ead6", "#eef1f5"
BOX = 0.62  # height of a box; the rows of the diagram are one unit apart


def block_figure(t: Texts, blocks: Mapping[str, Sequence[int]]) -> Figure:
    """Draw both kinds of residual block and the network. ``blocks`` are those of each of the four stages, for each depth."""
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-2.4, 17.4), ylim=(-9.6, 1.35), aspect="equal")
    axes.axis("off")
    draw_block(axes, t, 0, "BasicBlock", ["3×3, c /s", "3×3, c"], ["x", "c"])
    draw_block(axes, t, 5.2, "Bottleneck", ["1×1, c", "3×3, c /s", "1×1, 4c"], ["x", "4c"])
    draw_network(axes, t, 10.6, blocks)
    return figure


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 2.5) -> None:
    """Draw a box with a text, centred at x and y."""
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch((x - width / 2, y - BOX / 2), width, BOX, style, fc=colour, ec=EDGE, lw=0.9, zorder=3)
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color=INK, zorder=4)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow."""
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}, zorder=2
    )


def draw_block(axes: Axes, t: Texts, x: float, name: str, convolutions: list[str], ends: list[str]) -> None:
    """Draw a residual block from top to bottom, its shortcut on the left."""
    axes.text(x, 1.05, name, ha="center", fontsize=LABEL, color=INK)
    axes.text(x + 0.12, 0.3, ends[0], fontsize=10, style="italic", color=INK)
    y, top = -1.0, 0.55
    arrow(axes, (x, top), (x, y + BOX / 2))
    for number, text in enumerate(convolutions):
        box(axes, x, y, text, BLUE)
        box(axes, x, y - 0.62, "batch norm", SOFT)
        end, last = y - 0.62, number == len(convolutions) - 1
        if not last:
            box(axes, x, y - 1.24, "ReLU", GREEN)
            end = y - 1.24
        y = end - 1.1
        arrow(axes, (x, end - BOX / 2), (x, y + BOX / 2 if not last else y + 0.26))
    axes.add_patch(Circle((x, y), 0.26, fc="white", ec=INK, lw=1.1, zorder=3))
    axes.text(x, y - 0.02, "+", ha="center", va="center", fontsize=13, color=INK, zorder=4)
    left = x - 1.85
    line: dict[str, Any] = {"color": "#c0561a", "lw": 1.6, "solid_capstyle": "round", "zorder": 1}
    axes.plot([x, left, left], [0.0, 0.0, y], **line)
    axes.annotate(
        "",
        (x - 0.26, y),
        (left, y),
        arrowprops={"arrowstyle": "-|>", "color": "#c0561a", "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
    )
    axes.text(
        left - 0.12, y / 2, t("fig_shortcut"), rotation=90, ha="right", va="center", fontsize=SMALL, color="#c0561a"
    )
    arrow(axes, (x, y - 0.26), (x, y - 0.9 + BOX / 2))
    box(axes, x, y - 0.9, "ReLU", GREEN)
    arrow(axes, (x, y - 0.9 - BOX / 2), (x, y - 1.85))
    axes.text(x + 0.12, y - 1.75, ends[1], fontsize=10, style="italic", color=INK)


def draw_network(axes: Axes, t: Texts, x: float, blocks: Mapping[str, Sequence[int]]) -> None:
    """Draw the stem, the four stages and the classifier; on the right the blocks of each depth, on the left the side of the
    output."""
    columns = [x + 2.6 + 1.5 * number for number in range(len(blocks))]
    axes.text(x, 1.05, "ResNet", ha="center", fontsize=LABEL, color=INK)
    for column, name in zip(columns, blocks, strict=True):
        axes.text(column, 0.3, name, ha="center", fontsize=SMALL, color=INK)
    axes.text(sum(columns) / len(columns), 1.05, t("fig_blocks"), ha="center", fontsize=SMALL, color=GREY)
    axes.text(x - 1.6, 0.3, t("fig_side"), ha="right", fontsize=SMALL, color=GREY)
    rows = [("7×7, 64 /2", BLUE, "H/2"), ("max 3×3 /2", SOFT, "H/4")]
    rows += [(f"layer{number}, c = {32 * 2**number}", SAND, f"H/{2 ** (number + 1)}") for number in range(1, 5)]
    rows += [(t("fig_pool"), SOFT, "1"), (t("fig_classes"), GREEN, "")]
    y = -0.85
    arrow(axes, (x, 0.25), (x, y + BOX / 2))
    for number, (text, colour, side) in enumerate(rows):
        box(axes, x, y, text, colour, 2.9)
        axes.text(x - 1.6, y, side, ha="right", va="center", fontsize=10, color=INK)
        for column, counts in zip(columns, blocks.values(), strict=True):
            if 0 <= number - 2 < len(counts):
                axes.text(column, y, f"× {counts[number - 2]}", ha="center", va="center", fontsize=10, color=INK)
        if number < len(rows) - 1:
            arrow(axes, (x, y - BOX / 2), (x, y - 1.15 + BOX / 2))
        y -= 1.15


def reliability_figure(t: Texts, calibrations: Mapping[str, Calibration]) -> Figure:
    """Draw reliability diagrams, one for each model: accuracy over confidence in bins, and the share of images in each bin."""
    figure = new_figure(2.75 * len(calibrations) + 0.6, 3.5, "")
    grid = figure.subplots(2, len(calibrations), squeeze=False, height_ratios=[3, 1], sharex=True, sharey="row")
    for column, (model, measured) in enumerate(calibrations.items()):
        top, bottom = grid[:, column]
        bins = measured.bins
        colour, marker = find(model).colour, find(model).marker
        centres, width = (bins.index.to_numpy() - 0.5) / BINS, 0.9 / BINS
        top.plot([0, 1], [0, 1], ":", color=GREY, lw=1.2)
        top.bar(centres, bins["accuracy"], width, color=colour, alpha=0.35, ec=colour, lw=0.8)
        top.plot(bins["confidence"], bins["accuracy"], marker, color=colour, ms=5, mec="white", mew=0.6, zorder=3)
        top.set(xlim=(0, 1), ylim=(0, 1.03), xticks=[0, 0.25, 0.5, 0.75, 1], aspect="auto")
        top.set_title(f"{find(model).title}: ECE {100 * measured.error:.1f} %", fontsize=LABEL)
        bottom.bar(centres, 100 * bins["images"] / bins["images"].sum(), width, color=colour, alpha=0.8)
        bottom.set(ylim=(0, 105), yticks=[0, 50, 100])
        bottom.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        for axes in (top, bottom):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=TICK)
            axes.grid(alpha=0.3, lw=0.6)
            axes.set_axisbelow(True)
        bottom.set_xlabel(t("fig_confidence"), fontsize=LABEL)
    grid[0][0].set_ylabel(t("fig_accuracy"), fontsize=LABEL)
    grid[1][0].set_ylabel(t("fig_images"), fontsize=LABEL)
    figure.supxlabel(t("fig_dotted"), fontsize=SMALL, color=GREY)
    return figure


def thumbnail(image: np.ndarray, side: int = 220) -> bytes:
    """An image, RGB uint8 [H, W, 3], scaled down to fit a square of ``side`` px, as PNG."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
