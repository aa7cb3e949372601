"""Frames with hidden patches, for MAE and BEiT: which are hidden is a pure function of a sample's seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pretrain.augment import AugmentConfig, augment
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD, normalise
from pretrain.random import uniform
from pretrain.swap import SwapConfig, draw_block, max_blocks

SHUFFLE_STREAM, BLOCK_STREAM, REST_STREAM = 6, 7, 8  # swap, crops and augmentation have 1 to 5 and those plus 16·i


@dataclass
class Masked:
    """One micro-batch of single frames; each has M hidden patches, the same number, and V = N - M visible ones."""

    frames: Tensor  # [B 3 H W] normalised, whole
    hidden: Tensor  # int64 [B M]
    visible: Tensor  # int64 [B V]
    targets: Tensor  # of the hidden patches: float32 [B M P] pixels, or int64 [B M] codes

    def to(self, dtype: torch.dtype) -> Masked:
        """The frames in `dtype`; targets stay as they are."""
        return replace(self, frames=self.frames.to(dtype))


def still_frames(frames: Tensor, seeds: Tensor, config: AugmentConfig, size: int) -> Tensor:
    """I(t) of each pair, changed at random as the pair would be.

    uint8 [B 2 H W 3], int64 [B] -> normalised float32 [B 3 size size].
    """
    single = replace(config, independent="none")
    return normalise(augment(frames[:, :1], seeds, single, size)[:, 0], IMAGE_MEAN, IMAGE_STD)


def shuffled(seeds: Tensor, patches: int) -> Tensor:
    """A uniformly random order of the patches for each sample: int64 [B] -> int64 [B N]."""
    return uniform(seeds, SHUFFLE_STREAM, patches).argsort(dim=1, stable=True)


def blocks_first(seeds: Tensor, grid: int, config: SwapConfig) -> Tensor:
    """An order of the patches for each sample of which the first round(ratio·N) make up blocks: int64 [B N].

    BEiT's Algorithm 1: blocks are drawn until ratio·N patches are covered, overlaps counted once. The last block's
    lower rows are left out where they are too many, so that every sample hides the same number. The loop runs over
    a fixed number of blocks, twice what would do without overlaps; should they leave patches missing, single ones
    fill up.
    """
    target, count = round(config.ratio * grid * grid), 2 * max_blocks(grid, config)
    draws = uniform(seeds, BLOCK_STREAM, 4 * count).view(len(seeds), count, 4).permute(1, 2, 0)  # [K 4 B]
    cells = torch.arange(grid, device=seeds.device)
    place = torch.arange(grid * grid, device=seeds.device) / (grid * grid)  # [N] in 0..1
    key = count + uniform(seeds, REST_STREAM, grid * grid)  # [B N]; a covered patch gets its block's number + place
    for i in range(count):
        covered = (key < count).sum(1)  # [B]
        top, left, height, width = (x[:, None] for x in draw_block(draws[i], target - covered, grid, config))
        rows = (cells >= top) & (cells < top + height)  # [B grid]
        columns = (cells >= left) & (cells < left + width)
        block = (rows[:, :, None] & columns[:, None]).flatten(1)  # [B N]
        key = torch.where(block, key.minimum(i + place), key)
    return key.argsort(dim=1, stable=True)


def take(x: Tensor, places: Tensor) -> Tensor:
    """Rows of each sample: x [B N D], int64 [B M] -> [B M D]."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def as_mask(places: Tensor, patches: int) -> Tensor:
    """int64 [B M] -> bool [B N], True at those places."""
    return torch.zeros(len(places), patches, dtype=torch.bool, device=places.device).scatter(1, places, True)
