"""Small convolutional networks that others trained on blood cells, by hand.

name          | layers                                                                     | parameters
------------- | -------------------------------------------------------------------------- | ---------------------
cnn_light     | blocks of 10, 20, 40 channels; 40 → 512 → classes                           | 53,686 (8 classes)
cnn6          | blocks of 64, 128, 256 channels; 256 → 256 → classes                        | 1,215,048 (8 classes)
cnn4          | convolutions of 32, 64, pooling, 128, 128, pooling; 128 → 128 → classes     | 257,860 (4 classes)
cnn2          | convolutions of 32, 64, pooling; 64 → 128 → classes                         | 28,228 (4 classes)
cnn2_dropout  | the same, with dropout after the pooling                                    | 28,228 (4 classes)

A block is twice (3×3 convolution, batch norm, ReLU), then 2×2 max pooling and dropout. The convolutions of ``cnn4`` and ``cnn2``
have no batch norm and no padding, so that each loses a border of one pixel. All networks average over the feature map before the
classifier, and accept any size from ``models/catalog.py``'s smallest.

Modules are named after their roles: ``features`` (the stages) and ``classifier``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Stages, global average pooling, one hidden layer, classifier. Images [N, 3, H, W] → logits [N, classes]."""

    def __init__(
        self, stages: Sequence[nn.Sequential], channels: int, hidden: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*stages)
        self.classifier = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def block(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    """[N, inputs, H, W] → [N, outputs, H/2, W/2]."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Dropout(dropout))


def pair(inputs: int, middle: int, outputs: int, dropout: float) -> nn.Sequential:
    """Two convolutions without padding. [N, inputs, H, W] → [N, outputs, H/2 − 2, W/2 − 2]."""
    first, second = nn.Conv2d(inputs, middle, 3), nn.Conv2d(middle, outputs, 3)
    return nn.Sequential(
        first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(dropout)
    )


def cnn_light(classes: int) -> SmallCNN:
    """Six convolutions of 10 to 40 channels."""
    return SmallCNN([block(3, 10, 0.2), block(10, 20, 0.2), block(20, 40, 0.3)], 40, 512, classes, 0.5)


def cnn6(classes: int) -> SmallCNN:
    """Six convolutions of 64 to 256 channels."""
    return SmallCNN([block(3, 64, 0.2), block(64, 128, 0.3), block(128, 256, 0.4)], 256, 256, classes, 0.5)


def cnn4(classes: int) -> SmallCNN:
    """Four convolutions without batch norm."""
    return SmallCNN([pair(3, 32, 64, 0.25), pair(64, 128, 128, 0.25)], 128, 128, classes, 0.0)


def cnn2(classes: int) -> SmallCNN:
    """Two convolutions without batch norm and without dropout."""
    return SmallCNN([pair(3, 32, 64, 0.0)], 64, 128, classes, 0.0)


def cnn2_dropout(classes: int) -> SmallCNN:
    """Two convolutions without batch norm, with dropout."""
    return SmallCNN([pair(3, 32, 64, 0.25)], 64, 128, classes, 0.0)
