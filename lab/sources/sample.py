"""Generates sample images in the lab's format, so that every command works before the real data are there.

An image is 450×450 px, 24-bit BMP: one stained cell on pure black. Class 1 is a leukemia blast, class 0 a normal lymphocyte. They
differ as haematology teaches it (Bennett et al., Br J Haematol 33:451, 1976): a blast is larger, its outline more
indented, its chromatin fine and pale with one to three nucleoli, its nucleus nearly fills the cell; a lymphocyte's chromatin is
clumped and dark. Sizes and colours were measured on originals of C-NMC 2019.

Every feature of a cell is a noisy reading of one hidden number, its *blastness*, drawn from N(+d, 1) for a blast and N(−d, 1)
for a normal cell. The two overlap, so that no classifier, however good, can pass about Φ(d), here 97 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lab.files import replacing

SIZE = 450  # px, width and height of an image of the lab
WINDOW = 360  # px, the cell is drawn in this window: the widest real cell is 352 px
BLASTS = 0.68  # share of blasts, the lab's own
SEPARATION = 1.9  # d above: half the distance between the class means, in standard deviations
GENERATOR = 1  # raise it when the same seed gives other bytes than before
SPLITS = ("train", "valid", "test")

Array = NDArray[np.float32]

# Median RGB of real cells at the 2nd, 50th and 98th percentile of brightness, and what their out-of-focus rim adds.
# Shaped (3, 1, 1): pixels are painted as three planes, which numpy works through far faster than triples.
DARK, MIDDLE, PALE = (np.array(rgb, np.float32)[:, None, None] for rgb in ((44, 15, 63), (64, 23, 75), (92, 43, 88)))
CYTOPLASM = np.array((82, 52, 104), np.float32)[:, None, None]
RIM = np.array((26, 27, 27), np.float32)[:, None, None]

_axis = np.arange(WINDOW, dtype=np.float32) - (WINDOW - 1) / 2
_Y, _X = np.meshgrid(_axis, _axis, indexing="ij")
_AWAY = np.hypot(_X, _Y)
_DIRECTIONS = 2048  # an outline is a radius for each of so many directions: two to a pixel of the rim of a large cell
_DIRECTION = (((np.arctan2(_Y, _X) + np.pi) / math.tau * _DIRECTIONS).astype(np.intp)) % _DIRECTIONS


def draw(seed: int, split: str, index: int) -> tuple[NDArray[np.uint8], int]:
    """Draw image ``index`` of ``split`` ("train", "valid", "test"): RGB uint8 (450, 450, 3) and its label, 0 or 1.

    A function of its three arguments alone: neither the number of images made nor the order matters.
    """
    rng = default_rng((seed, SPLITS.index(split), index))
    label = int(rng.random() < BLASTS)
    blastness = rng.normal(SEPARATION if label else -SEPARATION)
    cell = _paint(rng, blastness)
    # The cell's centroid lies within a few pixels of the image's centre, as in the originals.
    centroid = np.array(ndimage.center_of_mass(cell.any(axis=2)))
    top, left = np.rint((SIZE - 1) / 2 - centroid + rng.normal(0, 1.5, 2).clip(-5, 5)).astype(int)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return image, label


def write(folder: Path, counts: dict[str, int], seed: int) -> Iterator[tuple[str, str, int]]:
    """Write ``counts[split]`` images of each split as ``folder/<split>/<index>.bmp``; yield (split, path in a list, label)."""

    def one(job: tuple[str, int]) -> tuple[str, str, int]:
        split, index = job
        image, label = draw(seed, split, index)
        with replacing(folder / split / f"{index}.bmp") as temporary:
            Image.fromarray(image).save(temporary)
        return split, f"./{split}/{index}.bmp", label

    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    # Threads draw while others wait for the disk; the rows come in order all the same.
    with ThreadPoolExecutor(4) as pool:
        yield from pool.map(one, jobs)


def _paint(rng: Generator, blastness: float) -> NDArray[np.uint8]:
    """Paint one cell into its bounding box: RGB uint8 (height, width, 3), zero outside the cell."""

    def reading(middle: float, slope: float, noise: float) -> float:
        return middle + slope * blastness + noise * rng.normal()

    radius = float(np.clip(reading(104, 6.5, 14.0), 66, 150))  # px
    irregular = float(np.clip(reading(0.5, 0.15, 0.18), 0.05, 1.2))
    ring = _outline(rng, radius, irregular)
    box, mask = _inside(ring)
    x, y, outline = _X[box], _Y[box], ring[_DIRECTION[box]]
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)

    def noise(sigma: float) -> Array:
        return _noise(rng, sigma, mask.shape)

    # Nucleus: the share of the cell's radius that it fills, slightly off centre; its edge is soft.
    share = float(np.clip(reading(0.935, 0.012, 0.022), 0.80, 0.99))
    dx, dy = rng.normal(0, 0.016 * radius), rng.normal(0, 0.016 * radius)
    beyond = (np.hypot(x - dx, y - dy) / (share * outline) - 1 + 0.02 * noise(14)) * radius  # px outside its edge
    nucleus = 1 / (1 + np.exp(np.clip(beyond / 2.2, -30, 30)))

    # Chromatin: fine grain, or coarse dark clumps. The slow shade across the cell and the pink speckles are no sign of class.
    clumping = 1 / (1 + np.exp(reading(0.0, 0.9, 0.8)))
    tone = reading(0.05, 0.08, 0.22) + 0.28 * noise(30) + 0.05 * noise(1.6)
    tone += clumping * 0.75 * (np.tanh(noise(5.5) + 0.4 * noise(3.0)) - 0.35)
    tone += (1 - clumping) * 0.13 * (noise(2.8) + noise(4.5))
    tone += rng.uniform(0.1, 0.6) * np.clip(noise(4.5) - 1.4, 0, 1.5)
    for _ in range(int(np.clip(np.rint(reading(0.9, 0.4, 0.6)), 0, 3))):
        tone += _nucleolus(rng, x, y, radius)

    pixels = nucleus * _colour(tone) + (1 - nucleus) * (CYTOPLASM + 2.5 * noise(5.0))
    # Out of focus towards the rim: a pale line that fades inwards, strong on one side and faint on the other.
    bright = rng.uniform(0, math.tau)
    strength = 0.6 + 0.5 * (x * math.cos(bright) + y * math.sin(bright)) / radius
    pixels += np.clip(strength, 0.1, 1.2) * np.exp(-depth / 3.0) * RIM
    pixels *= np.where(depth <= 1.0, np.float32(0.65), np.float32(1))
    # Stain and lamp differ between slides, in both classes alike.
    pixels *= np.exp(rng.normal(0, (0.05, 0.06, 0.03)) + rng.normal(0, 0.06)).astype(np.float32)[:, None, None]
    cell = np.clip(np.rint(pixels), 12, 255).astype(np.uint8) * mask
    return np.ascontiguousarray(cell.transpose(1, 2, 0))


def _outline(rng: Generator, radius: float, irregular: float) -> Array:
    """Outline of a cell: its radius in px in each of ``_DIRECTIONS`` directions."""
    angle = np.linspace(-np.pi, np.pi, _DIRECTIONS, endpoint=False)
    # A Fourier series: wave 2 makes an ellipse, the next ones lobes, the last the roughness that segmentation leaves.
    wave = np.arange(2, 48)
    size = np.where(wave == 2, 0.045, 0.055 * (0.6 + irregular) / (wave - 1) ** 1.15)
    spectrum = np.zeros(_DIRECTIONS // 2 + 1, complex)
    spectrum[wave] = size * rng.normal(size=len(wave)) * np.exp(1j * rng.uniform(0, math.tau, len(wave)))
    shape = np.fft.irfft(spectrum, norm="forward") / 2  # irfft adds to each wave its conjugate
    for _ in range(rng.poisson(0.3 + 1.6 * irregular)):  # indentations; about a third are small buds instead
        where, width = rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.28)
        height = rng.uniform(0.02, 0.06) if rng.random() < 0.35 else -irregular * rng.uniform(0.1, 0.4)
        away = (angle - where + np.pi) % math.tau - np.pi
        shape += height * np.exp(-0.5 * (away / width) ** 2)
    return np.clip(radius * (1 + shape), 0.35 * radius, 168).astype(np.float32)


def _inside(ring: Array) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The bounding box of an outline in the window, and the mask of the cell within it."""
    mask = ring[_DIRECTION] >= _AWAY
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return box, mask[box]


