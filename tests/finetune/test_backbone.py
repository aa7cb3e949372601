"""Encoders of every objective as a head's backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune import backbone, heads
from finetune.config import BackboneConfig
from pretrain import MicronBert
from pretrain.weights import save_encoder, save_model
from shards.errors import UsageError
from tests.pretrain.objectives import build

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["mae", "mocov3", "beit"])
def test_other_objectives_are_compared_by_what_needs_no_dma(kind: str, tmp_path: Path) -> None:
    objective = build(kind)
    save_model(tmp_path, objective.state_dict(), objective.config, {"step": 3})
    found = backbone.load(str(tmp_path), BackboneConfig(), CPU)
    assert found.title == f"pretrained ({kind}), 3 steps" and found.provenance["objective"] == kind
    pair = torch.randint(0, 255, (2, 2, 32, 32, 3), dtype=torch.uint8)
    head = heads.create("micron", 3, found.model, features=["difference", "matching"]).eval()
    assert head({"pair": pair}).shape == (2, 3)
    still = {"pair": pair[:, :1].expand(-1, 2, -1, -1, -1)}
    assert head.changes(still).abs().max() == 0 and head.changes({"pair": pair}).min() > 0
    for name, options in (("micron", {}), ("micron", {"features": ["change"]}), ("htnet", {}), ("slstt", {})):
        with pytest.raises(UsageError, match="DMA"):
            heads.create(name, 3, found.model, **options)
    control = backbone.load(str(tmp_path), BackboneConfig(random=True), CPU)
    assert not control.pretrained and control.digest() != found.digest()
    assert control.model.config.dim == found.model.config.dim and control.model.attention is None


def test_an_encoder_folder_is_a_backbone(tmp_path: Path) -> None:
    objective = build("mae")
    save_encoder(tmp_path, objective.state_dict(), objective.config, {"step": 3})
    found = backbone.load(str(tmp_path), BackboneConfig(), CPU)
    assert found.title == "pretrained encoder, 3 steps" and isinstance(found.model, MicronBert)
    assert found.model.state_dict().keys() >= {f"encoder.{name}" for name in objective.encoder.state_dict()}
