"""launch/pretrain.py with the engine's options: ZeRO-3, recomputed activations, checkpoints by the clock, probes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards.synthetic import write_casme2
from tests.launch.conftest import Run, deepspeed, read_log
from tests.launch.pretraining import SCRIPT, STEPS, arguments, losses_of, weights_of

CLASSES = ("happiness", "disgust", "surprise")


@pytest.mark.slow
def test_zero_3_with_recomputed_activations_and_a_probe_trains_the_same(
    command: Run, small_shards: Path, whole: Path, tmp_path: Path
) -> None:
    """Two ranks; probes, pictures and checkpoints need weights that are spread over both."""
    write_casme2(
        tmp_path / "casme2", subjects=3, clips_per_subject=3, size=(48, 56), keyframes_only=True, classes=CLASSES
    )
    words = ["--engine.zero_stage", "3", "--engine.activation_checkpointing", "true", "--log.pictures", "6"]
    words += ["--probe.every", "6", "--probe.data", str(tmp_path / "casme2"), "--probe.scheme", "present"]
    run = tmp_path / "run"
    done = command(SCRIPT, *arguments(small_shards, run, *words), launcher=deepspeed(2, 29651))
    assert done.returncode == 0, done.stderr[-2000:]
    probes = [line["step"] for line in read_log(run) if "probe/linear_uf1" in line]
    assert probes == [0, 6, 12]
    assert [line["step"] for line in read_log(run) if "motion_auroc" in line] == [0, 6, 12]
    assert (run / "pictures" / "step-12.png").is_file()
    steps = [line for line in read_log(run) if "loss" in line]
    for own, plain in zip(steps, losses_of(whole), strict=True):
        assert (own["loss"], own["grad_norm"]) == pytest.approx((plain[1], plain[4]), rel=2e-4)
    pairs = zip(weights_of(run).values(), weights_of(whole).values(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 2e-3
    ranks = [json.loads(line) for line in (run / "ranks.jsonl").read_text().splitlines()]
    assert [line["step"] for line in ranks] == list(range(1, STEPS + 1))
    assert {"step_ms", "straggler_rank", "data_wait_max"} <= set(steps[-1])


def test_checkpoints_by_the_clock(forked: Run, small_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--checkpoint.every", "1000000", "--checkpoint.minutes", "0.0001"]
    done = forked(SCRIPT, *arguments(small_shards, run, *words))
    assert done.returncode == 0, done.stderr
    kept = sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())
    assert len(kept) == 3 and "step-12" in kept, "every step was overdue; the newest three stay"
    assert not list(run.glob(".*")) and not list((run / "checkpoints").glob(".*"))


def test_a_probe_without_clips_is_refused_before_anything_is_done(
    forked: Run, small_shards: Path, tmp_path: Path
) -> None:
    done = forked(SCRIPT, *arguments(small_shards, tmp_path / "run", "--probe.every", "6"))
    assert done.returncode == 2 and "--probe.data" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_dry_run_writes_nothing(forked: Run, small_shards: Path, tmp_path: Path) -> None:
    words = arguments(small_shards, tmp_path / "run", "--dry-run", "--dry.gpus", "2", "--dry.price", "3")
    done = forked(SCRIPT, *words)
    assert done.returncode == 0, done.stderr
    assert "12" in done.stdout and "cost" in done.stdout and not (tmp_path / "run").exists()
