"""Fixtures of the recognition tests: a tiny encoder and a tiny labelled set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.backbone import Backbone
from finetune.config import DataConfig, FinetuneConfig, ProtocolConfig, TrainConfig
from pretrain import create
from shards.synthetic import write_casme2


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts from the same random state, whichever ran before it, and without wandb."""
    torch.manual_seed(0)
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic CASME II with 4 subjects of 4 clips, three classes; only annotated frames."""
    root = tmp_path_factory.mktemp("labelled") / "CASME2"
    classes = ("happiness", "disgust", "surprise")
    write_casme2(root, subjects=4, clips_per_subject=4, classes=classes, size=(64, 72), keyframes_only=True)
    return root


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    """A very small randomly initialised encoder."""
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2}
    model = create("tiny", decoder_dim=16, decoder_depth=1, decoder_heads=2, **sizes).eval()
    return Backbone(model, False, {"title": "random initialisation", "weights": "random initialisation"})


@pytest.fixture
def config(labelled: Path, tmp_path: Path) -> FinetuneConfig:
    """A run of seconds on the tiny set."""
    return FinetuneConfig(
        out=str(tmp_path / "run"),
        device="cpu",
        data=DataConfig(root=str(labelled), scheme="present", cache=str(tmp_path / "prepared"), workers=1),
        train=TrainConfig(epochs=6, batch=8, lr=0.01),
        protocol=ProtocolConfig(seeds=[0, 1]),
    )


@pytest.fixture
def small_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """FDP's released networks with few channels and blocks."""
    from finetune.heads import fdp_release

    narrow = {"DEPTHS": (1, 2, 1, 1), "WIDTHS": (4, 6, 8, 8), "STEM": (4, 4, 4, 4)}
    narrow["SEGNET"] = ((4, 2), (4, 2), (6, 3), (6, 3), (8, 3))
    for name, value in narrow.items():
        monkeypatch.setattr(fdp_release, name, value)
