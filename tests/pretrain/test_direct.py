"""The product against a direct, literal reading of the paper on the same weights: losses, gradients, swaps."""

from __future__ import annotations

import pytest
import torch

from launch.benchmarks import direct
from pretrain import create
from pretrain.model import MicronBert
from pretrain.objective import Views
from tests.sizes import SIZES

SEEDS = torch.arange(6) * 7919 + 3


def _frames(model: MicronBert, batch: int = 6) -> torch.Tensor:
    side = model.config.image_size
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (batch, 2, side, side, 3), dtype=torch.uint8, generator=generator)


def _gradients(model: MicronBert, total: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("options", [{}, {"poi": "sum1"}, {"dma_scaled": False}, {"normalise_pixels": True}])
def test_losses_and_gradients_are_those_of_a_direct_reading(options: dict, checkpointing: bool) -> None:
    from pretrain.blocks import checkpoint_blocks

    torch.manual_seed(0)
    model = create("tiny", **SIZES, **options).double()
    checkpoint_blocks(model, checkpointing)
    batch = model.views(_frames(model), SEEDS, Views()).to(torch.float64)
    losses, expected = model(batch), direct.loss(model, batch)
    assert abs(float(losses.total.detach() - expected.detach())) < 1e-6 * float(
        expected.detach()
    )  # losses are float32
    ours, theirs = _gradients(model, losses.total), _gradients(model, expected)
    assert ours.keys() == theirs.keys() and len(ours) > 50
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).abs().max() <= 1e-6 * gradient.abs().max() + 1e-12, name


def test_swaps_are_those_of_algorithm_1_sample_by_sample() -> None:
    model = create("tiny")
    frames = _frames(model, 64)
    seeds = torch.arange(64) * 104729 + 11
    ours, theirs = model.views(frames, seeds, Views()), direct.views(model, frames, seeds, Views())
    assert torch.equal(ours.mask, theirs.mask)
    for name in ("current", "reference", "swapped", "crop"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
