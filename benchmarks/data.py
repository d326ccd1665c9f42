"""Images per second of the data path: from the store with batched augmentation, against a usual per-image pipeline.

    python benchmarks/data.py                                                # 300 generated 450×450 bitmaps
    python benchmarks/data.py --data ../shared/data/pbc8 --count 1000 --sizes 64 128 --keep data
    python benchmarks/data.py --models resnet18 --keep data_bmp

The per-image pipeline is what a peer writes: Pillow decodes, crops, turns and scales each image in a DataLoader with as many
workers as cores. Cold: the system was told before to forget the files (posix_fadvise); warm: they were read just before. The
second table says which share of a training step goes by until its batch is there; on a CPU, where nothing overlaps, that is
all the work on the data.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.machine import describe, keep, keep_option
from benchmarks.step import AUGMENTATION, BATCH, Files, ours, rates
from lab.data.batches import Batches
from lab.data.images import read_image
from lab.data.lists import ImageList, read_data_set, read_list
from lab.data.preprocessing import measured_preprocessing
from lab.data.store import open_stores
from lab.hardware import choose_hardware, decoding_threads
from models import catalog

SIZE = 64


def forget(paths: Iterable[Path]) -> None:
    """Have the system give back what it holds of these files in memory, so that they are read from the disk again."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is still to be written stays in memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Timed(Batches):
    """Batches that note the seconds until each of them is there."""

    waits: list[float] = []  # noqa: RUF012 (only one is in use at a time)

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
    parser.add_argument("--models", nargs="+", default=catalog.depths())
    parser.add_argument("--sizes", type=int, nargs="+", default=[64], help="of the second table, px (default: 64)")
    keep_option(parser, "data")
    args = parser.parse_args()
    data = read_data_set(args.data, args.root)
    whole = read_list(data, "train", labelled=True)
    count = min(args.count, len(whole))
    images = ImageList(whole.csv, whole.ids[:count], whole.paths[:count], whole.labels[:count])
    preprocessing = measured_preprocessing(images, SIZE)
    loader = DataLoader(Files(images, preprocessing.window, SIZE, AUGMENTATION), BATCH, num_workers=decoding_threads())
    lines = ["| way | cold, images/s | warm, images/s |", "|---|---|---|"]

    def timed(work: Iterable[object], number: int) -> float:
        began = time.perf_counter()
        for _ in work:
            pass
        return number / (time.perf_counter() - began)

    def row(name: str, make: Callable[[], Iterable[object]], files: Sequence[Path], number: int = count) -> None:
        work = make()
        forget(files)  # after a store was opened, which reads it whole
        cold = timed(work, number)
        del work  # what is still mapped is not forgotten
        lines.append(f"| {name} | {cold:,.0f} | {timed(make(), number):,.0f} |")

    def all_cores() -> Iterator[object]:
        with ThreadPoolExecutor(decoding_threads()) as pool:
            yield from pool.map(read_image, images.paths)

    row("decoding alone, all cores", all_cores, images.paths)
    row("usual per-image pipeline, all cores", lambda: loader, images.paths)
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder) / str(number) for number in itertools.count())  # each time in an empty one

        def built() -> Iterator[object]:
            yield open_stores({"train": images}, preprocessing, next(places))

        row("building the store", built, images.paths)
        kept = next(places)
        open_stores({"train": images}, preprocessing, kept)
        files = list(kept.iterdir())
        forget(files)
        began = time.perf_counter()
        open_stores({"train": images}, preprocessing, kept)
        opened = time.perf_counter() - began

        def stored(seed: int | None) -> Batches:
            store = open_stores({"train": images}, preprocessing, kept)["train"]
            return Batches(store, images.labels, preprocessing, BATCH, torch.device("cpu"), seed)

        row("from the store, augmented", lambda: stored(0), files, count // BATCH * BATCH)
        row("from the store, as evaluated", lambda: stored(None), files)
    lines = [
        describe(),
        f"{count} images of {data.name}, {SIZE} px, store opened in {1000 * opened:.0f} ms",
        "",
        *lines,
    ]
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
