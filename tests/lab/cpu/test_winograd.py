"""Winograd's algorithm against PyTorch's convolutions in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional

from lab.cpu import winograd
from lab.cpu.winograd import transform
from tests.lab.cpu.convolutions import Pass, convolutions, reference, relative_error


def passes(grad_output: Tensor, input: Tensor, weight: Tensor) -> Pass:
    """The output and both gradients by Winograd's algorithm."""
    return (
        winograd.convolution(input, weight),
        winograd.gradient_of_input(grad_output, weight),
        winograd.gradient_of_weight(grad_output, input),
    )


@pytest.mark.parametrize("m", [2, 4])
def test_matrices_compute_a_convolution(m: int) -> None:
    """Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A is the convolution of one tile (Lavin and Gray 2015, equation 8)."""
    torch.manual_seed(0)
    tile, filter = torch.randn(m + 2, m + 2), torch.randn(3, 3)
    _, Bt, G, At = transform(m)
    found = At @ ((G @ filter.flatten()) * (Bt @ tile.flatten()))
    expected = functional.conv2d(tile[None, None], filter[None, None])[0, 0]
    torch.testing.assert_close(found.view(m, m), expected, atol=1e-4, rtol=0)


@settings(max_examples=60, deadline=None)
@given(convolutions(kernel=3, largest=13, strides=1))
def test_all_passes_are_pytorchs(convolution: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """For any shape, also if it is not a multiple of the tile."""
    for found, true in zip(passes(*convolution[:3]), reference(*convolution), strict=True):
        assert found.shape == true.shape
        assert relative_error(found, true) < 1e-4


def test_the_results_do_not_depend_on_the_size_of_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tensors = torch.randn(7, 8, 9, 6), torch.randn(7, 16, 9, 6), torch.randn(8, 16, 3, 3)
    whole = passes(*tensors)
    for size in (1, 36 * 6 * 16 * 3):
        monkeypatch.setattr(winograd, "BUFFER", size)
        for found, true in zip(passes(*tensors), whole, strict=True):
            assert relative_error(found, true) < 1e-5


@pytest.mark.parametrize(
    ("images", "side", "channels", "m"), [(32, 8, 256, 4), (32, 2, 512, 2), (32, 4, 512, 2), (128, 4, 512, 4)]
)
def test_tiles_are_large_unless_images_are_small_or_few(images: int, side: int, channels: int, m: int) -> None:
    assert winograd.tile_side(images, side, side, channels) == m
