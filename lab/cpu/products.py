"""The passes of a convolution as products of matrices, in any precision: over the pixels for 1×1, over patches for 3×3.

Copying the patches costs memory traffic, but then one large product does all the arithmetic (Chellapilla, Puri and Simard 2006,
High Performance Convolutional Neural Networks for Document Processing). For small images with many channels this is often faster
than PyTorch's passes. Tensors are channels-last, so that the channels of a pixel are a row of a matrix without a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def patches(input: Tensor, kernel: int, stride: int) -> Tensor:
    """The zero-padded ``input`` [N, C, H, W] as one row per output pixel, [N·H'·W', kernel·kernel·C]."""
    images, channels, height, width = input.shape
    pixels = input.permute(0, 2, 3, 1)
    if kernel > 1:
        pixels = functional.pad(pixels, (0, 0, *(kernel // 2,) * 4))
    rows, columns = -(-height // stride), -(-width // stride)
    image, row, column, channel = pixels.stride()
    shape = (images, rows, columns, kernel, kernel, channels)
    return pixels.as_strided(shape, (image, row * stride, column * stride, row, column, channel)).reshape(
        images * rows * columns, -1
    )


def used_taps(weight: Tensor, height: int, width: int) -> Tensor:
    """The part of a filter that meets pixels: of an image of one pixel, its centre."""
    middle = weight.shape[2] // 2
    return weight[:, :, middle : middle + 1, middle : middle + 1] if height == width == 1 else weight


def convolution(input: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The convolution of ``input`` [N, C, H, W] with ``weight`` [O, C, k, k], k odd, padding k // 2 → [N, O, H', W']."""
    images, _, height, width = input.shape
    weight = used_taps(weight, height, width)
    matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
    output = patches(input, weight.shape[2], stride) @ matrix.T
    return output.view(images, -(-height // stride), -(-width // stride), len(weight)).permute(0, 3, 1, 2)


def gradient_of_input(grad_output: Tensor, input: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient with respect to ``input``: that of each patch, added up where patches overlap, in float32."""
    (images, channels, height, width), (rows, columns) = input.shape, grad_output.shape[2:]
    weight = used_taps(weight, height, width)
    outputs, _, kernel, _ = weight.shape
    matrix = weight.permute(0, 2, 3, 1).reshape(outputs, -1)
    grad_patches = grad_output.permute(0, 2, 3, 1).reshape(-1, outputs) @ matrix
    if kernel == stride == 1:
        return grad_patches.view(images, height, width, channels).permute(0, 3, 1, 2)
    grad_patches = grad_patches.view(images, rows, columns, kernel, kernel, channels)
    last_row, last_column = stride * (rows - 1) + kernel, stride * (columns - 1) + kernel
    edge, end = kernel // 2, kernel - 1
    shape = images, max(height + end, last_row), max(width + end, last_column), channels
    padded = torch.zeros(shape, dtype=torch.float32)
    for row in range(kernel):
        for column in range(kernel):
            target = padded[:, row : last_row - end + row : stride, column : last_column - end + column : stride]
            target += grad_patches[:, :, :, row, column]
    grad_input = padded[:, edge : edge + height, edge : edge + width]
    return grad_input.to(input.dtype).contiguous().permute(0, 3, 1, 2)


def gradient_of_weight(grad_output: Tensor, input: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient with respect to ``weight``, channels-last."""
    used = used_taps(weight, *input.shape[2:])
    outputs, channels, kernel, _ = used.shape
    pixels = grad_output.permute(0, 2, 3, 1).reshape(-1, outputs)
    grad_used = (pixels.T @ patches(input, kernel, stride)).view(outputs, kernel, kernel, channels).permute(0, 3, 1, 2)
    if used.shape == weight.shape:
        return grad_used
    grad_weight = torch.zeros_like(weight, memory_format=torch.channels_last)
    used_taps(grad_weight, *input.shape[2:]).copy_(grad_used)
    return grad_weight
