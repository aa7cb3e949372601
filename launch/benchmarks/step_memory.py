"""Memory of one training step, in a process of its own: `python -m launch.benchmarks.step_memory SETTING`."""

from __future__ import annotations

import gc
import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from launch.benchmarks import apart
from launch.benchmarks.stepping import Setting, Stepper
from pretrain.architecture import config_from_dict

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def of_step(stepper: Stepper, frames: torch.Tensor, seeds: torch.Tensor) -> float:
    """MB that views, forward and backward pass of one step take at their peak, above what was there before.

    Gradients are counted, weights and the optimiser's state are not. On a CPU: resident memory's high-water mark.
    """
    if stepper.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = float(torch.cuda.memory_allocated())
        stepper.gradients(frames, seeds)
        peak = float(torch.cuda.max_memory_allocated())
        stepper.model.zero_grad(set_to_none=True)
        return (peak - before) / 1e6
    gc.collect()
    before = float(psutil.Process().memory_info().rss)
    if CLEAR.exists():
        CLEAR.write_text("5")  # the high-water mark starts again from here
    stepper.gradients(frames, seeds)
    return (_high_water() - before) / 1e6


def _high_water() -> float:
    """The most resident memory this process has had, bytes."""
    if CLEAR.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most) * (1 if sys.platform == "darwin" else 1024)


def random_pairs(setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 frames [B 2 S S 3] and seeds [B] on the device."""
    side = setting.model.image_size
    frames = torch.randint(0, 256, (setting.batch, 2, side, side, 3), dtype=torch.uint8, device=setting.device)
    return frames, torch.arange(setting.batch, device=setting.device)


def of_step_apart(setting: Setting, threads: int) -> float:
    """`of_step` in a new process, MB. Raises FlickerError with its last words if it fails."""
    module = "launch.benchmarks.step_memory"
    return float(apart.run(module, asdict(setting), threads, "memory cannot be measured"))


def main() -> None:
    """Measure the setting that the command line holds."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    setting = Setting(**{**given, "model": config_from_dict(given["model"])})
    stepper = Stepper(setting)
    apart.tell(of_step(stepper, *random_pairs(setting)))


if __name__ == "__main__":
    main()
