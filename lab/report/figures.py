"""Figures that only the report has: reliability diagrams, thumbnails, and the lines of a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from lab.evaluation.calibration import BINS, Calibration
from lab.figures.style import GREY, LABEL, SMALL, TICK, new_figure
from lab.report.runs import Run
from lab.text import duration, percent
from models.catalog import find


def reliability_figure(calibrations: Mapping[str, Calibration]) -> Figure:
    """Draw reliability diagrams, one for each model: accuracy over confidence in bins, and the share of images in each bin."""
    figure = new_figure(2.75 * len(calibrations) + 0.6, 3.9, "")
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
        top.set_title(f"{find(model).title}: ECE {100 * measured.error:.1f} points", fontsize=LABEL)
        bottom.bar(centres, 100 * bins["images"] / bins["images"].sum(), width, color=colour, alpha=0.8)
        bottom.set(ylim=(0, 105), yticks=[0, 50, 100])
        bottom.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        for axes in (top, bottom):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=TICK)
            axes.grid(alpha=0.3, lw=0.6)
            axes.set_axisbelow(True)
        bottom.set_xlabel("Confidence", fontsize=LABEL)
    grid[0][0].set_ylabel("Accuracy", fontsize=LABEL)
    grid[1][0].set_ylabel("Images (%)", fontsize=LABEL)
    figure.supxlabel("dotted: confidence equals accuracy", fontsize=SMALL, color=GREY)
    return figure


def thumbnail(image: np.ndarray, side: int = 220) -> bytes:
    """An image, RGB uint8 [H, W, 3], scaled down to fit a square of ``side`` px, as PNG."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def terminal_lines(run: Run, evaluated: str, around: int = 2) -> list[tuple[str, str]]:
    """The epochs around the best epoch of a run as text, each line with its style: head, plain, best or sum."""
    best = run.best
    assert best is not None and run.history is not None
    history = run.history.reset_index(drop=True)
    index = int(history.index[history["epoch"] == best["epoch"]][0])
    first = max(0, min(index - around, len(history) - 2 * around - 1))
    lines = [(f"{'epoch':>7}  {'train %':>8}  {'valid %':>8}  {'loss':>13}  {'px':>4}  {'time':>7}", "head")]
    for number, row in history.iloc[first : first + 2 * around + 1].iterrows():
        loss = f"{cell(row, 'train_loss', '.3f')} / {cell(row, 'valid_loss', '.3f')}"
        time = duration(row["seconds"]) if np.isfinite(row.get("seconds", np.nan)) else "–"
        text = f"{row['epoch']:>7.0f}  {cell(row, 'train_accuracy', '.2f', 100):>8}  "
        text += f"{cell(row, 'valid_accuracy', '.2f', 100):>8}  {loss:>13}  {cell(row, 'size', '.0f'):>4}  {time:>7}"
        lines.append((text, "best" if number == index else "plain"))
    epoch = f"epoch {best['epoch']:.0f} of {len(history)}"
    lines.append((f"highest testing accuracy         {percent(best['valid_accuracy']):>8}  {epoch}", "sum"))
    return [*lines, (evaluated, "sum")] if evaluated else lines


def cell(row: object, column: str, form: str, factor: float = 1) -> str:
    """A number from a row of a history, or a dash."""
    value = row.get(column, np.nan)  # type: ignore[attr-defined]
    return format(factor * value, form) if np.isfinite(value) else "–"
