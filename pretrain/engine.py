"""The only file that knows DeepSpeed: process group, ZeRO, precision, checkpoints and their conversion."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn

from shards.errors import FlickerError, UsageError
from shards.files import read_json, write_text


@dataclass(frozen=True)
class EngineConfig:
    """How DeepSpeed runs the training."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage: 1 shards the optimiser's state over ranks, 2 the gradients too, 3 the weights as well."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 (with float32 master weights) on a GPU, fp32 on a CPU."""
    accumulation: int = 1
    """Micro-batches per optimiser step."""
    clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    gradient_dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """What gradients are summed over ranks in; auto: DeepSpeed's choice, the precision of the weights."""
    attention: Literal["auto", "cudnn", "flash", "efficient", "math"] = "auto"
    """Which kernel computes attention; auto: the fastest that the device has."""
    compile: Literal["auto", "blocks", "whole", "off"] = "auto"
    """torch.compile of each block or of the whole model; auto: blocks on a GPU, off on a CPU."""
    activation_checkpointing: bool = False
    """Recompute each block's activations in the backward pass: less memory, about a third more work."""
    deepspeed_config: str = ""
    """A DeepSpeed JSON file merged under the settings above, e.g. launch/deepspeed/zero2.json."""


@dataclass(frozen=True)
class World:
    """This process among all: its rank, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device


def start() -> World:
    """Join the process group: one process without a launcher, or as `deepspeed`, torchrun or srun started it.

    NCCL on GPUs, gloo on CPUs. Raises FlickerError if the group cannot be formed.
    """
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    accelerator = get_accelerator()
    on_cpu = accelerator.device_name() == "cpu"
    if on_cpu:  # its shared-memory collectives would be compiled with a C++ compiler at first use; gloo does without
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        torch.set_num_threads(_threads_per_rank())
    try:
        deepspeed.init_distributed(dist_backend="gloo" if on_cpu else accelerator.communication_backend_name())
    except (RuntimeError, ValueError, dist.DistError) as error:
        raise FlickerError(f"cannot form the process group: {str(error).splitlines()[0]}") from None
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cpu") if on_cpu else torch.device(accelerator.device_name(local))
    if not on_cpu:
        accelerator.set_device(local)
    return World(dist.get_rank(), dist.get_world_size(), device)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for every rank."""
    dist.barrier()


