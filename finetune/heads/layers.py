"""Linear layer and LayerNorm that are one network's, or those of several networks in one stack.

Parameters with a leading axis [F ...] belong to F networks; their input has it too. Operations have the same order
either way, so that training alone and in a stack stay equal; what can be done in place is, as a stack's tensors are
larger than a core's cache.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """x·Wᵀ, then + b."""

    def forward(self, x: Tensor) -> Tensor:
        """[... D] -> [... O], or [F ... D] -> [F ... O]"""
        first = self.weight.dim() - 2
        rows = x.flatten(first, -2) @ self.weight.mT
        if self.bias is not None:
            rows += self.bias.unsqueeze(-2)
        return rows if x.dim() == first + 2 else rows.unflatten(first, x.shape[first:-1])


class LayerNorm(nn.LayerNorm):
    """Normalised, then scaled, then + b."""

    def forward(self, x: Tensor) -> Tensor:
        """[... D] -> [... D], or [F ... D] -> [F ... D]"""
        rows = F.layer_norm(x, self.normalized_shape, eps=self.eps) * beside(self.weight, x)
        rows += beside(self.bias, x)
        return rows


def beside(vector: Tensor, x: Tensor) -> Tensor:
    """A parameter [D] or [F D] in the shape in which it meets x [... D]: [D] or [F 1 ... D]."""
    return vector if vector.dim() == 1 else vector.unflatten(0, (-1, *[1] * (x.dim() - 2)))
