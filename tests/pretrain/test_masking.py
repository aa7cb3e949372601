"""Which patches are hidden."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.augment import AugmentConfig
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD
from pretrain.masking import as_mask, blocks_first, shuffled, still_frames, take
from pretrain.swap import SwapConfig

SEEDS = st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=5)


def _orders(kind: str, seeds: torch.Tensor, grid: int, ratio: float, min_block: int = 16) -> torch.Tensor:
    if kind == "shuffled":
        return shuffled(seeds, grid * grid)
    return blocks_first(seeds, grid, SwapConfig(ratio=ratio, min_block=min_block))


@pytest.mark.parametrize("kind", ["shuffled", "blocks"])
@given(seeds=SEEDS, grid=st.integers(2, 16), ratio=st.floats(0.05, 0.95), min_block=st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_an_order_has_every_patch_once_and_depends_on_its_seed_alone(kind, seeds, grid, ratio, min_block) -> None:
    seeds = torch.tensor(seeds)
    order = _orders(kind, seeds, grid, ratio, min_block)
    assert torch.equal(order.sort(dim=1).values, torch.arange(grid * grid).expand(len(seeds), -1))
    alone = torch.cat([_orders(kind, seeds[i : i + 1], grid, ratio, min_block) for i in range(len(seeds))])
    assert torch.equal(order, alone)
    count = round(ratio * grid * grid)
    assert (as_mask(order[:, :count], grid * grid).sum(1) == count).all()


def test_every_patch_is_hidden_equally_often_by_a_shuffle() -> None:
    order = shuffled(torch.arange(8000), 36)
    share = as_mask(order[:, :27], 36).float().mean(0)
    assert (share - 0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / 8000)
    both = as_mask(order[:, :27], 36)[:, [0, 1]].all(1).float().mean()
    assert abs(both - 27 / 36 * 26 / 35) < 0.03, "two patches are drawn without replacement"


def _literal_blocks(rng: np.random.Generator, grid: int, ratio: float, min_block: int = 16) -> np.ndarray:
    """BEiT, Algorithm 1, one sample; the last block's lower rows are left out where it covers too much."""
    hidden, target = np.zeros((grid, grid), bool), round(ratio * grid * grid)
    while hidden.sum() < target:
        size = rng.uniform(min_block, max(target - hidden.sum(), min_block))
        aspect = rng.uniform(0.3, 1 / 0.3)
        a = min(max(math.floor(math.sqrt(size * aspect)), 1), grid)
        b = min(max(math.floor(math.sqrt(size / aspect)), 1), grid)
        top, left = rng.integers(0, grid - a + 1), rng.integers(0, grid - b + 1)
        for i in range(top, top + a):
            for j in range(left, left + b):
                if hidden.sum() < target:
                    hidden[i, j] = True
    return hidden


def _borders(masks: np.ndarray) -> np.ndarray:
    """How many neighbouring patches differ, bool [B G G] -> [B]: few for blocks, many for scattered patches."""
    return (masks[:, 1:] != masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))


@pytest.mark.parametrize("grid", [12, 28])
def test_blocks_are_those_of_the_literal_algorithm(grid: int) -> None:
    rng, count = np.random.default_rng(0), round(0.4 * grid * grid)
    literal = np.stack([_literal_blocks(rng, grid, 0.4) for _ in range(250)])
    order = blocks_first(torch.arange(1500), grid, SwapConfig(ratio=0.4))
    ours = as_mask(order[:, :count], grid * grid).view(-1, grid, grid).numpy()
    assert np.abs(ours.mean(0) - literal.mean(0)).max() < 5 * math.sqrt(0.25 / 250 + 0.25 / 1500)
    a, b = _borders(ours), _borders(literal)
    assert abs(a.mean() - b.mean()) < 4.5 * math.sqrt(a.var() / len(a) + b.var() / len(b))
    scattered = as_mask(shuffled(torch.arange(50), grid * grid)[:, :count], grid * grid).view(-1, grid, grid).numpy()
    assert a.max() < _borders(scattered).min()


def test_take_and_as_mask_name_the_same_rows() -> None:
    x, places = torch.randn(2, 9, 3), torch.tensor([[4, 0], [8, 2]])
    assert torch.equal(take(x, places)[1], x[1, [8, 2]])
    assert torch.equal(as_mask(places, 9).nonzero(), torch.tensor([[0, 0], [0, 4], [1, 2], [1, 8]]))


@pytest.mark.parametrize("independent", ["none", "photometric", "all"])
def test_a_still_is_the_pairs_first_frame(independent: str) -> None:
    frames = torch.randint(0, 255, (3, 2, 40, 40, 3), dtype=torch.uint8)
    other = torch.stack([frames[:, 0], frames[:, 0].flip(1)], dim=1)
    config = AugmentConfig(crop_area=(0.5, 1.0), brightness=0.3, contrast=0.2, blur=1.0, independent=independent)
    a, b = (still_frames(x, torch.arange(3), config, 32) for x in (frames, other))
    assert a.shape == (3, 3, 32, 32) and torch.equal(a, b), "I(t+δ) has no part in it"
    plain = still_frames(frames, torch.arange(3), AugmentConfig(flip=False), 40)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    assert torch.allclose(plain * std + mean, frames[:, 0].permute(0, 3, 1, 2) / 255, atol=1e-6)
