"""The formulas of a plan against the model itself: parameters exactly, memory as counted and measured on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pretrain.architecture import AgreementConfig, ModelConfig
from pretrain.config import DataConfig, PretrainConfig
from pretrain.engine import BUCKET, EngineConfig
from pretrain.estimate import (
    MEMORY,
    Memory,
    Parameters,
    checkpoint_bytes,
    count_parameters,
    estimate_memory,
    exchanged_bytes,
    passing_memory,
    saved_activations,
)
from pretrain.flops import PEAK
from pretrain.objective import Objective, Views, create_objective

OBJECTIVES: dict[str, dict[str, Any]] = {
    "MB3": {},
    "MB2": {"poi": "none", "agreement": AgreementConfig(kind="none")},
    "MB1": {"dma": "none", "poi": "none", "agreement": AgreementConfig(kind="none")},
    "released": {"dma": "full", "poi": "none", "agreement": AgreementConfig(kind="dino")},
    "mae": {"objective": "mae"},
    "mocov3": {"objective": "mocov3"},
    "beit": {"objective": "beit"},
}


def batch_of(model: Objective, pairs: int, dtype: torch.dtype) -> Any:
    """A batch with its targets."""
    side = model.config.image_size
    frames = torch.randint(0, 256, (pairs, 2, side, side, 3), dtype=torch.uint8)
    batch = model.views(frames, torch.arange(pairs), Views())
    if (teacher := model.make_teacher(torch.device("cpu"))) is not None:
        teacher.prepare(batch)
    return batch.to(dtype)


def saved(config: ModelConfig, pairs: int, dtype: torch.dtype) -> float:
    """Bytes per pair that autograd keeps, each storage once, without the model's own tensors."""
    torch.manual_seed(0)
    model = create_objective(config)
    batch = batch_of(model, pairs, dtype)
    model = model.to(dtype)
    own = {x.untyped_storage().data_ptr() for x in [*model.parameters(), *model.buffers()]}
    seen: dict[int, Any] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage  # held, so that no address is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        losses = model(batch)
    assert losses.total.requires_grad
    return sum(storage.nbytes() for storage in seen.values()) / pairs


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_parameters_are_exactly_the_models(preset: Any, name: str) -> None:
    config = ModelConfig(preset=preset, **OBJECTIVES[name])
    model = create_objective(config)
    found = count_parameters(config)
    assert found.total == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.fixed == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    teacher: Any = model.make_teacher(torch.device("cpu"))
    assert found.teacher == (0 if teacher is None else sum(p.numel() for p in teacher.module.parameters()))


def test_the_papers_model_has_the_known_size_in_parts() -> None:
    found = count_parameters(ModelConfig(preset="small"))
    assert found.trained == {"encoder": 12709888, "attention": 1050624, "decoder": 12971712}
    assert found.total == 26732224


def test_large_models_are_counted_without_memory_for_them() -> None:
    """The same count as by hand: 12·d² + 13·d per block, patches, two vectors, and the norm."""
    d, depth, patch = 1024, 24, 192
    block = 12 * d * d + 13 * d
    expected = depth * block + patch * d + d + d + 2 * d
    assert count_parameters(ModelConfig(preset="large")).trained["encoder"] == expected


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_activations_are_those_that_autograd_keeps(name: str, pairs: int, dtype: torch.dtype, size: int) -> None:
    """Within 8 %, at the demo's size; the paper's below."""
    config = ModelConfig(preset="tiny", **OBJECTIVES[name])
    assert saved_activations(config, size) == pytest.approx(saved(config, pairs, dtype), rel=0.08)


