"""SGD on views in the order of memory, compared with PyTorch's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.cpu.sgd import SGD, total_norm
from models import catalog

Memory = Callable[[Tensor], Tensor]
FORMATS: dict[str, Memory] = {
    "as the weight": lambda gradient: gradient,
    "contiguous": lambda gradient: gradient.contiguous(),
    "channels last": lambda gradient: gradient.contiguous(memory_format=torch.channels_last),
    "with gaps": lambda gradient: torch.stack([gradient, gradient], dim=-1)[..., 0],
}
RECIPES: list[dict[str, Any]] = [
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    {"lr": 0.01, "momentum": 0.5, "maximize": True},
]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("memory", FORMATS.values(), ids=FORMATS)
def test_the_same_bits_and_state_as_pytorchs(memory: Memory, recipe: dict[str, Any]) -> None:
    """For weights and gradients in any memory format, a parameter without gradient, and after loading PyTorch's state."""
    torch.manual_seed(0)
    network = catalog.build("resnet50", 3, 32).get_submodule("layer1").to(memory_format=torch.channels_last)
    networks = [network, copy.deepcopy(network)]
    ours = SGD(networks[0].parameters(), **recipe)
    theirs = torch.optim.SGD(networks[1].parameters(), fused=True, **recipe)
    for step in range(5):
        if step == 3:
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        for number, (one, two) in enumerate(zip(*(network.parameters() for network in networks), strict=True)):
            gradient = torch.empty_like(one).normal_()
            four = gradient.ndim == 4 and number  # the first one keeps the weight's
            one.grad = None if number == 2 else (memory(gradient) if four else gradient)
            two.grad = None if number == 2 else gradient.clone()
        ours.step()
        theirs.step()
        for one, two in zip(*(network.parameters() for network in networks), strict=True):
            assert torch.equal(one, two)
            assert ours.state[one].keys() == theirs.state[two].keys()
            for name, tensor in ours.state[one].items():
                assert torch.equal(tensor, theirs.state[two][name]) and tensor.stride() == one.stride()


def test_a_weight_with_gaps_in_memory_is_refused() -> None:
    """PyTorch's fused step would change other values than the weight's."""
    weight = nn.Parameter(torch.ones(4, 6)[:, ::2].detach())
    weight.grad = torch.full((4, 3), 0.5)
    with pytest.raises(ValueError, match="gaps"):
        SGD([weight], lr=0.1, momentum=0.9).step()


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="no closure"):
        SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9).step(lambda: 0.0)


@pytest.mark.parametrize("memory", FORMATS.values(), ids=FORMATS)
def test_the_norm_is_that_of_all_gradients(memory: Memory) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(7), torch.randn(5, 4), memory(torch.randn(64, 32, 3, 3)), torch.zeros(0)]
    exact = torch.cat([gradient.flatten().double() for gradient in gradients]).norm()
    torch.testing.assert_close(total_norm(gradients).double(), exact, rtol=1e-6, atol=0)
    assert total_norm([]) == 0
