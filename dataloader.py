"""The lab's DataLoader: reads the images and labels that a CSV list names.

    from dataloader import LeukemiaLoader
    train = LeukemiaLoader(".", "train")            # > Found 7995 images...
    image, label = train[0]                         # float32 [3, size, size], normalised, and int

``getData(mode)`` and ``LeukemiaLoader(root, mode)`` are the lab's interface, one image at a time, for any
``torch.utils.data.DataLoader``. The commands train and predict with ``lab.data.batches.Batches``, which yields the same images:
they are decoded once into a store and augmented as whole batches on the device.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lab.data.augmentation import network_input
from lab.data.images import read_image
from lab.data.lists import read_data_set, read_list
from lab.data.preprocessing import Preprocessing, measured_preprocessing
from lab.errors import UserError

LABELLED = ("train", "valid")


def list_name(mode: str) -> str:
    """Return the list's name for a mode: ``train``, ``valid``, or ``resnet_50_test`` for ``resnet_50_test``, ``resnet50`` or
    ``test50``. Raises ``ValueError`` for any other mode; plain "test" does not name one of the three orders."""
    if mode in LABELLED:
        return mode
    match = re.fullmatch(r"(?:resnet_?|test_?)(\d+)(?:_test)?", mode)
    if not match:
        raise ValueError(
            f"unknown mode {mode!r}; use 'train', 'valid', or the test list of a depth: 'resnet_18_test', "
            f"'resnet_50_test', 'resnet_152_test'"
        )
    return f"resnet_{match[1]}_test"


def getData(mode: str, data: str | Path = "csv/lab3") -> tuple[list[str], list[int]] | list[str]:
    """The lab's function: returns paths and labels of ``train`` and ``valid``, or only the paths of a depth's test list."""
    images = read_list(read_data_set(data), list_name(mode), labelled=mode in LABELLED, check_files=False)
    return (images.ids, images.labels.tolist()) if mode in LABELLED else images.ids


class LeukemiaLoader(Dataset[tuple[Tensor, int] | Tensor]):
    """The lab's data set. Reads, preprocesses and normalises one image at a time, without augmentation.

    Args:
        root: folder that the paths in the list start from.
        mode: ``train``, ``valid`` or a depth's test list such as ``resnet_50_test``.
        data: the folder of lists, or a data set's name.
        preprocessing: as stored in a checkpoint; by default it is measured on the images of ``train.csv``.
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
        """Return image ``index`` as float32 [3, size, size], with its label if the list has labels."""
        try:
            source = self.preprocessing.crop(read_image(self.list.paths[index], self.preprocessing.white))
        except UserError as error:
            raise UserError(f"{self.list.csv.name} line {self.list.row(index)}: {error}") from None
        image = network_input(torch.from_numpy(source[None]), self.preprocessing)[0]
        return image if self.mode not in LABELLED else (image, int(self.label[index]))
