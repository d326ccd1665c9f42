"""Images per second of the data path: from the store with batched augmentation, against a usual per-image pipeline.

    python benchmarks/data.py                    # 300 generated 450×450 bitmaps
    python benchmarks/data.py --data ../shared/data/pbc8 --count 1000

The per-image pipeline decodes, crops, flips, rotates and normalises each image with Pillow in one process. The second table says
which share of a training step goes by until its batch is there; on a processor, where nothing overlaps, that is all the work
on the data.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import describe, keep, keep_option
from benchmarks.step import BATCH, ours, rates
from dataloader import Batches, measured_preprocessing
from lab.hardware import choose_hardware
from lab.images import read_image
from lab.lists import ImageList, read_data_set, read_list
from lab.store import open_stores

SIZE = 64


def per_image(path: Path, window: int) -> torch.Tensor:
    """What a student writes: Pillow from end to end."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    left, top = (image.width - window) // 2, (image.height - window) // 2
    image = image.crop((left, top, left + window, top + window)).resize((SIZE, SIZE))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(random.uniform(-20, 20))
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.25


class Timed(Batches):
    """Batches that note the seconds until each of them is there."""

    waits: list[float] = []  # noqa: RUF012 (one object of this class)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        feed = super().__iter__()
        while True:
            began = time.perf_counter()
            batch = next(feed, None)
            if batch is None:
                return
            self.waits.append(time.perf_counter() - began)
            yield batch


def main() -> None:
    """Time each way over the same images and print one table."""
    parser = argparse.ArgumentParser(description="Images per second of the data path.")
    parser.add_argument("--data", default="csv/sample")
    parser.add_argument("--root")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "resnet152"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64], help="of the second table, px (default: 64)")
    keep_option(parser, "data")
    args = parser.parse_args()
    data = read_data_set(args.data, args.root)
    whole = read_list(data, "train", labelled=True)
    count = min(args.count, len(whole))
    images = ImageList(whole.csv, whole.ids[:count], whole.paths[:count], whole.labels[:count])
    preprocessing = measured_preprocessing(images, SIZE)
    speeds: dict[str, float] = {}

    def timed(name: str, work: Iterable[object]) -> None:
        began = time.perf_counter()
        for _ in work:
            pass
        speeds[name] = count / (time.perf_counter() - began)

    timed("decoding alone, one image after another", (read_image(path) for path in images.paths))
    timed("usual per-image pipeline, one process", (per_image(path, preprocessing.window) for path in images.paths))
    with tempfile.TemporaryDirectory() as folder:
        timed("building the store", (open_stores(lists, preprocessing, Path(folder)) for lists in [{"train": images}]))
        began = time.perf_counter()
        store = open_stores({"train": images}, preprocessing, Path(folder))["train"]
        opened = time.perf_counter() - began
        timed("from the store, augmented", Batches(store, images.labels, preprocessing, 32, torch.device("cpu"), 0))
        timed("from the store, as evaluated", Batches(store, images.labels, preprocessing, 32, torch.device("cpu")))
    lines = [describe(), f"{count} images of {data.name}, {SIZE} px, store opened in {1000 * opened:.0f} ms", ""]
    lines += ["| way | images/s |", "|---|---|"] + [f"| {name} | {rate:,.0f} |" for name, rate in speeds.items()]
    lines += ["", "| model | px | training, images/s | of its time waiting for data |", "|---|---|---|---|"]
    hardware = choose_hardware()
    for size in args.sizes:
        preprocessing = measured_preprocessing(images, size)
        with tempfile.TemporaryDirectory() as folder:
            store = open_stores({"train": images}, preprocessing, Path(folder))["train"]
            batches = Timed(store, images.labels, preprocessing, BATCH, hardware.device, 0)
            for model in args.models:
                (rate,) = rates([ours(model, batches, hardware, len(data.classes))], 3, 2, hardware)
                waited = statistics.median(batches.waits) / (BATCH / rate)
                batches.waits.clear()
                lines.append(f"| {model} | {size} | {rate:.1f} | {100 * waited:.1f} % |")
    keep(args.keep, lines)


if __name__ == "__main__":
    main()
