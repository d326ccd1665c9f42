"""The temperature, the threshold of certain predictions, and images unlike the training images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import log_loss

from lab.data.batches import Batches
from lab.data.preprocessing import Preprocessing
from lab.data.store import Store
from lab.distributed import Ranks
from lab.evaluation.calibration import calibration
from lab.evaluation.confidence import fit_confidence, fit_temperature, fit_threshold, risk_and_coverage, scaled
from lab.evaluation.inference import dihedral
from lab.evaluation.unlike import all_statistics, are_unlike, distances, fit_typical, judge, statistics, typical_of
from tests.made import about

RANDOM = np.random.default_rng(3)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def sampled(temperature: float, images: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the softmax of random logits, and the probabilities of a network whose logits are larger by a factor."""
    logits = RANDOM.normal(0, 2, (images, 3))
    labels = np.array([RANDOM.choice(3, p=row) for row in softmax(logits)])
    return labels, softmax(temperature * logits)


# ------------------------------------------------------------------------------------------------------ the temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_an_overconfident_or_modest_network_is_found(temperature: float) -> None:
    labels, probabilities = sampled(temperature)
    found = fit_temperature(labels, probabilities)
    assert found == pytest.approx(temperature, rel=0.1)
    again = scaled(probabilities, found)
    assert calibration(labels, again).error < 0.03
    grid = [log_loss(labels, scaled(probabilities, found * factor)) for factor in (0.8, 1, 1.25)]
    assert grid[1] == min(grid)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_a_temperature_keeps_the_order_of_the_classes(seed: int, temperature: float) -> None:
    probabilities = softmax(np.random.default_rng(seed).normal(0, 3, (20, 4)))
    again = scaled(probabilities, temperature)
    np.testing.assert_allclose(again.sum(axis=1), 1)
    assert (again.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    if temperature >= 1:  # a lower one may take a probability below the smallest that is told from zero
        np.testing.assert_allclose(scaled(again, 1 / temperature), probabilities, rtol=1e-6)


def test_a_short_list_without_an_error_does_not_make_a_network_certain_of_everything() -> None:
    labels, probabilities = np.array([0, 1] * 5), np.array([[0.8, 0.2], [0.2, 0.8]] * 5)
    again = scaled(probabilities, fit_temperature(labels, probabilities))
    # The best confidence is the target of Platt's rule.
    np.testing.assert_allclose(again.max(axis=1), 1 - 1 / 12, atol=1e-3)


def test_a_probability_of_zero_stays_finite() -> None:
    assert np.isfinite(scaled(np.array([[1.0, 0.0]]), 0.05)).all()
    assert np.isfinite(fit_temperature(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])))


# ------------------------------------------------------------------------------------------------------ the threshold


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_risk_and_coverage_equal_a_direct_count(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, images)
    probabilities = softmax(random.integers(0, 4, (images, 3)).astype(float))  # with ties
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    for limit, coverage, risk in zip(*risk_and_coverage(labels, probabilities), strict=True):
        kept = confidence >= limit
        assert coverage == pytest.approx(kept.mean()) and risk == pytest.approx(wrong[kept].mean())


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_the_certain_predictions_have_half_the_errors_or_fewer(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)
    labels, probabilities = random.integers(0, 3, images), softmax(random.normal(0, 1, (images, 3)))
    found = fit_threshold(labels, probabilities)
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    certain = confidence >= found["certain"]
    if found["certain_coverage"] == 0:
        assert wrong[confidence == confidence.max()].all() and not certain.any()
        return
    assert certain.mean() == pytest.approx(found["certain_coverage"])
    assert wrong[certain].mean() == pytest.approx(found["certain_risk"]) and found["certain_risk"] <= wrong.mean() / 2
    # No lower confidence fits.
    for lower in np.unique(confidence[confidence < found["certain"]]):
        assert wrong[confidence >= lower].mean() > wrong.mean() / 2


def test_where_all_predictions_are_right_all_are_certain() -> None:
    labels, probabilities = np.array([0, 1]), np.array([[0.6, 0.4], [0.1, 0.9]])
    assert fit_threshold(labels, probabilities) == {"certain": 0.0, "certain_risk": 0.0, "certain_coverage": 1.0}


def test_both_ways_to_predict_are_fitted() -> None:
    labels, plain = sampled(2.0)
    _, averaged = sampled(0.5)
    found = fit_confidence(labels, plain, averaged)
    names = ("temperature", "certain", "certain_risk", "certain_coverage")
    assert set(found) == {f"{name}{ending}" for name, ending in itertools.product(names, ("", "_d4"))}
    assert found["temperature"] == pytest.approx(fit_temperature(labels, plain))


# ------------------------------------------------------------------------------------------------------ unlike images


