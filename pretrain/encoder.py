"""The μ-encoder: a Vision Transformer with fixed positions and a contextual token (Micron-BERT, section 4.2).

The network is timm's VisionTransformer, so that its key names are the released weights' and timm's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pretrain.blocks import Block, Wanted

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
GROUP = 4  # frames at a time on a CPU: more leave its cache between layers, fewer add up weights' gradients too often


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
    Attributes: embed_dim, heads, grid (patches per side), image_size, patch_size (pixels); mean, std of RGB in 0..1.
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
            block_fn=Block,
        )
        self.image_size, self.patch_size, self.grid = image_size, patch_size, image_size // patch_size
        self.heads, self.mean, self.std = heads, IMAGE_MEAN, IMAGE_STD
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
        return self.run(self.embed(frames))

    def embed(self, frames: Tensor) -> Tensor:
        """Normalised frames [B 3 H W] to the blocks' input [B 1+N D] (eq. 2): projected patches and positions."""
        return self._pos_embed(self.patch_embed(frames))

    def run(self, x: Tensor) -> Tensor:
        """All blocks and the final LayerNorm (eq. 3, 4): any number of tokens [B T D] -> [B T D]."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_with_interest(self, frames: Tensor, interest: bool = True) -> tuple[Tensor, Tensor | None]:
        """Tokens [B 1+N D] and S [B N], the Patch of Interest scores of eq. 11 (None unless asked for)."""
        tokens, _, scores = self.forward_views(frames, interest=(0, len(frames)) if interest else None)
        return tokens, scores

    def contextual(self, frames: Tensor) -> Tensor:
        """The contextual features [B D] alone: the last block computes nothing else. Frames [B 3 H W]."""
        return self.forward_views(frames, contextual=len(frames))[1]

    def forward_views(
        self, frames: Tensor, contextual: int = 0, interest: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Several views in one pass; the last block computes only what is asked for.

        Args:
            frames: normalised [B 3 H W].
            contextual: so many of the last frames are needed for their contextual feature alone.
            interest: the frames [from, to) whose S (eq. 11) is wanted.

        Returns:
            The other frames' tokens [B-contextual 1+N D], the contextual features [contextual D], S [to-from N] or
            None (float32, sum 1).
        """
        if frames.device.type == "cpu" and len(frames) > GROUP and not torch.compiler.is_compiling():
            parts = [self._views(rows, wanted) for rows, wanted in _groups(frames, contextual, interest)]
        else:
            parts = [self._views(frames, Wanted(contextual, interest))]
        tokens, alone, scores = zip(*parts, strict=True)
        found = [part for part in scores if part is not None]
        return _joined(tokens), _joined(alone), _joined(found) if found else None

    def _views(self, frames: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor, Tensor | None]:
        """`forward_views` in one go."""
        x = self.embed(frames)
        for block in self.blocks[:-1]:
            x = block(x)
        tokens, alone, scores = self.blocks[-1](x, wanted)
        return self.norm(tokens), self.norm(alone), scores


def _groups(frames: Tensor, contextual: int, interest: tuple[int, int] | None) -> Iterator[tuple[Tensor, Wanted]]:
    """A few frames at a time, and what is wanted of them."""
    whole = len(frames) - contextual
    low, high = interest or (0, 0)
    for start in range(0, len(frames), GROUP):
        stop = min(start + GROUP, len(frames))
        first, last = max(low, start), min(high, stop)
        here = (first - start, last - start) if first < last else None
        yield frames[start:stop], Wanted(stop - max(start, min(whole, stop)), here)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


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
