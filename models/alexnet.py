"""AlexNet, by hand: five convolutions and three fully connected layers.

Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks (arXiv 1404.5997): one column, and no local
response normalisation, as in torchvision, whose state dicts are interchangeable. 61,100,840 parameters with 1000 classes.
"""

from __future__ import annotations

from torch import Tensor, nn

GRID = 6  # side of the feature map that the classifier takes; another size is averaged to it


class AlexNet(nn.Module):
    """Images [N, 3, H, W] with H and W of 63 px or more → logits [N, classes]."""

    def __init__(self, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(GRID)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * GRID * GRID, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def alexnet(classes: int) -> AlexNet:
    """AlexNet of one column."""
    return AlexNet(classes)
