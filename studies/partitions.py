"""SHAP by partitions: Owen values by shap's PartitionExplainer (Lundberg and Lee 2017, arXiv 1705.07874).

The image is halved again and again. A part that is left out is inpainted from its surroundings (Telea 2004, An Image Inpainting
Technique Based on the Fast Marching Method, doi 10.1080/10867651.2004.10487596).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.data.augmentation import normalise, to_uint8
from lab.data.preprocessing import Preprocessing
from lab.evaluation.attribution import TITLES, Explainer
from lab.evaluation.inference import outputs

NAME = "partition_shap"
ALL_TITLES = TITLES | {NAME: "SHAP by partitions"}
EVALUATIONS = 300  # masked images for an attribution
PARALLEL = 64


def missing_packages() -> list[str]:
    """The optional packages that are not installed."""
    return [package for package in ("shap", "cv2") if find_spec(package) is None]


@dataclass(frozen=True, kw_only=True)
class PartitionExplainer(Explainer):
    """An explainer that also knows the method :data:`NAME`. Inputs have ``preprocessing.size`` px."""

    preprocessing: Preprocessing

    @cached_property
    def shap(self) -> Any:
        """shap's explainer of the logits of all classes."""
        import shap  # optional, and slow to import

        side = self.preprocessing.size
        return shap.PartitionExplainer(self.logits_of_pixels, shap.maskers.Image("inpaint_telea", (side, side, 3)))

    def logits_of_pixels(self, images: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] of images [N, S, S, 3], grey levels 0…255."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        batch = normalise(pixels, self.preprocessing.mean, self.preprocessing.std).to(self.hardware.device)
        return outputs(self.fast, batch, self.hardware).float().cpu().numpy()

    def pixels(self, image: Tensor) -> np.ndarray:
        """A normalised image [1, 3, S, S] as uint8 [S, S, 3]."""
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        return to_uint8(image.cpu() * std + mean)[0]

    def partition_shap(self, image: Tensor, label: int) -> Tensor:
        """SHAP values [1, 3, S, S] of a normalised image."""
        found = self.shap(
            self.pixels(image)[None], max_evals=EVALUATIONS, batch_size=PARALLEL, outputs=[label], silent=True
        )
        return torch.from_numpy(np.asarray(found.values[..., 0])).permute(0, 3, 1, 2)
