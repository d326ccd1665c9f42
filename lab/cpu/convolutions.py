"""Convolutions of which each pass uses the algorithm that was chosen for its shape, for training and evaluation on the CPU.

A pass is the output, the gradient of the input, or the gradient of the weight. PyTorch's own passes (oneDNN) are fast for large
images with few channels; the gradients of small images with many channels take it several times as long as a product of matrices.
Which algorithm is fastest depends on the CPU, the precision and the number of threads, so ``lab/cpu/fastest.py`` measures it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.cpu import products, winograd

PYTORCH, PRODUCT, WINOGRAD = "pytorch", "product", "winograd"
PRECISIONS = torch.float32, torch.bfloat16


class Shape(NamedTuple):
    """What the speed of a convolution depends on, besides the number of images: ``height`` and ``width`` are the input's."""

    precision: str
    kernel: int
    stride: int
    inputs: int
    outputs: int
    height: int
    width: int

    def __str__(self) -> str:
        """Such as ``fp32 3x3/1 64-128 16x16``."""
        kernel = f"{self.kernel}x{self.kernel}/{self.stride}"
        return f"{self.precision} {kernel} {self.inputs}-{self.outputs} {self.height}x{self.width}"

    def possible(self) -> list[str]:
        """The algorithms that can compute a convolution of this shape."""
        fits_winograd = self.precision == "fp32" and (self.kernel, self.stride) == (3, 1)
        return [PYTORCH, PRODUCT, *[WINOGRAD] * fits_winograd]


class Algorithms(NamedTuple):
    """The algorithm of each pass."""

    output: str
    grad_input: str
    grad_weight: str


Table = dict[str, str]  # from a shape to its algorithms, both as text, so that a checkpoint can contain it


ALL_PYTORCH = Algorithms(PYTORCH, PYTORCH, PYTORCH)


def fixed_algorithms(shape: Shape) -> Algorithms:
    """The algorithms without a measurement. On every CPU that was tried, PyTorch's float32 gradients of 128 channels and more are
    slower than these."""
    strided = shape.kernel > 1 and shape.stride > 1
    if shape.precision != "fp32" or min(shape.inputs, shape.outputs) < 128 or strided:
        return ALL_PYTORCH
    gradients = PRODUCT if shape.kernel == 1 or shape.height == shape.width == 1 else WINOGRAD
    return Algorithms(PYTORCH, gradients, gradients)


def look_up(table: Table, shape: Shape) -> Algorithms | None:
    """The algorithms of a shape in a table, or None if it has none that can compute the shape."""
    names = str(table.get(str(shape), "")).split()
    valid = len(names) == len(ALL_PYTORCH) and set(names) <= set(shape.possible())
    return Algorithms(*names) if valid else None


