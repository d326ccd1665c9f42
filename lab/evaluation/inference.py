"""Class probabilities by trained networks, with test-time augmentation (TTA) over D4."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lab.checkpoints.checkpoint import About
from lab.checkpoints.ensembles import Member
from lab.cpu.fused_inference import available, fuse_blocks
from lab.data.preprocessing import Preprocessing
from lab.distributed import ALONE, Ranks
from lab.errors import out_of_memory
from lab.hardware import Hardware
from lab.terminal import progress
from lab.text import percent

Feed = Iterable[tuple[Tensor, Tensor, np.ndarray]]


def dihedral(images: Tensor) -> list[Tensor]:
    """The eight views of square images [N, C, S, S] under the dihedral group D4: quarter turns of each mirror image."""
    return [torch.rot90(view, turns, (2, 3)) for view in (images, images.flip(3)) for turns in range(4)]


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """A copy with each batch norm fused into the convolution before it: the same function with fewer passes over memory. A batch
    norm registered directly after a convolution is assumed to take its output, as in every ResNet."""
    copied = copy.deepcopy(network).eval()
    for module in list(copied.modules()):
        for (first, convolution), (second, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(convolution, norm))
                setattr(module, second, nn.Identity())
    return copied.to(memory_format=torch.channels_last)


def for_prediction(network: nn.Module, hardware: Hardware) -> nn.Module:
    """A copy optimised for inference on this hardware; its outputs are the same up to rounding."""
    copied = folded(network)
    if hardware.device.type == "cpu" and hardware.precision == "bf16":
        for module in copied.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.bfloat16()  # once, instead of in every batch by autocast
    return fuse_blocks(copied) if available(hardware) else copied


@torch.no_grad()
def outputs(network: nn.Module, images: Tensor, hardware: Hardware) -> Tensor:
    """The network's output for one batch, without gradients."""
    with hardware.autocast():
        logits: Tensor = network(images.contiguous(memory_format=torch.channels_last))
    return logits


@torch.inference_mode()
def probabilities(network: nn.Module, images: Tensor, hardware: Hardware, d4: bool = False) -> Tensor:
    """Class probabilities float32 [N, K] of one batch; if memory runs out, the batch is split in halves."""
    try:
        views = dihedral(images) if d4 else [images]
        total = torch.zeros((), device=images.device)
        for view in views:
            logits = outputs(network, view, hardware)
            total = total + logits.float().softmax(dim=1)
            hardware.threads.after_step(
                lambda: outputs(network, images[: hardware.threads.images], hardware), len(images)
            )
        return total / len(views)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or len(images) == 1:
            raise
    # Outside the except block, because the exception keeps the tensors of the failed attempt alive.
    return torch.cat([probabilities(network, half, hardware, d4) for half in images.chunk(2)])


@torch.inference_mode()
def predict(
    network: nn.Module,
    batches: Feed,
    hardware: Hardware,
    d4: bool = False,
    title: str = "",
    ranks: Ranks = ALONE,
    total: int | None = None,
) -> np.ndarray:
    """Class probabilities, float32 [N, K], in the order of the batches, joined over all ``ranks``; with ``d4`` averaged over the
    eight views. ``total`` is the number of batches, needed if ``batches`` has no length."""
    network = for_prediction(network, hardware)
    parts: list[Tensor] = []
    for images, _, _ in progress(batches, title or "predicting", total, unit=" batches"):
        if not parts:
            hardware.threads.begin((title, images.shape[-1]))
        parts.append(probabilities(network, images, hardware, d4))
    return ranks.join_rows(torch.cat(parts).cpu().numpy() if parts else np.zeros((0, 0), np.float32))


def predict_members(
    members: Sequence[Member],
    feed: Callable[[Preprocessing], Feed],
    hardware: Hardware,
    d4: bool = False,
    title: str = "",
) -> np.ndarray:
    """Class probabilities averaged over the members, float32 [N, K]; ``feed`` makes the batches for a member's preprocessing."""
    each = [predict(network, feed(about.preprocessing), hardware, d4, title) for network, about in members]
    return np.mean(each, axis=0)


def decide_d4(about: About, asked: str, quiet: bool = False) -> bool:
    """Whether to average over D4: ``on``, ``off``, or for ``auto`` if that improved the result on valid after training; for an
    ensemble that was not evaluated as a whole, if it improved most members. Prints the decision."""
    plain, averaged = about.metrics.get("valid_accuracy"), about.metrics.get("valid_accuracy_d4")
    if asked != "auto":
        use, reason = asked == "on", "as asked"
    elif "d4_votes" in about.metrics:
        votes = int(about.metrics["d4_votes"])
        use = 2 * votes > about.members
        reason = f"on valid it helped {votes} of the {about.members} members; their average was not measured"
    elif plain is None or averaged is None:
        use, reason = False, "not measured, because the run has not ended"
    else:
        use = averaged > plain or (averaged == plain and about.metrics["valid_loss_d4"] < about.metrics["valid_loss"])
        reason = f"on valid {percent(averaged)} with it and {percent(plain)} without"
    if not quiet:
        print(f"{about.model}: D4 averaging {'on' if use else 'off'}, {reason}")
    return use


def score(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy (0…1) and mean cross-entropy (nats) of probabilities [N, K]."""
    picked = probabilities[np.arange(len(labels)), labels]
    return float((probabilities.argmax(axis=1) == labels).mean()), float(-np.log(picked.clip(1e-12)).mean())


def macro_scores(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 of probabilities [N, K], each a mean over the classes that ``labels`` [N] contain.

    The same as scikit-learn's macro averages, which metrics.csv has, except that the precision of a class that is never
    predicted is 0. Computed here because importing scikit-learn takes longer than validating a small list.
    """
    classes, predictions = probabilities.shape[1], probabilities.argmax(axis=1)
    hits = np.bincount(labels[predictions == labels], minlength=classes)
    real, predicted = (np.bincount(values, minlength=classes) for values in (labels, predictions))
    present = real > 0
    hits, real, predicted = hits[present], real[present], predicted[present]
    each = hits / predicted.clip(1), hits / real, 2 * hits / (real + predicted)
    precision, recall, f1 = (float(values.mean()) for values in each)
    return precision, recall, f1
