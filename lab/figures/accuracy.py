"""Accuracy over epochs, training and testing, of all models in one figure.

"Testing" is the lab's word for valid.csv. It is used in the figure's texts; in code and files the word is "valid".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lab.checkpoints.histories import best_row
from lab.errors import UserError
from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure
from models.catalog import find


def accuracy_columns(model: str, history: pd.DataFrame) -> pd.DataFrame:
    """Return the columns epoch, train and valid (accuracies in %), and size and valid_loss if known. Raises UserError if these
    cannot be drawn."""
    missing = {"epoch", "train_accuracy", "valid_accuracy"} - set(history.columns)
    if missing:
        raise UserError(f"the history of {model} lacks the column {', '.join(sorted(missing))}; train the model again.")
    if history.empty:
        raise UserError(f"the history of {model} has no epoch; train the model for at least one epoch.")
    shares = history[["train_accuracy", "valid_accuracy"]].astype(float)
    if ((shares < 0) | (shares > 1)).any(axis=None):
        raise UserError(f"the history of {model} has an accuracy outside 0…1; train the model again.")
    return pd.DataFrame(
        {
            "epoch": history["epoch"].astype(int),
            "train": shares["train_accuracy"] * 100,
            "valid": shares["valid_accuracy"] * 100,
            **{column: history[column] for column in ("size", "valid_loss") if column in history},
        }
    )


def best_epoch(curve: pd.DataFrame) -> int:
    """Return the position of the best epoch in a table of :func:`accuracy_columns`."""
    return best_row(curve.rename(columns={"valid": "valid_accuracy"}))


def lowest_shown(curves: Mapping[str, pd.DataFrame]) -> float:
    """Choose the lower end of the accuracy axis (%) so that a few bad epochs do not compress the rest.

    The usual range extends from 100 % to the 10th percentile of the lowest curve (its minimum, if it has fewer than five
    epochs). The axis shows 1.5 times this range, or all points if they need at most twice as much as that.
    """
    lines = [curve[side].dropna().to_numpy() for curve in curves.values() for side in ("train", "valid")]
    lines = [line for line in lines if len(line)]
    if not lines:
        return 0.0
    lowest = min(line.min() for line in lines)
    usual = min(np.percentile(line, 10, method="higher") if len(line) >= 5 else line.min() for line in lines)
    low = 100 - 1.5 * (100 - usual)
    low = low if 100 - lowest > 2 * (100 - low) else lowest
    return float(max(0.0, np.floor((low - 0.5) / 2) * 2))


def accuracy_figure(histories: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Draw accuracy (%) over epochs, training and testing, of all models; a star marks the best testing epoch of each.

    ``histories`` maps a model to its history: columns epoch (from 1), train_accuracy and valid_accuracy (0…1; NaN
    leaves a gap). Points below the axis are drawn as arrows at its lower end and counted in a note. Raises UserError for
    a history without epochs or with other columns.
    """
    if not histories:
        raise UserError("there is no history to draw; train a model first.")
    curves = {model: accuracy_columns(model, history) for model, history in histories.items()}
    figure = new_figure(6.4, 5.4, title)
    axes = figure.add_subplot()
    last = max(int(curve["epoch"].max()) for curve in curves.values())
    axes.set_xlim((0.5, 1.5) if last == 1 else (1 - 0.02 * last, last + 0.02 * last))
    low = lowest_shown(curves)
    axes.set_ylim(low, 100 + (100 - low) * 0.02)
    handles = [_draw_curves(axes, model, curve, star=last > 1) for model, curve in curves.items()]
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= 100])
    steps = MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]).tick_values(1, last)
    axes.set_xticks(sorted({1} | {int(tick) for tick in steps if 1 < tick <= last}))
    axes.grid(alpha=0.3, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TICK)
    axes.set_ylabel("Accuracy (%)", fontsize=LABEL)
    axes.set_xlabel("Epoch", fontsize=LABEL)
    _note_hidden(axes, curves, low)
    figure.legend(handles=handles, loc="outside lower left", fontsize=TICK, frameon=False)
    styles = [
        Line2D([], [], color=GREY, lw=2, label="testing (valid list)"),
        Line2D([], [], color=GREY, lw=1.1, ls="--", label="training"),
        Line2D([], [], color=GREY, marker="*", ms=12, mec="white", ls="none", label="best testing epoch"),
    ]
    styles = styles if last > 1 else styles[:2]
    figure.legend(handles=styles, loc="outside lower right", fontsize=TICK, frameon=False)
    return figure


def _draw_curves(axes: Axes, model: str, curve: pd.DataFrame, star: bool) -> Line2D:
    """Draw the two curves of a model, with a star at the best epoch if ``star``, and return its handle for the legend."""
    row = find(model)
    common: dict[str, Any] = {"color": row.colour, "marker": row.marker, "markevery": max(1, len(curve) // 10)}
    axes.plot(curve["epoch"], curve["train"], "--", lw=1.1, ms=4, mfc="white", mew=0.9, zorder=2, **common)
    axes.plot(curve["epoch"], curve["valid"], "-", lw=2.0, ms=5, zorder=3, **common)
    text = f"{row.title}: no testing accuracy"
    if curve["valid"].notna().any():
        best = curve.iloc[best_epoch(curve)]
        epoch, share = int(best["epoch"]), float(best["valid"])
        text = f"{row.title}: best {share:.2f} % (epoch {epoch})"
        if star:
            axes.plot(epoch, share, "*", ms=15, mfc=row.colour, mec="white", mew=1, zorder=5, clip_on=False)
    return Line2D([], [], color=row.colour, marker=row.marker, lw=2, ms=5, label=text)


def _note_hidden(axes: Axes, curves: Mapping[str, pd.DataFrame], low: float) -> None:
    """Draw an arrow for each point below the axis, and a note with their number and the lowest."""
    hidden = []
    for model, curve in curves.items():
        for side, label in (("train", "training"), ("valid", "testing")):
            below = curve[curve[side] < low]
            hidden += [(share, model, label, epoch) for epoch, share in zip(below["epoch"], below[side], strict=True)]
    for _, model, label, epoch in hidden:
        colour = find(model).colour
        face = colour if label == "testing" else "white"
        axes.plot(epoch, low, marker=7, ms=7, mfc=face, mec=colour, clip_on=False, zorder=6, ls="none")
    if hidden:
        share, model, label, epoch = min(hidden)
        points = f"{len(hidden)} points are" if len(hidden) > 1 else "1 point is"
        note = f"▾ {points} below the axis; the lowest: {share:.1f} %, {find(model).title}, {label}, epoch {epoch}"
        # Below the tick labels; constrained layout reserves room for an annotation as for a label of the axis.
        axes.annotate(note, (0.5, 0), (0, -48), "axes fraction", "offset points", ha="center", va="top", fontsize=SMALL)
