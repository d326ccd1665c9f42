"""The catalogue of models: one row for each network that can be trained. Imports no torch, so that ``--help`` need not wait.

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
        name: on the command line, in checkpoints and in the names of files; letters, digits and underscores.
        title: in figures and texts.
        builder: ``module:function``, imported only when the network is built. The function takes the number of classes and,
            if the model is ``sized``, the side of the input in px; it returns the network with its initial weights.
        colour: in figures, ``#RRGGBB``; ``colour_on_dark`` where that cannot be seen on a dark page.
        marker: in figures, a letter of matplotlib's.
        stages: the layers that Grad-CAM can explain, the deepest first: name of the submodule, and px of the input for each
            place of its feature map.
        sized: whether the network is built for one size of the input and takes no other.
        smallest: the smallest side of the input, px.
        test_list: the list whose images it predicts for a submission. The lab has one for each depth, in an order of its own.
        recipe: the model's own defaults of train.py's options, by the names of ``lab.training.recipe.Settings``; size and window
            excepted, which are chosen with the preprocessing.
        depth: of a ResNet, its number of layers; 0 for any other network.
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
    test_list: str = "resnet_18_test"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 0
    lab: bool = False

    @property
    def short(self) -> str:
        """The title in a narrow column: the depth alone of a ResNet."""
        return str(self.depth or self.title)

    def least_input(self, size: int) -> int:
        """The smallest input, in px, that a network built for ``size`` px takes."""
        return size if self.sized else self.smallest


def resnet(
    depth: int, colour: str, marker: str, *, colour_on_dark: str = "", progressive: bool = False, lab: bool = False
) -> Model:
    """The row of a ResNet: all depths have the same stages and each its own test list."""
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


# In the order in which they are listed and drawn. Colours are those of Okabe and Ito 2008, ordered so that deeper is darker: the
# lab's three depths can be told apart when printed in grey, and the markers tell all models apart.
ROWS = (
    resnet(18, "#E69F00", "o", lab=True),
    resnet(34, "#CC79A7", "v"),
    resnet(50, "#0072B2", "s", colour_on_dark="#4DA3DB", progressive=True, lab=True),
    resnet(101, "#009E73", "D", progressive=True),
    resnet(152, "#000000", "^", colour_on_dark="#F2F2F2", progressive=True, lab=True),
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
    """The row of a model. Raises ``ValueError`` that names the known models for any other name."""
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
