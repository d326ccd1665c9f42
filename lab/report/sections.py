"""The first sections of the report: each function returns the values that templates/report.j2 shows.

The functions must be called in the order of the report, because they number figures and tables.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import resnet
from lab.checkpoints.checkpoint import About
from lab.data.augmentation import STANDARD
from lab.data.lists import DataSet, ImageList
from lab.errors import UserError
from lab.evaluation.mistakes import confusion
from lab.figures.confusion import confusion_figure, confusions_figure, row_shares
from lab.figures.runs import draw_data_figures
from lab.figures.style import png
from lab.report.ablations import ablations
from lab.report.figures import block_figure
from lab.report.networks import Layer
from lab.report.parts import Part, Parts
from lab.report.runs import Run, interval
from lab.report.texts import Texts
from lab.sources.sample import MARKER
from lab.sources.splits import SOURCE
from lab.text import percent
from models.catalog import find


@dataclass
class Material:
    """The data of all sections: ``lists`` are train and valid of ``data``, if found; ``layers`` are those of each model at its
    own input size; ``loader`` is the source of one image of the DataLoader."""

    t: Texts
    report: Path
    data: DataSet | None
    lists: dict[str, ImageList]
    runs: dict[str, Run]
    classes: list[str]
    layers: dict[str, list[Layer]]
    ablations: Path
    loader: str

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


def source(*codes: Any) -> str:
    """The source of functions and classes, without indentation."""
    return "\n\n".join(textwrap.dedent(inspect.getsource(code)).strip() for code in codes)


# ---- 1 Introduction ------------------------------------------------------------------------------------------------------------


def introduction(material: Material, parts: Parts) -> dict[str, Any]:
    """The highest testing accuracy of each model, where the data come from, and the number of images."""
    t, keys = material.t, []
    for model, run in material.runs.items():
        d4 = percent_or_gap(run.accuracy_d4)
        keys.append(
            {"name": find(model).title, "value": percent_or_gap(run.accuracy), "d4": d4 and t("key_d4", value=d4)}
        )
    if not material.lists:
        counts = parts.gap(t("gap_lists"))
    else:
        columns = [np.bincount(each.labels, minlength=len(material.classes)) for each in material.lists.values()]
        rows = [[name, *(f"{column[k]:,}" for column in columns)] for k, name in enumerate(material.classes)]
        rows.append([t("all"), *(f"{column.sum():,}" for column in columns)])
        counts = parts.table(t.words("counts_head"), rows, t("counts", data=material.report.name), totals=1)
    models = t.listed([key["name"] or "" for key in keys])
    return {"depths": keys, "models": models, "counts": counts, "source": data_source(material, parts)}


def data_source(material: Material, parts: Parts) -> str:
    """Where the images come from: generated, from the lab, or as ``source.txt`` beside the lists says."""
    if material.data is None:
        return ""
    folder, t = material.data.folder, material.t
    if (folder / MARKER).is_file():
        return t("source_generated", file=MARKER)
    if (folder / SOURCE).is_file():
        return t("source_told", text=" ".join((folder / SOURCE).read_text(encoding="utf-8", errors="replace").split()))
    if material.data.name == "lab3":
        return t("source_lab")
    return parts.gaps.note(t("gap_source", file=folder / SOURCE))


# ---- 2 Implementation ----------------------------------------------------------------------------------------------------------


def implementation(material: Material, parts: Parts) -> dict[str, Any]:
    """The networks, their code, the confusion matrices with their code, and the settings of the runs."""
    t, titles = material.t, [find(model).title for model in material.runs]
    tables = {model: {layer.name: layer for layer in layers} for model, layers in material.layers.items()}
    blocks = {
        find(model).short: [layer.blocks for layer in layers if layer.blocks]
        for model, layers in material.layers.items()
    }
    diagram = parts.picture(png(block_figure(t, blocks)), t("blocks"), t("blocks_alt"))
    # All models have the same layers.
    operations, costs = [], []
    for name in next(iter(tables.values())):
        layers = [table[name] for table in tables.values()]
        shapes = dict.fromkeys(" × ".join(map(str, layer.output[1:])) for layer in layers)
        operations.append([name, "\n".join(filter(None, shapes)), *(layer.operation for layer in layers)])
        costs.append([name, *(text for layer in layers for text in cost_cells([layer]))])
    costs.append([t("all"), *(text for table in tables.values() for text in cost_cells(table.values()))])
    sizes = t.listed([f"{layers[0].size} px ({find(model).title})" for model, layers in material.layers.items()])
    caption = t("layers", classes=max(len(material.classes), 2))
    architecture = parts.table([*t.words("layers_head"), *titles], operations, caption, "lc" + "l" * len(titles))
    head = [t("layer"), *(text for title in titles for text in (title, "10⁶ MAC"))]
    cost = parts.table(head, costs, t("costs", sizes=sizes), totals=1)
    block, network = resnet.resnet.BasicBlock, resnet.resnet
    listings = {
        "basic": source(block),
        "bottleneck": source(network.Bottleneck),
        "shortcut": source(network.shortcut),
        "assembly": source(
            network.stage, network.ResNet.__init__, network.resnet18, network.resnet50, network.resnet152
        ),
        "loader": material.loader,
        "matrix": source(confusion, row_shares),
    }
    matrices = confusion_parts(material, parts)
    settings, different = settings_table(material, parts), unlike(material)
    return {
        "diagram": diagram,
        "architecture": architecture,
        "costs": cost,
        "listings": listings,
        "matrices": matrices,
        "settings": settings,
        "unlike": different,
    }


def cost_cells(table: Iterable[Layer]) -> tuple[str, str]:
    """Parameters and millions of multiply-accumulates of some layers."""
    layers = list(table)
    return f"{sum(layer.parameters for layer in layers):,}", f"{sum(layer.macs for layer in layers) / 1e6:,.1f}"


def confusion_parts(material: Material, parts: Parts) -> list[Part]:
    """The confusion matrices, in one figure if they are small; a gap for each model without an evaluation."""
    t, found = material.t, [parts.gap(run.missing["valid"]) for run in material.runs.values() if run.labels is None]
    found += [parts.gap(run.missing["fresh"]) for run in material.runs.values() if "fresh" in run.missing]
    matrices = {model: confusion(*run.result) for model, run in material.evaluated.items()}
    if matrices and len(material.classes) <= 4:
        texts = t("comma").join(accuracy_text(material, run) for run in material.evaluated.values())
        picture = png(confusions_figure(matrices, material.classes))
        return [*found, parts.picture(picture, t("matrices", texts=texts), t("matrices_alt"), 34 * len(matrices))]
    for model, matrix in matrices.items():
        caption = t("matrix", text=accuracy_text(material, material.runs[model]))
        alt = t("matrix_alt", model=find(model).title)
        found.append(parts.picture(png(confusion_figure(matrix, material.classes)), caption, alt, 92))
    return found


def accuracy_text(material: Material, run: Run) -> str:
    """The accuracy of an evaluation with its interval and whether it was averaged over D4."""
    values = {"model": find(run.model).title, "accuracy": percent(run.hits / run.images), "interval": interval(run)}
    return material.t("evaluated", **values, d4=d4_text(material.t, run.d4))


def d4_text(t: Texts, d4: bool | None) -> str:
    """Whether an evaluation was averaged over D4, in words."""
    return t("d4_unknown" if d4 is None else "d4_on" if d4 else "d4_off")


SETTINGS = ["size", "progressive", "augmentation", "epochs", "batch_size", "optimizer", "lr", "weight_decay", "warmup"]
SETTINGS += ["smoothing", "ema", "clip", "class_weights", "zero_init", "seed"]
RECORD = ["device", "precision", "torch"]


def setting_cells(material: Material, name: str) -> list[str | None]:
    """A setting of each run, or a field of its first record; None if the run's settings are unknown."""
    t = material.t

    def cell(about: About | None) -> str | None:
        if about is None or not about.settings:
            return None
        record = about.records[0] if about.records else {}
        value = about.device if name == "device" else (record | about.settings).get(name, t("not_recorded"))
        if isinstance(value, bool):
            return t("yes" if value else "no")
        return f"{value:g}" if isinstance(value, float) else f"{value}"

    return [cell(run.about) for run in material.runs.values()]


