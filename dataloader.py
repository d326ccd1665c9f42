"""The lab's DataLoader: CSV lists in, images and labels out.

    from dataloader import LeukemiaLoader
    train = LeukemiaLoader(".", "train")            # > Found 7995 images...
    image, label = train[0]                         # float32 [3, size, size], normalised, and int

``getData(mode)`` and ``LeukemiaLoader(root, mode)`` are the lab's interface, one image at a time, for any
``torch.utils.data.DataLoader``. ``Batches`` is what the commands train and predict with: the same images, decoded once into
the store (lab/data/store.py) and augmented as whole batches on the device (lab/data/augmentation.py).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lab.data.augmentation import STANDARD, drawn, normalise, parts_of, resample, transform
from lab.data.images import decode, read_image
from lab.data.lists import ImageList, problems_error, read_data_set, read_list
from lab.data.mixup import draw_mix, mix, one_hot
from lab.data.preprocessing import Preprocessing, channel_statistics, choose_window
from lab.data.random_numbers import permutation
from lab.data.store import Store, open_stores
from lab.distributed import ALONE, Ranks
from lab.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
LABELLED = ("train", "valid")
EVALUATION_BATCH = 128  # images; speed depends on it, and the last digits
STORES = Path(".store")  # git-ignored; safe to delete, it is built again


def list_name(mode: str) -> str:
    """The list that a mode stands for: ``train``, ``valid``, or ``resnet_50_test`` for any of ``resnet_50_test``,
    ``resnet50`` and ``test50``. Raises ``ValueError`` on anything else: plain "test" would not say whose order is meant."""
    if mode in LABELLED:
        return mode
    match = re.fullmatch(r"(?:resnet_?|test_?)(\d+)(?:_test)?", mode)
    if not match:
        raise ValueError(
            f"mode {mode!r} is not known; use 'train', 'valid', or the test list of a depth: 'resnet_18_test', "
            f"'resnet_50_test', 'resnet_152_test'"
        )
    return f"resnet_{match[1]}_test"


def getData(mode: str, data: str | Path = "csv/lab3") -> tuple[list[str], list[int]] | list[str]:
    """The lab's function: paths and labels of ``train`` and ``valid``, the paths alone of a depth's test list."""
    images = read_list(read_data_set(data), list_name(mode), labelled=mode in LABELLED, check_files=False)
    return (images.ids, images.labels.tolist()) if mode in LABELLED else images.ids


class LeukemiaLoader(Dataset[tuple[Tensor, int] | Tensor]):
    """The lab's data set: one image at a time, read, preprocessed and normalised; never augmented, so the same every time.

    Args:
        root: folder that the paths of the list start from.
        mode: ``train``, ``valid`` or a depth's test list such as ``resnet_50_test``.
        data: the folder of lists, or a data set's name.
        preprocessing: as a checkpoint carries it; without it the window is measured on the images of ``train.csv``.
    """

    def __init__(
        self, root: str | Path, mode: str, data: str | Path = "csv/lab3", preprocessing: Preprocessing | None = None
    ) -> None:
        self.root = root
        self.mode = mode
        self.data = read_data_set(data, root)
        self.list = read_list(self.data, list_name(mode), labelled=mode in LABELLED)
        self.img_name, self.label = self.list.ids, self.list.labels
        self.preprocessing = preprocessing or measured_preprocessing(read_list(self.data, "train", labelled=True))
        print(f"> Found {len(self.img_name)} images...")

    def __len__(self) -> int:
        return len(self.img_name)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | Tensor:
        """Image ``index`` as float32 [3, size, size], with its label where the list has labels."""
        try:
            source = self.preprocessing.crop(read_image(self.list.paths[index]))
        except UserError as error:
            raise UserError(f"{self.list.csv.name} line {self.list.row(index)}: {error}") from None
        image = network_input(torch.from_numpy(source[None]), self.preprocessing)[0]
        return image if self.mode not in LABELLED else (image, int(self.label[index]))


def sample_images(images: ImageList, count: int = 200) -> list[np.ndarray]:
    """Some images of a list, evenly spread over it; those that cannot be read are left to the check of the whole list."""
    sample, problems = [], []
    for index in np.unique(np.linspace(0, len(images) - 1, count).astype(int)):
        try:
            sample.append(decode(images.paths[index].read_bytes()))
        except (OSError, ValueError) as error:
            problems.append(images.problem(index, error))
    if not sample:
        raise problems_error(f"{images.csv}: none of the images tried can be used:", problems)
    return sample


def choose_preprocessing(train: ImageList, size: int, window: int | None = None) -> Preprocessing:
    """For a network input of ``size`` px; the window is measured on the training images and printed with its reason, or is as
    asked. Mean and standard deviation are still to be measured."""
    side, locate, reason = choose_window(sample_images(train))
    if window:
        side, reason = window, "as asked"
    print(f"window: {side} px of the raw image around the {locate}, {reason}")
    return Preprocessing(side, 2 * size, size, locate)


def measured_preprocessing(train: ImageList, size: int = 64) -> Preprocessing:
    """Window, mean and standard deviation measured on a sample of the training images; for a network input of ``size`` px."""
    images = sample_images(train)
    window, locate, _ = choose_window(images)
    preprocessing = Preprocessing(window, 2 * size, size, locate)
    mean, std = channel_statistics(np.stack([preprocessing.crop(image) for image in images]))
    return replace(preprocessing, mean=mean, std=std)


def network_input(sources: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Stored windows, uint8 [N, S, S, 3] → what a network is evaluated on, float32 [N, 3, size, size], normalised."""
    images = resample(sources, preprocessing.size, padding=preprocessing.padding)
    return normalise(images, preprocessing.mean, preprocessing.std)


