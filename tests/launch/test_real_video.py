"""Real video, end to end: faces found and aligned, the paper's size trained on them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from shards import read_manifest
from tests.launch.conftest import Run, deepspeed, read_log

dlib = pytest.mark.skipif(importlib.util.find_spec("dlib") is None, reason="dlib (the extra `face`) is absent")


@pytest.mark.slow
@dlib
def test_small_takes_twenty_deepspeed_steps_on_aligned_real_faces(command: Run, shared: Path, tmp_path: Path) -> None:
    videos, shards, run = shared / "data" / "video", tmp_path / "shards", tmp_path / "run"
    done = command("launch/shard.py", videos, "--out", shards, "--face", "align", "--size", "224")
    assert done.returncode == 0, done.stderr
    assert "no_face.mp4: no face found" in done.stdout
    assert len(read_manifest(shards).failures) == 1
    words = ["--model.preset", "small", "--data.shards", shards, "--data.global_batch", "2", "--steps", "20"]
    words += ["--log.every", "1", "--log.pictures", "0", "--run", run, "--optim.warmup", "5", "--optim.lr", "3e-4"]
    done = command("launch/pretrain.py", *words, launcher=deepspeed(1, 29641), timeout=1500, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [line["reconstruction"] for line in read_log(run)]
    assert len(losses) == 20 and sum(losses[-5:]) < sum(losses[:5])
