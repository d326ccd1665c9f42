"""Interactive Plotly figures of the page: accuracy and loss over epochs, and confusion matrices.

Backgrounds are transparent and texts have the page's colour, so that figures can be read in the light and the dark theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lab.figures.accuracy import accuracy_columns, best_epoch, lowest_shown
from lab.figures.comparison import GROUPS, group_of, lowest
from lab.figures.confusion import row_shares
from lab.page.texts import TEXTS, Texts
from lab.text import percent
from models import catalog

KINDS = ("accuracy", "loss", "precision", "recall", "f1")  # what the curves show
CLEAR, GREY, GRID = "rgba(0, 0, 0, 0)", "#888888", "rgba(128, 128, 128, 0.25)"
# matplotlib's markers in models/catalog.py as Plotly's symbols.
SYMBOLS = {"o": "circle", "v": "triangle-down", "s": "square", "D": "diamond", "^": "triangle-up", "X": "x"}
SYMBOLS |= {"d": "diamond-tall", "<": "triangle-left", ">": "triangle-right", "P": "cross", "p": "pentagon"}
SYMBOLS |= {"h": "hexagon", "H": "hexagon2", "8": "octagon", "x": "x-thin-open", "+": "cross-thin-open"}
SYMBOLS |= {"1": "y-down-open", "2": "y-up-open", "3": "y-left-open", "4": "y-right-open"}


def colour(model: str, dark: bool) -> str:
    """The colour of a model in one of the two themes."""
    row = catalog.find(model)
    return row.colour_on_dark or row.colour if dark else row.colour


def colour_rules() -> str:
    """CSS rules that give each model's cards and panels its colour."""
    themes = {"": False, ".dark ": True}
    return "\n".join(
        f"{theme}.{model} {{ --depth: {colour(model, dark)}; }}"
        for theme, dark in themes.items()
        for model in catalog.names()
    )


def new_figure(height: int, dark: bool) -> go.Figure:
    """An empty figure with a transparent background and texts in the theme's colour."""
    ink, paper = ("#f1f5f9", "#0f172a") if dark else ("#1e293b", "#ffffff")
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"size": 13, "family": "Page TC, system-ui, sans-serif", "color": ink},
        modebar={"bgcolor": CLEAR, "color": GREY, "activecolor": ink, "remove": ["select2d", "lasso2d"]},
        hoverlabel={"bgcolor": paper, "bordercolor": GREY, "font": {"size": 13, "color": ink}},
    )
    return figure