def stained(images: int, size: int = 32) -> torch.Tensor:
    """Normalised images of a disc on a background, with small differences of colour, size and grain."""
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    generator = torch.Generator().manual_seed(images)
    radius = size * (0.25 + 0.1 * torch.rand(images, 1, 1, 1, generator=generator))
    colour = torch.tensor([-1.0, -1.5, 0.5]).view(1, 3, 1, 1) + 0.2 * torch.randn(images, 3, 1, 1, generator=generator)
    grain = 0.1 * torch.randn(images, 3, size, size, generator=generator)
    return torch.where(torch.hypot(x, y) < radius, colour, torch.tensor(0.8)) + grain


def test_statistics_by_hand() -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[:, 0], images[:, 1, :, ::2] = 2.0, 1.0  # channel 1 has stripes of one pixel
    means, deviations, *steps = statistics(images)[0].split([9, 9, 3, 3, 3])
    np.testing.assert_allclose(means, [2, 2, 2, 0.5, 0.5, 0.5, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(deviations, [0, 0, 0, 0.5, 0.5, 0.5, 0, 0, 0], atol=1e-3)
    np.testing.assert_allclose(steps[0].exp() - 0.01, [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(steps[1].exp() - 0.01, 0, atol=1e-5)  # the mean of two stripes has none


def test_flips_and_quarter_turns_change_no_statistic() -> None:
    image = stained(1) * torch.linspace(0, 1, 32)
    for view in dihedral(image):
        torch.testing.assert_close(statistics(view), statistics(image), rtol=1e-4, atol=1e-4)


def test_the_distance_is_mahalanobis() -> None:
    values = RANDOM.normal(0, 1, (500, 4)) @ RANDOM.normal(0, 1, (4, 4)) + 3
    found = distances(values[:50], typical_of(values))
    expected = cdist(
        values[:50], values.mean(axis=0)[None], "mahalanobis", VI=np.linalg.inv(np.cov(values.T, bias=True))
    )
    np.testing.assert_allclose(found, expected[:, 0], rtol=0.05)  # the ridge and the floor make it a little smaller


@pytest.mark.parametrize("images", [2, 300])
def test_equal_training_images_and_few_of_them_give_a_distance(images: int) -> None:
    values = statistics(stained(1)).double().numpy().repeat(images, axis=0)
    assert np.isfinite(typical_of(values)).all() and distances(values, typical_of(values)).max() < 0.1


def batch(images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
    return [(images, torch.empty(0), np.arange(len(images)))]


def batches(images: int, classes: int = 2) -> Batches:
    """A store of ``images`` with a level of grey each, in the order of their classes, as batches of a training."""
    levels = np.arange(images, dtype=np.uint8)
    store = Store(np.broadcast_to(levels[:, None, None, None], (images, 64, 64, 3)), np.arange(images), [""] * images)
    labels, preprocessing = np.arange(images) * classes // images, Preprocessing(64, 64, 32, "centre")
    return Batches(store, labels, preprocessing, 4, torch.device("cpu"), seed=0, ranks=Ranks(1, 2))


@pytest.mark.parametrize(("images", "most"), [(20, 100), (20, 20), (20, 19), (21, 5), (2, 1)])
def test_a_sample_is_evenly_spaced_not_augmented_and_not_divided_among_ranks(images: int, most: int) -> None:
    parts = list(batches(images).sample(most).epoch())
    labels = torch.cat([label for _, label, _ in parts])
    levels = torch.cat([(image[:, 0, 0, 0] * 0.25 + 0.5) * 255 for image, _, _ in parts]).round().int().tolist()
    step = -(-images // most)
    assert levels == list(range(0, images, step)) and len(levels) <= most
    assert labels.tolist() == (np.arange(0, images, step) * 2 // images).tolist()


def test_a_short_valid_list_gets_a_wider_limit() -> None:
    train, valid = batches(40), batches(20)
    typical, limit = fit_typical(train, valid, 32)
    found = distances(all_statistics(valid.sample(100).epoch(size=32)), typical)
    assert limit == pytest.approx(1.2 * found.max())


def test_white_black_noise_and_stripes_are_unlike_stained_cells() -> None:
    train = statistics(stained(1000)).double().numpy()
    limit = float(np.quantile(distances(statistics(stained(2000)).double().numpy(), typical_of(train)), 0.995))
    description = about(typical=typical_of(train), confidence={"unlike": limit})
    other = torch.zeros(4, 3, 32, 32)
    other[0], other[1], other[3, :, :, ::4] = 0.9, -2.0, -2.0
    other[2] = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert are_unlike(batch(other), description).all()
    assert are_unlike(batch(stained(201)), description).mean() < 0.02
    # A checkpoint that cannot tell refuses nothing, and another one decides.
    assert not are_unlike(batch(other), about()).any()
    assert judge([about(), description]) is description and judge([about()]).typical == []
