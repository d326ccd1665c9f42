"""Gradients of convolutions with fewer multiplications: for training in float32 on a processor.

Most of a training step are the backward passes of its convolutions, which the libraries compute directly. Winograd's way
computes m×m places of a 3×3 convolution from an (m+2)×(m+2) tile in (m+2)² products in place of 9·m², a quarter of them for
m = 4 (Lavin and Gray 2015, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, §4). Each product is then
one of large matrices, which a processor does best; so is the gradient of a 1×1 convolution. The forward pass stays the
library's, to the bit, and gradients differ by rounding, by less than 1e-4 of the largest (``tests/test_winograd.py``).

A gradient is the transpose of the way forward, Y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A, in each of its two factors.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.hardware import Hardware
from lab.text import counted

# Numbers in one buffer of tiles, 16 MB: what does not fit is done image after image.
BUFFER = 4_000_000
# Below this many channels, moving numbers into tiles and back costs more than the products save. This and the rule of tile_side
# come from timing single layers on one processor (AVX2, two cores), by a script that was not kept.
LEAST_CHANNELS = 128


class Transform(NamedTuple):
    """F(m×m, 3×3) with a = m + 2: what a flattened tile, filter and product are multiplied by."""

    m: int
    data: Tensor  # Bᵀ ⊗ Bᵀ, [a², a²]
    filter: Tensor  # G ⊗ G, [a², 9]
    output: Tensor  # Aᵀ ⊗ Aᵀ, [m², a²]


@functools.cache
def transform(m: int) -> Transform:
    """The matrices of Lavin and Gray, §4.1 (m = 2) and §4.3 (m = 4)."""
    if m == 2:
        data = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
        filters = [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]
        output = [[1, 1, 1, 0], [0, 1, -1, -1]]
    else:
        data = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
        data += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
        filters = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
        filters += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
        output = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    matrices = [torch.tensor(rows, dtype=torch.float64) for rows in (data, filters, output)]
    return Transform(m, *(torch.kron(matrix, matrix).float() for matrix in matrices))


def tile_side(images: int, height: int, width: int, channels: int) -> int:
    """m: 4, or 2 where the image is that small, or tiles so few that transforming the filters costs more than it saves."""
    tiles = images * -(-height // 4) * -(-width // 4)
    return 4 if min(height, width) > 2 and 4 * tiles >= channels else 2


def gradients_3x3(gradient: Tensor, x: Tensor, weight: Tensor, wants_input: bool) -> tuple[Tensor | None, Tensor]:
    """Gradients of a 3×3 convolution, stride 1, padding 1, with respect to its input (where wanted) and its weight.

    ``gradient`` [N, O, H, W], ``x`` [N, C, H, W], ``weight`` [O, C, 3, 3] → [N, C, H, W] or None, [O, C, 3, 3].
    """
    (images, inputs, height, width), outputs = x.shape, len(weight)
    if height == width == 1:  # only the middle of the filter sees the image
        of_input, of_middle = gradients_1x1(gradient, x, weight[:, :, 1:2, 1:2], 1, wants_input)
        of_filter = torch.zeros_like(weight, memory_format=torch.channels_last)
        of_filter[:, :, 1:2, 1:2] = of_middle
        return of_input, of_filter
    m, data, filters, output = transform(tile_side(images, height, width, max(inputs, outputs)))
    a, down, right = m + 2, -(-height // m), -(-width // m)  # tiles down and right
    squares, tiles = a * a, down * right
    # Channels last: what moves into a tile and back moves in runs of all channels.
    below, beside = down * m - height, right * m - width
    padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + beside, 1, 1 + below))
    told = functional.pad(gradient.permute(0, 2, 3, 1), (0, 0, 0, beside, 0, below))
    by_image, by_row, by_column, by_channel = padded.stride()
    windows = padded.as_strided(
        (a, a, images, down, right, inputs), (by_row, by_column, by_image, by_row * m, by_column * m, by_channel)
    )
    filtered = weight_gradient = None
    if wants_input:
        filtered = (filters @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(squares, outputs, inputs)
        # One more tile down and right: the last tiles reach two rows and columns over their own.
        whole = x.new_zeros(images, down + 1, m, right + 1, m, inputs)
    at_once = max(1, min(images, BUFFER // (squares * tiles * max(inputs, outputs))))
    for first in range(0, images, at_once):
        part = slice(first, min(images, first + at_once))
        count = (part.stop - part.start) * tiles
        moved = (data @ windows[:, :, part].reshape(squares, -1)).view(squares, count, inputs)
        told_tiles = told[part].reshape(-1, down, m, right, m, outputs).permute(2, 4, 0, 1, 3, 5)
        spread = (output.T @ told_tiles.reshape(m * m, -1)).view(squares, count, outputs)
        if weight_gradient is None:
            weight_gradient = torch.bmm(spread.mT, moved)
        else:
            weight_gradient.baddbmm_(spread.mT, moved)
        if filtered is None:
            continue
        products = torch.bmm(spread, filtered, out=moved)
        tile = (data.T @ products.view(squares, -1)).view(a, a, -1, down, right, inputs)
        # Neighbouring tiles overlap by two: what reaches over is added to the next one's first two rows and columns.
        target = whole[part].permute(2, 4, 0, 1, 3, 5)
        target[:, :, :, :down, :right] = tile[:m, :m]
        target[:2, :, :, 1:, :right] += tile[m:, :m]
        target[:, :2, :, :down, 1:] += tile[:m, m:]
        target[:2, :2, :, 1:, 1:] += tile[m:, m:]
    assert weight_gradient is not None
    of_weight = (filters.T @ weight_gradient.view(squares, -1)).view(3, 3, outputs, inputs).permute(2, 0, 1, 3)
    of_input = None
    if filtered is not None:
        flat = whole.view(images, (down + 1) * m, (right + 1) * m, inputs)
        of_input = flat[:, 1 : 1 + height, 1 : 1 + width].contiguous().permute(0, 3, 1, 2)
    return of_input, of_weight.contiguous().permute(0, 3, 1, 2)


def gradients_1x1(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, wants_input: bool
) -> tuple[Tensor | None, Tensor]:
    """The same of a 1×1 convolution of any stride, which is one product of matrices for all places of all images."""
    outputs, inputs = weight.shape[:2]
    told = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
    seen = x.permute(0, 2, 3, 1)[:, ::stride, ::stride]
    of_weight = (told.T @ seen.reshape(-1, inputs)).view(outputs, 1, 1, inputs).permute(0, 3, 1, 2)
    if not wants_input:
        return None, of_weight
    of_seen = (told @ weight[:, :, 0, 0]).view(seen.shape)
    if stride == 1:
        return of_seen.permute(0, 3, 1, 2), of_weight
    of_input = torch.zeros_like(x, memory_format=torch.channels_last)
    of_input.permute(0, 2, 3, 1)[:, ::stride, ::stride] = of_seen
    return of_input, of_weight


class Convolve(torch.autograd.Function):
    """The library's convolution, with the gradients of this module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (x, weight), wants_input = ctx.saved_tensors, ctx.needs_input_grad[0]
        if weight.shape[2] == 1:
            return *gradients_1x1(gradient, x, weight, ctx.stride, wants_input), None
        return *gradients_3x3(gradient, x, weight, wants_input), None


