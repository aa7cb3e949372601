"""Released checkpoints of the published systems, with the released behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pretrain.model import MicronBert
from pretrain.released import from_released, read_released
from pretrain.weights import load_weights
from shards.errors import UsageError


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


def load(system: str, source: Mapping[str, Any] | str | Path, **config: Any) -> nn.Module:
    """A released model in eval mode.

    Args:
        system: "micronbert".
        source: a state dict, or the path of a released checkpoint.
        config: the release's own arguments (`num_heads`, `diag_att`, ...).

    Raises:
        UsageError: unknown system.
        FlickerError: the weights are not the system's.
    """
    if system != "micronbert":
        raise UsageError(f"no released loader for '{system}'; known: micronbert")
    if isinstance(source, Mapping):
        path, (model_config, weights) = Path("state dict"), from_released(source, **config)
    else:
        path = Path(source)
        model_config, weights = read_released(path, **config)
    model = MicronBert(model_config)
    load_weights(model, weights, path)
    return ReleasedMicronBert(model).eval()
