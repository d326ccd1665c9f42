"""Grad-CAM heat maps, computed by captum (Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization, §3, arXiv 1610.02391).

A map is averaged over the eight flips and quarter turns of D4, each turned back. A cell has no orientation, so all eight are
equally valid, and the average reduces the artefacts of a coarse feature map: at 64 px a ResNet's last stage has 2 × 2 values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn

from lab.evaluation.inference import dihedral, outputs
from lab.hardware import Hardware

MIN_SIDE = 4  # smallest side of a feature map that can locate anything
OPACITY = 0.75  # of the overlay at the highest value


def usable_stages(stages: Mapping[str, int], size: int) -> list[str]:
    """The ``stages`` of a model (models/catalog.py) with a feature map of ``MIN_SIDE`` or more for an input of ``size`` px."""
    return [stage for stage, step in stages.items() if math.ceil(size / step) >= MIN_SIDE]


def stages_to_try(stages: Mapping[str, int], size: int) -> list[str]:
    """The stages at which a map is computed, one after the other until it has a positive value: the usable ones, or the finest if
    none is usable."""
    return usable_stages(stages, size) or list(stages)[-1:]


def explain(
    network: nn.Module, image: Tensor, label: int | None, stage: str, hardware: Hardware, d4: bool
) -> tuple[np.ndarray, Tensor]:
    """Class probabilities float32 [K] of an input [1, 3, S, S], averaged over D4 if ``d4``, and the Grad-CAM map before its ReLU,
    float32 [1, 1, n, n], for class ``label`` (default: the most probable) at the output of ``stage``, in one pass."""
    rows = np.zeros(0)

    def score(views: Tensor) -> Tensor:
        nonlocal rows
        with hardware.autocast():
            logits = network(views.detach()).float()  # the gradient is needed only from the stage on
        shares = logits.detach().softmax(dim=1)
        rows = (shares.mean(dim=0) if d4 else shares[0]).cpu().numpy()
        return logits[:, int(rows.argmax()) if label is None else label]

    layer = network.get_submodule(stage)
    views = torch.cat(dihedral(image)).contiguous(memory_format=torch.channels_last)
    with torch.enable_grad(), layer.register_forward_hook(lambda _module, _input, output: output.requires_grad_()):
        maps = LayerGradCam(score, layer).attribute(views).detach().float()
    hardware.threads.after_step(lambda: outputs(network, views, hardware), len(views))
    return rows, torch.stack(undo_dihedral(maps)).mean(dim=0)


def undo_dihedral(maps: Tensor) -> list[Tensor]:
    """Turn the maps [8, C, n, n] of the views of :func:`lab.evaluation.inference.dihedral` back: eight of [1, C, n, n]."""
    back = [torch.rot90(view[None], -(number % 4), (2, 3)) for number, view in enumerate(maps)]
    return back[:4] + [view.flip(3) for view in back[4:]]


def heat_map(cam: Tensor, side: int) -> np.ndarray:
    """A map [1, 1, n, n] after ReLU, bicubic interpolation and division by its maximum: float32 [side, side] in 0…1, all 0 if no
    value is positive."""
    fine = LayerAttribution.interpolate(cam.relu(), (side, side), "bicubic")[0, 0].clamp(min=0).cpu().numpy()
    peak = float(fine.max())
    return fine / peak if peak > 0 else np.zeros_like(fine)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend a heat map, float [S, S] in 0…1, over an image uint8 [S, S, 3]. The image is drawn in grey, because the stains of
    blood smears have the colours of common colour maps."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
    # The lightness of inferno increases, so it can be printed in grey.
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    opacity = OPACITY * heat[..., None]
    return ((1 - opacity) * grey[..., None] + opacity * colours).round().clip(0, 255).astype(np.uint8)
