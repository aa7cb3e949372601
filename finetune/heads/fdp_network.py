"""FDP behind its frames: rank scorer, temporal pooling, recognition, dynamic image; and codes from an encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.heads.fdp_decoder import DynamicImageNet
from finetune.heads.fdp_lgf import LocalGlobalTransformer
from finetune.heads.fdp_release import ReleasedFrames, SegNet, joined
from finetune.heads.pooling import Standardise
from finetune.options.fdp import FdpOptions

POOLED = 8  # channels of the dynamic representation (the release's; not stated)
WINDOW = 3  # of the max pooling before the classifier (the release's; not stated)


class EncoderCodes(nn.Module):
    """Encoder tokens [B t cells² D] to codes [B t side²], laid out as the face is.

    The tokens of frame 0 are taken off (`relative`), channels standardised by the fold's training clips, and each
    cell's vector projected to the (side / cells)² values of its own part of the map.
    """

    def __init__(self, dim: int, cells: int, side: int, relative: bool = True):
        super().__init__()
        self.cells, self.part, self.relative = cells, side // cells, relative
        self.standardise = Standardise(dim)
        self.project = nn.Linear(dim, self.part**2)

    def shown(self, tokens: Tensor) -> Tensor:
        """Before they are standardised."""
        return tokens - tokens[:, :1] if self.relative else tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """[B t cells² D] -> [B t side²]"""
        values = self.project(self.standardise(self.shown(tokens)))
        values = values.unflatten(3, (self.part, self.part)).unflatten(2, (self.cells, self.cells))
        return values.transpose(3, 4).flatten(2)  # rows: cell, then row inside it


class Dynamics(nn.Module):
    """Temporal pooling (3.3) and the recognition module (3.4.2).

    Codes as maps, in chronological order, through a 3-D convolution that covers all t frames: F^(d). Then max
    pooling and two fully connected layers with ReLU between.
    """

    def __init__(self, frames: int, side: int, classes: int, hidden: int, release: bool):
        super().__init__()
        self.side, self.release = side, release
        self.pool = nn.Conv3d(1, POOLED, (3, 3, frames), padding=(1, 1, 0))
        self.hidden = nn.Linear(POOLED * (side // WINDOW) ** 2, hidden)
        self.classify = nn.Linear(hidden, classes)

    def forward(self, codes: Tensor) -> Tensor:
        """[B t side²] -> F^(d) [B 8 side side]"""
        if self.release:
            maps = joined(codes, self.side)
        else:
            maps = codes.unflatten(-1, (self.side, self.side)).permute(0, 2, 3, 1)
        return self.pool(maps.unsqueeze(1)).squeeze(-1)

    def logits(self, dynamic: Tensor) -> Tensor:
        """F^(d) -> [B classes]"""
        return self.classify(F.relu(self.hidden(F.max_pool2d(dynamic, WINDOW).flatten(1))))

    def flops(self) -> float:
        """One clip forward: two per multiply-add."""
        return 2.0 * (
            self.pool.weight.numel() * self.side**2 + self.hidden.weight.numel() + self.classify.weight.numel()
        )


class Network(nn.Module):
    """Frames or encoder tokens to codes, and all that follows.

    Args:
        plug: (token width, cells per side) where codes come from an encoder's tokens.
    """

    def __init__(self, classes: int, o: FdpOptions, plug: tuple[int, int] | None = None):
        super().__init__()
        code = o.crop**2
        self.codes: nn.Module
        if plug is not None:
            self.codes = EncoderCodes(*plug, o.crop, relative=o.relative != "never")
        elif o.release:
            self.codes = ReleasedFrames(code)
        else:
            self.codes = LocalGlobalTransformer(
                3, o.widths, o.head_dim, o.mlp_ratio, o.local_layers, o.global_layers, o.dropout, code
            )
        self.scorer = nn.Linear(code, 1, bias=False) if o.rank_weight and not o.release else None
        self.dynamics = Dynamics(o.frames, o.crop, classes, o.hidden, o.release)
        self.image: SegNet | DynamicImageNet | None = None
        if o.dynamic_weight:
            self.image = SegNet(POOLED) if o.release else DynamicImageNet(POOLED, o.decoder_widths)

    def encode(self, x: Tensor) -> Tensor:
        """Frames [B t C S S], or tokens [B t cells² D], to codes [B t S²]."""
        if isinstance(self.codes, EncoderCodes):
            return self.codes(x)
        return self.codes(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `encode` -> logits [B classes]; or None: dynamic image [B S S], rank scores [B t] (eq. 4)."""
        codes = self.encode(x)
        dynamic = self.dynamics(codes)
        image = self.image(dynamic) if self.image is not None else None
        scores = self.scorer(codes).squeeze(-1) if self.scorer is not None else None
        return self.dynamics.logits(dynamic), image, scores

    def logits(self, x: Tensor) -> Tensor:
        """Logits alone."""
        return self.dynamics.logits(self.dynamics(self.encode(x)))

    def flops(self, frames: int, side: int) -> float:
        """One clip forward: frames, pooling and recognition, rank scores, dynamic image."""
        total = self.dynamics.flops()
        if isinstance(self.codes, EncoderCodes):
            total += 2.0 * frames * self.codes.cells**2 * self.codes.project.weight.numel()
        else:
            total += frames * self.codes.flops(side)  # type: ignore[operator]
        total += 2.0 * frames * side**2 if self.scorer is not None else 0.0
        return total + (self.image.flops(side) if self.image is not None else 0.0)


def rank_loss(scores: Tensor, slope: float) -> Tensor:
    """Rank loss (eq. 5) with K(k) = slope·k, mean over clips: scores [B t] -> []."""
    wanted = slope * torch.arange(scores.shape[1], device=scores.device, dtype=scores.dtype)
    return (wanted - scores).abs().sum(dim=1).mean()
