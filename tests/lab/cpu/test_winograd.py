"""Gradients by Winograd's way against the library's: the slow path is the oracle of the fast one."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import resnet
from lab.cpu import winograd
from lab.cpu.winograd import Conv2d, gradients_1x1, gradients_3x3, tile_side, transform, use_fast_gradients
from lab.evaluation.inference import folded
from lab.hardware import Hardware
from lab.training.ema import EMA

CPU = Hardware(torch.device("cpu"), "fp32")
Pair = tuple[Tensor, Tensor]


def exact(x: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> Pair:
    """The library's gradients in float64."""
    x, weight = (tensor.double().requires_grad_() for tensor in (x, weight))
    result = functional.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
    of_input, of_weight = torch.autograd.grad(result, (x, weight), gradient.double())
    return of_input, of_weight


def far(found: Tensor, true: Tensor) -> float:
    """The largest difference, over the largest true number."""
    return float((found - true).abs().max() / true.abs().max().clamp_min(1e-12))


def drawn(
    seed: int, images: int, inputs: int, outputs: int, height: int, width: int, kernel: int, stride: int
) -> list[Tensor]:
    """Input, weight and gradient of a convolution."""
    torch.manual_seed(seed)
    x = torch.randn(images, inputs, height, width).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, kernel, kernel)
    return [x, weight, torch.randn(images, outputs, -(-height // stride), -(-width // stride))]


@pytest.mark.parametrize("m", [2, 4])
def test_matrices_compute_a_convolution(m: int) -> None:
    """Y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A is the convolution of one tile (Lavin and Gray 2015, equation 8)."""
    torch.manual_seed(0)
    tile, weight = torch.randn(m + 2, m + 2), torch.randn(3, 3)
    _, data, filters, output = transform(m)
    found = output @ ((filters @ weight.flatten()) * (data @ tile.flatten()))
    torch.testing.assert_close(
        found.view(m, m), functional.conv2d(tile[None, None], weight[None, None])[0, 0], atol=1e-4, rtol=0
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 5),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
)
def test_3x3_gradients_are_the_librarys(
    seed: int, images: int, inputs: int, outputs: int, height: int, width: int
) -> None:
    """For any shape, square or not, whole tiles or not."""
    x, weight, gradient = drawn(seed, images, inputs, outputs, height, width, 3, 1)
    true = exact(x, weight, gradient, 1)
    of_input, of_weight = gradients_3x3(gradient, x, weight, True)
    assert of_input is not None
    assert of_input.shape == x.shape and of_weight.shape == weight.shape
    assert far(of_input, true[0]) < 1e-4 and far(of_weight, true[1]) < 1e-4
    assert gradients_3x3(gradient, x, weight, False)[0] is None


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 4),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stride=st.integers(1, 3),
)
def test_1x1_gradients_are_the_librarys(
    seed: int, images: int, inputs: int, outputs: int, height: int, width: int, stride: int
) -> None:
    """At any stride: of the places that it leaves out the gradient is 0."""
    x, weight, gradient = drawn(seed, images, inputs, outputs, height, width, 1, stride)
    true = exact(x, weight, gradient, stride)
    of_input, of_weight = gradients_1x1(gradient, x, weight, stride, True)
    assert of_input is not None
    assert of_input.shape == x.shape and of_weight.shape == weight.shape
    assert far(of_input, true[0]) < 1e-5 and far(of_weight, true[1]) < 1e-5
    assert gradients_1x1(gradient, x, weight, stride, False)[0] is None


def test_images_in_parts_give_the_gradients_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the buffer is."""
    x, weight, gradient = drawn(0, 7, 16, 8, 9, 6, 3, 1)
    whole = gradients_3x3(gradient, x, weight, True)
    for size in (1, 36 * 6 * 16 * 3):
        monkeypatch.setattr(winograd, "BUFFER", size)
        for found, true in zip(gradients_3x3(gradient, x, weight, True), whole, strict=True):
            assert found is not None and true is not None
            assert far(found, true) < 1e-5


def test_tiles_are_large_unless_images_are_small_or_few() -> None:
    """The rule as it stands."""
    assert tile_side(32, 8, 8, 256) == 4
    assert tile_side(32, 2, 2, 512) == 2
    assert tile_side(32, 4, 4, 512) == 2  # 32 tiles for filters of 512 channels
    assert tile_side(128, 4, 4, 512) == 4


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_a_network_computes_the_same_and_learns_the_same(model: str) -> None:
    """Forward to the bit; the gradient of every parameter up to rounding, in the layout of its parameter."""
    torch.manual_seed(0)
    plain = CPU.place(resnet.build(model, 3)).train()
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
        assert far(other.grad, parameter.grad) < 2e-3, name  # rounding grows on the way through the layers
        assert other.grad.stride() == other.stride(), name
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), fast.eval()(images))


def test_the_network_stays_what_it_was() -> None:
    """Its parameters and their names, its copies, and its folded norms."""
    torch.manual_seed(0)
    network = CPU.place(resnet.build("resnet18", 2)).train()
    before = network.state_dict()
    assert use_fast_gradients(network, CPU) == 11  # nine of 3×3 and two shortcuts, of 128 channels and more
    assert use_fast_gradients(network, CPU) == 0  # nothing is left to do
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    images = torch.randn(2, 3, 64, 64)
    copied = EMA(network, 0.9).network
    assert any(isinstance(module, Conv2d) for module in copied.modules())
    network.eval()
    torch.testing.assert_close(folded(network)(images), network(images), atol=1e-4, rtol=1e-4)


def test_only_float32_on_a_processor_and_only_convolutions_that_gain() -> None:
    """Everything else keeps the library's gradients."""
    network = resnet.build("resnet18", 2)
    assert use_fast_gradients(network, Hardware(torch.device("cpu"), "bf16")) == 0
    assert use_fast_gradients(network, Hardware(torch.device("cuda"), "fp32")) == 0
    others = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1),  # a bias
        nn.Conv2d(128, 128, 3, bias=False),  # no padding
        nn.Conv2d(128, 128, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(128, 128, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(128, 128, 5, padding=2, bias=False),
        nn.Conv2d(64, 128, 1, bias=False),  # too few channels
    )
    assert use_fast_gradients(others, CPU) == 0


def test_a_second_derivative_is_refused() -> None:
    """A sentence, not a wrong number."""
    layer = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, bias=False))
    use_fast_gradients(layer, CPU)
    x = torch.randn(1, 128, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
