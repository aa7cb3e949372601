"""launch/export.py as a person runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain import load_encoder
from pretrain.weights import save_model
from tests.launch.conftest import Run
from tests.pretrain.objectives import build


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A model folder."""
    objective = build("micron_bert")
    save_model(tmp_path / "run", objective.state_dict(), objective.config, {"step": 7})
    return tmp_path / "run"


def test_says_what_it_wrote_and_what_is_next(forked: Run, run: Path, tmp_path: Path) -> None:
    done = forked("launch/export.py", run, "--to", "safetensors", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in done.stdout and f'pretrain.load_encoder("{tmp_path / "out"}")' in done.stdout
    assert torch.equal(load_encoder(tmp_path / "out").cls_token, load_encoder(run).cls_token)


def test_wrong_use_is_explained_in_one_line(forked: Run, run: Path, tmp_path: Path) -> None:
    for words in ((), (run, "--to", "pth", "--out", tmp_path / "out")):
        done = forked("launch/export.py", *words)
        assert done.returncode == 2 and done.stderr.startswith("error: give one CHECKPOINT, --to safetensors|timm")
        assert len(done.stderr.splitlines()) == 1
    done = forked("launch/export.py", tmp_path / "nowhere", "--to", "timm", "--out", tmp_path / "out")
    assert done.returncode == 1 and "no weights at" in done.stderr
