"""FRL-DGT on a pretrained encoder: tokens of AU boxes and face cut from the encoder's token grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.heads.frl_dgt_clips import box_tokens
from finetune.heads.frl_dgt_fusion import REGIONS
from finetune.heads.pooling import Standardise
from finetune.options.frl_dgt import FrlDgtOptions
from pretrain import MicronBert


class GridTokens(nn.Module):
    """Encoder tokens and displacement at the AU boxes (`cells` × `cells` each) and over the face (`side` × `side`).

    Args:
        o: the options, effective.
        width: of the encoder's tokens.
        grid: patches per side of the encoder.
    """

    def __init__(self, o: FrlDgtOptions, width: int, grid: int):
        super().__init__()
        self.sequence, self.size, self.grid = o.sequence, o.size, grid
        self.cells, self.side = o.side // o.patch, min(o.size // o.patch, grid)
        self.standardise = Standardise((1 if o.sequence else 2) * width)

    def forward(self, tokens: Tensor, motion: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the boxes [9 B·P N inside] and of the face [1 B·P F inside].

        tokens [B frames 9·N + F D] (`encode`); motion [B·P m S S], averaged over each cell; boxes [B·P 9 4] in px.
        """
        pooled = F.adaptive_avg_pool2d(motion, self.grid)
        x = torch.cat([self.standardise(self.shown(tokens)), self.everywhere(pooled, boxes)], dim=-1)
        split = REGIONS * self.cells**2
        return x[:, :split].unflatten(1, (REGIONS, -1)).transpose(0, 1), x[:, split:][None]

    def shown(self, tokens: Tensor) -> Tensor:
        """[B frames L D] -> (onset, apex - onset) [B L 2·D], or of FRL-DGT-S the later frames [B·P L D]."""
        tokens = tokens.float()
        if self.sequence:
            return tokens[:, 1:].flatten(0, 1)
        return torch.cat([tokens[:, 0], tokens[:, 1] - tokens[:, 0]], dim=-1)

    def everywhere(self, grid: Tensor, boxes: Tensor) -> Tensor:
        """A grid [B D g g] cut at the boxes and over the whole face: [B 9·N + F D]."""
        whole = boxes.new_tensor([0, 0, self.size, self.size]).expand(len(grid), 1, 4)
        parts = ((boxes, self.cells), (whole, self.side))
        return torch.cat([box_tokens(grid, where, self.size, n).flatten(1, 2) for where, n in parts], dim=1)

    def encode(self, encoder: MicronBert, frames: Tensor, boxes: Tensor) -> Tensor:
        """The encoder's tokens of frames RGB [B frames S S 3] in 0..255, cut: [B frames 9·N + F D]."""
        batch, count = frames.shape[:2]
        found = encoder.encoder(encoder.preprocess(frames.flatten(0, 1)))[:, 1:]
        grid = found.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.everywhere(grid, boxes.repeat_interleave(count, 0)).unflatten(0, (batch, count))
