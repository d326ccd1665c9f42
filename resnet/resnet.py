"""Residual networks, by hand, from He et al. 2015, Deep Residual Learning for Image Recognition (arXiv 1512.03385).

A residual block learns the difference from its input: y = relu(F(x) + x). The identity is then easy to learn (F = 0), and the
shortcuts carry gradients to the first layer of a deep network.

depth | block      | blocks per stage | layers       | parameters, 1000 classes | 2 classes  | GMAC
----- | ---------- | ---------------- | ------------ | ------------------------ | ---------- | ------
18    | BasicBlock | 2, 2, 2, 2       | 1 + 2×8 + 1  | 11,689,512               | 11,177,538 | 1.814
34    | BasicBlock | 3, 4, 6, 3       | 1 + 2×16 + 1 | 21,797,672               | 21,285,698 | 3.664
50    | Bottleneck | 3, 4, 6, 3       | 1 + 3×16 + 1 | 25,557,032               | 23,512,130 | 4.089
101   | Bottleneck | 3, 4, 23, 3      | 1 + 3×33 + 1 | 44,549,160               | 42,504,258 | 7.801
152   | Bottleneck | 3, 8, 36, 3      | 1 + 3×50 + 1 | 60,192,808               | 58,147,906 | 11.514

Layers counts those with weights on the main path: the first convolution, the convolutions of the blocks, the classifier. GMAC
is 10⁹ multiply-accumulates of convolutions and classifier, for a forward pass of one 224×224 px image with 1000 classes.

Table 1 leaves three choices open:

- The stride of a bottleneck is in its 3×3 convolution. In the first 1×1 convolution, as in the paper, it would skip three of
  four pixels. This is known as v1.5 (NVIDIA's ResNet50 v1.5; torchvision; Goyal et al. 2017, arXiv 1706.02677, §5.1).
- Convolutions are initialised as in He et al. 2015 (arXiv 1502.01852, §2.2): normal, variance 2 / fan-out, which preserves the
  scale of the gradients through the layers. Norms start as the identity. The classifier has PyTorch's default initialisation.
- ``zero_init_residual`` initialises the last norm of each block with 0 (Goyal et al. 2017, §5.1). Every block is then
  relu(shortcut) at first, so the network behaves like a shallow one early in training.

Modules have the names of torchvision's, so state dicts are interchangeable with strict loading.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that preserves the size at stride 1. It has no bias, because the norm after it would subtract it."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut of a block: the identity or, if the shape changes, a 1×1 projection (§3.3, option B)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (figure 5, left). [N, inputs, H, W] → [N, width, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def residual(self, x: Tensor) -> Tensor:
        """F(x) of equation 1: what the block adds to its input."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1 down to ``width``, 3×3, 1×1 up to 4 × ``width``, and a shortcut (figure 5, right).

    [N, inputs, H, W] → [N, 4·width, H/stride, W/stride]. The 3×3 has a quarter of the channels, so 50 layers cost little more
    than 34 layers of basic blocks.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)  # v1.5
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, outputs, stride)

    def residual(self, x: Tensor) -> Tensor:
        """F(x) of equation 1: what the block adds to its input."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.downsample(x))


Block = type[BasicBlock] | type[Bottleneck]


def stage(block: Block, inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """A stage (table 1): a sequence of blocks. The first one changes the number of channels and the size."""
    outputs = width * block.expansion
    return nn.Sequential(block(inputs, width, stride), *(block(outputs, width) for _ in range(blocks - 1)))


def zero_init_residual(network: nn.Module) -> None:
    """Set the weight of the last norm of each residual block to 0 (Goyal et al. 2017, §5.1). Draws no random numbers. A network
    without residual blocks does not change."""
    for module in network.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
            nn.init.zeros_(last.weight)


class ResNet(nn.Module):
    """Stem, four stages, global average pooling, classifier (table 1). Images [N, 3, H, W] → logits [N, num_classes].

    ``layers`` is the number of blocks in each of the four stages. H and W are 32 px or more and may differ. Raises
    ``ValueError`` for fewer than one class.
    """

    def __init__(
        self, block: Block, layers: Sequence[int], num_classes: int = 2, zero_init_residual: bool = False
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be 1 or more, found {num_classes}")
        e = block.expansion
        self.conv1 = conv(3, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(block, 64, 64, layers[0], stride=1)
        self.layer2 = stage(block, 64 * e, 128, layers[1], stride=2)
        self.layer3 = stage(block, 128 * e, 256, layers[2], stride=2)
        self.layer4 = stage(block, 256 * e, 512, layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * e, num_classes)
        self.initialise(zero_init_residual)

    def initialise(self, zero_residual: bool) -> None:
        """Draw the initial weights; see the top of this file."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_residual:
            zero_init_residual(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] → logits [N, num_classes]. Raises ``ValueError`` for another shape or less than 32 px.

        The network divides the size by 32, so images of 32×32 px have one pixel in the last stage. A training batch then needs
        two images or more, because its norms compute a variance.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] < 32 or x.shape[3] < 32:
            raise ValueError(f"ResNet takes images [N, 3, H, W] with H and W of 32 px or more, found {list(x.shape)}")
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # H/4 × W/4
        x = self.layer1(x)  # H/4 × W/4
        x = self.layer2(x)  # H/8 × W/8
        x = self.layer3(x)  # H/16 × W/16
        x = self.layer4(x)  # H/32 × W/32
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(num_classes: int = 2, zero_init_residual: bool = False) -> ResNet:
    """ResNet of 18 layers."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, zero_init_residual)


def resnet34(num_classes: int = 2, zero_init_residual: bool = False) -> ResNet:
    """ResNet of 34 layers."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, zero_init_residual)


def resnet50(num_classes: int = 2, zero_init_residual: bool = False) -> ResNet:
    """ResNet of 50 layers."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, zero_init_residual)


def resnet101(num_classes: int = 2, zero_init_residual: bool = False) -> ResNet:
    """ResNet of 101 layers."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, zero_init_residual)


def resnet152(num_classes: int = 2, zero_init_residual: bool = False) -> ResNet:
    """ResNet of 152 layers."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, zero_init_residual)