def _noise(rng: Generator, sigma: float, shape: tuple[int, ...]) -> Array:
    """Smooth Gaussian noise of unit variance, correlated over ``sigma`` px; drawn on a coarser grid where that is enough."""
    step = max(1, int(sigma / 1.4))
    small = rng.standard_normal([length // step + 2 for length in shape], dtype=np.float32)
    small = ndimage.gaussian_filter(small, sigma / step, mode="wrap", truncate=3.0)
    if step > 1:
        wide = Image.fromarray(small).resize((small.shape[1] * step, small.shape[0] * step), Image.Resampling.BICUBIC)
        small = np.asarray(wide)
    field = small[: shape[0], : shape[1]]
    return field / field.std()


def _nucleolus(rng: Generator, x: Array, y: Array, radius: float) -> Array:
    """A nucleolus, a pale spot in a slightly darker ring, as a change of tone at ``x``, ``y`` px from the centre."""
    away, angle, turn = radius * 0.62 * math.sqrt(rng.random()), rng.uniform(0, math.tau), rng.uniform(0, math.tau)
    size, flat, strength = rng.uniform(0.09, 0.16) * radius, rng.uniform(1.0, 1.35), rng.uniform(0.6, 1.1)
    x, y = x - away * math.cos(angle), y - away * math.sin(angle)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    square = np.minimum((along * along / flat + across * across * flat) / size**2, 9)  # 3 sizes away there is nothing
    ring = square - 2
    return strength * np.exp(-square * square) - 0.25 * np.exp(-ring * ring)


def _colour(tone: Array) -> Array:
    """Colour of a tone, −1 dark … 0 … +1 pale, by the measured colours of real nuclei: (H, W) → (3, H, W)."""
    tone = np.clip(tone, -1.3, 1.6)
    return MIDDLE + np.where(tone < 0, tone * (MIDDLE - DARK), tone * (PALE - MIDDLE))
