"""SLSTT on a pretrained encoder: features of each frame around the apex, by area of the face."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.heads.base import Inputs
from finetune.heads.pooling import pool_cells
from finetune.options.slstt import SlsttOptions
from pretrain import MicronBert
from pretrain.flops import encoder_flops
from pretrain.poi import scale_interest
from shards.errors import FlickerError


def require(inputs: Inputs, name: str) -> Tensor:
    """An input. Raises FlickerError where it is absent."""
    if name not in inputs:
        raise FlickerError(f"SLSTT: the input '{name}' is absent; prepare the inputs that `needs` names")
    return inputs[name]


def around(sequence: Tensor, apex: Tensor, count: int) -> Tensor:
    """The apex and equally many frames on either side, as motion.sampling.around: [B T S S 3] -> [B count S S 3].

    apex int [B]: its place among the T frames. Shorter clips of the batch repeat their last frame.
    """
    steps = torch.arange(count, device=sequence.device) - count // 2
    place = (apex.to(sequence.device).long()[:, None] + steps).clamp(0, sequence.shape[1] - 1)  # [B count]
    return sequence[torch.arange(len(sequence), device=sequence.device)[:, None], place]


def encoded(model: MicronBert, inputs: Inputs, o: SlsttOptions) -> Tensor:
    """`o.features` of the frames around the apex, patches averaged over cells × cells areas: [B F cells² C].

    inputs: 'sequence' RGB uint8 [B T S S 3], the onset first; 'sequence.apex' int [B]. Each frame passes the encoder
    once.
    """
    sequence = require(inputs, "sequence")
    near = around(sequence, require(inputs, "sequence.apex"), o.frames)
    seen = torch.cat([sequence[:, :1], near], dim=1)  # [B 1+F S S 3]
    interest = model.uses_interest and "dma" in o.features
    tokens, scores = model.encoder.forward_with_interest(model.preprocess(seen.flatten(0, 1)), interest=interest)
    onset, later = _split(tokens.unflatten(0, seen.shape[:2]))  # each [B·F 1+N D]
    weights = None
    if scores is not None:
        weights = scale_interest(_split(scores.unflatten(0, seen.shape[:2]))[1], model.config.poi)  # type: ignore[arg-type]
    parts = [_feature(name, model, onset, later, weights, o.cells) for name in o.features]
    return torch.cat(parts, dim=-1).unflatten(0, near.shape[:2])


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B 1+F ...] -> the first of the F+1, F times, and the others: each [B·F ...]."""
    later = x[:, 1:]
    return x[:, :1].expand_as(later).flatten(0, 1), later.flatten(0, 1)


def _feature(
    name: str, model: MicronBert, onset: Tensor, later: Tensor, weights: Tensor | None, cells: int
) -> Tensor:
    """One of options.slstt.FEATURES: tokens [n 1+N D] -> [n cells² D]."""
    if name == "contextual":
        return later[:, :1].expand(-1, cells**2, -1).float()
    found = later[:, 1:]
    if name == "difference":
        found = found - onset[:, 1:]
    elif name == "dma":
        assert model.attention is not None
        found = model.attention(onset[:, 1:], found, weights)[0]
    return pool_cells(found.float(), cells).unflatten(1, (cells**2, -1))


def encoded_flops(model: MicronBert, o: SlsttOptions) -> float:
    """One clip through encoder, DMA and the projection of areas, FLOP."""
    patches, width = int(model.encoder.grid) ** 2, int(model.encoder.embed_dim)
    each = 2.0 * len(o.features) * width * o.dim  # cells² areas to dim / cells² each
    if "dma" in o.features:
        each += 8.0 * patches * width**2 + 2.0 * patches**2 * width
    return (1 + o.frames) * encoder_flops(model.config) + o.frames * each
