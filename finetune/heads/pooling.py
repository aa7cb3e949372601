"""Blocks that several heads share: standardising, pooling tokens, the classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune import fitted
from finetune.options.micron import Classifier


class Standardise(nn.Module):
    """(x - mean) / deviation per channel, with statistics set once from a fold's training features.

    Features may be of several cells, one's channels after the other's: [... k·F].
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, features: Tensor) -> None:
        """Statistics of training features [... k·F], over all cells. A constant channel becomes 0."""
        cells = features.detach().reshape(-1, len(self.mean)).double()  # [n F]
        mean = cells.mean(0)
        deviation = (cells - mean).square_().mean(0).sqrt()
        constant = deviation <= 1e-6 * mean.abs() + 1e-12
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, torch.zeros_like(deviation), 1 / deviation))
        fitted.mark(self)

    def forward(self, x: Tensor) -> Tensor:
        """[... k·F] -> [... k·F]"""
        cells = x.shape[-1] // len(self.mean)
        return (x - self.mean.repeat(cells)) * self.scale.repeat(cells)


class AttentionPool(nn.Module):
    """Weighted mean of tokens, the weights by one learned query: softmax_n(w·x_n), starting as the plain mean."""

    def __init__(self, dim: int):
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B N F] -> [B F]"""
        weights = (self.score(tokens) * tokens.shape[-1] ** -0.5).softmax(dim=1)  # [B N 1]
        return (weights * tokens).sum(dim=1)


def pool_cells(tokens: Tensor, cells: int) -> Tensor:
    """Mean of square-grid tokens over cells x cells areas, concatenated row by row: [B N F] -> [B cells²·F]."""
    batch, count, dim = tokens.shape
    side = round(count**0.5)
    grid = tokens.transpose(1, 2).reshape(batch, dim, side, side)
    return F.adaptive_avg_pool2d(grid, cells).flatten(2).transpose(1, 2).flatten(1)


def classifier(kind: Classifier, dim: int, classes: int, hidden: int, dropout: float) -> nn.Module:
    """Logits from features [B F]: one linear layer that starts at zero, or one hidden GELU layer before it."""
    last = nn.Linear(dim if kind == "linear" else hidden, classes)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), last)
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), last)
