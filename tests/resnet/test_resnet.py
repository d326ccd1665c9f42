"""The hand-written networks against torchvision's as oracle, and against the table in their documentation."""

from __future__ import annotations

import re
from functools import cache
from math import sqrt

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import resnet.resnet as source
from resnet import BasicBlock, Bottleneck, ResNet, zero_init_residual

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def oracle(name: str, num_classes: int) -> nn.Module:
    """torchvision's network of that name with random weights."""
    model: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=num_classes)
    return model


def build(name: str, num_classes: int = 2, **more: bool) -> ResNet:
    """Our network of that name."""
    model: ResNet = getattr(source, name)(num_classes, **more)
    return model


def shape_only(name: str, num_classes: int = 2) -> ResNet:
    """Our network on the meta device: shapes without values."""
    with torch.device("meta"):
        return build(name, num_classes)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def scramble(model: nn.Module) -> None:
    """Give every norm another scale, shift and statistics, so that a test detects norms that are swapped or skipped.

    The last norm of a block has a small scale, because in eval mode the sum over 50 blocks would overflow otherwise.
    """
    names = dict(model.named_modules())
    for name, module in names.items():
        if isinstance(module, nn.BatchNorm2d):
            last = name.endswith(".bn3") or (name.endswith(".bn2") and f"{name[:-1]}3" not in names)
            nn.init.uniform_(module.weight, *((0.1, 0.3) if last else (0.5, 1.5)))
            nn.init.normal_(module.bias, std=0.2)
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def assert_equal_but_for_rounding(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Equal to 1e-9 of the largest element, in float64: the rounding of 152 layers."""
    assert ours.shape == theirs.shape, what
    difference, scale = (ours - theirs).abs_().max().item(), theirs.abs().max().item()
    assert difference <= 1e-9 * scale, f"{what}: differs by {difference:.3g}, the largest element is {scale:.3g}"


@pytest.mark.parametrize("name", NAMES)
def test_same_as_torchvision(name: str) -> None:
    """Logits, the gradient of every parameter and the running statistics, in train and then in eval mode."""
    torch.manual_seed(0)
    theirs = oracle(name, num_classes=3).double()
    scramble(theirs)
    ours = shape_only(name, num_classes=3)
    ours.load_state_dict({key: value.clone() for key, value in theirs.state_dict().items()}, strict=True, assign=True)
    # With 2 images of 48×36 px each norm of the last stage has 2 × 2 × 2 values, enough for a variance in float64.
    images, direction = torch.randn(2, 3, 48, 36, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)

    for training in (True, False):
        for model in (ours, theirs):
            model.train(training)
            model.zero_grad()
        logits, expected = ours(images), theirs(images)
        assert expected.std() > 1e-3 and expected.isfinite().all(), "the oracle's logits are constant"
        assert_equal_but_for_rounding(logits, expected, "logits")
        (logits * direction).sum().backward()
        (expected * direction).sum().backward()
        parameters = dict(theirs.named_parameters())
        for key, parameter in ours.named_parameters():
            gradient = parameters[key].grad
            assert parameter.grad is not None and gradient is not None and gradient.any(), f"no gradient reaches {key}"
            assert_equal_but_for_rounding(parameter.grad, gradient, f"gradient of {key}, training={training}")
        buffers = dict(theirs.named_buffers())
        for key, buffer in ours.named_buffers():
            assert_equal_but_for_rounding(buffer.double(), buffers[key].double(), f"{key}, training={training}")


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_are_interchangeable(name: str) -> None:
    """The same names, order, shapes and types, so strict loading works in both directions."""
    ours = shape_only(name, 7)
    with torch.device("meta"):
        theirs = oracle(name, 7)

    def form(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
        return [(key, value.shape, value.dtype) for key, value in model.state_dict().items()]

    assert form(ours) == form(theirs)


def table() -> dict[str, list[str]]:
    """The rows of the table in the module docstring, by model name."""
    rows = re.findall(r"^(\d+) +\|(.*)$", source.__doc__ or "", flags=re.MULTILINE)
    return {f"resnet{depth}": [cell.strip() for cell in cells.split("|")] for depth, cells in rows}


def gmac(model: nn.Module, side: int) -> float:
    """10⁹ multiply-accumulates of a forward pass of one image, by PyTorch's FLOP counter, which counts each as two operations."""
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("name", NAMES)
def test_the_table_describes_the_networks(name: str) -> None:
    assert list(table()) == NAMES
    block, per_stage, layers, at_1000, at_2, giga = table()[name]
    model = shape_only(name, 1000)
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    blocks = [member for stage in stages for member in stage]

    assert {type(member).__name__ for member in blocks} == {block}
    assert [int(number) for number in per_stage.split(",")] == [len(stage) for stage in stages]

    stem, each, times, classifier = (int(number) for number in re.findall(r"\d+", layers))
    assert layers == f"{stem} + {each}×{times} + {classifier}"
    assert times == len(blocks)
    assert all(sum(isinstance(child, nn.Conv2d) for child in member.children()) == each for member in blocks)
    weighted = [key for key, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    main_path = [key for key in weighted if "downsample" not in key]
    assert int(name.removeprefix("resnet")) == stem + each * times + classifier == len(main_path)

    assert at_1000 == f"{count(model):,}"
    assert at_2 == f"{count(shape_only(name, 2)):,}"
    assert giga == f"{gmac(model.eval(), 224):.3f}"


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnet152"])
def test_bottleneck_strides_in_its_3x3(name: str) -> None:
    """v1.5: on the main path of a block only the 3×3 convolution changes the size."""
    convolutions = {key: m for key, m in shape_only(name).named_modules() if isinstance(m, nn.Conv2d)}
    strided = [key for key, module in convolutions.items() if module.stride != (1, 1) and "downsample" not in key]
    assert strided == ["conv1", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"]


@cache
def small_pair() -> tuple[ResNet, nn.Module]:
    """ResNet18 of ours and of torchvision with the same weights, in eval mode and float64."""
    torch.manual_seed(1)
    theirs = oracle("resnet18", num_classes=2).double().eval()
    scramble(theirs)
    ours = build("resnet18", num_classes=2).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@given(height=st.integers(32, 100), width=st.integers(32, 100), images=st.integers(1, 3))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_input_size(height: int, width: int, images: int) -> None:
    ours, theirs = small_pair()
    batch = torch.randn(images, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))
    with torch.no_grad():
        assert_equal_but_for_rounding(ours(batch), theirs(batch), f"{height}×{width}")


@pytest.mark.parametrize(
    "shape", [(2, 3, 31, 64), (2, 3, 64, 31), (2, 1, 64, 64), (2, 4, 64, 64), (3, 64, 64), (2, 64, 64, 3)]
)
def test_a_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    message = f"[N, 3, H, W] with H and W of 32 px or more, found {list(shape)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        shape_only("resnet18")(torch.empty(shape, device="meta"))


@given(num_classes=st.integers(1, 3000))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_any_number_of_classes(num_classes: int) -> None:
    """A class adds a row and a bias to the classifier, and nothing else."""
    model = shape_only("resnet18", num_classes)
    assert count(model) == 11_177_538 + (num_classes - 2) * (512 + 1)
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, num_classes)


@pytest.mark.parametrize("num_classes", [0, -1])
def test_fewer_than_one_class_is_an_error(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes must be 1 or more, found {num_classes}"):
        build("resnet18", num_classes)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_initial_weights(name: str) -> None:
    """Normal, mean 0, variance 2 / fan-out (He et al. 2015, arXiv 1502.01852); within 6 standard errors."""
    torch.manual_seed(2)
    for key, module in build(name).named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().double()
            expected, n = sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3])), weight.numel()
            assert abs(weight.std().item() / expected - 1) < 6 / sqrt(2 * n), key
            assert abs(weight.mean().item()) < 6 * expected / sqrt(n), key
            # A uniform distribution of this variance ends at 1.73 standard deviations.
            assert weight.abs().max().item() > 3 * expected, key
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), key


