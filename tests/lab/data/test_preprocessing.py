"""lab.data.preprocessing: the window keeps the scale and follows the cell, and all parameters are measured and saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lab.data.images import read_image
from lab.data.lists import read_data_set, read_list
from lab.data.preprocessing import (
    DARK,
    Preprocessing,
    cell_mask,
    channel_statistics,
    choose_window,
    cut,
    measured_preprocessing,
    sample_images,
    window_corner,
)
from lab.errors import UserError

ON_CELL = Preprocessing(128, 64, 32, "cell")
SMEAR = (235, 215, 225)  # the background of a stained smear
STAIN = (120, 50, 140)


def disc(
    height: int, width: int, x: float, y: float, radius: float, background: Any = 0, colour: Any = STAIN
) -> np.ndarray:
    """One flat cell, RGB uint8 [height, width, 3], its centre at (x, y) in pixels from the upper left corner."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = np.hypot(columns - x, rows - y) <= radius
    return np.where(inside[..., None], np.array(colour), np.array(background)).astype(np.uint8)


def bright(image: np.ndarray) -> np.ndarray:
    return image.max(axis=2) > 60


# ---- the window ------------------------------------------------------------------------------------------------------


def test_a_cell_twice_as_large_stays_twice_as_large() -> None:
    small, large = (bright(ON_CELL.crop(disc(200, 200, 100, 100, radius))) for radius in (20, 40))
    widths = [np.ptp(np.flatnonzero(view.any(axis=0))) + 1 for view in (small, large)]
    np.testing.assert_allclose(widths, [20, 40], atol=1)  # 40 and 80 px of the raw image at 64/128
    assert large.sum() / small.sum() == pytest.approx(4, rel=0.03)


BLOB = np.random.default_rng(0).integers(DARK, 256, (37, 52, 3), dtype=np.uint8)
BLOB[:12, 30:] = 0  # asymmetric, so that the centroid is not the centre of the bounding box
EVEN = BLOB[12:, :30]  # a box of odd height: its centroid is halfway between two pixels


@settings(max_examples=80)
@given(st.sampled_from([BLOB, EVEN]), st.data())
def test_the_crop_does_not_depend_on_the_position_of_the_cell(cell: np.ndarray, data: st.DataObject) -> None:
    height, width = cell.shape[:2]

    def view(top: int, left: int) -> np.ndarray:
        image = np.zeros((200, 240, 3), np.uint8)
        image[top : top + height, left : left + width] = cell
        return ON_CELL.crop(image)

    # One pixel away from the border, because a cell that touches it is continued beyond.
    top, left = data.draw(st.integers(1, 199 - height)), data.draw(st.integers(1, 239 - width))
    np.testing.assert_array_equal(view(top, left), view(80, 90))


def test_the_window_is_centred_on_the_centroid() -> None:
    for x, y in ((100.0, 60.0), (31.5, 80.5), (0.0, 119.0)):
        image = disc(120, 160, x, y, 12)
        corner = window_corner(image, 40, cell_mask(image))
        rows, columns = np.nonzero(image.any(axis=2))
        np.testing.assert_allclose(corner, [columns.mean() + 0.5 - 20, rows.mean() + 0.5 - 20], atol=0.5)
    tailed = disc(120, 160, 80, 60, 20)
    tailed[58:60, 100:155] = STAIN  # a thin streak of stain moves the centroid far less than the bounding box
    assert abs(window_corner(tailed, 64, cell_mask(tailed))[0] - 48) < 8


def test_outside_the_image_black_stays_black_and_a_smear_is_continued() -> None:
    at_corner = disc(100, 100, 26, 26, 25)  # three eighths of the window are outside
    view = ON_CELL.crop(at_corner)
    rows, columns = np.nonzero(bright(view))
    assert window_corner(at_corner, 128, cell_mask(at_corner)) == (-38, -38)
    assert view[:, :18].max() == view[:18].max() == 0
    assert abs(rows.mean() - 31.5) < 1 and abs(columns.mean() - 31.5) < 1
    smear = disc(100, 100, 50, 50, 25, background=SMEAR)
    view = ON_CELL.crop(smear)
    np.testing.assert_array_equal(view[0], np.full((64, 3), SMEAR))
    assert bright(view).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-12, 12), st.integers(-12, 12), st.integers(1, 14), st.data())
