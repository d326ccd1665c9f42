"""The report's discussion: facts computed from the runs, in the order of the page. The student interprets them."""

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

HARDEST, CONFUSED, MOST_CLASSES = 8, 8, 20  # rows shown


def discussion(material: Material, parts: Parts) -> dict[str, Any]:
    """Facts worth discussing; what they mean is for the student to say."""
    runs = material.evaluated
    size = data_table(material, parts)
    if not runs:
        gap = parts.gap(no_evaluation(material))
        none = dict.fromkeys(("pairs", "classwise", "confused", "hardest", "reliability"), gap)
        return {"size": size, **none, "mistakes": None, "calibration": None}
    found = {model: run.result for model, run in runs.items()}
    pairs = pairs_table(found, parts)
    classwise = class_table(material, found, parts)
    names = [find(model).title for model in found]
    rows = [
        [material.classes[t], material.classes[p], *map(str, each), f"{images:,}"]
        for t, p, each, images in confusions(found, len(material.classes), CONFUSED)
    ]
    confused = Part("note", "No class is taken for another.")
    if rows:
        text = "The most frequent mistakes: how many images of a class each depth takes for another."
        head = ["true class", "taken for", *names, "images of the class"]
        confused = parts.table(head, rows, text, "ll" + "r" * (len(names) + 1))
    wrong = wrong_by_model(found)
    gallery = hardest_gallery(material, found, parts)
    measured = {model: calibration(*result) for model, result in found.items()}
    picture = parts.picture(
        png(reliability_figure(measured)),
        "Reliability diagrams: above the accuracy of the images whose confidence falls into a bin, with a point at their mean "
        "confidence; below the share of the images in each bin.",
        "for each depth bars of accuracy over confidence beside the diagonal, and below the share of images in each bin",
    )
    calibrated: list[list[str | None]] = []
    for model, m in measured.items():
        off, error = f"{100 * (m.confidence - m.accuracy):+.2f}", f"{100 * m.error:.2f}"
        calibrated.append([find(model).title, percent(m.confidence), percent(m.accuracy), off, error])
    head = ["depth", "mean confidence", "accuracy", "difference, points", "ECE, points"]
    return {
        "size": size,
        "pairs": pairs,
        "classwise": classwise,
        "confused": confused,
        "mistakes": {
            "images": wrong.shape[1],
            "some": int(wrong.any(axis=0).sum()),
            "all": int(wrong.all(axis=0).sum()),
            "depths": len(found),
        },
        "hardest": gallery,
        "reliability": picture,
        "calibration": parts.table(head, calibrated, "Confidence against accuracy."),
    }


def data_table(material: Material, parts: Parts) -> Part:
    """Depth against data: parameters for each training image, and training against testing accuracy."""
    images = len(material.lists["train"]) if "train" in material.lists else None
    rows: list[list[str | None]] = []
    for model, run in material.runs.items():
        count = sum(layer.parameters for layer in material.layers[model])
        each = None if images is None else f"{count / images:,.0f}"
        cells: list[str | None] = [None] * 3
        if run.history is not None and {"train_accuracy", "valid_accuracy"} <= set(run.history.columns):
            last = run.history.iloc[-1]
            gap = last["train_accuracy"] - last["valid_accuracy"]
            cells = [
                percent_or_gap(last["train_accuracy"]),
                percent_or_gap(last["valid_accuracy"]),
                f"{100 * gap:+.2f}" if np.isfinite(gap) else None,
            ]
        rows.append([find(model).title, f"{count:,}", each, *cells])
    head = ["depth", "parameters", "per training image", "training", "testing", "gap, points"]
    of = f"each of the {images:,} images of train.csv" if images else "each training image"
    return parts.table(head, rows, f"Depth against data: parameters, also for {of}; accuracy in the last epoch.")


def pairs_table(found: Results, parts: Parts) -> Part:
    """McNemar's test between each pair of depths."""
    rows = []
    for one, two in combinations(found, 2):
        labels = found[one][0]
        b, c, p = mcnemar(labels, found[one][1].argmax(axis=1), found[two][1].argmax(axis=1))
        rows.append(
            [f"{find(one).title} and {find(two).title}", f"{b}", f"{c}", f"{p:.2g}" if p >= 1e-4 else "< 0.0001"]
        )
    if not rows:
        return parts.gap("depths are compared where two or more of them have been evaluated.")
    head = ["depths", "only the first right", "only the second right", "p"]
    caption = "McNemar's exact test (two-sided, not corrected for the number of pairs) on the same images of valid.csv."
    return parts.table(head, rows, caption)


def class_table(material: Material, found: Results, parts: Parts) -> Part:
    """Recall, precision and F1 of each class, the hardest class first."""
    table = metrics_table(found, material.classes)
    wide = table[table["class"] != "overall"].pivot_table(
        index="class", columns=["model", "metric"], values="value", dropna=False, sort=False
    )
    mean = np.mean([wide[model]["f1"].fillna(0).to_numpy() for model in found], axis=0)
    order = [wide.index[place] for place in np.argsort(mean, kind="stable")]
    images = dict(zip(wide.index, wide[next(iter(found))]["support"], strict=True))
    rows = []
    for name in order[:MOST_CLASSES]:
        cells = [wide.loc[name, (model, metric)] for model in found for metric in ("recall", "precision", "f1")]
        rows.append(
            [name, f"{images[name]:.0f}", *("–" if np.isnan(value) else f"{100 * value:.1f}" for value in cells)]
        )
    head = [
        "class",
        "images",
        *(text for model in found for text in (f"{find(model).short}: recall", "precision", "F1")),
    ]
    some = f", the {MOST_CLASSES} hardest of {len(order)} classes" if len(order) > MOST_CLASSES else ""
    return parts.table(head, rows, f"Recall, precision and F1 in %, the class with the lowest mean F1 first{some}.")


def hardest_gallery(material: Material, found: Results, parts: Parts) -> Part:
    """The hardest images, as small pictures where they are at hand."""
    picked = hardest(found, HARDEST)
    if not picked:
        return Part("note", "No depth gets any image of valid.csv wrong.")
    labels = next(iter(found.values()))[0]
    ids = next(iter(material.evaluated.values())).ids
    valid = material.lists.get("valid")
    paths = dict(zip(valid.ids, valid.paths, strict=True)) if valid else {}
    cards = []
    for index in picked:
        lines = [f"true: {material.classes[int(labels[index])]}"]
        for model, (_, probabilities) in found.items():
            row = probabilities[index]
            lines.append(f"{find(model).short}: {material.classes[int(row.argmax())]} {percent(row.max(), 0)}")
        lines.append(Path(ids[index]).name)
        try:
            data = thumbnail(read_image(paths[ids[index]]))
        except (KeyError, UserError):
            data = None
        cards.append(Card(data, lines, ""))
    lost = sum(card.data is None for card in cards)
    if lost:
        parts.gaps.note(
            f"{counted(lost, 'image')} of the hardest cannot be shown; name the folders with --data and --root."
        )
    caption = "The hardest images of valid.csv: the least probability of the true class, mean over the depths. Below each its "
    caption += "true class, and what each depth takes it for, with its probability."
    return parts.gallery(cards, caption)
