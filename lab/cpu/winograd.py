"""3×3 convolutions and the gradients of their weights in fewer multiplications, for float32 on the CPU.

Winograd's algorithm computes m×m outputs from a tile of (m+2)×(m+2) inputs with (m+2)² multiplications instead of 9·m². For m = 4
these are a quarter (Lavin and Gray 2015, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, §4). For each
position within a tile the multiplications are one product of two large matrices. Results differ from PyTorch's by rounding, by
less than 1e-4 of the largest value (``tests/lab/cpu/test_winograd.py``).

Lavin and Gray write a convolution as Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, where d is a tile of the input, g a filter and Y a tile of
the output. Y is linear in g, so the gradient of the filter is the transpose of this map. The gradient of the input is itself a
convolution: of the gradient of the output, with the filters turned by 180° (:func:`gradient_of_input`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# The largest number of float32 values in one buffer of tiles, 8 MB. A larger batch is processed in parts.
BUFFER = 2_000_000


class Transform(NamedTuple):
    """The transforms of F(m×m, 3×3) as matrices that multiply flattened tiles and filters; a = m + 2."""

    m: int
    Bt: Tensor  # Bᵀ ⊗ Bᵀ, [a², a²]: multiplies a tile of the input
    G: Tensor  # G ⊗ G, [a², 9]: multiplies a filter
    At: Tensor  # Aᵀ ⊗ Aᵀ, [m², a²]: maps the products to a tile of the output


@functools.cache
def transform(m: int) -> Transform:
    """The matrices of Lavin and Gray, §4.1 (m = 2) and §4.3 (m = 4)."""
    if m == 2:
        Bt = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
        G = [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]
        At = [[1, 1, 1, 0], [0, 1, -1, -1]]
    else:
        Bt = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
        Bt += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
        G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
        G += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
        At = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    matrices = [torch.tensor(rows, dtype=torch.float64) for rows in (Bt, G, At)]
    return Transform(m, *(torch.kron(matrix, matrix).float() for matrix in matrices))


def tile_side(images: int, height: int, width: int, channels: int) -> int:
    """m: 4; 2 for small images, or if there are so few tiles that transforming the filters costs more than m = 4 saves."""
    tiles = images * -(-height // 4) * -(-width // 4)
    return 4 if min(height, width) > 2 and 4 * tiles >= channels else 2


def split_input(input: Tensor, m: int, rows: int, columns: int) -> Tensor:
    """Overlapping tiles of the zero-padded ``input`` [N, C, H, W]: a view [a, a, N, rows, columns, C], where a = m + 2."""
    # Channels last: all channels of a pixel are adjacent, so that a tile is copied in long runs.
    bottom, right = rows * m - input.shape[2], columns * m - input.shape[3]
    padded = functional.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1 + right, 1, 1 + bottom))
    image, row, column, channel = padded.stride()
    shape = (m + 2, m + 2, len(input), rows, columns, input.shape[1])
    return padded.as_strided(shape, (row, column, image, row * m, column * m, channel))


def split_output(grad_output: Tensor, m: int, rows: int, columns: int) -> Tensor:
    """Tiles of ``grad_output`` [N, O, H, W], zero-padded to whole tiles: a view [m, m, N, rows, columns, O]."""
    bottom, right = rows * m - grad_output.shape[2], columns * m - grad_output.shape[3]
    padded = functional.pad(grad_output.permute(0, 2, 3, 1), (0, 0, 0, right, 0, bottom))
    return padded.unflatten(1, (rows, m)).unflatten(3, (columns, m)).permute(2, 4, 0, 1, 3, 5)


def tiling(input: Tensor, outputs: int) -> tuple[Transform, int, int, int]:
    """For ``input`` [N, C, H, W]: the transform, the rows and columns of tiles, and how many images fit into a buffer."""
    images, inputs, height, width = input.shape
    chosen = transform(tile_side(images, height, width, max(inputs, outputs)))
    rows, columns = -(-height // chosen.m), -(-width // chosen.m)
    fits = BUFFER // (len(chosen.Bt) * rows * columns * max(inputs, outputs))
    return chosen, rows, columns, max(1, min(images, fits))


def transformed_filters(weight: Tensor, m: int, turned: bool = False) -> Tensor:
    """The filters of ``weight`` [O, C, 3, 3], [a², C, O]. If ``turned``, they are turned by 180° and map outputs to inputs,
    [a², O, C], as the gradient of the input needs them."""
    G = transform(m).G
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    filters = ((G.flip(1) if turned else G) @ taps).view(len(G), *weight.shape[:2])
    return filters if turned else filters.mT


def convolution(input: Tensor, weight: Tensor) -> Tensor:
    """A 3×3 convolution of stride 1 and padding 1: ``input`` [N, C, H, W], ``weight`` [O, C, 3, 3] → [N, O, H, W]."""
    return convolve(input, transformed_filters(weight, tiling(input, len(weight))[0].m))


def gradient_of_input(grad_output: Tensor, weight: Tensor) -> Tensor:
    """The gradient with respect to the input of :func:`convolution`, [N, C, H, W]."""
    m = tiling(grad_output, weight.shape[1])[0].m
    return convolve(grad_output, transformed_filters(weight, m, turned=True))


def convolve(input: Tensor, filters: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """``input`` [N, C, H, W] convolved with transformed ``filters`` [a², C, O], plus ``bias`` [O], then ReLU if ``relu``."""
    (images, inputs, height, width), outputs = input.shape, filters.shape[2]
    (m, Bt, _, At), rows, columns, at_once = tiling(input, outputs)
    tiles = split_input(input, m, rows, columns)
    output = input.new_empty(images, rows, m, columns, m, outputs)
    for first in range(0, images, at_once):
        part = slice(first, first + at_once)
        transformed = (Bt @ tiles[:, :, part].reshape(len(Bt), -1)).view(len(Bt), -1, inputs)
        products = torch.bmm(transformed, filters).view(len(Bt), -1)
        output_tiles = (At @ products).view(m, m, -1, rows, columns, outputs)
        if bias is not None:
            output_tiles += bias
        if relu:
            output_tiles.relu_()
        output[part].permute(2, 4, 0, 1, 3, 5).copy_(output_tiles)
    whole = output.view(images, rows * m, columns * m, outputs)[:, :height, :width]
    return whole.contiguous().permute(0, 3, 1, 2)


def gradient_of_weight(grad_output: Tensor, input: Tensor) -> Tensor:
    """The gradient with respect to the weight of :func:`convolution`, [O, C, 3, 3], channels-last."""
    inputs, outputs = input.shape[1], grad_output.shape[1]
    (m, Bt, G, At), rows, columns, at_once = tiling(input, outputs)
    input_tiles, output_tiles = split_input(input, m, rows, columns), split_output(grad_output, m, rows, columns)
    grad_filters = input.new_zeros(len(Bt), outputs, inputs)
    for first in range(0, len(input), at_once):
        part = slice(first, first + at_once)
        transformed = (Bt @ input_tiles[:, :, part].reshape(len(Bt), -1)).view(len(Bt), -1, inputs)
        grad_products = (At.T @ output_tiles[:, :, part].reshape(m * m, -1)).view(len(Bt), -1, outputs)
        grad_filters.baddbmm_(grad_products.mT, transformed)
    grad_weight = (G.T @ grad_filters.view(len(Bt), -1)).view(3, 3, outputs, inputs).permute(2, 0, 1, 3)
    return grad_weight.contiguous().permute(0, 3, 1, 2)
