"""Mixup and CutMix of whole batches: each image, and its label, is mixed with the next one in the epoch's order.

Mixup is Zhang et al. 2018 (arXiv 1710.09412, §2), CutMix Yun et al. 2019 (arXiv 1905.04899, §3). Partner, share and place are
functions of (seed, epoch, index), as all augmentation is, so that they hang neither on the batch size nor on where a run went on.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from lab.data.random_numbers import uniform

# λ is drawn from Beta(α, α). Mixup's authors found 0.1 to 0.4 to help on ImageNet (§3.1); CutMix' used 1, which is uniform.
MIXUP = 0.2


def draw_mix(kind: str, seed: int, epoch: int, indices: np.ndarray) -> Tensor:
    """For each image float32 [N, 3]: its own share λ of the mixture, and the centre (x, y in 0…1) of CutMix's box."""
    draw = uniform(seed ^ 0x313C, epoch, indices, 3)  # a stream of its own, apart from the geometry's and the order's
    if kind == "mixup":
        draw[:, 0] = betaincinv(MIXUP, MIXUP, draw[:, 0])
    return torch.from_numpy(draw)


def mix(kind: str, views: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each of ``views`` [N + 1, 3, S, S] but the last with the next one: images [N, 3, S, S] and the shares of the classes
    [N, K] of these. ``targets`` are labels int64 [N + 1] as one-hot rows [N + 1, K], ``drawn`` [N, 3] is of :func:`draw_mix`."""
    own, other = views[:-1], views[1:]
    share = drawn[:, 0].to(views.dtype)
    if kind == "mixup":
        kept = share[:, None, None, None]
    else:
        # A box of the share 1 - λ of the area, cut off at the border; the pixels that are left decide the label (§3.1, eq. 2).
        side = views.shape[-1]
        pixel = (torch.arange(side, device=views.device) + 0.5) / side
        half = (1 - share).sqrt()[:, None] / 2
        across, down = ((pixel - drawn[:, axis, None]).abs() < half for axis in (1, 2))
        kept = (~(down[:, :, None] & across[:, None, :]))[:, None].to(views.dtype)
        share = kept.mean(dim=(1, 2, 3))
    mixed = kept * own + (1 - kept) * other
    return mixed, share[:, None] * targets[:-1] + (1 - share[:, None]) * targets[1:]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels int64 [N] → float32 [N, K]."""
    return functional.one_hot(labels, classes).float()
