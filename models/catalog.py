"""The catalogue of models: one row for each network that can be trained. Imports no torch, so that ``--help`` is fast.

docs/how-to.md says how to add a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Model:
    """A row of the catalogue.

    Attributes:
        name: on the command line, in checkpoints and in file names; letters, digits and underscores.
        title: in figures and texts.
        builder: ``module:function``, imported when the network is built. The function takes the number of classes and, if the
            model is ``sized``, the side of the input in px. It returns the network with its initial weights.
        colour: in figures, ``#RRGGBB``.
        colour_on_dark: on a dark page, if ``colour`` is too dark for it.
        marker: in figures, one of matplotlib's.
        stages: the layers that Grad-CAM can explain, the deepest first: name of the submodule, and the stride of its feature
            map in px of the input. Empty if the network has no feature maps.
        sized: whether the network accepts only the input size that it was built for.
        smallest: the smallest side of the input, px.
        multiple: the side of the input is a multiple of this number of px.
        test_list: the list that it predicts for a submission. Each of the lab's depths has its own.
        recipe: the model's defaults of train.py's options, by the field names of ``lab.training.recipe.Settings`` without
            ``model``, ``size`` and ``window``.
        depth: a ResNet's number of layers; 0 for any other network.
        lab: whether it is one of the lab's three depths.
    """

    name: str
    title: str
    builder: str
    colour: str
    colour_on_dark: str = ""
    marker: str
    stages: Mapping[str, int]
    sized: bool = False
    smallest: int = 32
    multiple: int = 1
    test_list: str = "resnet_18_test"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 0
    lab: bool = False

    @property
    def short(self) -> str:
        """The title in a narrow column: a ResNet's depth."""
        return str(self.depth or self.title)

    def least_input(self, size: int) -> int:
        """The smallest input, in px, that a network built for ``size`` px accepts."""
        return size if self.sized else self.smallest


def resnet(
    depth: int, colour: str, marker: str, *, colour_on_dark: str = "", progressive: bool = False, lab: bool = False
) -> Model:
    """The row of a ResNet. All depths have the same stages; each has its own test list."""
    return Model(
        name=f"resnet{depth}",
        title=f"ResNet{depth}",
        builder=f"resnet.resnet:resnet{depth}",
        colour=colour,
        colour_on_dark=colour_on_dark,
        marker=marker,
        stages={"layer4": 32, "layer3": 16, "layer2": 8},
        test_list=f"resnet_{depth}_test",
        recipe={"progressive": progressive},
        depth=depth,
        lab=lab,
    )


def small_cnn(
    name: str, title: str, colour: str, marker: str, stages: Mapping[str, int], recipe: Mapping[str, Any]
) -> Model:
    """The row of a network in ``models/small_cnns.py``."""
    builder = f"models.small_cnns:{name}"
    return Model(name=name, title=title, builder=builder, colour=colour, marker=marker, stages=stages, recipe=recipe)


# Recipes for networks without batch norm, which need lower learning rates than the default. They are not tuned: vgg16's and
# vit_tiny's were the first that were tried on pbc8 (runs/compare_pbc8.sh).
ADAMW = {"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.05}
DEEP = {"optimizer": "adamw", "lr": 0.0003, "weight_decay": 0.05}
LOW = {"optimizer": "sgd", "lr": 0.01, "warmup": 3.0}
TRANSFORMER = {"optimizer": "adamw", "lr": 0.0005, "weight_decay": 0.05, "warmup": 5.0, "clip": 1.0}
BLOCKS = {"features.2": 8, "features.1": 4, "features.0": 2}

# In the order of lists and figures. The colours of the ResNets are Okabe and Ito's (2008). Of the lab's three depths, deeper is
# darker, so that they can be distinguished when printed in grey. Others are theirs or Paul Tol's. All markers differ.
ROWS = (
    resnet(18, "#E69F00", "o", lab=True),
    resnet(34, "#CC79A7", "v"),
    resnet(50, "#0072B2", "s", colour_on_dark="#4DA3DB", progressive=True, lab=True),
    resnet(101, "#009E73", "D", progressive=True),
    resnet(152, "#000000", "^", colour_on_dark="#F2F2F2", progressive=True, lab=True),
    Model(
        name="fc",
        title="Fully connected",
        builder="models.fully_connected:fc",
        colour="#888888",
        marker="d",
        stages={},
        sized=True,
        recipe=ADAMW,
    ),
    small_cnn("cnn_light", "Light CNN", "#999933", "<", BLOCKS, {}),
    small_cnn("cnn6", "6-conv CNN", "#D55E00", "P", BLOCKS, {}),
    small_cnn("cnn4", "4-conv CNN", "#56B4E9", "h", {"features.1": 4, "features.0": 2}, ADAMW),
    small_cnn("cnn2", "2-conv CNN", "#44AA99", ">", {"features.0": 2}, ADAMW),
    small_cnn("cnn2_dropout", "2-conv CNN with dropout", "#117733", "8", {"features.0": 2}, ADAMW),
    Model(
        name="alexnet",
        title="AlexNet",
        builder="models.alexnet:alexnet",
        colour="#882255",
        colour_on_dark="#CC6699",
        marker="p",
        stages={"features.12": 32, "features.11": 16, "features.4": 8},
        smallest=63,
        recipe=LOW,
    ),
    Model(
        name="vgg16",
        title="VGG-16",
        builder="models.vgg:vgg16",
        colour="#332288",
        colour_on_dark="#8877DD",
        marker="X",
        stages={"features.30": 32, "features.23": 16, "features.16": 8},
        recipe=DEEP,
    ),
    Model(
        name="vgg16_bn",
        title="VGG-16 with batch norm",
        builder="models.vgg:vgg16_bn",
        colour="#6699CC",
        marker="H",
        stages={"features.43": 32, "features.33": 16, "features.23": 8},
        recipe={"lr": 0.02},
    ),
    Model(
        name="vit_tiny",
        title="ViT-Tiny/8",
        builder="models.vit:vit_tiny",
        colour="#AA4499",
        marker="x",
        stages={},
        sized=True,
        multiple=8,
        recipe=TRANSFORMER,
    ),
    Model(
        name="vit_b16",
        title="ViT-B/16",
        builder="models.vit:vit_b16",
        colour="#661100",
        colour_on_dark="#CC7766",
        marker="+",
        stages={},
        sized=True,
        multiple=16,
        recipe=TRANSFORMER,
    ),
)
MODELS = {row.name: row for row in ROWS}


def names() -> list[str]:
    """All models."""
    return list(MODELS)


def resnets() -> list[str]:
    """The ResNets of all depths."""
    return [name for name, row in MODELS.items() if row.depth]


def depths() -> list[str]:
    """The lab's three depths."""
    return [name for name, row in MODELS.items() if row.lab]


def find(name: str) -> Model:
    """The row of a model. Raises ``ValueError`` for an unknown name."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: the models are {', '.join(MODELS)}")
    return MODELS[name]


def build(name: str, classes: int, size: int) -> nn.Module:
    """A network with its initial weights, for images of ``size`` px: float32 [N, 3, size, size] → logits [N, classes].

    Raises ``ValueError`` for an unknown name.
    """
    row = find(name)
    module, function = row.builder.split(":")
    builder = getattr(import_module(module), function)
    network: nn.Module = builder(classes, size) if row.sized else builder(classes)
    return network
