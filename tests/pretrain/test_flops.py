"""The formulas against PyTorch's counter, with attention as plain products that it can count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from launch.benchmarks import direct
from pretrain import create
from pretrain.architecture import AgreementConfig, ModelConfig
from pretrain.flops import pair_flops, peak_flops, skipped_flops
from pretrain.objective import Views

SIZES = {"image_size": 48, "patch_size": 8, "dim": 64, "depth": 3, "heads": 2}
DECODER = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2}
PAIRS = 2


def _counted(model: Any, loss: Any, batch: Any) -> float:
    """Forward FLOP per pair."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss(batch)
    return counter.get_total_flops() / PAIRS


def _batch(model: Any) -> Any:
    side = model.config.image_size
    frames = torch.randint(0, 256, (PAIRS, 2, side, side, 3), dtype=torch.uint8)
    batch = model.views(frames, torch.arange(PAIRS), Views())
    teacher = model.make_teacher(torch.device("cpu"))
    if teacher is not None:
        teacher.prepare(batch)
    return batch


def test_micron_bert_as_the_paper_reads_is_the_formula() -> None:
    """To the last product, but for the contextual token's share of DMA's input and such."""
    model = create("tiny", **SIZES, **DECODER)
    counted = _counted(model, lambda batch: direct.loss(model, batch), _batch(model))
    assert pair_flops(model.config) == pytest.approx(3 * counted, rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dma": "none", "poi": "none"},
        {"dma_projection": False},
        {"agreement": AgreementConfig(kind="none")},
        {"agreement": AgreementConfig(kind="dino", local_crops=2, local_size=1 / 3)},
        {"objective": "mae"},
        {"objective": "mocov3"},
        {"objective": "beit"},
    ],
)
def test_what_is_computed_is_the_formula_less_what_is_skipped(options: dict[str, Any]) -> None:
    model = create("tiny", **SIZES, **DECODER, **options)
    batch = _batch(model)
    counted = _counted(model, model, batch)
    taught = _taught(model.config)
    formula = (pair_flops(model.config) - taught) / 3
    skipped = (skipped_flops(model.config) - _skipped_by_teacher(model.config)) / 3
    assert counted == pytest.approx(formula - skipped, rel=0.02)
    assert skipped == 0 or counted != pytest.approx(formula, rel=0.02)


def _taught(config: ModelConfig) -> float:
    """The teacher's part of the formula, which its own test counts."""
    from pretrain.flops import _micron_bert, _mocov3

    if config.objective == "mocov3":
        return _mocov3(config)[1]
    return _micron_bert(config)[1] if config.objective == "micron_bert" else _tokeniser(config)


def _tokeniser(config: ModelConfig) -> float:
    from pretrain.flops import _beit, _mae

    return (_beit if config.objective == "beit" else _mae)(config)[1]


def _skipped_by_teacher(config: ModelConfig) -> float:
    """Two views' last block."""
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    views = 2 if config.objective == "mocov3" or config.agreement.kind == "dino" else 0
    return views * (18.0 * (tokens - 1) * config.dim**2 + 4.0 * (tokens - 1) * tokens * config.dim)


@pytest.mark.parametrize("options", [{"objective": "mocov3"}, {"agreement": AgreementConfig(kind="dino")}])
def test_teachers_are_counted(options: dict[str, Any]) -> None:
    model = create("tiny", **SIZES, **DECODER, **options)
    batch = _batch(model)
    teacher = model.make_teacher(torch.device("cpu"))
    counted = _counted(model, teacher.prepare, batch)
    assert counted == pytest.approx(_taught(model.config) - _skipped_by_teacher(model.config), rel=0.02)


def test_the_papers_size() -> None:
    small = ModelConfig(preset="small")
    assert pair_flops(small) == pytest.approx(307.4e9, rel=1e-3)
    assert skipped_flops(small) / pair_flops(small) == pytest.approx(0.0485, rel=0.01)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_an_unknown_devices_peak_is_measured(dtype: torch.dtype | None) -> None:
    peak, source = peak_flops(torch.device("cpu"), dtype)
    assert peak > 1e9 and source == f"measured {'bfloat16' if dtype else 'float32'} matrix product"
