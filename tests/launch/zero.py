"""Trains the smallest model in several ways on so many ranks, all in one start: `python -m tests.launch.zero JOB`.

JOB is a JSON file: {"ranks": 2, "out": DIR, "cases": [{"name": ..., "zero_stage": ..., ...}, ...]}. Each case writes
DIR/NAME.json (losses and gradient norms over all ranks, and what its checks found) and DIR/NAME.safetensors (final
weights). The ranks are forked, so that torch and DeepSpeed are imported once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pretrain import engine as engines
from pretrain.architecture import ModelConfig
from pretrain.engine import Engine, EngineConfig
from pretrain.objective import Objective, Views, create_objective
from pretrain.ranks import HostGroup, RankGroup, World
from pretrain.swap import SwapConfig
from shards.files import write_json
from tests.sizes import SIZES

GLOBAL_BATCH = 8


@dataclass(frozen=True)
class Case:
    """One training."""

    name: str
    zero_stage: int = 1
    precision: str = "fp32"
    accumulation: int = 1
    compile: str = ""  # "" or a torch.compile backend, for each block
    gradient_dtype: str = "auto"
    deepspeed_config: str = ""
    steps: int = 50
    first: int = 0  # step that `load` was saved after
    load: str = ""  # folder of a checkpoint to continue from
    save: str = ""  # folder to save to, after the last step, or after step `save_at` while training goes on
    save_at: int = 0
    scattered: bool = False  # ZeRO-3: every weight is in pieces, however small


def train(case: Case, world: World, out: Path) -> None:
    """Run one case and write its results."""
    torch.manual_seed(0)
    model = create_objective(ModelConfig(**SIZES))  # type: ignore[arg-type]
    if case.compile:
        for block in [*model.encoder.blocks, *model.decoder.blocks]:  # type: ignore[union-attr, misc]
            block.compile(backend=case.compile)
    engine = _engine(case, model, world, out)
    if case.load:
        engine.load(Path(case.load).parent, Path(case.load).name)
    losses, norms = [], []
    for step in range(case.first, case.steps):
        losses.append(_step(engine, model, step, case.accumulation))
        norms.append(engine.gradient_norm())
        if case.save and step + 1 == (case.save_at or case.steps):
            _save(engine, Path(case.save))
    engine.saved()
    weights = engine.weights()
    found = _whole_agrees(engine, weights)
    if world.rank == 0:
        save_file({k: v.contiguous() for k, v in weights.items()}, out / f"{case.name}.safetensors")
        write_json(out / f"{case.name}.json", {"first": case.first, "losses": losses, "norms": norms, "whole": found})
    engine.close()


def _engine(case: Case, model: Objective, world: World, out: Path) -> Engine:
    config = EngineConfig(
        zero_stage=case.zero_stage,  # type: ignore[arg-type]
        precision=case.precision,  # type: ignore[arg-type]
        accumulation=case.accumulation,
        gradient_dtype=case.gradient_dtype,  # type: ignore[arg-type]
        deepspeed_config=case.deepspeed_config or _scattered(case, out),
    )
    groups = [{"params": [], "weight_decay": 0.05}, {"params": [], "weight_decay": 0.0}]
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim < 2]["params"].append(parameter)  # type: ignore[attr-defined]
    optimiser = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    return Engine(model, optimiser, config, world, GLOBAL_BATCH // world.size // case.accumulation)


def _scattered(case: Case, out: Path) -> str:
    """A DeepSpeed JSON without ZeRO-3's exception for small weights."""
    if not case.scattered:
        return ""
    path = out / "scattered.json"
    write_json(path, {"zero_optimization": {"stage3_param_persistence_threshold": 0}})
    return str(path)


