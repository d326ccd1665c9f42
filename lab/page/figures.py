"""Interactive figures of the page, by Plotly: accuracy and loss over epochs, and confusion matrices.

Backgrounds are transparent, and texts have the page's colour, so that they are read in light and dark alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lab.figures.accuracy import accuracy_columns, lowest_shown
from lab.figures.confusion import row_shares
from lab.text import percent
from models import catalog

GREY = "#888888"
GRID = "rgba(128, 128, 128, 0.25)"
SYMBOLS = {"o": "circle", "v": "triangle-down", "s": "square", "D": "diamond", "^": "triangle-up", "X": "x"}


def colour(model: str, dark: bool) -> str:
    """The colour of a model, as in the printed figures where the page is light."""
    row = catalog.find(model)
    return row.colour_on_dark or row.colour if dark else row.colour


def colour_rules() -> str:
    """The style sheet's rules that give each model's cards and panels its colour."""
    themes = {"": False, ".dark ": True}
    return "\n".join(
        f"{theme}.{model} {{ --depth: {colour(model, dark)}; }}"
        for theme, dark in themes.items()
        for model in catalog.names()
    )


def bare(height: int, dark: bool) -> go.Figure:
    """An empty figure without a background of its own; its texts in the page's colour."""
    clear, ink, paper = "rgba(0, 0, 0, 0)", "#f1f5f9" if dark else "#1e293b", "#0f172a" if dark else "#ffffff"
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        font={"size": 13, "family": "system-ui, sans-serif", "color": ink},
        modebar={"bgcolor": clear, "color": GREY, "activecolor": ink, "remove": ["select2d", "lasso2d"]},
        hoverlabel={"bgcolor": paper, "bordercolor": GREY, "font": {"size": 13, "color": ink}},
    )
    return figure


def curves_figure(histories: Mapping[str, pd.DataFrame], kind: str = "accuracy", dark: bool = False) -> go.Figure:
    """Accuracy in % or loss in nats over the epochs, in training (dotted) and on valid; a star marks each best epoch on valid.

    Raises UserError for a history that is none.
    """
    figure = bare(440, dark)
    tables = {model: accuracy_columns(model, history) for model, history in histories.items()}
    for model, table in tables.items():
        history, name, hue = histories[model], catalog.find(model).title, colour(model, dark)
        sides = {"train": table["train"], "valid": table["valid"]}
        if kind == "loss":
            missing = pd.Series(np.nan, index=history.index)
            sides = {side: history.get(f"{side}_loss", missing) for side in ("train", "valid")}
        unit, digits = ("%", ".2f") if kind == "accuracy" else ("nats", ".3f")
        for side, label in (("train", "training"), ("valid", "valid")):
            figure.add_scatter(
                x=table["epoch"].tolist(),
                y=sides[side].tolist(),
                name=f"{name}, {label}",
                legendgroup=model,
                mode="lines+markers",
                line={
                    "color": hue,
                    "width": 2.6 if side == "valid" else 1.4,
                    "dash": "solid" if side == "valid" else "dot",
                },
                marker={"symbol": SYMBOLS[catalog.find(model).marker], "size": 7 if side == "valid" else 4},
                hovertemplate=f"%{{y:{digits}}} {unit}",
            )
        if sides["valid"].notna().any():
            values = sides["valid"].to_numpy(dtype=float)
            best = int(np.nanargmax(values) if kind == "accuracy" else np.nanargmin(values))
            figure.add_scatter(
                x=[int(table["epoch"].iloc[best])],
                y=[float(values[best])],
                legendgroup=model,
                showlegend=False,
                mode="markers",
                marker={"symbol": "star", "size": 17, "color": hue, "line": {"width": 1, "color": GREY}},
                hoverinfo="skip",
            )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "ticks": "outside", "tickcolor": GRID}
    figure.update_xaxes(title="Epoch", tickformat="d", unifiedhovertitle={"text": "Epoch %{x}"}, **axis)
    figure.update_yaxes(title="Accuracy (%)" if kind == "accuracy" else "Loss (nats)", **axis)
    if kind == "accuracy" and tables:
        low = lowest_shown(tables)
        figure.update_yaxes(range=[low, 100 + (100 - low) * 0.03])
    figure.update_layout(
        hovermode="x unified",
        hoverdistance=-1,  # from anywhere, the nearest epoch
        margin={"l": 62, "r": 16, "t": 14, "b": 50},
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
    )
    return figure


def confusion_figure(
    matrix: np.ndarray, classes: Sequence[str], model: str, errors_only: bool = False, dark: bool = False
) -> go.Figure:
    """A confusion matrix of counts [K, K], true classes down; colour is the share of the true class. ``errors_only`` leaves the
    diagonal out, so that the colours tell the errors apart."""
    shares = row_shares(matrix)
    drawn = shares.copy()
    if errors_only:
        np.fill_diagonal(drawn, np.nan)
    names = [escape(name) for name in classes]  # Plotly takes some HTML in its texts
    hover = [
        [
            f"<b>{true}</b> taken for <b>{predicted}</b><br>{count:,} images, {share:.1f} % of the true class"
            if row != column
            else f"<b>{true}</b> recognised<br>{count:,} images, {share:.1f} % of the true class"
            for column, (predicted, count, share) in enumerate(zip(names, counts, row_share, strict=True))
        ]
        for row, (true, counts, row_share) in enumerate(zip(names, matrix, shares, strict=True))
    ]
    figure = bare(max(360, 150 + 36 * len(classes)), dark)
    top = float(np.nanmax(drawn)) if np.isfinite(drawn).any() else 1.0
    low, high = ("#17202e", "#6DB6E8") if dark else ("#f5f8fc", "#08519c")
    figure.add_heatmap(
        z=np.nan_to_num(drawn).tolist(),
        x=list(range(len(classes))),
        y=list(range(len(classes))),
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=[[0, low], [1, high]],
        zmin=0,
        zmax=max(top, 1e-9),
        xgap=2,
        ygap=2,
        showscale=False,
    )
    for row in range(len(classes)):
        for column in range(len(classes)):
            if matrix[row, column] and not (errors_only and row == column):
                strong = np.nan_to_num(drawn[row, column]) > 0.5 * top
                ink = ("#0b1220" if dark else "#ffffff") if strong else ("#e8eef6" if dark else "#1f2937")
                figure.add_annotation(
                    x=column,
                    y=row,
                    text=f"{matrix[row, column]:,}",
                    showarrow=False,
                    font={"color": ink, "size": 13 if len(classes) <= 10 else 9},
                    captureevents=False,
                )
    short = [name if len(name) <= 18 else f"{name[:10]}…{name[-6:]}" for name in classes]
    axis = {"tickvals": list(range(len(classes))), "ticktext": [escape(name) for name in short], "showgrid": False}
    axis |= {"zeroline": False, "ticks": ""}
    figure.update_xaxes(
        title={"text": "Predicted class", "standoff": 12}, tickangle=-40 if len(classes) > 3 else 0, **axis
    )
    figure.update_yaxes(title={"text": "True class", "standoff": 12}, autorange="reversed", **axis)
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    hits = int(np.trace(matrix))
    share = f"{percent(hits / matrix.sum())} right" if matrix.sum() else "no image"
    figure.update_layout(
        title={"text": f"{catalog.find(model).title}: {share}", "x": 0.5, "font": {"size": 15}},
        margin={"l": 20, "r": 10, "t": 44, "b": 20},
    )
    return figure
