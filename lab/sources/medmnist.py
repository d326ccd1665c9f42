"""Reading the arrays of a MedMNIST file (an ``.npz``; medmnist.com)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.errors import UserError
from lab.text import shown

MEDMNIST_PARTS = {"train": "train", "valid": "val", "test": "test"}  # our list's name: the file's
MOST_CLASSES = 10_000  # a larger label is no class but damage, and would be asked a name for each number below it


def medmnist_part(file: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """One part ("train", "val", "test") of a MedMNIST file: images, uint8 (N, H, W) or (N, H, W, 3), and labels, int64 (N,)."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if not (isinstance(images, np.ndarray) and isinstance(labels, np.ndarray)):
            raise ValueError("no arrays")
    except Exception as error:  # damaged archives raise nearly anything
        reason = shown(str(error)) or type(error).__name__
        raise UserError(f"{file} is not a MedMNIST .npz with {part}_images and {part}_labels: {reason}.") from error
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise UserError(
            f"{file}: {part}_images is {images.dtype} {images.shape}; only uint8 images can be used, "
            "grey (N, H, W) or RGB (N, H, W, 3)."
        )
    if not images.size:
        raise UserError(f"{file}: {part}_images holds no image.")
    if (
        labels.shape not in ((len(images), 1), (len(images),))
        or labels.dtype.kind not in "iu"
        or labels.min() < 0
        or labels.max() >= MOST_CLASSES
    ):
        raise UserError(
            f"{file}: {part}_labels is {labels.dtype} {labels.shape}; one class number per image, from 0 to "
            f"{MOST_CLASSES - 1:,}, is needed "
            "(a data set with several labels per image cannot be used)."
        )
    return images, labels.reshape(-1).astype(np.int64)
