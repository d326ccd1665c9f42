"""Grad-CAM maps: compared with a direct implementation of the paper's formula, and their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lab.evaluation.gradcam import explain, heat_map, overlay, undo_dihedral, usable_stages
from lab.evaluation.inference import dihedral, probabilities
from lab.hardware import Hardware
from models.catalog import find
from tests.made_page import CPU, staged

STAGES = find("resnet18").stages


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return staged("resnet50", 3).eval().requires_grad_(False)


def image(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def slow_map(network: nn.Module, view: Tensor, label: int, stage: str) -> Tensor:
    """Equations 1 and 2 of the paper without the ReLU: channels weighted by the spatial mean of the class's gradient."""
    outputs: list[Tensor] = []
    handle = network.get_submodule(stage).register_forward_hook(lambda _module, _input, output: outputs.append(output))
    with torch.enable_grad():
        logit = network(view.clone().requires_grad_())[0, label]
        (gradient,) = torch.autograd.grad(logit, outputs[0])
    handle.remove()
    return (gradient.mean(dim=(2, 3), keepdim=True) * outputs[0].detach()).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("label", [0, 2])
def test_the_map_is_the_mean_of_eight_slow_maps_turned_back(network: nn.Module, stage: str, label: int) -> None:
    slow = [slow_map(network, view, label, stage) for view in dihedral(image())]
    back = [torch.rot90(slow[turns], -turns, (2, 3)) for turns in range(4)]
    back += [torch.rot90(slow[4 + turns], -turns, (2, 3)).flip(3) for turns in range(4)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _, cam = explain(network, image(), label, stage, CPU, d4=False)
    torch.testing.assert_close(cam, torch.stack(back).mean(dim=0), rtol=1e-4, atol=1e-6)
    # The network is left as it was.
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert not any(values.requires_grad or values.grad is not None for values in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_undo_dihedral_inverts_dihedral() -> None:
    views = torch.cat(dihedral(image()))
    assert all(torch.equal(view, image()) for view in undo_dihedral(views))


@pytest.mark.parametrize("number", range(8))
def test_the_map_of_a_turned_image_is_the_turned_map(network: nn.Module, number: int) -> None:
    _, upright = explain(network, image(1), 1, "layer3", CPU, d4=True)
    _, turned = explain(network, dihedral(image(1))[number], 1, "layer3", CPU, d4=True)
    torch.testing.assert_close(turned, dihedral(upright)[number], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("d4", [False, True])
def test_the_same_pass_predicts(network: nn.Module, d4: bool) -> None:
    row, cam = explain(network, image(2), None, "layer4", CPU, d4)
    np.testing.assert_allclose(row, probabilities(network, image(2), CPU, d4)[0].numpy(), rtol=1e-5)
    torch.testing.assert_close(cam, explain(network, image(2), int(row.argmax()), "layer4", CPU, d4)[1])


def test_bf16_changes_the_map_little(network: nn.Module) -> None:
    row, cam = explain(network, image(3), 1, "layer3", Hardware(torch.device("cpu"), "bf16"), d4=True)
    expected_row, expected = explain(network, image(3), 1, "layer3", CPU, d4=True)
    np.testing.assert_allclose(row, expected_row, atol=0.02)
    torch.testing.assert_close(cam, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_the_heat_map_is_scaled_to_0_to_1_and_zero_without_positive_values() -> None:
    heat = heat_map(torch.tensor([[[[-5.0, 0.0], [0.0, 2.0]]]]), 16)
    assert heat.shape == (16, 16) and heat.min() == 0 and heat.max() == 1
    assert heat[12:, 12:].min() > heat[:8, :8].max()
    assert not heat_map(torch.tensor([[[[-1.0, -2.0], [0.0, -3.0]]]]), 8).any()


def test_the_overlay_is_grey_at_0_and_yellow_at_1() -> None:
    picture = np.full((2, 2, 3), (100, 150, 200), dtype=np.uint8)
    drawn = overlay(picture, np.array([[0.0, 0.0], [0.0, 1.0]])).astype(int)
    assert (drawn[0, 0] == round(0.299 * 100 + 0.587 * 150 + 0.114 * 200)).all()
    red, green, blue = drawn[1, 1]
    assert red > blue and green > blue and red > 200


@pytest.mark.parametrize(
    ("size", "count"), [(224, 3), (128, 3), (97, 3), (96, 2), (64, 2), (49, 2), (48, 1), (32, 1), (24, 0)]
)
def test_usable_stages_have_a_feature_map_of_4_or_more(size: int, count: int) -> None:
    assert usable_stages(STAGES, size) == ["layer4", "layer3", "layer2"][3 - count :]
