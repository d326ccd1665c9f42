"""The figures that commands draw of a folder's runs: accuracy and scores per epoch, preprocessing and augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lab.checkpoints.histories import read_histories
from lab.data.augmentation import augment, resample, to_uint8
from lab.data.images import read_image
from lab.data.lists import ImageList
from lab.data.preprocessing import Preprocessing, window_corner
from lab.errors import UserError
from lab.figures.accuracy import accuracy_figure
from lab.figures.galleries import augmented_figure, preprocessing_figure
from lab.figures.scores import scores_figure
from lab.figures.style import save
from lab.terminal import warn
from models.catalog import resnets


def redraw_accuracy(folder: Path, model: str = "all", training: bool = False) -> str:
    """Draw the accuracy per epoch of all ResNets in one figure, as the lab requires, or of another ``model`` alone.

    Returns the name of the figure. With ``training``, an invalid history is a warning and not an error.
    """
    together = model == "all" or model in resnets()
    figure = "accuracy_comparison.png" if together else f"accuracy_{model}.png"
    try:
        histories = read_histories(folder)
    except UserError as error:
        if not training:
            raise
        warn(f"{figure} was not drawn: {error}")
        return figure
    models = resnets() if together else [model]
    drawn = {name: table for name, table in histories.items() if name in models}
    if drawn:
        save(accuracy_figure(drawn, f"Accuracy per epoch on {folder.name}"), folder / figure)
    return figure


def draw_scores(folder: Path, model: str = "all") -> str:
    """Draw precision, recall and F1 per epoch of all ResNets, or of another ``model`` alone. Returns the name of the figure."""
    models = resnets() if model == "all" else [model]
    histories = {name: table for name, table in read_histories(folder).items() if name in models}
    figure = f"scores{'' if model == 'all' else f'_{model}'}.png"
    save(scores_figure(histories, f"Macro scores per epoch on {folder.name}, valid.csv"), folder / figure)
    return figure


def draw_data_figures(
    folder: Path, train: ImageList, classes: list[str], preprocessing: Preprocessing, seed: int, augmentation: str
) -> None:
    """Draw ``preprocessing.png`` (raw image, mask, window, network input of some cells of each class) and ``augmentation.png``
    (their augmented views, without mixup)."""
    count = 3 if len(classes) <= 2 else 1  # of each class
    indices = [int(i) for label in range(len(classes)) for i in np.flatnonzero(train.labels == label)[:count]]
    rows, originals, views = [], [], []
    for index in indices:
        raw = read_image(train.paths[index], preprocessing.white)
        cropped = preprocessing.crop(raw)
        source = torch.from_numpy(cropped[None])
        original = to_uint8(resample(source, preprocessing.size, padding=preprocessing.padding))[0]
        mask = preprocessing.mask(raw)
        window = (*window_corner(raw, preprocessing.window, mask), preprocessing.window)
        row = {"class_name": classes[int(train.labels[index])], "raw": raw, "mask": mask, "window": window}
        rows.append(row | {"cropped": cropped, "input": original})
        originals.append(original)
        augmented = [
            augment(source, preprocessing.size, seed, epoch, np.array([index]), preprocessing.padding, augmentation)
            for epoch in range(7)
        ]
        views.append([to_uint8(view)[0] for view in augmented])
    save(preprocessing_figure(rows), folder / "preprocessing.png")
    title = f"Augmented views of {folder.name}, as in training"
    save(augmented_figure(originals, views, title), folder / "augmentation.png")