def output(algorithm: str, input: Tensor, weight: Tensor, stride: int, bias: Tensor | None = None) -> Tensor:
    """``input`` [N, C, H, W] convolved with ``weight`` [O, C, k, k], padding k // 2, plus ``bias`` [O] → [N, O, H', W']."""
    if algorithm == PYTORCH:
        return functional.conv2d(input, weight, bias, stride=stride, padding=weight.shape[2] // 2)
    by_product = algorithm == PRODUCT
    convolved = products.convolution(input, weight, stride) if by_product else winograd.convolution(input, weight)
    return convolved if bias is None else convolved + bias[:, None, None]


def grad_input(algorithm: str, grad_output: Tensor, input: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient of :func:`output` with respect to ``input``."""
    if algorithm == PRODUCT:
        return products.gradient_of_input(grad_output, input, weight, stride)
    if algorithm == WINOGRAD:
        return winograd.gradient_of_input(grad_output, weight)
    gradient, _ = pytorch_gradients(grad_output, input, weight, stride, of_input=True, of_weight=False)
    assert gradient is not None
    return gradient


def grad_weight(algorithm: str, grad_output: Tensor, input: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient of :func:`output` with respect to ``weight``, channels-last like the weight."""
    if algorithm == PRODUCT:
        return products.gradient_of_weight(grad_output, input, weight, stride)
    if algorithm == WINOGRAD:
        return winograd.gradient_of_weight(grad_output, input)
    _, gradient = pytorch_gradients(grad_output, input, weight, stride, of_input=False, of_weight=True)
    assert gradient is not None
    return gradient


def pytorch_gradients(
    grad_output: Tensor, input: Tensor, weight: Tensor, stride: int, of_input: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """PyTorch's gradients with respect to the input and the weight, each if asked for."""
    geometry = ([stride] * 2, [weight.shape[2] // 2] * 2, [1, 1], False, [0, 0], 1)
    mask = [of_input, of_weight, False]
    gradients = torch.ops.aten.convolution_backward(grad_output, input, weight, None, *geometry, mask)
    return gradients[0], gradients[1]


class ConvolutionFunction(torch.autograd.Function):
    """A convolution whose three passes use the given algorithms, in the precision of the input. The gradient of the weight has
    this precision too; autograd converts it to that of ``weight.grad``."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: int, algorithms: Algorithms
    ) -> Tensor:
        weight = weight.to(input.dtype)
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.algorithms = stride, algorithms
        return output(algorithms.output, input, weight, stride, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (input, weight), (needs_input, needs_weight, needs_bias, *_) = ctx.saved_tensors, ctx.needs_input_grad
        _, for_input, for_weight = ctx.algorithms
        tensors = grad_output, input, weight, ctx.stride
        of_input = of_weight = None
        if for_input == for_weight == PYTORCH:
            of_input, of_weight = pytorch_gradients(*tensors, needs_input, needs_weight)
        else:
            of_input = grad_input(for_input, *tensors) if needs_input else None
            of_weight = grad_weight(for_weight, *tensors) if needs_weight else None
        return of_input, of_weight, grad_output.sum((0, 2, 3)) if needs_bias else None, None, None


class Convolution2d(nn.Conv2d):
    """A convolution that on the CPU looks its algorithms up in ``table``; shapes that are not in it have PyTorch's. With an empty
    table, the algorithms are fixed.

    It shares the weight and the bias of the ``convolution`` that it replaces, for which :func:`replaceable` must hold.
    """

    def __init__(self, convolution: nn.Conv2d, table: Table) -> None:
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
        self.use(table)
        self.train(convolution.training)

    def use(self, table: Table) -> None:
        """Look the algorithms up in another table."""
        self.table = table
        self.found: dict[Shape, Algorithms] = {}  # what earlier look-ups returned

    def shape(self, input: Tensor) -> Shape:
        """The shape of the convolution of ``input`` in the precision of the present context."""
        bf16 = torch.is_autocast_enabled("cpu") or input.dtype == torch.bfloat16
        return Shape(
            "bf16" if bf16 else "fp32", self.kernel_size[0], self.stride[0], *self.weight.shape[1::-1], *input.shape[2:]
        )

    def algorithms(self, shape: Shape) -> Algorithms:
        """The algorithms of a shape."""
        if shape not in self.found:
            fixed = not self.table
            self.found[shape] = fixed_algorithms(shape) if fixed else look_up(self.table, shape) or ALL_PYTORCH
        return self.found[shape]

    def forward(self, input: Tensor) -> Tensor:
        # torch.compile generates kernels of its own.
        if input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        algorithms = self.algorithms(self.shape(input)) if dtype in PRECISIONS else ALL_PYTORCH
        if algorithms == ALL_PYTORCH:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.to(dtype)
        output: Tensor = ConvolutionFunction.apply(input.to(dtype), self.weight, bias, self.stride[0], algorithms)
        return output


def replaceable(convolution: nn.Conv2d) -> bool:
    """Whether the algorithms of this module compute this convolution."""
    kernel = convolution.kernel_size[0]
    return (
        convolution.kernel_size in ((1, 1), (3, 3))
        and convolution.stride[0] == convolution.stride[1]
        and convolution.padding == (kernel // 2,) * 2
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and min(convolution.in_channels, convolution.out_channels) > 3
    )


def replace_convolutions(network: nn.Module, table: Table) -> int:
    """Make the convolutions within ``network`` use a ``table``; returns their number. Parameters and their names stay."""
    count = 0
    for name, module in network.named_children():
        if type(module) is nn.Conv2d and replaceable(module):
            module = Convolution2d(module, table)
            setattr(network, name, module)
        if isinstance(module, Convolution2d):
            module.use(table)
            count += 1
        else:
            count += replace_convolutions(module, table)
    return count
