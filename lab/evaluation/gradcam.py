"""Where a network looked: Grad-CAM (Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization, §3, arXiv 1610.02391), computed by captum.

The map is the mean over the eight flips and quarter turns, each turned back. A cell has no up, so all eight are as good, and
the mean loses the noise of the places' coarse grid: at 64 px a ResNet's last stage has 2 × 2 of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn

from lab.evaluation.inference import dihedral
from lab.hardware import Hardware

FEWEST = 4  # places along a side of which a map can still tell where
STRENGTH = 0.75  # how much of the image the hottest colour hides


def telling_stages(stages: Mapping[str, int], size: int) -> list[str]:
    """Those of a model's ``stages`` (models/catalog.py) that tell where in an input of ``size`` px: with places enough."""
    return [stage for stage, step in stages.items() if math.ceil(size / step) >= FEWEST]


def explain(
    network: nn.Module, image: Tensor, label: int | None, stage: str, hardware: Hardware, d4: bool
) -> tuple[np.ndarray, Tensor]:
    """One pass over an input [1, 3, S, S]: class probabilities float32 [K], averaged over D4 or not, and what speaks for class
    ``label``, or else for the most probable one, at the output of a ``stage``: float32 [1, 1, n, n], negative against it."""
    rows = np.zeros(0)

    def score(views: Tensor) -> Tensor:
        nonlocal rows
        with hardware.autocast():
            logits = network(views.detach()).float()  # no gradient is needed, nor remembered, before the stage
        shares = logits.detach().softmax(dim=1)
        rows = (shares.mean(dim=0) if d4 else shares[0]).cpu().numpy()
        return logits[:, int(rows.argmax()) if label is None else label]

    layer = network.get_submodule(stage)
    views = torch.cat(dihedral(image)).contiguous(memory_format=torch.channels_last)
    with torch.enable_grad(), layer.register_forward_hook(lambda _module, _given, made: made.requires_grad_()):
        maps = LayerGradCam(score, layer).attribute(views).detach().float()
    return rows, torch.stack(undo_dihedral(maps)).mean(dim=0)


def undo_dihedral(maps: Tensor) -> list[Tensor]:
    """The eight maps [8, C, n, n] of :func:`lab.evaluation.inference.dihedral`'s views, each [1, C, n, n] as the image stood."""
    back = [torch.rot90(view[None], -(number % 4), (2, 3)) for number, view in enumerate(maps)]
    return back[:4] + [view.flip(3) for view in back[4:]]


def heat(places: Tensor, side: int) -> np.ndarray:
    """A map [1, 1, n, n] as what speaks for the class: float32 [side, side] from 0 to 1, enlarged smoothly; all 0 where nothing
    does."""
    fine = LayerAttribution.interpolate(places.relu(), (side, side), "bicubic")[0, 0].clamp(min=0).cpu().numpy()
    peak = float(fine.max())
    return fine / peak if peak > 0 else np.zeros_like(fine)


def overlay(image: np.ndarray, hot: np.ndarray) -> np.ndarray:
    """A heat map, float [S, S] from 0 to 1, over an image uint8 [S, S, 3], which is drawn in grey: the dyes of blood smears have
    the colours of every heat scale. Where it is cold nothing is hidden."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
    colours = matplotlib.colormaps["inferno"](hot)[..., :3] * 255  # from dark to light, also when printed in grey
    share = STRENGTH * hot[..., None]
    return ((1 - share) * grey[..., None] + share * colours).round().clip(0, 255).astype(np.uint8)
