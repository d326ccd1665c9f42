"""VGG-16, by hand, with or without batch norm: 13 convolutions and three fully connected layers.

Simonyan and Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition (arXiv 1409.1556), table 1,
configuration D; batch norm as torchvision adds it, whose state dicts are interchangeable. 138,357,544 parameters with 1000
classes. Without batch norm it needs a low learning rate.
"""

from __future__ import annotations

from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels; each ends in max pooling
GRID = 7  # side of the feature map that the classifier takes; another size is averaged to it


class VGG(nn.Module):
    """Images [N, 3, H, W] with H and W of 32 px or more → logits [N, classes]."""

    def __init__(self, classes: int, batch_norm: bool = False, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in STAGES:
            for outputs in stage:
                norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(GRID)
        self.classifier = nn.Sequential(
            nn.Linear(512 * GRID * GRID, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        self.initialise()

    def initialise(self) -> None:
        """Convolutions as in He et al. 2015 (arXiv 1502.01852, §2.2), without which 13 of them do not train; linear layers normal
        with standard deviation 0.01 (Simonyan and Zisserman, §3.1)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg16(classes: int) -> VGG:
    """VGG-16 without batch norm."""
    return VGG(classes)


def vgg16_bn(classes: int) -> VGG:
    """VGG-16 with batch norm after each convolution."""
    return VGG(classes, batch_norm=True)