def _free_port() -> int:
    """A TCP port nobody listens on now, for a group of one process."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _threads_per_rank() -> int:
    """Threads for this rank: OMP_NUM_THREADS where set, else its share of the machine's cores.

    Rounding, and so the losses' last bits, depend on it.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return int(os.environ["OMP_NUM_THREADS"])
    counts = (
        os.environ.get(name) for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE")
    )  # torchrun, DeepSpeed
    local_ranks = next(int(count) for count in counts if count)
    return max(len(os.sched_getaffinity(0)) // max(local_ranks, 1), 1)


class Engine:
    """A model, its AdamW and its share of the data-parallel world."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        config: EngineConfig,
        world: World,
        micro_batch: int,
        universal: bool = False,
    ):
        self.world, self.config = world, config
        self.precision = config.precision
        if self.precision == "auto":
            self.precision = "fp32" if world.device.type == "cpu" else "bf16"
        if config.zero_stage == 0 and self.precision == "bf16":
            raise UsageError("engine.zero_stage 0 with bf16 takes a wrong first step in DeepSpeed; use zero_stage 1")
        settings = self._settings(micro_batch, universal)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimiser, config=settings)

    def _settings(self, micro_batch: int, universal: bool) -> dict[str, Any]:
        """The DeepSpeed configuration: the user's JSON under what the typed config states."""
        base = _read_deepspeed_json(self.config.deepspeed_config) if self.config.deepspeed_config else {}
        zero = {**base.get("zero_optimization", {}), "stage": self.config.zero_stage}
        return {
            **base,
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": self.config.accumulation,
            "gradient_clipping": self.config.clip,
            "zero_optimization": zero,
            "bf16": {"enabled": self.precision == "bf16"},
            "checkpoint": {**base.get("checkpoint", {}), "load_universal": universal},
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }

    @property
    def module(self) -> nn.Module:
        """The wrapped model."""
        return self._engine.module

    @property
    def dtype(self) -> torch.dtype:
        """What the model's weights and inputs are held in."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def __call__(self, *inputs: Any) -> Any:
        """The model's forward pass."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of one micro-batch (DeepSpeed divides by the number of micro-batches)."""
        self._engine.backward(loss)

    def step(self) -> None:
        """After each micro-batch; the optimiser moves after the last of an accumulation."""
        self._engine.step()

    def set_learning_rate(self, rate: float) -> None:
        """For every parameter group."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    def gradient_norm(self) -> float:
        """Global norm before clipping of the last step."""
        norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def reduce(self, values: Tensor, operation: Literal["max", "mean"]) -> Tensor:
        """Combine a small float32 tensor over all ranks, in place; every rank gets the result."""
        if self.world.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX if operation == "max" else dist.ReduceOp.SUM)
            if operation == "mean":
                values /= self.world.size
        return values

    def weights(self) -> dict[str, Tensor]:
        """All weights in float32, from the master copies where there are any. Collective: every rank calls it."""
        state = {}
        parameters = dict(self.module.named_parameters())
        for name, value in self.module.state_dict().items():
            parameter = parameters.get(name)
            if parameter is not None and parameter.requires_grad:
                master = safe_get_full_fp32_param(parameter)
                value = value if master is None else master
            state[name] = value.detach().float().cpu().clone()
        return state

    def save(self, root: Path, tag: str) -> None:
        """Write DeepSpeed's own files to root/tag. Collective."""
        self._engine.save_checkpoint(str(root), tag=tag, save_latest=False)

    def load(self, root: Path, tag: str) -> None:
        """Load weights and optimiser state from root/tag. Collective. Raises FlickerError if DeepSpeed refuses."""
        try:
            path, _ = self._engine.load_checkpoint(str(root), tag=tag)
        except (RuntimeError, KeyError, ValueError, AssertionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise FlickerError(f"DeepSpeed cannot load {root / tag}: {reason}") from None
        if path is None:
            raise FlickerError(f"DeepSpeed finds no checkpoint in {root / tag}")


def _read_deepspeed_json(path: str) -> dict[str, Any]:
    """A user's DeepSpeed JSON. Raises UsageError if it sets what the typed config sets."""
    settings = read_json(Path(path), "DeepSpeed config")
    owned = {
        "train_batch_size": "data.global_batch",
        "train_micro_batch_size_per_gpu": "data.global_batch",
        "gradient_accumulation_steps": "engine.accumulation",
        "gradient_clipping": "engine.clip",
        "optimizer": "optim.*",
        "scheduler": "optim.*",
        "bf16": "engine.precision",
        "fp16": "engine.precision",
    }
    for key, ours in owned.items():
        if key in settings:
            raise UsageError(f"{path} sets '{key}'; remove it there and set {ours} instead")
    return dict(settings)


def to_universal(root: Path, tag: str) -> str:
    """Convert root/tag so that any number of ranks can load it; returns the new tag. Done once, by one rank.

    Uses DeepSpeed's own converter. Raises FlickerError with its last line if it fails.
    """
    new = f"{tag}-universal"
    if not (root / new).is_dir():
        partial = root / f".{new}"
        shutil.rmtree(partial, ignore_errors=True)
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
        command += ["--input_folder", str(root / tag), "--output_folder", str(partial)]
        command += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise FlickerError(f"cannot convert {root / tag} for another number of ranks: {last}")
        partial.rename(root / new)
    write_text(root / "latest_universal", new)
    return new


def describe() -> dict[str, str]:
    """Versions, for checkpoints and reports."""
    return {"torch": torch.__version__, "deepspeed": deepspeed.__version__, "python": sys.version.split()[0]}
