"""The training recipe: the settings of a run, its optimizer, learning rate, sizes, class weights and division of a batch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lab.cpu.sgd import SGD, total_norm
from lab.data.preprocessing import Preprocessing
from lab.distributed import Ranks
from lab.errors import UserError
from lab.hardware import Hardware
from models.catalog import find

# Peak learning rate and weight decay of each optimizer.
DEFAULTS = {"sgd": (0.05, 5e-4), "adamw": (0.001, 0.05), "adam": (0.001, 0.0), "rmsprop": (0.001, 0.0)}


@dataclass(frozen=True)
class Settings:
    """The settings of a run. A run resumes with the settings that it began with."""

    model: str
    size: int
    window: int
    progressive: bool
    augmentation: str
    epochs: int
    batch_size: int
    accumulate: int
    optimizer: str
    lr: float
    weight_decay: float
    warmup: float
    smoothing: float
    ema: float
    clip: float
    class_weights: str
    patience: int
    zero_init: bool
    seed: int


def divide(settings: Settings, ranks: Ranks, images: int, at_once: int | None = None) -> tuple[int, int]:
    """Divide a batch into parts. Returns the number of images of a part, and the number of parts that each process accumulates.

    There are ``--accumulate`` parts, or more if a part would otherwise exceed ``at_once``, the number of images that fit into
    memory. If the list has fewer ``images`` than a batch, all of them are one batch. Raises :class:`UserError` if the parts
    are not equal or a part has fewer than the two images that batch norm needs.
    """
    batch, parts = min(settings.batch_size, images), settings.accumulate

    def uneven() -> bool:
        return batch == settings.batch_size and batch % (parts * ranks.count) != 0

    if uneven() or batch < 2 * parts * ranks.count:
        raise UserError(
            f"--batch-size {settings.batch_size} cannot be divided into {parts * ranks.count} equal parts of 2 or more of the "
            f"{images} images (processes: {ranks.count}, --accumulate {settings.accumulate}); choose others."
        )
    while at_once is not None and parts <= batch and (batch // (parts * ranks.count) > at_once or uneven()):
        parts += 1
    if batch < 2 * parts * ranks.count:
        raise UserError(
            f"{settings.model} at {settings.size} px does not fit into the device's memory, even two images at once; choose a "
            f"smaller --size or --device cpu."
        )
    return batch // (parts * ranks.count), parts


def make_optimizer(network: nn.Module, settings: Settings, precision: str) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, AdamW, Adam or RMSprop. Norms and biases, the parameters of one dimension, have no weight decay
    (He et al. 2019, Bag of Tricks, arXiv 1812.01187, §3.1). Adam and RMSprop add it to the gradient, AdamW to the step."""
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return optimizer_of(settings.optimizer, groups, settings.lr, precision)


def optimizer_of(name: str, groups: list[dict[str, Any]], lr: float, precision: str) -> torch.optim.Optimizer:
    """One of ``DEFAULTS`` for groups of parameters; ``lr`` is for groups without their own."""
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, fused=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr)
    on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    # Fused SGD leaves its momentum uninitialised when fp16's loss scaler skips the first step.
    sgd = SGD if on_cpu else torch.optim.SGD
    return sgd(groups, lr=lr, momentum=0.9, nesterov=True, fused=precision != "fp16")


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale the gradients so that their common norm is at most ``limit`` (Pascanu et al. 2013, arXiv 1211.5063, §3.2).

    On the CPU nothing is multiplied by 1, which saves two passes over all gradients. On a GPU, reading the norm would make the
    program wait.
    """
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    on_cpu = all(gradient.device.type == "cpu" for gradient in gradients)
    norm = total_norm(gradients) if on_cpu else nn.utils.get_total_norm(gradients)
    if norm.device.type != "cpu" or not norm + 1e-6 <= limit:  # a norm that is no number is passed on too
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """The learning rate of a step, counted from the start of the run; an epoch has ``steps``. Linear warm-up (Goyal et al. 2017,
    arXiv 1706.02677, §2.2), then cosine decay to zero (Loshchilov and Hutter 2017, arXiv 1608.03983, §3)."""
    warmup = min(settings.warmup, settings.epochs / 2) * steps
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (settings.epochs * steps - warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


def size_at(epoch: int, settings: Settings) -> int:
    """Side of the training images in an epoch, in px. With ``progressive`` the first third of the epochs trains at half the size,
    at a quarter of the cost, and the second at three quarters (Tan and Le 2021, EfficientNetV2, arXiv 2104.00298, §4)."""
    if not settings.progressive:
        return settings.size
    share = (0.5, 0.75, 1.0)[3 * epoch // settings.epochs] if epoch + 1 < settings.epochs else 1.0
    return max(find(settings.model).least_input(settings.size), round(settings.size * share))


def class_weights(text: str, labels: np.ndarray, count: int, device: torch.device) -> Tensor | None:
    """The weights of the classes in the loss, float32 [K] or None. ``text`` is ``none``; ``balanced``, N / (K · images of the
    class); or K numbers separated by commas. Their mean over the training images is scaled to 1, so that the weighted loss of a
    batch can be divided by the number of its images, and the losses of its parts add up."""
    if text == "none":
        return None
    counts = np.bincount(labels, minlength=count)
    if text == "balanced":
        return scaled(len(labels) / (count * counts.clip(1)), counts, device)
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    within = len(values) == count and all(0 < value < math.inf for value in values)
    if not within or min(values) < 1e-30 * max(values):  # the smallest would underflow in float32
        raise UserError(f"--class-weights {text}: expected none, balanced, or {count} numbers above 0 such as 1.2,1.")
    return scaled(np.array(values), counts, device)


def scaled(weights: np.ndarray, counts: np.ndarray, device: torch.device) -> Tensor:
    """Class weights with a mean of 1 over the images; ``counts`` are the images of each class."""
    weights = weights / weights.max()
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32, device=device)


def chosen_settings(
    model: str, args: argparse.Namespace, given: dict[str, Any], hardware: Hardware, final: Preprocessing
) -> Settings:
    """The settings of a new run: the options ``given``, else the defaults of the model, else those of train.py."""
    recipe = find(model).recipe
    options = {**vars(args), **recipe, **given}
    if options["optimizer"] != recipe.get("optimizer", "sgd"):  # the model's values are for its own optimizer
        options |= {name: given.get(name) for name in ("lr", "weight_decay")}
    lr, decay = DEFAULTS[options["optimizer"]]
    # A small batch is as fast on a CPU, and more steps train better. A GPU needs a larger batch to be busy.
    defaults = {
        "size": final.size,
        "window": final.window,
        "progressive": False,
        "batch_size": 32 if hardware.device.type == "cpu" else 64,
        "lr": lr,
        "weight_decay": decay,
    }
    options |= {name: value for name, value in defaults.items() if options[name] is None}
    return Settings(**{name: options[name] for name in Settings.__dataclass_fields__} | {"model": model})
