"""Whether an explanation says anything about the network.

It must change if the weights are randomised (Adebayo et al. 2018, Sanity Checks for Saliency Maps, arXiv 1810.03292), and the
pixels that it marks must matter to the prediction (deletion and insertion: Petsiuk et al. 2018, RISE, arXiv 1806.07421, §4.2).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from skimage.filters import threshold_multiotsu
from torch import Tensor, nn
from torch.nn import functional

from lab.data.preprocessing import cell_mask
from lab.evaluation.attribution import Explainer, seeded
from lab.evaluation.inference import outputs

LEVELS = ("last layer", "last half of the layers", "all layers")  # whose weights are randomised
GRID = 16  # an image is deleted and inserted in GRID × GRID squares
STEPS = 16  # each of GRID squares
RANDOM_ORDERS = 5  # of the squares of an image
BLUR = 1 / 16  # standard deviation of the blurred image from which insertion starts, as a share of the side
BORDER = 1 / 32  # half the width of the border, as a share of the side
MOST_ALIKE = 0.5  # correlation below which a map depends on the weights
PLACES = ("cell", "border", "background")


# ---- randomised weights ----------------------------------------------------------------------------------------------------


def randomised(network: nn.Module, level: str, background: Tensor) -> nn.Module:
    """A copy of a network in which the values of each parameter of the layers of ``level``, one of ``LEVELS``, are shuffled.

    Shuffling keeps the distribution of the weights, so that no logit overflows and no initial weight is 0. The statistics of the
    norms among these layers are measured anew on ``background`` [B, 3, S, S], as they would be in training.
    """
    copied = copy.deepcopy(network)
    layers = [module for module in copied.modules() if [*module.parameters(recurse=False)]]
    count = {LEVELS[0]: 1, LEVELS[1]: math.ceil(len(layers) / 2), LEVELS[2]: len(layers)}[level]
    with seeded(background.device), torch.no_grad():
        for module in layers[-count:]:
            for values in module.parameters(recurse=False):
                values.copy_(values.flatten()[torch.randperm(values.numel(), device=values.device)].view_as(values))
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # the statistics are those of the whole background
                module.train()
        copied(background)
    return copied.eval()


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """The rank correlation of two maps [S, S], or that of their absolute values if it is larger; at least 0. NaN if a map is
    constant, as Grad-CAM is without evidence: nothing can be compared."""
    if not all(np.isfinite(values).all() and np.ptp(values) > 0 for values in (one, other)):
        return float("nan")
    found = [0.0]
    for first, second in ((one, other), (np.abs(one), np.abs(other))):
        if np.ptp(first) > 0 and np.ptp(second) > 0:
            found.append(float(stats.spearmanr(first.ravel(), second.ravel()).statistic))
    return max(found)


# ---- deletion and insertion ------------------------------------------------------------------------------------------------


def order_of(attribution: np.ndarray) -> np.ndarray:
    """The squares [GRID²] of a map [S, S] by their mean, the highest first."""
    means = functional.adaptive_avg_pool2d(torch.from_numpy(attribution)[None, None], GRID)
    return np.argsort(-means.numpy().ravel(), kind="stable")


def curves(explainer: Explainer, image: Tensor, label: int, order: np.ndarray) -> np.ndarray:
    """The probability of class ``label``, float [2, STEPS + 1], while squares of a normalised image [1, 3, S, S] are deleted in
    this order, and while they are inserted. A deleted square has no information; insertion starts from the blurred image."""
    side = image.shape[-1]
    rank = np.empty(GRID * GRID, int)
    rank[order] = np.arange(GRID * GRID)
    ranks = functional.interpolate(torch.from_numpy(rank.reshape(1, 1, GRID, GRID)).float(), size=(side, side))
    begun = torch.arange(STEPS + 1).view(-1, 1, 1, 1) * GRID**2 / STEPS
    reached = (ranks < begun).to(image.device)
    blurred = torch.from_numpy(gaussian_filter(image.cpu().numpy(), (0, 0, BLUR * side, BLUR * side))).to(image.device)
    views = torch.cat([torch.where(reached, explainer.nothing(image), image), torch.where(reached, image, blurred)])
    shares = outputs(explainer.fast, views, explainer.hardware).float().softmax(dim=1)[:, label]
    return shares.view(2, STEPS + 1).cpu().numpy()


def controls(explainer: Explainer, image: Tensor, label: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The same for orders that look at neither the network nor the image: ``random``, mean over ``RANDOM_ORDERS``, and from the
    ``centre`` outwards, where most cells are."""
    drawn = [curves(explainer, image, label, rng.permutation(GRID * GRID)) for _ in range(RANDOM_ORDERS)]
    y, x = np.mgrid[:GRID, :GRID] - (GRID - 1) / 2
    outwards = np.argsort(np.hypot(y, x).ravel(), kind="stable")
    return {"random": np.mean(drawn, axis=0), "centre": curves(explainer, image, label, outwards)}


