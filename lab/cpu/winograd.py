"""Gradients of convolutions in fewer multiplications, for training in float32 on the CPU.

The backward passes of the convolutions take most of the time of a training step. For a 3×3 convolution this module uses
Winograd's algorithm: it computes m×m outputs from a tile of (m+2)×(m+2) inputs with (m+2)² multiplications instead of 9·m²,
a quarter of them for m = 4 (Lavin and Gray 2015, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, §4).
For each position within a tile the multiplications are one product of two large matrices. The gradients of a 1×1 convolution
are such products too. The forward pass is PyTorch's, bit for bit; the gradients differ from PyTorch's by rounding, by less
than 1e-4 of the largest value (``tests/lab/cpu/test_winograd.py``).

Lavin and Gray write a convolution as Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, where d is a tile of the input, g a filter and Y a tile of
the output. Y is linear in d and in g, so the gradient with respect to either is the transpose of this map.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.hardware import Hardware
from lab.text import counted

# The largest number of float32 values in one buffer of tiles, 16 MB. A larger batch is processed in parts.
BUFFER = 4_000_000
# With fewer channels, copying values into tiles and back costs more than the products save. This limit and the rule of tile_side
# come from timing single layers on one CPU (AVX2, two cores), by a script that is not in this repository.
LEAST_CHANNELS = 128


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


def join_input(tiles: Tensor, target: Tensor) -> None:
    """Add the overlapping ``tiles`` [a, a, N, rows, columns, C] up in ``target`` [m, m, N, rows + 1, columns + 1, C], all zeros.

    Neighbouring tiles overlap by two rows and columns, so the last two of each are added to the first two of the next tile.
    """
    m = len(target)
    target[:, :, :, :-1, :-1] = tiles[:m, :m]
    target[:2, :, :, 1:, :-1] += tiles[m:, :m]
    target[:, :2, :, :-1, 1:] += tiles[:m, m:]
    target[:2, :2, :, 1:, 1:] += tiles[m:, m:]


def gradients_3x3(
    grad_output: Tensor, input: Tensor, weight: Tensor, needs_grad_input: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of a 3×3 convolution (stride 1, padding 1) with respect to its input, if needed, and its weight.

    ``grad_output`` [N, O, H, W], ``input`` [N, C, H, W], ``weight`` [O, C, 3, 3] → [N, C, H, W] or None, [O, C, 3, 3].
    """
    (images, inputs, height, width), outputs = input.shape, len(weight)
    if height == width == 1:
        return gradients_3x3_of_pixels(grad_output, input, weight, needs_grad_input)
    m, Bt, G, At = transform(tile_side(images, height, width, max(inputs, outputs)))
    squares, rows, columns = len(Bt), -(-height // m), -(-width // m)
    input_tiles, output_tiles = split_input(input, m, rows, columns), split_output(grad_output, m, rows, columns)
    filters, grad_filters = None, None
    if needs_grad_input:
        filters = (G @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(squares, outputs, inputs)
        # One more tile at the bottom and at the right: the last tiles extend two rows and columns beyond their own.
        grad_padded = input.new_zeros(images, rows + 1, m, columns + 1, m, inputs)
    images_at_once = max(1, min(images, BUFFER // (squares * rows * columns * max(inputs, outputs))))
    for first in range(0, images, images_at_once):
        part = slice(first, first + images_at_once)
        transformed = (Bt @ input_tiles[:, :, part].reshape(squares, -1)).view(squares, -1, inputs)
        grad_products = (At.T @ output_tiles[:, :, part].reshape(m * m, -1)).view(squares, -1, outputs)
        if grad_filters is None:
            grad_filters = torch.bmm(grad_products.mT, transformed)
        else:
            grad_filters.baddbmm_(grad_products.mT, transformed)
        if filters is not None:
            grad_transformed = torch.bmm(grad_products, filters, out=transformed)
            grad_tiles = Bt.T @ grad_transformed.view(squares, -1)
            target = grad_padded[part].permute(2, 4, 0, 1, 3, 5)
            join_input(grad_tiles.view(m + 2, m + 2, -1, rows, columns, inputs), target)
    assert grad_filters is not None
    grad_weight = (G.T @ grad_filters.view(squares, -1)).view(3, 3, outputs, inputs).permute(2, 0, 1, 3)
    grad_input = None
    if filters is not None:
        grad_padded = grad_padded.view(images, (rows + 1) * m, (columns + 1) * m, inputs)
        grad_input = grad_padded[:, 1 : 1 + height, 1 : 1 + width].contiguous().permute(0, 3, 1, 2)
    return grad_input, grad_weight.contiguous().permute(0, 3, 1, 2)


def gradients_3x3_of_pixels(
    grad_output: Tensor, input: Tensor, weight: Tensor, needs_grad_input: bool
) -> tuple[Tensor | None, Tensor]:
    """:func:`gradients_3x3` for images of one pixel, which only the centre of the filter meets."""
    middle = weight[:, :, 1:2, 1:2]
    grad_input, grad_middle = gradients_1x1(grad_output, input, middle, 1, needs_grad_input)
    grad_weight = torch.zeros_like(weight, memory_format=torch.channels_last)
    grad_weight[:, :, 1:2, 1:2] = grad_middle
    return grad_input, grad_weight


def gradients_1x1(
    grad_output: Tensor, input: Tensor, weight: Tensor, stride: int, needs_grad_input: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of a 1×1 convolution of any stride: one product of matrices over all pixels of all images for each.

    ``grad_output`` [N, O, H', W'], ``input`` [N, C, H, W], ``weight`` [O, C, 1, 1] → [N, C, H, W] or None, [O, C, 1, 1].
    """
    outputs, inputs = weight.shape[:2]
    grad_pixels = grad_output.permute(0, 2, 3, 1).reshape(-1, outputs)
    used = input.permute(0, 2, 3, 1)[:, ::stride, ::stride]
    grad_weight = (grad_pixels.T @ used.reshape(-1, inputs)).view(outputs, 1, 1, inputs).permute(0, 3, 1, 2)
    if not needs_grad_input:
        return None, grad_weight
    grad_used = (grad_pixels @ weight[:, :, 0, 0]).view(used.shape)
    if stride == 1:
        return grad_used.permute(0, 3, 1, 2), grad_weight
    grad_input = torch.zeros_like(input, memory_format=torch.channels_last)
    grad_input.permute(0, 2, 3, 1)[:, ::stride, ::stride] = grad_used
    return grad_input, grad_weight


class ConvolutionFunction(torch.autograd.Function):
    """PyTorch's convolution in the forward pass, the gradients of this module in the backward pass."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride = stride
        return functional.conv2d(input, weight, bias, stride=stride, padding=weight.shape[2] // 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        (input, weight), (needs_grad_input, _, needs_grad_bias, _) = ctx.saved_tensors, ctx.needs_input_grad
        grad_bias = grad_output.sum((0, 2, 3)) if needs_grad_bias else None
        if weight.shape[2] == 1:
            gradients = gradients_1x1(grad_output, input, weight, ctx.stride, needs_grad_input)
        else:
            gradients = gradients_3x3(grad_output, input, weight, needs_grad_input)
        return *gradients, grad_bias, None


class FastGradientConv2d(nn.Conv2d):
    """A convolution that uses the gradients of this module for float32 tensors on the CPU, and PyTorch's otherwise.

    It shares the weight and the bias of the ``convolution`` that it replaces, for which :func:`gains` must hold.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        # On the meta device no weight is drawn, so that the random numbers of the training stay the same.
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            bias=False,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        self.train(convolution.training)

    def forward(self, input: Tensor) -> Tensor:
        supported = input.device.type == "cpu" and input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        # torch.compile generates kernels for PyTorch's own gradients.
        if not supported or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(input)
        output: Tensor = ConvolutionFunction.apply(input, self.weight, self.bias, self.stride[0])
        return output


def gains(convolution: nn.Conv2d) -> bool:
    """Whether :class:`FastGradientConv2d` computes the gradients of this convolution, and faster than PyTorch does."""
    kernel, stride = convolution.kernel_size, convolution.stride
    return (
        ((kernel == (1, 1) and stride[0] == stride[1]) or (kernel == (3, 3) and stride == (1, 1)))
        and convolution.padding == (kernel[0] // 2,) * 2
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and min(convolution.in_channels, convolution.out_channels) >= LEAST_CHANNELS
    )


def replace_convolutions(network: nn.Module) -> int:
    """Replace the convolutions within ``network`` that gain by it; returns their number. Parameters and their names stay."""
    count = 0
    for name, module in network.named_children():
        if type(module) is nn.Conv2d and gains(module):
            setattr(network, name, FastGradientConv2d(module))
            count += 1
        else:
            count += replace_convolutions(module)
    return count


def use_fast_gradients(network: nn.Module, hardware: Hardware) -> int:
    """Use the gradients of this module in ``network`` on a CPU in float32. Prints and returns the number of convolutions."""
    if hardware.device.type != "cpu" or hardware.precision != "fp32":
        return 0
    count = replace_convolutions(network)
    algorithms = "as products of matrices (1×1) or by Winograd's algorithm (3×3)"
    print(f"gradients: of {counted(count, 'convolution')} {algorithms}, faster in float32 on the CPU")
    return count
