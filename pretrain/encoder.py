"""The μ-encoder: a Vision Transformer with fixed positions and a contextual token (Micron-BERT, section 4.2).

The network is timm's VisionTransformer, so that its key names are the released weights' and timm's own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def sincos_table(dim: int, grid: int) -> Tensor:
    """Fixed 2-D sin-cos position table with a zero row for the contextual token, as in MAE.

    Half of the channels code the column, half the row; each half is [sin, cos] of frequencies
    1/10000^(i/(dim/4)).

    Returns:
        float32 [1 1+grid² dim].
    """
    frequency = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    halves = []
    for position in (columns, rows):
        angle = position.reshape(-1, 1) * frequency  # [N dim/4]
        halves += [np.sin(angle), np.cos(angle)]
    table = np.concatenate(halves, axis=1)  # [N dim]
    return torch.from_numpy(np.concatenate([np.zeros((1, dim)), table])[None]).float()


class Encoder(VisionTransformer):
    """Frames to tokens, eq. 2-4, with the contextual (CLS) token first.

    `encoder(frames [B 3 H W], normalised with .mean and .std) -> tokens [B 1+N D]`.
    Attributes: embed_dim, grid (patches per side), image_size, patch_size (pixels), mean, std (of RGB in 0..1).
    """

    def __init__(self, *, image_size: int = 224, patch_size: int = 8, dim: int = 512, depth: int = 4, heads: int = 4):
        super().__init__(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            mlp_ratio=4.0,
            qkv_bias=True,
            num_classes=0,
            global_pool="",
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            dynamic_img_size=True,
        )
        self.image_size, self.patch_size, self.grid = image_size, patch_size, image_size // patch_size
        self.mean, self.std = IMAGE_MEAN, IMAGE_STD
        assert self.pos_embed is not None and self.cls_token is not None
        self.pos_embed.data.copy_(sincos_table(dim, self.grid))
        self.pos_embed.requires_grad_(False)
        self._initialise()

    def _initialise(self) -> None:
        """MAE's initialisation: Xavier for linear layers, N(0, 0.02) for the contextual token."""
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.embed_dim, -1))
        assert self.cls_token is not None
        nn.init.normal_(self.cls_token, std=0.02)
        initialise_linear(self.blocks)

    def preprocess(self, frames: Tensor) -> Tensor:
        """Frames of any size, uint8 [B H W 3] RGB, to normalised float32 [B 3 image_size image_size]."""
        x = frames.permute(0, 3, 1, 2).float() / 255  # [B 3 H W]
        if x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return normalise(x, self.mean, self.std)

    def forward(self, frames: Tensor) -> Tensor:  # type: ignore[override]
        """Normalised frames [B 3 H W] to tokens [B 1+N D], after the final LayerNorm."""
        return self.forward_with_interest(frames, interest=False)[0]

    def embed(self, frames: Tensor) -> Tensor:
        """Normalised frames [B 3 H W] to the blocks' input [B 1+N D]: patches with their positions, CLS first."""
        return self._pos_embed(self.patch_embed(frames))

    def run(self, tokens: Tensor) -> Tensor:
        """The blocks and the final LayerNorm on any choice of embedded tokens: [B T D] to [B T D]."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward_with_interest(self, frames: Tensor, interest: bool = True) -> tuple[Tensor, Tensor | None]:
        """Tokens [B 1+N D] and S [B N], the Patch of Interest scores of eq. 11 (None unless asked for)."""
        x = self._pos_embed(self.patch_embed(frames))  # [B 1+N D]
        for block in self.blocks[:-1]:
            x = block(x)
        last: Any = self.blocks[-1]
        if not interest:
            return self.norm(last(x)), None
        attended, scores = attention_with_interest(last.attn, last.norm1(x))
        x = x + attended
        x = x + last.mlp(last.norm2(x))
        return self.norm(x), scores


def attention_with_interest(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """timm's self-attention on x [B 1+N D], and the contextual token's row of its map (Micron-BERT, eq. 11).

    The row is averaged over heads, cut to the patch columns and renormalised: S [B N], float32, sum 1. Only
    that one row of the map is ever computed; the attention itself is the fused one.
    """
    batch, length, dim = x.shape
    qkv = attention.qkv(x).reshape(batch, length, 3, attention.num_heads, dim // attention.num_heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B heads 1+N D/heads]
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, dim)
    row = torch.einsum("bhd,bhnd->bhn", q[:, :, 0].float(), k.float()) * attention.scale  # [B heads 1+N]
    patches = row.softmax(-1)[..., 1:].mean(1)  # [B N]
    return attention.proj(out), patches / patches.sum(-1, keepdim=True)


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every linear layer below `module`."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def normalise(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std per channel of RGB in 0..1, [B 3 H W]; nothing is copied from the host, so nothing waits."""
    shift, scale = (torch.stack([x.new_full((), v) for v in values]).view(1, 3, 1, 1) for values in (mean, std))
    return (x - shift) / scale
