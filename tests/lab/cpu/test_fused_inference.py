"""Fused blocks compute the same function as the network that they replace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lab.cpu import winograd
from lab.cpu.convolutions import PRODUCT, replace_convolutions
from lab.cpu.fused_inference import FusedBlock, available, fuse_blocks
from lab.evaluation.inference import folded, for_prediction, outputs
from lab.hardware import Hardware
from models import catalog
from resnet import BasicBlock, Bottleneck, ResNet
from tests.lab.cpu.test_convolutions import EveryShape

CPU, BF16 = (Hardware(torch.device("cpu"), precision) for precision in ("fp32", "bf16"))

here = pytest.mark.skipif(not available(CPU), reason="PyTorch has no fused operators of oneDNN for this CPU")


def with_random_norms(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with random parameters and statistics of the batch norms, also negative scales."""
    torch.manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.7, 0.5)
            nn.init.normal_(module.bias, 0, 0.3)
            for name in ("running_mean", "running_var"):
                nn.init.uniform_(module.get_buffer(name), 0.5, 2)
    return network.eval().to(memory_format=torch.channels_last)


@here
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@torch.inference_mode()
def test_fused_blocks_are_the_same_function(block: type[BasicBlock] | type[Bottleneck]) -> None:
    """With and without projection, also for other input shapes than the one for which the weights were reordered."""
    network = with_random_norms(ResNet(block, (2, 1, 1, 1), 3))
    fused = fuse_blocks(folded(network))
    assert sum(isinstance(module, FusedBlock) for module in fused.modules()) == 5
    for images, size in ((4, 32), (4, 32), (1, 32), (3, 45), (2, 64)):
        batch = torch.randn(images, 3, size, size).contiguous(memory_format=torch.channels_last)
        copied = batch.clone()
        torch.testing.assert_close(fused(batch), network(batch), atol=2e-4, rtol=2e-4)
        assert torch.equal(batch, copied)  # blocks overwrite shortcuts, but not the input


@here
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@torch.inference_mode()
def test_measured_algorithms_are_used_for_the_shapes_that_have_them(
    block: type[BasicBlock] | type[Bottleneck], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filters of each such convolution are transformed once."""
    plain = with_random_norms(ResNet(block, (2, 1, 1, 1), 3))
    network = copy.deepcopy(plain)
    replace_convolutions(network, {"fp32 3x3/1 64-64 16x16": "winograd pytorch pytorch"})
    fused, transform, transformed = fuse_blocks(folded(network)), winograd.transformed_filters, list[int]()

    def note(weight: Tensor, m: int) -> Tensor:
        transformed.append(m)
        return transform(weight, m)

    monkeypatch.setattr(winograd, "transformed_filters", note)
    for images, size in ((4, 64), (4, 64), (1, 64), (4, 32)):
        batch = torch.randn(images, 3, size, size).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(fused(batch), plain(batch), atol=2e-4, rtol=2e-4)
    assert transformed == [4] * (4 if block is BasicBlock else 2)


@here
@torch.inference_mode()
def test_a_copy_of_the_network_is_fused() -> None:
    network = with_random_norms(catalog.build("resnet18", 2, 32))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    expected = network(images)
    torch.testing.assert_close(for_prediction(network, CPU)(images), expected, atol=2e-4, rtol=2e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(network(images), expected)


@here
@pytest.mark.skipif(not available(BF16), reason="this CPU has no bf16 arithmetic")
@pytest.mark.parametrize("table", [{}, EveryShape(PRODUCT)], ids=["fixed", "product"])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@torch.inference_mode()
def test_fused_blocks_in_bf16_are_within_its_rounding(
    block: type[BasicBlock] | type[Bottleneck], table: dict[str, str]
) -> None:
    """The error is little more than that of autocast, which rounds the output of each operator."""
    network = with_random_norms(ResNet(block, (2, 1, 1, 1), 3))
    images = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    exact = network(images)
    usual = outputs(network, images, BF16)
    replace_convolutions(network, table)
    fused = for_prediction(network, BF16)
    assert any(isinstance(module, FusedBlock) for module in fused.modules())
    found = outputs(fused, images, BF16)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 2 * (usual - exact).norm() + 0.01 * exact.norm()


@pytest.mark.parametrize("model", ["vgg16", "vit_tiny"])
@torch.inference_mode()
def test_bf16_weights_are_converted_once_and_change_nothing(model: str) -> None:
    """Bit for bit what autocast computes, which converts them in every batch."""
    torch.manual_seed(0)
    network, images = catalog.build(model, 3, 48).eval(), torch.randn(2, 3, 48, 48)
    prepared = for_prediction(network, BF16)
    assert {layer.weight.dtype for layer in prepared.modules() if isinstance(layer, nn.Conv2d)} == {torch.bfloat16}
    assert torch.equal(outputs(prepared, images, BF16), outputs(folded(network), images, BF16))


def test_without_the_operators_the_folded_network_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other devices, in other precisions, and on other CPUs."""
    assert not available(Hardware(torch.device("cuda"), "fp32"))
    assert not available(Hardware(torch.device("cpu"), "fp16"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not available(BF16)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not available(CPU)
    network = for_prediction(catalog.build("resnet18", 2, 32), CPU)
    assert not any(isinstance(module, FusedBlock) for module in network.modules())