@pytest.mark.parametrize("name, pairs", [("MB3", 1), ("mae", 1)])
def test_activations_at_the_papers_size(name: str, pairs: int) -> None:
    """Within 5 %."""
    config = ModelConfig(preset="small", **OBJECTIVES[name])
    assert saved_activations(config, 4) == pytest.approx(saved(config, pairs, torch.float32), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_activations_of_every_objective_at_the_papers_size(name: str) -> None:
    config = ModelConfig(preset="small", **OBJECTIVES[name])
    for pairs in (1, 2):
        assert saved_activations(config, 4) == pytest.approx(saved(config, pairs, torch.float32), rel=0.05)


@pytest.mark.parametrize("name", ["MB3", "MB1", "mae", "beit"])
def test_the_fullest_moment_of_a_step_is_as_measured(name: str) -> None:
    """All allocations of a forward and a backward pass, added up: the largest sum, within 15 %."""
    config, pairs = ModelConfig(preset="tiny", **OBJECTIVES[name]), 4
    torch.manual_seed(0)
    model = create_objective(config)
    batch = batch_of(model, pairs, torch.float32)
    model(batch).total.backward()  # gradients of the weights exist from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        model(batch).total.backward()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    estimate = saved_activations(config, 4) + passing_memory(config, 4)
    assert estimate == pytest.approx(most / pairs, rel=0.15)


def test_checkpointing_keeps_each_blocks_input() -> None:
    """26 MB per pair at the paper's size in bf16, with a frame less in the last block."""
    config = ModelConfig(preset="small", dma="none", poi="none")
    whole, thin = saved_activations(config, 2), saved_activations(config, 2, checkpointing=True)
    blocks = (
        9 * (12 * 785 + 4 * 784) - 6 * 785
    )  # widths of tokens: 10 - 1 in each block, 4 - 1 for a crop in the last
    assert whole - thin == pytest.approx(blocks * 512 * 2)
    assert thin < 26e6
    assert passing_memory(config, 2, checkpointing=True) > passing_memory(config, 2)


def run(**engine: Any) -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig(preset="small"), data=DataConfig(global_batch=64), engine=EngineConfig(**engine)
    )


SIMPLE = Parameters({"encoder": 1_000_000}, 0, 0)


@pytest.mark.parametrize(
    "stage, weights, gradients, optimiser",
    [(0, 2, 2, 8), (1, 2, 2, 12 / 8), (2, 2, 2 / 8, 12 / 8), (3, 2 / 8 + 2, 2 / 8, 12 / 8)],
)
def test_zero_shares_what_its_stage_says(stage: Any, weights: float, gradients: float, optimiser: float) -> None:
    """Rajbhandari et al., ZeRO (SC 2020), section 3: bytes per parameter over 8 ranks, in bf16."""
    found = estimate_memory(run(zero_stage=stage), SIMPLE, 8, 224, BUCKET).per_run
    shown = [found[name] / 1e6 for name in ("weights", "gradients", "optimiser")]
    assert shown == pytest.approx([weights, gradients, optimiser])
    assert ("gradient buffer" in found) == (stage in (1, 2))


def test_memory_adds_up_and_the_largest_batch_just_fits() -> None:
    memory = Memory({"weights": 1e9}, {"activations": 3e8, "frames": 1e8})
    assert memory.total(5) == 3e9
    assert memory.most_pairs(3.1e9) == 5 and memory.most_pairs(2.9e9) == 4 and memory.most_pairs(1e8) == 0


def test_more_gpus_and_checkpointing_never_take_more() -> None:
    parameters = count_parameters(ModelConfig(preset="small"))
    totals = [estimate_memory(run(zero_stage=2), parameters, ranks, 224, BUCKET).total(64) for ranks in (1, 8, 64)]
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == 3
    thin = estimate_memory(run(zero_stage=2, activation_checkpointing=True), parameters, 8, 224, BUCKET)
    assert thin.total(64) < 0.7 * totals[1]


@pytest.mark.parametrize("options, per_weight", [({}, 4), ({"gradient_dtype": "fp32"}, 6), ({"zero_stage": 3}, 6)])
def test_exchange_is_the_known_volume(options: dict[str, Any], per_weight: int) -> None:
    """ZeRO-1 over 32 GPUs sends 2·(31/32)·26.73 M·2 B = 104 MB a step, 155 MB with float32 gradients."""
    parameters = count_parameters(ModelConfig(preset="small"))
    found = exchanged_bytes(run(**options), parameters, 32)
    assert found == pytest.approx(per_weight * 26.73e6 * 31 / 32, rel=1e-3)
    assert exchanged_bytes(run(**options), parameters, 1) == 0


def test_a_checkpoint_holds_weights_twice_and_the_optimiser() -> None:
    assert checkpoint_bytes(run(), Parameters({"encoder": 1_000_000}, 100_000, 500_000)) == 12e6 + 1.1e6 * 6 + 2e6
    assert checkpoint_bytes(run(zero_stage=0, precision="fp32"), SIMPLE) == 8e6 + 8e6


def test_every_gpu_with_a_peak_has_a_memory() -> None:
    assert set(MEMORY) == set(PEAK)
