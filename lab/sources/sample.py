"""Generates sample images in the lab's format, so that every command works without the real data.

An image is 450×450 px, 24-bit BMP: one stained cell on black. Class 1 is a leukemia blast, class 0 a normal lymphocyte. They
differ as described by Bennett et al. (Br J Haematol 33:451, 1976): a blast is larger, its outline is more indented, its
chromatin is fine and pale with one to three nucleoli, and its nucleus nearly fills the cell; a lymphocyte's chromatin is clumped
and dark. Sizes and colours were measured on originals of C-NMC 2019.

Every feature of a cell is a noisy function of a latent variable, *blastness*, drawn from N(+d, 1) for a blast and N(−d, 1) for a
normal cell. The distributions overlap, so that the best possible accuracy is about Φ(d), here 97 %.
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

SIZE = 450  # px, width and height of an image
WINDOW = 360  # px, the cell is drawn in this window; the widest real cell is 352 px
BLASTS = 0.68  # proportion of blasts, as in the lab's data
SEPARATION = 1.9  # d above: half the distance between the class means, in standard deviations
GENERATOR = 1  # version; increase it when the same seed gives other bytes than before
SPLITS = ("train", "valid", "test")
MARKER = "sample.json"  # beside the lists: marks generated images, and has the settings that they were drawn with

Array = NDArray[np.float32]

# Median RGB of real cells at the 2nd, 50th and 98th percentile of brightness, and the colour that an out-of-focus rim adds.
# Shape (3, 1, 1), because numpy processes three planes far faster than triples.
DARK, MIDDLE, PALE = (np.array(rgb, np.float32)[:, None, None] for rgb in ((44, 15, 63), (64, 23, 75), (92, 43, 88)))
CYTOPLASM = np.array((82, 52, 104), np.float32)[:, None, None]
RIM = np.array((26, 27, 27), np.float32)[:, None, None]

_axis = np.arange(WINDOW, dtype=np.float32) - (WINDOW - 1) / 2
_Y, _X = np.meshgrid(_axis, _axis, indexing="ij")
_AWAY = np.hypot(_X, _Y)
_DIRECTIONS = 2048  # number of directions in which an outline's radius is given: two per pixel of a large cell's rim
_DIRECTION = (((np.arctan2(_Y, _X) + np.pi) / math.tau * _DIRECTIONS).astype(np.intp)) % _DIRECTIONS


def draw(seed: int, split: str, index: int) -> tuple[NDArray[np.uint8], int]:
    """Draw image ``index`` of ``split`` ("train", "valid", "test"). Returns RGB uint8 (450, 450, 3) and the label, 0 or 1.

    The result depends on the three arguments only, not on the number or order of images.
    """
    rng = default_rng((seed, SPLITS.index(split), index))
    label = int(rng.random() < BLASTS)
    blastness = rng.normal(SEPARATION if label else -SEPARATION)
    cell = _paint(rng, blastness)
    # The cell's centroid is within a few pixels of the image's centre, as in the originals.
    centroid = np.array(ndimage.center_of_mass(cell.any(axis=2)))
    top, left = np.rint((SIZE - 1) / 2 - centroid + rng.normal(0, 1.5, 2).clip(-5, 5)).astype(int)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return image, label


def write_images(folder: Path, counts: dict[str, int], seed: int) -> Iterator[tuple[str, str, int]]:
    """Write ``counts[split]`` images of each split as ``folder/<split>/<index>.bmp``; yield (split, path in a list, label)."""

    def write_image(job: tuple[str, int]) -> tuple[str, str, int]:
        split, index = job
        image, label = draw(seed, split, index)
        with replacing(folder / split / f"{index}.bmp") as temporary:
            Image.fromarray(image).save(temporary)
        return split, f"./{split}/{index}.bmp", label

    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    # Some threads draw while others wait for the disk; map yields the rows in order.
    with ThreadPoolExecutor(4) as pool:
        yield from pool.map(write_image, jobs)


def _paint(rng: Generator, blastness: float) -> NDArray[np.uint8]:
    """Paint one cell into its bounding box. Returns RGB uint8 (height, width, 3), zero outside the cell."""

    def feature(mean: float, slope: float, noise: float) -> float:
        return mean + slope * blastness + noise * rng.normal()

    radius = float(np.clip(feature(104, 6.5, 14.0), 66, 150))  # px
    irregular = float(np.clip(feature(0.5, 0.15, 0.18), 0.05, 1.2))
    ring = _outline(rng, radius, irregular)
    box, mask = _inside(ring)
    x, y, outline = _X[box], _Y[box], ring[_DIRECTION[box]]
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)

    def noise(sigma: float) -> Array:
        return _noise(rng, sigma, mask.shape)

    # Nucleus: its radius relative to the cell's, slightly off centre, with a soft edge.
    share = float(np.clip(feature(0.935, 0.012, 0.022), 0.80, 0.99))
    dx, dy = rng.normal(0, 0.016 * radius), rng.normal(0, 0.016 * radius)
    beyond = (np.hypot(x - dx, y - dy) / (share * outline) - 1 + 0.02 * noise(14)) * radius  # px outside its edge
    nucleus = 1 / (1 + np.exp(np.clip(beyond / 2.2, -30, 30)))

    # Chromatin: fine grain, or coarse dark clumps. The gradual shading and the pink speckles do not depend on the class.
    clumping = 1 / (1 + np.exp(feature(0.0, 0.9, 0.8)))
    tone = feature(0.05, 0.08, 0.22) + 0.28 * noise(30) + 0.05 * noise(1.6)
    tone += clumping * 0.75 * (np.tanh(noise(5.5) + 0.4 * noise(3.0)) - 0.35)
    tone += (1 - clumping) * 0.13 * (noise(2.8) + noise(4.5))
    tone += rng.uniform(0.1, 0.6) * np.clip(noise(4.5) - 1.4, 0, 1.5)
    for _ in range(int(np.clip(np.rint(feature(0.9, 0.4, 0.6)), 0, 3))):
        tone += _nucleolus(rng, x, y, radius)

    pixels = nucleus * _colour(tone) + (1 - nucleus) * (CYTOPLASM + 2.5 * noise(5.0))
    # The out-of-focus rim: a pale line that fades inwards, strong on one side and weak on the other.
    bright = rng.uniform(0, math.tau)
    strength = 0.6 + 0.5 * (x * math.cos(bright) + y * math.sin(bright)) / radius
    pixels += np.clip(strength, 0.1, 1.2) * np.exp(-depth / 3.0) * RIM
    pixels *= np.where(depth <= 1.0, np.float32(0.65), np.float32(1))
    # Stain and lamp differ between slides, equally in both classes.
    pixels *= np.exp(rng.normal(0, (0.05, 0.06, 0.03)) + rng.normal(0, 0.06)).astype(np.float32)[:, None, None]
    cell = np.clip(np.rint(pixels), 12, 255).astype(np.uint8) * mask
    return np.ascontiguousarray(cell.transpose(1, 2, 0))


def _outline(rng: Generator, radius: float, irregular: float) -> Array:
    """Draw the outline of a cell: its radius in px in each of ``_DIRECTIONS`` directions."""
    angle = np.linspace(-np.pi, np.pi, _DIRECTIONS, endpoint=False)
    # A Fourier series: wave 2 makes an ellipse, the next ones lobes, the last ones the roughness of a segmentation.
    wave = np.arange(2, 48)
    size = np.where(wave == 2, 0.045, 0.055 * (0.6 + irregular) / (wave - 1) ** 1.15)
    spectrum = np.zeros(_DIRECTIONS // 2 + 1, complex)
    spectrum[wave] = size * rng.normal(size=len(wave)) * np.exp(1j * rng.uniform(0, math.tau, len(wave)))
    shape = np.fft.irfft(spectrum, norm="forward") / 2  # irfft adds the conjugate of each wave
    for _ in range(rng.poisson(0.3 + 1.6 * irregular)):  # indentations, or small buds in about a third of the cases
        where, width = rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.28)
        height = rng.uniform(0.02, 0.06) if rng.random() < 0.35 else -irregular * rng.uniform(0.1, 0.4)
        away = (angle - where + np.pi) % math.tau - np.pi
        shape += height * np.exp(-0.5 * (away / width) ** 2)
    return np.clip(radius * (1 + shape), 0.35 * radius, 168).astype(np.float32)


def _inside(ring: Array) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Return the bounding box of an outline in the window, and the mask of the cell in it."""
    mask = ring[_DIRECTION] >= _AWAY
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return box, mask[box]


