"""The recognition head of Micron-BERT (section 5.3): onset = I(t), apex = I(t+δ), P_dma as features.

The paper stops there; how P_dma becomes logits is not said, so pooling and classifier are options. So are further
features of the same two frames, each a row of values per patch:

- `dma`: P_dma of (onset, apex), eq. 9 or 12: the paper's, the default;
- `difference`: encoder tokens of the apex minus those of the onset;
- `change`: how far each patch moved away from itself, ±√|c| of `MicronBert.change` (c grows with the square of a
  small displacement), one value per patch;
- `matching`: where the content went: the similarity of each onset token to the apex tokens around it, minus its
  similarity to the onset tokens around it (DMA's comparison off the diagonal too, without its projections).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.backbone import pair_cost, trainable_copy
from finetune.config import Mode
from finetune.folds import Portion
from finetune.heads.base import Head
from finetune.heads.pooling import AttentionPool, Standardise, classifier, pool_cells
from finetune.options.micron import MicronOptions
from pretrain import MicronBert
from shards.errors import UsageError

PUBLISHED: dict[str, Any] = {
    "uf1": 0.8553,
    "note": (
        "section 4 gives patch 8, width 512 and 4 + 4 blocks; parameters and FLOP are not stated, nor how P_dma "
        "becomes logits and how the epoch was chosen; UF1 is of CASME II, five classes (Table 2)"
    ),
}
"""Micron-BERT, Table 2."""
FEATURES = ("dma", "difference", "change", "matching")


class Readout(Head):
    """Features to logits: standardise, pool (attention only; the others are part of the features), classify."""

    def __init__(self, dim: int, classes: int, options: MicronOptions):
        super().__init__()
        self.standardise = Standardise(dim)
        self.pool = AttentionPool(dim) if options.pooling == "attention" else nn.Identity()
        self.classify = classifier(options.classifier, dim, classes, options.hidden, options.dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """inputs['features'] [B F] (or [B N F] for attention pooling) -> logits [B C]"""
        return self.classify(self.pool(self.standardise(inputs["features"])))

    def fit(self, portion: Portion) -> None:
        """Set the statistics from training features. Raises LeakError for any other portion."""
        portion.require_training("feature statistics")
        self.standardise.fit(portion.inputs["features"])


def relative_change(change: Tensor) -> Tensor:
    """±√|c| over its mean of the clip: where it moved, not how strongly. [B N] -> [B N]

    c, a difference of log-probabilities, grows with the square of a small displacement: hence the root.
    """
    root = change.sign() * change.abs().sqrt()
    return root / root.abs().mean(dim=-1, keepdim=True).clamp(min=1e-6)


class MicronHead(Head):
    """Micron-BERT's encoder and DMA with a classifier; input 'pair' (onset, apex), RGB uint8 [B 2 H W 3].

    `extract(inputs)` is the encoder's part, `readout()` makes an untrained classifier for its features, and
    `forward` is both, for training the encoder as well. `trainable(...)` gives a copy for one fold.
    """

    def __init__(self, classes: int, encoder: MicronBert, options: MicronOptions):
        super().__init__()
        if not options.features or set(options.features) - set(FEATURES):
            raise UsageError(f"head.micron.features: {options.features}; choose one or more of {', '.join(FEATURES)}")
        if encoder.attention is None and (without := sorted({"dma", "change"} & set(options.features))):
            raise UsageError(
                f"head.micron.features: {', '.join(without)}: this encoder has no DMA; use difference or matching"
            )
        if options.pooling == "grid" and not 1 <= options.cells <= encoder.encoder.grid:
            raise UsageError(f"head.micron.cells {options.cells} is outside 1..{encoder.encoder.grid}")
        self.classes, self.options, self.encoder = classes, options, encoder
        self.classify = self.readout()
        self.encoder_lr_scale = 1.0

    @property
    def feature_dim(self) -> int:
        """Channels F of the extracted features."""
        wide = self.encoder.encoder.embed_dim
        width = {"change": 1, "matching": (2 * self.options.radius + 1) ** 2}
        dim = sum(width.get(name, wide) for name in self.options.features)
        return int(dim * (self.options.cells**2 if self.options.pooling == "grid" else 1))

    def readout(self) -> Readout:
        """An untrained classifier for `extract`'s features."""
        return Readout(self.feature_dim, self.classes, self.options)

    def trainable(self, mode: Mode, blocks: int, lr_scale: float) -> MicronHead:
        """A copy with its own encoder and a new classifier; gradients as the mode says (backbone.trainable_copy)."""
        head = MicronHead(self.classes, trainable_copy(self.encoder, mode, blocks), self.options)
        head.encoder_lr_scale = lr_scale
        return head

    def tokens(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The chosen features per patch: [B N F]."""
        onset, apex = (self.encoder.preprocess(frames) for frames in inputs["pair"].unbind(1))
        parts: dict[str, Tensor] = {}
        if "dma" in self.options.features:
            parts["dma"] = self.encoder.dma(onset, apex)[0]
        if "change" in self.options.features:
            parts["change"] = relative_change(self.encoder.change(onset, apex).float()).unsqueeze(-1)
        if {"difference", "matching"} & set(self.options.features):
            before, after = self.encoder.encoder(torch.cat([onset, apex]))[:, 1:].chunk(2)  # each [B N D]
            parts["difference"] = after - before
            parts["matching"] = matching(before, after, self.options.radius)
        return torch.cat([parts[name].float() for name in self.options.features], dim=-1)

    def extract(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """'features' of frames: [B F], or [B N F] for attention pooling."""
        tokens = self.tokens(inputs)
        if self.options.pooling == "mean":
            return {"features": tokens.mean(dim=1)}
        return {"features": pool_cells(tokens, self.options.cells) if self.options.pooling == "grid" else tokens}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """input 'pair' -> logits [B C]"""
        return self.classify(self.extract(inputs))

    def fit(self, portion: Portion) -> None:
        """Set the feature statistics with the present encoder. Raises LeakError unless a training portion."""
        portion.require_training("feature statistics")
        rows = [self._row(portion.inputs, start) for start in range(0, len(portion), 16)]
        self.classify.standardise.fit(torch.cat(rows))

    def _row(self, inputs: Mapping[str, Tensor], start: int) -> Tensor:
        with torch.no_grad():
            return self.extract({name: value[start : start + 16] for name, value in inputs.items()})["features"]

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """As `Head.groups`, the encoder's parameters at their own rate."""
        found: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                scale = self.encoder_lr_scale if name.startswith("encoder.") else 1.0
                key = (lr * scale, weight_decay if parameter.ndim >= 2 else 0.0)
                found.setdefault(key, []).append(parameter)
        return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in found.items()]

    def summary(self) -> dict[str, Any]:
        """Parameters, FLOP per clip forward by formula, kinds of input, and what the paper states."""
        parameters, flops = pair_cost(self.encoder)
        readout = sum(p.numel() for p in self.classify.parameters())
        inputs = {"pair": "frames of onset and apex"}
        return {"parameters": parameters + readout, "flops": flops, "inputs": inputs, "published": PUBLISHED}

    @torch.no_grad()
    def changes(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """How much each patch changed, for pictures: by DMA, without it by its tokens' distance; [B g g] >= 0."""
        onset, apex = (self.encoder.preprocess(frames) for frames in inputs["pair"].unbind(1))
        grid = int(self.encoder.encoder.grid)
        if self.encoder.attention is None:
            before, after = self.encoder.encoder(torch.cat([onset, apex]))[:, 1:].chunk(2)  # each [B N D]
            return (after - before).float().norm(dim=-1).unflatten(1, (grid, grid))
        return self.encoder.change(onset, apex).float().clamp(min=0).unflatten(1, (grid, grid))


def matching(onset: Tensor, apex: Tensor, radius: int) -> Tensor:
    """Cosine of onset token i with apex token i + o, minus with onset token i + o, for all offsets |o| <= radius.

    Tokens [B N D] of a square grid -> [B N (2·radius+1)²]; zero where nothing moved. Beyond the border the border's
    tokens are repeated.
    """
    side = round(onset.shape[1] ** 0.5)
    before, after = (F.normalize(x, dim=-1).unflatten(1, (side, side)) for x in (onset, apex))  # [B g g D]
    change = (after - before).permute(0, 3, 1, 2)  # cosines are linear in the second token
    change = F.pad(change, [radius] * 4, mode="replicate").permute(0, 2, 3, 1)  # [B g+2r g+2r D]
    steps = range(2 * radius + 1)
    volume = [(before * change[:, i : i + side, j : j + side]).sum(-1) for i in steps for j in steps]
    return torch.stack(volume, dim=-1).flatten(1, 2)


def needs(options: MicronOptions, encoder: MicronBert | None = None) -> dict[str, Any]:
    """Recipes of finetune.inputs by name."""
    from finetune.inputs import Pair

    return {"pair": Pair(options.face, encoder.encoder.image_size if encoder is not None else 224)}


def build(classes: int, encoder: MicronBert | None, **options: object) -> MicronHead:
    """The head for `finetune.heads.create`. Raises UsageError without an encoder."""
    if encoder is None:
        raise UsageError("the head 'micron' is Micron-BERT's encoder with a classifier: give it an encoder")
    return MicronHead(classes, encoder, MicronOptions(**options))  # type: ignore[arg-type]


def option_names() -> Sequence[str]:
    """The keys that `build` takes."""
    return list(MicronOptions.__dataclass_fields__)
