"""Convolutions as products of matrices against PyTorch's in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from lab.cpu import products
from tests.lab.cpu.convolutions import convolutions, reference, relative_error

# bf16 keeps 8 bits; inputs are rounded before the reference, so that only the result's rounding remains.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


def check(convolution: tuple[Tensor, Tensor, Tensor, int], dtype: torch.dtype) -> None:
    """All passes have the shapes, the precision and the values of the reference."""
    grad_output, input, weight = (tensor.to(dtype) for tensor in convolution[:3])
    stride = convolution[3]
    found = (
        products.convolution(input, weight, stride),
        products.gradient_of_input(grad_output, input, weight, stride),
        products.gradient_of_weight(grad_output, input, weight, stride),
    )
    for result, true in zip(found, reference(grad_output, input, weight, stride), strict=True):
        assert result.shape == true.shape and result.dtype == dtype
        assert relative_error(result, true) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(max_examples=40, deadline=None)
@given(convolutions(kernel=3, largest=9, strides=3))
def test_3x3_passes_are_pytorchs(dtype: torch.dtype, convolution: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """For any shape and stride, also for images of one pixel, which only the centre of a filter meets."""
    check(convolution, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(max_examples=40, deadline=None)
@given(convolutions(kernel=1, largest=9, strides=3))
def test_1x1_passes_are_pytorchs(dtype: torch.dtype, convolution: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """For any stride; the gradient of skipped pixels is 0."""
    check(convolution, dtype)


def test_pixels_are_not_copied_for_1x1() -> None:
    """Copies would take longer than the products of small layers."""
    input = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    assert products.patches(input, 1, 1).data_ptr() == input.data_ptr()