class Batches:
    """Batches of a store on the device: images float32 [B, 3, size, size], channels last; labels int64 [B]; indices [B].

    With ``augment_seed`` the images come shuffled and augmented as a function of (seed, epoch, index), and a last batch that is
    not full is left out, so that every step has the same shape; without it, in order, all of them, unchanged. Of several
    ``ranks`` each gets every Nth batch of the same order to train on, and to evaluate the Nth part of the list.
    With an ``augmentation`` that mixes images the labels are the shares of the ``classes``, float32 [B, K].
    """

    def __init__(
        self,
        store: Store,
        labels: np.ndarray,
        preprocessing: Preprocessing,
        batch_size: int,
        device: torch.device,
        augment_seed: int | None = None,
        ranks: Ranks = ALONE,
        augmentation: str = STANDARD,
        classes: int = 0,
    ) -> None:
        self.augmentation, self.classes = augmentation, classes
        self.store, self.preprocessing, self.device, self.seed, self.ranks = (
            store,
            preprocessing,
            device,
            augment_seed,
            ranks,
        )
        self.count = len(store.rows)
        self.batch_size = min(batch_size, self.count)
        self.epoch = 0
        self.begin = (
            0  # how many of this rank's batches of the epoch are passed over: where an interrupted epoch goes on
        )
        self.size = preprocessing.size
        # Whatever a step needs lies on the device before the first one: a copy within the step would make a GPU wait.
        self.labels = torch.from_numpy(labels).to(device)
        self.mean, self.std = (
            torch.tensor(values, device=device) for values in (preprocessing.mean, preprocessing.std)
        )
        self.copies: torch.cuda.Stream | None = None
        self.resident = None
        if fits_on(device, store.images.nbytes):
            self.resident = torch.empty(store.images.shape, dtype=torch.uint8, device=device)
            for begin in range(0, len(store.images), 1024):  # the whole at once would lie in both memories
                part = slice(begin, begin + 1024)
                self.resident[part] = torch.from_numpy(np.array(store.images[part]))
            print(
                f"images: {self.count:,} kept on the {device.type}, {store.images.nbytes / 2**30:.2f} GiB of its memory"
            )

    def numbers(self) -> range:
        """Which of an epoch's batches are this rank's."""
        rank, ranks = self.ranks.rank, self.ranks.count
        if self.seed is not None:
            whole = self.count // self.batch_size
            return range(rank, whole - whole % ranks, ranks)
        whole = -(-self.count // self.batch_size)
        each = -(-whole // ranks)
        return range(min(rank * each, whole), min((rank + 1) * each, whole))

    def __len__(self) -> int:
        """Batches per epoch, of this rank."""
        return len(self.numbers())

    def windows(self, rows: Tensor) -> Tensor:
        """These rows of the store, uint8 [B, S, S, 3], on the device; ``rows`` lie there too where the store does."""
        if self.resident is not None:
            return self.resident[rows]
        return torch.from_numpy(self.store.images[rows.numpy()]).to(self.device)

    def streamed(self, rows: Tensor, parts: Iterable[slice]) -> Iterator[Tensor]:
        """:meth:`windows` of one part of ``rows`` after another. Those that come from the store to a GPU are gathered by a thread
        and copied from pinned memory, on a stream of their own, while the GPU works on the ones before."""
        if self.resident is not None or self.device.type != "cuda":
            yield from (self.windows(rows[part]) for part in parts)
            return
        if self.copies is None:
            self.copies = torch.cuda.Stream(self.device)  # one: each keeps memory of its own
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

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        order = np.arange(self.count) if self.seed is None else permutation(self.seed, self.epoch, self.count)
        mixing = "" if self.seed is None else "".join(parts_of(self.augmentation) & {"mixup", "cutmix"})
        if mixing:  # the last image is mixed with the first
            order = np.append(order, order[:1])
        draws: list[Tensor | None] = [None, None, None]
        if self.seed is not None:
            each = drawn(self.seed, self.epoch, order, self.augmentation)
            draws = [draw if draw is None else draw.to(self.device) for draw in each]
        shares = None
        if mixing and self.seed is not None:
            shares = draw_mix(mixing, self.seed, self.epoch, order).to(self.device)
        labels = self.labels[torch.from_numpy(order).to(self.device)]
        rows = torch.from_numpy(self.store.rows[order]).to(self.device if self.resident is not None else "cpu")
        starts = [number * self.batch_size for number in self.numbers()[self.begin :]]
        taken = [slice(start, start + self.batch_size + bool(mixing)) for start in starts]
        for start, part, images in zip(starts, taken, self.streamed(rows, taken), strict=True):
            batch = slice(start, start + self.batch_size)
            geometry, shift, colour = (draw if draw is None else draw[part] for draw in draws)
            images = transform(images, self.size, geometry, shift, colour, self.preprocessing.padding)
            targets = labels[batch]
            if shares is not None:
                images, targets = mix(mixing, images, one_hot(labels[part], self.classes), shares[batch])
            yield normalise(images, self.mean, self.std), targets, order[batch]


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
