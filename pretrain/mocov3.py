"""MoCo v3 on single frames.

Chen, Xie, He, An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021. Two random
views of I(t) are to be told apart from all other frames of the micro-batch on all ranks: queries come from the
trained encoder, keys from its moving average. I(t+δ) is read and not used.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.architecture import ModelConfig
from pretrain.augment import augment
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD, normalise
from pretrain.objective import Group, Losses, Objective, Views, cls_spread, detached
from pretrain.teacher import MovingAverage


@dataclass
class TwoViews:
    """One micro-batch of B frames, each seen twice; R ranks."""

    views: Tensor  # [2 B 3 H W] normalised
    keys: Tensor | None = None  # float32 [2 R·B C], unit length, of both views on all ranks: from the teacher

    def to(self, dtype: torch.dtype) -> TwoViews:
        """The frames in `dtype`; keys stay as they are."""
        return replace(self, views=self.views.to(dtype))


class BatchNorm(nn.Module):
    """Normalisation over the frames of all ranks, of each view by itself, in float32; no running statistics."""

    def __init__(self, dim: int, affine: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine else None

    def forward(self, x: Tensor, group: Group) -> Tensor:
        """[2 B C] -> float32 [2 B C]."""
        wide = x.float()
        count = x.shape[1] * group.size
        centred = wide - group.sum(wide.sum(1, keepdim=True)) / count
        variance = group.sum(centred.square().sum(1, keepdim=True)) / count  # [2 1 C]
        y = centred * (variance + 1e-5).rsqrt()
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.float() + self.bias.float()
        return y


class Mlp(nn.Module):
    """Linear layers without bias, each batch-normalised, with ReLU between; the last norm has no weights.

    [2 B sizes[0]] -> float32 [2 B sizes[-1]], as in MoCo v3's code.
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        last = len(sizes) - 2
        self.linear = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes))
        self.norm = nn.ModuleList(BatchNorm(size, affine=i < last) for i, size in enumerate(sizes[1:]))

    def forward(self, x: Tensor, group: Group) -> Tensor:
        """See the class."""
        for i, (linear, norm) in enumerate(zip(self.linear, self.norm, strict=True)):
            weight: Any = linear.weight
            x = norm(linear((F.relu(x) if i else x).to(weight.dtype)), group)
        return x


class MocoV3(Objective):
    """MoCo v3; `forward` takes `TwoViews` with the teacher's keys."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        options, dim = self.config.mocov3, self.config.dim
        self.projector = Mlp((dim, options.hidden_dim, options.hidden_dim, options.out_dim))
        self.predictor = Mlp((options.out_dim, options.hidden_dim, options.out_dim))
        if options.frozen_patches:
            self.encoder.patch_embed.requires_grad_(False)

    @property
    def can_collapse(self) -> bool:
        """Without negatives that differ it does."""
        return True

    def views(self, frames: Tensor, seeds: Tensor, views: Views) -> TwoViews:
        """See `Objective.views`: I(t) twice, every change of `data.augment` drawn for each."""
        twice = frames[:, :1].expand(-1, 2, -1, -1, -1)
        pairs = augment(twice, seeds, replace(views.augment, independent="all"), self.config.image_size)
        both = pairs.transpose(0, 1)  # [2 B 3 S S]
        return TwoViews(normalise(both.flatten(0, 1), IMAGE_MEAN, IMAGE_STD).view_as(both))

    def forward(self, batch: TwoViews) -> Losses:
        """The symmetrised contrast: ctr(q₁, k₂) + ctr(q₂, k₁), each 2τ times a cross-entropy (Algorithm 1)."""
        assert batch.keys is not None
        cls = self.encoder.contextual(batch.views.flatten(0, 1)).unflatten(0, batch.views.shape[:2])  # [2 B D]
        queries = self.predictor(self.projector(cls, self.group), self.group)  # [2 B C]
        loss, top1 = contrast(queries, batch.keys, self.config.mocov3.temperature, self.group.rank)
        return Losses(loss, cls_spread(cls[0]), detached({"contrast": loss, "top1": top1}))

    def make_teacher(self, device: torch.device) -> MocoTeacher:
        """The momentum encoder."""
        return MocoTeacher(self, device)

    def sheet(self, batch: TwoViews, losses: Losses) -> np.ndarray:
        """The two views."""
        from pretrain.pictures import table, to_rgb  # OpenCV is needed for nothing else here

        first, second = (to_rgb(view[:4]) for view in batch.views)
        return table([list(line) for line in zip(first, second, strict=True)], ("view 1", "view 2"))


def contrast(queries: Tensor, keys: Tensor, temperature: float, rank: int) -> tuple[Tensor, Tensor]:
    """MoCo v3's loss and the share of queries whose own key is the nearest, both [].

    Args:
        queries: [2 B C] of both views.
        keys: float32 [2 R·B C], unit length, of both views on all ranks; those of this rank begin at rank·B.
    """
    queries = F.normalize(queries.float(), dim=-1)
    logits = queries @ keys.flip(0).mT / temperature  # [2 B R·B]: view 1's queries with view 2's keys, and reversed
    own = torch.arange(queries.shape[1], device=queries.device) + rank * queries.shape[1]  # [B]
    own = own.expand(2, -1).flatten()
    logits = logits.flatten(0, 1)
    loss = 2 * temperature * 2 * F.cross_entropy(logits, own)  # the mean is over both terms: twice that is their sum
    return loss, (logits.detach().argmax(-1) == own).float().mean()


class MocoTeacher(MovingAverage):
    """MoCo v3's momentum encoder and projector."""

    def __init__(self, student: MocoV3, device: torch.device):
        parts = {"encoder": "encoder", "projector": "projector"}
        super().__init__(student, parts, student.config.mocov3.momentum, device)

    @torch.no_grad()
    def prepare(self, batch: TwoViews) -> None:
        """The keys of both views, of all ranks. Collective."""
        with self.autocast():
            cls = self.module["encoder"].contextual(batch.views.flatten(0, 1).float())
            keys = self.module["projector"](cls.unflatten(0, batch.views.shape[:2]), self.group)  # [2 B C]
        keys = F.normalize(keys.float(), dim=-1)
        batch.keys = self.group.gather(keys.transpose(0, 1).contiguous()).transpose(0, 1)  # [2 R·B C]
