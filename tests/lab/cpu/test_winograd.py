"""Gradients by Winograd's algorithm against PyTorch's in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lab.cpu import winograd
from lab.cpu.winograd import FastGradientConv2d, gradients_1x1, gradients_3x3, transform, use_fast_gradients
from lab.evaluation.inference import folded
from lab.hardware import Hardware
from lab.training.ema import EMA
from models import catalog

CPU = Hardware(torch.device("cpu"), "fp32")
Pair = tuple[Tensor, Tensor]


def reference(grad_output: Tensor, input: Tensor, weight: Tensor, stride: int) -> Pair:
    """PyTorch's gradients in float64."""
    input, weight = (tensor.double().requires_grad_() for tensor in (input, weight))
    output = functional.conv2d(input, weight, stride=stride, padding=weight.shape[2] // 2)
    grad_input, grad_weight = torch.autograd.grad(output, (input, weight), grad_output.double())
    return grad_input, grad_weight


def relative_error(found: Tensor, true: Tensor) -> float:
    """The largest difference divided by the largest true value."""
    return float((found - true).abs().max() / true.abs().max().clamp_min(1e-12))


@st.composite
def convolutions(draw: st.DrawFn, kernel: int, largest: int, strides: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """grad_output, input, weight and stride of a convolution of images of any height and width."""
    images, inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    height, width, stride = draw(st.integers(1, largest)), draw(st.integers(1, largest)), draw(st.integers(1, strides))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    input = torch.randn(images, inputs, height, width).contiguous(memory_format=torch.channels_last)
    grad_output = torch.randn(images, outputs, -(-height // stride), -(-width // stride))
    return grad_output, input, torch.randn(outputs, inputs, kernel, kernel), stride


def assert_gradients(found: tuple[Tensor | None, Tensor], true: Pair, tolerance: float) -> None:
    """Both gradients have the shapes and the values of the true ones."""
    for gradient, expected in zip(found, true, strict=True):
        assert gradient is not None and gradient.shape == expected.shape
        assert relative_error(gradient, expected) < tolerance


@pytest.mark.parametrize("m", [2, 4])
def test_matrices_compute_a_convolution(m: int) -> None:
    """Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A is the convolution of one tile (Lavin and Gray 2015, equation 8)."""
    torch.manual_seed(0)
    tile, filter = torch.randn(m + 2, m + 2), torch.randn(3, 3)
    _, Bt, G, At = transform(m)
    found = At @ ((G @ filter.flatten()) * (Bt @ tile.flatten()))
    expected = functional.conv2d(tile[None, None], filter[None, None])[0, 0]
    torch.testing.assert_close(found.view(m, m), expected, atol=1e-4, rtol=0)


@settings(max_examples=60, deadline=None)
@given(convolutions(kernel=3, largest=13, strides=1))
def test_3x3_gradients_are_pytorchs(convolution: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """For any shape, also if it is not a multiple of the tile."""
    tensors = convolution[:3]
    assert_gradients(gradients_3x3(*tensors, True), reference(*convolution), 1e-4)
    assert gradients_3x3(*tensors, False)[0] is None


@settings(max_examples=40, deadline=None)
@given(convolutions(kernel=1, largest=9, strides=3))
def test_1x1_gradients_are_pytorchs(convolution: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """For any stride; the gradient of skipped pixels is 0."""
    assert_gradients(gradients_1x1(*convolution, True), reference(*convolution), 1e-5)
    assert gradients_1x1(*convolution, False)[0] is None


def test_the_gradients_do_not_depend_on_the_size_of_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tensors = torch.randn(7, 8, 9, 6), torch.randn(7, 16, 9, 6), torch.randn(8, 16, 3, 3)
    whole = gradients_3x3(*tensors, True)
    assert whole[0] is not None
    for size in (1, 36 * 6 * 16 * 3):
        monkeypatch.setattr(winograd, "BUFFER", size)
        assert_gradients(gradients_3x3(*tensors, True), (whole[0], whole[1]), 1e-5)


@pytest.mark.parametrize(
    ("images", "side", "channels", "m"), [(32, 8, 256, 4), (32, 2, 512, 2), (32, 4, 512, 2), (128, 4, 512, 4)]
)
def test_tiles_are_large_unless_images_are_small_or_few(images: int, side: int, channels: int, m: int) -> None:
    assert winograd.tile_side(images, side, side, channels) == m


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_a_network_computes_the_same_and_learns_the_same(model: str) -> None:
    """The output bit for bit; each gradient up to rounding and in the memory format of its parameter."""
    torch.manual_seed(0)
    plain = CPU.place(catalog.build(model, 3, 32)).train()
    fast = copy.deepcopy(plain)
    assert use_fast_gradients(fast, CPU) > 0
    images, labels = torch.randn(8, 3, 64, 64).contiguous(memory_format=torch.channels_last), torch.arange(8) % 3
    results = []
    for network in (plain, fast):
        logits = network(images)
        functional.cross_entropy(logits, labels).backward()
        results.append(logits)
    assert torch.equal(*results)
    for (name, parameter), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None
        assert relative_error(other.grad, parameter.grad) < 2e-3, name  # rounding accumulates through the layers
        assert other.grad.stride() == other.stride(), name
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), fast.eval()(images))


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_bias_is_added_and_has_its_gradient(kernel: int) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(128, 130, kernel, padding=kernel // 2))
    fast = copy.deepcopy(plain)
    assert use_fast_gradients(fast, CPU) == 1
    images, grad_output = torch.randn(3, 128, 5, 7), torch.randn(3, 130, 5, 7)
    outputs = [network(images) for network in (plain, fast)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.backward(grad_output)
    for parameter, other in zip(plain.parameters(), fast.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None
        assert relative_error(other.grad, parameter.grad) < 1e-4


def test_replacing_convolutions_keeps_parameters_names_and_random_numbers() -> None:
    """Checkpoints, DDP and the bits of a training depend on them. Copies have fast gradients, and norms can be folded."""
    torch.manual_seed(0)
    network = CPU.place(catalog.build("resnet18", 2, 32)).train()
    names, parameters, numbers = list(network.state_dict()), list(network.parameters()), torch.get_rng_state()
    assert use_fast_gradients(network, CPU) == 11  # nine of 3×3 and two shortcuts, of 128 channels and more
    assert use_fast_gradients(network, CPU) == 0  # all have been replaced
    assert list(network.state_dict()) == names and torch.equal(torch.get_rng_state(), numbers)
    assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))
    images = torch.randn(2, 3, 64, 64)
    copied = EMA(network, 0.9).network
    fast = [module for module in copied.modules() if isinstance(module, FastGradientConv2d)]
    assert len(fast) == 11 and not any(module.training for module in fast)
    network.eval()
    torch.testing.assert_close(folded(network)(images), network(images), atol=1e-4, rtol=1e-4)


def test_other_devices_precisions_and_convolutions_have_pytorchs_gradients() -> None:
    network = catalog.build("resnet18", 2, 32)
    assert use_fast_gradients(network, Hardware(torch.device("cpu"), "bf16")) == 0
    assert use_fast_gradients(network, Hardware(torch.device("cuda"), "fp32")) == 0
    usual: dict[str, Any] = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    changes: list[dict[str, Any]] = [{"padding": 0}, {"stride": 2}, {"padding": 2, "dilation": 2}]
    changes += [{"groups": 2}, {"padding_mode": "reflect"}, {"kernel_size": 5, "padding": 2}, {"in_channels": 64}]
    assert use_fast_gradients(nn.Sequential(nn.Conv2d(**usual)), CPU) == 1
    assert use_fast_gradients(nn.Sequential(*(nn.Conv2d(**usual | change) for change in changes)), CPU) == 0


def test_a_second_derivative_is_an_error() -> None:
    layer = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, bias=False))
    use_fast_gradients(layer, CPU)
    x = torch.randn(1, 128, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
