"""Preprocessing: find the cell, crop a square window of a fixed size around it, scale it down, normalise.

It is deterministic, and the same for train, valid and test. The window has the same side in pixels of the raw image for every
cell, because size is a diagnostic feature: blasts are larger than normal lymphocytes. Scaling each cell to fill the image
would remove that feature.
"""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from lab.data.images import range_of, read_values, to_rgb
from lab.data.lists import ImageList, problems_error
from lab.threads import decoding_threads

NO_CELL = "of one colour, or without a cell on black"
SIDES = ("window", "source", "size")
DARK = 8  # of 255: every channel of a background pixel of the lab's images is below (measured on 52 originals)


@dataclass(frozen=True)
class Preprocessing:
    """The parameters that turn a raw image into a network input; saved in the checkpoint.

    ``window``: side of the square cropped from the raw image, in px. ``source``: side to which the window is scaled for the
    store, twice the network input, so that augmentation resamples from a higher resolution. ``size``: side of the network
    input. ``locate``: the centre of the window, the ``cell`` or the image's ``centre``. ``mean``, ``std``: per RGB channel, in
    0…1.
    """

    window: int
    source: int
    size: int
    locate: Literal["cell", "centre"]
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    white: float = 0  # greys of more than 8 bits: the value that becomes 255; 0 if the training images have 8 bits

    @property
    def padding(self) -> str:
        """The ``padding_mode`` of ``grid_sample`` beyond the window: zeros around a cell on black, else reflection."""
        return "zeros" if self.locate == "cell" else "reflection"

    def mask(self, image: np.ndarray) -> np.ndarray | None:
        """Return the cell's pixels, bool [H, W], or None if the window is not located on a cell."""
        return cell_mask(image) if self.locate == "cell" else None

    def shows_nothing(self, image: np.ndarray) -> bool:
        """Whether an image is of one colour or, if the data have cells on black, has no cell on black."""
        return self.mask(image) is None if self.locate == "cell" else bool((image == image[0, 0]).all())

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Crop the window of a raw image, RGB uint8 [H, W, 3], and scale it to [source, source, 3]."""
        mask = self.mask(image)
        x, y = window_corner(image, self.window, mask)
        square = cut(image, x, y, self.window, black=mask is not None)
        # Pillow's bicubic filter widens when it scales down, which avoids aliasing.
        return np.array(Image.fromarray(square).resize((self.source, self.source), Image.Resampling.BICUBIC))

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Preprocessing:
        """Inverse of ``dataclasses.asdict``; raises ``KeyError``, ``TypeError`` or ``ValueError`` for other values."""
        if values["locate"] not in ("cell", "centre") or min(values[key] for key in SIDES) < 1:
            raise ValueError(f"not a preprocessing: {values}")
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (values["mean"], values["std"]))
        if not (all(map(math.isfinite, mean)) and all(0 < s < math.inf for s in std)):
            raise ValueError(f"not a preprocessing: {values}")
        window, source, size = (int(values[key]) for key in SIDES)
        white = float(values.get("white", 0))  # not in checkpoints of earlier versions
        if not 0 <= white < math.inf:
            raise ValueError(f"not a preprocessing: {values}")
        return Preprocessing(window, source, size, values["locate"], mean, std, white)


def cell_mask(image: np.ndarray) -> np.ndarray | None:
    """Return the cell's pixels, bool [H, W], if the background is black as in the lab's images, else None."""
    red, green, blue = np.moveaxis(image, 2, 0)
    bright = np.maximum(np.maximum(red, green), blue) >= DARK  # ten times as fast as a maximum over the last axis
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    # The whole border of a smear is bright. A segmented cell may touch the border, but most of it is black.
    if border.mean() > 0.5 or not bright.any():
        return None
    return bright


def window_corner(image: np.ndarray, window: int, mask: np.ndarray | None) -> tuple[int, int]:
    """Return the left and top of the window in px of the raw image, which may be negative.

    The window is centred on the centroid of the mask, or on the image's centre without a mask. The centre of the bounding box
    is not used, because a thin streak of stain would move it.
    """
    height, width = image.shape[:2]
    x, y = width / 2, height / 2
    if mask is not None:
        columns, rows = mask.sum(axis=0), mask.sum(axis=1)
        x = float((columns * (np.arange(width) + 0.5)).sum() / columns.sum())
        y = float((rows * (np.arange(height) + 0.5)).sum() / rows.sum())
    # Round halves up. round() rounds them to even, so that a window would follow a moving cell in steps of 0 and 2 px.
    return math.floor(x - window / 2 + 0.5), math.floor(y - window / 2 + 0.5)


def cut(image: np.ndarray, x: int, y: int, side: int, black: bool = False) -> np.ndarray:
    """Return the square [side, side, 3] of ``image`` with its upper left corner at (x, y).

    Pixels outside the image are ``black``, or else copies of the nearest border pixel, which adds no edge.
    """
    height, width = image.shape[:2]
    if x >= 0 and y >= 0 and x + side <= width and y + side <= height:
        return np.ascontiguousarray(image[y : y + side, x : x + side])
    columns = np.clip(np.arange(x, x + side), 0, width - 1)
    rows = np.clip(np.arange(y, y + side), 0, height - 1)
    square = np.ascontiguousarray(image[rows[:, None], columns])
    if black:
        square[(np.arange(y, y + side) != rows)[:, None] | (np.arange(x, x + side) != columns)] = 0
    return square


def choose_window(images: list[np.ndarray]) -> tuple[int, Literal["cell", "centre"], str]:
    """Measure the window on a sample of the training images. Returns its side, what it is centred on, and the reason."""
    masks = [mask for mask in map(cell_mask, images) if mask is not None]
    boxes = [max(np.ptp(np.flatnonzero(mask.any(axis))) for axis in (0, 1)) + 1 for mask in masks]
    if len(boxes) > len(images) / 2:
        side = round_up(np.percentile(boxes, 99) * 1.05)
        return side, "cell", f"cells on black: 99 % fit into {np.percentile(boxes, 99):.0f} px, plus 5 %"
    sides = [min(image.shape[:2]) for image in images]
    shortest = min(side for side in sides if 2 * side >= np.median(sides))  # ignores a stray thumbnail
    if shortest < 8:
        return shortest, "centre", "images of a few pixels: the whole image"
    profile = stain_profile(images, shortest)
    inner = len(profile) // 8 + 1
    centre, border = profile[:inner].mean(), profile[-len(profile) // 8 :].mean()
    if centre <= 2 * border:  # also if nothing is stained
        return shortest, "centre", "whole smear fields, stained alike from centre to border: the whole image"
    # The cell ends where the stain has dropped by nine tenths towards the border's level, outside a pale middle.
    radius = inner + int(np.argmax(profile[inner:] < border + 0.1 * (centre - border)))
    side = min(round_up(2 * radius * 1.4), shortest)
    return side, "centre", f"centred cells: stain falls off {radius} px from the centre, window 1.4 times that wide"


def round_up(value: float) -> int:
    """Round up to a multiple of 16."""
    return int(-(-value // 16) * 16)


def stain_profile(images: list[np.ndarray], side: int) -> np.ndarray:
    """Return the fraction of stained pixels by distance from the centre (Chebyshev, in px), float [side // 2].

    A pixel is stained if its green channel is at most Otsu's threshold (Otsu 1979), because blood dyes absorb green most.
    """
    from skimage.filters import threshold_otsu  # takes half a second, and cells on black do not need it

    total = np.zeros((side, side))
    for image in images:
        height, width = image.shape[:2]
        green = cut(image, (width - side) // 2, (height - side) // 2, side)[..., 1]
        if green.min() < green.max():  # an image of one colour has no threshold
            total += green <= threshold_otsu(green)
    distance = np.abs(np.arange(side) - (side - 1) / 2)
    ring = np.maximum(distance[:, None], distance[None]).astype(int).ravel()
    return np.bincount(ring, total.ravel() / len(images))[: side // 2] / np.bincount(ring)[: side // 2]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the exact mean and standard deviation per channel, in 0…1, of uint8 images [N, S, S, 3], read one at a time."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for image in images:
        for channel in range(3):
            counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = (share * levels).sum(axis=1)
    # At least one grey level, because a constant channel would lead to a division by zero.
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)).clip(1 / 255)
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


def measure_white(images: ImageList) -> float:
    """Return the white for the brightest grey of more than 8 bits in a list. Images that are unreadable or that declare their
    white are skipped."""

    def brightest(path: Path) -> float:
        try:
            values, declared = read_values(path.read_bytes())
        except (OSError, ValueError):
            return 0
        return 0 if values.ndim == 3 or declared else float(values.max())

    with ThreadPoolExecutor(decoding_threads()) as pool:
        return range_of(max(pool.map(brightest, images.paths)))


def sample_images(images: ImageList, count: int = 200) -> tuple[list[np.ndarray], float]:
    """Read up to ``count`` images spread evenly over a list, and its white, which is 0 unless one of them is a grey of more than
    8 bits. Unreadable images are skipped here; the store reports them."""
    read, problems = [], []
    for index in np.unique(np.linspace(0, len(images) - 1, count).astype(int)):
        try:
            read.append(read_values(images.paths[index].read_bytes()))
        except (OSError, ValueError) as error:
            problems.append(images.problem(index, error))
    white = measure_white(images) if any(values.ndim == 2 and not declared for values, declared in read) else 0.0
    sample = []
    for values, declared in read:
        with contextlib.suppress(ValueError):
            sample.append(to_rgb(values, declared or white))
    if not sample:
        raise problems_error(f"{images.csv}: none of the sampled images can be used:", problems)
    return sample, white


def choose_preprocessing(train: ImageList, size: int, window: int | None = None) -> Preprocessing:
    """Return the preprocessing for a network input of ``size`` px, without mean and standard deviation. The window is the given
    one or is measured on the training images, and is printed with the reason."""
    sample, white = sample_images(train)
    if white:
        print(f"grey levels: 0 to {white:g} become 0 to 255, the range of the brightest grey in {train.csv.name}")
    side, locate, reason = choose_window(sample)
    if window:
        side, reason = window, "as asked"
    print(f"window: {side} px of the raw image around the {locate}, {reason}")
    return Preprocessing(side, 2 * size, size, locate, white=white)


def measured_preprocessing(train: ImageList, size: int = 64) -> Preprocessing:
    """Return the preprocessing for a network input of ``size`` px, with all parameters measured on a sample of the images."""
    images, white = sample_images(train)
    window, locate, _ = choose_window(images)
    preprocessing = Preprocessing(window, 2 * size, size, locate, white=white)
    mean, std = channel_statistics(np.stack([preprocessing.crop(image) for image in images]))
    return replace(preprocessing, mean=mean, std=std)
