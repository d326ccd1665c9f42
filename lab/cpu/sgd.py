"""SGD with momentum, and the norm of gradients, on the CPU.

The fused step of ``torch.optim.SGD`` first copies each channels-last gradient. Here it takes one-dimensional views instead, in
the order of memory, which need no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim.sgd import sgd


def in_memory_order(tensor: Tensor) -> Tensor:
    """A view [N] of all values. Raises ``ValueError`` if they are neither contiguous nor channels-last."""
    if tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
        return tensor.as_strided((tensor.numel(),), (1,))
    raise ValueError(f"a tensor {[*tensor.shape]} with strides {[*tensor.stride()]} has gaps in memory")


def ordered_like(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor, or a copy if its values have another order in memory than those of ``other``."""
    strides = zip(tensor.stride(), other.stride(), tensor.shape, strict=True)
    if all(one == two or size == 1 for one, two, size in strides):
        return tensor
    return torch.empty_like(other).copy_(tensor)


class SGD(torch.optim.SGD):
    """``torch.optim.SGD`` with momentum: the same results and the same state."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step. Raises ``ValueError`` for a ``closure``, which nothing here needs, and for weights with gaps in memory."""
        if closure is not None:
            raise ValueError("this optimizer takes no closure")
        for group in self.param_groups:
            weights, gradients = list[Tensor](), list[Tensor]()
            momenta: list[Tensor | None] = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)  # the first step sets it to the gradient
                weights.append(in_memory_order(parameter))
                gradients.append(in_memory_order(ordered_like(parameter.grad, parameter)))
                momenta.append(in_memory_order(state["momentum_buffer"]))
            names = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
            sgd(weights, gradients, momenta, fused=True, **{name: group[name] for name in names})


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all values. Dot products are faster than ``torch.linalg.vector_norm``."""
    dense = (ordered_like(gradient, torch.empty_like(gradient)) for gradient in gradients)
    flat = [in_memory_order(gradient) for gradient in dense]
    return torch.stack([torch.dot(values, values) for values in flat]).sum().sqrt() if flat else torch.zeros(())