class Conv2d(nn.Conv2d):
    """A convolution, 3×3 at stride 1 or 1×1, whose gradients are those of this module where it computes in float32 on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        usual = x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        # A bias is there once a norm was folded in. torch.compile makes kernels of its own, of the library's gradients.
        if usual or self.bias is not None or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        result: Tensor = Convolve.apply(x, self.weight, self.stride[0])
        return result


def use_fast_gradients(network: nn.Module, hardware: Hardware) -> int:
    """Give the convolutions of ``network`` that gain by it the gradients of this module, where ``hardware`` does; say so, and
    return how many."""
    if hardware.device.type != "cpu" or hardware.precision != "fp32":
        return 0
    count = 0
    for module in network.modules():
        if type(module) is nn.Conv2d and gains(module):
            module.__class__ = Conv2d  # the parameters, and their names, stay
            count += 1
    many = counted(count, "convolution")
    print(f"gradients: of {many} by products of large matrices (3×3: Winograd's), faster in float32 on a processor")
    return count


def gains(convolution: nn.Conv2d) -> bool:
    """Whether this is a convolution for which :class:`Conv2d` can stand, and faster."""
    kernel, stride = convolution.kernel_size, convolution.stride
    return (
        ((kernel == (1, 1) and stride[0] == stride[1]) or (kernel == (3, 3) and stride == (1, 1)))
        and convolution.padding == (kernel[0] // 2,) * 2
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and convolution.bias is None
        and min(convolution.in_channels, convolution.out_channels) >= LEAST_CHANNELS
    )
