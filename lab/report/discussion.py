"""The section of discussion: facts computed from the runs. The student interprets them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.images import read_image
from lab.errors import UserError
from lab.evaluation.calibration import calibration
from lab.evaluation.metrics import Results, mcnemar, metrics_table
from lab.evaluation.mistakes import confusions, hardest, wrong_by_model
from lab.figures.style import png
from lab.report.figures import reliability_figure, thumbnail
from lab.report.parts import Card, Part, Parts
from lab.report.results import no_evaluation
from lab.report.sections import Material, percent_or_gap
from lab.text import counted, percent
from models.catalog import find

MAX_HARDEST, MAX_CONFUSED, MAX_CLASSES = 8, 8, 20  # images or rows shown


def discussion(material: Material, parts: Parts) -> dict[str, Any]:
    """The values of the section."""
    runs = material.evaluated
    size = data_table(material, parts)
    if not runs:
        gap = parts.gap(no_evaluation(material))
        none = dict.fromkeys(("pairs", "classwise", "confused", "hardest", "reliability"), gap)
        return {"size": size, **none, "mistakes": None, "calibration": None}
    results = {model: run.result for model, run in runs.items()}
    pairs = pairs_table(results, parts)
    classwise = class_table(material, results, parts)
    rows = [
        [material.classes[t], material.classes[p], *map(str, counts), f"{images:,}"]
        for t, p, counts, images in confusions(results, len(material.classes), MAX_CONFUSED)
    ]
    confused = Part("note", "No class is confused with another.")
    if rows:
        caption = "The most frequent errors: the number of images of a class that each model predicts as another."
        head = ["true class", "predicted as", *(find(model).title for model in results), "images of the class"]
        confused = parts.table(head, rows, caption, "ll" + "r" * (len(results) + 1))
    wrong = wrong_by_model(results)
    mistakes = {"images": wrong.shape[1], "depths": len(results)}
    mistakes |= {"some": int(wrong.any(axis=0).sum()), "all": int(wrong.all(axis=0).sum())}
    gallery = hardest_gallery(material, results, parts)
    calibrations = {model: calibration(*result) for model, result in results.items()}
    caption = "Reliability diagrams. Top: the accuracy of the images in each bin of confidence, over their mean "
    caption += "confidence. Bottom: the share of the images in each bin."
    alt = "for each model bars of accuracy over confidence with the diagonal, and below the share of images in each bin"
    picture = parts.picture(png(reliability_figure(calibrations)), caption, alt)
    calibrated: list[list[str | None]] = []
    for model, m in calibrations.items():
        difference, error = f"{100 * (m.confidence - m.accuracy):+.2f}", f"{100 * m.error:.2f}"
        calibrated.append([find(model).title, percent(m.confidence), percent(m.accuracy), difference, error])
    head = ["model", "mean confidence", "accuracy", "difference, points", "ECE, points"]
    return {
        "size": size,
        "pairs": pairs,
        "classwise": classwise,
        "confused": confused,
        "mistakes": mistakes,
        "hardest": gallery,
        "reliability": picture,
        "calibration": parts.table(head, calibrated, "Confidence against accuracy."),
    }


def data_table(material: Material, parts: Parts) -> Part:
    """Parameters, also per training image, and training and testing accuracy in the last epoch."""
    images = len(material.lists["train"]) if "train" in material.lists else None
    rows: list[list[str | None]] = []
    for model, run in material.runs.items():
        count = sum(layer.parameters for layer in material.layers[model])
        each = None if images is None else f"{count / images:,.0f}"
        cells: list[str | None] = [None] * 3
        if run.history is not None and {"train_accuracy", "valid_accuracy"} <= set(run.history.columns):
            last = run.history.iloc[-1]
            gap = last["train_accuracy"] - last["valid_accuracy"]
            cells = [percent_or_gap(last[f"{side}_accuracy"]) for side in ("train", "valid")]
            cells.append(f"{100 * gap:+.2f}" if np.isfinite(gap) else None)
        rows.append([find(model).title, f"{count:,}", each, *cells])
    head = ["model", "parameters", "per training image", "training", "testing", "gap, points"]
    number = f" ({images:,})" if images else ""
    caption = f"Parameters, also divided by the number of images in train.csv{number}, and accuracy in the last epoch."
    return parts.table(head, rows, caption)


def pairs_table(results: Results, parts: Parts) -> Part:
    """McNemar's test for each pair of models."""
    rows = []
    for (one, (labels, first)), (two, (_, second)) in combinations(results.items(), 2):
        b, c, p = mcnemar(labels, first.argmax(axis=1), second.argmax(axis=1))
        title = f"{find(one).title} and {find(two).title}"
        rows.append([title, f"{b}", f"{c}", f"{p:.2g}" if p >= 1e-4 else "< 0.0001"])
    if not rows:
        return parts.gap("a comparison needs the evaluations of two or more models.")
    head = ["models", "only the first correct", "only the second correct", "p"]
    caption = "McNemar's exact test (two-sided, not corrected for the number of pairs) on the same images of valid.csv."
    return parts.table(head, rows, caption)


def class_table(material: Material, results: Results, parts: Parts) -> Part:
    """Recall, precision and F1 of each class, lowest mean F1 first."""
    table = metrics_table(results, material.classes)
    wide = table[table["class"] != "overall"].pivot_table(
        index="class", columns=["model", "metric"], values="value", dropna=False, sort=False
    )
    mean = np.mean([wide[model]["f1"].fillna(0).to_numpy() for model in results], axis=0)
    order = wide.index[np.argsort(mean, kind="stable")]
    images = wide[next(iter(results))]["support"]
    rows = []
    for name in order[:MAX_CLASSES]:
        values = [wide.loc[name, (model, metric)] for model in results for metric in ("recall", "precision", "f1")]
        cells = ["–" if np.isnan(value) else f"{100 * value:.1f}" for value in values]
        rows.append([name, f"{images[name]:.0f}", *cells])
    columns = (text for model in results for text in (f"{find(model).short}: recall", "precision", "F1"))
    head = ["class", "images", *columns]
    some = f", the {MAX_CLASSES} hardest of {len(order)} classes" if len(order) > MAX_CLASSES else ""
    return parts.table(head, rows, f"Recall, precision and F1 in %, the class with the lowest mean F1 first{some}.")


def hardest_gallery(material: Material, results: Results, parts: Parts) -> Part:
    """The hardest images with their predictions; an image that is not found is a gap."""
    indices = hardest(results, MAX_HARDEST)
    if not indices:
        return Part("note", "No model misclassifies any image of valid.csv.")
    labels = next(iter(results.values()))[0]
    ids = next(iter(material.evaluated.values())).ids
    valid = material.lists.get("valid")
    paths = dict(zip(valid.ids, valid.paths, strict=True)) if valid else {}
    cards = []
    for index in indices:
        lines = [f"true: {material.classes[int(labels[index])]}"]
        for model, (_, probabilities) in results.items():
            row = probabilities[index]
            lines.append(f"{find(model).short}: {material.classes[int(row.argmax())]} {percent(row.max(), 0)}")
        lines.append(Path(ids[index]).name)
        try:
            data = thumbnail(read_image(paths[ids[index]]))
        except (KeyError, UserError):
            data = None
        cards.append(Card(data, lines))
    missing = sum(card.data is None for card in cards)
    if missing:
        parts.gaps.note(f"{counted(missing, 'image')} of the hardest cannot be read; give --data and --root.")
    caption = "The images of valid.csv with the lowest probability of the true class, averaged over the models: the true class, "
    caption += "and each model's predicted class with its probability."
    return parts.gallery(cards, caption)
