"""Convolutions with a table of algorithms: the same network with other rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from lab.cpu.convolutions import (
    ALL_PYTORCH,
    PRODUCT,
    PYTORCH,
    WINOGRAD,
    Algorithms,
    Convolution2d,
    Shape,
    Table,
    fixed_algorithms,
    look_up,
    replace_convolutions,
)
from lab.evaluation.inference import folded
from lab.hardware import Hardware
from lab.training.ema import EMA
from models import catalog
from tests.lab.cpu.convolutions import relative_error

CPU = Hardware(torch.device("cpu"), "fp32")
BF16 = Hardware(torch.device("cpu"), "bf16")
Tensors = list[torch.Tensor]


class EveryShape(dict[str, str]):
    """A table with the same algorithms for all shapes that have them; for the others the products."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(any="")
        self.algorithm = algorithm

    def get(self, shape: str, default: Any = None) -> str:
        fits = self.algorithm != WINOGRAD or " 3x3/1 " in shape
        return " ".join([self.algorithm if fits else PRODUCT] * 3)


def plain_and_fast(model: str, table: Table) -> tuple[nn.Module, nn.Module]:
    """A network with PyTorch's convolutions, and a copy that uses a table."""
    torch.manual_seed(0)
    plain = CPU.place(catalog.build(model, 3, 32)).train()
    fast = copy.deepcopy(plain)
    assert replace_convolutions(fast, table) > 0
    return plain, fast


