"""launch/recognise.py as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.config import BackboneConfig, DataConfig, FinetuneConfig, ProtocolConfig, TrainConfig
from finetune.prepare import prepare
from finetune.recogniser import train_on_all
from shards.synthetic import write_casme2, write_unlabelled
from tests.launch.conftest import Run

SCRIPT = "launch/recognise.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a recogniser of two classes."""
    folder = tmp_path_factory.mktemp("recogniser")
    kinds = ("happiness", "surprise")
    write_casme2(
        folder / "casme2", subjects=3, clips_per_subject=2, size=(96, 96), keyframes_only=True, classes=kinds
    )
    config = FinetuneConfig(
        out=str(folder / "run"),
        device="cpu",
        data=DataConfig(root=str(folder / "casme2"), scheme="present", cache=str(folder / "prepared"), workers=1),
        backbone=BackboneConfig(preset="tiny"),
        train=TrainConfig(epochs=2),
        protocol=ProtocolConfig(seeds=[0]),
    )
    train_on_all(prepare(config, quiet=True), config, folder / "run")
    write_unlabelled(folder / "video", videos=1, seconds=2.0, size=160, folders=0)
    return folder


def test_a_video_is_recognised(forked: Run, run: Path, tmp_path: Path) -> None:
    video = next((run / "video").rglob("*.mp4"))
    words = ("--start", "0.2", "--end", "0.8", "--checkpoint", run / "run", "--out", tmp_path)
    done = forked(SCRIPT, video, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["probabilities"]) == {"happiness", "surprise"} and result["label"] in done.stdout
    assert 0.15 < result["onset"] / result["fps"] < 0.25 and 0.75 < result["offset"] / result["fps"] < 0.85
    assert (tmp_path / "recognised.png").stat().st_size > 10_000
    assert "trained on simulated data" in done.stdout


def test_wrong_use_is_explained_in_one_line(forked: Run, run: Path, tmp_path: Path) -> None:
    done = forked(SCRIPT, "--checkpoint", run / "run")
    assert done.returncode == 2 and done.stderr.startswith("error: give one VIDEO")
    done = forked(SCRIPT, tmp_path / "nowhere.mp4", "--checkpoint", run / "run", "--out", tmp_path)
    assert done.returncode == 1 and "no such video" in done.stderr and len(done.stderr.splitlines()) == 1
