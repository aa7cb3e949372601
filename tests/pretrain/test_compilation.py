"""Compiled models: no graph breaks, the same losses and gradients, the same names."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pretrain.architecture import AgreementConfig, ModelConfig
from pretrain.blocks import checkpoint_blocks
from pretrain.compilation import compile_objective, resolve_mode
from pretrain.objective import Objective, Views, create_objective
from shards.errors import UsageError
from tests.sizes import SIZES

CPU = torch.device("cpu")
DINO = AgreementConfig(kind="dino", local_crops=2)
OPTIONS: dict[str, dict[str, Any]] = {
    "mb1": {"dma": "none", "poi": "none", "agreement": AgreementConfig(kind="none")},
    "mb2": {"poi": "none", "agreement": AgreementConfig(kind="none")},
    "mb3": {},
    "literal": {"poi": "sum1", "dma_scaled": False, "dma_projection": False, "normalise_pixels": True},
    "stop_gradient": {"agreement": AgreementConfig(stop_gradient=True)},
    "full": {"dma": "full"},
    "dino": {"agreement": DINO},
    "mae": {"objective": "mae"},
    "mocov3": {"objective": "mocov3"},
    "beit": {"objective": "beit"},
}


def _kind(name: str) -> Any:
    """Micron-BERT and DINO in every run, the others with the slow tests."""
    return name if name in ("mb3", "dino") else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _model(options: dict[str, Any]) -> Objective:
    torch.manual_seed(0)
    return create_objective(ModelConfig(preset="tiny", **SIZES, **options))


def _batch(model: Objective, count: int = 3) -> Any:
    side = model.config.image_size
    frames = torch.randint(0, 256, (count, 2, side, side, 3), dtype=torch.uint8, generator=torch.manual_seed(1))
    batch = model.views(frames, torch.arange(count), Views())
    teacher = model.make_teacher(torch.device("cpu"))
    if teacher is not None:
        teacher.prepare(batch)
    return batch


def _step(model: Objective, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    losses = model(batch)
    losses.total.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(losses.total.detach()), grads


def _check(mode: Any, options: dict[str, Any], backend: str, checkpointing: bool = False) -> None:
    model = _model(options)
    batch = _batch(model)
    compiled = copy.deepcopy(model)
    assert compile_objective(compiled, mode, CPU, backend=backend) == mode
    checkpoint_blocks(compiled, checkpointing)
    expected, expected_grads = _step(model, batch)
    found, grads = _step(compiled, batch)
    assert abs(found - expected) <= 1e-5 * abs(expected)
    assert grads.keys() == expected_grads.keys()
    for name, gradient in expected_grads.items():
        assert (grads[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 1e-7, name
    assert list(compiled.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("kind", [_kind(name) for name in OPTIONS])
def test_the_whole_forward_pass_is_one_graph(kind: str) -> None:
    _check("whole", OPTIONS[kind], "aot_eager")  # fullgraph: a graph break is an error


@pytest.mark.parametrize(
    "kind, checkpointing",
    [
        ("mb3", True),
        pytest.param("mb3", False, marks=pytest.mark.slow),
        pytest.param("mae", False, marks=pytest.mark.slow),
    ],
)
def test_blocks_compiled_one_by_one_give_the_same(kind: str, checkpointing: bool) -> None:
    _check("blocks", OPTIONS[kind], "aot_eager", checkpointing)


def test_blocks_of_equal_shape_share_a_graph() -> None:
    """Four encoder blocks: three alike, the last one, and no fifth."""
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    model = create_objective(ModelConfig(preset="tiny", **{**SIZES, **OPTIONS["mb1"], "depth": 4}))
    for block in model.encoder.blocks:
        block.compile(backend=count, fullgraph=True, dynamic=False)
    model.encoder.forward_views(torch.randn(2, 3, 32, 32), interest=(0, 2))
    assert len(graphs) == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["blocks", "whole"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_inductor_gives_the_same(mode: Any, checkpointing: bool) -> None:
    _check(mode, OPTIONS["mb3"], "inductor", checkpointing)


@pytest.mark.slow
def test_a_compiled_model_is_copied_and_trained_like_any_other() -> None:
    """A teacher is a copy of the student's encoder; it must not compute with the student's weights."""
    model = _model({})
    compile_objective(model, "blocks", CPU, backend="aot_eager")
    twin = copy.deepcopy(model)
    batch = _batch(model)
    before = _step(twin, batch)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert _step(twin, batch)[0] == before and _step(model, batch)[0] != before
    assert not any("_orig_mod" in name for name in model.state_dict())


def test_what_auto_means() -> None:
    gpu = torch.device("cuda")
    assert [resolve_mode("auto", CPU), resolve_mode("auto", gpu), resolve_mode("auto", gpu, 3)] == [
        "off",
        "blocks",
        "off",
    ]
    with pytest.raises(UsageError, match="zero_stage 3"):
        resolve_mode("whole", gpu, 3)
