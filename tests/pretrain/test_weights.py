"""Weights on disk."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from pretrain import create, describe, load_encoder, load_micron
from pretrain.weights import save_encoder, save_model
from shards.errors import FlickerError
from tests.sizes import SIZES


@pytest.fixture
def saved(tmp_path: Path):
    model = create("tiny", **SIZES).eval()
    save_model(tmp_path / "model", model.state_dict(), model.config, {"step": 7})
    save_encoder(tmp_path / "encoder", model.state_dict(), model.config, {"step": 7})
    return model, tmp_path


def test_model_and_encoder_come_back_equal(saved) -> None:
    model, folder = saved
    frames = torch.randint(0, 255, (2, 40, 40, 3), dtype=torch.uint8)
    x = model.preprocess(frames)
    assert x.shape == (2, 3, 32, 32)
    micron = load_micron(folder / "model")
    assert torch.equal(micron.dma(x, x.flip(0))[0], model.dma(x, x.flip(0))[0])
    for path in (folder / "encoder", folder / "model", folder / "model" / "model.safetensors", folder):
        assert torch.equal(load_encoder(path)(x), model.encoder(x))
    assert describe(folder / "encoder") == {"step": 7}


def test_encoder_folder_holds_timms_own_names(saved) -> None:
    _, folder = saved
    plain = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0
    )
    assert set(load_file(folder / "encoder" / "model.safetensors")) == set(plain.state_dict())


def test_faults_are_told_in_one_line(saved, tmp_path: Path) -> None:
    _, folder = saved
    with pytest.raises(FlickerError, match="without DMA"):
        load_micron(folder / "encoder")
    with pytest.raises(FlickerError, match="no weights at"):
        load_encoder(tmp_path / "nowhere")
    data = (folder / "model" / "model.safetensors").read_bytes()
    (folder / "model" / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(FlickerError, match="damaged"):
        load_micron(folder / "model")


def test_weights_of_another_architecture_are_refused(saved) -> None:
    _, folder = saved
    other = create("tiny", **{**SIZES, "dim": 64}).eval()
    save_model(folder / "other", other.state_dict(), other.config, {})
    (folder / "other" / "config.json").write_text((folder / "model" / "config.json").read_text())
    with pytest.raises(FlickerError, match="another architecture"):
        load_micron(folder / "other")
