"""Exported weights give the same tokens in other people's programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from pretrain import load_encoder, load_micron
from pretrain.export import export
from pretrain.weights import save_encoder, save_model
from shards.errors import FlickerError, UsageError
from tests.pretrain.objectives import build

FRAMES = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["micron_bert", "mae"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model folder."""
    objective = build(request.param)
    save_model(tmp_path / "run", objective.state_dict(), objective.config, {"step": 7})
    return tmp_path / "run"


@torch.no_grad()
def tokens(run: Path) -> torch.Tensor:
    """The encoder's own."""
    encoder = load_encoder(run)
    return encoder(encoder.preprocess(FRAMES))


@torch.no_grad()
@pytest.mark.parametrize("form", ["timm", "hub-folder"])
def test_timm_creates_the_encoder_from_the_folder(run: Path, tmp_path: Path, form: str) -> None:
    files = export(run, form, tmp_path / "out")
    assert all(path.stat().st_size > 0 for path in files)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    x = FRAMES.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    assert torch.allclose(model((x - mean) / std), tokens(run), atol=1e-5)
    assert config["input_size"] == (3, 32, 32)


def test_a_hub_folder_has_a_card_and_the_whole_model(tmp_path: Path) -> None:
    objective = build("micron_bert")
    save_model(tmp_path / "run", objective.state_dict(), objective.config, {"step": 7})
    export(tmp_path / "run", "hub-folder", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "step: 7" in card and "Licence" in card
    again = load_micron(tmp_path / "out" / "whole").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in objective.state_dict().items())
    (tmp_path / "run" / "model-card.md").write_text("the run's own")
    export(tmp_path / "run", "hub-folder", tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "the run's own"


def test_an_encoder_folder_comes_back_equal(run: Path, tmp_path: Path) -> None:
    export(run, "safetensors", tmp_path / "out")
    assert torch.equal(tokens(tmp_path / "out"), tokens(run))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["about"] == {"step": 7}


def test_onnx_gives_the_same_tokens_for_any_batch(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    objective = build("micron_bert")
    save_encoder(tmp_path / "run", objective.state_dict(), objective.config, {})
    (path,) = export(tmp_path / "run", "onnx", tmp_path / "out")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = (FRAMES.permute(0, 3, 1, 2).float() / 255).numpy()
    for count in (1, 3):
        (found,) = session.run(["tokens"], {"frames": x[:count]})
        assert np.abs(found - tokens(tmp_path / "run")[:count].numpy()).max() < 1e-4


def test_faults_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown form pth; choose one of safetensors"):
        export(tmp_path, "pth", tmp_path / "out")
    with pytest.raises(FlickerError, match="no weights at"):
        export(tmp_path / "nowhere", "timm", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(FlickerError, match=r"pip install 'flicker-mer\[onnx\]'"):
        export(tmp_path, "onnx", tmp_path / "out")
