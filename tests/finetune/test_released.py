"""Parity with the authors' modules, and released checkpoints on disk."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from finetune import released
from pretrain import load_encoder, load_micron
from pretrain.encoder import sincos_table
from shards.errors import FlickerError
from tests import golden

VARIANTS = ["micronbert_small_dma", "micronbert_small_full_attention", "micronbert_paper_size"]


def _state(description: dict) -> dict[str, torch.Tensor]:
    """Generated weights and the release's own position tables."""
    state = golden.weights(description["shapes"])
    for name in ("backbone.pos_embed", "decoder_pos_embed"):
        _, length, dim = description["shapes"][name]
        state[name] = sincos_table(dim, round((length - 1) ** 0.5))
    return state


def _inputs(config: dict) -> dict[str, torch.Tensor]:
    """The golden inputs: swapped, reference, current."""
    shape = (2, 3, config["img_size"], config["img_size"])
    return {tag: torch.from_numpy(golden.draw(tag, shape)).float() for tag in ("swapped", "reference", "current")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_micronbert_equals_the_authors_module(shared: Path, variant: str) -> None:
    description, target = golden.reference(shared / "golden", variant)
    model = released.load("micronbert", _state(description), **description["config"])
    x = _inputs(description["config"])
    step = 61 if variant.endswith("paper_size") else 1
    with torch.no_grad():
        tokens = model(x["swapped"])
        features, attention = model.dma(x["swapped"], x["reference"])
        prediction = model.model.decoder(features)
        loss = model.model.reconstruction_loss(prediction, x["current"])
    assert golden.relative_error(tokens[:, ::step], target["backbone_tokens"]) < 1e-4
    assert golden.relative_error(features[:, ::step], target["dma_features"]) < 1e-4
    assert golden.relative_error(attention.flatten(1)[:, ::step], target["attention"]) < 1e-4
    assert golden.relative_error(prediction[:, ::step], target["prediction"]) < 1e-4
    assert abs(loss.item() - target["reconstruction_loss"].item()) < 1e-4 * target["reconstruction_loss"].item()


def test_released_pth_with_a_pickled_namespace_and_prefixes_loads(shared: Path, tmp_path: Path) -> None:
    description, _ = golden.reference(shared / "golden", "micronbert_small_dma")
    state = {f"module.{name}": value for name, value in _state(description).items()}
    args = argparse.Namespace(**{**description["config"], "diag_att": True})
    torch.save({"model": state, "args": args, "epoch": 199}, tmp_path / "checkpoint.pth")
    model = load_micron(tmp_path / "checkpoint.pth")
    assert model.config.dma == "diagonal" and model.config.heads == 4
    x = _inputs(description["config"])["swapped"]
    with torch.no_grad():
        expected = released.load("micronbert", _state(description), **description["config"])(x)
        assert torch.equal(load_encoder(tmp_path / "checkpoint.pth")(x), expected)


def test_a_pth_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("/")}, tmp_path / "evil.pth")
    with pytest.raises(FlickerError, match="without running code"):
        load_micron(tmp_path / "evil.pth")


def test_weights_of_another_system_are_refused() -> None:
    with pytest.raises(FlickerError, match="not Micron-BERT's weights"):
        released.load("micronbert", {"conv.weight": torch.zeros(1)})
