"""The only file that knows DeepSpeed and torch.distributed: ranks, ZeRO, precision, clipping, checkpoints."""

from __future__ import annotations

import copy
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pretrain import conversion
from pretrain.conversion import Form
from pretrain.ranks import HostGroup, World, agreement, forget_side_groups, limit_waiting, side_group
from pretrain.saving import HostMemory, Writer, write_files
from shards.errors import FlickerError, UsageError
from shards.files import atomic_path, read_json

FIXED = "fixed.safetensors"
"""In a checkpoint: what no optimiser moves (fixed position tables, running statistics), exact."""
BUCKET = 8_000_000
"""Gradients reduced in one message, elements: 16 MB in bf16; even a small model's overlap the backward pass."""
WRITING = 4 * 3600.0
"""Seconds that a rank which has written its part of a checkpoint waits for the slowest disk."""


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
    """What gradients are summed over ranks in; auto: the precision. fp32 with bf16 weights doubles the traffic."""
    attention: Literal["auto", "cudnn", "flash", "efficient", "math"] = "auto"
    """Which kernel computes attention; auto: the fastest that the device has."""
    compile: Literal["auto", "blocks", "whole", "off"] = "auto"
    """torch.compile of each block or of the whole model; auto: blocks on a GPU, off on a CPU and with ZeRO-3."""
    activation_checkpointing: bool = False
    """Recompute each block's activations in the backward pass: less memory, about a third more work."""
    timeout: float = 600.0
    """Seconds without an answer after which a rank gives the others up, e.g. when a host has lost its power."""
    deepspeed_config: str = ""
    """A DeepSpeed JSON file merged under the settings above, e.g. launch/deepspeed/zero2.json."""


