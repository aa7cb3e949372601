"""The μ-decoder: features back to pixels (Micron-BERT, section 4.3, eq. 5 and 6), and patch layout."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretrain.encoder import initialise_linear, sincos_table


class Decoder(nn.Module):
    """Features [B N D] to pixels of each patch [B N 3·patch²], channels last within a patch.

    Args:
        in_dim: width of the features.
        dim, depth, heads: of the decoder's blocks.
        grid: patches per side; patch: pixels per side of a patch.
    """

    def __init__(self, *, in_dim: int, dim: int, depth: int, heads: int, grid: int, patch: int):
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(in_dim, dim)
        self.pos_embed = nn.Parameter(sincos_table(dim, grid), requires_grad=False)  # [1 1+N dim]
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(dim)
        self.pred = nn.Linear(dim, 3 * patch * patch)
        initialise_linear(self)

    def forward(self, features: Tensor) -> Tensor:
        """See the class. The contextual token takes no part: its row of the position table is skipped."""
        x = self.embed(features) + self.pos_embed[:, 1:]
        for block in self.blocks:
            x = block(x)
        return self.pred(self.norm(x))


def patchify(images: Tensor, patch: int) -> Tensor:
    """Images [B 3 H W] to patches [B N patch·patch·3], pixels row-major, channels last (as MAE)."""
    batch, channels, height, width = images.shape
    x = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify` for square images: [B N patch·patch·3] to [B 3 H W]."""
    batch, count, _ = patches.shape
    grid = round(count**0.5)
    x = patches.reshape(batch, grid, grid, patch, patch, 3).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(batch, 3, grid * patch, grid * patch)
