"""Micron-BERT as its authors released it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pretrain.model import MicronBert
from pretrain.released import from_released, read_released
from pretrain.weights import load_weights


class ReleasedMicronBert(nn.Module):
    """Micron-BERT as its authors released it.

    `.dma(swapped, reference)` takes normalised frames [B 3 H W] and returns the features [B N D] and what the
    release returns beside them: the diagonal [B N] (`diag_att=True`), or the whole cross-attention map
    [B N N] (`diag_att=False`, as in the published checkpoint).
    """

    def __init__(self, model: MicronBert):
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        """Encoder tokens [B 1+N D] of normalised frames [B 3 H W]."""
        return self.model.encoder(frames)

    def dma(self, swapped: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        attention = self.model.attention
        assert attention is not None
        a, b = self.model.encoder(swapped)[:, 1:], self.model.encoder(reference)[:, 1:]
        features, diag = attention(a, b)
        if attention.mode == "full":
            return features, attention.map(a, b)
        return features, diag

    def poi(self, frames: Tensor) -> Tensor:
        """The contextual token's attention to each patch [B N], summing to 1 (Micron-BERT, eq. 11)."""
        return self.model.poi(frames)


def load(source: Mapping[str, Any] | Path, **config: Any) -> nn.Module:
    """Micron-BERT as released: from a state dict, or a checkpoint that may hold its own arguments.

    config: the release's own arguments (`num_heads`, `diag_att`, ...). Raises FlickerError: other weights.
    """
    if isinstance(source, Path):
        path, (model_config, weights) = source, read_released(source, **config)
    else:
        path, (model_config, weights) = Path("state dict"), from_released(source, **config)
    model = MicronBert(model_config)
    load_weights(model, weights, path)
    return ReleasedMicronBert(model)
