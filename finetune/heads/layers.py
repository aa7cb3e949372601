"""Linear layer and LayerNorm in the order of operations that they have under torch.func.vmap.

PyTorch's own add the bias within the product and scale within the normalisation, but not where several networks are
vectorised; here one network gets the same to the last bit, so that training alone and in a stack stay equal.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """x·Wᵀ, then + b."""

    def forward(self, x: Tensor) -> Tensor:
        """[... D] -> [... O]"""
        rows = (x.flatten(0, -2) @ self.weight.mT).unflatten(0, x.shape[:-1])
        return rows if self.bias is None else rows + self.bias


class LayerNorm(nn.LayerNorm):
    """Normalised, then scaled, then + b."""

    def forward(self, x: Tensor) -> Tensor:
        """[... D] -> [... D]"""
        return F.layer_norm(x, self.normalized_shape, eps=self.eps) * self.weight + self.bias
