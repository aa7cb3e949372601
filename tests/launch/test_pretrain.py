"""launch/pretrain.py as a user runs it: determinism, kills, ranks."""

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

from pretrain import load_encoder, load_micron
from shards import PairReader, read_manifest
from tests.launch.conftest import Run, deepspeed, read_log
from tests.launch.forks import Forks
from tests.launch.pretraining import SCRIPT, STEPS, TERMS, arguments, losses_of, same, weights_of


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
    fields = {
        "cls_spread",
        "lr",
        "grad_norm",
        "pairs_per_s",
        "data_wait",
        "mfu",
        "memory_gb",
        "swapped_share",
        "unreadable_frames",
    }
    assert fields | set(TERMS) <= set(read_log(whole)[-1])


def test_a_checkpoint_has_the_readers_place_of_its_own_step(whole: Path, small_shards: Path) -> None:
    """Not the place of the batch that was read ahead; the last step reads none ahead."""
    reader = PairReader(read_manifest(small_shards), seed=0, global_batch=8)
    for step in (8, 10, 12):
        state = json.loads((whole / "checkpoints" / f"step-{step}" / "state.json").read_text())["reader"]
        assert state["epoch"] * reader.steps_per_epoch + state["step"] == step


def test_one_seed_gives_the_same_losses_bit_for_bit(forked: Run, small_shards: Path, whole: Path, tmp_path) -> None:
    assert forked(SCRIPT, *arguments(small_shards, tmp_path / "run")).returncode == 0
    assert losses_of(tmp_path / "run") == losses_of(whole)
    assert same(weights_of(tmp_path / "run"), weights_of(whole))


def test_killed_at_random_steps_and_resumed_it_ends_with_the_same_weights(
    server: Forks, small_shards: Path, whole: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    chance = random.Random(os.getpid())
    for kill in range(2):
        pid = server.start(arguments(small_shards, run), log)
        _wait_for_step(run, chance.randrange(1 + 5 * kill, 6 + 5 * kill))
        os.kill(pid, signal.SIGKILL)
        server.wait(pid)
    assert server.run(arguments(small_shards, run), log) == 0, log.read_text()
    assert same(weights_of(run), weights_of(whole))
    assert losses_of(run) == losses_of(whole), "each step is in the log once"


def _wait_for_step(run: Path, step: int, timeout: float = 120) -> None:
    """Until the run's log has reached a step."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if (run / "log.jsonl").is_file() and (run / "log.jsonl").read_text().count("\n") >= step:
            return
        time.sleep(0.02)


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_a_checkpoint_and_ends_cleanly(
    environment: dict[str, str], repository: Path, small_shards: Path, tmp_path: Path, ranks: int
) -> None:
    """One process alone; and a whole process group, as a cluster stops it: launcher, ranks and wandb's service."""
    run = tmp_path / "run"
    words = arguments(small_shards, run, "--checkpoint.every", "1000000", "--steps", "100000")
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
    _wait_for_step(run, 3)
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
    done = command(SCRIPT, *arguments(small_shards, run), launcher=deepspeed(2, 29611))
    assert done.returncode == 0, done.stderr[-2000:]
    return run


def _agree_to_rounding(run: Path, other: Path) -> None:
    for a, b in zip(losses_of(run), losses_of(other), strict=True):
        assert a == pytest.approx(b, rel=2e-4)
    pairs = zip(weights_of(run).values(), weights_of(other).values(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 2e-3


def test_two_deepspeed_ranks_agree_with_one_to_rounding(whole: Path, two: Path) -> None:
    _agree_to_rounding(two, whole)


def test_accumulating_two_micro_batches_agrees_with_one_batch(
    forked: Run, small_shards: Path, whole: Path, tmp_path: Path
) -> None:
    done = forked(SCRIPT, *arguments(small_shards, tmp_path / "run", "--engine.accumulation", "2"))
    assert done.returncode == 0, done.stderr
    for two, one in zip(losses_of(tmp_path / "run"), losses_of(whole), strict=True):
        assert two == pytest.approx(one, rel=2e-4)


@pytest.mark.parametrize("before, after", [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_resumes_on_another_number_of_ranks(
    command: Run, small_shards: Path, whole: Path, two: Path, tmp_path: Path, before: int, after: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole if before == 1 else two, run)
    (run / "checkpoints" / "latest").write_text("step-8")
    done = command(SCRIPT, *arguments(small_shards, run), launcher=deepspeed(after, 29620 + before))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"from {before} to {after} rank(s)" in done.stderr
    _agree_to_rounding(run, whole)
