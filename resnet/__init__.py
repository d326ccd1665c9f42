"""ResNet18, 34, 50, 101 and 152, written by hand; see ``resnet/resnet.py``."""

from resnet.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    zero_init_residual,
)

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "zero_init_residual",
]
