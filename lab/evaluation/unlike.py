"""Images that are unlike the training images: photographs, text, noise, another stain.

A network gives a class to any image, a white one included. So each image's colour, contrast and sharpness are compared with
those of the training images by the Mahalanobis distance (Mahalanobis 1936, On the generalised distance in statistics), and the
limit is chosen on valid. The statistics are those of the network's input, not of its features, so they do not depend on how well
it was trained. benchmarks/unlike.py measures what they recognise. They do not recognise another kind of cell in the same stain.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lab.checkpoints.checkpoint import About
from lab.data.batches import Batches
from lab.evaluation.inference import Feed

UNLIKE = "unlike the training images"
MOST = 2000  # images of a list that are compared
SHARE = 0.005  # of valid's images that may be beyond the limit
FEW = 1.2  # factor of the limit if valid is too short for this share
RINGS = (0.0, 0.5, 1.0, 2.0)  # radii of the rings around the centre, in half sides; the corners are at 1.41
SCALES = 3  # each half the one before
FLOOR = 0.01  # added to standard deviations, because a black background has none
RIDGE = 0.001  # added to the variances, so that few images have an invertible covariance


@torch.inference_mode()
def statistics(images: Tensor) -> Tensor:
    """Colour, contrast and sharpness of normalised images [N, 3, S, S]: float32 [N, 27].

    For each channel: mean and standard deviation in three rings around the centre, and the logarithm of the mean difference of
    neighbouring pixels at three scales. Flips and quarter turns change nothing.
    """
    images = images.float().contiguous()
    side = images.shape[-1]
    place = (torch.arange(side, device=images.device) + 0.5) / side * 2 - 1
    radius = torch.hypot(place[:, None], place[None]).flatten()
    rings = torch.stack([(low <= radius) & (radius < high) for low, high in pairwise(RINGS)], 1)
    shares = rings.float() / rings.sum(0)
    flat = images.flatten(2)
    means = flat @ shares
    deviations = (flat.square() @ shares - means.square()).clamp(min=0).sqrt()
    parts = [means.flatten(1), deviations.flatten(1)]
    for _ in range(SCALES):
        steps = images.diff(dim=2).abs().mean((2, 3)) + images.diff(dim=3).abs().mean((2, 3))
        parts.append((steps + FLOOR).log())
        images = avg_pool2d(images, 2)
    return torch.cat(parts, dim=1)


def all_statistics(batches: Feed) -> np.ndarray:
    """The statistics of all images of the batches, float64 [N, 27]."""
    return torch.cat([statistics(images) for images, _, _ in batches]).double().cpu().numpy()


def fit_typical(train: Batches, valid: Batches, size: int) -> tuple[list[list[float]], float]:
    """For a checkpoint: the typical training image at ``size`` px, and the distance that at most ``SHARE`` of valid exceed."""
    typical = typical_of(all_statistics(train.sample(MOST).epoch(size=size)))
    found = distances(all_statistics(valid.sample(MOST).epoch(size=size)), typical)
    # The largest distance of a shorter list is too small a limit for other images.
    return typical, float(np.quantile(found, 1 - SHARE, method="higher")) * (FEW if len(found) * SHARE < 1 else 1.0)


def typical_of(values: np.ndarray) -> list[list[float]]:
    """What :func:`distances` needs of images with the statistics ``values`` [N, D]: their mean, and the D rows of the matrix that
    makes the distance Euclidean. Rounded to six digits, because a checkpoint keeps them in its header."""
    mean, scale = values.mean(axis=0), values.std(axis=0) + FLOOR
    scaled = (values - mean) / scale
    precision = np.linalg.inv(scaled.T @ scaled / len(scaled) + RIDGE * np.eye(len(mean)))
    matrix = np.linalg.cholesky(precision) / scale[:, None]
    return [[float(f"{value:.6g}") for value in row] for row in (mean, *matrix)]


def distances(values: np.ndarray, typical: Sequence[Sequence[float]]) -> np.ndarray:
    """The Mahalanobis distance of images with the statistics ``values`` [N, D] from the typical training image: [N]."""
    return np.asarray(np.linalg.norm((values - np.asarray(typical[0])) @ np.asarray(typical[1:]), axis=1))


def judge(abouts: Sequence[About]) -> About:
    """The first checkpoint that can tell whether an image is unlike the training images, or the first of all. Models of one data
    set differ only in the size of their input, so one of them decides for all."""
    return next((about for about in abouts if about.typical), abouts[0])


def are_unlike(batches: Feed, about: About) -> np.ndarray:
    """Which images of a network's input are unlike its training images: bool [N]. None is if the checkpoint cannot tell, because
    it is of an earlier version or from elsewhere."""
    values = all_statistics(batches)
    if len(about.typical) != values.shape[1] + 1:
        return np.zeros(len(values), dtype=bool)
    return distances(values, about.typical) > about.confidence["unlike"]
