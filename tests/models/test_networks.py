"""The networks to compare with: torchvision's as oracle, and the published numbers of parameters."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lab.evaluation.inference import folded
from models import catalog
from models.alexnet import AlexNet
from models.vgg import VGG
from models.vit import ViT

# Name, classes, size, parameters: the published numbers, and those of the papers' networks with 1000 classes.
COUNTS = [
    ("fc", 8, 224, 1_505_378),
    ("cnn_light", 8, 64, 53_686),
    ("cnn6", 8, 64, 1_215_048),
    ("cnn4", 4, 64, 257_860),
    ("cnn2", 4, 64, 28_228),
    ("cnn2_dropout", 4, 64, 28_228),
    ("alexnet", 1000, 224, 61_100_840),
    ("vgg16", 1000, 224, 138_357_544),
    ("vgg16_bn", 1000, 224, 138_365_992),
    ("vit_tiny", 8, 64, 5_390_024),
    ("vit_b16", 1000, 224, 86_567_656),
]
OTHERS = [name for name, *_ in COUNTS]


def test_every_network_to_compare_with_is_counted_and_none_is_the_labs() -> None:
    assert [name for name in catalog.names() if not catalog.find(name).depth] == OTHERS
    assert not set(OTHERS) & {*catalog.depths(), *catalog.resnets()}
    assert {catalog.find(name).test_list for name in OTHERS} == {"resnet_18_test"}


@pytest.mark.parametrize(("name", "classes", "size", "parameters"), COUNTS)
def test_the_number_of_parameters(name: str, classes: int, size: int, parameters: int) -> None:
    with torch.device("meta"):
        network = catalog.build(name, classes, size)
        assert network(torch.empty(2, 3, size, size)).shape == (2, classes)
    assert sum(values.numel() for values in network.parameters()) == parameters


def narrow(network: nn.Module) -> nn.Module:
    """The network with a classifier of 16 in place of 4096 units, whose gradients would take most of the time."""
    classifier = network.get_submodule("classifier")
    assert isinstance(classifier, nn.Sequential)
    linear = [index for index, layer in enumerate(classifier) if isinstance(layer, nn.Linear)]
    inputs = next(layer.in_features for layer in classifier if isinstance(layer, nn.Linear))
    for index, (before, after) in zip(linear, pairwise([inputs, 16, 16, 3]), strict=True):
        classifier[index] = nn.Linear(before, after)
    return network


# Our network and torchvision's, both for 3 classes and without dropout, and the side of the images.
VIT: dict[str, int] = {"image_size": 48, "patch_size": 16, "num_layers": 3, "num_heads": 4, "num_classes": 3}
ORACLES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], int]] = {
    "alexnet": (lambda: AlexNet(3, dropout=0.0), lambda: torchvision.models.alexnet(num_classes=3, dropout=0.0), 70),
    "vgg16": (lambda: VGG(3, False, 0.0), lambda: torchvision.models.vgg16(num_classes=3, dropout=0.0), 40),
    "vgg16_bn": (lambda: VGG(3, True, 0.0), lambda: torchvision.models.vgg16_bn(num_classes=3, dropout=0.0), 40),
    "vit": (
        lambda: ViT(3, 48, patch=16, width=32, layers=3, heads=4),
        lambda: torchvision.models.VisionTransformer(**VIT, hidden_dim=32, mlp_dim=128),
        48,
    ),
}


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("alexnet", "alexnet"), ("vgg16", "vgg16"), ("vgg16_bn", "vgg16_bn"), ("vit_b16", "vit_b_16")],
)
def test_state_dicts_are_interchangeable(name: str, theirs: str) -> None:
    with torch.device("meta"):
        own, other = catalog.build(name, 1000, 224), getattr(torchvision.models, theirs)()
    own.load_state_dict(other.state_dict(), strict=True, assign=True)


def assert_equal_but_for_rounding(ours: Tensor, theirs: Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, what
    difference, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    assert difference <= 1e-9 * scale, f"{what}: differs by {difference:.3g}, the largest is {scale:.3g}"


@pytest.mark.parametrize("name", ORACLES)
def test_same_as_torchvision(name: str) -> None:
    """Logits and the gradient of every parameter, in float64 from the same state dict."""
    torch.manual_seed(0)
    make, oracle, size = ORACLES[name]
    with torch.device("meta"):  # the large classifier is never filled
        ours, theirs = make(), oracle()
    if name != "vit":
        ours, theirs = narrow(ours), narrow(theirs)
    ours, theirs = (network.to_empty(device="cpu").double() for network in (ours, theirs))
    with torch.no_grad():
        for key, values in theirs.state_dict().items():
            if values.is_floating_point():
                scale = 1 / max(1, values[0].numel()) ** 0.5 if values.ndim > 1 else 0.2
                values.normal_(std=scale)
                if values.ndim == 1 and key.endswith(("weight", "running_var")):  # of norms
                    values.abs_().add_(0.5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images, direction = torch.randn(2, 3, size, size, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    logits = []
    for network in (ours, theirs):
        logits.append(network.train()(images))
        (logits[-1] * direction).sum().backward()
    assert_equal_but_for_rounding(logits[0], logits[1], "logits")
    gradients = dict(theirs.named_parameters())
    for key, values in ours.named_parameters():
        expected = gradients[key].grad
        assert values.grad is not None and expected is not None and expected.any(), key
        assert_equal_but_for_rounding(values.grad, expected, key)


@pytest.mark.parametrize("name", ["vgg16", "vit"])
def test_the_initial_weights_have_the_scale_of_torchvisions(name: str) -> None:
    """The standard deviation of each tensor; what starts at zero is zero."""
    make, oracle, _ = ORACLES[name]
    torch.manual_seed(0)
    theirs = dict(oracle().named_parameters())
    for key, values in make().named_parameters():
        expected = theirs[key]
        assert values.any() == expected.any(), key
        if expected.numel() > 1000:
            assert values.std().item() == pytest.approx(expected.std().item(), rel=0.1, abs=1e-6), key


@pytest.mark.parametrize("name", ["cnn_light", "cnn6", "vgg16_bn"])
def test_batch_norms_are_folded_into_their_convolutions(name: str) -> None:
    torch.manual_seed(1)
    network, images = catalog.build(name, 3, 32).eval(), torch.randn(2, 3, 32, 32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.2)
    with torch.no_grad():
        torch.testing.assert_close(folded(network)(images), network(images), rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(network).modules())


def test_a_vit_refuses_a_size_that_its_patches_do_not_divide() -> None:
    with pytest.raises(ValueError, match="multiples of 8, found 60"):
        catalog.build("vit_tiny", 2, 60)
