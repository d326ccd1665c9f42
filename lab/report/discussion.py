"""The section of discussion: facts computed from the runs, and what they say."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.images import read_image
from lab.errors import UserError
from lab.evaluation.calibration import Calibration, calibration
from lab.evaluation.confidence import setting
from lab.evaluation.metrics import Results, mcnemar, metrics_table, wilson
from lab.evaluation.mistakes import confusions, hardest, wrong_by_model
from lab.figures.style import png
from lab.report.figures import reliability_figure, thumbnail
from lab.report.parts import Card, Part, Parts
from lab.report.results import no_evaluation
from lab.report.runs import Run, interval
from lab.report.sections import Material, percent_or_gap, unlike
from lab.text import percent
from models.catalog import find

MAX_HARDEST, MAX_CONFUSED, MAX_CLASSES = 8, 8, 20  # images or rows shown
SEEN, WIDE = 0.01, 0.05  # differences of accuracy that the text speaks of; the width of an interval that it warns of


def discussion(material: Material, parts: Parts) -> dict[str, Any]:
    """The values of the section: tables, figures and, for each of them, sentences."""
    t, runs = material.t, material.evaluated
    size = data_table(material, parts)
    values: dict[str, Any] = {"size": size, "fit": fitting(material), "trained": last_epochs(material)}
    if not runs:
        gap = parts.gap(no_evaluation(material))
        parts_of = dict.fromkeys(("pairs", "classwise", "confused", "hardest", "reliability"), gap)
        return values | parts_of | dict.fromkeys(("compared", "errors", "confidence"), ())
    results = {model: run.result for model, run in runs.items()}
    pairs = pairs_table(material, results, parts)
    classwise = class_table(material, results, parts)
    rows = [
        [material.classes[true], material.classes[predicted], *map(str, counts), f"{images:,}"]
        for true, predicted, counts, images in confusions(results, len(material.classes), MAX_CONFUSED)
    ]
    confused = Part("note", t("no_confusion"))
    if rows:
        true, predicted, images = t.words("confused_head")
        head = [true, predicted, *(find(model).title for model in results), images]
        confused = parts.table(head, rows, t("confused"), "ll" + "r" * (len(results) + 1))
    gallery = hardest_gallery(material, results, parts)
    calibrations = {model: calibration(*result) for model, result in results.items()}
    reliability = parts.picture(png(reliability_figure(t, calibrations)), t("reliability"), t("reliability_alt"))
    return values | {
        "pairs": pairs,
        "compared": compared(material, results),
        "classwise": classwise,
        "confused": confused,
        "errors": errors(material, results),
        "hardest": gallery,
        "reliability": reliability,
        "confidence": [*confidence(material, calibrations), *temperatures(material)],
    }


def models(material: Material, names: list[str]) -> str:
    """The titles of some models as a list in words."""
    return material.t.listed([find(name).title for name in names])


# ---- depth and data ------------------------------------------------------------------------------------------------------------


def data_table(material: Material, parts: Parts) -> Part:
    """Parameters, also per training image, and training and testing accuracy in the last epoch."""
    t, images = material.t, len(material.lists["train"]) if "train" in material.lists else None
    rows: list[list[str | None]] = []
    for model, run in material.runs.items():
        count = sum(layer.parameters for layer in material.layers[model])
        each = None if images is None else f"{count / images:,.0f}"
        train, valid = last_accuracies(run)
        gap = f"{100 * (train - valid):+.2f}" if np.isfinite(train - valid) else None
        rows.append([find(model).title, f"{count:,}", each, percent_or_gap(train), percent_or_gap(valid), gap])
    return parts.table(t.words("size_head"), rows, t("size", images="?" if images is None else f"{images:,}"))


def last_accuracies(run: Run) -> tuple[float, float]:
    """Training and testing accuracy in the last epoch; NaN if unknown."""
    if run.history is None or "train_accuracy" not in run.history:
        return np.nan, np.nan
    last = run.history.iloc[-1]
    return float(last["train_accuracy"]), float(last["valid_accuracy"])


def fitting(material: Material) -> list[str]:
    """What the gap between training and testing accuracy says, and whether a deeper network trains worse."""
    t, sentences = material.t, []
    known = {model: last_accuracies(run) for model, run in material.runs.items()}
    known = {model: pair for model, pair in known.items() if np.isfinite(pair).all()}
    over = [model for model, (train, valid) in known.items() if train - valid > SEEN]
    below = [model for model, (train, valid) in known.items() if train <= valid]
    near = [model for model in known if model not in (*over, *below)]
    for model in over:
        train, valid = known[model]
        sentences.append(t("fit_over", model=find(model).title, gap=f"{100 * (train - valid):.1f}"))
    if below:
        sentences.append(t("fit_below", models=models(material, below)))
    if near:
        sentences.append(t("fit_near", models=models(material, near), points=f"{100 * SEEN:.0f}"))
    for shallow, deep in combinations(known, 2):
        less = known[shallow][0] - known[deep][0]
        if less > SEEN:
            key = "fit_degraded_unlike" if unlike(material) else "fit_degraded"
            names = {"deep": find(deep).title, "shallow": find(shallow).title}
            sentences.append(t(key, **names, points=f"{100 * less:.1f}"))
    return sentences


def last_epochs(material: Material) -> list[str]:
    """Which networks were best in their last tenth of epochs, so that they may not have been trained to the end."""
    late = [
        model
        for model, run in material.runs.items()
        if run.best is not None and run.history is not None and run.best["epoch"] > 0.9 * len(run.history)
    ]
    return [material.t("fit_late", models=models(material, late))] if late else []


# ---- comparison ----------------------------------------------------------------------------------------------------------------


def pairs_table(material: Material, results: Results, parts: Parts) -> Part:
    """McNemar's test for each pair of models."""
    t, rows = material.t, []
    for (one, (labels, first)), (two, (_, second)) in combinations(results.items(), 2):
        b, c, p = mcnemar(labels, first.argmax(axis=1), second.argmax(axis=1))
        rows.append([models(material, [one, two]), f"{b}", f"{c}", p_text(p).removeprefix("= ")])
    if not rows:
        return parts.gap(t("gap_pairs"))
    return parts.table(t.words("pairs_head"), rows, t("pairs"))


