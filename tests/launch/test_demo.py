"""The demo's claims, by its own recipes: pretraining makes DMA see movement, and recognition gains from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch.conftest import Run, deepspeed, read_log


@pytest.fixture(scope="module")
def demo(command: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make demo`'s steps, in a folder of their own."""
    out = tmp_path_factory.mktemp("demo")
    labelled = ["--subjects", "10", "--clips_per_subject", "16", "--keyframes_only", "true"]
    videos = ["--size", "96", "--videos", "80", "--seconds", "1.6", "--folders", "8"]
    steps = [
        ["launch/synthesise.py", "--out", out / "data", *videos, *labelled],
        ["launch/shard.py", out / "data/videos", "--out", out / "shards", "--size", "96", "--workers", "2"],
    ]
    recipes = "launch/recipes"
    train = ["launch/pretrain.py", "--config", f"{recipes}/pretrain/demo.yaml", "--run", out / "run"]
    recognise = ["launch/finetune.py", "--config", f"{recipes}/finetune/demo.yaml", "--out", out / "recognition"]
    recognise += ["--data.root", out / "data/casme2", "--encoder", out / "run"]
    for words in steps:
        done = command(*words)
        assert done.returncode == 0, done.stderr
    done = command(
        *train, "--data.shards", out / "shards", launcher=deepspeed(1, 29651), timeout=1200, OMP_NUM_THREADS="2"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    done = command(*recognise, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_loss_falls_and_the_change_map_finds_the_movement(demo: Path) -> None:
    log = read_log(demo / "run")
    losses = [line["reconstruction"] for line in log if "reconstruction" in line]
    assert losses[-1] < losses[0] / 4
    probes = [line["motion_auroc"] for line in log if "motion_auroc" in line]
    assert probes[-1] > 0.7 and probes[-1] > probes[0] + 0.15


@pytest.mark.slow
def test_a_pretrained_encoder_recognises_better_than_a_random_one(demo: Path) -> None:
    def last(folder: Path) -> list[float]:
        results = json.loads((folder / "results.json").read_text())
        return [seed["uf1"] for seed in results["selections"]["last"]["per_seed"]]

    pretrained, random = last(demo / "recognition"), last(demo / "recognition" / "random-encoder")
    assert len(pretrained) == len(random) == 3
    assert min(pretrained) > max(random)
    assert max(pretrained) < 0.88, "above the ceiling that the labels' ambiguity leaves: a leak"
