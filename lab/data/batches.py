"""Batches of a list on the device: images are decoded once into the store and augmented as whole batches.

The commands train and predict with these. ``dataloader.py`` is the lab's interface, one image at a time.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lab.data.augmentation import STANDARD, draw_augmentation, normalise, parts_of, transform
from lab.data.lists import ImageList
from lab.data.mixup import draw_mix, mix
from lab.data.preprocessing import Preprocessing
from lab.data.random_numbers import permutation
from lab.data.store import Store, open_stores
from lab.distributed import ALONE, Ranks

T = TypeVar("T")
R = TypeVar("R")
Batch = tuple[Tensor, Tensor, np.ndarray]
EVALUATION_BATCH = 128  # images; affects the speed and the last digits of a probability
STORES = Path(os.environ.get("RESNET_STORE", ".store"))  # git-ignored; safe to delete, because it is built again


class Batches:
    """Batches of a store on the device: images float32 [B, 3, size, size], channels last; labels int64 [B]; indices [B].

    With a ``seed`` (training), the images are shuffled and augmented as a function of (seed, epoch, index), and an incomplete
    last batch is dropped, so that every step has the same shape. Without a seed (evaluation), all images come in order and
    without augmentation. With several ``ranks``, each rank trains on every Nth batch and evaluates one Nth of the list.
    With mixup or CutMix, the labels are the proportions of the ``classes``, float32 [B, K].
    """

    def __init__(
        self,
        store: Store,
        labels: np.ndarray,
        preprocessing: Preprocessing,
        batch_size: int,
        device: torch.device,
        seed: int | None = None,
        ranks: Ranks = ALONE,
        augmentation: str = STANDARD,
        classes: int = 0,
    ) -> None:
        self.store, self.preprocessing, self.device, self.seed, self.ranks = store, preprocessing, device, seed, ranks
        self.augmentation, self.classes = augmentation, classes
        self.count = len(store.rows)
        self.batch_size = min(batch_size, self.count)
        # Copied to the device before the first step, because a copy within a step would block a GPU.
        self.labels = torch.from_numpy(labels).to(device)
        self.mean = torch.tensor(preprocessing.mean, device=device)
        self.std = torch.tensor(preprocessing.std, device=device)
        self.copy_stream: torch.cuda.Stream | None = None
        self.resident = copy_to_device(store, device) if fits_on(device, store.images.nbytes) else None

    def with_batch_size(self, batch_size: int) -> Batches:
        """Return the same images in batches of another size."""
        other = copy.copy(self)
        other.batch_size = min(batch_size, self.count)
        return other

    def sample(self, most: int) -> Batches:
        """Return at most ``most`` images, evenly spaced in the list, in order and without augmentation, on this rank alone."""
        step = -(-self.count // most)
        other = copy.copy(self)
        other.store, other.labels = replace(self.store, rows=self.store.rows[::step]), self.labels[::step]
        other.seed, other.ranks, other.count = None, ALONE, len(other.labels)
        other.batch_size = min(EVALUATION_BATCH, other.count)
        return other

    def __len__(self) -> int:
        """Number of batches per epoch of this rank."""
        return len(self.batch_numbers())

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over epoch 0 at the size of the preprocessing."""
        return self.epoch()

    def batch_numbers(self) -> range:
        """The numbers of an epoch's batches that this rank processes."""
        rank, ranks = self.ranks.rank, self.ranks.count
        if self.seed is not None:
            total = self.count // self.batch_size
            return range(rank, total - total % ranks, ranks)
        total = -(-self.count // self.batch_size)
        per_rank = -(-total // ranks)
        return range(min(rank * per_rank, total), min((rank + 1) * per_rank, total))

    @torch.no_grad()
    def epoch(self, number: int = 0, size: int | None = None, begin: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch ``number`` at ``size`` px (default: the preprocessing's), starting at batch ``begin``."""
        size = size or self.preprocessing.size
        order = np.arange(self.count) if self.seed is None else permutation(self.seed, number, self.count)
        mixing = "" if self.seed is None else "".join(parts_of(self.augmentation) & {"mixup", "cutmix"})
        if mixing:  # each image is mixed with the next one, the last with the first
            order = np.append(order, order[:1])
        parameters: list[Tensor | None] = [None, None, None]
        mix_parameters = None
        if self.seed is not None:
            drawn = draw_augmentation(self.seed, number, order, self.augmentation)
            parameters = [values if values is None else values.to(self.device) for values in drawn]
            mix_parameters = draw_mix(mixing, self.seed, number, order).to(self.device) if mixing else None
        labels = self.labels[torch.from_numpy(order).to(self.device)]
        rows = torch.from_numpy(self.store.rows[order]).to(self.device if self.resident is not None else "cpu")
        starts = [batch * self.batch_size for batch in self.batch_numbers()[begin:]]
        parts = [slice(start, start + self.batch_size + bool(mixing)) for start in starts]
        for start, part, windows in zip(starts, parts, self.windows(rows, parts), strict=True):
            batch = slice(start, start + self.batch_size)
            geometry, shift, colour = (values if values is None else values[part] for values in parameters)
            images = transform(windows, size, geometry, shift, colour, self.preprocessing.padding)
            targets = labels[batch]
            if mix_parameters is not None:
                images, targets = mix(mixing, images, labels[part], self.classes, mix_parameters[batch])
            yield normalise(images, self.mean, self.std), targets, order[batch]

    def windows(self, rows: Tensor, parts: Iterable[slice]) -> Iterator[Tensor]:
        """Yield the stored windows, uint8 [B, S, S, 3] on the device, of each part of ``rows``.

        For a GPU, a thread reads them from the store into pinned memory and copies them on a separate stream while the GPU
        computes the previous batches.
        """
        if self.resident is not None:
            yield from (self.resident[rows[part]] for part in parts)
            return
        if self.device.type != "cuda":
            yield from (torch.from_numpy(self.store.images[rows[part].numpy()]).to(self.device) for part in parts)
            return
        if self.copy_stream is None:
            self.copy_stream = torch.cuda.Stream(self.device)  # one for all epochs, because each stream reserves memory
        stream = self.copy_stream

        def fetch(part: slice) -> tuple[Tensor, torch.cuda.Event]:
            images = torch.from_numpy(self.store.images[rows[part].numpy()]).pin_memory()
            with torch.cuda.stream(stream):
                return images.to(self.device, non_blocking=True), stream.record_event()

        for images, copied in prefetch(fetch, parts):
            compute = torch.cuda.current_stream(self.device)
            compute.wait_event(copied)
            images.record_stream(compute)  # so that the next copy does not reuse this memory while it is read
            yield images


def copy_to_device(store: Store, device: torch.device) -> Tensor:
    """Copy the whole store, uint8 [N, S, S, 3], to the device's memory."""
    images = torch.empty(store.images.shape, dtype=torch.uint8, device=device)
    for begin in range(0, len(store.images), 1024):  # in parts, so that the CPU's memory never holds all of them
        part = slice(begin, begin + 1024)
        images[part] = torch.from_numpy(np.array(store.images[part]))
    size = store.images.nbytes / 2**30
    print(f"images: {len(store.rows):,} kept on the {device.type}, {size:.2f} GiB of its memory")
    return images


def prefetch(function: Callable[[T], R], items: Iterable[T], count: int = 2) -> Generator[R, None, None]:
    """Yield ``function`` of each item in order; a thread computes up to ``count`` results in advance."""
    pool = ThreadPoolExecutor(1)
    try:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def fits_on(device: torch.device, size: int) -> bool:
    """Whether a store of ``size`` bytes is kept in the memory of a GPU, which it is if it needs at most a quarter of what is
    free. On a CPU the store stays memory-mapped, and the operating system caches it."""
    return device.type == "cuda" and 4 * size <= torch.cuda.mem_get_info(device)[0]


def stored_batches(
    data_name: str, list_name: str, images: ImageList, preprocessing: Preprocessing, device: torch.device
) -> Batches:
    """Return a list's batches for evaluation; its store is in ``.store/<data>``."""
    store = open_stores({list_name: images}, preprocessing, STORES / data_name)[list_name]
    return Batches(store, images.labels, preprocessing, EVALUATION_BATCH, device)
