"""Preprocessing of our own: find the cell, cut a square window at a fixed scale, scale it down, normalise.

Deterministic, and the same for train, valid and test. The window has the same side in pixels of the raw image for every
cell, because the size of a cell is a diagnostic fact: blasts are larger than normal lymphocytes. Scaling each cell to
fill the frame would throw that away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from lab.data.images import decode
from lab.data.lists import ImageList, problems_error

SIDES = ("window", "source", "size")
DARK = 8  # of 255: the brightest channel of a background pixel of the lab's images lies below (measured, 52 originals)


@dataclass(frozen=True)
class Preprocessing:
    """All that turns a raw image into a network input; saved in the checkpoint.

    ``window``: side of the square taken from the raw image, in its pixels. ``source``: side to which the window is scaled and
    at which it is stored, twice the final input, so that augmentation resamples from a higher resolution. ``size``: side
    of the network input. ``locate``: where the window lies, on the found ``cell`` or on the image's ``centre``. ``mean``,
    ``std``: per channel RGB, in 0…1.
    """

    window: int
    source: int
    size: int
    locate: Literal["cell", "centre"]
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    @property
    def padding(self) -> str:
        """What lies beyond a turned window, in torch's words: black around a cell on black, else the smear, reflected."""
        return "zeros" if self.locate == "cell" else "reflection"

    def mask(self, image: np.ndarray) -> np.ndarray | None:
        """The cell's pixels, bool [H, W], where the window is to lie on the cell and one is found."""
        return cell_mask(image) if self.locate == "cell" else None

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Raw RGB uint8 [H, W, 3] → the window, scaled to RGB uint8 [source, source, 3]."""
        mask = self.mask(image)
        x, y = window_corner(image, self.window, mask)
        square = cut(image, x, y, self.window, black=mask is not None)
        # Pillow's bicubic widens its kernel when it shrinks, so nothing aliases.
        return np.array(Image.fromarray(square).resize((self.source, self.source), Image.Resampling.BICUBIC))

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Preprocessing:
        """From plain data, as ``dataclasses.asdict`` gives it; ``KeyError``, ``TypeError`` or ``ValueError`` else."""
        if values["locate"] not in ("cell", "centre") or min(values[key] for key in SIDES) < 1:
            raise ValueError(f"not a preprocessing: {values}")
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (values["mean"], values["std"]))
        if not (all(map(math.isfinite, mean)) and all(0 < s < math.inf for s in std)):
            raise ValueError(f"not a preprocessing: {values}")
        window, source, size = (int(values[key]) for key in SIDES)
        return Preprocessing(window, source, size, values["locate"], mean, std)


def cell_mask(image: np.ndarray) -> np.ndarray | None:
    """The cell's pixels, bool [H, W], where it lies on a black background as in the lab's images; else None."""
    red, green, blue = np.moveaxis(image, 2, 0)
    bright = np.maximum(np.maximum(red, green), blue) >= DARK  # ten times as fast as a maximum over the last axis
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    # A smear's border is bright all around; a segmented cell that touches the border still leaves most of it black.
    if border.mean() > 0.5 or not bright.any():
        return None
    return bright


def window_corner(image: np.ndarray, window: int, mask: np.ndarray | None) -> tuple[int, int]:
    """Left and top of the window, in raw pixels; may lie outside the image. The fallback is the image's centre.

    The window is centred on the cell's centroid, not on its bounding box, which a thin smear of stain can stretch.
    """
    height, width = image.shape[:2]
    x, y = width / 2, height / 2
    if mask is not None:
        columns, rows = mask.sum(axis=0), mask.sum(axis=1)
        x = float((columns * (np.arange(width) + 0.5)).sum() / columns.sum())
        y = float((rows * (np.arange(height) + 0.5)).sum() / rows.sum())
    # Halves always up: round() takes them to the even side, and the window would follow a moved cell in jumps of 0 or 2 px.
    return math.floor(x - window / 2 + 0.5), math.floor(y - window / 2 + 0.5)


def cut(image: np.ndarray, x: int, y: int, side: int, black: bool = False) -> np.ndarray:
    """The square [side, side, 3] of ``image`` from (x, y) on.

    What lies outside is ``black``, or else the border's colour continued, which no network can take for an edge.
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
    """Side of the window and where it lies, measured on a sample of the training images, with the reason in words."""
    masks = [cell_mask(image) for image in images]
    boxes = [
        max(np.ptp(np.flatnonzero(m.any(0))), np.ptp(np.flatnonzero(m.any(1)))) + 1 for m in masks if m is not None
    ]
    if len(boxes) > len(images) / 2:
        side = round_up(np.percentile(boxes, 99) * 1.05)
        return side, "cell", f"cells on black: 99 % fit into {np.percentile(boxes, 99):.0f} px, plus 5 %"
    sides = [min(image.shape[:2]) for image in images]
    shortest = min(
        side for side in sides if 2 * side >= np.median(sides)
    )  # a stray thumbnail must not shrink the window
    if shortest < 8:
        return shortest, "centre", "images of a few pixels: the whole image"
    profile = stain_profile(images, shortest)
    inner = len(profile) // 8 + 1
    centre, border = profile[:inner].mean(), profile[-len(profile) // 8 :].mean()
    if centre <= 2 * border:  # also where nothing is stained at all
        return shortest, "centre", "whole smear fields, stained alike from centre to border: the whole image"
    # The cell ends where the stain has fallen nine tenths of the way to what lies around it; a pale middle is no end.
    radius = inner + int(np.argmax(profile[inner:] < border + 0.1 * (centre - border)))
    side = min(round_up(2 * radius * 1.4), shortest)
    return side, "centre", f"centred cells: stain falls off {radius} px from the centre, window 1.4 times that wide"


def round_up(value: float) -> int:
    """To the next multiple of 16."""
    return int(-(-value // 16) * 16)


def stain_profile(images: list[np.ndarray], side: int) -> np.ndarray:
    """Share of stained pixels over the distance from the centre (Chebyshev, in pixels), float [side // 2].

    Stained means at most Otsu's threshold in green (Otsu 1979): the dyes of blood smears absorb green most.
    """
    from skimage.filters import threshold_otsu  # takes half a second, and cells on black do not need it

    total = np.zeros((side, side))
    for image in images:
        height, width = image.shape[:2]
        green = cut(image, (width - side) // 2, (height - side) // 2, side)[..., 1]
        if green.min() < green.max():  # no threshold splits an image of one colour
            total += green <= threshold_otsu(green)
    distance = np.abs(np.arange(side) - (side - 1) / 2)
    ring = np.maximum(distance[:, None], distance[None]).astype(int).ravel()
    return np.bincount(ring, total.ravel() / len(images))[: side // 2] / np.bincount(ring)[: side // 2]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel, in 0…1, of uint8 images [N, S, S, 3]: exact, one image in memory at a time."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for image in images:
        for channel in range(3):
            counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = (share * levels).sum(axis=1)
    # A constant channel would divide by zero; one grey level is the least spread an 8-bit image can show.
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)).clip(1 / 255)
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


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
