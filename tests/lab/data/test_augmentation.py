"""lab.data.augmentation: training and evaluation images are equally sharp, and the augmentation has the documented range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from lab.data.augmentation import (
    BRIGHTNESS,
    OFFSET,
    PARTS,
    SCALE,
    SHIFT,
    STAIN,
    affine,
    augment,
    draw_augmentation,
    normalise,
    parts_of,
    resample,
    sampling_grid,
)
from lab.errors import UserError

EVERY = np.arange(4000)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8))


def rotation(degrees: float, count: int) -> Tensor:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cosine, -sine], [sine, cosine]]).repeat(count, 1, 1)


def disc(side: int, radius: float, colour: tuple[int, int, int] = (120, 50, 140)) -> Tensor:
    """A flat centred cell on black, uint8 [1, side, side, 3]."""
    line = np.arange(side) + 0.5 - side / 2
    inside = np.hypot(line[:, None], line) < radius
    return torch.from_numpy((inside[None, ..., None] * np.array(colour)).astype(np.uint8))


# ---- geometry --------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 40))
def test_the_grid_is_that_of_affine_grid(epoch: int, count: int, side: int) -> None:
    geometry, shift, _ = affine(0, epoch, np.arange(count))
    theta = torch.cat([geometry, shift[..., None]], 2)
    expected = functional.affine_grid(theta, [count, 3, side, side], align_corners=False)
    torch.testing.assert_close(sampling_grid(geometry, shift, side), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(sampling_grid(geometry, shift, side, 1, 0, 2), expected[:, 1::2, ::2], atol=2e-6, rtol=0)


def test_maps_are_rotations_reflections_scalings_and_shifts_within_bounds() -> None:
    geometry, shift, _ = affine(0, 3, EVERY)
    a, b, c, d = geometry.flatten(1).double().unbind(1)
    scale = (a * d - b * c).abs().sqrt()
    # The columns are orthogonal and of equal length: no shear.
    torch.testing.assert_close(a * b + c * d, torch.zeros_like(a), atol=1e-6, rtol=0)
    torch.testing.assert_close(a * a + c * c, b * b + d * d, atol=1e-6, rtol=0)
    bound = 1 + SCALE
    assert 1 / bound - 1e-6 <= scale.min() < 1 / bound + 0.01 and bound - 0.01 < scale.max() <= bound + 1e-6
    assert scale.log().mean().abs() < 0.01  # enlarged as often as reduced
    mirrored = (a * d - b * c) < 0
    assert abs(mirrored.double().mean() - 0.5) < 0.04
    angles = torch.atan2(-b, d)
    for flip in (True, False):  # all angles are equally frequent, mirrored or not
        counts = torch.histc(angles[mirrored == flip], 8, -math.pi, math.pi)
        assert (counts / counts.sum() - 1 / 8).abs().max() < 0.04
    assert shift.abs().max() <= 2 * SHIFT and shift.abs().max() > 1.9 * SHIFT
    assert shift.mean(0).abs().max() < 0.01


def test_colour_parameters_are_within_bounds_and_balanced() -> None:
    _, _, colour = affine(1, 0, EVERY)
    exponents, gain = colour[:, :3].double(), colour[:, 3].double()
    for channel in exponents.unbind(1):
        assert channel.min() >= 1 / (1 + STAIN) - 1e-6 and channel.max() <= 1 + STAIN + 1e-6
        assert channel.max() > 1 + 0.95 * STAIN and channel.log().mean().abs() < 0.01
    assert gain.min() >= 1 - BRIGHTNESS - 1e-6 and gain.max() <= 1 + BRIGHTNESS + 1e-6
    assert abs(gain.mean() - 1) < 0.005
    assert np.abs(np.corrcoef(colour.T.numpy()) - np.eye(4)).max() < 0.08


@settings(max_examples=20)
@given(st.integers(4, 40), st.integers(4, 80), st.integers(0, 100))
def test_evaluation_is_the_identity_with_an_offset(size: int, side: int, seed: int) -> None:
    assume(side != size)
    images = noise(2, side, seed)
    pooled = side // (2 * size) if side >= 4 * size else 1
    off = torch.full((2, 2), 2 * OFFSET / (side // pooled))
    unchanged = resample(images, size, torch.eye(2).repeat(2, 1, 1), off)
    torch.testing.assert_close(unchanged, resample(images, size), atol=1e-4, rtol=0)


def test_a_source_of_the_final_size_is_unchanged() -> None:
    images = noise(3, 32)
    assert torch.equal(resample(images, 32), images.permute(0, 3, 1, 2) / 255)


def test_evaluation_is_a_mean_of_neighbours_then_of_two_by_two() -> None:
    images = noise(3, 32)
    np.testing.assert_allclose(resample(images, 16).numpy(), slow_evaluation(images.numpy()), atol=1e-5)
    # With a much finer source every pixel contributes.
    fine = noise(3, 64)
    averaged = fine.numpy().reshape(3, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(resample(fine, 8).numpy(), slow_evaluation(averaged), atol=1e-5)


def slow_evaluation(pixels: np.ndarray) -> np.ndarray:
    """Oracle for pixels [N, S, S, 3]: interpolate each with its right and lower neighbours by OFFSET, then average 2×2."""
    count, side = pixels.shape[:2]
    for axis in (1, 2):  # the image is reflected at the border, so that the last pixel is its own neighbour
        following = np.concatenate([np.take(pixels, range(1, side), axis), np.take(pixels, [side - 1], axis)], axis)
        pixels = (1 - OFFSET) * pixels + OFFSET * following
    return pixels.reshape(count, side // 2, 2, side // 2, 2, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2) / 255


# ---- sharpness -------------------------------------------------------------------------------------------------------


SHARPNESS = (
    0.05  # tolerance; sampling without the offset would be 15 % sharper, rotating at the final size 42 % less sharp
)


def texture(count: int, side: int) -> Tensor:
    """Grain as fine as that of a scaled photograph of chromatin, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(0)
    grain = np.stack([ndimage.gaussian_filter(rng.normal(size=(side, side)), 1.2, mode="wrap") for _ in range(count)])
    grey = (128 + 35 * grain / grain.std()).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(grey[..., None].repeat(3, axis=3))


