"""lab.data.mixup: mixup and CutMix compared with the papers' definitions, image by image."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn import functional

from lab.data.mixup import MIXUP, draw_mix, mix

EVERY = np.arange(20_000)


def made(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [N + 1, 3, S, S] in 0…1 and their labels."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.random((count + 1, 3, side, side), np.float32))
    return images, torch.from_numpy(rng.integers(0, 4, count + 1))


def slow_mix(kind: str, own: Tensor, other: Tensor, parameters: list[float]) -> tuple[Tensor, float]:
    """Oracle: one image as defined in the papers, and the weight of its own label."""
    weight, x, y = parameters
    if kind == "mixup":
        return weight * own + (1 - weight) * other, weight
    side = own.shape[-1]
    half = (1 - weight) ** 0.5 / 2
    image, own_pixels = own.clone(), 0
    for row in range(side):
        for column in range(side):
            if abs((row + 0.5) / side - y) < half and abs((column + 0.5) / side - x) < half:
                image[:, row, column] = other[:, row, column]
            else:
                own_pixels += 1
    return image, own_pixels / side**2


@settings(max_examples=25)
@given(st.sampled_from(["mixup", "cutmix"]), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_a_batch_equals_its_images_mixed_one_by_one(kind: str, count: int, side: int, seed: int) -> None:
    images, labels = made(count, side, seed)
    parameters = draw_mix(kind, seed, 0, np.arange(count))
    mixed, targets = mix(kind, images, labels, 4, parameters)
    assert mixed.shape == (count, 3, side, side) and targets.shape == (count, 4)
    for index in range(count):
        expected, weight = slow_mix(kind, images[index], images[index + 1], parameters[index].tolist())
        torch.testing.assert_close(mixed[index], expected)
        target = torch.zeros(4)
        target[labels[index]] += weight
        target[labels[index + 1]] += 1 - weight
        torch.testing.assert_close(targets[index], target)


def test_the_weights_have_the_papers_distributions() -> None:
    mixup, cutmix = (draw_mix(kind, 0, 0, EVERY)[:, 0].numpy() for kind in ("mixup", "cutmix"))
    # Mixup's weights are compared by quantiles, because float32 rounds those within 6e-8 of 1 to 1.
    levels = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.quantile(mixup, levels), stats.beta(MIXUP, MIXUP).ppf(levels), atol=0.02)
    assert stats.kstest(cutmix, "uniform").pvalue > 0.01


def test_a_draw_is_a_function_of_seed_epoch_and_index() -> None:
    draws = draw_mix("mixup", 3, 1, EVERY)
    assert torch.equal(draws[[7, 900]], draw_mix("mixup", 3, 1, np.array([7, 900])))
    for seed, epoch in ((4, 1), (3, 2)):
        assert not torch.equal(draws, draw_mix("mixup", seed, epoch, EVERY))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(smoothing: float) -> None:
    images, labels = made(6, 8, 0)
    parameters = draw_mix("mixup", 0, 0, np.arange(6))
    _, targets = mix("mixup", images, labels, 4, parameters)
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    loss = partial(functional.cross_entropy, logits, label_smoothing=smoothing)
    own, other = (loss(part, reduction="none") for part in (labels[:-1], labels[1:]))
    expected = (parameters[:, 0] * own + (1 - parameters[:, 0]) * other).mean()
    torch.testing.assert_close(loss(targets), expected)
