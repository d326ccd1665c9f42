"""lab.data.random_numbers: the numbers are uniform and uncorrelated, and a function of (seed, epoch, index, draw) only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.data.random_numbers import mix, permutation, uniform

seeds, epochs = st.integers(0, 2**63), st.integers(0, 10_000)
MANY = np.arange(100_000)


def test_mix_is_splitmix64() -> None:
    """Compared with the first outputs of the reference implementation for seed 0 (Vigna, splitmix64.c)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    states = golden * np.arange(1, 4, dtype=np.uint64)
    assert [hex(value) for value in mix(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@given(seeds, epochs, st.lists(st.integers(0, 2**40), max_size=20), st.integers(1, 12))
def test_draws_lie_in_the_half_open_unit_interval(seed: int, epoch: int, indices: list[int], count: int) -> None:
    draws = uniform(seed, epoch, np.array(indices, dtype=np.int64), count)
    assert draws.shape == (len(indices), count) and draws.dtype == np.float32
    assert ((draws >= 0) & (draws < 1)).all()


@given(seeds, epochs, st.lists(st.integers(0, 10_000), min_size=1, max_size=20), st.data())
def test_a_draw_does_not_depend_on_the_other_images(
    seed: int, epoch: int, indices: list[int], data: st.DataObject
) -> None:
    together = uniform(seed, epoch, np.array(indices), 9)
    subset = data.draw(st.lists(st.integers(0, len(indices) - 1), min_size=1))
    np.testing.assert_array_equal(uniform(seed, epoch, np.array(indices)[subset], 9), together[subset])
    np.testing.assert_array_equal(uniform(seed, epoch, np.array(indices), 4), together[:, :4])


@given(seeds, epochs, st.integers(0, 10_000))
def test_another_seed_epoch_image_or_draw_gives_another_number(seed: int, epoch: int, index: int) -> None:
    changed = [(seed, epoch, index), (seed + 1, epoch, index), (seed, epoch + 1, index), (seed, epoch, index + 1)]
    draws = [uniform(seed, epoch, np.array([index]), 3) for seed, epoch, index in changed]
    assert len({draw.tobytes() for draw in draws}) == 4 and len(set(draws[0][0])) == 3


def test_the_draws_are_uniform() -> None:
    draws = uniform(0, 0, MANY, 3)
    for column in draws.T.astype(float):
        # Five standard errors each; the draws are fixed, so the test cannot fail at random.
        assert column.mean() == pytest.approx(0.5, abs=5 * np.sqrt(1 / 12 / len(MANY)))
        assert column.var() == pytest.approx(1 / 12, abs=5 * np.sqrt(1 / 180 / len(MANY)))
        counts = np.histogram(column, 64, (0, 1))[0]
        chi_squared = ((counts - len(MANY) / 64) ** 2).sum() / (len(MANY) / 64)
        assert chi_squared < 63 + 5 * np.sqrt(2 * 63)
    assert draws.min() < 1e-4 and draws.max() > 1 - 1e-4


def test_neighbours_are_not_correlated() -> None:
    draws = uniform(0, 0, MANY, 2)
    first = draws[:, 0]
    neighbours = {
        "image": uniform(0, 0, MANY + 1, 1)[:, 0],
        "draw": draws[:, 1],
        "epoch": uniform(0, 1, MANY, 1)[:, 0],
        "seed": uniform(1, 0, MANY, 1)[:, 0],
        "seed and epoch swapped": uniform(2, 1, MANY, 1)[:, 0] - uniform(1, 2, MANY, 1)[:, 0],
    }
    for name, other in neighbours.items():
        assert abs(np.corrcoef(first, other)[0, 1]) < 5 / np.sqrt(len(MANY)), name


@given(seeds, epochs, st.integers(0, 300))
def test_a_permutation_contains_every_image_once(seed: int, epoch: int, count: int) -> None:
    assert sorted(permutation(seed, epoch, count)) == list(range(count))


def test_every_image_is_equally_often_at_every_position() -> None:
    epochs = 3000
    table = np.zeros((5, 5))
    for epoch in range(epochs):
        table[np.arange(5), permutation(7, epoch, 5)] += 1
    np.testing.assert_allclose(table / epochs, 0.2, atol=5 * np.sqrt(0.2 * 0.8 / epochs))