def p_text(p: float) -> str:
    """A p value with two digits, as in ``= 0.05``."""
    return f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"


def compared(material: Material, results: Results) -> list[str]:
    """What the accuracies, their intervals and McNemar's tests say."""
    t, runs = material.t, material.evaluated
    most, fewest = (choose(run.hits for run in runs.values()) for choose in (max, min))
    best, worst = ([model for model in runs if runs[model].hits == hits] for hits in (most, fewest))
    leader, images = runs[best[0]], runs[best[0]].images
    values = {"hits": most, "images": images, "accuracy": percent(most / images), "interval": interval(leader)}
    sentences = [t("best_of", models=models(material, best), **values)]
    if fewest < most:
        sentences.append(t("worst_of", models=models(material, worst), less=most - fewest))
    low, high = wilson(most, images)
    if high - low > WIDE:
        sentences.append(t("wide", points=f"{100 * (high - low):.0f}", images=images))
    pairs = list(combinations(results.items(), 2))
    for (one, (labels, first)), (two, (_, second)) in pairs:
        b, c, p = mcnemar(labels, first.argmax(axis=1), second.argmax(axis=1))
        verdict = "none" if not b + c else "clear" if p * len(pairs) < 0.05 else "hint" if p < 0.05 else "chance"
        better, worse = (one, two) if b >= c else (two, one)
        names = {"better": find(better).title, "worse": find(worse).title, "more": max(b, c), "fewer": min(b, c)}
        sentences.append(t(f"pair_{verdict}", **names, p=p_text(p), share=f"{100 * p:.0f}", pairs=len(pairs)))
    return sentences


# ---- errors --------------------------------------------------------------------------------------------------------------------


def class_table(material: Material, results: Results, parts: Parts) -> Part:
    """Recall, precision and F1 of each class, lowest mean F1 first."""
    t, table = material.t, metrics_table(results, material.classes)
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
    first, second, *metrics = t.words("classwise_head")
    columns = (f"{find(model).short}: {metric}" for model in results for metric in metrics)
    return parts.table([first, second, *columns], rows, t("classwise", shown=len(rows), all=len(order)))


