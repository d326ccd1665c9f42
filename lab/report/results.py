"""The section of results, computed from the runs' files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from lab.evaluation.metrics import metrics_table, wilson
from lab.figures.accuracy import accuracy_figure
from lab.figures.confusion import confusion_figure
from lab.figures.roc import roc_figure
from lab.figures.style import png
from lab.report.ablations import ablations
from lab.report.figures import terminal_lines
from lab.report.parts import Part, Parts
from lab.report.runs import Run
from lab.report.sections import Material, ablation_part, percent_or_gap
from lab.report.typesetting import terminal
from lab.text import duration, percent
from models.catalog import find


def interval(hits: int, images: int) -> str:
    """The 95 % Wilson interval of a proportion, in %."""
    low, high = wilson(hits, images)
    return f"{100 * low:.2f} to {100 * high:.2f}"


def results(material: Material, parts: Parts) -> dict[str, Any]:
    """The values of the section: highest testing accuracy, curves, confusion matrices, metrics, training time."""
    terminals = []
    for model, run in material.runs.items():
        if run.best is None:
            terminals.append(parts.gap(run.missing.get("history", f"history_{model}.csv has no testing accuracy.")))
            continue
        saved = ""
        if run.labels is not None:
            hits, images = count_correct(run)
            saved = f"evaluation of the saved weights  {100 * hits / images:>6.2f} %  {hits:,} of {images:,} images"
        lines = terminal_lines(run, saved)
        title = f"{find(model).title} on {material.report.name}"
        caption = f"Highest testing accuracy of {find(model).title}, from history_{model}.csv"
        caption += f" and valid_{model}.csv." if saved else "."
        picture = terminal(title, lines)
        terminals.append(parts.picture(picture, caption, "; ".join(text.strip() for text, _ in lines), 86, "svg"))
    histories = {model: run.history for model, run in material.runs.items() if run.history is not None}
    if histories:
        curves = parts.picture(
            png(accuracy_figure(histories)),
            f"Accuracy per epoch on {material.report.name}, training and testing.",
            "line chart: accuracy over epochs, for each model a solid line for testing and a dashed line for training",
            76,
        )
    else:
        curves = parts.gap("no history was found, so there are no curves.")
    matrices = [matrix_part(material, run, parts) for run in material.runs.values()]
    evaluated = {model: run.result for model, run in material.evaluated.items()}
    if evaluated:
        overall = overall_table(material, parts)
        caption = f"ROC curves on {material.report.name}: true-positive rate over false-positive rate."
        roc = parts.picture(png(roc_figure(evaluated, material.classes)), caption, "ROC curves of all models", 52)
    else:
        overall = roc = parts.gap(no_evaluation(material))
    time = time_table(material, parts)
    table = ablations(material.ablations, material.report.name, images=False)
    recipe = ablation_part(parts, table) if table else None
    stale = [parts.gap(run.missing["fresh"]) for run in material.runs.values() if "fresh" in run.missing]
    return {
        "terminals": terminals,
        "curves": curves,
        "matrices": matrices,
        "overall": overall,
        "roc": roc,
        "stale": stale,
        "time": time,
        "recipe": recipe,
    }


def count_correct(run: Run) -> tuple[int, int]:
    """The number of correctly classified images of an evaluation, and that of all images."""
    labels, probabilities = run.result
    return int((probabilities.argmax(axis=1) == labels).sum()), len(labels)


def matrix_part(material: Material, run: Run, parts: Parts) -> Part:
    """The confusion matrix of a model."""
    if run.labels is None:
        return parts.gap(run.missing["valid"])
    (labels, probabilities), (hits, images) = run.result, count_correct(run)
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(material.classes)))
    accuracy = f"accuracy {percent(hits / images)} on {images:,} images (95 % interval {interval(hits, images)})"
    caption = f"Confusion matrix of {find(run.model).title}: {accuracy}. Left: images. Right: % of the true class."
    alt = f"two heat maps of true against predicted class of {find(run.model).title}"
    width = 92 if len(material.classes) > 4 else 74
    return parts.picture(png(confusion_figure(matrix, material.classes)), caption, alt, width)


def no_evaluation(material: Material) -> str:
    """The message if no model was evaluated."""
    return next(iter(material.runs.values())).missing["valid"]


def overall_table(material: Material, parts: Parts) -> Part:
    """The metrics of each model over all classes."""
    metrics = metrics_table({model: run.result for model, run in material.evaluated.items()}, material.classes)
    rows: list[list[str | None]] = []
    for model, run in material.runs.items():
        if run.labels is None:
            rows.append([find(model).title, *[None] * 6])
            continue
        values = metrics[(metrics["model"] == model) & (metrics["class"] == "overall")].set_index("metric")["value"]
        cells = [percent_or_gap(values[name]) for name in ("balanced_accuracy", "macro_f1")]
        numbers = ["undefined" if np.isnan(values[name]) else f"{values[name]:.4f}" for name in ("auc", "log_loss")]
        rows.append(
            [find(model).title, percent_or_gap(values["accuracy"]), interval(*count_correct(run)), *cells, *numbers]
        )
    head = ["model", "accuracy", "95 % interval", "balanced", "macro F1", "AUC", "log loss"]
    images = len(next(iter(material.evaluated.values())).ids)
    caption = f"Metrics on the {images:,} images of valid.csv, from the predictions of evaluate.py."
    return parts.table(head, rows, caption)


def time_table(material: Material, parts: Parts) -> Part:
    """Training times from the histories."""
    rows: list[list[str | None]] = []
    for model, run in material.runs.items():
        if run.history is None or "seconds" not in run.history:
            rows.append([find(model).title, *[None] * 5])
            continue
        seconds, rate = run.history["seconds"], run.history.get("images_per_second", pd.Series(dtype=float))
        sizes = sorted({int(size) for size in run.history.get("size", pd.Series(dtype=float)).dropna()})
        row = [
            find(model).title,
            f"{len(run.history)}",
            ", ".join(map(str, sizes)) or None,
            duration(float(seconds.sum())),
        ]
        speed = f"{rate.median():.0f}" if rate.notna().any() else None
        rows.append([*row, speed, run.about.device if run.about else "not recorded"])
    head = ["model", "epochs", "input, px", "time", "images/s", "device"]
    if all(row[-1] in (None, "not recorded") for row in rows):  # earlier versions of train.py did not record it
        head, rows = head[:-1], [row[:-1] for row in rows]
    caption = "Training time: the sum over the epochs of the history; images/s is the median."
    return parts.table(head, rows, caption, "lrrrrl"[: len(head)])