def area(curve: np.ndarray) -> np.ndarray:
    """The area under curves [..., STEPS + 1], 0…1."""
    return np.asarray(np.trapezoid(curve, dx=1 / STEPS, axis=-1))


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of values [n] with its 95 % interval (Student's t)."""
    mean = float(values.mean())
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


# ---- where the attribution falls -------------------------------------------------------------------------------------------


def nucleus(image: np.ndarray) -> np.ndarray:
    """The cell on black, or in a smear the nuclei, bool [S, S] of an image uint8 [S, S, 3].

    Nuclei absorb green most: of three groups of the green channel (multi-level Otsu, Liao et al. 2001) they are the darkest. The
    others are red cells and background.
    """
    mask, green = cell_mask(image), image[..., 1]
    if mask is not None:
        return mask
    if len(np.unique(green)) < 3:
        return np.zeros(green.shape, bool)
    return np.asarray(green <= threshold_multiotsu(green, 3)[0])


def places(mask: np.ndarray) -> np.ndarray | None:
    """Masks bool [3, S, S] of ``PLACES`` from a mask [S, S] of the cell; None if one is empty."""
    width = max(1, round(BORDER * len(mask)))
    inside, around = binary_erosion(mask, iterations=width), binary_dilation(mask, iterations=width)
    found = np.stack([inside, around & ~inside, ~around])
    return found if found.any(axis=(1, 2)).all() else None


def shares(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The shares [3] of the absolute values of a map [S, S] in each of the masks [3, S, S]."""
    total = np.abs(values).sum()
    return np.asarray([np.abs(values[mask]).sum() / total for mask in where]) if total else np.full(3, np.nan)


# ---- the verdict -----------------------------------------------------------------------------------------------------------


def curve_table(drawn: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Curves [2, STEPS + 1] by method as a table: a row for each method and share of the image."""
    share = np.arange(STEPS + 1) / STEPS
    tables = [
        pd.DataFrame({"method": method, "share": share, "deletion": deletion, "insertion": insertion})
        for method, (deletion, insertion) in drawn.items()
    ]
    return pd.concat(tables, ignore_index=True)


def verdicts(
    alike: Mapping[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
    fallen: Mapping[str, np.ndarray],
    areas: np.ndarray,
) -> pd.DataFrame:
    """A row for each method: what was measured on n images, and whether the method passes.

    ``alike`` has correlations [n, 3] by method, NaN where there is none; ``drawn`` the curves [n, 2, STEPS + 1] of methods and
    controls; ``fallen`` the shares [n, 3] in ``PLACES``, and ``areas`` [n, 3] the shares of the image, NaN without a mask.

    A method passes if its maps are not like those of the network with all weights randomised, and if deletion by it is better
    than at random: the interval of the difference excludes 0.
    """
    rows = []
    for method, correlations in alike.items():
        row: dict[str, Any] = {"method": method, "images": len(correlations)}
        row["compared"] = int(np.isfinite(correlations[:, -1]).sum())
        row |= {f"correlation_{number}": mean(column) for number, column in enumerate(correlations.T, 1)}
        for side, (name, sign) in enumerate((("deletion", -1), ("insertion", 1))):
            own, random, centre = (area(drawn[one][:, side]) for one in (method, "random", "centre"))
            gain, low, high = mean_interval(sign * (own - random))
            row |= {name: own.mean(), f"{name}_random": random.mean(), f"{name}_centre": centre.mean()}
            row |= {f"{name}_gain": gain, f"{name}_low": low, f"{name}_high": high}
        known = np.isfinite(fallen[method]).all(axis=1)
        row["with_mask"] = int(known.sum())
        for number, place in enumerate(PLACES):
            row |= {place: mean(fallen[method][known, number]), f"area_{place}": mean(areas[known, number])}
        row["passes"] = bool(row["correlation_3"] < MOST_ALIKE and row["deletion_low"] > 0)
        rows.append(row)
    return pd.DataFrame(rows)


def mean(values: np.ndarray) -> float:
    """The mean of the values that are finite; NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