def results(network: nn.Module, hardware: Hardware) -> Tensors:
    """The logits and all gradients of a step."""
    torch.manual_seed(1)
    images, labels = torch.randn(8, 3, 64, 64).contiguous(memory_format=torch.channels_last), torch.arange(8) % 3
    images = images.to(next(network.parameters()).dtype)
    with hardware.autocast():
        logits = network(images)
    functional.cross_entropy(logits, labels).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [logits, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
@pytest.mark.parametrize("table", [{}, EveryShape(PRODUCT), EveryShape(WINOGRAD)], ids=["fixed", "product", "winograd"])
def test_a_network_computes_the_same_and_learns_the_same(model: str, table: Table) -> None:
    """Output and gradients are as near to float64's as PyTorch's are, and gradients have the memory format of their parameters.
    The fixed algorithms keep the output's bits."""
    plain, fast = plain_and_fast(model, table)
    exact, usual, found = results(copy.deepcopy(plain).double(), CPU), results(plain, CPU), results(fast, CPU)
    assert table or torch.equal(found[0], usual[0])
    assert_near(fast, exact, usual, found, 1e-4)
    for parameter in fast.parameters():
        assert parameter.grad is not None and parameter.grad.stride() == parameter.stride()


def test_a_network_in_bf16_is_within_its_rounding() -> None:
    """Gradients are float32, as the weights."""
    plain, fast = plain_and_fast("resnet18", EveryShape(PRODUCT))
    exact, usual, found = results(copy.deepcopy(plain), CPU), results(plain, BF16), results(fast, BF16)
    assert found[0].dtype == torch.bfloat16 and all(gradient.dtype == torch.float32 for gradient in found[1:])
    assert_near(fast, exact, usual, found, 0.01)


def assert_near(network: nn.Module, exact: Tensors, usual: Tensors, found: Tensors, little: float) -> None:
    """The norm of the error of each result is little more than that of PyTorch's own rounding, which grows through the layers."""
    for name, *tensors in zip(["logits", *dict(network.named_parameters())], exact, usual, found, strict=True):
        true, one, other = (tensor.detach().double() for tensor in tensors)
        assert (other - true).norm() < 4 * (one - true).norm() + little * true.norm(), name


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("table", [{}, EveryShape(PRODUCT), EveryShape(WINOGRAD)], ids=["fixed", "product", "winograd"])
def test_a_bias_is_added_and_has_its_gradient(kernel: int, table: Table) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(128, 130, kernel, padding=kernel // 2))
    fast = copy.deepcopy(plain)
    assert replace_convolutions(fast, table) == 1
    images, grad_output = torch.randn(3, 128, 5, 7), torch.randn(3, 130, 5, 7)
    outputs = [network(images) for network in (plain, fast)]
    assert relative_error(outputs[1], outputs[0]) < 1e-4
    for output in outputs:
        output.backward(grad_output)
    for parameter, other in zip(plain.parameters(), fast.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None
        assert relative_error(other.grad, parameter.grad) < 1e-4


def test_replacing_convolutions_keeps_parameters_names_and_random_numbers() -> None:
    """Checkpoints, DDP and the bits of a training depend on them. Copies use the table too, and norms can be folded."""
    torch.manual_seed(0)
    network = CPU.place(catalog.build("resnet18", 2, 32)).train()
    names, parameters, numbers = list(network.state_dict()), list(network.parameters()), torch.get_rng_state()
    count = replace_convolutions(network, {})
    assert count == 19  # all but the first, of 7×7
    assert replace_convolutions(network, EveryShape(PRODUCT)) == count  # another table
    assert list(network.state_dict()) == names and torch.equal(torch.get_rng_state(), numbers)
    assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))
    copied = [module for module in EMA(network, 0.9).network.modules() if isinstance(module, Convolution2d)]
    assert len(copied) == count and not any(module.training for module in copied)
    assert all(module.table.get("fp32 3x3/1 64-64 8x8") == "product product product" for module in copied)
    images = torch.randn(2, 3, 64, 64)
    network.eval()
    torch.testing.assert_close(folded(network)(images), network(images), atol=1e-4, rtol=1e-4)


def test_other_convolutions_and_precisions_stay_pytorchs() -> None:
    usual: dict[str, Any] = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    changes: list[dict[str, Any]] = [{"padding": 0}, {"padding": 2, "dilation": 2}, {"stride": (1, 2)}]
    changes += [{"groups": 2}, {"padding_mode": "reflect"}, {"kernel_size": 5, "padding": 2}, {"in_channels": 3}]
    assert replace_convolutions(nn.Sequential(nn.Conv2d(**usual)), {}) == 1
    assert replace_convolutions(nn.Sequential(*(nn.Conv2d(**usual | change) for change in changes)), {}) == 0
    layer = nn.Sequential(nn.Conv2d(**usual))
    double = copy.deepcopy(layer).double()
    images = torch.randn(1, 128, 4, 4, dtype=torch.float64)
    expected = double(images)
    replace_convolutions(double, EveryShape(WINOGRAD))
    assert torch.equal(double(images), expected)


def test_fixed_algorithms_are_for_many_channels_in_float32() -> None:
    shape = Shape("fp32", 3, 1, 128, 256, 8, 8)
    assert fixed_algorithms(shape) == Algorithms(PYTORCH, WINOGRAD, WINOGRAD)
    product = Algorithms(PYTORCH, PRODUCT, PRODUCT)
    assert fixed_algorithms(shape._replace(kernel=1)) == product
    assert fixed_algorithms(shape._replace(height=1, width=1)) == product
    assert fixed_algorithms(shape._replace(kernel=1, stride=2)) == product
    for change in ({"precision": "bf16"}, {"inputs": 64}, {"outputs": 64}, {"stride": 2}):
        assert fixed_algorithms(shape._replace(**change)) == ALL_PYTORCH


@pytest.mark.parametrize("text", ["", "product", "winograd pytorch pytorch", "gpu pytorch pytorch", "pytorch " * 4])
def test_a_table_with_impossible_algorithms_is_not_used(text: str) -> None:
    """It may come from a damaged file, and Winograd's algorithm would compute a convolution of stride 2 wrongly."""
    shape = Shape("fp32", 3, 2, 8, 8, 4, 4)
    assert look_up({str(shape): text}, shape) is None
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1))
    images = torch.randn(1, 8, 4, 4)
    expected = layer(images)
    replace_convolutions(layer, {str(shape): text})
    assert torch.equal(layer(images), expected)


def test_a_second_derivative_is_an_error() -> None:
    layer = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, bias=False))
    replace_convolutions(layer, {})
    x = torch.randn(1, 128, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
