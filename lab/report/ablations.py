"""The effect of single options, from benchmarks/results/ablations.csv: runs that differ in one option, paired by seed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

# The options of train.py that change the network's input.
IMAGES = ("--size", "--window", "--augmentation", "--progressive", "--no-progressive")
KEY = ["data", "model", "size", "epochs", "also"]


def ablations(path: Path, data: str, images: bool) -> tuple[str, list[list[str]]] | None:
    """The caption and the rows of a table: run, change, seeds, accuracy after the last epoch in %, difference from the base.

    The rows are those of ``IMAGES`` if ``images``, else those of other options; from this data set or, if it has none, from
    all. None if there are no rows.
    """
    if not path.is_file():
        return None
    runs = pd.read_csv(path, keep_default_na=False)
    own = rows_of(runs[runs["data"] == data], images)
    rows = own or rows_of(runs, images)
    if not rows:
        return None
    where = "" if own else " on other data sets"
    caption = f"Ablations, measured{where} by benchmarks.ablate: accuracy on valid.csv after the last epoch, averaged over the "
    caption += (
        "seeds, and its difference from the same runs without the change. Differences of one or two seeds may be noise."
    )
    return caption, rows


def rows_of(runs: pd.DataFrame, images: bool) -> list[list[str]]:
    """The rows of :func:`ablations` from these runs."""
    rows: list[list[str]] = []
    for (data, model, size, epochs, _), part in runs.groupby(KEY, sort=False):
        seeds = {options: each.set_index("seed")["last"] for options, each in part.groupby("options", sort=False)}
        base = seeds.pop("", None)
        if base is None:
            continue
        for options, last in seeds.items():
            shared = (last - base).dropna()
            about_images = any(word in IMAGES for word in str(options).split())
            if about_images == images and len(shared):
                run = f"{model} on {data}, {size} px, {epochs} epochs"
                cells = [run, str(options), f"{len(shared)}", f"{100 * last[shared.index].mean():.2f}"]
                rows.append([*cells, f"{100 * shared.mean():+.2f}"])
    return rows
