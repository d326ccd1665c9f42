"""The first sections of the report: each function returns the values that templates/report.j2 shows.

The functions must be called in the order of the report, because they number figures and tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.checkpoints.checkpoint import About
from lab.data.augmentation import STANDARD
from lab.data.lists import ImageList
from lab.errors import UserError
from lab.figures.runs import draw_data_figures
from lab.report.ablations import ablations
from lab.report.networks import Layer
from lab.report.parts import Part, Parts
from lab.report.runs import Run
from lab.text import percent
from models.catalog import find


@dataclass
class Material:
    """The data of all sections: ``lists`` are train and valid, if found; ``layers`` are those of each model for ``size`` px."""

    report: Path
    runs: dict[str, Run]
    lists: dict[str, ImageList]
    ablations: Path
    classes: list[str]
    layers: dict[str, list[Layer]]
    size: int

    @property
    def evaluated(self) -> dict[str, Run]:
        """The runs with an evaluation."""
        return {model: run for model, run in self.runs.items() if run.labels is not None}

    @property
    def abouts(self) -> dict[str, About]:
        """The descriptions of the runs that have one."""
        return {model: run.about for model, run in self.runs.items() if run.about is not None}


def percent_or_gap(value: float | None) -> str | None:
    """A fraction as ``97.50 %``; None, a gap, if it is unknown."""
    return None if value is None or not np.isfinite(value) else percent(value)


def introduction(material: Material, parts: Parts) -> dict[str, Any]:
    """The highest testing accuracy of each model, and the number of images."""
    keys = [
        {"name": find(model).title, "value": percent_or_gap(None if run.best is None else run.best["valid_accuracy"])}
        for model, run in material.runs.items()
    ]
    if not material.lists:
        counts = parts.gap("no lists found; give their folder with --data to count the images of each class.")
    else:
        names = {"train": "training (train.csv)", "valid": "testing (valid.csv)"}
        columns = [np.bincount(each.labels, minlength=len(material.classes)) for each in material.lists.values()]
        rows = [[name, *(f"{column[k]:,}" for column in columns)] for k, name in enumerate(material.classes)]
        rows.append(["all", *(f"{column.sum():,}" for column in columns)])
        head = ["class", *(names[name] for name in material.lists)]
        counts = parts.table(head, rows, f"Images of {material.report.name} by class.", totals=1)
    return {"depths": keys, "counts": counts, "classes": material.classes}


def implementation(material: Material, parts: Parts) -> dict[str, Any]:
    """The layers of the networks and the settings of the runs."""
    models, classes, size = list(material.runs), max(len(material.classes), 2), material.size
    tables = [{layer.name: layer for layer in table} for table in material.layers.values()]
    # All models have the same layers, with the same output size.
    operations, costs = [], []
    for name, layer in tables[0].items():
        shape = " × ".join(map(str, layer.output[1:])) or f"{layer.output[0]}"
        operations.append([name, shape, *(table[name].operation for table in tables)])
        costs.append([name, *(text for table in tables for text in cost_cells([table[name]]))])
    costs.append(["all", *(text for table in tables for text in cost_cells(table.values()))])
    head = ["layer", "output", *(find(model).title for model in models)]
    caption = f"Layers for {size} × {size} px and {classes} classes, read from the networks. A line k×k, c is a convolution with "
    caption += "kernel k and c output channels, followed by batch norm."
    architecture = parts.table(head, operations, caption, "lc" + "l" * len(models))
    head = ["layer", *(text for model in models for text in (find(model).title, "10⁶ MAC"))]
    caption = f"Parameters, and millions of multiply-accumulates for one image of {size} × {size} px."
    table = parts.table(head, costs, caption, totals=1)
    return {"architecture": architecture, "costs": table, "settings": settings_table(material, parts)}


def cost_cells(table: Iterable[Layer]) -> tuple[str, str]:
    """Parameters and millions of multiply-accumulates of some layers."""
    layers = list(table)
    return f"{sum(layer.parameters for layer in layers):,}", f"{sum(layer.macs for layer in layers) / 1e6:,.1f}"


SHOWN_SETTINGS = {
    "size": "input, px",
    "progressive": "progressive resizing",
    "augmentation": "augmentation",
    "epochs": "epochs",
    "batch_size": "batch size",
    "optimizer": "optimizer",
    "lr": "peak learning rate",
    "weight_decay": "weight decay",
    "warmup": "warm-up, epochs",
    "smoothing": "label smoothing",
    "ema": "EMA decay",
    "clip": "gradient norm limit",
    "class_weights": "class weights",
    "zero_init": "zero-initialised residual branches",
    "seed": "seed",
}
SHOWN_RECORD = {"precision": "precision", "torch": "PyTorch"}


def settings_table(material: Material, parts: Parts) -> Part:
    """The settings of each run, from its checkpoint or run_<model>.json."""
    known = {model: about for model, about in material.abouts.items() if about.settings}
    if not known:
        return parts.gap("no settings found: neither checkpoints below --weights nor run_<model>.json.")

    def cell(value: object) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:g}" if isinstance(value, float) else f"{value}"

    rows: list[list[str | None]] = []
    for name, title in SHOWN_SETTINGS.items():
        cells = [cell(known[m].settings.get(name, "not recorded")) if m in known else None for m in material.runs]
        rows.append([title, *cells])
    records = {m: about.records[0] for m, about in known.items() if about.records}
    if records:
        rows.append(["device", *(known[m].device if m in known else None for m in material.runs)])
    for name, title in SHOWN_RECORD.items() if records else ():
        rows.append([title, *(records.get(m, {}).get(name, "not recorded") for m in material.runs)])
    head = ["setting", *(find(model).title for model in material.runs)]
    return parts.table(head, rows, "Settings of the training runs.", "l" + "c" * len(material.runs))


DATA_FIGURES = [
    (
        "preprocessing.png",
        "Preprocessing of some training images of each class, from the raw image to the network's input.",
        "rows of training images: raw image, mask of the cell, window, stored image, network input",
        100,
    ),
    (
        "augmentation.png",
        "Augmentation: some training images and random views of them.",
        "a grid of images: each row an input and seven views of it with random rotation, zoom, shift and stain",
        80,
    ),
]


def draw_missing(material: Material) -> None:
    """Draw the figures of the preprocessing as train.py does, if they are missing and the images are found."""
    known = [about for about in material.abouts.values() if about.settings]
    drawn = all((material.report / name).is_file() for name, *_ in DATA_FIGURES)
    if drawn or not known or "train" not in material.lists:
        return
    train = material.lists["train"]
    seed, augmentation = known[0].settings["seed"], known[0].settings.get("augmentation", STANDARD)
    with suppress(UserError):  # a missing image; the report then has a gap
        draw_data_figures(material.report, train, material.classes, known[0].preprocessing, seed, augmentation)


def data_figure(material: Material, parts: Parts, name: str, caption: str, alt: str, width: int) -> Part:
    """A figure drawn by train.py, or a gap."""
    path = material.report / name
    if path.is_file():
        return parts.picture(path.read_bytes(), caption, alt, width)
    return parts.gap(f"{name} is missing; report.py draws it if it finds a run and its images (--data, --root).")


def preprocessing_numbers(abouts: Mapping[str, About]) -> dict[str, Any] | None:
    """The numbers of the preprocessing; if a side differs between the models, all values are listed."""
    if not abouts:
        return None
    every = [about.preprocessing for about in abouts.values()]
    sides = ("window", "source", "size")
    numbers: dict[str, Any] = {name: " or ".join(dict.fromkeys(str(getattr(p, name)) for p in every)) for name in sides}
    numbers |= {name: getattr(every[0], name) for name in ("locate", "mean", "std")}
    return numbers | {"model": find(next(iter(abouts))).title}


def preprocessing(material: Material, parts: Parts) -> dict[str, Any]:
    """The numbers and figures of the preprocessing, and its effect on accuracy."""
    draw_missing(material)
    steps, views = (data_figure(material, parts, *figure) for figure in DATA_FIGURES)
    known = {m: a for m, a in material.abouts.items() if {"valid_accuracy", "valid_accuracy_d4"} <= a.metrics.keys()}
    if known:
        rows = []
        for model in material.runs:
            metrics = known[model].metrics if model in known else {}
            plain, averaged = metrics.get("valid_accuracy"), metrics.get("valid_accuracy_d4")
            gain = None if plain is None or averaged is None else f"{100 * (averaged - plain):+.2f}"
            rows.append([find(model).title, percent_or_gap(plain), percent_or_gap(averaged), gain])
        head = ["model", "without D4", "with D4", "difference, points"]
        d4 = parts.table(head, rows, "Testing accuracy at the best epoch, without and with D4 averaging.")
    else:
        d4 = parts.gap(
            "no checkpoint below --weights has an accuracy with D4 averaging; train.py computes it at the end."
        )
    table = ablations(material.ablations, material.report.name, images=True)
    missing = "no ablation of the preprocessing was measured; run python -m benchmarks.ablate, on any data set."
    return {
        "steps": steps,
        "views": views,
        "numbers": preprocessing_numbers(material.abouts),
        "d4": d4,
        "ablation": ablation_part(parts, table) if table else parts.gap(missing),
    }


def ablation_part(parts: Parts, table: tuple[str, list[list[str]]]) -> Part:
    """A table of :func:`ablations`."""
    caption, rows = table
    return parts.table(["run", "change", "seeds", "last epoch, %", "difference, points"], rows, caption, "llcrr")
