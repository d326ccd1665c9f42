"""Gathers what the page shows before it opens: each model's accuracy, history, speed and predictions on valid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lab.checkpoints.ensembles import Member
from lab.checkpoints.histories import read_histories
from lab.data.batches import Batches
from lab.data.lists import ImageList
from lab.data.preprocessing import Preprocessing
from lab.errors import UserError
from lab.evaluation.inference import decide_d4
from lab.evaluation.metrics import saved_accuracy, wilson
from lab.figures.accuracy import accuracy_columns
from lab.hardware import Hardware
from lab.page.answers import Exhibit
from lab.page.gallery import Valid, valid_probabilities
from lab.page.networks import Depth, measure
from lab.terminal import warn


def prepare(
    data: str,
    networks: Mapping[str, list[Member]],
    hardware: Hardware,
    images: ImageList | None,
    why: str,
    batches: Mapping[Preprocessing, Batches],
    report: Path,
) -> Exhibit:
    """Everything that the page needs; only the valid list can take long, and says how long. Without a list of ``images``, ``why``
    says so, and accuracies are those that the checkpoints were saved with."""
    depths, probabilities = [], {}
    histories = find_histories(networks, report)
    for model, members in networks.items():
        about = members[0][1]
        d4 = decide_d4(about, "auto")
        count, accuracy = int(about.metrics.get("valid_images", 0)), saved_accuracy(about.metrics, d4)
        if images is not None:
            kept = report / f"valid_{model}.csv"
            rows = valid_probabilities(members, images, batches, hardware, d4, kept)
            count, hits = len(images), int((rows.argmax(axis=1) == images.labels).sum())
            probabilities[model], accuracy = rows, (hits / count, *wilson(hits, count))
        depth = Depth(model, members, d4, accuracy, count, histories.get(model))
        depth.milliseconds = measure(depth, hardware)
        depths.append(depth)
    classes, first = depths[0].classes, depths[0].preprocessing
    valid = Valid(images, classes, batches[first].store, probabilities) if images is not None else None
    return Exhibit(data, classes, depths, hardware, valid, why)


def find_histories(networks: Mapping[str, list[Member]], report: Path) -> dict[str, pd.DataFrame]:
    """Each model's history: that of its checkpoint, which is surely its own, or else the report folder's."""
    found = {model: pd.DataFrame(members[0][1].history) for model, members in networks.items()}
    try:
        elsewhere = read_histories(report)
    except UserError as error:
        warn(str(error))
        elsewhere = {}
    good = {}
    for model, history in found.items():
        try:
            accuracy_columns(model, table := elsewhere.get(model, history) if history.empty else history)
        except UserError as error:
            print(f"{model}: no curves, since {error}")
        else:
            good[model] = table
    return good
