"""What several recognisers share: optimiser groups of a plugged encoder, batch normalisation of any batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain import MicronBert


def split_decay(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of parameters that train: norms, biases and other vectors without decay."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def encoder_groups(model: MicronBert, lr: float, weight_decay: float, decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of an encoder that trains, the learning rate falling with depth.

    DMA and the final norm take `lr`, the last block lr·decay, the one before lr·decay², and so on; patch embedding
    and contextual token one power more than the first block. Parameters that do not train are in no group.
    """
    encoder = model.encoder
    blocks = list(encoder.blocks)
    parts: list[tuple[int, list[nn.Parameter]]] = [(0, list(encoder.norm.parameters()))]
    if model.attention is not None:
        parts.append((0, list(model.attention.parameters())))
    parts += [(len(blocks) - index, list(block.parameters())) for index, block in enumerate(blocks)]
    placed = {id(p) for _, parameters in parts for p in parameters}
    parts.append((len(blocks) + 1, [p for p in encoder.parameters() if id(p) not in placed]))
    return [group for power, some in parts for group in split_decay(some, lr * decay**power, weight_decay)]


class SafeNorm(nn.BatchNorm1d):
    """Batch normalisation of any shape that, in training, takes its running statistics where a channel has one value.

    Key names are PyTorch's. In evaluation nothing differs from BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B C ...] -> the same."""
        several = self.training and x.numel() > x.shape[1]
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, several, self.momentum or 0.1, self.eps)
