"""Augmentation of whole batches on the device, and the one resampling that training and evaluation share.

All geometry of an image (flip, rotation, scale, shift) is one affine map, sampled once, bilinearly, at twice the size of
the network input and then averaged down. Evaluation takes the same way unturned. So both are equally sharp; rotating at
the input's own size instead would blur the training images only.
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

PARTS = ("d4", "geometry", "colour", "mixup", "cutmix")  # of ``--augmentation``; the last two are lab/data/mixup.py's
STANDARD = "geometry,colour"

# Each choice has its reason; the kinds are those that Tellez et al. 2019 (arXiv 1902.06543, §3) found to carry a network
# from one laboratory's slides to another's.
# Zoom by ±10 %: less than the difference in size between blasts and normal cells (a quarter: bounding boxes of 246 and 198
# px, medians of 52 originals), so that size keeps its meaning.
SCALE = 0.10
# Move by ±5 % of the window: the found centre of a cell is off by less (15 of 352 px in the originals).
SHIFT = 0.05
# Gain of ±6 %: lamps and exposure differ between slides.
BRIGHTNESS = 0.06
# Optical density of each channel by ±12 %: stains differ in strength.
STAIN = 0.12
DRAWS = 9
# Evaluation samples this far off the pixels' centres. A turned grid meets the pixels anywhere, and bilinear sampling at
# an offset t from a pixel keeps less of the finest detail the nearer t is to ½; the mean of 2t(1 − t) over all t is ⅓,
# which this one t gives too. On the pixels themselves evaluation images would be a sixth sharper than training images.
OFFSET = (1 - math.sqrt(1 / 3)) / 2


Drawn = tuple[Tensor | None, Tensor | None, Tensor | None]


def parts_of(text: str) -> frozenset[str]:
    """The parts of an augmentation such as ``geometry,colour``, or of ``none``. Raises :class:`UserError` where there is no such
    part, or two exclude each other."""
    parts = frozenset() if text == "none" else frozenset(text.split(","))
    if not parts <= set(PARTS):
        raise UserError(
            f"--augmentation {text}: expected none, or some of {', '.join(PARTS)} with commas between them."
        )
    for one, other in (("d4", "geometry"), ("mixup", "cutmix")):
        if {one, other} <= parts:
            raise UserError(f"--augmentation {text}: {one} and {other} exclude each other; choose one.")
    return parts


def draw_augmentation(seed: int, epoch: int, indices: np.ndarray, augmentation: str = STANDARD) -> Drawn:
    """As :func:`affine`; what is not a part of the ``augmentation`` is None."""
    parts = parts_of(augmentation)
    geometry, shift, colour = affine(seed, epoch, indices)
    if "d4" in parts:  # the grid lies where evaluation's does
        return eighths(seed, epoch, indices), None, colour if "colour" in parts else None
    turned = "geometry" in parts
    return geometry if turned else None, shift if turned else None, colour if "colour" in parts else None


def eighths(seed: int, epoch: int, indices: np.ndarray) -> Tensor:
    """Draw one of the eight flips and quarter turns for each image: geometry [N, 2, 2]."""
    draw = torch.from_numpy(uniform(seed, epoch, indices, 2))
    quarter, mirror = (4 * draw[:, 0]).long(), torch.where(draw[:, 1] < 0.5, -1.0, 1.0)
    cosine, sine = torch.tensor([1.0, 0, -1, 0])[quarter], torch.tensor([0, 1.0, 0, -1])[quarter]
    return torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(-1, 2, 2)


def affine(seed: int, epoch: int, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the augmentation of each image: geometry [N, 2, 2] and shift [N, 2] of the sampling grid, colour [N, 4]
    (exponent of red, green, blue; gain)."""
    draw = torch.from_numpy(uniform(seed, epoch, indices, DRAWS))
    signed = 2 * draw - 1
    # D4 and free rotation together: a rotation by any angle, and a mirror image half of the time. A cell has no up, and a
    # microscope none either (Veeling et al. 2018, Rotation equivariant CNNs for digital pathology, arXiv 1806.03962).
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
    """uint8 [N, S, S, 3] → float32 [N, 3, size, size] in 0…1.

    A source twice too fine, or more, is first averaged down by a whole factor; then one bilinear sampling at twice the
    size, then the mean of 2×2 points. Without a geometry nothing is turned; without a shift the grid lies OFFSET off the pixels.
    Beyond the border lies what ``padding`` says: a smear continues as its ``reflection``, a cell on black as ``zeros``.
    A source that has the size already, as for weights from elsewhere, is left as it is where nothing is turned.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    if geometry is None and images.shape[1] == size:
        return pixels / 255
    if images.shape[1] >= 4 * size:
        pixels = functional.avg_pool2d(pixels, images.shape[1] // (2 * size))
    if geometry is None:
        geometry = torch.eye(2, device=images.device).expand(len(images), 2, 2)  # there: a copy would make a GPU wait
    if shift is None:
        # The grid's coordinates run from -1 to 1.
        shift = torch.full((len(images), 2), 2 * OFFSET / pixels.shape[-1], device=images.device)
    geometry, shift = geometry.to(images.device), shift.to(images.device)
    # The four points of each 2×2 are sampled in turn and added up, in half the time of sampling all and pooling.
    quarters = (
        functional.grid_sample(
            pixels, sampling_grid(geometry, shift, 2 * size, row, column, 2), padding_mode=padding, align_corners=False
        )
        for row in (0, 1)
        for column in (0, 1)
    )
    return reduce(Tensor.add_, quarters).div_(4 * 255)


def sampling_grid(geometry: Tensor, shift: Tensor, side: int, row: int = 0, column: int = 0, step: int = 1) -> Tensor:
    """The grid [N, side, side, 2] that ``torch.nn.functional.affine_grid`` gives for the same maps, several times faster:
    the map is linear, so its x and y parts are drawn once per row and column and added. Of it each ``step``-th row and column
    from ``row`` and ``column`` on."""
    line = (torch.arange(side, device=geometry.device) * 2 + 1) / side - 1
    across = line[None, column::step, None] * geometry[:, None, :, 0] + shift[:, None, :]  # [N, columns, 2]
    down = line[None, row::step, None] * geometry[:, None, :, 1]
    return across[:, None] + down[:, :, None]


def normalise(images: Tensor, mean: Tensor | tuple[float, ...], std: Tensor | tuple[float, ...]) -> Tensor:
    """Images in 0…1 → zero mean and unit variance over the training images, channels last in memory."""
    centre, spread = (torch.as_tensor(values, device=images.device).view(1, 3, 1, 1) for values in (mean, std))
    return ((images - centre) / spread).contiguous(memory_format=torch.channels_last)


def network_input(sources: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Stored windows, uint8 [N, S, S, 3] → what a network is evaluated on, float32 [N, 3, size, size], normalised."""
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
    """Random views, float32 [N, 3, size, size] in 0…1, of images uint8 [N, S, S, 3], drawn for (seed, epoch, index)."""
    return transform(images, size, *draw_augmentation(seed, epoch, indices, augmentation), padding)


def transform(
    images: Tensor,
    size: int,
    geometry: Tensor | None,
    shift: Tensor | None,
    colour: Tensor | None,
    padding: str = "reflection",
) -> Tensor:
    """The views that :func:`draw_augmentation` has drawn."""
    views = resample(images, size, geometry, shift, padding)
    if colour is None:
        return views
    colour = colour.to(images.device)[:, :, None, None]
    # By Beer and Lambert, x**a scales the optical density -log x by a. Black stays black, and a white smear white.
    return views.clamp_min(1e-4).log_().mul_(colour[:, :3]).exp_().mul_(colour[:, 3:]).clamp_(0, 1)


def to_uint8(images: Tensor) -> np.ndarray:
    """Images [N, 3, S, S] in 0…1 → uint8 [N, S, S, 3]."""
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
