"""HTNet's hierarchy (section 3.2, 3.3): Transformer layers inside blocks, and aggregation of four blocks into one.

Tensors are channels-last here; with one token in a block, as published, attention has nothing to choose from and is
its value projection. Parameters may be those of several networks in one stack [F ...], of inputs [F B ...].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn, vmap

from finetune.heads.layers import LayerNorm, Linear, beside
from finetune.heads.taps import SMALL, convolve


@dataclass(frozen=True)
class Shape:
    """Sizes of a hierarchy."""

    channels: int
    """Of the map."""
    size: int
    """Side of the arranged map, cells."""
    patch: int
    """Side of a token, cells."""
    dim: int
    """Width of the bottom level."""
    heads: int
    """Of the bottom level."""
    depths: tuple[int, ...]
    """Transformer layers per level, from the bottom."""
    classes: int
    ratio: int = 4
    """Width of a feed-forward network's hidden layer as a multiple of the level's."""

    @property
    def widths(self) -> list[int]:
        """Width of each level."""
        return [self.dim * 2**level for level in range(len(self.depths))]

    @property
    def side(self) -> int:
        """Tokens per side of a block, the same on every level."""
        return self.size // self.patch // 2 ** (len(self.depths) - 1)

    @property
    def blocks(self) -> list[int]:
        """Blocks per side of the map on each level."""
        return [2**level for level in reversed(range(len(self.depths)))]

    def flops(self) -> float:
        """One clip forward: two per multiply-add of linear layers, convolutions and attention, as published."""
        total = 2.0 * (self.size // self.patch) ** 2 * self.patch**2 * self.channels * self.dim
        levels = zip(self.widths, self.depths, self.blocks, strict=True)
        for level, (width, depth, blocks) in enumerate(levels):
            tokens, inner = (blocks * self.side) ** 2, _inner(width, self.heads * 2**level)
            linear = 4 * inner * width + 2 * self.ratio * width**2
            total += depth * tokens * (2.0 * linear + 4.0 * self.side**2 * inner)
            if blocks > 1:
                total += 2.0 * tokens * 9 * width * 2 * width
        return total + 2.0 * self.widths[-1] * self.classes


def _inner(width: int, heads: int) -> int:
    """Width of queries, keys and values: heads of equal width that fit (3 × 85 = 255 of 256)."""
    return width // heads * heads


class Attention(nn.Module):
    """Multi-head self-attention (eq. 5, d being a head's width), queries, keys and values without bias.

    Of one token nothing but `v` and `out` is computed, and `qk` gets no gradient (it would be zero).
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.inner, self.heads, self.rate = _inner(width, heads), heads, dropout
        self.qk = Linear(width, 2 * self.inner, bias=False)
        self.v = Linear(width, self.inner, bias=False)
        self.out = Linear(self.inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[.. N n D] -> [.. N n D]"""
        rate = self.rate if self.training else 0.0
        if x.shape[-2] == 1 and rate == 0:  # softmax over one key is 1, whatever query and key are
            return self.out(self.v(x))
        q, k = self.qk(x).flatten(0, -3).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [N h n d]
        v = self.v(x).flatten(0, -3).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        return self.dropout(self.out(mixed.transpose(1, 2).reshape(*x.shape[:-1], self.inner)))


class Layer(nn.Module):
    """A Transformer layer (eq. 4): x + MSA(LN(x)), then x + FFN(LN(x))."""

    def __init__(self, width: int, heads: int, ratio: int, dropout: float, activation: str):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.wide, self.narrow = Linear(width, ratio * width), Linear(ratio * width, width)
        self.activation = nn.GELU() if activation == "gelu" else nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[.. N n D] -> [.. N n D]"""
        x = x + self.attention(self.norm1(x))
        rows = self.norm2(x).flatten(-3, -2)  # an activation in place wants no view
        hidden = self.dropout(self.activation(self.wide(rows)))
        return x + self.dropout(self.narrow(hidden)).view_as(x)


class Level(nn.Module):
    """Transformer layers of one level, the same for all of its blocks."""

    def __init__(self, shape: Shape, level: int, dropout: float, activation: str, position: str):
        super().__init__()
        width, self.blocks, self.side = shape.widths[level], shape.blocks[level], shape.side
        if position == "scalar":
            self.position = nn.Parameter(torch.randn(shape.side**2, 1))
        else:
            self.position = nn.Parameter(0.02 * torch.randn(shape.side**2, width))
        heads = shape.heads * 2**level
        self.layers = nn.ModuleList(
            Layer(width, heads, shape.ratio, dropout, activation) for _ in range(shape.depths[level])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens on their grid [.. B h w D] -> [.. B h w D]."""
        shape, cut = x.shape, (self.blocks, self.side)
        x = x.unflatten(-2, cut).unflatten(-4, cut).transpose(-4, -3)  # [.. B b b s s D]
        blocks = x.shape[-6:-1]
        x = x.flatten(-3, -2).flatten(-5, -3)  # [.. N n D]
        x = x + self.position.unsqueeze(-3)
        for layer in self.layers:
            x = layer(x)
        return x.unflatten(-2, blocks[-2:]).unflatten(-4, blocks[:3]).transpose(-4, -3).reshape(shape)


class Aggregation(nn.Module):
    """Block aggregation (3.3): 3 × 3 convolution, LayerNorm over channels, 3 × 3 max pooling of stride 2."""

    def __init__(self, width: int):
        super().__init__()
        self.convolution = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm = LayerNorm(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """[.. B h w D] -> [.. B h/2 w/2 2D] (rounded up)"""
        weight, bias = self.convolution.weight, cast("Tensor", self.convolution.bias)
        if x.shape[-3] * x.shape[-2] <= SMALL:
            made = convolve(x, weight)
        else:
            across = partial(F.conv2d, padding=1)
            made = (across if weight.dim() == 4 else vmap(across))(x.movedim(-1, -3), weight).movedim(-3, -1)
        maps = self.norm(made + beside(bias, made)).flatten(0, -4).permute(0, 3, 1, 2)
        pooled = F.max_pool2d(maps, 3, stride=2, padding=1).permute(0, 2, 3, 1)
        return pooled.unflatten(0, x.shape[:-3])


class Hierarchy(nn.Module):
    """Arranged map [B S S C], or its `tokens`, to logits: levels and aggregations, LayerNorm, mean, linear layer."""

    takes_stacks = True
    """Parameters may be those of several networks (finetune.batched_stack)."""

    def __init__(
        self,
        shape: Shape,
        *,
        dropout: float = 0.0,
        activation: str = "relu",
        position: str = "vector",
    ):
        super().__init__()
        self.shape = shape
        self.embed = Linear(shape.patch**2 * shape.channels, shape.dim)
        count = len(shape.depths)
        self.levels = nn.ModuleList(Level(shape, level, dropout, activation, position) for level in range(count))
        self.aggregations = nn.ModuleList(Aggregation(width) for width in shape.widths[:-1])
        self.norm = LayerNorm(shape.widths[-1])
        self.classify = Linear(shape.widths[-1], shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        """[.. B S S C] or [.. B h w p²·C] -> [.. B classes]"""
        rows = x if x.shape[-1] == self.embed.in_features else tokens(x, self.shape.patch)
        x = self.embed(rows)  # [B h w D]
        for level, aggregate in zip(self.levels, [*self.aggregations, nn.Identity()], strict=True):
            x = aggregate(level(x))
        return self.classify(self.norm(x).mean(dim=(-3, -2)))


def tokens(x: Tensor, patch: int) -> Tensor:
    """Squares of patch × patch cells as one row each, cell by cell: [.. B S S C] -> [.. B S/p S/p p²·C]."""
    if patch == 1:
        return x
    return x.unflatten(-2, (-1, patch)).unflatten(-4, (-1, patch)).transpose(-4, -3).flatten(-3)


def sizes(depths: Sequence[int], size: int, patch: int) -> str:
    """Why a map of `size` cells with tokens of `patch` cannot have these levels, or ''."""
    count = 2 ** (len(depths) - 1) if depths else 1
    if not depths or min(depths) < 0:
        return "depths: give the Transformer layers of each level, e.g. [2, 2, 8]"
    if size % (count * patch):
        return f"a map of {size} cells does not divide into {count} × {count} blocks of tokens of {patch} cells"
    return ""
