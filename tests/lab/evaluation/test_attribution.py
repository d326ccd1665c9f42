"""Attributions: sums that the axioms demand, networks that look at one place only, and the copies of networks for DeepLift."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional

from lab.cpu.convolutions import replace_convolutions
from lab.data.preprocessing import Preprocessing
from lab.evaluation import attribution
from lab.evaluation.attribution import TITLES, Explainer, PairwiseMax, empty_colour, unshared
from lab.evaluation.gradcam import explain, heat_map
from models.catalog import ROWS
from tests.made_page import CPU, staged

SIZE = {"alexnet": 63}
TRACED = [row.name for row in ROWS if not row.name.startswith("vit")]
BRANCHES = ["resnet18", "resnet50", "fc", "cnn_light", "cnn4", "alexnet", "vgg16_bn", "vit_tiny"]
SMALL = {"vgg16_bn": 32, "vit_tiny": 32, "fc": 32}


def network_of(name: str, classes: int = 3) -> nn.Module:
    """A network of the catalogue with random weights, also in its last layer."""
    torch.manual_seed(0)
    (row,) = [row for row in ROWS if row.name == name]
    module, function = row.builder.split(":")
    builder = getattr(import_module(module), function)
    network: nn.Module = builder(classes, 32) if row.sized else builder(classes)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.05)
    return network.eval().requires_grad_(False)


def images(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


class Corner(nn.Module):
    """Logits of two classes: the mean of the upper left quarter, and its negative."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        mean = x[:, :, :half, :half].mean(dim=(1, 2, 3))
        return torch.stack([mean, -mean], dim=1)


@pytest.mark.parametrize("name", TRACED)
def test_the_copy_for_deep_lift_has_the_same_outputs(name: str) -> None:
    network, batch = network_of(name), images(2, SIZE.get(name, 32))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    copied = unshared(network)
    with torch.no_grad():
        torch.testing.assert_close(copied(batch), network(batch), rtol=1e-4, atol=1e-4)
    assert isinstance(copied, fx.GraphModule)
    used = [str(node.target) for node in copied.graph.nodes if node.op == "call_module"]
    relus = [copied.get_submodule(target) for target in used if isinstance(copied.get_submodule(target), nn.ReLU)]
    assert len(relus) == len({id(relu) for relu in relus}) and not any(relu.inplace for relu in relus)
    assert not any(isinstance(copied.get_submodule(target), nn.MaxPool2d) for target in used)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_convolutions_with_measured_algorithms_are_attributed_like_others() -> None:
    """A loaded network has them if it was trained on a CPU."""
    network, batch = network_of("resnet18"), images(2, 32)
    expected = unshared(network)(batch)
    replace_convolutions(network, {"fp32 3x3/1 64-64 8x8": "product product product"})
    torch.testing.assert_close(unshared(network)(batch), expected, rtol=1e-4, atol=1e-4)