def errors(material: Material, results: Results) -> list[str]:
    """Where the errors are: their number, the most frequent confusion, the class with the lowest recall."""
    t, wrong, classes = material.t, wrong_by_model(results), material.classes
    total, images = int(wrong.sum()), wrong.shape[1]
    if not total:
        return []
    counts = t.listed(
        [f"{find(model).title} {number}" for model, number in zip(results, wrong.sum(axis=1), strict=True)]
    )
    sentences = [t("errors", counts=counts, images=images)]
    if len(results) > 1:
        some, alike = int(wrong.any(axis=0).sum()), int(wrong.all(axis=0).sum())
        every = t("both_models") if len(results) == 2 else t("every_model", models=len(results))
        sentences.append(t("errors_shared" if alike else "errors_apart", some=some, all=alike, every=every))
    true, predicted, each, _ = confusions(results, len(classes), 1)[0]
    names = {"true": classes[true], "predicted": classes[predicted]}
    sentences.append(t("errors_most", **names, count=sum(each), total=total, share=f"{100 * sum(each) / total:.0f}"))
    labels = next(iter(results.values()))[0]
    present = [label for label in range(len(classes)) if (labels == label).any()]
    lowest = min(present, key=lambda label: 1 - wrong[:, labels == label].mean())
    recall = 1 - wrong[:, labels == lowest].mean()
    sentences.append(
        t("errors_class", name=classes[lowest], recall=percent(recall, 1), images=int((labels == lowest).sum()))
    )
    return sentences


def hardest_gallery(material: Material, results: Results, parts: Parts) -> Part:
    """The hardest images with their predictions; an image that is not found is a gap."""
    t, indices = material.t, hardest(results, MAX_HARDEST)
    if not indices:
        return Part("note", t("no_errors"))
    labels = next(iter(results.values()))[0]
    ids = next(iter(material.evaluated.values())).ids
    valid = material.lists.get("valid")
    paths = dict(zip(valid.ids, valid.paths, strict=True)) if valid else {}
    cards = []
    for index in indices:
        lines = [t("card_true", name=material.classes[int(labels[index])])]
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
        parts.gaps.note(t("gap_images", missing=missing))
    return parts.gallery(cards, t("hardest"))


def confidence(material: Material, calibrations: dict[str, Calibration]) -> list[str]:
    """Whether the networks' confidence is too low or too high, and by how much."""
    sentences = []
    for model, measured in calibrations.items():
        difference = 100 * (measured.confidence - measured.accuracy)
        key = "confidence_low" if difference < -1 else "confidence_high" if difference > 1 else "confidence_right"
        values = {
            "model": find(model).title,
            "confidence": percent(measured.confidence),
            "accuracy": percent(measured.accuracy),
        }
        sentences.append(material.t(key, **values, points=f"{abs(difference):.1f}", ece=f"{100 * measured.error:.1f}"))
    return sentences


def temperature(run: Run) -> float | None:
    """The temperature of an evaluation, from the checkpoint if the evaluation is of its weights, or else from the metrics; 1 if
    none was fitted, None if it is unknown."""
    if run.about is not None and run.about.confidence and run.d4 is not None and "fresh" not in run.missing:
        return setting(run.about, "temperature", run.d4, 1.0)
    return run.metrics.get("temperature")


def temperatures(material: Material) -> list[str]:
    """At which temperatures the confidences are, and how large the calibration error is without them; nothing if unknown."""
    t, errors = material.t, []
    known = {model: temperature(run) for model, run in material.evaluated.items()}
    for model, value in known.items():
        metrics = material.evaluated[model].metrics
        # The metrics may be of an earlier evaluation with the same accuracy.
        if value not in (None, 1) and np.isclose(metrics.get("temperature", np.nan), value, rtol=1e-4):
            error = percent(metrics["calibration_error_raw"], 1)
            errors.append(t("temperature", model=find(model).title, error=error, value=f"{value:.2f}"))
    if errors:
        return [t("temperatures", errors=t.listed(errors))]
    return [t("no_temperature")] if set(known.values()) == {1} else []