@pytest.mark.parametrize(("name", "count"), [("resnet18", 8), ("resnet50", 16)])
def test_zero_initialised_blocks_add_nothing_but_have_gradients(name: str, count: int) -> None:
    torch.manual_seed(3)
    model = build(name, zero_init_residual=True)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
    inputs: list[Tensor] = []
    for block in blocks:
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()

    assert len(inputs) == len(blocks) == count
    for block, x in zip(blocks, inputs.copy(), strict=True):
        with torch.no_grad():
            assert not block.residual(x).any()
            assert torch.equal(block(x), block.downsample(x).relu())
        scale = (block.bn2 if isinstance(block, BasicBlock) else block.bn3).weight
        assert scale.grad is not None and scale.grad.any()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_blocks_can_be_zero_initialised_afterwards(name: str) -> None:
    """The weights equal those of the constructor's argument. Neither draws random numbers."""
    torch.manual_seed(3)
    expected, drawn = build(name, zero_init_residual=True).state_dict(), torch.rand(1)
    torch.manual_seed(3)
    network = build(name)
    zero_init_residual(network)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_zero_init_does_not_change_a_network_without_residual_blocks() -> None:
    norm = nn.BatchNorm2d(4)
    zero_init_residual(nn.Sequential(nn.Conv2d(3, 4, 3), norm))
    assert (norm.weight == 1).all()


def test_compiles_to_one_graph_for_all_sizes() -> None:
    """Without a graph break, including the check of the shape."""
    ours, _ = small_pair()
    compiled = torch.compile(ours, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in [(2, 3, 64, 80), (3, 3, 50, 90)]:
            images = torch.ones(shape, dtype=torch.float64)
            assert_equal_but_for_rounding(compiled(images), ours(images), f"{shape}")


def test_exports_with_any_batch_size() -> None:
    """By torch.export."""
    ours, _ = small_pair()
    images = torch.ones(2, 3, 40, 56, dtype=torch.float64)
    number = torch.export.Dim("number", min=1, max=64)
    program = torch.export.export(ours, (images,), dynamic_shapes=({0: number},))
    more = torch.cat([images, images / 2, images * 2])
    with torch.no_grad():
        assert_equal_but_for_rounding(program.module()(more), ours(more), "logits")