def settings_table(material: Material, parts: Parts) -> Part:
    """The settings of each run, from its checkpoint or run_<model>.json."""
    t = material.t
    if not any(about.settings for about in material.abouts.values()):
        return parts.gap(t("gap_settings"))
    rows = [[t(f"set_{name}"), *setting_cells(material, name)] for name in (*SETTINGS, *RECORD)]
    head = [t("setting"), *(find(model).title for model in material.runs)]
    return parts.table(head, rows, t("settings"), "l" + "c" * len(material.runs))


def unlike(material: Material) -> str:
    """How the trainings differ except in depth, such as ``epochs 30, 6 and 6``; empty if they do not."""
    t = material.t
    rows = {t(f"set_{name}"): setting_cells(material, name) for name in SETTINGS if name not in ("seed", "epochs")}
    runs = material.runs.values()
    rows[t("set_epochs")] = [None if run.history is None else f"{len(run.history)}" for run in runs]
    rows[t("best_size")] = [None if run.size is None else f"{run.size}" for run in runs]
    differ = []
    for title, cells in rows.items():
        known = [cell or "?" for cell in cells]
        if len(set(known) - {"?", t("not_recorded")}) > 1:
            differ.append(f"{title} {' / '.join(known)}")
    return t("semicolon").join(differ)


