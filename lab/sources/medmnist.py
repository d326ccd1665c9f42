"""Reads the arrays of a MedMNIST file (``.npz``; medmnist.com)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.errors import UserError
from lab.text import shown

MEDMNIST_PARTS = {"train": "train", "valid": "val", "test": "test"}  # name of the list: name in the file
MAX_CLASSES = 10_000  # a larger label is damage; classes.csv would get a row for each number below it


def medmnist_part(file: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one part ("train", "val", "test"). Returns images, uint8 (N, H, W) or (N, H, W, 3), and labels, int64 (N,)."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if not (isinstance(images, np.ndarray) and isinstance(labels, np.ndarray)):
            raise ValueError("no arrays")
    except Exception as error:  # damaged archives raise nearly any exception
        reason = shown(str(error)) or type(error).__name__
        raise UserError(f"{file} is not a MedMNIST .npz with {part}_images and {part}_labels: {reason}.") from error
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise UserError(
            f"{file}: {part}_images is {images.dtype} {images.shape}; only uint8 images can be used, "
            "grey (N, H, W) or RGB (N, H, W, 3)."
        )
    if not images.size:
        raise UserError(f"{file}: {part}_images contains no image.")
    one_per_image = labels.shape in ((len(images), 1), (len(images),)) and labels.dtype.kind in "iu"
    if not (one_per_image and 0 <= labels.min() <= labels.max() < MAX_CLASSES):
        raise UserError(
            f"{file}: {part}_labels is {labels.dtype} {labels.shape}; one class number per image, from 0 to "
            f"{MAX_CLASSES - 1:,}, is needed (a data set with several labels per image cannot be used)."
        )
    return images, labels.reshape(-1).astype(np.int64)