def sharpness(views: Tensor) -> float:
    """Mean squared difference of neighbouring pixels in the middle of the views, away from the border."""
    margin = views.shape[-1] // 5
    middle = views[..., margin:-margin, margin:-margin]
    return float((middle.diff(dim=2)[..., :-1] ** 2 + middle.diff(dim=3)[..., :-1, :] ** 2).mean())


@pytest.mark.parametrize("degrees", [10, 27, 45, 80])
def test_rotated_views_are_as_sharp_as_evaluation_views(degrees: float) -> None:
    images = texture(8, 128)
    evaluation = resample(images, 64)
    rotated = resample(images, 64, rotation(degrees, 8), torch.zeros(8, 2))
    assert sharpness(rotated) == pytest.approx(sharpness(evaluation), rel=SHARPNESS)
    # The check can fail: without the offset an image is too sharp, and rotated at the final size it is too blurred.
    without_offset = resample(images, 64, torch.eye(2).repeat(8, 1, 1), torch.zeros(8, 2))
    assert sharpness(without_offset) > (1 + 2 * SHARPNESS) * sharpness(evaluation)
    grid = sampling_grid(rotation(degrees, 8), torch.zeros(8, 2), 64)
    blurred = functional.grid_sample(evaluation, grid, padding_mode="reflection", align_corners=False)
    assert sharpness(blurred) < (1 - 2 * SHARPNESS) * sharpness(evaluation)


# ---- whole views -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["zeros", "reflection"])
def test_augment_is_the_geometry_then_the_colour(padding: str) -> None:
    images, indices = noise(5, 32), np.array([4, 1, 7, 9, 2])
    geometry, shift, colour = affine(3, 8, indices)
    grid = sampling_grid(geometry, shift, 32).double()
    pixels = images.permute(0, 3, 1, 2).double() / 255
    sampled = functional.grid_sample(pixels, grid, padding_mode=padding, align_corners=False)
    views = functional.avg_pool2d(sampled, 2).numpy()
    exponent, gain = colour.numpy()[:, :3, None, None], colour.numpy()[:, 3:, None, None]
    density = -np.log(views.clip(1e-4))  # Beer-Lambert law
    expected = (np.exp(-exponent * density) * gain).clip(0, 1)
    np.testing.assert_allclose(augment(images, 16, 3, 8, indices, padding).numpy(), expected, atol=1e-4)


