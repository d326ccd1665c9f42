"""ResNet18, 34, 50, 101 and 152, written by hand; see ``resnet/resnet.py``."""

from resnet.resnet import (
    MODELS,
    BasicBlock,
    Bottleneck,
    ResNet,
    build,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)

__all__ = [
    "MODELS",
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "build",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]
