"""The pretrained encoder as a plug-in: loading, random initialisation, provenance, digest."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import pretrain
from finetune.config import BackboneConfig, Mode
from pretrain import MicronBert
from pretrain.flops import encoder_flops


@dataclass
class Backbone:
    """A Micron-BERT module and where its weights come from."""

    model: MicronBert
    pretrained: bool
    provenance: dict[str, Any] = field(default_factory=dict)
    """What the report says about it: 'weights', 'checkpoint', 'steps', 'data', 'architecture'."""

    @property
    def title(self) -> str:
        """A few words for tables: 'pretrained, 200 steps' or 'random initialisation'."""
        return str(self.provenance.get("title", "given encoder"))

    def digest(self) -> str:
        """SHA-256 of the weights by name: two runs with one digest use the same encoder."""
        return weights_digest(self.model)


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's weights by name."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def load(checkpoint: str, config: BackboneConfig, device: torch.device) -> Backbone:
    """The encoder of a run: `checkpoint` in any form pretrain.load_encoder reads, or random weights ('' or random).

    Of a run of another objective than Micron-BERT (MAE, ...), and of an encoder folder: the encoder without DMA.

    Raises FlickerError where the checkpoint cannot be read.
    """
    if not checkpoint:
        return _random(config, device, template=None)
    objective = pretrain.objective_of(checkpoint)
    load_model = pretrain.load_micron if objective == "micron_bert" else pretrain.load_without_dma
    model = load_model(checkpoint, device=str(device))
    if config.random:
        return _random(config, device, template=model)
    about = dict(pretrain.describe(checkpoint)) | {"objective": objective}
    kind = {"micron_bert": "", "encoder": " encoder"}.get(objective, f" ({objective})")
    title = f"pretrained{kind}, {about['step']} steps" if "step" in about else f"pretrained{kind}"
    return Backbone(model, True, {"title": title, "weights": checkpoint, **about})


def _random(config: BackboneConfig, device: torch.device, template: MicronBert | None) -> Backbone:
    """Random weights by seed: the architecture of `template`, else of the preset."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = pretrain.create(config.preset) if template is None else MicronBert(template.config)
    about = {"title": "random initialisation", "weights": "random initialisation", "seed": config.seed}
    return Backbone(model.to(device).eval(), False, about)


def pair_cost(model: MicronBert) -> tuple[int, float]:
    """(parameters, FLOP forward) of encoder and DMA on an onset-apex pair."""
    tokens, width = int(model.encoder.grid) ** 2, int(model.encoder.embed_dim)
    parts: list[nn.Module] = [model.encoder, *filter(None, [model.attention])]
    dma = 0.0 if model.attention is None else 8.0 * tokens * width**2 + 2.0 * tokens**2 * width
    return sum(p.numel() for part in parts for p in part.parameters()), 2 * encoder_flops(model.config) + dma


def trainable_copy(model: MicronBert, mode: Mode, blocks: int) -> MicronBert:
    """A copy of the module for one fold, with gradients where the mode wants them.

    frozen: none; partial: the last `blocks` blocks, the encoder's final norm and DMA; full: encoder and DMA.
    The decoder never trains: recognition does not use it.
    """
    model = copy.deepcopy(model).requires_grad_(False)
    if mode == "frozen":
        return model
    parts: list[nn.Module] = [model.encoder]
    if mode == "partial":
        parts = [*list(model.encoder.blocks)[-blocks:], model.encoder.norm]
    if model.attention is not None:
        parts.append(model.attention)
    for part in parts:
        part.requires_grad_(True)
    assert model.encoder.pos_embed is not None
    model.encoder.pos_embed.requires_grad_(False)  # a fixed table
    return model
