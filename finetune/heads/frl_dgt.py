"""FRL-DGT: displacement generation and Transformer Fusion (Zhai et al., CVPR 2023). No code of it was released.

onset, apex -> DGM -> displacement; onset, apex and displacement in nine AU boxes and the whole face -> Transformer
Fusion -> logits. What the paper leaves open about either part stands in frl_dgt_dgm.py and frl_dgt_fusion.py; here:

- loss: L_cls + L_DGM, L_DGM the mean over the labelled pairs and the random ones, which go through the DGM together.
  M3 (no self-supervision) keeps L_DGM on the labelled pairs;
- tokens are patches of (onset, apex, displacement): frames as -1..1, the displacement as D / α, so that all are of
  one scale. M0 has flow in pixels, M1 flow over its largest component, M2 the dynamic image in place of D;
- fully connected layers: one hidden layer of 256, GELU;
- FRL-DGT-S: TIM to 10 frames; the displacement from the onset to each of the other 9 with that frame; a temporal
  module at the end.

Plugged, the encoder's tokens take the place of the patches of frames: they are what the paper's linear projection of
18 px patches is there for. The token grid of each frame is cut at the AU boxes (5 × 5 cells each, as many as the
paper has patches) and over the whole face (at most 15 × 15); a token is (onset, apex - onset), standardised by the
fold's training clips, with the mean displacement of its cell. The DGM stays, and sees pixels: its losses need them.
With a frozen encoder the tokens are computed once for the labelled apex, so that apex is not moved in training.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.backbone import trainable_copy
from finetune.config import Mode
from finetune.folds import Portion
from finetune.heads import frl_dgt_clips as clips
from finetune.heads.base import Head, Inputs
from finetune.heads.blocks import encoder_groups, split_decay
from finetune.heads.frl_dgt_dgm import Displacements, displacement_losses, normalised
from finetune.heads.frl_dgt_network import Network
from finetune.options.frl_dgt import FrlDgtOptions, effective
from pretrain import MicronBert
from pretrain.flops import encoder_flops
from shards.errors import FlickerError

FIT_BATCH = 16
EVALUATED = 32  # frame pairs through the DGM at a time, in evaluation
PUBLISHED: dict[str, Any] = {
    "uf1": 0.812,
    "uar": 0.811,
    "seconds_per_clip": 0.384,
    "note": "the paper states neither parameters nor FLOP, and not how the epoch was chosen",
}
"""FRL-DGT, Table 1, composite of three datasets, three classes."""


def needs(options: FrlDgtOptions, encoder: MicronBert | None = None) -> dict[str, Any]:
    """Recipes of finetune.inputs by name: 'boxes' is that column of `Regions`, 'magnified0' on: finetune.copies."""
    from finetune.inputs import FlowMap, MagnifiedApex, Pair, Regions, Sequence

    o = effective(options)
    found: dict[str, Any] = {} if o.sequence else {"pair": Pair(o.face, o.size)}
    if o.regions == "au":
        found["boxes"] = Regions(o.face, o.size, side=o.side)
    if o.motion in ("flow", "flow-normalised"):
        found["flow"] = FlowMap(o.face, o.size, grid=o.size)
    elif o.sequence or o.motion == "dynamic" or o.random_pairs or o.jitter:
        found["sequence"] = Sequence(o.face, o.size, o.frames)
    for place, factor in enumerate(o.magnified):
        found[f"magnified{place}"] = MagnifiedApex(o.face, o.size, factor, o.magnifier)
    return found


class FrlDgtHead(Head):
    """The recogniser; `needs` says which of the inputs it reads.

    'pair' uint8 [B 2 S S 3]; 'boxes' int [B 9 4] (x, y, w, h) in the crop's pixels; 'sequence' uint8 [B T S S 3] with
    'sequence.index' and 'sequence.apex' int [B T], [B]; 'flow' float32 [B S S 2 or more] in pixels.

    Args:
        encoder: given, the head is plugged into it.
        plug: (width, grid side) of an encoder whose tokens come with the inputs ('tokens', see `extract`).
    """

    def __init__(
        self,
        classes: int,
        options: FrlDgtOptions,
        encoder: MicronBert | None = None,
        plug: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.classes, self.given_options, self.options = classes, options, effective(options)
        if encoder is not None:
            plug = (int(encoder.encoder.embed_dim), int(encoder.encoder.grid))
        self.encoder, self.plug, self.encoder_lr_scale = encoder, plug, 1.0
        o = self.options
        steps = o.tim - 1 if o.sequence else 1
        self.dgm = Displacements(1 if o.colour == "grey" else 3, o) if o.motion == "dgm" else None
        self.network = Network(classes, o, plug, steps)
        self._pool: tuple[Tensor, Tensor] | None = None

    @property
    def plugged(self) -> bool:
        """Whether an encoder's tokens are in the place of patches."""
        return self.plug is not None

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits [B C]."""
        onset, apex = self.frames(inputs)
        return self._recognise(onset, apex, self.motion(onset, apex, inputs), inputs)

    def frames(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The frames that displacements lead from and to, float32 [B·P M S S] each."""
        o = self.options
        if o.sequence:
            shown = clips.interpolated(inputs, o.tim, o.colour)  # [B T M S S]
        else:
            shown = clips.pictures(clips.require(inputs, "pair", "which FRL-DGT recognises"), o.colour)
        if shown.shape[-2:] != (o.size, o.size):
            have = f"{shown.shape[-1]} × {shown.shape[-2]}"
            raise FlickerError(f"FRL-DGT: frames are {have} px, not head.frl_dgt.size {o.size}; prepare them anew")
        onset, others = shown[:, :1].expand_as(shown[:, 1:]), shown[:, 1:]
        return onset.flatten(0, 1), others.flatten(0, 1)

    def motion(self, onset: Tensor, apex: Tensor, inputs: Inputs) -> Tensor:
        """Dynamic features for the fusion, float32 [B·P 2 S S] (M2: [B M S S])."""
        if self.dgm is not None:
            rows = len(onset) if self.training else EVALUATED
            return torch.cat([self.dgm(*some)[0] for some in zip(onset.split(rows), apex.split(rows), strict=True)])
        if self.options.motion == "dynamic":
            return clips.dynamic_images(inputs, self.options.colour)
        flow = clips.require(inputs, "flow", "which takes the place of the DGM").movedim(-1, 1)[:, :2].float()
        return normalised(flow, "max") if self.options.motion == "flow-normalised" else flow

    def _recognise(self, onset: Tensor, apex: Tensor, motion: Tensor, inputs: Inputs) -> Tensor:
        """Logits [B C] from frames and dynamic features."""
        tokens = inputs.get("tokens")
        if self.plug is not None and tokens is None:
            tokens = self.tokens(inputs)
        return self.network(onset, apex, motion, self.boxes(inputs, onset.device), tokens)

    def boxes(self, inputs: Inputs, device: torch.device) -> Tensor:
        """The nine boxes of each clip, int [B 9 4]."""
        o = self.options
        if o.regions == "grid":
            return clips.even_boxes(len(inputs["sequence" if o.sequence else "pair"]), o.size, o.side, device)
        return clips.require(inputs, "boxes", "which says where the AU regions are")

    def tokens(self, inputs: Inputs) -> Tensor:
        """The encoder's tokens of each frame at the boxes and over the face: [B frames 9·N + F D]."""
        assert self.encoder is not None and self.network.cut is not None
        if self.options.sequence:
            frames = 255 * clips.interpolated(inputs, self.options.tim, "rgb").movedim(-3, -1)
        else:
            frames = clips.require(inputs, "pair", "which FRL-DGT recognises")
        return self.network.cut.encode(self.encoder, frames, self.boxes(inputs, frames.device))

    def extract(self, inputs: Inputs) -> dict[str, Tensor]:
        """The inputs, plugged with 'tokens' [B frames L D]: what a frozen encoder computes once per clip."""
        return {**inputs, "tokens": self.tokens(inputs)} if self.encoder is not None else dict(inputs)

    def readout(self) -> FrlDgtHead:
        """A fresh model for `extract`'s inputs."""
        return FrlDgtHead(self.classes, self.given_options, plug=self.plug)

    def trainable(self, mode: Mode, blocks: int, lr_scale: float) -> FrlDgtHead:
        """A fresh model with a copy of the encoder, if there is one; gradients as the mode says."""
        if self.encoder is None:
            return self.readout()
        encoder = trainable_copy(self.encoder, mode, blocks)
        if encoder.attention is not None:
            encoder.attention.requires_grad_(False)  # DMA takes no part
        head = FrlDgtHead(self.classes, self.given_options, encoder)
        head.encoder_lr_scale = lr_scale
        return head

    def fit(self, portion: Portion) -> None:
        """Take the clips that self-supervision draws from, and plugged the tokens' statistics.

        Raises LeakError for any but a training portion.
        """
        portion.require_training("the DGM")
        if self.dgm is not None and self.options.random_pairs:
            why = "from which random pairs are drawn (head.frl_dgt.random_pairs)"
            self._pool = (clips.require(portion.inputs, "sequence", why), clips.lengths(portion.inputs).cpu())
        cut = self.network.cut
        if cut is not None:
            rows = []
            for start in range(0, len(portion), FIT_BATCH):
                part = {name: value[start : start + FIT_BATCH] for name, value in portion.inputs.items()}
                with torch.no_grad():
                    rows.append(cut.shown(part["tokens"] if "tokens" in part else self.tokens(part)).cpu())
            cut.standardise.fit(torch.cat(rows))

    def augment(self, inputs: Inputs, generator: torch.Generator) -> dict[str, Tensor]:
        """The apex moved by up to `jitter` frames, and 'pairs' uint8 [B R 2 S S 3] of the fold's training clips."""
        o, result = self.options, dict(inputs)
        if o.jitter and not o.sequence and o.motion in ("dgm", "dynamic") and "tokens" not in inputs:
            result = clips.moved_apex(inputs, o.jitter, generator)
        if self.dgm is not None and o.random_pairs:
            if self._pool is None:
                raise FlickerError("FRL-DGT: self-supervision draws from the training clips that fit() was given")
            batch = len(inputs["sequence"])
            drawn = clips.random_pairs(*self._pool, batch * o.random_pairs, generator)
            result["pairs"] = drawn.unflatten(0, (batch, o.random_pairs))
        return result

    def loss(
        self, inputs: Inputs, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_cls + L_DGM (eq. 4) and their parts. 'pairs' (from `augment`) must be there if random pairs are on."""
        if self.dgm is None:
            return super().loss(inputs, labels, weights, smoothing)
        onset, apex = self.frames(inputs)
        first, second = onset, apex
        if self.options.random_pairs:
            pairs = clips.require(inputs, "pairs", "which augment() draws").flatten(0, 1)
            drawn = clips.pictures(pairs, self.options.colour)
            first, second = torch.cat([onset, drawn[:, 0]]), torch.cat([apex, drawn[:, 1]])
        given, judged = self.dgm(first, second)
        parts = displacement_losses(first, second, judged, self.options)
        logits = self._recognise(onset, apex, given[: len(onset)], inputs)
        parts["classification"] = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
        total = parts["classification"] + parts["displacement"]
        return total, {name: value.detach() for name, value in parts.items()}

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The DGM at `dgm_lr`, marked constant ('schedule'); the fusion at `lr`; an encoder less, block by block."""
        groups = self.network.groups(lr, weight_decay)
        if self.dgm is not None:
            dgm = split_decay(self.dgm.parameters(), self.options.dgm_lr, weight_decay)
            groups += [group | {"schedule": "constant"} for group in dgm]
        if self.encoder is not None:
            scaled = lr * self.encoder_lr_scale
            groups += encoder_groups(self.encoder, scaled, weight_decay, self.options.layer_decay)
        return groups

    def summary(self) -> dict[str, Any]:
        """Parameters, FLOP per clip forward by formula, kinds of input, and what the paper states."""
        parts = [self.network, self.dgm, self.encoder.encoder if self.encoder is not None else None]
        frames = self.options.tim if self.options.sequence else 2
        encoder = 0.0 if self.encoder is None else frames * encoder_flops(self.encoder.config)
        return {
            "parameters": sum(p.numel() for part in parts if part is not None for p in part.parameters()),
            "flops": self.network.flops() + encoder,
            "inputs": {name: recipe.kind for name, recipe in needs(self.given_options).items()},
            "published": PUBLISHED,
        }


def build(classes: int, encoder: MicronBert | None = None, **options: Any) -> FrlDgtHead:
    """The head for `finetune.heads.create`."""
    return FrlDgtHead(classes, FrlDgtOptions(**options), encoder)
