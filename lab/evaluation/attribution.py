"""Attributions: maps of the evidence for a class in an image, computed by captum.

A positive value is evidence for the class, a negative one evidence against it. Except in Grad-CAM, values are shares of the
class's logit, summed over the colour channels. Where a method needs an image without information, it is of one colour: black if
the images are of cells on black, else the mean colour of the training images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from captum.attr import DeepLiftShap, GradientShap, IntegratedGradients, LayerAttribution, Occlusion
from torch import Tensor, fx, nn
from torch.nn import functional

from lab.data.augmentation import normalise
from lab.data.preprocessing import Preprocessing
from lab.evaluation.gradcam import explain
from lab.evaluation.inference import for_prediction, outputs
from lab.hardware import Hardware

TITLES = {
    "gradcam": "Grad-CAM",
    "integrated_gradients": "Integrated Gradients",
    "gradient_shap": "GradientShap",
    "deep_lift_shap": "DeepLiftShap",
    "occlusion": "Occlusion",
}
STEPS = 32  # points on the path of Integrated Gradients
SAMPLES = 4  # random points of GradientShap for each training image
GRADIENTS = 8  # images at once in methods with gradients, whose activations are kept
WINDOWS = 8  # of Occlusion, along a side; each is moved by half its width
PARALLEL = 64  # occluded images at once


@dataclass(frozen=True)
class Explainer:
    """A network with the inputs of the attribution methods.

    Attributes:
        network: in evaluation mode, on the device.
        stages: the layers that Grad-CAM tries (lab/evaluation/gradcam.py); empty if the network has no feature maps.
        background: training images [B, 3, S, S], normalised, for GradientShap and DeepLiftShap; None without these.
        empty: the colour of an image without information, normalised, [1, 3, 1, 1]; None is the mean colour, 0.
    """

    network: nn.Module
    hardware: Hardware
    stages: Sequence[str] = ()
    background: Tensor | None = None
    empty: Tensor | None = None

    @cached_property
    def fast(self) -> nn.Module:
        """The network optimised for inference, for methods without gradients."""
        return for_prediction(self.network, self.hardware)

    @cached_property
    def unshared(self) -> nn.Module:
        """The network as DeepLift needs it."""
        return unshared(self.network)

    def logits(self, images: Tensor) -> Tensor:
        """Logits [N, K] of normalised images [N, 3, S, S], for methods with gradients."""
        with self.hardware.autocast():
            logits: Tensor = self.network(images)
        return logits.float()

    def nothing(self, image: Tensor) -> Tensor:
        """An image without information, of the shape [1, 3, S, S] of ``image``."""
        return torch.zeros_like(image) if self.empty is None else self.empty.to(image.device).expand_as(image)

    def missing(self) -> dict[str, str]:
        """The methods that cannot explain this network, each with the reason."""
        found = {}
        if not self.stages:
            found["gradcam"] = "the network has no feature maps"
        if any(isinstance(module, nn.GELU | nn.LayerNorm) for module in self.network.modules()):
            found["deep_lift_shap"] = "DeepLift has no rule for GELU and attention"
        return found

    def attribute(self, method: str, image: Tensor, label: int) -> np.ndarray:
        """The attribution, float32 [S, S], of a normalised image [1, 3, S, S] for class ``label`` by one of ``TITLES``."""
        attributed: Tensor = getattr(self, method)(image, label).detach().float()
        return attributed.sum(dim=1)[0].cpu().numpy()

    def gradcam(self, image: Tensor, label: int) -> Tensor:
        """Grad-CAM averaged over D4, as on the demo's page: at the deepest of the stages that finds evidence. Its scale is
        arbitrary."""
        for stage in self.stages:
            _, cam = explain(self.network, image, label, stage, self.hardware, False)
            if cam.max() > 0:
                break
        return LayerAttribution.interpolate(cam.relu(), image.shape[2:], "bicubic").clamp(min=0)

    def integrated_gradients(self, image: Tensor, label: int) -> Tensor:
        """Integrated Gradients (Sundararajan et al. 2017, arXiv 1703.01365) from an image without information."""
        return IntegratedGradients(self.logits).attribute(
            image, self.nothing(image), label, n_steps=STEPS, internal_batch_size=GRADIENTS
        )

    def gradient_shap(self, image: Tensor, label: int) -> Tensor:
        """GradientShap without noise, which is expected gradients (Erion et al. 2021, arXiv 1906.10670): the mean gradient at
        random points between the image and training images, each of which is used equally often."""
        assert self.background is not None
        method = GradientShap(self.logits)
        with seeded(self.hardware.device):
            parts = [method.attribute(image, one, SAMPLES, target=label) for one in self.background.split(1)]
        return torch.stack(parts).mean(dim=0)

    def deep_lift_shap(self, image: Tensor, label: int) -> Tensor:
        """DeepLIFT (Shrikumar et al. 2017, arXiv 1704.02685) averaged over training images as references (Lundberg and Lee 2017,
        arXiv 1705.07874, §4.2)."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting forward, backward hooks", UserWarning)  # captum removes them
            assert self.background is not None
            # captum takes no single reference, so that a single one is used twice.
            many = self.background if len(self.background) > 1 else self.background.repeat(2, 1, 1, 1)
            method, parts = DeepLiftShap(self.unshared), many.tensor_split(max(1, 2 * len(many) // GRADIENTS))
            found = [len(part) * method.attribute(image, part, label) for part in parts]
        return torch.stack(found).sum(dim=0) / len(many)

    def occlusion(self, image: Tensor, label: int) -> Tensor:
        """The change of the logit if a square has no information (Zeiler and Fergus 2014, arXiv 1311.2901, §4.2), averaged over
        the squares that cover a pixel."""
        side = max(2, image.shape[-1] // WINDOWS)

        def logits(images: Tensor) -> Tensor:
            return outputs(self.fast, images, self.hardware).float()

        with torch.no_grad():
            return Occlusion(logits).attribute(
                image,
                sliding_window_shapes=(3, side, side),
                strides=(3, side // 2, side // 2),
                target=label,
                baselines=self.nothing(image),
                perturbations_per_eval=PARALLEL,
            )


def empty_colour(preprocessing: Preprocessing) -> Tensor | None:
    """The colour of an image without information, normalised, [1, 3, 1, 1]; None for the mean colour."""
    black = torch.zeros(1, 3, 1, 1)
    return normalise(black, preprocessing.mean, preprocessing.std) if preprocessing.padding == "zeros" else None


@contextmanager
def seeded(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Random numbers of torch and numpy with a fixed seed; their states are restored afterwards."""
    state = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


class Tracer(fx.Tracer):
    """Traces a network for which every check of the input passes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Convolutions are not traced, also those that choose their algorithm by the shape of the input."""
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """The networks raise ``ValueError`` if a condition on the input holds."""
        return False


class PairwiseMax(nn.Module):
    """Max pooling by ReLUs: max(a, b) = a + relu(b − a), one pair after another. [N, C, H, W] → as :class:`torch.nn.MaxPool2d`.

    captum's DeepLift has a rule for max pooling that loses a part of the attribution, most if windows overlap (captum's issue
    1276). By its rule for ReLUs the attributions add up to the difference of the logits.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.side, self.stride, self.padding = map(whole, (pool.kernel_size, pool.stride, pool.padding))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(self.side**2 - 1))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = ((size + 2 * self.padding - self.side) // self.stride + 1 for size in x.shape[2:])
        # Padded with the least activation of the batch, which is never above one of its window.
        x = functional.pad(x, (self.padding,) * 4, value=float(x.detach().amin()))
        shifts = product(range(self.side), repeat=2)
        slices = [x[:, :, down :: self.stride, right :: self.stride] for down, right in shifts]
        most, *others = (part[:, :, :rows, :columns] for part in slices)
        for relu, other in zip(self.relus, others, strict=True):
            most = most + relu(other - most)
        return most


def whole(size: int | tuple[int, ...]) -> int:
    """The side of a square window, its stride or padding."""
    return size if isinstance(size, int) else size[0]


def unshared(network: nn.Module) -> nn.Module:
    """A copy of a network for DeepLift; the weights are shared.

    DeepLift's hooks need a separate module for each ReLU, which must not work in place. Max pooling becomes :class:`PairwiseMax`.
    """
    graph = Tracer().trace(network)
    copied = fx.GraphModule(network, graph)
    for number, node in enumerate(graph.nodes):
        name, module = f"unshared_{number}", copied.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.MaxPool2d):
            copied.add_submodule(name, PairwiseMax(module))
        elif isinstance(module, nn.ReLU) or node.target in ("relu", torch.relu, functional.relu):
            copied.add_submodule(name, nn.ReLU())
        else:
            continue
        node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}
    copied.recompile()
    return copied.eval()
