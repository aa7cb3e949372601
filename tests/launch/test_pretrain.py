"""launch/pretrain.py as a user runs it: determinism, kills, ranks, faults."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.cli import parse
from pretrain import load_encoder, load_micron
from pretrain.config import PretrainConfig
from tests.launch.conftest import Run, deepspeed, read_log
from tests.sizes import ARGUMENTS

SCRIPT = "launch/pretrain.py"
STEPS = 12
TERMS = ("loss", "reconstruction", "agreement", "grad_norm", "lr")


def _arguments(shards: Path, run: Path, *more: str) -> list[str]:
    base = ["--data.shards", str(shards), "--run", str(run), "--steps", str(STEPS), "--data.global_batch", "8"]
    base += ["--log.every", "1", "--log.pictures", "0", "--checkpoint.every", "2", "--optim.warmup", "2"]
    return [*base, *ARGUMENTS, *more]


def _losses(run: Path) -> list[tuple]:
    return [(line["step"], *(line[name] for name in TERMS)) for line in read_log(run)]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{STEPS}" / "model.safetensors")


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(command: Run, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = command(SCRIPT, *_arguments(small_shards, run))
    assert done.returncode == 0, done.stderr
    return run


def test_a_run_leaves_everything_other_people_need(whole: Path) -> None:
    assert {"config.yaml", "log.jsonl", "wandb", "checkpoints", "encoder", "model-card.md"} <= {
        path.name for path in whole.iterdir()
    }
    kept = sorted(path.name for path in (whole / "checkpoints").iterdir() if path.is_dir())
    assert kept == ["step-10", "step-12", "step-8"], "the newest three, nothing half-written"
    state = json.loads((whole / "checkpoints" / "step-12" / "state.json").read_text())
    assert state["samples"] == STEPS * 8 and state["wandb_id"] and state["data_digest"] and state["reader"]
    assert load_encoder(whole).image_size == load_micron(whole).config.image_size == 32
    assert torch.equal(load_encoder(whole / "encoder").cls_token, load_micron(whole).encoder.cls_token)
    fields = {"cls_spread", "lr", "grad_norm", "pairs_per_s", "data_wait", "mfu", "memory_gb", "swapped_share"}
    assert fields | set(TERMS) <= set(read_log(whole)[-1])


def test_one_seed_gives_the_same_losses_bit_for_bit(command: Run, small_shards: Path, whole: Path, tmp_path) -> None:
    assert command(SCRIPT, *_arguments(small_shards, tmp_path / "run")).returncode == 0
    assert _losses(tmp_path / "run") == _losses(whole)
    assert _same(_weights(tmp_path / "run"), _weights(whole))


def test_killed_at_random_steps_and_resumed_it_ends_with_the_same_weights(
    environment: dict[str, str], repository: Path, small_shards: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    chance = random.Random(os.getpid())
    for kill in range(2):
        target = chance.randrange(1 + 5 * kill, 6 + 5 * kill)
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *_arguments(small_shards, run)],
            cwd=repository,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        _wait_for_step(process, run, target)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = subprocess.run(
        [sys.executable, SCRIPT, *_arguments(small_shards, run)], cwd=repository, env=environment, check=False
    )
    assert last.returncode == 0
    assert _same(_weights(run), _weights(whole))
    assert _losses(run) == _losses(whole), "each step is in the log once"


def _wait_for_step(process: subprocess.Popen, run: Path, step: int, timeout: float = 120) -> None:
    """Until the run's log has reached a step (or the process has ended)."""
    until = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < until:
        if (run / "log.jsonl").is_file() and (run / "log.jsonl").read_text().count("\n") >= step:
            return
        time.sleep(0.02)


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_a_checkpoint_and_ends_cleanly(
    environment: dict[str, str], repository: Path, small_shards: Path, tmp_path: Path, ranks: int
) -> None:
    """One process alone; and a whole process group, as a cluster stops it: launcher, ranks and wandb's service."""
    run = tmp_path / "run"
    words = _arguments(small_shards, run, "--checkpoint.every", "1000000", "--steps", "100000")
    launcher = [sys.executable] if ranks == 1 else deepspeed(2, 29605)
    process = subprocess.Popen(
        [*launcher, SCRIPT, *words],
        cwd=repository,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    _wait_for_step(process, run, 3)
    os.kill(process.pid, signal.SIGTERM) if ranks == 1 else os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (0 if ranks == 1 else -signal.SIGTERM), errors  # DeepSpeed's runner has no handler
    assert "SIGTERM: saved step" in errors and "Traceback" not in errors
    steps = [line["step"] for line in read_log(run)]
    assert (run / "checkpoints" / "latest").read_text() == f"step-{steps[-1]}"


@pytest.fixture(scope="module")
def two(command: Run, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on two DeepSpeed ranks, each with half of the batch."""
    run = tmp_path_factory.mktemp("two") / "run"
    done = command(SCRIPT, *_arguments(small_shards, run), launcher=deepspeed(2, 29611))
    assert done.returncode == 0, done.stderr[-2000:]
    return run


def _agree_to_rounding(run: Path, other: Path) -> None:
    for a, b in zip(_losses(run), _losses(other), strict=True):
        assert a == pytest.approx(b, rel=2e-4)
    pairs = zip(_weights(run).values(), _weights(other).values(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 2e-3


def test_two_deepspeed_ranks_agree_with_one_to_rounding(whole: Path, two: Path) -> None:
    _agree_to_rounding(two, whole)


def test_accumulating_two_micro_batches_agrees_with_one_batch(
    command: Run, small_shards: Path, whole: Path, tmp_path: Path
) -> None:
    done = command(SCRIPT, *_arguments(small_shards, tmp_path / "run", "--engine.accumulation", "2"))
    assert done.returncode == 0, done.stderr
    for two, one in zip(_losses(tmp_path / "run"), _losses(whole), strict=True):
        assert two == pytest.approx(one, rel=2e-4)


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_resumes_on_another_number_of_ranks(
    command: Run, small_shards: Path, whole: Path, two: Path, tmp_path: Path, before: int, after: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole if before == 1 else two, run)
    (run / "checkpoints" / "latest").write_text("step-8")
    done = command(SCRIPT, *_arguments(small_shards, run), launcher=deepspeed(after, 29620 + before))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"from {before} to {after} rank(s)" in done.stderr
    _agree_to_rounding(run, whole)


VARIANTS = {
    "bf16": ["--engine.precision", "bf16"],
    "dino": ["--model.agreement.kind", "dino", "--model.agreement.local_crops", "2"],
    "zero 2": ["--engine.zero_stage", "2", "--engine.deepspeed_config", "launch/deepspeed/zero2.json"],
    "reader processes": ["--data.workers", "2"],
    "swapping alone": ["--model.dma", "none", "--model.poi", "none", "--model.agreement.kind", "none"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_draw_and_resume(command: Run, small_shards: Path, tmp_path: Path, variant: str) -> None:
    words = _arguments(small_shards, tmp_path / "run", "--log.pictures", "2", *VARIANTS[variant])
    for steps in (2, 3):
        done = command(SCRIPT, *words, "--steps", str(steps))
        assert done.returncode == 0, done.stderr
    lines = [line for line in read_log(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    wandb_ids = {folder.name.split("-")[-1] for folder in (tmp_path / "run" / "wandb").glob("offline-run-*")}
    assert len(wandb_ids) == 1, "a resumed run keeps its wandb id"
    assert (tmp_path / "run" / "pictures" / "step-3.png").stat().st_size > 1000
    probed = {line["step"] for line in read_log(tmp_path / "run") if "motion_auroc" in line}
    assert probed == (set() if variant == "swapping alone" else {0, 2, 3})
    assert load_encoder(tmp_path / "run").cls_token.abs().sum() > 0


RECIPES = sorted((Path(__file__).parents[2] / "launch/recipes/pretrain").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(recipe: Path) -> None:
    config = parse(PretrainConfig, ["--config", str(recipe)], command="x", description="x")
    assert config.steps or config.epochs


def test_a_loss_that_is_not_finite_stops_before_the_update(command: Run, small_shards: Path, tmp_path: Path) -> None:
    words = _arguments(small_shards, tmp_path / "run", "--optim.lr", "1e30", "--engine.clip", "0")
    done = command(SCRIPT, *words, launcher=deepspeed(2, 29631))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, "every rank stops"
    assert "not finite" in errors[0] or "gradient norm" in errors[0]
    assert "lower optim.lr" in errors[0] and "continues from the last checkpoint" in errors[0]
    for folder in (tmp_path / "run").glob("checkpoints/step-*"):
        assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


FAULTS = {
    "unknown key": (["--optim.lrate", "1"], 2, "did you mean 'optim.lr'"),
    "unknown recipe key": (["--config", "RECIPE"], 2, "optim.learning_rate"),
    "batch that does not divide": (["--engine.accumulation", "3"], 2, "does not divide"),
    "another architecture": (["--model.dim", "64"], 1, "another architecture: model.dim is 32 there and 64 now"),
    "another seed": (["--seed", "9"], 1, "has seed 0, not 9"),
    "no shards": (["--data.shards", "nowhere"], 1, "nowhere"),
    "more pairs than there are": (["--data.global_batch", "100000"], 1, "100000"),
    "no init": (["--checkpoint.init", "nowhere", "--run", "elsewhere"], 1, "no weights at nowhere"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_in_one_line_and_lose_nothing(
    command: Run, small_shards: Path, whole: Path, tmp_path: Path, fault: str
) -> None:
    words, code, text = FAULTS[fault]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim:\n  learning_rate: 1\n")
    words = [{"RECIPE": str(recipe), "elsewhere": str(tmp_path / "new")}.get(word, word) for word in words]
    before = _weights(whole)
    done = command(SCRIPT, *_arguments(small_shards, whole, *words))
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and text in errors[0] and "Traceback" not in done.stderr
    assert _same(_weights(whole), before)


def test_help_lists_defaults_and_units(command: Run) -> None:
    done = command(SCRIPT, "--help")
    assert done.returncode == 0 and "--optim.lr" in done.stdout and "default: 0.001" in done.stdout
