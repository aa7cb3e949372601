"""How well training should scale, by a model of its communication: `python -m launch.benchmarks.scaling`.

Nothing here is measured. The model and its assumptions are those of docs/scaling.md.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from launch.benchmarks import machine, table
from launch.cli import parse, run
from pretrain.architecture import ModelConfig
from pretrain.flops import pair_flops
from pretrain.objective import create_objective
from shards.errors import UsageError

GPUS = (8, 32, 128, 512, 1024)


@dataclass
class ScalingConfig:
    """Settings of launch.benchmarks.scaling."""

    json: str = ""
    """file for the figures"""
    preset: Literal["tiny", "small", "base", "large"] = "small"
    """size of the model; small is the paper's"""
    zero_stage: Literal[1, 2, 3] = 1
    """ZeRO stage"""
    peak_tflops: float = 790.0
    """of one GPU; 790: an H200's bf16 products"""
    mfu: float = 0.5
    """assumed share of it that a step without communication reaches"""
    batches: tuple[int, ...] = (64, 128, 256)
    """pairs per GPU"""
    global_batch: int = 2048
    """pairs per step where that is held fixed (the paper's)"""
    links: tuple[float, ...] = (50.0, 25.0, 12.5)
    """network per GPU, GB/s each way (400, 200 and 100 Gb/s)"""
    gradient_bytes: Literal[2, 4] = 2
    """per gradient: 2 for bf16, 4 for engine.gradient_dtype fp32"""
    hop_us: float = 5.0
    """latency of one message between hosts, µs"""
    unrest: float = 0.01
    """standard deviation of a GPU's own step time, share of it"""
    overlap: bool = True
    """gradients are summed while the backward pass goes on"""


@dataclass(frozen=True)
class Step:
    """One step of n GPUs, seconds."""

    compute: float
    traffic: float
    """all communication, were it not hidden"""
    exposed: float
    """what of it nothing hides"""
    unrest: float
    """the slowest GPU's delay over the mean one's"""

    @property
    def efficiency(self) -> float:
        """Throughput per GPU over that of one GPU alone."""
        return self.compute / (self.compute + self.exposed + self.unrest)


def step(config: ScalingConfig, parameters: int, flops: float, gpus: int, batch: float, link: float) -> Step:
    """The model: n GPUs, `batch` pairs each, `link` GB/s."""
    compute = batch * flops / (config.mfu * config.peak_tflops * 1e12)
    if gpus == 1:
        return Step(compute, 0.0, 0.0, 0.0)
    share, latency = (gpus - 1) / gpus, math.log2(gpus) * config.hop_us * 1e-6
    gradients = share * parameters * config.gradient_bytes / (link * 1e9) + latency  # reduce-scatter
    weights = share * parameters * 2 / (link * 1e9) + latency  # all-gather, bf16
    gathers = 2 if config.zero_stage == 3 else 1  # ZeRO-3 gathers weights for the forward and the backward pass
    hidden = min(gradients, compute * 2 / 3) if config.overlap else 0.0  # behind the backward pass
    unrest = config.unrest * compute * math.sqrt(2 * math.log(gpus))  # the expected largest of n normal delays, bound
    traffic = gradients + gathers * weights
    return Step(compute, traffic, traffic - hidden, unrest)


def traffic_bytes(config: ScalingConfig, parameters: int, gpus: int) -> float:
    """Sent by each GPU per step."""
    gathers = 2 if config.zero_stage == 3 else 1
    return (gpus - 1) / gpus * parameters * (config.gradient_bytes + gathers * 2)


def parameters_of(preset: str) -> int:
    """Trained parameters."""
    with torch.device("meta"):
        model = create_objective(ModelConfig(preset=preset))  # type: ignore[arg-type]
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def main(arguments: list[str]) -> None:
    """Compute and print the tables."""
    config = parse(ScalingConfig, arguments, command="python -m launch.benchmarks.scaling", description=__doc__ or "")
    if not 0 < config.mfu <= 1 or not config.batches or not config.links or min(*config.links, *config.batches) <= 0:
        raise UsageError("give --mfu in 0..1, and --links and --batches above 0")
    parameters, flops = parameters_of(config.preset), pair_flops(ModelConfig(preset=config.preset))
    sent = traffic_bytes(config, parameters, 32) / 1e6
    print(f"{config.preset}: {parameters / 1e6:.2f} M parameters, {flops / 1e9:.1f} GFLOP per pair")
    print(f"ZeRO-{config.zero_stage}, 32 GPUs: each sends {sent:.0f} MB per step")
    figures: dict[str, float] = {"parameters": float(parameters), "gflop_per_pair": flops / 1e9}
    head = ("GPUs", *(f"{link:g} GB/s" for link in config.links))
    for batch in config.batches:
        lines = []
        for gpus in GPUS:
            found = [step(config, parameters, flops, gpus, batch, link) for link in config.links]
            lines.append((gpus, *(_percent(item) for item in found)))
            figures |= {
                f"efficiency_b{batch}_n{gpus}_{link:g}": item.efficiency
                for item, link in zip(found, config.links, strict=True)
            }
        alone = step(config, parameters, flops, 1, batch, 1.0).compute
        title = f"{batch} pairs per GPU ({alone * 1e3:.0f} ms): efficiency, % (exposed communication, ms)"
        table.show(title, head, lines)
    lines = []
    for gpus in GPUS:
        found = [step(config, parameters, flops, gpus, config.global_batch / gpus, link) for link in config.links]
        lines.append((f"{gpus} x {config.global_batch / gpus:g}", *(_percent(item) for item in found)))
    table.show(f"{config.global_batch} pairs over all GPUs, GPUs x pairs", ("", *head[1:]), lines)
    if config.json:
        table.save(config.json, figures, machine.describe(), asdict(config))


def _percent(item: Step) -> str:
    return f"{100 * item.efficiency:.1f} ({item.exposed * 1e3:.1f})"


if __name__ == "__main__":
    run(main)