def curves_figure(
    histories: Mapping[str, pd.DataFrame], kind: str = "accuracy", dark: bool = False, say: Texts = TEXTS["en"]
) -> go.Figure:
    """Accuracy in % or loss in nats over the epochs, on train (dotted) and on valid, or a macro score in % on valid; a star marks
    each best epoch on valid. ``kind`` is one of :data:`KINDS`.

    Raises UserError for a table that is not a history.
    """
    figure = new_figure(440, dark)
    tables = {model: accuracy_columns(model, history) for model, history in histories.items()}
    unit, digits = ("nats", ".3f") if kind == "loss" else ("%", ".2f")
    for model, table in tables.items():
        row, hue = catalog.find(model), colour(model, dark)
        sides = {"train": table["train"], "valid": table["valid"]}
        if kind != "accuracy":
            missing, factor = pd.Series(np.nan, index=table.index), 1 if kind == "loss" else 100
            measured = ("train", "valid") if kind == "loss" else ("valid",)
            sides = {side: factor * histories[model].get(f"{side}_{kind}", missing) for side in measured}
        styles = {"train": (1.4, "dot", 4), "valid": (2.6, "solid", 7)}
        for side, values in sides.items():
            width, dash, size = styles[side]
            figure.add_scatter(
                x=table["epoch"].tolist(),
                y=values.tolist(),
                name=say(f"line_{side}", model=row.title),
                legendgroup=model,
                mode="lines+markers",
                line={"color": hue, "width": width, "dash": dash},
                marker={"symbol": SYMBOLS[row.marker], "size": size},
                hovertemplate=f"%{{y:{digits}}} {unit}",
            )
        if sides["valid"].notna().any():
            valid = sides["valid"].to_numpy(dtype=float)
            best = best_epoch(table) if kind == "accuracy" else int(np.nanargmax(-valid if kind == "loss" else valid))
            figure.add_scatter(
                x=[int(table["epoch"].iloc[best])],
                y=[float(valid[best])],
                legendgroup=model,
                showlegend=False,
                mode="markers",
                marker={"symbol": "star", "size": 17, "color": hue, "line": {"width": 1, "color": GREY}},
                hoverinfo="skip",
            )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "ticks": "outside", "tickcolor": GRID}
    # Plotly would also mark halves of a few epochs.
    axis_x = {"dtick": 1} if max((table["epoch"].max() for table in tables.values()), default=99) <= 10 else {}
    hover = {"text": f"{say('epoch')} %{{x}}"}
    figure.update_xaxes(title=say("epoch"), tickformat="d", unifiedhovertitle=hover, **axis, **axis_x)
    figure.update_yaxes(title=say(f"axis_{kind}"), **axis)
    if kind == "accuracy" and tables:
        low = lowest_shown(tables)
        figure.update_yaxes(range=[low, 100 + (100 - low) * 0.03])
    figure.update_layout(
        hovermode="x unified",
        hoverdistance=-1,  # the nearest epoch, however far away
        margin={"l": 62, "r": 16, "t": 14, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return figure


def systems_figure(table: pd.DataFrame, dark: bool, say: Texts) -> go.Figure:
    """Accuracy in % with its 95 % interval over the training cost, of the systems whose cost is counted. A number is that of the
    row in the table."""
    figure = new_figure(460, dark)
    table = table.assign(number=range(1, len(table) + 1), group=[group_of(name).name for name in table["system"]])
    table = table[table["training_flop"] > 0]
    for group in GROUPS:
        rows = table[table["group"] == group.name]
        if rows.empty:
            continue
        shares = {name: 100 * rows[name] for name in ("accuracy", "low", "high")}
        figure.add_scatter(
            x=rows["training_flop"] / 1e12,
            y=shares["accuracy"],
            error_y={"array": shares["high"] - shares["accuracy"], "arrayminus": shares["accuracy"] - shares["low"]},
            name=say(f"group_{group.name}"),
            mode="markers+text",
            text=rows["number"],
            textposition="middle right",
            marker={"symbol": SYMBOLS[group.marker], "size": 11, "color": group.colour},
            customdata=np.stack([rows["title"].map(escape), rows["parameters"] / 1e6], axis=1),
            hovertemplate="%{customdata[0]}<br>%{y:.2f} %, %{x:,.0f} TFLOP, %{customdata[1]:,.2f} M<extra></extra>",
        )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "ticks": "outside", "tickcolor": GRID}
    figure.update_xaxes(title=say("axis_cost"), type="log", **axis)
    figure.update_yaxes(title=say("axis_accuracy"), **axis)
    if len(table):
        low = lowest(table)
        figure.update_yaxes(range=[low, 100 + (100 - low) * 0.03])
    figure.update_layout(margin={"l": 62, "r": 16, "t": 14, "b": 50}, legend={"orientation": "h", "y": -0.2})
    return figure


def roc_figure(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], classes: Sequence[str], dark: bool, say: Texts
) -> go.Figure:
    """ROC curves: each model's false- and true-positive rates, and the area under them."""
    figure = new_figure(460, dark)
    for model, (x, y, area) in curves.items():
        name = say("line_roc", model=catalog.find(model).title, auc=area)
        figure.add_scatter(x=x, y=y, name=name, mode="lines", line={"color": colour(model, dark), "width": 2.4})
    line = {"color": GREY, "dash": "dot", "width": 1.4}
    figure.add_scatter(x=[0, 1], y=[0, 1], name=say("chance"), mode="lines", line=line, hoverinfo="skip")
    two = say("roc_two", label=escape(classes[1])) if len(classes) == 2 else say("roc_many")
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "range": [-0.01, 1.01], "constrain": "domain"}
    figure.update_xaxes(title=say("axis_false"), **axis)
    figure.update_yaxes(title=say("axis_true_rate"), scaleanchor="x", **axis)
    figure.update_layout(
        title={"text": two, "x": 0.5, "font": {"size": 15}},
        margin={"l": 62, "r": 16, "t": 44, "b": 50},
        legend={"orientation": "h", "y": -0.24, "yanchor": "top", "x": 0},
    )
    return figure


