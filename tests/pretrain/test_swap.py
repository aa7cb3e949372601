"""Blockwise swapping against a literal Algorithm 1."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.swap import SwapConfig, _rectangles, max_blocks, swap_mask, swap_patches

PAPER = SwapConfig()


def literal_algorithm_1(
    rng: np.random.Generator, grid: int, ratio: float = 0.5, min_block: int = 16, min_aspect: float = 0.3
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Micron-BERT, Algorithm 1, one sample, one patch at a time; the shrinking range clamped at min_block."""
    swapped, sides, c = np.zeros((grid, grid), bool), [], 0
    while c <= ratio * grid * grid:
        block = rng.uniform(min_block, max(ratio * grid * grid - c, min_block))
        aspect = rng.uniform(min_aspect, 1 / min_aspect)
        m = min(max(math.floor(math.sqrt(block * aspect)), 1), grid)
        n = min(max(math.floor(math.sqrt(block / aspect)), 1), grid)
        p, q = rng.integers(0, grid - m + 1), rng.integers(0, grid - n + 1)
        for i in range(p, p + m):
            for j in range(q, q + n):
                swapped[i, j] = True
        sides.append((m, n))
        c += m * n
    return swapped, sides


def _within(a: np.ndarray, b: np.ndarray, sigmas: float = 4.5) -> bool:
    """Whether two samples' means agree within their sampling error."""
    error = math.sqrt(a.var() / len(a) + b.var() / len(b))
    return abs(a.mean() - b.mean()) < sigmas * error + 1e-12


@pytest.mark.parametrize("grid", [12, 28])
def test_share_and_block_statistics_equal_the_literal_algorithm(grid: int) -> None:
    rng = np.random.default_rng(0)
    references = [literal_algorithm_1(rng, grid) for _ in range(1500)]
    seeds = torch.arange(6000)
    masks = swap_mask(seeds, grid, PAPER).float()
    _, _, height, width = _rectangles(seeds, grid, PAPER)
    drawn = height > 0
    assert _within(masks.mean(1).numpy(), np.array([mask.mean() for mask, _ in references]))
    assert _within(drawn.sum(1).double().numpy(), np.array([len(sides) for _, sides in references], float))
    flat = np.array([side for _, sides in references for side in sides], float)
    assert _within(height[drawn].double().numpy(), flat[:, 0])
    assert _within((height * width)[drawn].double().numpy(), flat.prod(1))
    share = masks.mean(0).view(grid, grid).numpy()
    expected = np.mean([mask for mask, _ in references], axis=0)
    assert np.abs(share - expected).max() < 5 * math.sqrt(0.25 / 1500 + 0.25 / 6000)


def test_papers_size_swaps_42_percent_of_the_patches_on_average() -> None:
    share = swap_mask(torch.arange(4000), 28, PAPER).float().mean(1)
    assert 0.41 < share.mean() < 0.435
    assert share.max() < 0.56


@given(
    grid=st.integers(4, 32), ratio=st.floats(0.1, 0.9), min_block=st.integers(1, 40), min_aspect=st.floats(0.1, 1.0)
)
@settings(max_examples=40, deadline=None)
def test_the_fixed_number_of_blocks_always_suffices(grid, ratio, min_block, min_aspect) -> None:
    config = SwapConfig(ratio=ratio, min_block=min_block, min_aspect=min_aspect)
    seeds = torch.arange(64)
    _, _, height, width = _rectangles(seeds, grid, config)
    assert height.shape[1] == max_blocks(grid, config)
    assert ((height * width).sum(1) > ratio * grid * grid).all()
    mask = swap_mask(seeds, grid, config)
    assert mask.any(1).all() and mask.shape == (64, grid * grid)


def test_patch_mode_swaps_exactly_the_ratio() -> None:
    mask = swap_mask(torch.arange(50), 28, SwapConfig(mode="patch", ratio=0.5))
    assert (mask.sum(1) == 392).all()
    assert mask.float().mean(0).min() > 0.3 and mask.float().mean(0).max() < 0.8


def test_masks_do_not_depend_on_how_the_batch_is_dealt_out() -> None:
    seeds = torch.randint(-(2**62), 2**62, (8,))
    whole = swap_mask(seeds, 12, PAPER)
    assert torch.equal(whole, torch.cat([swap_mask(seeds[:3], 12, PAPER), swap_mask(seeds[3:], 12, PAPER)]))


def test_swapped_frame_takes_masked_patches_from_the_reference() -> None:
    current, reference = torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 5] = mask[1, 3] = True  # row 1 column 1, row 0 column 3
    swapped = swap_patches(current, reference, mask, 8)
    assert swapped[0, :, 8:16, 8:16].eq(1).all() and swapped[0].sum() == 3 * 64
    assert swapped[1, :, 0:8, 24:32].eq(1).all() and swapped[1].sum() == 3 * 64
