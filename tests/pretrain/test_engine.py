"""The engine in one process: clipping, precision, checkpoints, and what it does not ask the device."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain import conversion
from pretrain import engine as engines
from pretrain.engine import Engine, EngineConfig
from pretrain.objective import Losses
from pretrain.ranks import HostGroup, RankGroup, World
from shards.errors import FlickerError, UsageError

JSON = sorted((Path(__file__).parents[2] / "launch" / "deepspeed").glob("*.json"))


class Small(nn.Module):
    """A module with every kind of state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.fixed = nn.Parameter(torch.randn(1, 6) / 3, requires_grad=False)
        self.register_buffer("mean", torch.zeros(6))
        self.one, self.norm, self.two = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Losses:
        """Squares of the outputs; the input's running mean is part of them."""
        self.mean += (x.detach().float().mean(0) - self.mean) / 10
        hidden = self.one(x + self.fixed - self.mean.to(x.dtype))
        total = self.two(self.norm(hidden).relu()).float().square().mean()
        return Losses(total, total.detach())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One process."""
    with patch.dict(os.environ):  # it names itself in variables that tests of commands must not inherit
        yield engines.start()
        engines.stop()


def make(world: World, module: nn.Module | None = None, decay: float = 0.5, **config: Any) -> Engine:
    """An engine around Small; vectors do not decay."""
    module = module or Small()
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return Engine(module, torch.optim.AdamW(groups, lr=0.02, fused=True), EngineConfig(**config), world, 4)


def data(step: int) -> torch.Tensor:
    """A batch [4 6]."""
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(step))


def step(engine: Engine, number: int, scale: float = 1.0) -> float:
    """One optimiser step; its loss."""
    losses = []
    for part in range(engine.config.accumulation):
        total = engine(data(number * engine.config.accumulation + part).to(engine.dtype)).total
        engine.backward(total * scale)
        engine.step()
        losses.append(float(total.detach()))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_clipping_is_torch_s_own(world: World, stage: int) -> None:
    """Against a plain loop with clip_grad_norm_ and unfused AdamW, where the clip bites and where it does not."""
    engine, module = make(world, zero_stage=stage, clip=0.05), Small()
    optimiser = torch.optim.AdamW(
        [p for p in module.parameters() if p.ndim > 1 and p.requires_grad], 0.02, weight_decay=0.5
    )
    optimiser.add_param_group({"params": [p for p in module.parameters() if p.ndim < 2], "weight_decay": 0.0})
    norms = []
    for number in range(6):
        scale = 1.0 if number % 2 else 1e-3
        step(engine, number, scale)
        (module(data(number)).total * scale).backward()
        norms.append(float(nn.utils.clip_grad_norm_(module.parameters(), 0.05)))
        assert engine.gradient_norm() == pytest.approx(norms[-1], rel=1e-5)
        optimiser.step()
        optimiser.zero_grad()
    assert min(norms) < 0.05 < max(norms)
    weights = engine.weights()
    assert weights.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(weights[name], value, atol=2e-6, rtol=1e-5)
    engine.close()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_gradient_that_is_not_finite_moves_nothing(world: World, stage: int) -> None:
    engine, other = make(world, zero_stage=stage), make(world, zero_stage=stage)
    for number in range(2):
        step(engine, number)
        step(other, number)
    before = engine.weights()
    step(engine, 2, float("inf"))
    assert not torch.tensor(engine.gradient_norm()).isfinite()
    after = engine.weights()
    trained = [name for name, value in engine.module.named_parameters() if value.requires_grad]
    assert all(torch.equal(before[name], after[name]) for name in trained)
    other(data(2))  # its running statistics go the same way
    assert step(engine, 3) == step(other, 3)
    assert all(torch.equal(engine.weights()[name], other.weights()[name]) for name in trained), "Adam's count too"
    engine.close()
    other.close()


class Reads(TorchDispatchMode):
    """Counts values that go from a device to Python, each of which would make a GPU's host wait."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(function)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("stage, precision, most", [(0, "fp32", 0), (1, "bf16", 0), (2, "bf16", 0), (3, "bf16", 1)])