def test_cut_is_a_slice_of_the_image_continued_by_its_border(
    height: int, width: int, x: int, y: int, side: int, data: st.DataObject
) -> None:
    image = data.draw(arrays(np.uint8, (height, width, 3)))
    padded = np.pad(image, ((30, 30), (30, 30), (0, 0)), mode="edge")
    np.testing.assert_array_equal(cut(image, x, y, side), padded[y + 30 : y + 30 + side, x + 30 : x + 30 + side])


def test_without_a_cell_on_black_the_window_is_centred() -> None:
    centre = (30, 20)  # of 100×80 with a window of 40
    for image in (
        disc(80, 100, 20, 20, 15, background=SMEAR),
        np.zeros((80, 100, 3), np.uint8),
        np.full((80, 100, 3), DARK - 1, np.uint8),  # background noise
    ):
        assert cell_mask(image) is None
        assert window_corner(image, 40, None) == centre
    cell = disc(80, 100, 20, 20, 15)
    assert window_corner(cell, 40, cell_mask(cell)) == (0, 0)


@pytest.mark.parametrize("x", [45, 10])  # the second cell touches the border
def test_the_mask_is_the_cell_without_background_noise(x: int) -> None:
    noise = np.random.default_rng(1).integers(0, DARK, (90, 90, 3), dtype=np.uint8)
    cell = disc(90, 90, x, 45, 20)
    mask = cell_mask(np.maximum(cell, noise))
    assert mask is not None
    np.testing.assert_array_equal(mask, cell.any(axis=2))


# ---- choosing the window ---------------------------------------------------------------------------------------------


def test_cells_on_black_get_the_widest_box_plus_five_per_cent() -> None:
    images = [disc(200, 200, 100, 100, radius) for radius in (30, 35, 40, 50)]
    images.append(disc(200, 200, 100, 100, 90, background=SMEAR))  # a single other image has no influence
    side, locate, reason = choose_window(images)
    assert (side, locate) == (112, "cell")  # 99 % fit into 100 px; 105 rounds up to 112
    assert "cells on black" in reason


def smears(cells: Callable[[np.random.Generator], list[tuple[float, float, float]]]) -> list[np.ndarray]:
    """Twelve smears of 160 px with cells (x, y, radius) on them, and some noise."""
    images = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        image = np.full((160, 160, 3), SMEAR)
        for x, y, radius in cells(rng):
            image = np.where(disc(160, 160, x, y, radius).any(axis=2, keepdims=True), STAIN, image)
        images.append((image + rng.integers(-8, 9, image.shape)).astype(np.uint8))
    return images


def test_centred_cells_get_a_window_around_the_stain() -> None:
    images = smears(lambda rng: [(80 + rng.uniform(-3, 3), 80 + rng.uniform(-3, 3), 30)])
    side, locate, reason = choose_window(images)
    assert locate == "centre" and 70 <= side <= 112 and side % 16 == 0
    assert "centred cells" in reason
    # A pale middle, as between the lobes of a nucleus, does not end the cell.
    for image in images:
        image[72:88, 72:88] = SMEAR
    assert choose_window(images)[:2] == (side, "centre")


def test_the_window_of_a_smear_field_is_the_whole_image() -> None:
    images = smears(lambda rng: [(x, y, 12) for x, y in rng.uniform(0, 160, (14, 2))])
    side, locate, reason = choose_window([image[:, :150] for image in images])
    assert (side, locate) == (150, "centre") and "whole" in reason


@pytest.mark.parametrize("value", [0, 90, 255])
@pytest.mark.parametrize(("other", "side"), [(50, 50), (1, 50), (40, 40)])
def test_the_window_of_blank_images_is_whole_and_ignores_a_thumbnail(value: int, other: int, side: int) -> None:
    images = [np.full((50, 70, 3), value, np.uint8)] * 9
    assert choose_window([*images, np.full((other, other, 3), value, np.uint8)])[:2] == (side, "centre")


def test_the_window_of_the_real_cells_on_black(shared_data: Callable[[str], Path]) -> None:
    images = [read_image(path) for path in sorted(shared_data("cnmc52").rglob("*.bmp"))]
    assert len(images) == 52
    side, locate, _ = choose_window(images)
    assert (side, locate) == (352, "cell")  # the widest cell is 352 px
    for image in images:
        mask = cell_mask(image)
        assert mask is not None
        x, y = window_corner(image, side, mask)
        # The widest cell is not symmetric about its centroid.
        assert mask[max(y, 0) : y + side, max(x, 0) : x + side].sum() / mask.sum() > 0.97
        assert max(abs(x + side / 2 - 225), abs(y + side / 2 - 225)) < 16  # every centroid is near the centre


