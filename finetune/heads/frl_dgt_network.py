"""FRL-DGT behind the displacement: tokens of patches or of an encoder, Transformer Fusion, classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finetune.heads.blocks import split_decay
from finetune.heads.frl_dgt_clips import box_patches, face_patches
from finetune.heads.frl_dgt_dgm import GAIN, dgm_flops, scaled_gradient
from finetune.heads.frl_dgt_fusion import TransFu, fusion_flops
from finetune.heads.frl_dgt_plug import GridTokens
from finetune.heads.pooling import classifier
from finetune.options.frl_dgt import FrlDgtOptions


class Network(nn.Module):
    """Frames and displacements of AU boxes and face to logits.

    Args:
        o: the options, effective.
        plug: (width, grid side) of the encoder whose tokens replace the patches of frames, or None.
        steps: displacements per clip P.
    """

    def __init__(self, classes: int, o: FrlDgtOptions, plug: tuple[int, int] | None, steps: int):
        super().__init__()
        self.options, self.steps = o, steps
        self.channels = 1 if o.colour == "grey" else 3
        frames, moved = 1 if o.sequence else 2, self.channels if o.motion == "dynamic" else 2
        self.cut: GridTokens | None = None
        self.inside, side = (frames * self.channels + moved) * o.patch**2, o.size // o.patch
        if plug is not None:
            self.cut = GridTokens(o, *plug)
            self.inside, side = frames * plug[0] + moved, self.cut.side
        self.tokens = ((o.side // o.patch) ** 2, side**2)
        self.transfu = TransFu(self.inside, *self.tokens, o, steps)
        self.classify = classifier("mlp", self.transfu.width, classes, o.hidden, o.dropout)

    def forward(self, onset: Tensor, apex: Tensor, motion: Tensor, boxes: Tensor, tokens: Tensor | None) -> Tensor:
        """Logits [B C]; the gradient into `motion` is scaled (section 3.3).

        onset, apex float32 [B·P M S S] in 0..1; motion [B·P m S S]; boxes int [B 9 4] px; tokens [B frames L D] where
        plugged.
        """
        o = self.options
        motion = scaled_gradient(motion, o.gradient_scale)
        boxes = boxes.repeat_interleave(self.steps, 0)
        if self.cut is not None:
            assert tokens is not None
            return self.classify(self.transfu(*self.cut(tokens, motion, boxes)))
        later = (apex - onset) * GAIN if o.frames_seen == "difference" else 2 * apex - 1
        features = torch.cat([*([] if o.sequence else [2 * onset - 1]), later, motion], dim=1)
        regions, face = box_patches(features, boxes, o.side, o.patch), face_patches(features, o.patch)
        return self.classify(self.transfu(regions, face))

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups: linear layers' weights with decay, all else without."""
        named = list(self.named_parameters())
        weights = [p for name, p in named if name.endswith(".weight")]
        others = [p for name, p in named if not name.endswith(".weight")]
        return split_decay(weights, lr, weight_decay) + split_decay(others, lr, 0.0)

    def flops(self) -> float:
        """Forward, per clip, by formula; with the DGM where there is one."""
        o = self.options
        total = fusion_flops(self.inside, *self.tokens, o, self.steps) + 2.0 * self.transfu.width * o.hidden
        if o.motion == "dgm":
            total += self.steps * dgm_flops(o.size, self.channels, o.dgm_widths, o.dgm_skips)
        return total
