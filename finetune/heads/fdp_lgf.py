"""FDP's local-global feature-aware transformer (section 3.2): one frame to its code.

Convolution, N_S stages (patch embedding, N_L local and N_G global aggregators), batch norm, global average pooling,
and a linear layer to as many values as the frame has pixels, which section 3.3 lays out as a map. That last layer is
not in the paper's text; Table 10's 13.27 M for a ResNet-18 backbone is what a ResNet-18 of one input channel has with
a layer to 4096 in place of its classifier (13,271,488), and the authors' code has it.

Not stated, and chosen here: the first convolution is 3 × 3 of stride 2, patches are 2 × 2 (so a frame of 64 px has
grids of 16, 8, 4 and 2 cells, as in the code), and attention and MLP blocks begin with batch norm, as in the code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class HeadConvolution(nn.Module):
    """Multi-head convolution block (3.2.1).

    Head i takes the i-th slice of channels through 3 × 3 convolution, batch norm and ReLU; concatenated in order.
    """

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1, groups=width // head_dim, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h w]"""
        return F.relu(self.norm(self.convolution(x)))


class HeadAttention(nn.Module):
    """Multi-head self-attention block, eq. 1-3.

    Head i takes queries, keys and values from the i-th slice of channels alone (eq. 1), attends (eq. 2, `dim` being
    a head's width), and goes through a fully connected layer of its own with dropout (eq. 3). "The outputs of
    multiple heads are further fused": concatenated in order, then a pointwise convolution, as in the local one.
    """

    def __init__(self, width: int, head_dim: int, dropout: float):
        super().__init__()
        self.heads = width // head_dim
        self.qkv = nn.Conv2d(width, 3 * width, 1, groups=self.heads, bias=False)  # of each head: q, k, v
        self.each = nn.Conv2d(width, width, 1, groups=self.heads)
        self.dropout = nn.Dropout(dropout)
        self.fuse = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h w]"""
        parts = self.qkv(x).flatten(2).unflatten(1, (self.heads, 3, -1)).transpose(-1, -2)  # [B H 3 N d]
        mixed = F.scaled_dot_product_attention(*parts.unbind(2))
        mixed = mixed.transpose(-1, -2).reshape(x.shape)
        return self.fuse(self.dropout(self.each(mixed)))


def mlp(width: int, ratio: float) -> nn.Module:
    """Two pointwise layers with ReLU between, after batch norm."""
    wide = int(width * ratio)
    return nn.Sequential(
        nn.BatchNorm2d(width), nn.Conv2d(width, wide, 1), nn.ReLU(inplace=True), nn.Conv2d(wide, width, 1)
    )


class LocalAggregator(nn.Module):
    """Local relational aggregator (3.2.1): multi-head convolution, pointwise convolution and MLP, two residuals."""

    def __init__(self, width: int, head_dim: int, ratio: float):
        super().__init__()
        self.convolution = HeadConvolution(width, head_dim)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.mlp = mlp(width, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h w]"""
        x = x + self.pointwise(self.convolution(x))
        return x + self.mlp(x)


class GlobalAggregator(nn.Module):
    """Global relational aggregator (3.2.2): pointwise layer; attention, convolution, MLP, each with a residual."""

    def __init__(self, width: int, head_dim: int, ratio: float, dropout: float):
        super().__init__()
        self.pointwise = nn.Conv2d(width, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.attention = HeadAttention(width, head_dim, dropout)
        self.convolution = HeadConvolution(width, head_dim)
        self.mlp = mlp(width, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h w]"""
        x = self.pointwise(x)
        x = x + self.attention(self.norm(x))
        x = x + self.convolution(x)
        return x + self.mlp(x)


class LocalGlobalTransformer(nn.Module):
    """Frames to codes.

    Args:
        channels: of a frame.
        widths: of the stages.
        head_dim: channels of a head; divides every width.
        ratio: hidden width of MLPs over the stage's.
        local, overall: local and global aggregators per stage.
        code: values of a frame's code.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        head_dim: int,
        ratio: float,
        local: int,
        overall: int,
        dropout: float,
        code: int,
    ):
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        for before, width in zip([widths[0], *widths[:-1]], widths, strict=True):
            stage: list[nn.Module] = [nn.Conv2d(before, width, 2, stride=2), nn.BatchNorm2d(width)]
            stage += [LocalAggregator(width, head_dim, ratio) for _ in range(local)]
            stage += [GlobalAggregator(width, head_dim, ratio, dropout) for _ in range(overall)]
            self.stages.append(nn.Sequential(*stage))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.code = nn.Linear(widths[-1], code)

    def forward(self, x: Tensor) -> Tensor:
        """[B C S S] -> [B code]"""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.code(self.norm(x).mean(dim=(2, 3)))

    def flops(self, side: int) -> float:
        """One frame of side × side px forward: two per multiply-add of convolutions, attention and the code."""
        total = convolution_flops(self.stem, side // 2) + 2.0 * self.code.in_features * self.code.out_features
        for level, stage in enumerate(self.stages):
            cells = side // 2 ** (level + 2)
            total += convolution_flops(stage, cells)
            attentions = [part for part in stage.modules() if isinstance(part, HeadAttention)]
            total += sum(4.0 * cells**4 * part.fuse.in_channels for part in attentions)
        return total


def convolution_flops(part: nn.Module, side: int) -> float:
    """Of all convolutions in `part` that give, and deconvolutions that read, maps of side × side cells."""
    found = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    return sum(2.0 * layer.weight.numel() * side**2 for layer in found)
