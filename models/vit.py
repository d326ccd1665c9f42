"""Vision transformers, by hand, from Dosovitskiy et al. 2021, An Image is Worth 16×16 Words (arXiv 2010.11929).

An image is divided into square patches. Each becomes a token by a linear map, a learned position is added, and a class token is
put in front. Layers of self-attention and of two linear maps follow, each behind a layer norm and with a shortcut (figure 1). The
class token's last value is classified.

name      | patch, px | width | layers | heads | parameters
--------- | --------- | ----- | ------ | ----- | -------------------------------
vit_b16   | 16        | 768   | 12     | 12    | 86,567,656 (1000 classes, 224 px)
vit_tiny  | 8         | 192   | 12     | 3     | 5,390,024 (8 classes, 64 px)

``vit_tiny`` has DeiT-Tiny's widths (Touvron et al. 2021, arXiv 2012.12877, table 1) and smaller patches, because an image of 64
px has only 16 patches of 16 px. Modules are named as in torchvision, so state dicts are interchangeable.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-6  # of the layer norms


class SelfAttention(nn.Module):
    """Multi-head self-attention (appendix A): tokens [N, L, width] → [N, L, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # queries, keys, values
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        # [3, N, heads, L, width / heads]
        query, key, value = projected.view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).reshape(count, length, width))


class Layer(nn.Module):
    """A transformer layer (equations 2 and 3): tokens [N, L, width] → [N, L, width]."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=EPSILON)
        self.self_attention = SelfAttention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(width, eps=EPSILON)
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(wide, nn.GELU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout))
        for layer in (wide, narrow):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.self_attention(self.ln_1(x)))
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Positions, layers and a last norm: tokens [N, L, width] → [N, L, width]."""

    def __init__(self, length: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, length, width).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)
        named = ((f"encoder_layer_{number}", Layer(width, heads, dropout)) for number in range(layers))
        self.layers = nn.Sequential(OrderedDict(named))
        self.ln = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class ViT(nn.Module):
    """Images [N, 3, size, size] → logits [N, classes]. Raises ``ValueError`` if ``patch`` does not divide ``size``."""

    def __init__(
        self, classes: int, size: int, patch: int, width: int, layers: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(
                f"a ViT with patches of {patch} px takes sizes that are multiples of {patch}, found {size}"
            )
        self.conv_proj = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = Encoder((size // patch) ** 2 + 1, width, layers, heads, dropout)
        head = nn.Linear(width, classes)
        self.heads = nn.Sequential(OrderedDict(head=head))
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * patch * patch)))
        for values in (self.conv_proj.bias, head.weight, head.bias):  # the first predictions are uniform
            assert values is not None
            nn.init.zeros_(values)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1)
        return self.heads(self.encoder(tokens)[:, 0])


def vit_b16(classes: int, size: int) -> ViT:
    """ViT-B/16 (table 1)."""
    return ViT(classes, size, patch=16, width=768, layers=12, heads=12)


def vit_tiny(classes: int, size: int) -> ViT:
    """A small ViT that can be trained from scratch."""
    return ViT(classes, size, patch=8, width=192, layers=12, heads=3)
