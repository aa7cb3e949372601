"""The Transformer block of encoder and decoder: timm's, so that key names stay, keeping less for the backward pass.

Per token and layer the plain block keeps 16 widths of activations: input, norm, query, key, value, attended,
sum, norm, 4 before and 4 after the GELU. Norms' and GELU's outputs are cheap to make again, which leaves 10.
A compiler decides that by itself, so under torch.compile the block is plain.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block as VitBlock
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from pretrain.attention import attend


class Wanted(NamedTuple):
    """What is needed of an encoder's last block."""

    contextual: int = 0
    """so many of the last rows are needed for their contextual token alone"""
    interest: tuple[int, int] | None = None
    """the rows [from, to) whose Patch of Interest scores are wanted"""


class ReadOut(NamedTuple):
    """What came of it."""

    tokens: Tensor  # [B-contextual T D] of the rows before
    contextual: Tensor  # [contextual D]
    interest: Tensor | None  # [to-from T-1] float32, sum 1: S of eq. 11


class Block(VitBlock):
    """`block(x [B T D]) -> [B T D]`, Micron-BERT eq. 3. For self-attention without dropout, scale or mask.

    `block(x, wanted)` is an encoder's last block, computing what is wanted and no more, and returns a `ReadOut`.
    `checkpointing`: keep the input alone and compute the block again in the backward pass.
    """

    attn: Any
    mlp: Any
    checkpointing = False

    def forward(self, x: Tensor, wanted: Wanted | None = None) -> Any:  # type: ignore[override]
        """See the class."""
        if self.checkpointing and torch.is_grad_enabled() and x.requires_grad:
            return checkpoint(self._run, x, wanted, False, use_reentrant=False)
        return self._run(x, wanted, True)

    def _run(self, x: Tensor, wanted: Wanted | None, lean: bool) -> Any:
        q, k, v = self._project(x, lean)
        if wanted is None:
            return self._finish(x, attend(q, k, v), lean)
        scores = None
        if wanted.interest is not None:
            rows = slice(*wanted.interest)
            scores = contextual_row(q[rows, :, 0], k[rows], self.attn.scale)
        split = len(x) - wanted.contextual
        tokens = x[:split]
        if split:
            tokens = self._finish(tokens, attend(q[:split], k[:split], v[:split]), lean)
        if split == len(x):
            return ReadOut(tokens, tokens[:0, 0], scores)
        one = attend(q[split:, :, :1], k[split:], v[split:])  # [contextual heads 1 D/heads]
        return ReadOut(tokens, self._finish(x[split:, :1], one, lean)[:, 0], scores)

    def _project(self, x: Tensor, lean: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, views [B heads T D/heads] of one tensor."""
        batch, length, _ = x.shape
        y = self.norm1(x)
        with _made_again(y, lean, _norm(self.norm1, x)):
            qkv = self.attn.qkv(y)
        q, k, v = qkv.view(batch, length, 3, self.attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _finish(self, x: Tensor, attended: Tensor, lean: bool) -> Tensor:
        """Both residual sums: x [B T D], attended [B heads T D/heads] -> [B T D]."""
        x = x + self.attn.proj(attended.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        with _made_again(y, lean, _norm(self.norm2, x)):
            hidden = self.mlp.fc1(y)
        del y
        active = self.mlp.act(hidden)
        before, act = hidden.detach(), self.mlp.act
        with _made_again(active, lean, lambda: act(before)):
            out = self.mlp.fc2(active)
        return x + out


def contextual_row(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    """S of eq. 11 from the contextual token's query [B heads D/heads] and all keys [B heads T D/heads]: [B T-1].

    That token's row of the attention map, averaged over heads, cut to the patch columns and renormalised, float32.
    Only that row of the map is ever computed.
    """
    row = torch.einsum("bhd,bhnd->bhn", query.float(), keys.float()) * scale  # [B heads T]
    patches = row.softmax(-1)[..., 1:].mean(1)  # [B T-1]
    return patches / patches.sum(-1, keepdim=True)


def checkpoint_blocks(module: nn.Module, on: bool = True) -> None:
    """Switch recomputation on or off in every block below `module`; gradients stay the same."""
    for block in blocks_of(module):
        block.checkpointing = on


def blocks_of(module: nn.Module) -> list[Block]:
    """All blocks below `module`, encoder's and decoder's."""
    return [part for part in module.modules() if isinstance(part, Block)]


def _norm(norm: Any, x: Tensor) -> Callable[[], Tensor] | None:
    """Makes norm(x) again, with copies of its weights: ZeRO-3 may hold them elsewhere by then, or (None) already."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or norm.weight.numel() != x.shape[-1]:
        return None
    weight, bias, source = norm.weight.detach().clone(), norm.bias.detach().clone(), x.detach()
    return lambda: F.layer_norm(source, (source.shape[-1],), weight, bias, norm.eps)


def _made_again(x: Tensor, lean: bool, rebuild: Callable[[], Tensor] | None) -> AbstractContextManager[Any]:
    """Inside, what layers save of `x` is not kept: the backward pass calls `rebuild` for it."""
    if not lean or rebuild is None or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return nullcontext()
    address, count, dtype = x.data_ptr(), x.numel(), x.dtype  # not x itself: the hooks outlive this call

    def pack(saved: Tensor) -> Any:
        same = saved.data_ptr() == address and saved.numel() == count and saved.dtype == dtype
        return saved.shape if same and saved.is_contiguous() else saved

    def unpack(kept: Any) -> Tensor:
        if not isinstance(kept, torch.Size):
            return kept
        with torch.no_grad():
            return rebuild().to(dtype).view(kept)

    return saved_tensors_hooks(pack, unpack)
