"""launch/bench.py step: a training step, fed by the real reader, against a direct reading of the paper."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from launch.benchmarks import crops, formats, machine, step_memory, stepping, table
from launch.benchmarks.reader import folder_for
from launch.benchmarks.stepping import Setting, Spent, Stepper
from launch.cli import parse
from pretrain.architecture import ModelConfig, resolve
from pretrain.device import Feed
from pretrain.flops import pair_flops, peak_flops, skipped_flops
from shards import PairReader, read_manifest
from shards.errors import UsageError

OURS, DIRECT, SAME, SINGLE = "ours", "direct", "direct_same", "ours_fp32"
PHASES = ("data", "views", "forward", "backward", "optimiser")


@dataclass
class StepConfig:
    """Settings of launch/bench.py step."""

    json: str = ""
    """file for the figures"""
    preset: Literal["tiny", "small", "base", "large"] = "small"
    """size of the model; small is the paper's"""
    device: str = "auto"
    """auto, cuda or cpu"""
    batch: int = 0
    """pairs per step (0: 4 on a CPU, 64 on a GPU)"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of our weights and activations; auto: bf16 on a GPU and on CPUs whose bf16 products are faster (measured)"""
    direct_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of the direct reading; auto: bf16 on a GPU, fp32 (PyTorch's default) on a CPU; ours is measured too"""
    threads: int = 0
    """on a CPU, for both (0: PyTorch's default)"""
    compile: Literal["auto", "blocks", "whole", "off"] = "auto"
    """torch.compile of ours"""
    attention: Literal["auto", "cudnn", "flash", "efficient", "math"] = "auto"
    """attention kernel of ours; auto: the fastest"""
    checkpointing: bool = False
    """recompute ours block by block"""
    repeats: int = 5
    """times that all rows are measured, in turn"""
    steps: int = 0
    """steps per row and repeat (0: 1 on a CPU, 10 on a GPU)"""
    fed: int = 0
    """steps fed by the reader (0: 4 on a CPU, 60 on a GPU)"""
    workers: int = -1
    """reader processes (-1: none on a CPU, 12 at most on a GPU)"""
    quick: bool = False
    """the tiny model, once: whether it works, not how fast"""


def main(arguments: list[str]) -> None:
    """Measure, print the tables, write the figures."""
    config = parse(StepConfig, arguments, command="launch/bench.py step", description=__doc__ or "")
    config = settle(config)
    about = machine.describe()
    steppers = {name: Stepper(setting) for name, setting in rows(config).items()}
    fed, spent = run(config, steppers)
    memory = {name: _memory(config, stepper) for name, stepper in steppers.items()}
    figures = figures_of(config, steppers, fed, spent, memory)
    about["load_after"] = machine.describe()["load"]
    show(config, steppers, figures, spent, memory)
    if config.json:
        table.save(config.json, figures, about, asdict(config))


def settle(config: StepConfig) -> StepConfig:
    """The settings with nothing left open. Raises UsageError."""
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no GPU here; give cpu or auto")
    if min(config.batch, config.threads, config.steps, config.fed, config.repeats - 1) < 0:
        raise UsageError("give no negative --batch, --threads, --steps, --fed, and --repeats of at least 1")
    if config.threads:
        torch.set_num_threads(config.threads)
    on_gpu = device == "cuda"
    if config.quick:
        config = replace(config, preset="tiny", batch=config.batch or 4, repeats=1, steps=1, fed=2)
    precision, direct = config.precision, config.direct_precision
    if precision == "auto":
        precision = "bf16" if stepping.native_bf16(torch.device(device)) else "fp32"
    if direct == "auto":
        direct = "bf16" if on_gpu else "fp32"
    workers = config.workers if config.workers >= 0 else min((os.cpu_count() or 2) - 2, 12) if on_gpu else 0
    return replace(
        config,
        device=device,
        precision=precision,
        direct_precision=direct,
        workers=workers,
        batch=config.batch or (64 if on_gpu else 4),
        threads=torch.get_num_threads(),
        steps=config.steps or (10 if on_gpu else 1),
        fed=config.fed or (60 if on_gpu else 4),
    )


def rows(config: StepConfig) -> dict[str, Setting]:
    """What is compared: ours and the direct reading; where their precisions differ, each in the other's too."""
    ours = Setting(
        resolve(ModelConfig(preset=config.preset)),
        config.batch,
        config.device,
        config.precision,  # type: ignore[arg-type]
        compile=config.compile,
        attention=config.attention,
        checkpointing=config.checkpointing,
    )
    precision: Any = config.direct_precision
    direct = replace(ours, direct=True, compile="off", checkpointing=False, precision=precision)
    found = {OURS: ours, DIRECT: direct}
    if config.precision != config.direct_precision:
        found[SAME] = replace(direct, precision=ours.precision)
        found[SINGLE] = replace(ours, precision=direct.precision)
    return found


def run(config: StepConfig, steppers: dict[str, Stepper]) -> tuple[dict[str, float], dict[str, list[Spent]]]:
    """Steps fed by the reader, then all rows on the pairs of one batch."""
    with folder_for("") as folder:
        feed = open_feed(config, folder)
        try:
            fed = stepping.train(steppers[OURS], feed, config.fed)
            pairs = feed.take().pairs
        finally:
            feed.close()
            feed.reader.close()
        spent = stepping.compare(steppers, pairs.frames, pairs.seeds, config.repeats, config.steps)
    return fed, spent


class OpenFeed(Feed):
    """A feed that knows its reader."""

    def __init__(self, reader: PairReader, device: torch.device):
        super().__init__(reader, device)
        self.reader = reader


def open_feed(config: StepConfig, folder: Path) -> OpenFeed:
    """Pairs of synthetic faces, written to `folder` first; they are read from the page cache."""
    size = resolve(ModelConfig(preset=config.preset)).image_size
    sources = max(8, config.batch * 4 // 40 + 1)
    material = crops.make(folder, crops.draw_lengths(sources, 40, 50, 60), size, [])
    shards = formats.shards(material, size, min(os.cpu_count() or 1, 8))
    on_gpu = config.device == "cuda"
    reader = PairReader(
        read_manifest(shards), seed=0, global_batch=config.batch, workers=config.workers, pin=on_gpu, image_size=size
    )
    return OpenFeed(reader, torch.device(config.device))


def _memory(config: StepConfig, stepper: Stepper) -> float:
    """Peak MB of a step above what was there before; on a CPU in a process of its own."""
    if stepper.device.type == "cuda":
        return step_memory.of_step(stepper, *step_memory.random_pairs(stepper.setting))
    return step_memory.of_step_apart(replace(stepper.setting, attention=_named(stepper)), config.threads)


def _named(stepper: Stepper) -> str:
    """The kernel that was chosen, so that it is not chosen again."""
    return stepper.setting.attention if stepper.setting.direct else stepper.attention.name


def figures_of(
    config: StepConfig,
    steppers: dict[str, Stepper],
    fed: dict[str, float],
    spent: dict[str, list[Spent]],
    memory: dict[str, float],
) -> dict[str, float]:
    """The numbers of the JSON file."""
    flops = pair_flops(steppers[OURS].setting.model)
    peak, _ = peak_flops(steppers[OURS].device, steppers[OURS].dtype)
    alone = config.batch / median(item.wall for item in spent[OURS])
    computed = 1 - skipped_flops(steppers[OURS].setting.model) / flops
    figures = {
        **fed,
        "mfu": fed["pairs_per_s"] * flops / peak,
        "mfu_computed": fed["pairs_per_s"] * flops / peak * computed,
        "tflops": fed["pairs_per_s"] * flops / 1e12,
        "peak_tflops": peak / 1e12,
        "gflop_per_pair": flops / 1e9,
        "pairs_per_s_without_reader": alone,
        "memory_mb": memory[OURS],
        "memory_mb_per_pair": memory[OURS] / config.batch,
    }
    pairs = {"": (OURS, DIRECT), "_same_precision": (OURS, SAME), f"_{config.direct_precision}": (SINGLE, DIRECT)}
    if SAME not in spent:
        pairs["_same_precision"] = (OURS, DIRECT)
    for name, (ours, theirs) in pairs.items():
        if ours in spent and theirs in spent:
            figures[f"vs_direct_reading{name}"] = ratio(spent[ours], spent[theirs], config.device)
            figures[f"memory_vs_direct_reading{name}"] = memory[ours] / memory[theirs]
    return figures


def ratio(ours: list[Spent], theirs: list[Spent], device: str) -> float:
    """How many times faster ours is: CPU time on a CPU, which others on the machine disturb least; wall time else."""
    what = "cpu" if device == "cpu" else "wall"
    return table.ratio([getattr(item, what) for item in ours], [getattr(item, what) for item in theirs])


def show(
    config: StepConfig,
    steppers: dict[str, Stepper],
    figures: dict[str, float],
    spent: dict[str, list[Spent]],
    memory: dict[str, float],
) -> None:
    """The tables."""
    lines: list[tuple[Any, ...]] = []
    for name, stepper in steppers.items():
        what = "direct reading" if stepper.setting.direct else "Flicker"
        cpu = [item.cpu / config.batch for item in spent[name]]
        wall = [item.wall / config.batch for item in spent[name]]
        first = f"{what}, {stepper.setting.precision}"
        lines.append((first, table.spread(cpu), table.spread(wall), memory[name] / config.batch))
    ours = steppers[OURS]
    place = f"{config.threads} threads" if config.device == "cpu" else torch.cuda.get_device_name()
    table.show(
        f"{config.preset}, batch {config.batch}, {place}; attention {ours.attention}, compile {ours.compiled}",
        ("", "CPU s/pair", "s/pair", "MB/pair"),
        lines,
    )
    table.show("Where a step's time goes", ("", "ms"), [(name, figures[f"{name}_ms"]) for name in PHASES])
    known = [name for name in figures if not name.endswith("_ms")]
    table.show("Figures", ("", ""), [(name, figures[name]) for name in known])
