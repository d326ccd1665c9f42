"""The sections of the report, from the runs' files to what templates/report.j2 shows. Each returns names for it.

They are called in the order of the page, which is that of the numbers of figures and tables.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.checkpoints.checkpoint import About
from lab.data.augmentation import STANDARD
from lab.data.lists import DataSet, ImageList
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
    """All that the sections draw on. ``lists`` holds train and valid, where they are at hand; ``layers`` are those of each depth
    for an input of ``size`` px."""

    report: Path
    runs: dict[str, Run]
    data: DataSet | None
    lists: dict[str, ImageList]
    command: Callable[[str, str], str]
    listings: Mapping[str, object]
    ablations: Path
    terminal: Callable[[str, list[tuple[str, str]]], bytes]
    classes: list[str]
    layers: dict[str, list[Layer]]
    size: int

    @property
    def evaluated(self) -> dict[str, Run]:
        return {model: run for model, run in self.runs.items() if run.labels is not None}

    @property
    def abouts(self) -> dict[str, About]:
        return {model: run.about for model, run in self.runs.items() if run.about is not None}


def percent_or_gap(value: float | None) -> str | None:
    """A fraction as ``97.50 %``; None, a gap, where it is not known."""
    return None if value is None or not np.isfinite(value) else percent(value)


def introduction(material: Material, parts: Parts) -> dict[str, Any]:
    """The key result of each depth, and the data set."""
    keys = []
    for model, run in material.runs.items():
        best = run.best
        keys.append({"name": find(model).title, "value": None if best is None else percent(best["valid_accuracy"])})
    if not material.lists:
        counts = parts.gap("the lists are not at hand; name their folder with --data to count images by class.")
    else:
        names = {"train": "training (train.csv)", "valid": "testing (valid.csv)"}
        columns = [np.bincount(each.labels, minlength=len(material.classes)) for each in material.lists.values()]
        rows = [[name, *(f"{column[k]:,}" for column in columns)] for k, name in enumerate(material.classes)]
        rows.append(["all", *(f"{column.sum():,}" for column in columns)])
        head = ["class", *(names[name] for name in material.lists)]
        counts = parts.table(head, rows, f"Images of {material.report.name} by class.", totals=1)
    return {"depths": keys, "counts": counts, "classes": material.classes}


def implementation(material: Material, parts: Parts) -> dict[str, Any]:
    """The networks, taken apart; the code of the blocks and of the DataLoader; the settings of the runs."""
    models, classes = list(material.runs), max(len(material.classes), 2)
    size = material.size
    found = {model: {layer.name: layer for layer in table} for model, table in material.layers.items()}
    names = list(dict.fromkeys(name for table in found.values() for name in table))
    first = {name: next(table[name] for table in found.values() if name in table) for name in names}

    def shape(output: tuple[int, ...]) -> str:
        return " × ".join(map(str, output[1:])) or f"{output[0]}"

    rows = [
        [name, shape(first[name].output), *(t[name].operation if name in t else "" for t in found.values())]
        for name in names
    ]
    head = ["layer", "output", *(find(model).title for model in models)]
    why = f"Layers of the networks, taken from the networks themselves for an input of {size} × {size} px and {classes} classes. "
    why += "A line k×k, c is a convolution with kernel k and c output channels, each followed by batch norm; the first block of "
    why += "a stage may halve the size."
    architecture = parts.table(head, rows, why, "lc" + "l" * len(models))
    rows, sums = [], []
    for name in names:
        cells = [
            [f"{t[name].parameters:,}", f"{t[name].macs / 1e6:,.1f}"] if name in t else ["", ""] for t in found.values()
        ]
        rows.append([name, *(text for pair in cells for text in pair)])
    for table in found.values():
        sums += [f"{sum(layer.parameters for layer in table.values()):,}"]
        sums += [f"{sum(layer.macs for layer in table.values()) / 1e6:,.1f}"]
    head = ["layer", *(text for model in models for text in (find(model).title, "10⁶ MAC"))]
    what = f"Parameters of each depth, and millions of multiply-accumulates for one image of {size} × {size} px."
    costs = parts.table(head, [*rows, ["all", *sums]], what, totals=1)
    return {
        "size": size,
        "architecture": architecture,
        "costs": costs,
        "listings": {name: textwrap.dedent(inspect.getsource(thing)) for name, thing in material.listings.items()},  # type: ignore[arg-type]
        "settings": settings_table(material, parts),
    }


SHOWN_SETTINGS = {
    "size": "input, px",
    "progressive": "smaller images first",
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
    "zero_init": "blocks begin as identity",
    "seed": "seed",
}
SHOWN_RECORD = {"device": "device", "precision": "precision", "torch": "PyTorch"}


def settings_table(material: Material, parts: Parts) -> Part:
    """How each depth was trained, from its checkpoint or run_<model>.json."""
    known = {model: about for model, about in material.abouts.items() if about.settings}
    if not known:
        return parts.gap(
            "no run tells its settings: neither a checkpoint below --weights nor run_<model>.json is there."
        )

    def word(value: object) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:g}" if isinstance(value, float) else f"{value}"

    rows: list[list[str | None]] = []
    for name, title in SHOWN_SETTINGS.items():
        cells = [word(known[m].settings.get(name, "not noted")) if m in known else None for m in material.runs]
        rows.append([title, *cells])
    for name, title in SHOWN_RECORD.items():
        records = {m: about.records[0] for m, about in known.items() if about.records}
        if records:
            rows.append(
                [title, *(records[m].get(name, "not noted") if m in records else "not noted" for m in material.runs)]
            )
    head = ["setting", *(find(model).title for model in material.runs)]
    return parts.table(head, rows, "How each depth was trained, as its run has noted.", "l" + "c" * len(material.runs))


DATA_FIGURES = [
    (
        "preprocessing.png",
        "From the raw image to the network's input, step by step: some training images of each class.",
        "rows of training images: raw, the mask of a cell on black, the window on the raw image, what is stored, the input",
        100,
    ),
    (
        "augmentation.png",
        "Augmentation: the inputs of some training images, and random views of them as a training sees them.",
        "a grid of images: on the left inputs, beside each seven randomly turned, zoomed, shifted and re-stained views",
        80,
    ),
]


def draw_missing(material: Material) -> None:
    """Draw the figures of the preprocessing as train.py does when a run begins, where they are gone and the images at hand."""
    known = [about for about in material.abouts.values() if about.settings]
    if (
        not known
        or "train" not in material.lists
        or all((material.report / name).is_file() for name, *_ in DATA_FIGURES)
    ):
        return
    train = material.lists["train"]
    seed, augmentation = known[0].settings["seed"], known[0].settings.get("augmentation", STANDARD)
    with suppress(UserError):  # an image that is not there: the gap says so
        draw_data_figures(material.report, train, material.classes, known[0].preprocessing, seed, augmentation)


def data_figure(material: Material, parts: Parts, name: str, caption: str, alt: str, width: int) -> Part:
    """A figure that train.py has drawn, or a gap."""
    path = material.report / name
    if path.is_file():
        return parts.picture(path.read_bytes(), caption, alt, width)
    return parts.gap(f"{name} is missing; with a run and its images at hand (--data, --root) report.py draws it.")


def preprocessing_numbers(abouts: Mapping[str, About]) -> dict[str, Any] | None:
    """The numbers of the preprocessing; sides that differ between the depths are all named."""
    if not abouts:
        return None
    every = [about.preprocessing for about in abouts.values()]
    sides = {
        name: " or ".join(dict.fromkeys(str(getattr(p, name)) for p in every)) for name in ("window", "source", "size")
    }
    first = next(iter(abouts))
    return {
        **sides,
        "locate": every[0].locate,
        "mean": every[0].mean,
        "std": every[0].std,
        "model": find(first).title,
    }


def preprocessing(material: Material, parts: Parts) -> dict[str, Any]:
    """The steps from a raw image to an input, what each number was, and what was measured of them."""
    draw_missing(material)
    steps, views = (
        data_figure(material, parts, name, caption, alt, width) for name, caption, alt, width in DATA_FIGURES
    )
    known = {m: a for m, a in material.abouts.items() if {"valid_accuracy", "valid_accuracy_d4"} <= a.metrics.keys()}
    if known:
        rows = []
        for model in material.runs:
            metrics = known[model].metrics if model in known else {}
            plain, averaged = metrics.get("valid_accuracy"), metrics.get("valid_accuracy_d4")
            gain = None if plain is None or averaged is None else f"{100 * (averaged - plain):+.2f}"
            rows.append([find(model).title, percent_or_gap(plain), percent_or_gap(averaged), gain])
        head = ["depth", "plain", "mean of eight views", "difference, points"]
        d4 = parts.table(head, rows, "Testing accuracy of the best epoch's network, plain and averaged over D4.")
    else:
        d4 = parts.gap(
            "no checkpoint below --weights tells its accuracy with D4 averaging; train.py notes it at the end."
        )
    found = ablations(material.ablations, material.report.name, images=True)
    missing = "no ablation of the preprocessing has been measured; python -m benchmarks.ablate does, on any data set."
    return {
        "steps": steps,
        "views": views,
        "numbers": preprocessing_numbers(material.abouts),
        "d4": d4,
        "ablation": ablation_part(parts, found) if found else parts.gap(missing),
    }


def ablation_part(parts: Parts, found: tuple[str, list[list[str]]]) -> Part:
    """A table of single changes and what they did to testing accuracy."""
    title, rows = found
    head = ["run", "change", "seeds", "last epoch, %", "difference, points"]
    return parts.table(head, rows, title, "llcrr")
