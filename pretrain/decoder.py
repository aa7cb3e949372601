"""The μ-decoder: features back to pixels (Micron-BERT, section 4.3, eq. 5 and 6), and patch layout."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.blocks import Block
from pretrain.encoder import initialise_linear, sincos_table


class Decoder(nn.Module):
    """Features [B N D] to pixels of each patch [B N 3·patch²], channels last within a patch.

    With `masked` there is a mask token, and the features may be those of some patches only, as in MAE.

    Args:
        in_dim: width of the features.
        dim, depth, heads: of the decoder's blocks.
        grid: patches per side; patch: pixels per side of a patch.
    """

    def __init__(self, *, in_dim: int, dim: int, depth: int, heads: int, grid: int, patch: int, masked: bool = False):
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)) if masked else None
        self.pos_embed = nn.Parameter(sincos_table(dim, grid), requires_grad=False)  # [1 1+N dim]
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(dim)
        self.pred = nn.Linear(dim, 3 * patch * patch)
        initialise_linear(self)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """See the class. The contextual token takes no part: its row of the position table is skipped."""
        return self._run(self.embed(features) + self.pos_embed[:, 1:])

    def fill(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """All patches' pixels [B N 3·patch²] from the tokens of some; mask tokens stand for the others.

        Args:
            tokens: [B 1+V in_dim], the contextual token first.
            visible: int64 [B V], the patches that the other tokens are of.
        """
        assert self.mask_token is not None
        x = self.embed(tokens)
        patches = self.mask_token.to(x.dtype).expand(len(x), self.pos_embed.shape[1] - 1, -1)  # [B N dim]
        patches = patches.scatter(1, visible[..., None].expand(-1, -1, x.shape[-1]), x[:, 1:])
        return self._run(torch.cat([x[:, :1], patches], dim=1) + self.pos_embed)[:, 1:]

    def _run(self, x: Tensor) -> Tensor:
        """Blocks, norm and prediction: [B T dim] to [B T 3·patch²]."""
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


def patch_targets(images: Tensor, patch: int, normalised: bool) -> Tensor:
    """What a decoder predicts, float32: [B 3 H W] to [B N patch·patch·3].

    normalised: each patch by its own mean and deviation (MAE's `norm_pix_loss`).
    """
    target = patchify(images, patch).float()
    if normalised:
        mean, deviation = patch_statistics(target)
        target = (target - mean) / deviation
    return target


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch's values: [B N P] -> [B N 1] each."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
