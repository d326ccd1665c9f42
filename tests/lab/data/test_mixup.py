"""lab.data.mixup: mixup and CutMix against the papers' definitions, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn import functional

from lab.data.mixup import MIXUP, draw_mix, mix, one_hot

EVERY = np.arange(20_000)


def made(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [N + 1, 3, S, S] in 0…1 and their labels."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.random((count + 1, 3, side, side), np.float32))
    return images, torch.from_numpy(rng.integers(0, 4, count + 1))


def slowly_mixed(kind: str, own: Tensor, other: Tensor, drawn: list[float]) -> tuple[Tensor, float]:
    """One image as the papers put it, and its own share."""
    share, x, y = drawn
    if kind == "mixup":
        return share * own + (1 - share) * other, share
    side = own.shape[-1]
    half = (1 - share) ** 0.5 / 2
    image, left = own.clone(), 0
    for row in range(side):
        for column in range(side):
            if abs((row + 0.5) / side - y) < half and abs((column + 0.5) / side - x) < half:
                image[:, row, column] = other[:, row, column]
            else:
                left += 1
    return image, left / side**2


@settings(max_examples=25)
@given(st.sampled_from(["mixup", "cutmix"]), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_a_batch_is_mixed_as_its_images_one_by_one(kind: str, count: int, side: int, seed: int) -> None:
    images, labels = made(count, side, seed)
    drawn = draw_mix(kind, seed, 0, np.arange(count))
    mixed, targets = mix(kind, images, one_hot(labels, 4), drawn)
    assert mixed.shape == (count, 3, side, side) and targets.shape == (count, 4)
    for index in range(count):
        expected, share = slowly_mixed(kind, images[index], images[index + 1], drawn[index].tolist())
        torch.testing.assert_close(mixed[index], expected)
        shares = torch.zeros(4)
        shares[labels[index]] += share
        shares[labels[index + 1]] += 1 - share
        torch.testing.assert_close(targets[index], shares)


def test_the_shares_follow_the_papers_distributions() -> None:
    mixup, cutmix = (draw_mix(kind, 0, 0, EVERY)[:, 0].numpy() for kind in ("mixup", "cutmix"))
    # As float32 a share within 6e-8 of 1 is 1, so that mixup's are compared by their quantiles.
    levels = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.quantile(mixup, levels), stats.beta(MIXUP, MIXUP).ppf(levels), atol=0.02)
    assert stats.kstest(cutmix, "uniform").pvalue > 0.01


def test_a_draw_is_a_function_of_seed_epoch_and_index() -> None:
    whole = draw_mix("mixup", 3, 1, EVERY)
    assert torch.equal(whole[[7, 900]], draw_mix("mixup", 3, 1, np.array([7, 900])))
    for seed, epoch in ((4, 1), (3, 2)):
        assert not torch.equal(whole, draw_mix("mixup", seed, epoch, EVERY))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(smoothing: float) -> None:
    images, labels = made(6, 8, 0)
    drawn = draw_mix("mixup", 0, 0, np.arange(6))
    _, targets = mix("mixup", images, one_hot(labels, 4), drawn)
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    own, other = (
        functional.cross_entropy(logits, part, reduction="none", label_smoothing=smoothing)
        for part in (labels[:-1], labels[1:])
    )
    expected = (drawn[:, 0] * own + (1 - drawn[:, 0]) * other).mean()
    torch.testing.assert_close(functional.cross_entropy(logits, targets, label_smoothing=smoothing), expected)
