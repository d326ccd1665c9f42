"""The effect of single options, from benchmarks/results/ablations.csv: runs that differ in one option, paired by seed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from models.catalog import find

# The options of train.py that change the network's input.
IMAGES = ("--size", "--window", "--augmentation", "--progressive", "--no-progressive")
KEY = ["model", "size", "epochs", "also"]


def ablations(path: Path, data: str, images: bool) -> list[list[str]]:
    """The rows of a table: run, change, seeds, accuracy after the last epoch in %, difference from the base.

    The rows are those of ``IMAGES`` if ``images``, else those of other options, measured on this data set alone: on others, the
    same option may have another effect.
    """
    rows: list[list[str]] = []
    if not path.is_file():
        return rows
    runs = pd.read_csv(path, keep_default_na=False)
    for (model, size, epochs, _), part in runs[runs["data"] == data].groupby(KEY, sort=False):
        seeds = {options: each.set_index("seed")["last"] for options, each in part.groupby("options", sort=False)}
        base = seeds.pop("", None)
        if base is None:
            continue
        for options, last in seeds.items():
            shared = (last - base).dropna()
            about_images = any(word in IMAGES for word in str(options).split())
            if about_images == images and len(shared):
                cells = [find(str(model)).title, f"{size}", f"{epochs}", str(options), f"{len(shared)}"]
                rows.append([*cells, f"{100 * last[shared.index].mean():.2f}", f"{100 * shared.mean():+.2f}"])
    return rows
