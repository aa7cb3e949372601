"""A short run of launch/pretrain.py, for the tests of it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.launch.conftest import read_log
from tests.sizes import ARGUMENTS

SCRIPT = "launch/pretrain.py"
STEPS = 12
TERMS = ("loss", "reconstruction", "agreement", "grad_norm", "lr")


def arguments(shards: Path, run: Path, *more: str) -> list[str]:
    """The command line of a run of STEPS steps, a checkpoint every second."""
    base = ["--data.shards", str(shards), "--run", str(run), "--steps", str(STEPS), "--data.global_batch", "8"]
    base += ["--log.every", "1", "--log.pictures", "0", "--checkpoint.every", "2", "--optim.warmup", "2"]
    return [*base, *ARGUMENTS, *more]


def losses_of(run: Path) -> list[tuple]:
    """What a run's log says of each step."""
    return [(line["step"], *(line[name] for name in TERMS)) for line in read_log(run)]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """The final weights."""
    return load_file(run / "checkpoints" / f"step-{STEPS}" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
