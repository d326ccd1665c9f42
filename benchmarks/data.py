"""Images per second of the data path: the store with batched augmentation, against a usual per-image pipeline.

    python -m benchmarks.data                                                # 300 generated 450×450 bitmaps
    python -m benchmarks.data --data ../shared/data/pbc8 --count 1000 --sizes 64 128 --keep data
    python -m benchmarks.data --models resnet18 --keep data_bmp

The per-image pipeline is what a peer writes: Pillow decodes, crops, rotates and scales each image in a DataLoader with as many
workers as cores. Cold: the files were dropped from the page cache before (posix_fadvise). Warm: they were read just before. The
second table gives the share of a training step that is spent waiting for its batch. On a CPU, where nothing overlaps, this is
all the work on the data.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.machine import describe, keep, keep_option, table_head
from benchmarks.step import AUGMENTATION, BATCH, Files, ours, rates
from lab.data.batches import Batches
from lab.data.images import read_image
from lab.data.lists import ImageList, read_data_set, read_list
from lab.data.preprocessing import measured_preprocessing
from lab.data.store import Store, open_stores
from lab.hardware import choose_hardware
from lab.threads import decoding_threads
from models import catalog

SIZE = 64


class Timed(Batches):
    """Batches that record the seconds until each of them is ready."""

    waits: ClassVar[list[float]] = []

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        batches = super().__iter__()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.waits.append(time.perf_counter() - began)
            yield batch


def forget(paths: Iterable[Path]) -> None:
    """Drop these files from the page cache, so that they are read from the disk again."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages not yet written would stay in memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def throughput(work: Iterable[object], count: int) -> float:
    """Images per second of an iteration over ``work``, which processes ``count`` images."""
    began = time.perf_counter()
    for _ in work:
        pass
    return count / (time.perf_counter() - began)


def row(name: str, make: Callable[[], Iterable[object]], files: Sequence[Path], count: int) -> str:
    """A row of the first table: the throughput of what ``make`` returns, cold and warm."""
    work = make()
    forget(files)  # after a store was opened, which reads all of it
    cold = throughput(work, count)
    del work  # pages that are still mapped are not dropped
    return f"| {name} | {cold:,.0f} | {throughput(make(), count):,.0f} |"


def decode(images: ImageList) -> Iterator[object]:
    """Decode the images on all cores."""
    with ThreadPoolExecutor(decoding_threads()) as pool:
        yield from pool.map(read_image, images.paths)


def data_path(images: ImageList) -> tuple[list[str], float]:
    """The first table, and the milliseconds that opening the store takes."""
    preprocessing, paths, count = measured_preprocessing(images, SIZE), images.paths, len(images)
    loader = DataLoader(Files(images, preprocessing.window, SIZE, AUGMENTATION), BATCH, num_workers=decoding_threads())
    lines = table_head("way | cold, images/s | warm, images/s")
    lines.append(row("decoding alone, all cores", lambda: decode(images), paths, count))
    lines.append(row("usual per-image pipeline, all cores", lambda: loader, paths, count))
    with tempfile.TemporaryDirectory() as folder:
        empty_folders = (Path(folder) / str(number) for number in itertools.count())

        def opened(store: Path) -> Store:
            return open_stores({"train": images}, preprocessing, store)["train"]

        def build() -> Iterator[object]:
            yield opened(next(empty_folders))

        def batches(seed: int | None) -> Batches:
            return Batches(opened(store), images.labels, preprocessing, BATCH, torch.device("cpu"), seed)

        lines.append(row("building the store", build, paths, count))
        store = next(empty_folders)
        opened(store)
        files = list(store.iterdir())
        forget(files)
        began = time.perf_counter()
        opened(store)
        milliseconds = 1000 * (time.perf_counter() - began)
        lines.append(row("from the store, augmented", lambda: batches(0), files, count // BATCH * BATCH))
        lines.append(row("from the store, as evaluated", lambda: batches(None), files, count))
    return lines, milliseconds


def waiting(images: ImageList, models: list[str], sizes: list[int], classes: int) -> list[str]:
    """The second table: the share of the training time that is spent waiting for data."""
    lines = table_head("model | px | training, images/s | of its time waiting for data")
    hardware = choose_hardware()
    for size in sizes:
        preprocessing = measured_preprocessing(images, size)
        with tempfile.TemporaryDirectory() as folder:
            store = open_stores({"train": images}, preprocessing, Path(folder))["train"]
            batches = Timed(store, images.labels, preprocessing, BATCH, hardware.device, 0)
            for model in models:
                (rate,) = rates([ours(model, batches, hardware, classes)], 3, 2, hardware)
                share = statistics.median(batches.waits) / (BATCH / rate)
                batches.waits.clear()
                lines.append(f"| {model} | {size} | {rate:.1f} | {100 * share:.1f} % |")
    return lines


def main() -> None:
    """Measure both tables on the same images."""
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
    lines, milliseconds = data_path(images)
    title = f"{count} images of {data.name}, {SIZE} px, store opened in {milliseconds:.0f} ms"
    keep(args.keep, [describe(), title, "", *lines, "", *waiting(images, args.models, args.sizes, len(data.classes))])


if __name__ == "__main__":
    main()