def start() -> World:
    """Join the process group: one process without a launcher, or as `deepspeed`, torchrun or srun started it.

    NCCL on GPUs, gloo on CPUs. Raises FlickerError if the group cannot be formed in ten minutes (DEEPSPEED_TIMEOUT).
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
    forget_side_groups()
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
    ):
        """Collective.

        Args:
            model: float32; compiled, if at all, in place (`nn.Module.compile`), so that names stay.
            optimiser: AdamW(fused=True) over the model's trained parameters.
            micro_batch: samples per rank and micro-batch.

        Raises UsageError for settings that DeepSpeed gets wrong or that contradict each other.
        """
        self.world, self.config = world, config
        self.precision = config.precision
        if self.precision == "auto":
            self.precision = "fp32" if world.device.type == "cpu" else "bf16"
        if config.zero_stage == 0 and self.precision == "bf16":
            raise UsageError("engine.zero_stage 0 with bf16 takes a wrong first step in DeepSpeed; use zero_stage 1")
        if not optimiser.defaults.get("fused"):
            raise ValueError("the optimiser must be fused: its kernel takes the clipping factor")
        names = {id(value): name for name, value in model.named_parameters()}
        if any("_orig_mod" in name for name in names.values()):
            raise ValueError("compile modules in place (module.compile()), or checkpoints get other names")
        groups = [group for group in optimiser.param_groups if group["params"]]  # DeepSpeed drops empty ones
        self._names = tuple(tuple(names[id(p)] for p in group["params"]) for group in groups)
        self._group_settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        self._fixed = {k: v.detach().clone().cpu() for k, v in model.named_parameters() if not v.requires_grad}
        self._plain = _bare_copy(model, self.dtype) if config.zero_stage == 3 else None
        if config.zero_stage == 3:
            model.register_forward_hook(self._hand_over_tensors)
        self._optimiser, self._norm = optimiser, torch.zeros(())
        self._engine = _initialise(model, optimiser, self._settings(micro_batch))
        limit_waiting(config.timeout)
        optimiser.register_step_pre_hook(self._clip)
        self.host = HostGroup(world, config.timeout)
        self._memory = HostMemory()
        self._files = _HostCopies(self._memory)
        self._engine.checkpoint_engine = self._files
        self._writer = Writer(agreement(side_group("writers", world.size, WRITING)))

    def _settings(self, micro_batch: int) -> dict[str, Any]:
        """The DeepSpeed configuration: the user's JSON under what the typed config states.

        DeepSpeed's own norm, clipping and checks for overflow read from the device at every step, and its throughput
        timer waits for it; `_sum_squares` and `_clip` do without.
        """
        base = _read_deepspeed_json(self.config.deepspeed_config) if self.config.deepspeed_config else {}
        zero = {"reduce_bucket_size": BUCKET, **base.get("zero_optimization", {}), "stage": self.config.zero_stage}
        if self.config.zero_stage in (1, 2):
            zero["compute_grad_norm"] = False
        settings = {
            **base,
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": self.config.accumulation,
            "gradient_clipping": 0.0,
            "zero_optimization": zero,
            "bf16": {"enabled": self.precision == "bf16", "check_grad_overflow": False},
            "checkpoint": {"tag_validation": "Ignore"},
            "timers": {"throughput": {"enabled": False}},
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        if self.config.gradient_dtype != "auto":
            settings["communication_data_type"] = self.config.gradient_dtype
        return settings

    @property
    def module(self) -> nn.Module:
        """The wrapped model. With ZeRO-3 its weights are in pieces: see `whole_weights`."""
        module: nn.Module = self._engine.module
        return module

    @property
    def dtype(self) -> torch.dtype:
        """What the model's weights and inputs are held in."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def __call__(self, *inputs: Any) -> Any:
        """The model's forward pass. With ZeRO-3 the model returns a dataclass."""
        output = self._engine(*inputs)
        return replace(self._returned, **output) if self.config.zero_stage == 3 else output

    def _hand_over_tensors(self, module: nn.Module, inputs: Any, output: Any) -> dict[str, Tensor]:
        """Before ZeRO-3's hooks, which gather weights for the backward pass and look into dicts, not dataclasses."""
        self._returned = output
        return {k: v for k, v in vars(output).items() if isinstance(v, Tensor) and v.requires_grad}

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of one micro-batch (DeepSpeed divides by the number of micro-batches)."""
        self._engine.backward(loss)

    def step(self) -> None:
        """After each micro-batch; the optimiser moves after the last of an accumulation.

        If the gradient is not finite nothing moves, and `gradient_norm` says so.
        """
        if self.config.zero_stage < 3 and self._engine.is_gradient_accumulation_boundary():
            self._norm = self._sum_squares().sqrt()
        self._engine.step()

    def _sum_squares(self) -> Tensor:
        """The squared norm of the gradient that the ranks hold together, float32 []; the device is not asked."""
        if self.config.zero_stage == 0:  # every rank has all of it
            gradients = [p.grad for group in self._optimiser.param_groups for p in group["params"]]
        else:  # this rank's share
            shares = self._engine.optimizer.averaged_gradients.values()
            gradients = [gradient for share in shares if share is not None for gradient in share]
        norms = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
        total = torch.stack(norms).float().square().sum()
        if self.config.zero_stage and self.world.size > 1:
            dist.all_reduce(total)
        return total

    def _clip(self, optimiser: Any, *_: Any) -> None:
        """Before the optimiser's step: tell its fused kernel what to divide gradients by, without asking the device.

        The kernel changes nothing, not even its step count, where the norm is not finite.
        """
        norm = self.gradient_norm_tensor()
        optimiser.found_inf = (~norm.isfinite()).float()
        if self.config.clip > 0:
            optimiser.grad_scale = ((norm + 1e-6) / self.config.clip).clamp(min=1.0)

    def gradient_norm_tensor(self) -> Tensor:
        """Global norm before clipping of the last step, float32 [] on the device; reading it waits for the step."""
        norm = self._engine.optimizer._global_grad_norm if self.config.zero_stage == 3 else self._norm
        return torch.as_tensor(norm, dtype=torch.float32, device=self.world.device).detach().reshape(())

    def gradient_norm(self) -> float:
        """`gradient_norm_tensor`, read: inf or NaN where the last step moved nothing."""
        return float(self.gradient_norm_tensor())

    def set_learning_rate(self, rate: float) -> None:
        """For every parameter group."""
        for group in self._optimiser.param_groups:
            group["lr"] = rate

    def reduce(self, values: Tensor, operation: Literal["max", "mean"]) -> Tensor:
        """Combine a small float32 tensor over all ranks, in place; every rank gets the result."""
        if self.world.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX if operation == "max" else dist.ReduceOp.SUM)
            if operation == "mean":
                values /= self.world.size
        return values

    def gather_floats(self, values: list[float]) -> list[list[float]]:
        """Every rank's values, in the order of ranks. Collective, on the host: the device is not asked."""
        return self.host.gather(values)

    @contextmanager
    def whole_weights(self) -> Iterator[nn.Module]:
        """The model with all of its weights on every rank, to look at or to compute with: `with ... as module`.

        Below ZeRO-3 it is the module itself. With ZeRO-3 it is a copy without DeepSpeed's hooks, so that one rank
        may run it while others do not. Changes to it are lost. Collective on entering.
        """
        if self._plain is None:
            yield self.module
            return
        plain = self._plain.to_empty(device=self.world.device).train(self.module.training)
        with torch.no_grad():
            for theirs, own in zip(self.module.parameters(), plain.parameters(), strict=True):
                with deepspeed.zero.GatheredParameters([theirs]):
                    own.copy_(theirs)
            for source, buffer in zip(self.module.buffers(), plain.buffers(), strict=True):
                buffer.copy_(source)
        try:
            yield plain
        finally:
            self._plain = plain.to("meta")

    def weights(self) -> dict[str, Tensor]:
        """All weights in float32 on the host, from the master copies; other numbers as they are. Collective."""
        return {name: value.cpu().clone() for name, value in self._whole()}

    def _whole(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of everything in the state, one by one. Collective: every rank goes through all of them."""
        parameters = dict(self.module.named_parameters())
        for name, value in self.module.state_dict().items():
            whole = self._fixed.get(name, value)
            if name in parameters and name not in self._fixed:
                master = safe_get_full_fp32_param(parameters[name])
                whole = value if master is None else master
            yield name, whole.detach().float() if whole.is_floating_point() else whole.detach()

    def save(self, root: Path, tag: str) -> None:
        """Write DeepSpeed's own files to root/tag, and wait for them. Collective."""
        self.save_later(root, tag)
        self.saved()

    def save_later(
        self,
        root: Path,
        tag: str,
        also: Callable[[dict[str, Tensor]], None] | None = None,
        complete: Callable[[], None] | None = None,
    ) -> None:
        """Copy the state to the host and write it to root/tag while training goes on. Collective.

        Waits for the writing before it. A folder that is there is replaced.

        Args:
            also: called in the background with what `weights` would have said now, on the ranks that give it: writes
                more files into the folder. The weights are its own only until it returns.
            complete: makes the checkpoint valid (renames the folder, moves `latest`); called in the background by the
                ranks that give it, once every rank has written everything.

        Raises FlickerError if the writing before it failed.
        """
        self.saved()
        if self.world.rank == 0:
            shutil.rmtree(root / tag, ignore_errors=True)
        self._memory.restart()
        self._files.taken = []
        self._engine.save_checkpoint(str(root), tag=tag, save_latest=False)
        files, folder, form = self._files.taken, root / tag, self._form()
        fixed = self._memory.copy(self._fixed_now())
        weights: dict[str, Tensor] = {}
        for name, value in self._whole():
            if also is not None:
                weights[name] = self._memory.copy(value)

        def write() -> None:
            self._memory.ready()
            write_files(files)
            if self.world.rank == 0:
                with atomic_path(folder / FIXED) as temporary:
                    save_file(fixed, temporary)
                conversion.write_form(folder, form)
            if also is not None:
                also(weights)

        self._writer.start(folder, write, complete)

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writer.busy

    @property
    def save_failed(self) -> bool:
        """Whether the last checkpoint could not be written; ranks may learn of it at different steps."""
        return self._writer.failed

    def saved(self) -> None:
        """Wait until the checkpoint is complete. Raises FlickerError if it could not be written."""
        self._writer.wait()

    def close(self, seconds: float = 60.0) -> None:
        """At the end, also after an error: let a writing finish (at most so long), and let DeepSpeed go."""
        try:
            self._writer.wait(seconds)
        finally:
            self._engine.destroy()

    def _fixed_now(self) -> dict[str, Tensor]:
        """What no optimiser moves: parameters without gradient (exact) and buffers."""
        buffers = {k: v for k, v in self.module.state_dict().items() if k in dict(self.module.named_buffers())}
        return {**self._fixed, **{name: value.contiguous() for name, value in buffers.items()}}

    def _form(self) -> Form:
        """What this engine's checkpoints look like."""
        steps = next((int(state["step"]) for state in self._optimiser.state.values() if "step" in state), 0)
        shape = (self.config.zero_stage, self.world.size, self.precision)
        return Form(*shape, steps, self._names, deepspeed.__version__)

    def load(self, root: Path, tag: str) -> None:
        """Continue from root/tag, whatever number of ranks and ZeRO stage wrote it. Collective.

        Weights, moments and step count come from the checkpoint; learning rate, betas and decay from the config.
        Raises FlickerError if it cannot be read or converted.
        """
        folder = root / tag.removesuffix("-universal")
        form = conversion.read_form(folder)
        try:
            if form.loads_as_is(self.config.zero_stage, self.world.size, self.precision):
                self._load_deepspeed(folder.parent, folder.name, universal=False)
            elif self.config.zero_stage:
                self._load_deepspeed(folder, self._convert(folder), universal=True)
            else:
                self._load_whole(folder / self._convert(folder), form)
        except (RuntimeError, KeyError, ValueError, AssertionError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise FlickerError(f"DeepSpeed cannot load {folder}: {reason}") from None
        self._restore_fixed(folder / FIXED)
        self._restore_optimiser()

    def _convert(self, folder: Path) -> str:
        """Make the universal form, by rank 0 while the others wait. Raises FlickerError on every rank."""
        failed: FlickerError | None = None
        if self.world.rank == 0:
            try:
                conversion.convert(folder)
            except FlickerError as error:
                failed = error
        if self.host.max([float(failed is not None)]).result()[0]:
            raise failed or FlickerError(f"rank 0 cannot convert {folder}; its message says why")
        return conversion.UNIVERSAL

    def _load_deepspeed(self, root: Path, tag: str, universal: bool) -> None:
        """DeepSpeed's own loader."""
        self._engine._config.load_universal_checkpoint = universal
        path, _ = self._engine.load_checkpoint(str(root), tag=tag)
        if path is None:
            raise FlickerError(f"DeepSpeed finds no checkpoint in {root / tag}")

    @torch.no_grad()
    def _load_whole(self, universal: Path, form: Form) -> None:
        """A universal form for ZeRO-0, which DeepSpeed cannot load there."""
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.copy_(conversion.read_parameter(universal, name, "fp32").reshape(parameter.shape))
            state = {
                key: conversion.read_parameter(universal, name, key).reshape(parameter.shape).to(parameter.device)
                for key in conversion.MOMENTS
            }
            self._optimiser.state[parameter] = {"step": torch.tensor(float(form.optimiser_steps)), **state}

    @torch.no_grad()
    def _restore_fixed(self, path: Path) -> None:
        """What no optimiser moves, which the universal form leaves out."""
        stored = load_file(path)
        self._fixed = {name: stored[name] for name in self._fixed}
        targets = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        for name, value in stored.items():
            if self.config.zero_stage == 3 and name in self._fixed:
                with deepspeed.zero.GatheredParameters([targets[name]], modifier_rank=0):
                    if self.world.rank == 0:
                        targets[name].copy_(value)
            else:
                targets[name].copy_(value)

    def _restore_optimiser(self) -> None:
        """Each group's settings, and a step count of its own on the device for each tensor.

        DeepSpeed's loaders take settings from the checkpoint (ZeRO-3 the first group's for all) and let tensors
        share a step count, or leave it on the host where the fused kernel cannot use it.
        """
        for group, settings in zip(self._optimiser.param_groups, self._group_settings, strict=True):
            group.update(settings)
        for tensor, state in self._optimiser.state.items():
            if "step" in state:
                state["step"] = torch.tensor(float(state["step"]), dtype=torch.float32, device=tensor.device)


def _bare_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy without numbers; parameters in `dtype`, buffers as they are (as DeepSpeed has them)."""
    plain = copy.deepcopy(model).to("meta")
    for parameter in plain.parameters():
        parameter.data = parameter.data.to(dtype)
    return plain


def _initialise(model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """DeepSpeed's engine. Raises UsageError if it refuses the settings."""
    try:
        return deepspeed.initialize(model=model, optimizer=optimiser, config=settings)[0]
    except (ValueError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"DeepSpeed refuses its settings (engine.* and engine.deepspeed_config): {reason}") from None


class _HostCopies(TorchCheckpointEngine):
    """Where DeepSpeed hands over its checkpoint files: they are kept on the host instead of written at once."""

    def __init__(self, memory: HostMemory):
        super().__init__()
        self.memory = memory
        self.taken: list[tuple[Any, Path]] = []

    def save(self, state_dict: Any, path: str) -> None:
        """Keep a copy of one file's contents."""
        self.taken.append((self.memory.copy(state_dict), Path(path)))


def _read_deepspeed_json(path: str) -> dict[str, Any]:
    """A user's DeepSpeed JSON. Raises UsageError if it sets what the typed config sets."""
    settings = read_json(Path(path), "DeepSpeed config")
    owned = {
        "train_batch_size": "data.global_batch",
        "train_micro_batch_size_per_gpu": "data.global_batch",
        "gradient_accumulation_steps": "engine.accumulation",
        "gradient_clipping": "engine.clip",
        "communication_data_type": "engine.gradient_dtype",
        "optimizer": "optim.*",
        "scheduler": "optim.*",
        "bf16": "engine.precision",
        "fp16": "engine.precision",
        "checkpoint": "checkpoint.*",
    }
    for key, ours in owned.items():
        if key in settings:
            raise UsageError(f"{path} sets '{key}'; remove it there and set {ours} instead")
    if "stage" in settings.get("zero_optimization", {}):
        raise UsageError(f"{path} sets 'zero_optimization.stage'; remove it there and set engine.zero_stage instead")
    return dict(settings)


def describe() -> dict[str, str]:
    """Versions, for checkpoints and reports."""
    return {"torch": torch.__version__, "deepspeed": deepspeed.__version__, "python": sys.version.split()[0]}
