"""A fully connected network: 10 hidden units on all pixels, by hand. 1,505,378 parameters at 224 px with 8 classes.

It is a lower limit for comparison. As published it ended in a ReLU, so that no logit could be negative, and its optimizer held
another network's parameters, so that it was never trained. Here it has neither.
"""

from __future__ import annotations

from torch import Tensor, nn


class FullyConnected(nn.Module):
    """Images [N, 3, size, size] → logits [N, classes]."""

    def __init__(self, classes: int, size: int, hidden: int = 10) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * size * size, hidden)
        self.relu = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.relu(self.hidden(x.flatten(1))))


def fc(classes: int, size: int) -> FullyConnected:
    """The network for images of ``size`` px."""
    return FullyConnected(classes, size)
