"""Precision, recall and F1 on valid per epoch, of all models."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lab.errors import UserError
from lab.figures.style import LABEL, TICK, new_figure
from models.catalog import find

SCORES = {"valid_precision": "Precision (%)", "valid_recall": "Recall (%)", "valid_f1": "F1 (%)"}


def scores_figure(histories: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Draw a panel for each score, the mean over the classes (macro), over the epochs. ``histories`` maps a model to its history.

    Raises :class:`UserError` if no history has these columns, as those of earlier versions.
    """
    drawn = {model: history for model, history in histories.items() if set(SCORES) <= set(history)}
    if not drawn:
        raise UserError("no history has the columns valid_precision, valid_recall and valid_f1; train a model again.")
    figure = new_figure(11, 4.4, title)
    panels = figure.subplots(1, len(SCORES), sharey=True)
    for axes, (column, name) in zip(panels, SCORES.items(), strict=True):
        for model, history in drawn.items():
            row, every = find(model), max(1, len(history) // 10)
            style = {"color": row.colour, "marker": row.marker, "ms": 5, "lw": 2, "markevery": every}
            axes.plot(history["epoch"], 100 * history[column], **style)
        axes.set_title(name, fontsize=LABEL)
        axes.set_xlabel("Epoch", fontsize=LABEL)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.grid(alpha=0.3, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=TICK)
    handles = [
        Line2D([], [], color=row.colour, marker=row.marker, lw=2, ms=5, label=row.title) for row in map(find, drawn)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=TICK, frameon=False)
    return figure
