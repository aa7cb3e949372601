"""Training steps to measure: ours and the direct reading's, on the same weights and pairs."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from launch.benchmarks import direct
from pretrain.architecture import ModelConfig
from pretrain.attention import Choice, choose, step_shapes, using
from pretrain.blocks import checkpoint_blocks
from pretrain.compilation import Mode, Tuning, compile_objective
from pretrain.device import Feed
from pretrain.meters import Clock, DeviceClock, HostClock, Phases
from pretrain.objective import Objective, Views, create_objective

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NATIVE = 1.3
"""bfloat16 products are native where they are so many times faster than float32's."""


@dataclass(frozen=True)
class Setting:
    """One way to take a step."""

    model: ModelConfig
    batch: int
    device: str
    precision: Literal["fp32", "bf16"]
    direct: bool = False
    """the direct reading of the paper"""
    compile: Mode = "auto"
    tuning: Tuning = "default"
    attention: str = "auto"
    checkpointing: bool = False


class Stepper:
    """A model, its optimiser and one training step, phase by phase."""

    def __init__(self, setting: Setting):
        self.setting, self.device, self.dtype = setting, torch.device(setting.device), DTYPES[setting.precision]
        torch.manual_seed(0)
        model: Any = create_objective(setting.model).to(self.device)
        self.model = model
        self.optimiser = Masters(model, self.dtype)
        self.attention, self.compiled = Choice("explicit maps", setting.device), "off"
        if not setting.direct:
            checkpoint_blocks(model, setting.checkpointing)
            self.compiled = compile_objective(model, setting.compile, self.device, tuning=setting.tuning)
            shapes = step_shapes(setting.model, setting.batch)
            self.attention = choose(self.device, shapes, self.dtype, setting.attention)
        teacher = model.make_teacher(self.device)
        self._teacher = teacher

    def views(self, frames: Tensor, seeds: Tensor) -> Any:
        """The batch of a step from uint8 pairs on the device."""
        if self.setting.direct:
            return direct.views(self.model, frames, seeds, Views()).to(self.dtype)
        batch = self.model.views(frames, seeds, Views())
        if self._teacher is not None:
            self._teacher.prepare(batch)
        return batch.to(self.dtype)

    def gradients(self, frames: Tensor, seeds: Tensor, phases: Phases | None = None) -> Tensor:
        """Views, forward and backward pass; returns the loss, []. Marks the phases of these names."""
        begin = phases.begin if phases else _nothing
        begin("views")
        batch = self.views(frames, seeds)
        with nullcontext() if self.setting.direct else using(self.attention):
            begin("forward")
            loss = direct.loss(self.model, batch) if self.setting.direct else self.model(batch).total
            begin("backward")
            loss.backward()
        return loss.detach()

    def step(self, frames: Tensor, seeds: Tensor, phases: Phases | None = None) -> Tensor:
        """A whole step; returns the loss, []. Marks the phases views, forward, backward and optimiser."""
        loss = self.gradients(frames, seeds, phases)
        if phases:
            phases.begin("optimiser")
        self.optimiser.step()
        return loss


class Masters:
    """Fused AdamW with clipping, on float32 copies of the weights where the model's are narrower."""

    def __init__(self, model: Objective, dtype: torch.dtype):
        trained: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.masters = trained
        if dtype != torch.float32:
            self.masters = [p.detach().clone().requires_grad_() for p in trained]
            model.to(dtype)
        self.weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.adamw = torch.optim.AdamW(self.masters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)

    def step(self) -> None:
        """Update the weights and drop their gradients."""
        apart = self.masters[0] is not self.weights[0]
        if apart:
            for master, weight in zip(self.masters, self.weights, strict=True):
                master.grad = None if weight.grad is None else weight.grad.float()
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0, foreach=True)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        if apart:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.masters)


def clock(device: torch.device) -> Clock:
    """The device's own time."""
    return DeviceClock() if device.type == "cuda" else HostClock()


def wait(device: torch.device) -> None:
    """Wait for the device's queue, where it has one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train(stepper: Stepper, feed: Feed, steps: int) -> dict[str, float]:
    """Train on what the reader gives, as the loop does: one batch is read while the step before it runs.

    Returns:
        pairs_per_s; data_wait, the share of time spent waiting for pairs; `<phase>_ms` per step.
    """
    phases = Phases(clock(stepper.device))
    for _ in range(2):
        _take(stepper, feed, None)
    wait(stepper.device)
    started, waited = time.perf_counter(), 0.0
    for _ in range(steps):
        waited += _take(stepper, feed, phases)
    wait(stepper.device)
    elapsed = time.perf_counter() - started
    spent: dict[str, float] = defaultdict(float)
    for step in phases.read():
        for name, seconds in step.items():
            spent[name] += seconds / steps * 1e3
    found = {"pairs_per_s": steps * stepper.setting.batch / elapsed, "data_wait": waited / elapsed}
    return found | {f"{name}_ms": spent[name] for name in ("data", "views", "forward", "backward", "optimiser")}


def _take(stepper: Stepper, feed: Feed, phases: Phases | None) -> float:
    """One step from the reader; returns the seconds waited for it."""
    if phases:
        phases.begin("data")
    fed = feed.take()
    stepper.step(fed.pairs.frames, fed.pairs.seeds, phases)
    if phases:
        phases.begin("data")
    feed.read_ahead()
    if phases:
        phases.end_step()
    return fed.waited


@dataclass(frozen=True)
class Spent:
    """Per step."""

    wall: float
    """seconds"""
    cpu: float
    """seconds of all threads"""


def compare(steppers: dict[str, Stepper], frames: Tensor, seeds: Tensor, repeats: int, steps: int) -> dict:
    """Every stepper takes `steps` steps on the same pairs, in turn, `repeats` times: name -> list of Spent."""
    for stepper in steppers.values():
        stepper.step(frames, seeds)
        wait(stepper.device)
    spent: dict[str, list[Spent]] = {name: [] for name in steppers}
    for _ in range(repeats):
        for name, stepper in steppers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(steps):
                stepper.step(frames, seeds)
            wait(stepper.device)
            spent[name].append(Spent((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps))
    return spent


def native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are much faster than float32's: on every GPU of use here, on some CPUs (measured)."""
    if device.type == "cuda":
        return True
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(768, 768, dtype=dtype)
        runs = []
        for _ in range(6):
            started = time.perf_counter()
            a @ a
            runs.append(time.perf_counter() - started)
        times[dtype] = min(runs)
    return times[torch.float32] > NATIVE * times[torch.bfloat16]


def _nothing(name: str) -> None:
    """In place of a mark."""
