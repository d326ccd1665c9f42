"""Residual blocks for inference on the CPU: the convolutions also add the shortcut and apply ReLU.

This saves two or three passes over memory in each block. oneDNN computes addition and ReLU as post-operations of a convolution
(its developer guide, "Primitive Attributes: Post-ops"). PyTorch has operators for them, made for ``torch.compile``. They take
weights that were reordered once into the layout that is fastest on this CPU.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

from lab.cpu import products, winograd
from lab.cpu.convolutions import PRODUCT, PYTORCH, WINOGRAD, Convolution2d
from lab.hardware import Hardware


def available(hardware: Hardware) -> bool:
    """Whether PyTorch has these operators for this device and precision."""
    operators = (
        "_convolution_pointwise",
        "_convolution_pointwise_",
        "_reorder_convolution_weight",
        "_linear_pointwise",
    )
    bf16 = hardware.precision == "bf16" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (
        hardware.device.type == "cpu"
        and (hardware.precision == "fp32" or bf16)
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    )


class FusedConvolution:
    """A convolution with a bias, as folding a batch norm leaves it.

    Its weight is reordered for the shape of its first input. If the training measured that another algorithm is faster for a
    shape, the weight is a matrix, or its filters are transformed once, instead.
    """

    def __init__(self, convolution: nn.Module) -> None:
        self.convolution: Any = convolution
        self.reordered_weight: Tensor | None = None
        self.filters: dict[int, Tensor] = {}  # by the side of a tile
        self.matrix: dict[int, Tensor] = {}  # by the side of the part of the kernel that meets pixels

    def arguments(self, input: Tensor) -> tuple[Any, ...]:
        """The arguments that the operators take after their inputs."""
        convolution = self.convolution
        geometry = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        if self.reordered_weight is None:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.reordered_weight = reorder(convolution.weight, *geometry, input.shape)
        return self.reordered_weight, convolution.bias, *geometry

    def algorithm(self, input: Tensor) -> str:
        """The algorithm of the convolution of this input."""
        convolution = self.convolution
        if not isinstance(convolution, Convolution2d):
            return PYTORCH
        algorithm = convolution.algorithms(convolution.shape(input)).output
        # Products were measured without their fused operators; in float32 the fused convolutions are kept.
        return PYTORCH if algorithm == PRODUCT and input.dtype == torch.float32 else algorithm

    def matrices(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The patches of the input as rows, and the weight as a matrix, whose product is the convolution."""
        weight = products.used_taps(self.convolution.weight, *input.shape[2:])
        kernel = weight.shape[2]
        if kernel not in self.matrix:
            self.matrix[kernel] = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        return products.patches(input, kernel, self.convolution.stride[0]), self.matrix[kernel]

    def as_images(self, rows: Tensor, input: Tensor) -> Tensor:
        """The rows of a product as images [N, O, H', W']."""
        height, width = (-(-side // self.convolution.stride[0]) for side in input.shape[2:])
        return rows.view(len(input), height, width, -1).permute(0, 3, 1, 2)

    def by_winograd(self, input: Tensor, relu: bool) -> Tensor:
        """:meth:`apply` by Winograd's algorithm."""
        weight, bias = self.convolution.weight, self.convolution.bias
        m = winograd.tiling(input, len(weight))[0].m
        if m not in self.filters:
            self.filters[m] = winograd.transformed_filters(weight, m).contiguous()
        return winograd.convolve(input, self.filters[m], bias, relu)

    def apply(self, input: Tensor, relu: bool) -> Tensor:
        """The convolution, followed by ReLU if ``relu``."""
        algorithm = self.algorithm(input)
        operation: tuple[Any, ...] = ("relu" if relu else "none", [], "")
        if algorithm == WINOGRAD:
            return self.by_winograd(input, relu)
        if algorithm == PRODUCT:
            product = torch.ops.mkldnn._linear_pointwise.default(
                *self.matrices(input), self.convolution.bias, *operation
            )
            return self.as_images(product, input)
        arguments = (*self.arguments(input), *operation)
        output: Tensor = torch.ops.mkldnn._convolution_pointwise.default(input, *arguments)
        return output

    def add_to(self, shortcut: Tensor, input: Tensor) -> Tensor:
        """relu(convolution + shortcut), which may be computed in place of the shortcut."""
        algorithm = self.algorithm(input)
        if algorithm == PRODUCT:
            rows, matrix = self.matrices(input)
            added = shortcut.permute(0, 2, 3, 1).reshape(len(rows), -1)
            sums = torch.ops.mkldnn._linear_pointwise.binary(rows, added, matrix, self.convolution.bias, "add")
            return self.as_images(sums, input).relu_()
        if algorithm == WINOGRAD:
            return shortcut.add_(self.apply(input, relu=False)).relu_()
        arguments = (*self.arguments(input), "add", 1.0, "relu", [], "")
        output: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(shortcut, input, *arguments)
        return output


class FusedBlock(nn.Module):
    """A residual block whose batch norms are folded: ``conv1``, ``conv2``, in a bottleneck ``conv3``, and ``downsample``."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        names = ["conv1", "conv2"] + ["conv3"] * hasattr(block, "conv3")
        *self.first, self.last = (FusedConvolution(getattr(block, name)) for name in names)
        downsample = block.downsample
        self.downsample = FusedConvolution(downsample[0]) if isinstance(downsample, nn.Sequential) else None

    def forward(self, x: Tensor) -> Tensor:
        """The output of the block. It may overwrite ``x``."""
        shortcut = x if self.downsample is None else self.downsample.apply(x, relu=False)
        for convolution in self.first:
            x = convolution.apply(x, relu=True)
        return self.last.add_to(shortcut, x)


def fuse_blocks(network: nn.Module) -> nn.Module:
    """Replace the residual blocks of ``network`` by fused ones; its batch norms must be folded. Returns the network."""
    for name, module in network.named_children():
        if all(hasattr(module, part) for part in ("conv1", "conv2", "downsample")):
            setattr(network, name, FusedBlock(module))
        else:
            fuse_blocks(module)
    return network
