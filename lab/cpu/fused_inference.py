"""Residual blocks for prediction on a processor: addition and ReLU done inside the convolution before them.

A convolution that also adds the shortcut and cuts at zero saves two or three passes over memory in each block. oneDNN computes
both as post-operations (its developer guide, "Primitive Attributes: Post-ops"); PyTorch has them as operators, made for
``torch.compile``, that take weights laid out once for the processor at hand.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

from lab.hardware import Hardware


def available(hardware: Hardware) -> bool:
    """Whether the operators are there for this device and precision."""
    return (
        hardware.device.type == "cpu"
        and hardware.precision == "fp32"
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(
            hasattr(torch.ops.mkldnn, name)
            for name in ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
        )
    )


class Convolution:
    """A convolution with a bias, as folding a norm leaves it; its weight is laid out for the first input that it sees."""

    def __init__(self, convolution: Any) -> None:
        self.convolution = convolution
        self.laid_out: Tensor | None = None

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """What the operators take after the images."""
        own = self.convolution
        place = (own.padding, own.stride, own.dilation, own.groups)
        if self.laid_out is None:
            self.laid_out = torch.ops.mkldnn._reorder_convolution_weight(own.weight, *place, x.shape)
        return self.laid_out, own.bias, *place

    def plain(self, x: Tensor, relu: bool) -> Tensor:
        """The convolution, and ReLU if wanted."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
            x, *self.arguments(x), "relu" if relu else "none", [], ""
        )
        return result

    def onto(self, shortcut: Tensor, x: Tensor) -> Tensor:
        """relu(convolution + shortcut), written over the shortcut."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, x, *self.arguments(x), "add", 1.0, "relu", [], ""
        )
        return result


class Block(nn.Module):
    """A residual block whose norms are folded: ``conv1``, ``conv2``, in a bottleneck ``conv3``, and ``downsample``."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        names = ["conv1", "conv2"] + ["conv3"] * hasattr(block, "conv3")
        *self.first, self.last = (Convolution(getattr(block, name)) for name in names)
        shortcut = block.downsample
        self.shortcut = Convolution(shortcut[0]) if isinstance(shortcut, nn.Sequential) else None

    def forward(self, x: Tensor) -> Tensor:
        """The block of ``x``, which it may write over."""
        around = x if self.shortcut is None else self.shortcut.plain(x, relu=False)
        for convolution in self.first:
            x = convolution.plain(x, relu=True)
        return self.last.onto(around, x)


def fuse_blocks(network: nn.Module) -> nn.Module:
    """Replace the residual blocks of a network, whose norms must be folded, by those of this module."""
    for name, module in network.named_children():
        if all(hasattr(module, part) for part in ("conv1", "conv2", "downsample")):
            setattr(network, name, Block(module))
        else:
            fuse_blocks(module)
    return network
