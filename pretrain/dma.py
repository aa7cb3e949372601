"""Diagonal Micro-Attention (Micron-BERT, section 4.5, eq. 8 and 9).

Letters: the paper takes queries from the reference frame I(t+δ) and keys from the swapped frame I(t/s) and
normalises over the queries; the released code takes queries from the swapped frame, keys from the reference
and normalises over the keys. Both normalise, for each swapped token, over the reference tokens: the same
function with the two projections' names exchanged. Names here are the release's, so that its weights load.
(Queries from the reference with a softmax over the swapped tokens would be another function.)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn


class DiagonalAttention(torch.autograd.Function):
    """diag_i = exp(s·q_i·k_i - logsumexp_j s·q_i·k_j) without keeping the N x N map.

    The forward pass keeps q, k and the log-sum-exp; the backward pass builds the map again:
    with P the softmax and g_i = (∂L/∂diag_i)·diag_i, ∂L/∂S = diag(g) - g∘P. Sums and exponentials in float32 at
    least. On a CPU one sample at a time, whose map stays in the cache.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """q, k [B N D] -> diag [B N]."""
        own = _at_least_float32(q).mul(k).sum(-1).mul_(scale)  # [B N]
        lse = torch.cat([torch.logsumexp(_logits(q[rows], k[rows], scale), -1) for rows in _parts(q)])  # [B N]
        diag = torch.exp(own - lse)
        ctx.save_for_backward(q, k, lse, diag)
        ctx.scale = scale
        return diag

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        """grad [B N] -> gradients of q and k, [B N D]."""
        q, k, lse, diag = ctx.saved_tensors
        weight = (grad * diag).mul_(ctx.scale).unsqueeze(-1)  # [B N 1] float32 at least
        grads = [_gradients(q[rows], k[rows], lse[rows], weight[rows], ctx.scale) for rows in _parts(q)]
        grad_q, grad_k = (torch.cat(parts).to(q.dtype) for parts in zip(*grads, strict=True))
        return grad_q, grad_k, None


def _gradients(q: Tensor, k: Tensor, lse: Tensor, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """∂L/∂q, ∂L/∂k [B N D] of some samples; weight = s·g [B N 1]."""
    spread = _logits(q, k, scale).sub_(lse.unsqueeze(-1)).exp_().mul_(weight)  # [B N N]
    spread = spread.to(q.dtype)
    return weight * k - _product(spread, k), weight * q - _product(spread.mT, q)


def _logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """s·q·kᵀ, float32 at least: [B N D], [B N D] -> [B N N]."""
    if q.device.type == "cpu":
        q, k = _at_least_float32(q), _at_least_float32(k)
    return _product(q, k.mT).mul_(scale)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products of a batch, summed and kept in float32 at least; on a GPU also of bfloat16 factors."""
    if a.dtype in (torch.bfloat16, torch.float16):
        if a.device.type == "cuda":
            return torch.bmm(a, b, out_dtype=torch.float32)
        return torch.bmm(a, b).float()
    return torch.bmm(a, b)


def _parts(x: Tensor) -> list[slice]:
    """Samples to take at a time."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return [slice(i, i + 1) for i in range(len(x))]
    return [slice(0, len(x))]


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class DMA(nn.Module):
    """P_dma from the tokens of a swapped and a reference frame, one head of the full width.

    `dma(swapped [B N D], reference [B N D], interest [B N] or None) -> (features [B N D], diag [B N])`
    with features_i = w_i·V(swapped_i), w = diag (eq. 9) or diag·S (eq. 12, interest = S).

    Args:
        mode: "diagonal" (the paper), or "full" (cross-attention, the released checkpoint's `diag_att=False`;
            `interest` is not used).
        scaled: multiply logits by D^-1/2 (released code; eq. 8 writes no scale).
        projection: a linear layer after the weighting (released code).
    """

    def __init__(
        self,
        dim: int,
        *,
        mode: Literal["diagonal", "full"] = "diagonal",
        scaled: bool = True,
        projection: bool = True,
    ):
        super().__init__()
        self.mode, self.scale = mode, dim**-0.5 if scaled else 1.0
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim) if projection else nn.Identity()

    def forward(self, swapped: Tensor, reference: Tensor, interest: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the class."""
        swapped, reference = swapped.contiguous(), reference.contiguous()  # else each linear layer makes its own copy
        q, k, v = self.to_q(swapped), self.to_k(reference), self.to_v(swapped)  # [B N D]
        if self.mode == "full":
            attention = self._softmax(q, k)
            return self.proj(torch.bmm(attention.to(v.dtype), v)), attention.diagonal(dim1=1, dim2=2)
        with torch.autocast(q.device.type, enabled=False):
            diag = DiagonalAttention.apply(q, k, self.scale)  # [B N]
        weight = diag if interest is None else diag * interest
        return self.proj(weight.unsqueeze(-1).to(v.dtype) * v), diag

    def change(self, onset: Tensor, apex: Tensor) -> Tensor:
        """How much each token changed between two frames: [B N D], [B N D] -> [B N], 0 where nothing did.

        c_i = ½[log d_i(a,a) + log d_i(b,b) - log d_i(a,b) - log d_i(b,a)], d the diagonal of eq. 8: the drop of the
        diagonal against what it is for a frame with itself. The plain diagonal also differs from place to place
        (skin matches its neighbours, an eye matches only itself); that part cancels here.
        """
        q, k = [self.to_q(x) for x in (onset, apex)], [self.to_k(x) for x in (onset, apex)]
        still = self._log_diagonal(q[0], k[0]) + self._log_diagonal(q[1], k[1])
        return (still - self._log_diagonal(q[0], k[1]) - self._log_diagonal(q[1], k[0])) / 2

    def _log_diagonal(self, q: Tensor, k: Tensor) -> Tensor:
        """log diag of softmax(s·q·kᵀ), float32 at least: [B N D], [B N D] -> [B N]."""
        q, k = _at_least_float32(q), _at_least_float32(k)
        lse = torch.logsumexp(torch.bmm(q, k.transpose(1, 2)) * self.scale, dim=-1)
        return (q * k).sum(-1) * self.scale - lse

    def map(self, swapped: Tensor, reference: Tensor) -> Tensor:
        """The whole attention map [B N N]: each swapped token's weights over the reference tokens (for pictures)."""
        return self._softmax(self.to_q(swapped), self.to_k(reference))

    def _softmax(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(s·q·kᵀ), float32 at least: [B N D], [B N D] -> [B N N]."""
        return (torch.bmm(_at_least_float32(q), _at_least_float32(k).transpose(1, 2)) * self.scale).softmax(-1)


def change_map(diag: Tensor) -> Tensor:
    """The released code's picture of change: 1 - diag / max(diag) per frame pair. [B N] -> [B N] in [0, 1).

    diag is high where the two frames agree, so the map is high where they differ; but it is also high wherever a
    patch looks like its neighbours. `DMA.change` corrects for that.
    """
    return 1 - diag / diag.amax(dim=-1, keepdim=True)
