"""Convolutions of any shape, and the oracle of their passes: PyTorch in float64."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

Pass = tuple[Tensor, Tensor, Tensor]  # output, gradient of the input, gradient of the weight


def reference(grad_output: Tensor, input: Tensor, weight: Tensor, stride: int) -> Pass:
    """PyTorch's output and gradients in float64."""
    input, weight = (tensor.double().requires_grad_() for tensor in (input, weight))
    output = functional.conv2d(input, weight, stride=stride, padding=weight.shape[2] // 2)
    grad_input, grad_weight = torch.autograd.grad(output, (input, weight), grad_output.double())
    return output.detach(), grad_input, grad_weight


def relative_error(found: Tensor, true: Tensor) -> float:
    """The largest difference divided by the largest true value."""
    return float((found - true).detach().abs().max() / true.detach().abs().max().clamp_min(1e-12))


@st.composite
def convolutions(draw: st.DrawFn, kernel: int, largest: int, strides: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """grad_output, input, weight and stride of a convolution of images of any height and width."""
    images, inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    height, width, stride = draw(st.integers(1, largest)), draw(st.integers(1, largest)), draw(st.integers(1, strides))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    input = torch.randn(images, inputs, height, width).contiguous(memory_format=torch.channels_last)
    grad_output = torch.randn(images, outputs, -(-height // stride), -(-width // stride))
    return grad_output, input, torch.randn(outputs, inputs, kernel, kernel), stride
