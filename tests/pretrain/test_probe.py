"""The motion probe and the change map it ranks by."""

import numpy as np
import pytest
import torch

from pretrain import create
from pretrain.dma import DMA
from pretrain.probe import _mean_auroc, motion_auroc, moved_patches
from shards.synthetic import motion_pairs
from tests.sizes import SIZES


def test_change_is_zero_for_a_frame_with_itself_and_symmetric() -> None:
    torch.manual_seed(0)
    model = create("tiny", **SIZES).eval()
    a, b = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    assert model.change(a, a).abs().max() < 1e-5
    assert torch.allclose(model.change(a, b), model.change(b, a), atol=1e-6)


def test_change_equals_its_formula_from_the_diagonals() -> None:
    torch.manual_seed(0)
    dma = DMA(8).double()
    a, b = torch.randn(2, 9, 8).double(), torch.randn(2, 9, 8).double()

    def log_diagonal(x, y):
        return dma.map(x, y).diagonal(dim1=1, dim2=2).log()

    expected = (log_diagonal(a, a) + log_diagonal(b, b) - log_diagonal(a, b) - log_diagonal(b, a)) / 2
    assert torch.allclose(dma.change(a, b), expected, atol=1e-12)


def test_only_the_changed_token_stands_out() -> None:
    """With queries equal to keys the map is a kernel distance: it peaks at the token that changed."""
    dma = DMA(16)
    dma.to_k.load_state_dict(dma.to_q.state_dict())
    a = torch.randn(4, 25, 16)
    b = a.clone()
    b[:, 7] += 0.5 * torch.randn(4, 16)
    assert (dma.change(a, b).argmax(1) == 7).all()


def test_moved_patches_are_those_whose_mean_displacement_reaches_the_limit() -> None:
    displacement = np.zeros((1, 32, 32, 2), np.float32)
    displacement[0, 8:16, 8:16, 0] = 0.6
    displacement[0, 16:24, 16:24, 1] = 0.3
    moved, decided = moved_patches(displacement, 4)
    assert moved[0].nonzero()[0].tolist() == [5]
    assert (~decided[0]).nonzero()[0].tolist() == [10], "neither still nor moved"


def test_area_is_one_for_the_truth_and_half_for_noise() -> None:
    rng = np.random.default_rng(0)
    moved = rng.random((50, 144)) < 0.1
    decided = np.ones_like(moved)
    assert _mean_auroc(moved.astype(float), moved, decided) == 1.0
    assert abs(_mean_auroc(rng.random((50, 144)), moved, decided) - 0.5) < 0.05
    with pytest.raises(ValueError, match="no pair"):
        _mean_auroc(rng.random((3, 144)), np.zeros((3, 144), bool), decided[:3])


def test_probe_runs_on_synthetic_pairs_and_leaves_the_mode_alone() -> None:
    model = create("tiny").train()
    figures = motion_auroc(model, *motion_pairs(4, size=96, seed=0))
    assert set(figures) == {"motion_auroc", "motion_auroc_released"} and model.training
    assert all(0 <= value <= 1 for value in figures.values())