def test_padding_beyond_a_rotated_window() -> None:
    """The corners around a cell that fills its window are black with zeros, and stained with reflection."""
    cell, smear = disc(64, 31.5).repeat(64, 1, 1, 1), torch.full((64, 64, 64, 3), 200, dtype=torch.uint8)
    corners = [0, 0, -1, -1], [0, -1, 0, -1]
    assert resample(cell, 32, rotation(45, 64), torch.zeros(64, 2), "zeros")[:, :, *corners].max() == 0
    assert resample(smear, 32, rotation(45, 64), torch.zeros(64, 2)).min() > 0.6
    on_smear, on_black, reflected = (
        augment(images, 32, 0, 0, np.arange(64), padding)
        for images, padding in ((smear, "reflection"), (cell, "zeros"), (cell, "reflection"))
    )
    assert on_smear.min() > 0.6 and on_smear.max() <= 1
    assert on_black[:, :, *corners].max() < 0.5 / 255 < 0.1 < reflected[:, :, *corners].max()
    torch.testing.assert_close(on_black[:, :, 12:20, 12:20], reflected[:, :, 12:20, 12:20])


def test_normalise_gives_zero_mean_and_unit_variance_channels_last() -> None:
    images = resample(noise(8, 32), 16)
    mean, std = tuple(images.mean((0, 2, 3)).tolist()), tuple(images.std((0, 2, 3), correction=0).tolist())
    done = normalise(images, mean, std)
    torch.testing.assert_close(done.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(done.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert done.is_contiguous(memory_format=torch.channels_last)
    apart = normalise(torch.full((1, 3, 2, 2), 0.5), (0.5, 0.4, 0.6), (1.0, 0.1, 0.2))
    torch.testing.assert_close(apart[0, :, 0, 0], torch.tensor([0.0, 1.0, -0.5]))


# ---- the parts of --augmentation -------------------------------------------------------------------------------------


def test_without_augmentation_the_view_is_that_of_evaluation() -> None:
    images = noise(5, 48)
    assert torch.equal(augment(images, 16, 0, 0, np.arange(5), augmentation="none"), resample(images, 16))


def test_d4_gives_the_eight_views_equally_often() -> None:
    image = noise(1, 32)
    # Without the offset, rotating the source gives the same views.
    rotated = [image.rot90(quarter, (1, 2)) for quarter in range(4)]
    sources = torch.cat([*rotated, *(view.flip(2) for view in rotated)])
    expected = resample(sources, 16, torch.eye(2).repeat(8, 1, 1), torch.zeros(8, 2))
    geometry, shift, colour = draw_augmentation(0, 0, EVERY, "d4")
    assert shift is None and colour is None and geometry is not None
    views = resample(image.expand(len(EVERY), -1, -1, -1), 16, geometry, torch.zeros(len(EVERY), 2))
    distance = (views[:, None] - expected[None]).abs().amax(dim=(2, 3, 4))
    assert distance.amin(dim=1).max() < 1e-4
    counts = torch.bincount(distance.argmin(dim=1), minlength=8)
    assert counts.min() > len(EVERY) / 8 * 0.8 and counts.max() < len(EVERY) / 8 * 1.2


@pytest.mark.parametrize(
    ("augmentation", "expected"), [("geometry,colour", (0, 1, 2)), ("geometry,mixup", (0, 1)), ("colour", (2,))]
)
def test_a_part_draws_the_same_alone_and_with_others(augmentation: str, expected: tuple[int, ...]) -> None:
    everything = affine(5, 2, EVERY)
    for index, values in enumerate(draw_augmentation(5, 2, EVERY, augmentation)):
        assert (values is not None) == (index in expected)
        assert values is None or torch.equal(values, everything[index])


@given(st.lists(st.sampled_from([*PARTS, "none", "", "flip"]), max_size=4))
def test_an_augmentation_is_a_selection_of_parts(names: list[str]) -> None:
    text, parts = ",".join(names), set(names)
    invalid = not parts <= set(PARTS) or not names or {"d4", "geometry"} <= parts or {"mixup", "cutmix"} <= parts
    if invalid and text != "none":
        with pytest.raises(UserError, match="--augmentation"):
            parts_of(text)
    else:
        assert parts_of(text) == parts - {"none"}
