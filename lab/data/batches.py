"""Batches of a list on the device: images decoded once into the store, augmented as whole batches.

What the commands train and predict with. ``dataloader.py`` holds the lab's own interface, one image at a time.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lab.data.augmentation import STANDARD, draw_augmentation, normalise, parts_of, transform
from lab.data.lists import ImageList
from lab.data.mixup import draw_mix, mix, one_hot
from lab.data.preprocessing import Preprocessing
from lab.data.random_numbers import permutation
from lab.data.store import Store, open_stores
from lab.distributed import ALONE, Ranks

T = TypeVar("T")
R = TypeVar("R")
Batch = tuple[Tensor, Tensor, np.ndarray]
EVALUATION_BATCH = 128  # images; speed depends on it, and the last digits of a probability
STORES = Path(".store")  # git-ignored; safe to delete, since it is built again


class Batches:
    """Batches of a store on the device: images float32 [B, 3, size, size], channels last; labels int64 [B]; indices [B].

    With a ``seed`` the images come shuffled and augmented as a function of (seed, epoch, index), and a last batch that is not
    full is left out, so that every step has the same shape. Without a seed they come in order, all of them, unchanged. Of
    several ``ranks`` each gets every Nth batch of the same order to train on, and the Nth part of the list to evaluate.
    With an ``augmentation`` that mixes images the labels are the shares of the ``classes``, float32 [B, K].
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
        # Whatever a step needs lies on the device before the first one: a copy within the step would make a GPU wait.
        self.labels = torch.from_numpy(labels).to(device)
        self.mean = torch.tensor(preprocessing.mean, device=device)
        self.std = torch.tensor(preprocessing.std, device=device)
        self.copies: torch.cuda.Stream | None = None
        self.resident = resident(store, device) if fits_on(device, store.images.nbytes) else None

    def with_batch_size(self, batch_size: int) -> Batches:
        """The same images in batches of another size."""
        other = copy.copy(self)
        other.batch_size = min(batch_size, self.count)
        return other

    def __len__(self) -> int:
        """Batches per epoch of this rank."""
        return len(self.numbers())

    def __iter__(self) -> Iterator[Batch]:
        """The list once, at the preprocessing's own size."""
        return self.epoch()

    def numbers(self) -> range:
        """Which of an epoch's batches are this rank's."""
        rank, ranks = self.ranks.rank, self.ranks.count
        if self.seed is not None:
            whole = self.count // self.batch_size
            return range(rank, whole - whole % ranks, ranks)
        whole = -(-self.count // self.batch_size)
        each = -(-whole // ranks)
        return range(min(rank * each, whole), min((rank + 1) * each, whole))

    @torch.no_grad()
    def epoch(self, number: int = 0, size: int | None = None, begin: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``number`` at ``size`` px (default: the preprocessing's), without the first ``begin`` of them."""
        size = size or self.preprocessing.size
        order = np.arange(self.count) if self.seed is None else permutation(self.seed, number, self.count)
        mixing = "" if self.seed is None else "".join(parts_of(self.augmentation) & {"mixup", "cutmix"})
        if mixing:  # each image is mixed with the next one, the last with the first
            order = np.append(order, order[:1])
        draws: list[Tensor | None] = [None, None, None]
        shares = None
        if self.seed is not None:
            each = draw_augmentation(self.seed, number, order, self.augmentation)
            draws = [draw if draw is None else draw.to(self.device) for draw in each]
            shares = draw_mix(mixing, self.seed, number, order).to(self.device) if mixing else None
        labels = self.labels[torch.from_numpy(order).to(self.device)]
        rows = torch.from_numpy(self.store.rows[order]).to(self.device if self.resident is not None else "cpu")
        starts = [batch * self.batch_size for batch in self.numbers()[begin:]]
        parts = [slice(start, start + self.batch_size + bool(mixing)) for start in starts]
        for start, part, windows in zip(starts, parts, self.windows(rows, parts), strict=True):
            batch = slice(start, start + self.batch_size)
            geometry, shift, colour = (draw if draw is None else draw[part] for draw in draws)
            images = transform(windows, size, geometry, shift, colour, self.preprocessing.padding)
            targets = labels[batch]
            if shares is not None:
                images, targets = mix(mixing, images, one_hot(labels[part], self.classes), shares[batch])
            yield normalise(images, self.mean, self.std), targets, order[batch]

    def windows(self, rows: Tensor, parts: Iterable[slice]) -> Iterator[Tensor]:
        """The stored windows, uint8 [B, S, S, 3] on the device, of one part of ``rows`` after another.

        Those that come from the store to a GPU are gathered by a thread and copied from pinned memory, on a stream of their
        own, while the GPU works on the ones before.
        """
        if self.resident is not None:
            yield from (self.resident[rows[part]] for part in parts)
            return
        if self.device.type != "cuda":
            yield from (torch.from_numpy(self.store.images[rows[part].numpy()]).to(self.device) for part in parts)
            return
        if self.copies is None:
            self.copies = torch.cuda.Stream(self.device)  # one for all epochs: each stream keeps memory of its own
        copies = self.copies

        def fetch(part: slice) -> tuple[Tensor, torch.cuda.Event]:
            images = torch.from_numpy(self.store.images[rows[part].numpy()]).pin_memory()
            with torch.cuda.stream(copies):
                return images.to(self.device, non_blocking=True), copies.record_event()

        for images, copied in ahead(fetch, parts):
            compute = torch.cuda.current_stream(self.device)
            compute.wait_event(copied)
            images.record_stream(compute)  # its memory is not given to the next copy while it is read
            yield images


def resident(store: Store, device: torch.device) -> Tensor:
    """The whole store, uint8 [N, S, S, 3], in the device's memory."""
    images = torch.empty(store.images.shape, dtype=torch.uint8, device=device)
    for begin in range(0, len(store.images), 1024):  # the whole at once would lie in both memories
        part = slice(begin, begin + 1024)
        images[part] = torch.from_numpy(np.array(store.images[part]))
    size = store.images.nbytes / 2**30
    print(f"images: {len(store.rows):,} kept on the {device.type}, {size:.2f} GiB of its memory")
    return images


def ahead(work: Callable[[T], R], items: Iterable[T], count: int = 2) -> Generator[R, None, None]:
    """``work`` of each item in their order, by a thread that is up to ``count`` items ahead."""
    pool: ThreadPoolExecutor = ThreadPoolExecutor(1)
    try:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def fits_on(device: torch.device, size: int) -> bool:
    """Whether a store of ``size`` bytes is to lie in the GPU's memory: where it takes a quarter at most of what is free.
    In the computer's own memory the system keeps what it has room for."""
    return device.type == "cuda" and 4 * size <= torch.cuda.mem_get_info(device)[0]


def stored_batches(
    data_name: str, list_name: str, images: ImageList, preprocessing: Preprocessing, device: torch.device
) -> Batches:
    """A list in order and unaugmented, through its store in ``.store/<data>``."""
    store = open_stores({list_name: images}, preprocessing, STORES / data_name)[list_name]
    return Batches(store, images.labels, preprocessing, EVALUATION_BATCH, device)
