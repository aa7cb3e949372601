"""A checkpoint's universal form: one folder per parameter, loadable on any number of ranks and by any ZeRO stage.

DeepSpeed's own converter (`deepspeed.checkpoint.ds_to_universal`) makes it from ZeRO's shards. It leaves out what a
loader of another stage looks for; `_finish` adds that. ZeRO-0 has no shards: `_from_whole` makes the same form.
Everything is written under another name and renamed at the end, so that a conversion cut off in the middle is not
there at all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.errors import FlickerError
from shards.files import read_json, write_json

UNIVERSAL = "universal"
FORM = "engine.json"
BIG = 1 << 30
"""bytes of a checkpoint from which several processes convert it"""
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Form:
    """What must agree for DeepSpeed to load its shards as they are; otherwise they are converted."""

    zero_stage: int
    ranks: int
    precision: str
    optimiser_steps: int = 0
    """AdamW's count."""
    parameters: tuple[tuple[str, ...], ...] = ()
    """Names of the trained parameters, by the optimiser's groups."""
    deepspeed: str = ""

    def loads_as_is(self, zero_stage: int, ranks: int, precision: str) -> bool:
        """Whether an engine of this shape reads the shards directly."""
        ranks_agree = zero_stage == 0 or self.ranks == ranks  # ZeRO-0 keeps everything on every rank
        return (self.zero_stage, self.precision) == (zero_stage, precision) and ranks_agree


def write_form(folder: Path, form: Form) -> None:
    """Write a checkpoint's engine.json."""
    write_json(folder / FORM, asdict(form))


def read_form(folder: Path) -> Form:
    """A checkpoint's engine.json. Raises FlickerError if it is missing or damaged."""
    values = read_json(folder / FORM, "checkpoint's description")
    values["parameters"] = tuple(tuple(names) for names in values.get("parameters", ()))
    try:
        return Form(**values)
    except TypeError as error:
        raise FlickerError(f"{folder / FORM} is of another version: {error}") from None


def convert(folder: Path) -> Path:
    """The universal form of a checkpoint, in its own folder; made by the first call. For one process at a time.

    Raises FlickerError in one line if it cannot be made.
    """
    done = folder / UNIVERSAL
    if not done.is_dir():
        work = folder / f".{UNIVERSAL}"
        shutil.rmtree(work, ignore_errors=True)
        partial = work / UNIVERSAL  # the converter writes a pointer file beside its output
        form = read_form(folder)
        try:
            if form.zero_stage:
                _run_converter(folder, partial)
                _finish(partial, form)
            else:
                _from_whole(folder, partial, form)
            partial.rename(done)
        except (OSError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise FlickerError(f"cannot convert {folder} for other ranks or ZeRO stages: {reason}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return done


def _run_converter(folder: Path, output: Path) -> None:
    """DeepSpeed's converter in a process of its own. Raises FlickerError with its last line if it fails."""
    workers = str(_workers(folder))
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(folder), "--output_folder", str(output)]
    command += ["--num_extract_workers", workers, "--num_merge_workers", workers]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
        raise FlickerError(f"cannot convert {folder} for other ranks or ZeRO stages: {last}")


def _workers(folder: Path) -> int:
    """Processes that convert: one for a small checkpoint, else one per core (each holds one rank's shard)."""
    size = sum(file.stat().st_size for file in folder.glob("*_optim_states.pt"))
    return min(len(os.sched_getaffinity(0)), 16) if size >= BIG else 1


def _finish(folder: Path, form: Form) -> None:
    """Add what loaders of the other stages read: AdamW's count per parameter, and both names of the metadata."""
    step = torch.tensor(float(form.optimiser_steps))
    for name in (name for names in form.parameters for name in names):
        place = folder / "zero" / name
        torch.save(step, place / "step.pt")
        if form.zero_stage == 3:  # bare flat tensors, which only stage 3 reads
            for key in ("fp32", *MOMENTS):
                torch.save({"param": read_parameter(folder, name, key)}, place / f"{key}.pt")
    _write_optimiser(folder, form, step)
    one, three = folder / "mp_rank_00_model_states.pt", folder / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    if one.is_file():
        shutil.copyfile(one, three)
    else:
        shutil.copyfile(three, one)


def _write_optimiser(folder: Path, form: Form, step: Tensor) -> None:
    """The optimiser's common state as stages 1 and 2 (at the top) and stage 3 (nested) look for it.

    Learning rate, betas and decay are the config's, not the checkpoint's: the groups are empty.
    """
    groups: list[dict[str, Any]] = [{} for _ in form.parameters]
    nested = {"state": {0: {"step": step}}, "param_groups": groups}
    state = {"ds_version": form.deepspeed, "param_groups": groups, "optimizer_state_dict": nested}
    torch.save(state, folder / "zero" / "optimizer_state.pt")


def _from_whole(folder: Path, output: Path, form: Form) -> None:
    """The universal form of a ZeRO-0 checkpoint, which holds all weights and moments in one file."""
    name = "mp_rank_00_model_states.pt"
    state = torch.load(folder / name, map_location="cpu", weights_only=True)
    moments = state["optimizer"]["state"]
    names = [name for group in form.parameters for name in group]
    step = torch.tensor(float(form.optimiser_steps))
    for index, parameter in enumerate(names):
        place = output / "zero" / parameter
        place.mkdir(parents=True)
        torch.save({"param": state["module"][parameter].float()}, place / "fp32.pt")
        for key in MOMENTS:
            torch.save({"param": moments[index][key].float()}, place / f"{key}.pt")
        torch.save(step, place / "step.pt")
    _write_optimiser(output, form, step)
    for copied in (name, "zero_pp_rank_0_mp_rank_00_model_states.pt"):
        shutil.copyfile(folder / name, output / copied)


def read_parameter(universal: Path, name: str, key: str) -> Tensor:
    """One parameter's "fp32", "exp_avg" or "exp_avg_sq" of a universal form, float32 (its shape, or flat)."""
    state = torch.load(universal / "zero" / name / f"{key}.pt", map_location="cpu", weights_only=True)
    value: Tensor = state["param"] if isinstance(state, dict) else state
    return value.float()
