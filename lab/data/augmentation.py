"""Augmentation of whole batches on the device, and the resampling that training and evaluation share.

Flip, rotation, scale and shift of an image are one affine map. It is sampled once, bilinearly, at twice the size of the
network input and then averaged down. Evaluation images pass through the same resampling without rotation, so that both are
equally sharp; rotating at the size of the input would blur the training images only.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lab.data.preprocessing import Preprocessing
from lab.data.random_numbers import uniform
from lab.errors import UserError

PARTS = ("d4", "geometry", "colour", "mixup", "cutmix")  # of ``--augmentation``; the last two are in lab/data/mixup.py
STANDARD = "geometry,colour"

# The kinds of augmentation are those that improved transfer between laboratories' slides in Tellez et al. 2019 (arXiv
# 1902.06543, §3).
# Zoom by ±10 %: less than the size difference between blasts and normal cells (a quarter: bounding boxes of 246 and 198 px,
# medians of 52 originals), because size is a diagnostic feature.
SCALE = 0.10
# Shift by ±5 % of the window: the error of the measured cell centre is smaller (15 of 352 px in the originals).
SHIFT = 0.05
# Gain of ±6 %: lamps and exposure differ between slides.
BRIGHTNESS = 0.06
# Optical density of each channel by ±12 %: stains differ in strength.
STAIN = 0.12
DRAWS = 9
# Evaluation samples the image at this offset from the pixel centres, in pixels. Bilinear sampling at an offset t attenuates the
# finest detail by 2t(1 − t). A rotated grid has all offsets, with a mean attenuation of ⅓, and this t gives ⅓ too. Without the
# offset, evaluation images would be a sixth sharper than training images.
OFFSET = (1 - math.sqrt(1 / 3)) / 2


Parameters = tuple[Tensor | None, Tensor | None, Tensor | None]


def parts_of(text: str) -> frozenset[str]:
    """Split an augmentation such as ``geometry,colour`` or ``none`` into its parts. Raises :class:`UserError` if a part is
    unknown or two parts exclude each other."""
    parts = frozenset() if text == "none" else frozenset(text.split(","))
    if not parts <= set(PARTS):
        raise UserError(f"--augmentation {text}: expected none, or some of {', '.join(PARTS)}, separated by commas.")
    for first, second in (("d4", "geometry"), ("mixup", "cutmix")):
        if {first, second} <= parts:
            raise UserError(f"--augmentation {text}: {first} and {second} exclude each other; choose one.")
    return parts


def draw_augmentation(seed: int, epoch: int, indices: np.ndarray, augmentation: str = STANDARD) -> Parameters:
    """Draw the parameters as :func:`affine` does; those that the ``augmentation`` does not use are None."""
    parts = parts_of(augmentation)
    geometry, shift, stain = affine(seed, epoch, indices)
    colour = stain if "colour" in parts else None
    if "d4" in parts:  # without a shift, so that the grid has the same offset as in evaluation
        return draw_d4(seed, epoch, indices), None, colour
    return (geometry, shift, colour) if "geometry" in parts else (None, None, colour)


def draw_d4(seed: int, epoch: int, indices: np.ndarray) -> Tensor:
    """Draw one of the eight flips and quarter turns (D4) for each image: geometry [N, 2, 2]."""
    draw = torch.from_numpy(uniform(seed, epoch, indices, 2))
    quarter, mirror = (4 * draw[:, 0]).long(), torch.where(draw[:, 1] < 0.5, -1.0, 1.0)
    cosine, sine = torch.tensor([1.0, 0, -1, 0])[quarter], torch.tensor([0, 1.0, 0, -1])[quarter]
    return torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(-1, 2, 2)


def affine(seed: int, epoch: int, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the augmentation of each image: geometry [N, 2, 2] and shift [N, 2] of the sampling grid, colour [N, 4]
    (exponents of red, green and blue; gain)."""
    draw = torch.from_numpy(uniform(seed, epoch, indices, DRAWS))
    signed = 2 * draw - 1
    # A rotation by any angle, mirrored with probability ½: neither cells nor microscope slides have an upright orientation
    # (Veeling et al. 2018, Rotation equivariant CNNs for digital pathology, arXiv 1806.03962).
    angle, mirror = draw[:, 0] * 2 * math.pi, torch.where(draw[:, 1] < 0.5, -1.0, 1.0)
    scale = torch.exp(signed[:, 2] * math.log(1 + SCALE))
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    geometry = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(-1, 2, 2)
    shift = signed[:, 3:5] * 2 * SHIFT  # the grid's coordinates run from -1 to 1
    colour = torch.cat([torch.exp(signed[:, 5:8] * math.log(1 + STAIN)), 1 + signed[:, 8:9] * BRIGHTNESS], dim=1)
    return geometry, shift, colour