@pytest.mark.parametrize(("name", "side", "reason"), [("pbc8", 208, "centred"), ("all4", 224, "whole smear")])
def test_the_window_of_the_real_smears(name: str, side: int, reason: str, shared_data: Callable[[str], Path]) -> None:
    train = read_list(read_data_set(shared_data(name)), "train", labelled=True, check_files=False)
    chosen = choose_window(sample_images(train, 60)[0])
    assert chosen[:2] == (side, "centre") and reason in chosen[2]


# ---- statistics and plain data ---------------------------------------------------------------------------------------


def test_channel_statistics_are_those_of_numpy() -> None:
    images = np.random.default_rng(4).integers(0, (256, 100, 30), (7, 20, 20, 3)).astype(np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)
    assert all(type(value) is float for value in mean + std)


def test_a_constant_channel_does_not_divide_by_zero() -> None:
    mean, std = channel_statistics(np.full((2, 4, 4, 3), (0, 51, 255), np.uint8))
    assert mean == pytest.approx((0, 0.2, 1)) and std == pytest.approx((1 / 255,) * 3)


shares = st.floats(1e-3, 1)


@given(
    st.integers(1, 999),
    st.integers(1, 999),
    st.integers(1, 999),
    st.sampled_from(["cell", "centre"]),
    st.tuples(*[shares] * 6),
)
def test_through_json_and_back(window: int, source: int, size: int, locate: Any, numbers: tuple[float, ...]) -> None:
    before = Preprocessing(window, source, size, locate, numbers[:3], numbers[3:])  # type: ignore[arg-type]
    assert Preprocessing.from_dict(json.loads(json.dumps(asdict(before)))) == before


@pytest.mark.parametrize(
    "change",
    [
        *({"locate": "somewhere"}, {"window": 0}, {"size": -64}, {"source": "128"}, {"size": None}),
        *({"mean": [0.5, 0.5]}, {"mean": [0.5, 0.5, 0.5, 0.5]}, {"mean": "abc"}, {"mean": [0.5, 0.5, float("nan")]}),
        *({"std": 0.25}, {"std": [0.2, 0.2, 0.0]}, {"std": [0.2, 0.2, -0.2]}, {"std": [0.2, 0.2, float("inf")]}),
    ],
    ids=str,
)
def test_invalid_values_are_refused(change: dict[str, Any]) -> None:
    good = asdict(ON_CELL)
    assert Preprocessing.from_dict(good) == ON_CELL
    with pytest.raises((KeyError, TypeError, ValueError)):
        Preprocessing.from_dict(good | change)
    with pytest.raises(KeyError):
        Preprocessing.from_dict({key: value for key, value in good.items() if key not in change})


def test_padding_is_zeros_around_a_cell_on_black_and_reflection_for_a_smear() -> None:
    assert (ON_CELL.padding, replace(ON_CELL, locate="centre").padding) == ("zeros", "reflection")


def test_window_and_statistics_are_measured_on_the_training_images(make_data: Callable[..., Path]) -> None:
    train = read_list(read_data_set(make_data(train=12)), "train", labelled=True)
    measured = measured_preprocessing(train, 16)
    assert (measured.source, measured.size, measured.locate) == (32, 16, "cell")
    widest = max(np.ptp(np.flatnonzero(read_image(path).any((0, 2)))) + 1 for path in train.paths)
    assert widest < measured.window <= widest * 1.05 + 16
    crops = np.stack([measured.crop(read_image(path)) for path in train.paths])
    assert (measured.mean, measured.std) == channel_statistics(crops)


def test_a_sample_is_spread_evenly_and_skips_unreadable_images(make_data: Callable[..., Path]) -> None:
    train = read_list(read_data_set(make_data(train=9)), "train", labelled=True)
    for count, indices in ((200, range(9)), (3, (0, 4, 8)), (1, (0,))):
        for image, index in zip(sample_images(train, count)[0], indices, strict=True):
            np.testing.assert_array_equal(image, read_image(train.paths[index]))
    # The store reports a damaged image together with all others, so measuring must not stop before.
    train.paths[4].write_bytes(b"")
    assert len(sample_images(train, 200)[0]) == 8
    for path in train.paths:
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"none of the sampled images .*:\n  train.csv line 2: .*0\.bmp: the file is empty"
    ):
        sample_images(train)
