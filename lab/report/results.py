"""The section of results, computed from the runs' files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lab.evaluation.comparison import read_comparison
from lab.evaluation.metrics import metrics_table
from lab.figures.accuracy import accuracy_figure
from lab.figures.comparison import comparison_figure
from lab.figures.roc import roc_figure
from lab.figures.style import png
from lab.report.parts import Part, Parts
from lab.report.runs import Run, interval
from lab.report.sections import Material, ablation_table, d4_text, percent_or_gap
from lab.report.typesetting import terminal
from lab.text import duration
from models.catalog import find

SHOWN, WIDTH = 7, 100  # lines of a log, and characters of a line


def results(material: Material, parts: Parts) -> dict[str, Any]:
    """The values of the section: highest testing accuracy, terminal output, curves, metrics, training time, other systems."""
    t, data = material.t, material.report.name
    best = best_table(material, parts)
    terminals = [terminal_part(material, run, parts) for run in material.runs.values() if run.log]
    unlogged = [f"log_{model}.txt" for model, run in material.runs.items() if run.history is not None and not run.log]
    histories = {model: run.history for model, run in material.runs.items() if run.history is not None}
    if histories:
        curves = parts.picture(png(accuracy_figure(histories)), t("curves", data=data), t("curves_alt"), 70)
    else:
        curves = parts.gap(t("gap_curves"))
    evaluated = {model: run.result for model, run in material.evaluated.items()}
    if evaluated:
        roc = parts.picture(png(roc_figure(evaluated, material.classes)), t("roc", data=data), t("roc_alt"), 52)
        overall = overall_table(material, parts)
    else:
        overall = roc = parts.gap(no_evaluation(material))
    return {
        "best": best,
        "terminals": terminals,
        "unlogged": t.listed(unlogged) if unlogged else "",
        "curves": curves,
        "overall": overall,
        "roc": roc,
        "time": time_table(material, parts),
        "recipe": ablation_table(material, parts, images=False),
        "systems": systems_table(material, parts),
        "systems_figure": systems_picture(material, parts),
    }


def best_table(material: Material, parts: Parts) -> Part:
    """The highest testing accuracy of each model, with its epoch and input size."""
    rows: list[list[str | None]] = []
    for model, run in material.runs.items():
        plain, averaged, size = run.accuracy, run.accuracy_d4, run.size
        epochs = [
            None if run.best is None else f"{run.best['epoch']:.0f}",
            None if run.history is None else f"{len(run.history)}",
        ]
        gain = "–" if plain is None or averaged is None else f"{100 * (averaged - plain):+.2f}"
        d4 = material.t("not_recorded") if averaged is None and plain is not None else percent_or_gap(averaged)
        rows.append([find(model).title, None if size is None else f"{size}", *epochs, percent_or_gap(plain), d4, gain])
        if run.best is None:
            parts.gap(run.missing.get("history", material.t("gap_accuracy", file=f"history_{model}.csv")))
    return parts.table(material.t.words("best_head"), rows, material.t("best"))


def terminal_part(material: Material, run: Run, parts: Parts) -> Part:
    """The last lines that a training printed, as a terminal of :data:`WIDTH` characters shows them."""
    lines: list[tuple[str, str]] = []
    for line in run.log[-SHOWN:]:
        epoch = run.best is not None and f" epoch {run.best['epoch']:.0f}/" in line
        style = "best" if epoch else "sum" if line is run.log[-1] else "plain"
        lines += [(line[start : start + WIDTH], style) for start in range(0, len(line), WIDTH)]
    title, file = f"{find(run.model).title}, {material.report.name}", f"log_{run.model}.txt"
    caption = material.t("terminal", model=find(run.model).title, file=file)
    return parts.picture(terminal(title, lines), caption, "; ".join(run.log[-SHOWN:]), 100, "svg")


def systems_table(material: Material, parts: Parts) -> Part | None:
    """The systems of ``compare.csv``; None without that file. Notes if it has another accuracy of a model than its evaluation."""
    t, table = material.t, read_comparison(material.report / "compare.csv")
    if table is None:
        return None
    measured = dict(zip(table["system"], table["accuracy"], strict=True))
    for model, run in material.evaluated.items():
        if abs(measured.get(model, np.inf) - run.hits / run.images) > 1e-5:
            parts.gaps.note(t("gap_systems", model=model, data=material.report.name))
    rows: list[list[str | None]] = []
    for row in table.to_dict("records"):
        flop, rate, p = (row[name] for name in ("training_flop", "images_per_second", "p_resnet18"))
        rows.append(
            [
                row["title"],
                f"{row['size']:.0f}",
                percent_or_gap(row["accuracy"]),
                f"{100 * row['low']:.2f}–{100 * row['high']:.2f}",
                percent_or_gap(row["f1"]),
                f"{row['parameters'] / 1e6:.2f}",
                "–" if np.isnan(flop) else f"{flop / 1e12:,.0f}",
                "–" if np.isnan(rate) else f"{rate:,.0f}",
                "–" if np.isnan(p) else f"{p:.2g}",
            ]
        )
    return parts.table(t.words("systems_head"), rows, t("systems"), "lrrcrrrrr")


def systems_picture(material: Material, parts: Parts) -> Part | None:
    """The figure of ``compare.csv``; None without that file."""
    table = read_comparison(material.report / "compare.csv")
    if table is None:
        return None
    return parts.picture(png(comparison_figure(table)), material.t("systems_figure"), material.t("systems_alt"), 100)


def no_evaluation(material: Material) -> str:
    """The message if no model was evaluated."""
    return next(iter(material.runs.values())).missing["valid"]


def overall_table(material: Material, parts: Parts) -> Part:
    """The metrics of each model over all classes."""
    t, evaluated = material.t, material.evaluated
    metrics = metrics_table({model: run.result for model, run in evaluated.items()}, material.classes)
    rows: list[list[str | None]] = []
    for model, run in material.runs.items():
        if run.labels is None:
            rows.append([find(model).title, *[None] * 7])
            continue
        values = metrics[(metrics["model"] == model) & (metrics["class"] == "overall")].set_index("metric")["value"]
        cells = [percent_or_gap(values[name]) for name in ("balanced_accuracy", "macro_f1")]
        numbers = [t("undefined") if np.isnan(values[name]) else f"{values[name]:.4f}" for name in ("auc", "log_loss")]
        accuracy = [percent_or_gap(values["accuracy"]), interval(run), d4_text(t, run.d4)]
        rows.append([find(model).title, *accuracy, *cells, *numbers])
    images = next(iter(evaluated.values())).images
    return parts.table(t.words("overall_head"), rows, t("overall", images=images), "lrrcrrrr")


def time_table(material: Material, parts: Parts) -> Part:
    """Training times from the histories."""
    rows: list[list[str | None]] = []
    for model, run in material.runs.items():
        if run.history is None or "seconds" not in run.history:
            rows.append([find(model).title, *[None] * 5])
            continue
        seconds, rate = run.history["seconds"], run.history.get("images_per_second", pd.Series(dtype=float))
        sizes = sorted({int(size) for size in run.history.get("size", pd.Series(dtype=float)).dropna()})
        speed = f"{rate.median():.0f}" if rate.notna().any() else None
        cells = [f"{len(run.history)}", ", ".join(map(str, sizes)) or None, duration(float(seconds.sum())), speed]
        device = run.about.device if run.about else material.t("not_recorded")
        rows.append([find(model).title, *cells, device])
    return parts.table(material.t.words("time_head"), rows, material.t("time"), "lrrrrl")
