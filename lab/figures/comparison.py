"""The accuracy of each system of a data set with its interval, and what it cost to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure, plain
from models import catalog


@dataclass(frozen=True)
class Group:
    """A kind of system, its colour (Okabe and Ito 2008) and its marker."""

    name: str
    title: str
    colour: str
    marker: str


RESNET = Group("resnet", "ResNet, from scratch", "#0072B2", "o")
NETWORK = Group("network", "other network, from scratch", "#009E73", "s")
IMAGENET = Group("imagenet", "ImageNet weights", "#D55E00", "^")
HEAD = Group("head", "features and a classical head", "#7F7F7F", "D")
GROUPS = (RESNET, NETWORK, IMAGENET, HEAD)


def group_of(system: str) -> Group:
    """The group of a system, by its name."""
    if system in catalog.names():
        return RESNET if catalog.find(system).depth else NETWORK
    return IMAGENET if system.endswith(("_frozen", "_tuned")) else HEAD


def comparison_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw the rows of compare.csv: on the left the accuracies (%) with their 95 % intervals, on the right the accuracy over the
    training cost; the area of a point grows with the number of parameters, and its number is that of the row."""
    groups = [group_of(system) for system in table["system"]]
    figure = new_figure(12.5, 2.2 + 0.3 * max(len(table), 10), title)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    draw_intervals(left, table, groups)
    draw_costs(right, table, groups)
    for axes in (left, right):
        axes.grid(alpha=0.3, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=TICK)
    used = [group for group in GROUPS if group in groups]
    handles = [
        Line2D([], [], color=group.colour, marker=group.marker, ls="none", ms=9, label=group.title) for group in used
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(used), fontsize=TICK, frameon=False)
    return figure


def draw_intervals(axes: Axes, table: pd.DataFrame, groups: list[Group]) -> None:
    """The accuracy of each system, the best at the top."""
    shares = 100 * table[["low", "accuracy", "high"]].to_numpy(float)
    for position, ((low, value, high), group) in enumerate(zip(shares, groups, strict=True)):
        axes.plot([low, high], [position, position], color=group.colour, lw=2)
        axes.plot(value, position, group.marker, color=group.colour, ms=7, mec="white")
    names = [f"{plain(title)}  {number}" for number, title in enumerate(table["title"], 1)]
    axes.set_yticks(range(len(table)), names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("Accuracy on valid (%), 95 % interval", fontsize=LABEL)
    low = lowest(table)
    axes.set_xlim(low, 100 + 0.01 * (100 - low))
    for position, share in enumerate(shares[:, 1]):
        if share < low:
            axes.annotate(
                f"◂ {share:.1f}", (low, position), (4, 0), textcoords="offset points", va="center", fontsize=SMALL
            )


def lowest(table: pd.DataFrame) -> float:
    """The lower end of the accuracy axis, %: below the interval of all systems but those far behind the rest."""
    shares = 100 * table["accuracy"].to_numpy()
    usual = shares[shares >= 100 - 4 * max(100 - float(np.median(shares)), 1.0)]
    lows = 100 * table["low"].to_numpy()[np.isin(shares, usual)]
    return float(np.floor(lows.min() - 0.5))


def draw_costs(axes: Axes, table: pd.DataFrame, groups: list[Group]) -> None:
    """Accuracy over training cost, for systems whose cost is counted."""
    low = lowest(table)
    costs, shares = table["training_flop"].to_numpy(float) / 1e12, 100 * table["accuracy"].to_numpy(float)
    areas = 60 + 700 * np.sqrt(table["parameters"].to_numpy(float) / table["parameters"].max())
    drawn = (costs > 0) & (shares >= low)
    for row in np.flatnonzero(drawn):
        group = groups[row]
        axes.scatter(costs[row], shares[row], s=areas[row], color=group.colour, marker=group.marker, alpha=0.5, lw=0)
    points = np.stack([np.log10(costs.clip(1e-9)) / 0.12, shares / (0.03 * (100 - low))], axis=1)
    for rows in together(points, np.flatnonzero(drawn).tolist()):
        numbers, point = ", ".join(f"{row + 1}" for row in rows), (costs[rows[0]], shares[rows[0]])
        # The numbers of points that almost coincide are written beside the best of them.
        offset, side = ((0, 0), "center") if len(rows) == 1 else ((13, 0), "left")
        style: dict[str, Any] = {"ha": side, "va": "center", "fontsize": SMALL}
        axes.annotate(numbers, point, offset, textcoords="offset points", **style)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_ylim(low, 100 + 0.01 * (100 - low))
    axes.set_xlabel("Training cost (TFLOP)", fontsize=LABEL)
    axes.set_ylabel("Accuracy on valid (%)", fontsize=LABEL)
    note = "larger points have more parameters"
    if not drawn.all():
        note += f"\n{len(table) - drawn.sum()} not shown: cost not counted, or accuracy below the axis"
    axes.set_title(note, fontsize=SMALL, color=GREY)


def together(points: np.ndarray, rows: Sequence[int]) -> list[list[int]]:
    """The ``rows`` in groups, each within a distance of 1 in both directions of its first row; ``points`` are [N, 2]."""
    groups: list[list[int]] = []
    for row in rows:
        near = (group for group in groups if (np.abs(points[group[0]] - points[row]) < 1).all())
        group = next(near, None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return groups
