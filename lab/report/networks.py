"""The layers of a network with their output shapes, parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import catalog


@dataclass(frozen=True)
class Layer:
    """A submodule of a network for an image of ``size`` px: its name, its operation (a line for each convolution; ``/2`` is a
    stride), its residual blocks, the shape of its output, its parameters (including those of a following batch norm), and the
    multiply-accumulates for one image."""

    size: int
    name: str
    operation: str
    blocks: int
    output: tuple[int, ...]
    parameters: int
    macs: int


def layers(model: str, classes: int, size: int) -> list[Layer]:
    """The layers of a network for one image of ``size`` px, in their order."""
    # The meta device computes shapes only, which takes no memory and little time.
    with torch.device("meta"):
        network, image = catalog.build(model, classes, size).eval(), torch.empty(1, 3, size, size)
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: shapes.update({name: tuple(output.shape[1:])})

    for name, module in network.named_children():
        module.register_forward_hook(record(name))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    counts = counter.get_flop_counts()
    root = type(network).__name__
    parts: list[Layer] = []
    for name, module in network.named_children():
        parameters = sum(parameter.numel() for parameter in module.parameters())
        operation, blocks = describe(module), len(module) if isinstance(module, nn.Sequential) else 0
        if operation:
            # The counter counts a multiplication and an addition as two operations.
            macs = sum(counts.get(f"{root}.{name}", {}).values()) // 2
            parts.append(Layer(size, name, operation, blocks, shapes[name], parameters, macs))
        elif parameters:
            parts[-1] = replace(parts[-1], parameters=parts[-1].parameters + parameters)
    return parts


def describe(module: nn.Module) -> str:
    """The operation of a layer as text; empty for a batch norm or an activation."""
    if isinstance(module, nn.Conv2d):
        return convolution(module)
    if isinstance(module, nn.MaxPool2d):
        return f"max {module.kernel_size}×{module.kernel_size}, /{module.stride}"
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "mean"
    if isinstance(module, nn.Linear):
        return f"{module.in_features} → {module.out_features}"
    blocks = list(module.children()) if isinstance(module, nn.Sequential) else [module]
    convolutions = [child for child in blocks[-1].children() if isinstance(child, nn.Conv2d)] if blocks else []
    if not convolutions:
        return ""
    lines = [convolution(child) for child in convolutions]
    return "\n".join([*lines, f"× {len(blocks)}"])


def convolution(module: nn.Conv2d) -> str:
    """``3×3, 64``, or with a stride ``3×3, 64, /2``."""
    height, width = module.kernel_size
    stride = f", /{module.stride[0]}" if module.stride[0] > 1 else ""
    return f"{height}×{width}, {module.out_channels}{stride}"