def coloured_shares(matrix: np.ndarray, errors_only: bool) -> np.ndarray:
    """The shares of the true classes in % that a confusion matrix is coloured by, [K, K]; 0 where it is not coloured."""
    shares = np.nan_to_num(row_shares(matrix))
    if errors_only:
        np.fill_diagonal(shares, 0)
    return shares


def confusion_figure(
    matrix: np.ndarray,
    classes: Sequence[str],
    model: str,
    errors_only: bool = False,
    dark: bool = False,
    top: float = 0.0,
    say: Texts = TEXTS["en"],
) -> go.Figure:
    """A confusion matrix of counts [K, K], a row for each true class, coloured by the share of the true class.

    ``errors_only`` leaves the diagonal uncoloured, so that the colours show differences between the errors. The scale of the
    colours ends at ``top`` % or at the highest share, so that matrices with the same ``top`` can be compared.
    """
    shares, shaded = coloured_shares(matrix, False), coloured_shares(matrix, errors_only)
    top = max(float(shaded.max()), top, 1e-9)
    names = [escape(name) for name in classes]  # Plotly interprets some HTML in texts
    labels = range(len(classes))
    figure = new_figure(max(360, 150 + 36 * len(classes)), dark)
    low, high = ("#17202e", "#6DB6E8") if dark else ("#f5f8fc", "#08519c")
    hover = []
    for row in labels:
        texts = []
        for column in labels:
            count = matrix[row, column]
            key = "cell_right" if row == column else "cell_wrong"
            text = say(key, true=f"<b>{names[row]}</b>", predicted=f"<b>{names[column]}</b>")
            texts.append(f"{text}<br>{say('cell_count', count=count, share=shares[row, column])}")
            if count and not (errors_only and row == column):
                strong = shaded[row, column] > 0.5 * top
                ink = ("#0b1220" if dark else "#ffffff") if strong else ("#e8eef6" if dark else "#1f2937")
                figure.add_annotation(
                    x=column,
                    y=row,
                    text=f"{count:,}",
                    showarrow=False,
                    font={"color": ink, "size": 13 if len(classes) <= 10 else 9},
                    captureevents=False,
                )
        hover.append(texts)
    figure.add_heatmap(
        z=shaded.tolist(),
        x=list(labels),
        y=list(labels),
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=[[0, low], [1, high]],
        zmin=0,
        zmax=top,
        xgap=2,
        ygap=2,
        showscale=False,
    )
    # Two lines fit beside a row, and one below a narrow column; the whole name is in the hover text.
    slanted = len(classes) > 3
    columns = [
        "<br>".join(map(escape, wrap(name, 18, max_lines=1 if slanted else 2, placeholder=" …"))) for name in classes
    ]
    rows = ["<br>".join(map(escape, wrap(name, 18, max_lines=2, placeholder=" …"))) for name in classes]
    axis = {"tickvals": list(labels), "showgrid": False, "zeroline": False, "ticks": "", "automargin": True}
    below, beside = ({"text": say(key), "standoff": 12} for key in ("axis_predicted", "axis_true"))
    figure.update_xaxes(title=below, ticktext=columns, tickangle=-40 if slanted else 0, **axis)
    figure.update_yaxes(title=beside, ticktext=rows, autorange="reversed", **axis)
    share = percent(np.trace(matrix) / matrix.sum()) if matrix.sum() else ""
    title = say("matrix_accuracy" if share else "matrix_empty", model=catalog.find(model).title, accuracy=share)
    figure.update_layout(
        title={"text": title, "x": 0.5, "font": {"size": 15}},
        margin={"l": 20, "r": 10, "t": 44, "b": 20},
    )
    return figure
