"""Blockwise swapping of two frames' patches (Micron-BERT, section 4.4, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pretrain.random import uniform

SWAP_STREAM = 1


@dataclass(frozen=True)
class SwapConfig:
    """Which patches of I(t) are replaced by those of I(t+δ)."""

    mode: Literal["block", "patch"] = "block"
    """block: Algorithm 1 of the paper; patch: single random patches (the released code)."""
    ratio: float = 0.5
    """Swapping ratio r_s: share of patches the counter has to reach (block), or exactly (patch)."""
    min_block: int = 16
    """Smallest block, in patches (block mode)."""
    min_aspect: float = 0.3
    """Smallest aspect ratio of a block; the largest is its inverse (block mode)."""


def swap_mask(seeds: Tensor, grid: int, config: SwapConfig) -> Tensor:
    """Draw, for every sample, which patches are swapped.

    Args:
        seeds: int64 [B], one per sample; the mask is a pure function of it.
        grid: patches per side.

    Returns:
        bool [B N], N = grid², True where the patch comes from I(t+δ).
    """
    if config.mode == "patch":
        scores = uniform(seeds, SWAP_STREAM, grid * grid)  # [B N]
        ranks = scores.argsort(dim=1).argsort(dim=1)
        return ranks < round(config.ratio * grid * grid)
    top, left, height, width = _rectangles(seeds, grid, config)  # each [B K]
    cells = torch.arange(grid, device=seeds.device)
    rows = (cells >= top[..., None]) & (cells < (top + height)[..., None])  # [B K grid]
    columns = (cells >= left[..., None]) & (cells < (left + width)[..., None])  # [B K grid]
    covered = torch.bmm(rows.float().transpose(1, 2), columns.float())  # [B grid grid]
    return (covered > 0.5).flatten(1)


def _rectangles(seeds: Tensor, grid: int, config: SwapConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Algorithm 1's blocks for all samples at once: (top, left, height, width), each int64 [B K].

    The loop runs over blocks, a fixed number that always suffices; a sample whose counter c has passed
    r_s·N_p gets empty blocks. As printed, rnd(min_bs, r_s·N_p - c) inverts once fewer than min_bs patches
    remain: the upper end is clamped to min_bs. c counts overlaps twice, as printed.
    """
    target = config.ratio * grid * grid
    draws = uniform(seeds, SWAP_STREAM, 4 * max_blocks(grid, config)).view(len(seeds), -1, 4)  # [B K 4]
    counted = torch.zeros(len(seeds), device=seeds.device)  # [B]
    blocks = []
    for block_draws in draws.permute(1, 2, 0):  # [4 B]
        top, left, height, width = draw_block(block_draws, target - counted, grid, config)
        active = counted <= target
        height, width = height * active, width * active
        counted = counted + height * width
        blocks.append(torch.stack([top, left, height, width]).long())
    top, left, height, width = torch.stack(blocks, dim=-1)  # each [B K]
    return top, left, height, width


def draw_block(draws: Tensor, remaining: Tensor, grid: int, config: SwapConfig) -> tuple[Tensor, ...]:
    """One block of Algorithm 1 for each sample: (top, left, height, width), whole float32 numbers [B].

    Args:
        draws: U[0, 1) numbers [4 B] for size, aspect, top and left.
        remaining: [B] patches that are still to be covered: the block's largest size.
    """
    size_draw, aspect_draw, top_draw, left_draw = draws
    high = remaining.clamp(min=config.min_block)
    size = config.min_block + size_draw * (high - config.min_block)
    aspect = config.min_aspect + aspect_draw * (1 / config.min_aspect - config.min_aspect)
    height = (size * aspect).sqrt().floor().clamp(1, grid)
    width = (size / aspect).sqrt().floor().clamp(1, grid)
    return (top_draw * (grid - height + 1)).floor(), (left_draw * (grid - width + 1)).floor(), height, width


def max_blocks(grid: int, config: SwapConfig) -> int:
    """A number of blocks after which Algorithm 1's counter has passed r_s·N_p whatever was drawn."""
    smallest = min(
        _area(config.min_block, config.min_aspect + k / 200 * (1 / config.min_aspect - config.min_aspect), grid)
        for k in range(201)
    )
    return math.floor(config.ratio * grid * grid / smallest) + 1


def _area(size: float, aspect: float, grid: int) -> int:
    """Patches in a block of the given size and aspect ratio, sides rounded down as in the algorithm."""
    height = min(max(math.floor(math.sqrt(size * aspect)), 1), grid)
    width = min(max(math.floor(math.sqrt(size / aspect)), 1), grid)
    return height * width


def swap_patches(current: Tensor, reference: Tensor, mask: Tensor, patch: int) -> Tensor:
    """I(t/s): `current` with the masked patches taken from `reference`.

    Args:
        current, reference: [B C H W].
        mask: bool [B N], row-major patches of `patch` x `patch` pixels.

    Returns:
        [B C H W].
    """
    grid = current.shape[-1] // patch
    pixels = mask.view(-1, 1, grid, grid).repeat_interleave(patch, 2).repeat_interleave(patch, 3)  # [B 1 H W]
    return torch.where(pixels, reference, current)
