"""What a network sees: its filters and feature maps, attributions beside their images, and how far these can be trusted."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, plain

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # of Okabe and Ito 2008
EVIDENCE = "RdBu_r"  # red for a class, blue against it
LABELLED = {"facecolor": "black", "alpha": 0.45, "pad": 1, "lw": 0}
STRONG = 99.5  # percentile of the absolute values at which the colours end


@dataclass(frozen=True)
class Row:
    """An image, uint8 [S, S, 3], with the ``outline`` of its cell, bool [S, S], if known, and attributions [S, S] for one class.

    Maps are drawn as shares of ``strength``, one number for each map.
    """

    caption: str
    image: np.ndarray
    outline: np.ndarray | None
    maps: Sequence[np.ndarray]
    strength: Sequence[float]


def strength(maps: Sequence[np.ndarray]) -> float:
    """The value at which the colours of these maps end."""
    return max(float(np.percentile(np.abs(maps), STRONG)), 1e-12)


def evidence(values: np.ndarray) -> np.ndarray:
    """A map [S, S] as a picture, uint8 [S, S, 3], in the colours of the figures."""
    colours = colormaps[EVIDENCE](0.5 + 0.5 * values / strength([values]))
    return np.asarray((255 * colours[..., :3]).round(), np.uint8)


def attributions_figure(rows: Sequence[Row], methods: Sequence[str], title: str = "") -> Figure:
    """Draw a row of maps for each image and class, all with one colour scale."""
    wide, high = 1 + len(methods), len(rows)
    figure = new_figure(1.5 * wide + 1.4, 1.52 * high + 1.4, title)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0))
    panels = figure.subplots(high, wide, squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        line[0].set_ylabel(plain(row.caption), rotation=0, ha="right", va="center", fontsize=SMALL)
        line[0].imshow(row.image)
        for axes, values, most in zip(line[1:], row.maps, row.strength, strict=True):
            axes.imshow(values / most, cmap=EVIDENCE, vmin=-1, vmax=1)
            if row.outline is not None:
                axes.contour(row.outline, levels=[0.5], colors="black", linewidths=0.5)
    for axes in panels.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, heading in zip(panels[0], ("input", *methods), strict=True):
        axes.set_title(textwrap.fill(heading, 14), fontsize=SMALL)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), EVIDENCE),
        ax=panels,
        location="bottom",
        fraction=0.9 / (1.52 * high + 1.4),
        pad=0.01,
        aspect=60,
    )
    bar.set_label(
        f"Evidence for the class, scaled for each image and method: 1 is the {STRONG}th percentile of the absolute values",
        fontsize=SMALL,
    )
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def trust_figure(
    likeness: Mapping[str, Sequence[float]],
    levels: Sequence[str],
    limit: float,
    curves: Mapping[str, np.ndarray],
    places: Sequence[str],
    shares: Mapping[str, Sequence[float]],
    title: str = "",
) -> Figure:
    """Draw how alike maps are to those of randomised networks (by ``levels``), the probability while an image is deleted or
    inserted (``curves`` [2, points] by method, and ``random``), and the shares of the attribution in the ``places``."""
    figure = new_figure(10.4, 8.2, title)
    (alike, where), (deletion, insertion) = figure.subplots(2, 2)
    colours = dict(zip(likeness, cycle(COLOURS), strict=False)) | {"random": GREY, "centre": "#B0B0B0"}
    for method, values in likeness.items():
        alike.plot(range(len(levels)), values, "o-", color=colours[method], label=method, lw=1.6, ms=5)
    alike.axhline(limit, color="black", ls=":", lw=1)
    alike.set_xticks(range(len(levels)), [textwrap.fill(level, 14) for level in levels])
    alike.set(ylim=(-0.03, 1.03))
    alike.set_ylabel("Rank correlation with the map before", fontsize=TICK)
    alike.set_xlabel("Randomised weights", fontsize=TICK)
    if known := {name: values for name, values in shares.items() if np.isfinite(values).all()}:
        draw_shares(where, places, known)
    else:
        where.set_axis_off()
    for side, (axes, name) in enumerate(((deletion, "deleted"), (insertion, "inserted"))):
        for method, drawn in curves.items():
            style = {"lw": 1.8} if method in likeness else {"ls": "--", "lw": 1.4}
            axes.plot(np.linspace(0, 100, drawn.shape[1]), drawn[side], color=colours[method], label=method, **style)
        axes.set(xlim=(0, 100), ylim=(0, 1.02))
        axes.set_xlabel(f"Image {name}, %, the highest attribution first", fontsize=TICK)
        axes.set_ylabel("Probability of the class", fontsize=TICK)
    handles, labels = deletion.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=TICK, frameon=False)
    for axes in (alike, where, deletion, insertion):
        axes.tick_params(labelsize=SMALL)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (alike, deletion, insertion):
        axes.grid(alpha=0.3, lw=0.6)
    return figure


def draw_shares(axes: Axes, places: Sequence[str], shares: Mapping[str, Sequence[float]]) -> None:
    """Draw a bar for each name of ``shares``, divided among the ``places``."""
    left, rows = np.zeros(len(shares)), range(len(shares))
    for number, (place, colour) in enumerate(zip(places, ("#0072B2", "#56B4E9", "#E6E6E6"), strict=True)):
        widths = np.array([100 * values[number] for values in shares.values()])
        bars = axes.barh(rows, widths, left=left, color=colour, label=place)
        texts = [f"{width:.0f}" if width >= 6 else "" for width in widths]
        axes.bar_label(bars, texts, label_type="center", fontsize=SMALL, color="white" if not number else "black")
        left += widths
    axes.set_yticks(rows, [textwrap.fill(name, 16) for name in shares])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100))
    axes.set_xlabel("Share of the absolute attribution, %", fontsize=TICK)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=SMALL, frameon=False)


def tiles_figure(tiles: np.ndarray, title: str = "", scale: str = "") -> Figure:
    """Draw tiles side by side: RGB [N, h, w, 3] in 0…1, or values [N, h, w] on one colour scale named ``scale``."""
    across = min(8, len(tiles))
    lines = -(-len(tiles) // across)
    figure = new_figure(1.05 * across + 0.6, 1.05 * lines + 0.6 + 0.6 * bool(scale), title)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0))
    panels = figure.subplots(lines, across, squeeze=False)
    limits = {"vmin": float(tiles.min()), "vmax": float(tiles.max()), "cmap": "viridis"} if scale else {}
    for axes in panels.ravel():
        axes.set_axis_off()
    for number, (axes, tile) in enumerate(zip(panels.ravel(), tiles, strict=False)):
        drawn = axes.imshow(tile, **limits)
        axes.text(0.04, 0.95, f"{number}", transform=axes.transAxes, fontsize=6, va="top", color="white", bbox=LABELLED)
    if scale:
        bar = figure.colorbar(drawn, ax=panels, location="bottom", fraction=0.05, aspect=50)
        bar.set_label(plain(scale), fontsize=LABEL)
        bar.ax.tick_params(labelsize=SMALL)
    return figure
