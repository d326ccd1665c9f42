"""Blocks fused for prediction against the folded network: the same function, in fewer passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import resnet
from lab.cpu.fused_inference import Block, available, fuse_blocks
from lab.evaluation.inference import folded, for_prediction
from lab.hardware import Hardware
from tests.made import thin

CPU = Hardware(torch.device("cpu"), "fp32")

here = pytest.mark.skipif(not available(CPU), reason="oneDNN's fused operators are not there on this processor")


def trained_looking(network: nn.Module) -> nn.Module:
    """With norms that do something, negative scales among it."""
    torch.manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.7, 0.5)
            nn.init.normal_(module.bias, 0, 0.3)
            for name, buffer in module.named_buffers():
                if name.startswith("running"):
                    buffer.uniform_(0.5, 2)
    return network.eval().to(memory_format=torch.channels_last)


@here
@pytest.mark.parametrize("model", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
@torch.inference_mode()
def test_fused_blocks_are_the_same_function(model: str) -> None:
    """For every depth, and for batches and images of other sizes than those that the weights were laid out for."""
    network = trained_looking(thin(model, 3))
    fused = fuse_blocks(folded(network))
    count = sum(isinstance(module, Block) for module in fused.modules())
    assert count == sum(isinstance(module, resnet.BasicBlock | resnet.Bottleneck) for module in network.modules())
    for images, size in ((4, 32), (4, 32), (1, 32), (3, 45), (2, 64)):
        batch = torch.randn(images, 3, size, size).contiguous(memory_format=torch.channels_last)
        kept = batch.clone()
        torch.testing.assert_close(fused(batch), network(batch), atol=2e-4, rtol=2e-4)
        assert torch.equal(batch, kept)  # shortcuts are written over, what was given is not


@here
@torch.inference_mode()
def test_the_network_itself_is_left_alone() -> None:
    """What is fused is a copy."""
    network = trained_looking(resnet.build("resnet18", 2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    expected = network(images)
    torch.testing.assert_close(for_prediction(network, CPU)(images), expected, atol=2e-4, rtol=2e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(network(images), expected)


def test_elsewhere_the_folded_network_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other devices and precisions, and processors or builds of torch without the operators."""
    assert not available(Hardware(torch.device("cuda"), "fp32"))
    assert not available(Hardware(torch.device("cpu"), "bf16"))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not available(CPU)
    network = for_prediction(resnet.build("resnet18", 2), CPU)
    assert not any(isinstance(module, Block) for module in network.modules())