def _noise(rng: Generator, sigma: float, shape: tuple[int, ...]) -> Array:
    """Smooth Gaussian noise of unit variance, correlated over ``sigma`` px; for a large sigma drawn on a coarser grid."""
    step = max(1, int(sigma / 1.4))
    small = rng.standard_normal([length // step + 2 for length in shape], dtype=np.float32)
    small = ndimage.gaussian_filter(small, sigma / step, mode="wrap", truncate=3.0)
    if step > 1:
        wide = Image.fromarray(small).resize((small.shape[1] * step, small.shape[0] * step), Image.Resampling.BICUBIC)
        small = np.asarray(wide)
    field = small[: shape[0], : shape[1]]
    return field / field.std()


def _nucleolus(rng: Generator, x: Array, y: Array, radius: float) -> Array:
    """Draw a nucleolus, a pale spot in a darker ring; returns the change of tone at ``x``, ``y`` px from the centre."""
    away, angle, turn = radius * 0.62 * math.sqrt(rng.random()), rng.uniform(0, math.tau), rng.uniform(0, math.tau)
    size, flat, strength = rng.uniform(0.09, 0.16) * radius, rng.uniform(1.0, 1.35), rng.uniform(0.6, 1.1)
    x, y = x - away * math.cos(angle), y - away * math.sin(angle)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    square = np.minimum((along * along / flat + across * across * flat) / size**2, 9)  # no effect beyond 3 sizes
    ring = square - 2
    return strength * np.exp(-square * square) - 0.25 * np.exp(-ring * ring)


def _colour(tone: Array) -> Array:
    """Map tones, −1 dark … 0 … +1 pale, to the measured colours of real nuclei: (H, W) → (3, H, W)."""
    tone = np.clip(tone, -1.3, 1.6)
    return MIDDLE + np.where(tone < 0, tone * (MIDDLE - DARK), tone * (PALE - MIDDLE))