# ---- 3 Data preprocessing ------------------------------------------------------------------------------------------------------

DATA_FIGURES = {"preprocessing": 90, "augmentation": 60}  # the files without .png, and their widths in %


def draw_missing(material: Material) -> None:
    """Draw the figures of the preprocessing as train.py does, if they are missing and the images are found."""
    known = [about for about in material.abouts.values() if about.settings]
    drawn = all((material.report / f"{name}.png").is_file() for name in DATA_FIGURES)
    if drawn or not known or "train" not in material.lists:
        return
    train = material.lists["train"]
    seed, augmentation = known[0].settings["seed"], known[0].settings.get("augmentation", STANDARD)
    with suppress(UserError):  # a missing image; the report then has a gap
        draw_data_figures(material.report, train, material.classes, known[0].preprocessing, seed, augmentation)


def data_figure(material: Material, parts: Parts, name: str) -> Part:
    """A figure drawn by train.py, or a gap."""
    path, t = material.report / f"{name}.png", material.t
    if path.is_file():
        return parts.picture(path.read_bytes(), t(name), t(f"{name}_alt"), DATA_FIGURES[name])
    return parts.gap(t("gap_figure", file=path.name))


def preprocessing(material: Material, parts: Parts) -> dict[str, Any]:
    """The numbers and figures of the preprocessing, and its effect on accuracy."""
    draw_missing(material)
    steps, views = (data_figure(material, parts, name) for name in DATA_FIGURES)
    numbers: dict[str, Any] = {}
    if material.abouts:
        every = [about.preprocessing for about in material.abouts.values()]
        for side in ("window", "source"):
            numbers[side] = material.t("or").join(dict.fromkeys(f"{getattr(each, side)}" for each in every))
        for name in ("mean", "std"):
            numbers[name] = ", ".join(f"{value:.3f}" for value in getattr(every[0], name))
        numbers |= {"model": find(next(iter(material.abouts))).title, "centre": material.t(f"centre_{every[0].locate}")}
    return {
        "steps": steps,
        "views": views,
        "numbers": numbers,
        "ablation": ablation_table(material, parts, images=True),
    }


def ablation_table(material: Material, parts: Parts, images: bool) -> Part | None:
    """The effect of the options that change the network's input if ``images``, else of others; None if none was measured on this
    data set."""
    rows = ablations(material.ablations, material.report.name, images)
    if not rows:
        return None
    return parts.table(material.t.words("ablation_head"), rows, material.t("ablation"), "lcclcrr")