def _step(engine: Engine, model: Objective, step: int, accumulation: int) -> float:
    """One optimiser step on this rank's share of the step's batch; the loss over all ranks."""
    frames = torch.randint(0, 256, (GLOBAL_BATCH, 2, 32, 32, 3), generator=torch.Generator().manual_seed(step))
    rows = GLOBAL_BATCH // engine.world.size // accumulation
    losses = []
    for part in range(accumulation):
        begin = (part * engine.world.size + engine.world.rank) * rows
        chosen = slice(begin, begin + rows)
        views = Views(SwapConfig(min_block=2))
        batch = model.views(frames[chosen].to(torch.uint8), torch.arange(GLOBAL_BATCH)[chosen] + step, views)
        total = engine(batch.to(engine.dtype)).total
        losses.append(total.detach().float())
        engine.backward(total)
        engine.step()
    return float(engine.reduce(torch.stack(losses).mean().reshape(1), "mean"))


def _save(engine: Engine, folder: Path) -> None:
    """Save while training goes on, as `pretrain.checkpoint` does."""
    partial = folder.with_name("." + folder.name)

    def complete() -> None:
        partial.rename(folder)

    engine.save_later(folder.parent, partial.name, complete=complete if engine.world.rank == 0 else None)


def _whole_agrees(engine: Engine, weights: dict[str, torch.Tensor]) -> bool:
    """Whether `whole_weights` has `weights`, and rank 0 can run it alone."""
    with engine.whole_weights() as module:
        own = dict(module.state_dict())
        same = own.keys() == weights.keys()
        same = same and all(torch.equal(own[k], weights[k].to(own[k].dtype)) for k in weights)
        if engine.world.rank == 0:
            with torch.no_grad():
                frames = torch.zeros(1, 3, 32, 32, dtype=engine.dtype)
                same = same and bool(module.encoder(frames).isfinite().all())  # type: ignore[operator]
    return same


def _groups(world: World) -> dict[str, Any]:
    """What the ranks' groups answer; the gradient of a sum against one process that has every rank's numbers."""
    group, host = RankGroup(world), HostGroup(world)
    inputs = torch.arange(1.0, 3 * world.size + 1, dtype=torch.float64).reshape(world.size, 3).sin()  # [R 3]
    weights = torch.linspace(-1, 2, world.size, dtype=torch.float64)  # [R]
    own = inputs[world.rank].clone().requires_grad_()
    (weights[world.rank] * group.sum(own * own).tanh().sum() + own.sum()).backward()
    every = inputs.clone().requires_grad_()
    (weights.sum() * (every * every).sum(0).tanh().sum() + every.sum()).backward()
    assert own.grad is not None and every.grad is not None
    gathered = group.gather(own)
    pending = host.max([float(world.rank), -float(world.rank)])
    return {
        "gradient": float((own.grad - every.grad[world.rank]).abs().max()),
        "gathered": bool(torch.equal(gathered.reshape(world.size, 3), inputs)) and not gathered.requires_grad,
        "max": pending.result(),
        "every": host.gather([world.rank + 0.5]),
    }


def _rank(rank: int, job: dict[str, Any]) -> int:
    """One rank's process: all cases, one after the other."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"], "MASTER_PORT": job["port"]}
    os.environ |= {name: str(value) for name, value in own.items()}
    world = engines.start()
    found = _groups(world)
    if rank == 0:
        write_json(Path(job["out"]) / f"groups-{world.size}.json", found)
    for values in job["cases"]:
        train(Case(**values), world, Path(job["out"]))
    engines.stop()
    return 0


def main(path: str) -> int:
    """Fork the ranks and wait for them; the exit code says whether all went well."""
    job = json.loads(Path(path).read_text())
    job["port"] = engines._free_port()
    children = set()
    for rank in range(job["ranks"]):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _rank(rank, job)
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        children.add(child)
    failed = 0
    while children:
        child, status = os.wait()
        children.discard(child)
        if status and not failed:
            failed = 1
            for other in children:
                os.kill(other, signal.SIGKILL)
    return failed


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main(sys.argv[1]))