def test_a_step_asks_the_device_for_nothing(
    world: World, stage: int, precision: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value is read, and none is made on the host for the device; ZeRO-3 alone reads its norm, once a step."""
    engine = make(world, zero_stage=stage, precision=precision, accumulation=2)
    for number in range(4):  # DeepSpeed's timers wait from the third step on
        step(engine, number)
    waited: list[int] = []
    monkeypatch.setattr(type(engines.get_accelerator()), "synchronize", lambda *_: waited.append(1))
    make_tensor, made = torch.tensor, []
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: (made.append(a), make_tensor(*a, **k))[1])
    with Reads() as reads:
        for _ in range(2):
            engine.backward(engine(data(9).to(engine.dtype)).total)
            engine.step()
        norm = engine.gradient_norm_tensor()
    assert reads.count == most and not waited and (stage == 3 or not made)
    assert norm.shape == () and norm.dtype == torch.float32 and norm > 0
    monkeypatch.undo()
    engine.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_holds_its_own_step_although_training_went_on(
    world: World, tmp_path: Path, precision: str
) -> None:
    engine, go = make(world, precision=precision), threading.Event()
    step(engine, 0)
    expected = engine.weights()
    partial, final = tmp_path / ".partial", tmp_path / "step-1"
    written = {}

    def also(weights: dict[str, torch.Tensor]) -> None:
        assert go.wait(60), "the disk is slow"
        written.update({name: value.clone() for name, value in weights.items()})

    engine.save_later(tmp_path, ".partial", also, lambda: assert_moved(partial, final))
    losses = [step(engine, number) for number in (1, 2, 3)]
    assert engine.saving and not final.exists()
    go.set()
    engine.saved()
    assert written.keys() == expected.keys() and all(torch.equal(written[name], expected[name]) for name in expected)
    other = make(world, precision=precision)
    other.load(tmp_path, "step-1")
    assert all(torch.equal(expected[name], value) for name, value in other.weights().items())
    assert [step(other, number) for number in (1, 2, 3)] == losses
    engine.close()
    other.close()


def assert_moved(old: Path, new: Path) -> None:
    """Complete a checkpoint."""
    old.rename(new)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(world: World, tmp_path: Path) -> None:
    engine = make(world)
    step(engine, 0)
    engine.save(tmp_path, "whole")
    (tmp_path / "no-folder").write_text("in the way")
    step(engine, 1)

    def full(weights: dict[str, torch.Tensor]) -> None:
        raise OSError(28, "No space left on device")

    engine.save_later(tmp_path, ".partial", full, lambda: assert_moved(tmp_path / ".partial", tmp_path / "step-2"))
    step(engine, 2)
    with pytest.raises(FlickerError, match="No space left on device; the one before it is whole"):
        engine.saved()
    assert not (tmp_path / "step-2").exists() and not engine.save_failed
    engine.load(tmp_path, "whole")
    engine.close()


@pytest.mark.parametrize("old, new", [(0, 3), (3, 1)])
def test_groups_keep_their_own_decay_through_every_conversion(
    world: World, tmp_path: Path, old: int, new: int
) -> None:
    """The decay of 0.5 must not reach the vectors, and running statistics must survive, on another stage."""
    engine = make(world, zero_stage=old)
    for number in range(3):
        step(engine, number)
    engine.save(tmp_path, "step-3")
    other = make(world, zero_stage=new)
    (tmp_path / "step-3" / ".universal" / "universal" / "zero").mkdir(parents=True)  # left by a killed conversion
    other.load(tmp_path, "step-3")
    assert not (tmp_path / "step-3" / ".universal").exists()
    for number in range(3, 9):
        assert step(other, number) == pytest.approx(step(engine, number), rel=1e-5)
    for name, value in engine.weights().items():
        torch.testing.assert_close(other.weights()[name], value, atol=1e-5, rtol=1e-4)
    engine.close()
    other.close()


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_decay_is_the_config_s_not_the_checkpoint_s(world: World, tmp_path: Path, stage: int) -> None:
    engine, other = make(world, zero_stage=stage), make(world, zero_stage=stage, decay=0.1)
    step(engine, 0)
    engine.save(tmp_path, "step-1")
    other.load(tmp_path, "step-1")
    assert [group["weight_decay"] for group in other._optimiser.param_groups] == [0.1, 0.0]
    engine.close()
    other.close()


def test_a_damaged_checkpoint_is_told_in_one_line(world: World, tmp_path: Path) -> None:
    engine = make(world, zero_stage=1)
    step(engine, 0)
    engine.save(tmp_path, "step-1")
    for file in (tmp_path / "step-1").glob("*_optim_states.pt"):
        file.write_bytes(file.read_bytes()[:1000])
    for stage in (1, 3):  # as it is, and converted
        with pytest.raises(FlickerError) as raised:
            make(world, zero_stage=stage).load(tmp_path, "step-1")
        assert "step-1" in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "step-1" / conversion.UNIVERSAL).exists()


@pytest.mark.parametrize("path", JSON, ids=lambda path: path.stem)
def test_every_deepspeed_json_starts(world: World, path: Path) -> None:
    stage = 3 if "3" in path.stem else 2 if "2" in path.stem else 1
    engine = make(world, zero_stage=stage, deepspeed_config=str(path))
    assert step(engine, 0) > 0 and step(engine, 1) > 0
    engine.close()


REFUSED = {
    "clipping": ('{"gradient_clipping": 1}', "engine.clip"),
    "stage": ('{"zero_optimization": {"stage": 2}}', "engine.zero_stage"),
    "writer": ('{"checkpoint": {"writer": {"decoupled": true}}}', "checkpoint"),
    "unknown": ('{"zero_optimization": {"reduce_bucket": 2}}', "DeepSpeed refuses its settings"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_json_that_contradicts_is_refused(world: World, tmp_path: Path, case: str) -> None:
    text, told = REFUSED[case]
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(UsageError, match=told) as raised:
        make(world, deepspeed_config=str(tmp_path / "own.json"))
    assert "\n" not in str(raised.value)


def test_what_deepspeed_gets_wrong_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="zero_stage 1"):
        make(world, zero_stage=0, precision="bf16")
    module = Small()
    module.one = torch.compile(module.one)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="in place"):
        make(world, module)


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_gradients_are_summed_in_the_dtype_that_is_asked_for(world: World, wanted: Any) -> None:
    engine = make(world, precision="bf16", gradient_dtype=wanted)
    assert engine._engine.communication_data_type == {"fp32": torch.float32, "bf16": torch.bfloat16}[wanted]
    engine.close()


def test_a_group_of_one_is_trivial(world: World) -> None:
    host, group = HostGroup(world), RankGroup(world)
    assert host.max([2.0, -1.0]).result() == [2, -1] and host.gather([3.0]) == [[3]]
    x = torch.ones(2, requires_grad=True)
    assert group.sum(x) is x and not group.gather(x).requires_grad