def test_the_copy_has_modules_in_place_of_functions() -> None:
    class Functions(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(torch.relu(x - 1).relu() - 1)

    copied = unshared(Functions())
    assert torch.equal(copied(images(2, 8)), Functions()(images(2, 8)))
    assert sum(isinstance(module, nn.ReLU) for module in copied.modules()) == 3


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.integers(6, 11), st.integers(6, 11), st.integers(0, 99)
)
def test_max_pooling_by_relus_is_max_pooling(side: int, stride: int, padding: int, h: int, w: int, seed: int) -> None:
    pool = nn.MaxPool2d(side, stride, min(padding, side // 2))
    x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(PairwiseMax(pool)(x), pool(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BRANCHES)
def test_attributions_add_up_to_the_difference_of_the_logits(name: str) -> None:
    """Completeness (Sundararajan et al. 2017, §3; Shrikumar et al. 2017, §3.1), which captum's own rule for max pooling lacks."""
    side = SMALL.get(name, 64)
    network, image, background = network_of(name), images(1, side), images(4, side, 1)
    explainer = Explainer(network, CPU, background=background)
    with torch.no_grad():
        own, mean, others = (network(batch)[:, 1] for batch in (image, torch.zeros_like(image), background))
    for method, reference in (("integrated_gradients", mean), ("deep_lift_shap", others)):
        if method not in explainer.missing():
            found = explainer.attribute(method, image, 1)
            expected = float(own[0] - reference.mean())
            scale = max(abs(expected), float(np.abs(found).sum()) / 100)
            assert abs(float(found.sum()) - expected) < 0.02 * scale, (method, found.sum(), expected)
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 13, 16, 17])
def test_any_number_of_training_images(count: int) -> None:
    """captum refuses a single reference, which the last part of some could be."""
    network, image, background = network_of("fc"), images(1, 32), images(count, 32, 1)
    with torch.no_grad():
        expected = float(network(image)[0, 1] - network(background)[:, 1].mean())
    found = Explainer(network, CPU, background=background).attribute("deep_lift_shap", image, 1)
    assert float(found.sum()) == pytest.approx(expected, abs=1e-4)


def test_gradient_shap_adds_up_with_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each training image as many: with a few of them drawn at random the sum would be another."""
    monkeypatch.setattr(attribution, "SAMPLES", 500)
    network, image, background = network_of("cnn_light"), images(1, 32) + 0.5, 3 * images(3, 32, 1)
    with torch.no_grad():
        expected = float(network(image)[0, 1] - network(background)[:, 1].mean())
    found = Explainer(network, CPU, background=background).attribute("gradient_shap", image, 1)
    assert float(found.sum()) == pytest.approx(expected, abs=0.02 * float(np.abs(found).sum()))
    assert abs(expected) > 0.05 * float(np.abs(found).sum())


@pytest.mark.parametrize("method", [method for method in TITLES if method != "gradcam"])
def test_only_the_pixels_that_the_network_looks_at_have_an_attribution(method: str) -> None:
    image = images(1, 32).abs()
    explainer = Explainer(Corner(), CPU, background=torch.zeros(2, 3, 32, 32))
    first, second = (explainer.attribute(method, image, label) for label in (0, 1))
    np.testing.assert_allclose(
        first, -second, atol=1e-6
    )  # what is evidence for one class is evidence against the other
    assert (first[:16, :16] > 0).all() and first.dtype == np.float32
    assert np.abs(first[18:]).max() < 1e-6 and np.abs(first[:, 18:]).max() < 1e-6
    if method != "occlusion":  # exact for a linear network: each value times its weight
        np.testing.assert_allclose(first[:16, :16], image[0, :, :16, :16].sum(dim=0) / (3 * 16 * 16), rtol=1e-4)
    assert np.array_equal(first, explainer.attribute(method, image, 0))


def test_grad_cam_is_the_map_of_the_demo() -> None:
    network, image, peaks = staged("resnet50", 3), images(1, 32), []
    for label in range(3):
        found = Explainer(network, CPU, ["layer3"]).attribute("gradcam", image, label)
        _, cam = explain(network, image, label, "layer3", CPU, d4=True)
        np.testing.assert_allclose(found / max(found.max(), 1e-12), heat_map(cam, 32), atol=1e-5)
        peaks.append(found.max())
    assert max(peaks) > 0


def test_grad_cam_tries_the_stages_until_one_has_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def without_evidence(
        _network: nn.Module, _image: Tensor, _label: int, stage: str, *_: object
    ) -> tuple[None, Tensor]:
        tried.append(stage)
        return None, torch.full((1, 1, 4, 4), 3.0 if stage == "second" else -1.0)

    monkeypatch.setattr(attribution, "explain", without_evidence)
    found = Explainer(Corner(), CPU, ["first", "second", "third"]).attribute("gradcam", images(1, 32), 0)
    assert tried == ["first", "second"] and found == pytest.approx(np.full((32, 32), 3.0))
    assert Explainer(Corner(), CPU, ["first", "third"]).attribute("gradcam", images(1, 32), 0).max() == 0


def test_random_numbers_are_those_of_a_fixed_seed_and_leave_no_trace() -> None:
    network, background = network_of("fc"), images(4, 32, 1)
    explainer = Explainer(network, CPU, background=background)
    torch.manual_seed(3)
    np.random.seed(3)
    first = explainer.attribute("gradient_shap", images(1, 32), 0)
    after = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    assert after == (torch.rand(1), np.random.rand())
    assert np.array_equal(first, explainer.attribute("gradient_shap", images(1, 32), 0))


def test_methods_that_cannot_explain_a_network_are_named() -> None:
    assert set(Explainer(network_of("vit_tiny"), CPU).missing()) == {"gradcam", "deep_lift_shap"}
    assert set(Explainer(network_of("fc"), CPU).missing()) == {"gradcam"}
    assert not Explainer(network_of("resnet18"), CPU, ["layer3"]).missing()


def test_an_image_without_information_is_black_for_cells_on_black() -> None:
    image = images(1, 32)
    for locate, colour in (("cell", -0.4 / 0.2), ("centre", 0.0)):
        preprocessing = Preprocessing(32, 64, 32, locate, mean=(0.4,) * 3, std=(0.2,) * 3)  # type: ignore[arg-type]
        found = Explainer(Corner(), CPU, empty=empty_colour(preprocessing)).nothing(image)
        assert found.shape == image.shape and torch.allclose(found, torch.tensor(colour))