def resample(
    images: Tensor, size: int, geometry: Tensor | None = None, shift: Tensor | None = None, padding: str = "reflection"
) -> Tensor:
    """Resample images, uint8 [N, S, S, 3] → float32 [N, 3, size, size] in 0…1.

    If S is at least four times ``size``, the images are first averaged down by a whole factor. They are then sampled
    bilinearly at twice the size, and each 2×2 points are averaged. The default ``geometry`` is the identity, the default
    ``shift`` is OFFSET. ``padding`` is that of ``grid_sample``: ``reflection`` for a smear, ``zeros`` for a cell on black.
    Images of the right size are returned unchanged if there is no geometry, as for weights from elsewhere.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    if geometry is None and images.shape[1] == size:
        return pixels / 255
    if images.shape[1] >= 4 * size:
        pixels = functional.avg_pool2d(pixels, images.shape[1] // (2 * size))
    if geometry is None:
        geometry = torch.eye(2, device=images.device).expand(len(images), 2, 2)  # no copy, which would block the GPU
    if shift is None:
        # The grid's coordinates run from -1 to 1.
        shift = torch.full((len(images), 2), 2 * OFFSET / pixels.shape[-1], device=images.device)
    geometry, shift = geometry.to(images.device), shift.to(images.device)
    # Sampling the four points of each 2×2 one after another and adding them takes half the time of sampling all and pooling.
    grids = (sampling_grid(geometry, shift, 2 * size, row, column, 2) for row in (0, 1) for column in (0, 1))
    quarters = (functional.grid_sample(pixels, grid, padding_mode=padding, align_corners=False) for grid in grids)
    return reduce(Tensor.add_, quarters).div_(4 * 255)


def sampling_grid(geometry: Tensor, shift: Tensor, side: int, row: int = 0, column: int = 0, step: int = 1) -> Tensor:
    """Return the grid [N, side, side, 2] of ``torch.nn.functional.affine_grid``, several times faster: the map is linear, so
    its x and y terms are computed once per column and row and added. Only every ``step``-th row and column is returned,
    starting at ``row`` and ``column``. x and y are added as one complex number, which is several times faster on a CPU."""
    line = (torch.arange(side, device=geometry.device) * 2 + 1) / side - 1
    across = line[None, column::step, None] * geometry[:, None, :, 0] + shift[:, None, :]  # [N, columns, 2]
    down = line[None, row::step, None] * geometry[:, None, :, 1]
    return torch.view_as_real(torch.view_as_complex(across)[:, None] + torch.view_as_complex(down)[:, :, None])


def normalise(images: Tensor, mean: Tensor | tuple[float, ...], std: Tensor | tuple[float, ...]) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel; the result is channels last in memory."""
    mean, std = (torch.as_tensor(values, device=images.device).view(1, 3, 1, 1) for values in (mean, std))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def network_input(sources: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Convert stored windows, uint8 [N, S, S, 3], to the normalised input of a network, float32 [N, 3, size, size]."""
    images = resample(sources, preprocessing.size, padding=preprocessing.padding)
    return normalise(images, preprocessing.mean, preprocessing.std)


def augment(
    images: Tensor,
    size: int,
    seed: int,
    epoch: int,
    indices: np.ndarray,
    padding: str = "reflection",
    augmentation: str = STANDARD,
) -> Tensor:
    """Augment images, uint8 [N, S, S, 3] → float32 [N, 3, size, size] in 0…1; random in (seed, epoch, index)."""
    return transform(images, size, *draw_augmentation(seed, epoch, indices, augmentation), padding)


def transform(
    images: Tensor,
    size: int,
    geometry: Tensor | None,
    shift: Tensor | None,
    colour: Tensor | None,
    padding: str = "reflection",
) -> Tensor:
    """Augment images with the parameters that :func:`draw_augmentation` returns."""
    views = resample(images, size, geometry, shift, padding)
    if colour is None:
        return views
    colour = colour.to(images.device)[:, :, None, None]
    # By the Beer-Lambert law, x**a scales the optical density -log x by a. Black and white stay unchanged.
    return views.clamp_min(1e-4).log_().mul_(colour[:, :3]).exp_().mul_(colour[:, 3:]).clamp_(0, 1)


def to_uint8(images: Tensor) -> np.ndarray:
    """Images [N, 3, S, S] in 0…1 → uint8 [N, S, S, 3]."""
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
