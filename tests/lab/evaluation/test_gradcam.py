"""Heat maps: held against a plain version of the paper's formula, and against what must be true of any of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lab.evaluation.gradcam import explain, heat, overlay, telling_stages, undo_dihedral
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
    """Equations 1 and 2 of the paper without the ReLU: the class's gradient, averaged over the places, weighs the channels."""
    kept: list[Tensor] = []
    handle = network.get_submodule(stage).register_forward_hook(lambda _module, _given, made: kept.append(made))
    with torch.enable_grad():
        logit = network(view.clone().requires_grad_())[0, label]
        (gradient,) = torch.autograd.grad(logit, kept[0])
    handle.remove()
    return (gradient.mean(dim=(2, 3), keepdim=True) * kept[0].detach()).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("label", [0, 2])
def test_the_map_is_the_mean_of_eight_slow_ones_turned_back(network: nn.Module, stage: str, label: int) -> None:
    slow = [slow_map(network, view, label, stage) for view in dihedral(image())]
    back = [torch.rot90(slow[turns], -turns, (2, 3)) for turns in range(4)]
    back += [torch.rot90(slow[4 + turns], -turns, (2, 3)).flip(3) for turns in range(4)]
    _, found = explain(network, image(), label, stage, CPU, d4=False)
    torch.testing.assert_close(found, torch.stack(back).mean(dim=0), rtol=1e-4, atol=1e-6)


def test_the_views_are_turned_back() -> None:
    views = torch.cat(dihedral(image()))
    assert all(torch.equal(view, image()) for view in undo_dihedral(views))


@pytest.mark.parametrize("number", range(8))
def test_of_a_turned_image_the_map_is_turned(network: nn.Module, number: int) -> None:
    _, upright = explain(network, image(1), 1, "layer3", CPU, d4=True)
    _, turned = explain(network, dihedral(image(1))[number], 1, "layer3", CPU, d4=True)
    torch.testing.assert_close(turned, dihedral(upright)[number], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("d4", [False, True])
def test_the_same_pass_predicts(network: nn.Module, d4: bool) -> None:
    row, found = explain(network, image(2), None, "layer4", CPU, d4)
    np.testing.assert_allclose(row, probabilities(network, image(2), CPU, d4)[0].numpy(), rtol=1e-5)
    torch.testing.assert_close(found, explain(network, image(2), int(row.argmax()), "layer4", CPU, d4)[1])


def test_in_bf16_the_map_is_nearly_the_same(network: nn.Module) -> None:
    row, found = explain(network, image(3), 1, "layer3", Hardware(torch.device("cpu"), "bf16"), d4=True)
    exact, expected = explain(network, image(3), 1, "layer3", CPU, d4=True)
    np.testing.assert_allclose(row, exact, atol=0.02)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_nothing_is_left_in_the_network(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explain(network, image(), None, "layer2", CPU, d4=True)
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert not any(values.requires_grad or values.grad is not None for values in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_where_nothing_speaks_for_the_class_all_is_cold() -> None:
    assert not heat(torch.tensor([[[[-1.0, -2.0], [0.0, -3.0]]]]), 8).any()


def test_heat_goes_from_0_to_1_and_lies_where_the_map_is_high() -> None:
    hot = heat(torch.tensor([[[[-5.0, 0.0], [0.0, 2.0]]]]), 16)
    assert hot.shape == (16, 16) and hot.min() == 0 and hot.max() == 1
    assert hot[12:, 12:].min() > hot[:8, :8].max()


def test_the_overlay_hides_nothing_where_it_is_cold_and_the_hottest_is_yellow() -> None:
    picture = np.full((2, 2, 3), (100, 150, 200), dtype=np.uint8)
    drawn = overlay(picture, np.array([[0.0, 0.0], [0.0, 1.0]])).astype(int)
    grey = round(0.299 * 100 + 0.587 * 150 + 0.114 * 200)
    assert (drawn[0, 0] == grey).all()
    red, green, blue = drawn[1, 1]
    assert red > blue and green > blue and red > 200


@pytest.mark.parametrize(
    ("size", "count"), [(224, 3), (128, 3), (97, 3), (96, 2), (64, 2), (49, 2), (48, 1), (32, 1), (24, 0)]
)
def test_the_stages_that_tell_where_have_four_places_along_a_side(size: int, count: int) -> None:
    assert telling_stages(STAGES, size) == ["layer4", "layer3", "layer2"][3 - count :]
