"""Accuracy and calibration on changed images: a panel for each change, with a line for each model."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from lab.figures.style import LABEL, SMALL, TICK, new_figure
from models.catalog import find

MEASURES = {"accuracy": "Accuracy (%)", "calibration_error": "Calibration error\n(points)"}


def robustness_figure(table: pd.DataFrame, titles: Mapping[str, str], title: str = "") -> Figure:
    """Draw the table of ``studies.robustness``. ``titles`` are those of the changes. The first point of each line is that of the
    unchanged images; the bars are 95 % intervals."""
    figure = new_figure(1.95 * len(titles) + 0.7, 5.2, title)
    panels = figure.subplots(len(MEASURES), len(titles), sharey="row", sharex="col", squeeze=False)
    for column, (change, heading) in enumerate(titles.items()):
        of_change = table[table["change"].isin(["none", change])]
        strengths = of_change.loc[of_change["change"] == change, "strength"].unique()
        for axes, measure in zip(panels[:, column], MEASURES, strict=True):
            for model, rows in of_change.groupby("model", sort=False):
                look = find(str(model))
                x, y = range(len(rows)), 100 * rows[measure].to_numpy()
                style = {"color": look.colour, "marker": look.marker, "ms": 5, "lw": 1.6, "label": look.title}
                axes.plot(x, y, **style)
                if measure == "accuracy":
                    axes.vlines(x, 100 * rows["low"], 100 * rows["high"], color=look.colour, lw=0.9, alpha=0.6)
            axes.grid(alpha=0.3, lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=SMALL)
            axes.margins(x=0.12)
        panels[0, column].set_title(heading.replace(", ", ",\n", 1), fontsize=TICK)
        panels[-1, column].set_xticks(range(len(strengths) + 1), ["none", *(f"{value:g}" for value in strengths)])
    for axes, name in zip(panels[:, 0], MEASURES.values(), strict=True):
        axes.set_ylabel(name, fontsize=LABEL)
    panels[-1, 0].set_ylim(bottom=0)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", fontsize=SMALL, frameon=False, ncols=len(names))
    return figure
