"""Collects what the page shows before it opens: each model's accuracy, history, speed and predictions on valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lab.checkpoints.ensembles import Member
from lab.checkpoints.histories import read_histories
from lab.data.batches import stored_batches
from lab.data.lists import ImageList
from lab.errors import UserError
from lab.evaluation.comparison import read_comparison
from lab.evaluation.inference import decide_d4
from lab.evaluation.metrics import COLUMNS, OVERALL, saved_accuracy, wilson
from lab.figures.accuracy import accuracy_columns
from lab.hardware import Hardware
from lab.page.answers import Content, no_results
from lab.page.gallery import Valid, valid_probabilities
from lab.page.networks import TrainedModel, measure
from lab.terminal import warn


def prepare(
    data: str, networks: dict[str, list[Member]], hardware: Hardware, images: ImageList | None, why: str, report: Path
) -> Content:
    """The content of the page. Without a list of ``images``, for the reason ``why``, the accuracies are those saved in the
    checkpoints."""
    models, probabilities, batches, doubted = [], {}, {}, set()
    if images is not None:
        cuts = {about.preprocessing for members in networks.values() for _, about in members}
        batches = {cut: stored_batches(data, "valid", images, cut, hardware.device) for cut in cuts}
    histories = read_curves(networks, report)
    for name, members in networks.items():
        about = members[0][1]
        d4 = decide_d4(about, "auto")
        accuracy = saved_accuracy(about.metrics, d4)
        if images is not None:
            table = report / f"valid_{name}.csv"
            rows, saved = valid_probabilities(members, images, batches, hardware, d4, table)
            probabilities[name] = rows
            if table.is_file() and not saved:  # evaluate.py measured other weights, perhaps of the same accuracy
                doubted.add(name)
            hits = int((rows.argmax(axis=1) == images.labels).sum())
            accuracy = hits / len(images), *wilson(hits, len(images))
        model = TrainedModel(name, members, d4, accuracy, histories.get(name))
        model.milliseconds = measure(model, hardware)
        models.append(model)
    classes, first = models[0].classes, models[0].preprocessing
    valid = Valid(images, classes, batches[first].store, probabilities) if images is not None else None
    results = read_results(report, [model for model in models if model.name not in doubted])
    return Content(data, classes, models, hardware, valid, why, results, read_systems(report))


def read_results(report: Path, models: list[TrainedModel]) -> pd.DataFrame:
    """The rows of evaluate.py's ``metrics.csv`` and ``metrics_<model>.csv``, the newer one first, for models that have the
    accuracy which the page shows; those of other weights are left out."""
    tables = [no_results()]
    paths = [*(report / f"metrics_{model.name}.csv" for model in models), report / "metrics.csv"]
    for path in sorted(filter(Path.is_file, paths), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            # Only an empty number is undefined: NA may be a class.
            empty = dict.fromkeys(("value", "low", "high"), "")
            table = pd.read_csv(path, dtype={"model": str, "class": str}, keep_default_na=False, na_values=empty)
            table = table[COLUMNS].astype(dict.fromkeys(empty, float))
            rows = table[(table["class"] == OVERALL) & (table["metric"] == "accuracy")].set_index("model")["value"]
            # The same tolerance as for a table of predictions (gallery.py).
            same = {one.name for one in models if abs(rows.get(one.name, np.nan) - one.accuracy[0]) <= 1e-3}
        except (OSError, ValueError, KeyError) as error:
            warn(f"{path}: cannot be read ({error}); run evaluate.py again.")
            continue
        tables.append(table[[set(name.split(" vs ")) <= same for name in table["model"]]])
    return pd.concat(tables).drop_duplicates(["model", "class", "metric"])


def read_systems(report: Path) -> pd.DataFrame | None:
    """The systems of ``compare.csv``; None, with a warning, if it cannot be read."""
    try:
        return read_comparison(report / "compare.csv")
    except UserError as error:
        warn(str(error))
        return None


def read_curves(networks: dict[str, list[Member]], report: Path) -> dict[str, pd.DataFrame]:
    """Each model's history: that in its checkpoint, or else that in the report folder; one that cannot be drawn is left out."""
    try:
        saved = read_histories(report)
    except UserError as error:
        warn(str(error))
        saved = {}
    histories = {}
    for model, members in networks.items():
        history = pd.DataFrame(members[0][1].history)
        history = saved.get(model, history) if history.empty else history
        try:
            accuracy_columns(model, history)
        except UserError as error:
            print(f"{model}: no curves: {error}")
        else:
            histories[model] = history
    return histories
