"""Mixup and CutMix of whole batches: each image and its label are mixed with the next one in the epoch's order.

Mixup is Zhang et al. 2018 (arXiv 1710.09412, §2), CutMix Yun et al. 2019 (arXiv 1905.04899, §3). Partner, λ and box are
functions of (seed, epoch, index). They depend neither on the batch size nor on where a run was resumed.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from lab.data.random_numbers import uniform

# λ is drawn from Beta(α, α). For mixup, α from 0.1 to 0.4 improved ImageNet (§3.1). CutMix uses α = 1, which is uniform.
MIXUP = 0.2


def draw_mix(kind: str, seed: int, epoch: int, indices: np.ndarray) -> Tensor:
    """Draw the parameters of each image, float32 [N, 3]: its weight λ, and the centre (x, y in 0…1) of CutMix's box."""
    draw = uniform(seed ^ 0x313C, epoch, indices, 3)  # another seed than the geometry's and the order's
    if kind == "mixup":
        draw[:, 0] = betaincinv(MIXUP, MIXUP, draw[:, 0])
    return torch.from_numpy(draw)


def mix(kind: str, images: Tensor, labels: Tensor, classes: int, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each of ``images`` [N + 1, 3, S, S] except the last with the next one. ``labels`` are int64 [N + 1], ``parameters``
    [N, 3] those of :func:`draw_mix`. Returns the images [N, 3, S, S] and the proportions of the classes, float32 [N, K]."""
    own, other = images[:-1], images[1:]
    weight = parameters[:, 0].to(images.dtype)
    if kind == "mixup":
        mask = weight[:, None, None, None]
    else:
        # The box has the area 1 - λ and is clipped at the border; the label's weights are those of the pixels (§3.1, eq. 2).
        side = images.shape[-1]
        pixel = (torch.arange(side, device=images.device) + 0.5) / side
        half = (1 - weight).sqrt()[:, None] / 2
        columns, rows = ((pixel - parameters[:, axis, None]).abs() < half for axis in (1, 2))
        mask = (~(rows[:, :, None] & columns[:, None, :]))[:, None].to(images.dtype)
        weight = mask.mean(dim=(1, 2, 3))
    targets = functional.one_hot(labels, classes).float()
    mixed = mask * own + (1 - mask) * other
    return mixed, weight[:, None] * targets[:-1] + (1 - weight[:, None]) * targets[1:]
