"""What fits into a budget: the choice by hand, and properties of all choices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import UserError
from lab.training.budget import MARGIN, fitting
from lab.training.forecast import Pace
from lab.training.recipe import Settings
from tests.made import settings

PACE = Pace(64, 128, train=(10.0, 40.0), valid=(1.0, 4.0))  # 11 s an epoch at 64 px, 44 s at 128 px; D4 8 and 32 s
WHOLE = settings(size=128, window=256, epochs=30, progressive=False)
SECONDS = st.floats(1, 2000)


def choose(seconds: float, *options: str, whole: Settings = WHOLE) -> Settings | None:
    """The choice for so many seconds without the margin, or None if nothing fits."""
    try:
        return fitting(PACE, whole, seconds / MARGIN, options)
    except UserError:
        return None


def of(chosen: Settings | None) -> tuple[int, int, bool] | None:
    """Size, epochs and schedule."""
    return (chosen.size, chosen.epochs, chosen.progressive) if chosen else None


@pytest.mark.parametrize(
    ("seconds", "options", "expected"),
    [
        (2000, (), (128, 30, True)),  # all epochs at the largest size
        # 6 epochs at 64 px, 6 at 96 px (24.75 s) and 5 at 128 px: 66 + 148.5 + 220 s, and the views of D4; 44 s more do not fit
        (500, (), (128, 17, True)),
        (400, (), (112, 19, True)),  # at 128 px fewer than half of the epochs would fit
        (30, (), (64, 3, True)),  # even at the smallest size
        (18, (), None),  # one epoch at 64 px and the views of D4 need 19 s
        (500, ("size",), (128, 17, True)),
        (80, ("size",), (128, 1, True)),  # a size that is given stays
        (500, ("epochs",), (96, 30, True)),
        (100, ("epochs",), None),
        (500, ("progressive",), (96, 19, False)),
    ],
)
def test_the_largest_size_at_which_half_of_the_epochs_fit(
    seconds: float, options: tuple[str, ...], expected: tuple[int, int, bool] | None
) -> None:
    assert of(choose(seconds, *options)) == expected


@given(SECONDS, st.sampled_from([(), ("size",), ("epochs",), ("progressive",), ("size", "epochs")]))
def test_a_choice_fits_and_keeps_what_is_given(seconds: float, options: tuple[str, ...]) -> None:
    chosen = choose(seconds, *options)
    if chosen is not None:
        assert PACE.run(chosen) <= seconds * (1 + 1e-9)
        assert all(getattr(chosen, name) == getattr(WHOLE, name) for name in options)
        assert replace(chosen, size=128, epochs=30, progressive=False) == WHOLE  # nothing else changes


@given(SECONDS, SECONDS)
def test_more_time_never_means_smaller_images(one: float, other: float) -> None:
    less, more = (choose(seconds) for seconds in sorted((one, other)))
    if less is not None:
        assert more is not None and (more.size, more.epochs) >= (less.size, less.epochs)


def test_images_are_not_enlarged() -> None:
    """Those of MedMNIST have 28 px."""
    chosen = choose(2000, whole=replace(WHOLE, window=28))
    assert chosen is not None and (chosen.size, chosen.epochs) == (64, 30)


def test_a_network_of_one_size_has_fewer_epochs_only() -> None:
    """``fc`` is built for its input."""
    one_size = Pace(128, 128, train=(40.0, 40.0), valid=(4.0, 4.0))
    chosen = fitting(one_size, replace(WHOLE, model="fc"), (44 * 7 + 33) / MARGIN, ())
    assert of(chosen) == (128, 7, False)


def test_too_little_time_is_refused_with_what_is_needed() -> None:
    with pytest.raises(UserError, match=r"resnet18 needs 21 s for 1 epoch at 64 px, and has 20 s; give more minutes"):
        fitting(PACE, WHOLE, 20, ())
    with pytest.raises(UserError, match=r"resnet18 needs 9 min for 17 epochs at 128 px"):
        fitting(PACE, replace(WHOLE, epochs=17), 20, ("epochs", "size"))
